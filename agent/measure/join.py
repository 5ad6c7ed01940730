"""The label join: predictions wait for labels, labels wait for predictions, in whatever order they are read.

The result depends on the events alone. A label counts for a prediction of its id when its effective time
(its own, but never before the watermark it met) is within the horizon after the prediction; among labels the
higher (revision, time) wins, and a retraction (null) wins like any other. Corrections are additions too: the
old label is taken back and the new one added, both at the new label's age. Each prediction meets each label
of its id once, and labels in the order of their partition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.events import Int64s
from agent.measure.bins import Floats
from agent.measure.fold import LabelledRows
from agent.measure.rows import UNKNOWN_CLASS
from agent.measure.runs import Columns, Hits, SortedRuns

NO_LABEL = -1
RETRACTED = -2
UNMATCHED, SUPERSEDED, DUPLICATE, MATCHED = range(4)
"""What became of a label; where it met several predictions, the first that was read decides."""
ANY_MODEL = -1
NOBODY = 2**62
"""The meeting of a label that met no prediction."""
_NEVER = -(2**63)


@dataclass(frozen=True, slots=True)
class Labels:
    """A batch of labels in offset order; `code` is the class for the model at hand."""

    key: NDArray[np.uint64]
    time_ms: Int64s
    effective_ms: Int64s
    revision: Int64s
    code: Int64s

    def rows(self, at: NDArray[np.bool_] | Int64s) -> Labels:
        return Labels(self.key[at], self.time_ms[at], self.effective_ms[at], self.revision[at], self.code[at])


OUTCOMES = {SUPERSEDED: "superseded", DUPLICATE: "duplicate", MATCHED: "matched", UNMATCHED: "orphan"}


def outcome_of(meeting: Int64s) -> Int64s:
    """What became of each label at its first meeting."""
    return np.where(meeting == NOBODY, UNMATCHED, meeting % len(OUTCOMES))


def prediction_index(score_columns: int, horizon_ms: int) -> SortedRuns:
    """Pending and labelled predictions of one model, until the horizon has passed."""
    spec = {
        "version": np.int32,
        "predicted": np.int16,
        "combo": np.int32,
        "scores": (np.float64, score_columns),
        "seq": np.int64,  # offset
        "label": np.int16,
        "revision": np.int64,
        "label_ms": np.int64,
    }
    return SortedRuns(spec, mutable=("label", "revision", "label_ms"), bucket_ms=max(horizon_ms // 4, 1))


def waiting_index(wait_ms: int) -> SortedRuns:
    """Labels whose prediction has not been read."""
    spec = {
        "effective_ms": np.int64,
        "label": np.uint64,
        "model": np.int32,
        "revision": np.int64,
        "seq": np.int64,  # offset: labels of one id are applied in the order of their partition
        "taken": np.int8,
    }
    return SortedRuns(spec, mutable=("taken",), bucket_ms=max(wait_ms, 1))


class Join:
    """One model's side of the join."""

    def __init__(self, score_columns: int, *, horizon_ms: int, skew_ms: int) -> None:
        self.index = prediction_index(score_columns, horizon_ms)
        self.arrived = prediction_index(score_columns, horizon_ms)
        """Predictions of this batch, which meet the labels that came before them."""
        self.horizon_ms = horizon_ms
        self.skew_ms = skew_ms
        self.counts = Counter(dict.fromkeys(("predictions", "joined", "expired", "met", "unknown_class"), 0))

    def duplicates(self, key: NDArray[np.uint64], version: Int64s, time_ms: Int64s) -> NDArray[np.bool_]:
        """Which predictions repeat an identity (id and version) of the last horizon, or of the batch."""
        repeated = np.zeros(len(key), dtype=bool)
        hits = self.index.find(key)
        same = self.index.take(hits, "version") == version[hits.query]
        near = np.abs(self.index.take(hits, "time_ms") - time_ms[hits.query]) <= self.horizon_ms
        repeated[hits.query[same & near]] = True
        accepted: dict[tuple[int, int], list[int]] = {}
        for i in np.flatnonzero(_shared(key) & ~repeated):
            before = accepted.setdefault((int(key[i]), int(version[i])), [])
            repeated[i] = any(abs(int(time_ms[i]) - t) <= self.horizon_ms for t in before)
            if not repeated[i]:
                before.append(int(time_ms[i]))
        return repeated

    def add(self, columns: Columns) -> None:
        """Take in predictions; they stand apart until `settle`."""
        n = len(columns["key"])
        self.arrived.append(
            {
                **columns,
                "label": np.full(n, NO_LABEL, dtype=np.int16),
                "revision": np.zeros(n, dtype=np.int64),
                "label_ms": np.full(n, _NEVER, dtype=np.int64),
            }
        )
        self.counts["predictions"] += n

    def settle(self) -> None:
        """What arrived has met the labels that came before it: put it with the others."""
        for run in self.arrived.runs:
            self.index.append(run.columns)
        self.arrived.runs = []

    def apply(
        self, labels: Labels, *, arrived: bool = False
    ) -> tuple[Int64s, list[tuple[int, LabelledRows]]]:
        """Give labels to the predictions they match: to those that arrived, or to all others.

        Returns the first meeting of each label (see `outcome_of`) and what to add to the panes, by version.
        """
        index = self.arrived if arrived else self.index
        first = np.full(len(labels.key), NOBODY, dtype=np.int64)
        changes: list[tuple[int, LabelledRows]] = []
        hits = index.find(labels.key)
        if len(hits.query) == 0:
            return first, changes
        turn = _turns(hits.run * (1 << 40) + hits.row, hits.query)
        for t in range(int(turn.max()) + 1):
            changes += self._round(index, Hits(*(a[turn == t] for a in hits)), labels, first)
        return first, changes

    def _round(
        self, index: SortedRuns, hits: Hits, labels: Labels, first: Int64s
    ) -> list[tuple[int, LabelledRows]]:
        """Each prediction meets at most one label."""
        mine = labels.rows(hits.query)
        held = {n: index.take(hits, n).astype(np.int64) for n in ("time_ms", "label", "revision", "label_ms")}
        # A prediction beyond the horizon may be forgotten already: to labels it is as if it were not there.
        apart = (mine.time_ms < held["time_ms"] - self.skew_ms) | (
            mine.effective_ms - held["time_ms"] > self.horizon_ms
        )
        same_revision = mine.revision == held["revision"]
        newer = (mine.revision > held["revision"]) | (same_revision & (mine.time_ms > held["label_ms"]))
        newer |= held["label"] == NO_LABEL
        same = held["label"] == mine.code
        verdict = np.select([apart, same, newer], [UNMATCHED, DUPLICATE, MATCHED], SUPERSEDED)
        meeting = np.where(apart, NOBODY, index.take(hits, "seq") * len(OUTCOMES) + verdict)
        np.minimum.at(first, hits.query, meeting)
        changed = ~apart & newer
        new_values = {"label": mine.code, "revision": mine.revision, "label_ms": mine.time_ms}
        index.put(Hits(*(a[changed] for a in hits)), {n: c[changed] for n, c in new_values.items()})
        applied = verdict == MATCHED
        had, has = applied & (held["label"] >= 0), applied & (mine.code >= 0)
        self.counts["met"] += int((~apart).sum())
        self.counts["joined"] += int(has.sum()) - int(had.sum())
        self.counts["unknown_class"] += int((applied & (mine.code == UNKNOWN_CLASS)).sum())
        return [
            *self._contributions(index, hits, had, held["label"], mine.effective_ms, -1),
            *self._contributions(index, hits, has, mine.code, mine.effective_ms, +1),
        ]

    def _contributions(
        self,
        index: SortedRuns,
        hits: Hits,
        which: NDArray[np.bool_],
        label: Int64s,
        effective_ms: Int64s,
        sign: int,
    ) -> Iterator[tuple[int, LabelledRows]]:
        if not which.any():
            return
        hits = Hits(*(a[which] for a in hits))
        column = {name: index.take(hits, name) for name in ("time_ms", "version", "predicted", "combo")}
        scores: Floats = index.take(hits, "scores")
        for version in np.unique(column["version"]):
            at = column["version"] == version
            yield (
                int(version),
                LabelledRows(
                    time_ms=column["time_ms"][at],
                    effective_ms=effective_ms[which][at],
                    combo=column["combo"][at].astype(np.int64),
                    predicted=column["predicted"][at].astype(np.int64),
                    label=label[which][at],
                    scores=scores[at],
                    sign=sign,
                ),
            )

    def expire(self, before_ms: int) -> None:
        """Forget predictions whose horizon ended; `before_ms` is the joint watermark less the horizon."""
        for run in self.index.expired(before_ms):
            self.counts["expired"] += int((run.columns["label"] < 0).sum())

    @property
    def pending(self) -> int:
        """Predictions that may still get their label."""
        return self.counts["predictions"] - self.counts["joined"] - self.counts["expired"]


def _turns(entry: Int64s, order: Int64s) -> Int64s:
    """Which label in a row each hit is for its prediction, in offset order."""
    by = np.lexsort([order, entry])
    first = np.concatenate([[True], entry[by][1:] != entry[by][:-1]])
    start = np.maximum.accumulate(np.where(first, np.arange(len(by)), 0))
    turn = np.empty(len(by), dtype=np.int64)
    turn[by] = np.arange(len(by)) - start
    return turn


def _shared(key: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which keys stand more than once in the batch."""
    order = np.argsort(key)
    same = key[order][1:] == key[order][:-1]
    shared = np.zeros(len(key), dtype=bool)
    shared[order] = np.concatenate([[False], same]) | np.concatenate([same, [False]])
    return shared
