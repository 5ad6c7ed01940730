"""All models together: routes a batch to its models; labels and predictions meet whichever comes first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
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
    LATE,
    MATCHED,
    RETRACTED,
    UNMATCHED,
    Labels,
    waiting_index,
)
from agent.measure.model import Model
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
        self.any_clock = Clock(0)
        """The newest prediction of any model, by partition: none may lag it by over the label horizon."""
        self.counts: Counter[str] = Counter()
        if unordered:
            self.horizon_ms = _AGES
            for clock in (self.feedback_clock, self.any_clock, *(m.clock for m in self.models.values())):
                clock.lateness_ms = _AGES

    def apply(self, batch: Decoded) -> Applied:
        """Fold one batch: predictions first, then feedback; each label is tried against all that was read."""
        applied = Applied()
        self._predictions(batch.predictions, batch.partition, applied)
        self._feedback(batch.feedback, batch.partition, applied)
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
        for name in names.unique().to_list():
            at = (names == name).to_numpy()
            rows = known if at.all() else known.filter(at)
            done = self.models[name].predict(rows, partition, oldest[at])
            applied.merged += done.merged
            applied.late += done.late
            applied.duplicate += done.duplicate
            applied.unknown_class += done.unknown_class.tolist()
            self._meet_waiting(name, done.keys)

    def _meet_waiting(self, name: str, keys: NDArray[np.uint64]) -> None:
        """Give waiting labels to predictions that were just read."""
        if len(self.waiting) == 0 or len(keys) == 0:
            return
        hits = self.waiting.find(np.unique(keys))
        owner = self.waiting.take(hits, "model")
        taken = self.waiting.take(hits, "taken")
        hits = Hits(
            *(a[((owner == ANY_MODEL) | ((owner == self._numbers[name]) & (taken == 0)))] for a in hits)
        )
        if len(hits.query) == 0:
            return
        hits = self._in_order(hits)
        column = {
            n: self.waiting.take(hits, n) for n in ("key", "time_ms", "effective_ms", "revision", "label")
        }
        outcome = self._give(name, column)
        taken = self.waiting.take(hits, "taken")
        done = (outcome != UNMATCHED) & (taken == 0)
        self._count(outcome[done])
        self.waiting.put(Hits(*(a[done] for a in hits)), {"taken": np.ones(int(done.sum()), dtype=np.int8)})

    def _in_order(self, hits: Hits) -> Hits:
        """Waiting labels in the order in which they were read."""
        order = np.argsort(self.waiting.take(hits, "seq"), kind="stable")
        return Hits(*(a[order] for a in hits))

    def _give(self, name: str, column: Mapping[str, NDArray[np.generic]]) -> Int64s:
        model = self.models[name]
        hashes = column["label"].astype(np.uint64)
        code = np.where(hashes == _RETRACT, RETRACTED, model.codes(hashes))
        return model.label(
            Labels(
                column["key"].astype(np.uint64),
                column["time_ms"].astype(np.int64),
                column["effective_ms"].astype(np.int64),
                column["revision"].astype(np.int64),
                code,
            )
        )

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
        hashes = identity_hash(frame["label"].fill_null(""))
        label = np.where(frame["label"].is_null().to_numpy(), _RETRACT, np.maximum(hashes, 1))
        owner = np.array(
            [self._numbers.get(n, ANY_MODEL) for n in frame["model_name"].to_list()], dtype=np.int64
        )
        column = {
            "key": identity_hash(frame["prediction_id"]),
            "time_ms": times,
            "effective_ms": np.maximum(times, watermark),
            "revision": frame["revision"].to_numpy(),
            "label": label,
            "model": owner,
            "seq": frame["offset"].to_numpy(),
        }
        outcome = np.full(len(frame), UNMATCHED, dtype=np.int64)
        for name, number in self._numbers.items():
            at = np.flatnonzero((owner == number) | (owner == ANY_MODEL))
            if len(at):
                found = self._give(name, {n: c[at] for n, c in column.items()})
                outcome[at] = np.maximum(outcome[at], found)
        self._count(outcome[outcome != UNMATCHED])
        # A label that names no model may also belong to a model whose prediction is still to be read.
        shared = (owner == ANY_MODEL) & (len(self.models) > 1)
        repeated = self._wait(column, np.flatnonzero((outcome == UNMATCHED) | shared), outcome)
        duplicate = int((outcome == DUPLICATE).sum()) + repeated
        late = int((outcome == LATE).sum())
        applied.duplicate += duplicate
        applied.late += late
        applied.merged += len(frame) - duplicate - late

    def _wait(self, column: Mapping[str, NDArray[np.generic]], at: Int64s, outcome: Int64s) -> int:
        """Keep labels until their prediction comes; returns how many were waiting already."""
        if len(at) == 0:
            return 0
        mine = {n: c[at] for n, c in column.items()}
        repeated = np.ones(len(at), dtype=bool)
        identity = np.stack(
            [mine[n].astype(np.uint64) for n in ("key", "time_ms", "revision", "label", "model")]
        )
        repeated[np.unique(identity, axis=1, return_index=True)[1]] = False
        hits = self.waiting.find(mine["key"].astype(np.uint64))
        same = np.ones(len(hits.query), dtype=bool)
        for name in ("time_ms", "revision", "label", "model"):
            same &= self.waiting.take(hits, name) == mine[name][hits.query]
        repeated[hits.query[same]] = True
        fresh = ~repeated
        unmatched = outcome[at] == UNMATCHED
        self.waiting.append(
            {
                "key": mine["key"][fresh],
                "time_ms": mine["time_ms"][fresh],
                "effective_ms": mine["effective_ms"][fresh],
                "label": mine["label"][fresh],
                "model": mine["model"][fresh].astype(np.int32),
                "revision": mine["revision"][fresh],
                "seq": mine["seq"][fresh],
                "taken": (~unmatched[fresh]).astype(np.int8),
            }
        )
        self.counts["labels_duplicate"] += int((repeated & unmatched).sum())
        self.counts["labels_waited"] += int((fresh & unmatched).sum())
        return int((repeated & unmatched).sum())

    def _count(self, outcome: Int64s) -> None:
        for name, code in _OUTCOMES.items():
            self.counts[f"labels_{name}"] += int((outcome == code).sum())

    def forget(self, watermarks: Mapping[str, tuple[int, int]]) -> None:
        """Drop what no accepted record can touch; by model (prediction watermark, joint watermark)."""
        for name, (watermark, joint) in watermarks.items():
            self.models[name].forget(watermark, joint)
        seen = [w for w, _ in watermarks.values() if w > NO_TIME]
        if not seen:
            return
        for run in self.waiting.expired(max(min(seen), max(seen) - self.horizon_ms) - self.wait_ms):
            self.counts["labels_orphan"] += int((run.columns["taken"] == 0).sum())

    @property
    def labels_waiting(self) -> int:
        return sum(int((run.columns["taken"] == 0).sum()) for run in self.waiting.runs)


_OUTCOMES = {"matched": MATCHED, "duplicate": DUPLICATE, "late": LATE, "superseded": 2}
__all__ = ["UNKNOWN_CLASS", "Applied", "Models"]
