"""What a version's counts are compared with: the baseline, or what its own first events and labels showed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from agent.events import Int64s
from agent.measure.baseline import Baseline
from agent.measure.bins import LATENCY_BINS, SCORE_MIDDLES, group_bins
from agent.measure.layout import Layout

LEARN_PREDICTIONS = 2000
"""A version without a baseline learns its score and feature distributions from so many predictions."""
SCORE_GROUPS = 20


@dataclass
class Reference:
    """Frozen counts of one version, or the sums they are still being learned from."""

    layout: Layout
    prediction: Int64s
    performance: Int64s
    prediction_ready: bool = False
    performance_ready: bool = False
    predecessor: Int64s | None = None
    """Confusion cells of the version before, frozen with this one's first mature labels."""

    @classmethod
    def of(cls, layout: Layout, baseline: Baseline | None) -> Reference:
        if baseline is None:
            return cls(layout, layout.empty_prediction(), layout.empty_performance())
        labelled = bool(baseline.performance[0] > 0)
        return cls(layout, baseline.prediction.copy(), baseline.performance.copy(), True, labelled)

    @property
    def learning(self) -> bool:
        return not (self.prediction_ready and self.performance_ready)

    def learn_prediction(self, counts: Int64s) -> None:
        """Add a closed step; enough of them freeze the reference."""
        self.prediction[: len(counts)] += counts
        self.prediction_ready = bool(self.prediction[0] >= LEARN_PREDICTIONS)

    def learn_performance(self, counts: Int64s, enough: int) -> None:
        """Add a matured hour; enough labels freeze the reference."""
        self.performance[: len(counts)] += counts
        self.performance_ready = bool(self.performance[0] >= enough)

    def part(self, name: str, counts: Int64s | None = None) -> Int64s:
        """A stretch of the prediction part, of the reference or of other counts."""
        return (self.prediction if counts is None else counts)[self.layout.prediction[name]]

    @cached_property
    def score_groups(self) -> Int64s:
        """Group of each score bin: about equally many reference scores in each."""
        return group_bins(self.part("score"), SCORE_GROUPS)

    @cached_property
    def confident(self) -> NDArray[np.bool_]:
        """Score bins at least as confident as the reference's median prediction."""
        confidence = self._confidence
        return np.asarray(confidence >= _quantile(self.part("score"), confidence, 0.5))

    @cached_property
    def certain(self) -> NDArray[np.bool_]:
        """Score bins more confident than all but the surest 5 % of the reference."""
        confidence = self._confidence
        bar = _quantile(self.part("score"), confidence, 0.95)
        return np.asarray(confidence > min(bar, _SUREST))

    @cached_property
    def slow(self) -> NDArray[np.bool_]:
        """Latency bins above the reference's 95th percentile."""
        order = np.arange(LATENCY_BINS, dtype=np.float64)
        return np.asarray(order > _quantile(self.part("latency"), order, 0.95))

    @property
    def _confidence(self) -> NDArray[np.float64]:
        middle = np.clip(SCORE_MIDDLES, 0, 1)
        return np.maximum(middle, 1 - middle) if self.layout.task == "binary" else middle


_SUREST = 1 - 1e-6
"""Beyond this a prediction is certain, whatever the reference did."""


def _quantile(counts: Int64s, values: NDArray[np.float64], share: float) -> float:
    """The smallest value at or below which so large a share of the counts lies."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(counts[order]) >= share * counts.sum()
    return float(values[order][np.argmax(reached)])


def regroup(counts: Int64s, groups: Int64s) -> Int64s:
    """Sums of fine bins by group."""
    return np.bincount(groups, weights=counts, minlength=int(groups.max()) + 1).astype(np.int64)


def rate(confusion: Int64s, metric: str) -> tuple[int, int]:
    """(successes, failures) of a rate, from a confusion matrix (row: truth, column: prediction)."""
    matrix = confusion.reshape(int(len(confusion) ** 0.5), -1)
    if metric == "accuracy":
        right = int(np.trace(matrix))
        return right, int(matrix.sum()) - right
    (tn, fp), (fn, tp) = matrix.tolist()
    successes, failures = {
        "precision": (tp, fp),
        "recall": (tp, fn),
        "true_positive_rate": (tp, fn),
        "specificity": (tn, fp),
        "false_positive_rate": (fp, tn),
    }[metric]
    return int(successes), int(failures)
