"""What a version's counts are compared with: the baseline, or what its own first events and labels showed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from agent.events import Int64s
from agent.measure.baseline import Baseline
from agent.measure.bins import SCORE_MIDDLES, group_bins
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
        middle = np.clip(SCORE_MIDDLES, 0, 1)
        confidence = np.maximum(middle, 1 - middle) if self.layout.task == "binary" else middle
        counts = self.part("score")
        order = np.argsort(confidence, kind="stable")
        reached = np.cumsum(counts[order]) * 2 >= counts.sum()
        mask: NDArray[np.bool_] = confidence >= confidence[order][np.argmax(reached)]
        return mask


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
