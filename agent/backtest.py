"""`plumbline backtest`: files through the very pipeline that runs live, and what it would have said."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl

from agent.config import Config
from agent.events import Decoded, Int64s, Partition, RawBatch
from agent.ingest.decode import Decoder
from agent.ingest.files import FileSource
from agent.judge import Judge
from agent.measure.model import Model
from agent.measure.pane import HOUR, HOUR_MS, LIFETIME
from agent.measure.window import SPANS, stretch
from agent.pipeline import Pipeline
from agent.respond.publish import window_view
from agent.respond.report import Report
from agent.respond.view import ModelView, WindowView
from agent.runner import agent_version, end_input
from agent.store import Store

_AGES = timedelta(days=3650)


def backtest(
    config: Config,
    paths: Sequence[Path],
    *,
    window_rows: int | None,
    progress: Callable[[float], None],
    now: Callable[[], float],
) -> Report:
    """Replay files; `now` is a clock in seconds.

    With `window_rows`, windows are so many predictions each, whatever their times.
    """
    started = now()
    source = FileSource(paths)
    rows = RowTime(window_rows) if window_rows else None
    if rows:
        config = _by_rows(config)
    with tempfile.TemporaryDirectory(prefix="plumbline-backtest-") as folder:
        store = Store(Path(folder))
        try:
            pipeline = Pipeline(config, store, version=agent_version())
            for model in pipeline.models.models.values():
                model.keeps_hours = True
            source.start({})
            pipeline.assign(source.partitions())
            while not source.finished:
                for batch in source.poll(0.0, 0.0):
                    pipeline.apply(batch, rows or Decoder.decode)
                pipeline.advance()
                progress(source.fraction)
            end_input(pipeline)
            view = pipeline.view(0.0)
            if rows:
                view = replace(view, models={name: rows.retold(model) for name, model in view.models.items()})
            windows = {name: list(_windows(judge, rows)) for name, judge in pipeline.judges.items()}
            rejected: Counter[str] = Counter()
            for key, n in pipeline.counters.items():
                if key.name == "dead_letters":
                    rejected[dict(key.labels)["reason"]] += n
        finally:
            store.close()
    source.close()
    return Report(view, windows, rejected, now() - started)


def _windows(judge: Judge, rows: RowTime | None) -> Iterator[tuple[str, WindowView]]:
    """Every window with predictions, of each configured length, and the lifetime; all versions together."""
    model = judge.model
    references = judge.monitors.watch.references
    reference = references.get(judge.monitors.versions.first_version or "")
    starts = model.panes.starts(HOUR)
    if not starts:
        return
    names = [
        name for name in model.config.windows if (name in SPANS and SPANS[name][0] == HOUR) or name == "1h"
    ]
    for name in ["rows"] if rows else names:
        length = HOUR_MS if rows else SPANS[name][1]
        held = sorted({start // length * length for start in starts})
        for start in held:
            sums = stretch(model, None, HOUR, range(start, start + length, HOUR_MS), start, start + length)
            shown = window_view(model, sums, reference)
            if shown.counts.get(""):
                yield (f"rows:{rows.size}", rows.told(shown)) if rows else (name, shown)
    yield "lifetime", window_view(model, stretch(model, None, LIFETIME, [0], *_span(model)), reference)


def _span(model: Model) -> tuple[int, int]:
    return min(first for first, _ in model.seen.values()), max(last for _, last in model.seen.values()) + 1


def _by_rows(config: Config) -> Config:
    """The same config with nothing late and nothing too old: times are row numbers."""
    ages = {
        "allowed_lateness": _AGES,
        "label_horizon": _AGES,
        "label_maturity": _AGES,
        "step": timedelta(hours=1),
    }
    return config.model_copy(
        update={"models": {name: model.model_copy(update=ages) for name, model in config.models.items()}}
    )


class RowTime:
    """Replaces event times by row numbers: an hour of the pipeline is a window of `size` predictions."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._rows: dict[Partition, int] = {}
        self._real: dict[int, tuple[int, int]] = {}

    def __call__(self, decoder: Decoder, raw: RawBatch) -> Decoded:
        """Decode, then number the rows."""
        decoded = decoder.decode(raw)
        predictions = decoded.predictions
        first = self._rows.get(raw.partition, 0)
        number = first + np.arange(len(predictions), dtype=np.int64)
        self._rows[raw.partition] = first + len(predictions)
        window = number // self.size
        self._note(window, predictions["timestamp_ms"].to_numpy())
        times = window * HOUR_MS + (number % self.size) * HOUR_MS // self.size
        last = pl.lit(max(self._rows.values(), default=0) // self.size * HOUR_MS)
        return Decoded(
            decoded.partition,
            predictions.with_columns(pl.Series("timestamp_ms", times)),
            decoded.feedback.with_columns(last.cast(pl.Int64).alias("timestamp_ms")),
            decoded.rejected,
            decoded.next_position,
            decoded.labelled,
        )

    def _note(self, window: Int64s, times: Int64s) -> None:
        for number in np.unique(window):
            mine = times[window == number]
            low, high = self._real.get(int(number), (int(mine[0]), int(mine[0])))
            self._real[int(number)] = (min(low, int(mine.min())), max(high, int(mine.max())))

    def told(self, window: WindowView) -> WindowView:
        """The window under its real times."""
        start, end = self._real[window.start_ms // HOUR_MS]
        return WindowView(start, end, window.metrics, window.counts, window.drift)

    def retold(self, model: ModelView) -> ModelView:
        """Alarms under the end of the window that raised them; requests, a matter of days, are left out."""
        alarms = [
            replace(
                alarm,
                raised_ms=self._end(alarm.raised_ms),
                resolved_ms=None if alarm.resolved_ms is None else self._end(alarm.resolved_ms),
            )
            for alarm in model.alarms
        ]
        return replace(model, alarms=alarms, triggers=[])

    def _end(self, at_ms: int) -> int:
        window = min(max(0, at_ms - 1) // HOUR_MS, max(self._real))
        return self._real[window][1]
