"""Everything measured of one model: its clock, panes, join and versions. A pure fold over decoded batches."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from agent.config import ModelConfig
from agent.events import NO_TIME, Int64s, Partition
from agent.measure.baseline import Baseline
from agent.measure.bins import latency_bin, score_bin
from agent.measure.clock import Clock
from agent.measure.fold import LabelledRows, PredictionRows, fold_labels, fold_predictions
from agent.measure.join import Join, Labels
from agent.measure.layout import Layout
from agent.measure.offsets import Offsets
from agent.measure.pane import DAY_MS, HOUR, HOUR_MS, MINUTE, Panes
from agent.measure.rows import (
    UNKNOWN_CLASS,
    Codes,
    Slices,
    class_codes_of_hashes,
    classify,
    feature_bins,
    identity_hash,
)
from agent.measure.runs import Columns

MINUTES_KEPT_MS = 2 * HOUR_MS
HOURS_KEPT_MS = 35 * DAY_MS


def to_ms(duration: timedelta) -> int:
    """A configured duration in milliseconds."""
    return duration // timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Predicted:
    """What became of a batch of predictions."""

    merged: int
    late: int
    duplicate: int
    unknown_class: Int64s
    """Offsets of predictions that name a class the model has not."""
    keys: NDArray[np.uint64]
    """Ids of the merged ones, for which labels may be waiting."""


class Model:
    """The measured state of one model."""

    def __init__(self, name: str, config: ModelConfig, baseline: Baseline | None) -> None:
        self.name = name
        self.config = config
        self.baseline = baseline
        self.layout = Layout.of(config, baseline.features if baseline else ())
        self.lateness_ms = to_ms(config.allowed_lateness)
        self.horizon_ms = to_ms(config.label_horizon)
        self.clock = Clock(self.lateness_ms)
        self.panes = Panes()
        self.slices = Slices(config)
        self.versions = Codes()
        self.seen: dict[str, tuple[int, int]] = {}
        """First and last event time of each version."""
        self.join = Join(self.layout.score_columns, horizon_ms=self.horizon_ms, skew_ms=self.lateness_ms)
        self.counts: Counter[str] = Counter()
        self.offsets = Offsets()
        self.minutes_from_ms = NO_TIME
        self.keeps_hours = False
        """A backtest reports every window at its end."""

    def predict(self, frame: pl.DataFrame, partition: Partition, no_older_than: Int64s) -> Predicted:
        """Fold a batch of this model's predictions, all of one partition, in offset order."""
        scored = classify(frame, self.config, self.layout)
        good = scored.predicted != UNKNOWN_CLASS
        offsets = frame["offset"].to_numpy()
        times = frame["timestamp_ms"].to_numpy()
        watermark = np.full(len(times), NO_TIME, dtype=np.int64)
        watermark[good] = self.clock.running(partition, times[good])
        late = good & (times < np.maximum(watermark, no_older_than))
        keys = identity_hash(frame["prediction_id"])
        version = self.versions.of(frame["model_version"])
        candidates = np.flatnonzero(good & ~late)
        repeated = self.join.duplicates(keys[candidates], version[candidates], times[candidates])
        merged = candidates[~repeated]
        if len(merged):
            self.offsets.note(partition, times[merged], offsets[merged])
            scores = scored.scores[merged]
            self._fold(
                frame[merged], times[merged], version[merged], scored.predicted[merged], scores, keys[merged]
            )
        self.counts["late"] += int(late.sum())
        self.counts["duplicate"] += int(repeated.sum())
        return Predicted(len(merged), int(late.sum()), int(repeated.sum()), offsets[~good], keys[merged])

    def _fold(
        self,
        frame: pl.DataFrame,
        times: Int64s,
        version: Int64s,
        predicted: Int64s,
        scores: NDArray[np.float64],
        keys: NDArray[np.uint64],
    ) -> None:
        latency = frame["latency_seconds"].fill_null(float("nan")).to_numpy()
        known = np.nan_to_num(np.clip(latency, 0, 1e6), nan=0.0)
        failed = frame["error"].is_not_null().to_numpy()
        scores = np.where(failed[:, None], np.nan, scores)
        best = scores[:, 0] if self.layout.task == "binary" else scores.max(axis=1)
        values = frame["features"].struct
        rows = PredictionRows(
            time_ms=times,
            combo=self.slices.of(frame["tags"]),
            predicted=np.where(failed, -1, predicted),
            score=np.where(failed, -1, score_bin(best)),
            error=failed.astype(np.int64),
            latency=latency_bin(latency),
            latency_us=np.rint(known * 1e6).astype(np.int64),
            features=[feature_bins(values.field(f.name), f) for f in self.layout.features],
        )
        for code in np.unique(version):
            at = version == code
            name = self.versions.names[code]
            first, last = self.seen.get(name, (int(times[at].min()), NO_TIME))
            self.seen[name] = (min(first, int(times[at].min())), max(last, int(times[at].max())))
            fold_predictions(self.panes, self.layout, name, self.slices, _chosen(rows, at))
        columns: Columns = {
            "key": keys,
            "time_ms": times,
            "version": version.astype(np.int32),
            "predicted": rows.predicted.astype(np.int16),
            "combo": rows.combo.astype(np.int32),
            "scores": scores,
            "seq": frame["offset"].to_numpy(),
        }
        self.join.add(columns)

    def label(self, labels: Labels, *, arrived: bool = False) -> Int64s:
        """Fold labels (with class codes of this model), for predictions that arrived or for all others.

        Returns the first meeting of each.
        """
        first, changes = self.join.apply(labels, arrived=arrived)
        self.counts["feedback"] = self.join.counts["met"]
        self._add(changes)
        return first

    def codes(self, label_hash: NDArray[np.uint64]) -> Int64s:
        """Class codes of hashed labels."""
        return class_codes_of_hashes(label_hash, self.config, self.layout)

    def _add(self, changes: list[tuple[int, LabelledRows]]) -> None:
        for version, rows in changes:
            name = self.versions.names[version]
            fold_labels(
                self.panes, self.layout, name, self.slices, rows, minutes_from_ms=self.minutes_from_ms
            )

    def forget(self, watermark_ms: int, joint_ms: int) -> None:
        """Drop minutes and hours that left their tier, and predictions whose horizon has passed."""
        if watermark_ms == NO_TIME:
            return
        self.minutes_from_ms = max(
            self.minutes_from_ms, (watermark_ms - MINUTES_KEPT_MS) // HOUR_MS * HOUR_MS
        )
        self.panes.drop(MINUTE, self.minutes_from_ms)
        # Labels stay joinable while an accepted label can still reach the prediction; nothing waits for ever.
        complete_ms = max(joint_ms, watermark_ms - 2 * self.horizon_ms)
        self.join.expire(complete_ms - self.horizon_ms)
        if self.keeps_hours:
            return
        kept = max(HOURS_KEPT_MS, self.horizon_ms + HOUR_MS)
        self.panes.drop(HOUR, (complete_ms - kept) // DAY_MS * DAY_MS)
        self.offsets.forget(complete_ms - HOURS_KEPT_MS)


def _chosen(rows: PredictionRows, at: NDArray[np.bool_]) -> PredictionRows:
    if at.all():
        return rows
    columns = {n: getattr(rows, n)[at] for n in PredictionRows.__slots__ if n != "features"}
    return PredictionRows(**columns, features=[bins[at] for bins in rows.features])
