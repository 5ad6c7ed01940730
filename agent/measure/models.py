"""All models together: routes a batch to its models; labels and predictions meet whichever comes first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from agent.config import ModelConfig
from agent.events import NO_TIME, Decoded, Int64s, Partition
from agent.measure.baseline import Baseline
from agent.measure.clock import Clock
from agent.measure.join import (
    ANY_MODEL,
    DUPLICATE,
    NOBODY,
    OUTCOMES,
    RETRACTED,
    UNMATCHED,
    Labels,
    outcome_of,
    waiting_index,
)
from agent.measure.model import Model
from agent.measure.offsets import Offsets
from agent.measure.pane import HOUR_MS
from agent.measure.rows import UNKNOWN_CLASS, identity_hash
from agent.measure.runs import Hits

_RETRACT = np.uint64(0)
"""The hash that stands for a null label."""
_AGES = 2**60
"""A lateness that makes nothing late: reference data need no order."""


@dataclass(slots=True)
class Applied:
    """What became of one decoded batch: with the dead letters it accounts for every record (I1)."""

    merged: int = 0
    late: int = 0
    duplicate: int = 0
    ignored: int = 0
    unknown_class: list[int] = field(default_factory=list)
    """Offsets of predictions to dead-letter."""


class Models:
    """The measured state of all configured models."""

    def __init__(
        self,
        configs: Mapping[str, ModelConfig],
        baselines: Mapping[str, Baseline],
        *,
        unordered: bool = False,
    ) -> None:
        self.models = {name: Model(name, model, baselines.get(name)) for name, model in configs.items()}
        self._numbers = {name: i for i, name in enumerate(self.models)}
        lateness = max(m.lateness_ms for m in self.models.values())
        self.horizon_ms = max(m.horizon_ms for m in self.models.values())
        self.feedback_clock = Clock(lateness)
        self.wait_ms = 2 * lateness + 60_000
        self.waiting = waiting_index(self.wait_ms)
        self.feedback_offsets = Offsets()
        self.any_clock = Clock(0)
        """The newest prediction of any model, by partition: none may lag it by over the label horizon."""
        self.counts = Counter({f"labels_{outcome}": 0 for outcome in OUTCOMES.values()})
        if unordered:
            self.horizon_ms = _AGES
            for clock in (self.feedback_clock, self.any_clock, *(m.clock for m in self.models.values())):
                clock.lateness_ms = _AGES

    def apply(self, batch: Decoded) -> Applied:
        """Fold one batch: predictions first, then feedback; each label is tried against all that was read."""
        applied = Applied()
        self._predictions(batch.predictions, batch.partition, applied)
        self._feedback(batch.feedback, batch.partition, Applied() if batch.labelled else applied)
        return applied

    def _predictions(self, frame: pl.DataFrame, partition: Partition, applied: Applied) -> None:
        if len(frame) == 0:
            return
        known = frame.filter(pl.col("model_name").is_in(list(self.models)))
        applied.ignored += len(frame) - len(known)
        times = known["timestamp_ms"].to_numpy()
        oldest = self.any_clock.running(partition, times)
        oldest = np.where(oldest > NO_TIME, oldest - self.horizon_ms, NO_TIME)
        names = known["model_name"]
        arrived: dict[str, NDArray[np.uint64]] = {}
        for name in names.unique().sort().to_list():
            at = (names == name).to_numpy()
            rows = known if at.all() else known.filter(at)
            done = self.models[name].predict(rows, partition, oldest[at])
            applied.merged += done.merged
            applied.late += done.late
            applied.duplicate += done.duplicate
            applied.unknown_class += done.unknown_class.tolist()
            arrived[name] = done.keys
        self._meet_waiting(arrived)
        for name in arrived:
            self.models[name].join.settle()

    def _meet_waiting(self, arrived: Mapping[str, NDArray[np.uint64]]) -> None:
        """Give the labels that were read before to the predictions that were just read."""
        keys = np.unique(np.concatenate([*arrived.values(), np.empty(0, dtype=np.uint64)]))
        if len(self.waiting) == 0 or len(keys) == 0:
            return
        hits = self._in_order(self.waiting.find(keys))
        if len(hits.query) == 0:
            return
        names = ("key", "time_ms", "effective_ms", "revision", "label", "model", "taken")
        column = {n: self.waiting.take(hits, n) for n in names}
        first = np.full(len(hits.query), NOBODY, dtype=np.int64)
        for name in arrived:
            at = self._owned(name, column["model"])
            found = self._give(name, {n: c[at] for n, c in column.items()}, arrived=True)
            first[at] = np.minimum(first[at], found)
        done = (first != NOBODY) & (column["taken"] == 0)
        self._count(outcome_of(first[done]))
        self.waiting.put(Hits(*(a[done] for a in hits)), {"taken": np.ones(int(done.sum()), dtype=np.int8)})

    def _owned(self, name: str, owner: NDArray[np.generic]) -> Int64s:
        return np.flatnonzero((owner == self._numbers[name]) | (owner == ANY_MODEL))

    def _in_order(self, hits: Hits) -> Hits:
        """Waiting labels in the order in which they were read."""
        order = np.argsort(self.waiting.take(hits, "seq"), kind="stable")
        return Hits(*(a[order] for a in hits))

    def _give(self, name: str, column: Mapping[str, NDArray[np.generic]], *, arrived: bool = False) -> Int64s:
        model = self.models[name]
        hashes = column["label"].astype(np.uint64)
        code = np.where(hashes == _RETRACT, RETRACTED, model.codes(hashes))
        labels = Labels(
            column["key"].astype(np.uint64),
            column["time_ms"].astype(np.int64),
            column["effective_ms"].astype(np.int64),
            column["revision"].astype(np.int64),
            code,
        )
        return model.label(labels, arrived=arrived)

    def _feedback(self, frame: pl.DataFrame, partition: Partition, applied: Applied) -> None:
        if len(frame) == 0:
            return
        named = frame["model_name"]
        known = named.is_null() | named.is_in(list(self.models))
        applied.ignored += len(frame) - int(known.sum())
        frame = frame.filter(known)
        if len(frame) == 0:
            return
        times = frame["timestamp_ms"].to_numpy()
        watermark = self.feedback_clock.running(partition, times)
        effective = np.maximum(times, watermark)
        self.feedback_offsets.note(partition, effective, frame["offset"].to_numpy())
        hashes = identity_hash(frame["label"].fill_null(""))
        label = np.where(frame["label"].is_null().to_numpy(), _RETRACT, np.maximum(hashes, 1))
        owner = np.array(
            [self._numbers.get(n, ANY_MODEL) for n in frame["model_name"].to_list()], dtype=np.int64
        )
        column: dict[str, NDArray[np.generic]] = {
            "key": identity_hash(frame["prediction_id"]),
            "time_ms": times,
            "effective_ms": effective,
            "revision": frame["revision"].to_numpy(),
            "label": label,
            "model": owner.astype(np.int32),
            "seq": frame["offset"].to_numpy(),
        }
        repeated = self._repeated(column, watermark)
        column = {n: c[~repeated] for n, c in column.items()}
        first = np.full(int((~repeated).sum()), NOBODY, dtype=np.int64)
        for name in self.models:
            at = self._owned(name, column["model"])
            if len(at):
                found = self._give(name, {n: c[at] for n, c in column.items()})
                first[at] = np.minimum(first[at], found)
        outcome = outcome_of(first)
        self._count(outcome[outcome != UNMATCHED])
        # Also a label that met its prediction waits: another version or model may have predicted the same id.
        self.waiting.append({**column, "taken": (outcome != UNMATCHED).astype(np.int8)})
        self.counts[f"labels_{OUTCOMES[DUPLICATE]}"] += int(repeated.sum())
        applied.duplicate += int(repeated.sum())
        applied.merged += len(first)

    def _repeated(self, column: Mapping[str, NDArray[np.generic]], watermark: Int64s) -> NDArray[np.bool_]:
        """Labels that repeat one read before in every part, as far back as labels are surely remembered."""
        parts = ("key", "time_ms", "revision", "label", "model")
        repeated = np.ones(len(watermark), dtype=bool)
        identity = np.stack([column[n].astype(np.uint64) for n in parts])
        repeated[np.unique(identity, axis=1, return_index=True)[1]] = False
        hits = self.waiting.find(column["key"].astype(np.uint64))
        same = np.ones(len(hits.query), dtype=bool)
        for name in parts[1:]:
            same &= self.waiting.take(hits, name) == column[name][hits.query]
        repeated[hits.query[same]] = True
        oldest = np.where(watermark > NO_TIME, watermark - self.wait_ms, NO_TIME)
        remembered: NDArray[np.bool_] = column["time_ms"] >= oldest
        return repeated & remembered

    def open_from(self, watermarks: Iterable[int]) -> int:
        """The first hour that is open for any of the models seen; NO_TIME before there is one."""
        return min((w // HOUR_MS * HOUR_MS for w in watermarks if w > NO_TIME), default=NO_TIME)

    def safe(self, partition: Partition, next_: int, open_ms: int) -> int:
        """From where to read a partition again so that all hours from `open_ms` on are counted whole.

        A label may be dated before its prediction by as much as a record may be late.
        """
        if open_ms == NO_TIME:
            return 0
        labelled = (open_ms - self.feedback_clock.lateness_ms) // HOUR_MS * HOUR_MS
        found = [model.offsets.lowest(partition, open_ms) for model in self.models.values()]
        found.append(self.feedback_offsets.lowest(partition, labelled))
        return min([next_, *(at for at in found if at is not None)])

    def _count(self, outcome: Int64s) -> None:
        for code, name in OUTCOMES.items():
            self.counts[f"labels_{name}"] += int((outcome == code).sum())

    def forget(self, watermarks: Mapping[str, tuple[int, int]]) -> None:
        """Drop what no accepted record can touch; by model (prediction watermark, joint watermark)."""
        for name, (watermark, joint) in watermarks.items():
            self.models[name].forget(watermark, joint)
        open_ms = self.open_from(watermark for watermark, _ in watermarks.values())
        if open_ms > NO_TIME:
            self.feedback_offsets.forget(open_ms - self.feedback_clock.lateness_ms - HOUR_MS)
        predicted = [w for w, _ in watermarks.values()]
        labelled = self.feedback_clock.low(frozenset())
        if max(predicted, default=NO_TIME) == NO_TIME or labelled == NO_TIME:
            return
        # A model that was not seen yet may lag the others by the horizon.
        reached = min(labelled, max(min(predicted), max(predicted) - self.horizon_ms))
        for run in self.waiting.expired(reached - self.wait_ms):
            self.counts["labels_orphan"] += int((run.columns["taken"] == 0).sum())

    @property
    def labels_waiting(self) -> int:
        return sum(int((run.columns["taken"] == 0).sum()) for run in self.waiting.runs)


__all__ = ["UNKNOWN_CLASS", "Applied", "Models"]
