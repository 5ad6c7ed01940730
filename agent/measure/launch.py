"""Has a version become worse than it was at launch? Its matured labels, in blocks, against its reference.

A block is consecutive matured hours with at least BLOCK_LABELS labels and MIN_CLASS of each class. Two rules:

    roc_auc               fell by more than `auc_drop`:             auc + Z se < (1 - auc_drop) auc at launch
    false_positive_rate   above `false_positive_cap` × baseline:    fpr - Z se > cap × fpr at launch

A rule fires when STREAK disjoint blocks in a row break it, each with 99.5 % confidence (asymptotic: DeLong's
variance for AUC, the normal approximation for the rate; the reference's own error is in se). It has
recovered at the first block whose estimate is back within the bound: beginning takes more evidence than
ending. Nothing here pages; the retraining policy asks.

Reference: DeLong, DeLong and Clarke-Pearson (1988), Comparing the areas under two or more correlated ROC
curves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from agent.config import RetrainingConfig
from agent.events import Int64s
from agent.measure.bins import SCORE_BINS
from agent.measure.layout import Layout
from agent.measure.reference import rate
from agent.measure.watch import Key, Observation, Said
from detectors import Evidence

NAME = "since_launch"
"""The detector's name in evidence."""
BLOCK_LABELS = 500
MIN_CLASS = 50
STREAK = 2
Z = 2.576


class Estimate(NamedTuple):
    """A value, its variance and the labels behind it."""

    value: float
    variance: float
    n: int


@dataclass
class _Version:
    """One version: the block that is being filled, and how many blocks in a row broke each rule."""

    block: Int64s
    streaks: dict[str, int] = field(default_factory=dict)


class SinceLaunch:
    """The two rules for every version of one model."""

    def __init__(self, config: RetrainingConfig, layout: Layout) -> None:
        self.config = config
        self.layout = layout
        self._versions: dict[str, _Version] = {}

    def note(self, when_ms: int, version: str, counts: Int64s, reference: Int64s) -> Iterator[Observation]:
        """Add a matured hour's labelled counts; a block that is full is judged against the reference."""
        held = self._versions.setdefault(version, _Version(self.layout.empty_performance()))
        held.block[: len(counts)] += counts
        block = held.block
        matrix = block[self.layout.performance["confusion"]].reshape(len(self.layout.classes), -1)
        if block[0] < BLOCK_LABELS or matrix.sum(axis=1).min() < MIN_CLASS:
            return
        held.block = self.layout.empty_performance()
        for metric, now, limit, bound in self._rules(block, reference):
            worse = math.copysign(1.0, -1.0 if metric == "roc_auc" else 1.0)
            error = math.sqrt(now.variance + bound.variance)
            statistic = worse * (now.value - bound.value) / error if error > 0 else 0.0
            broken = statistic > Z
            held.streaks[metric] = held.streaks.get(metric, 0) + 1 if broken else 0
            half = Z * math.sqrt(now.variance)
            evidence = Evidence(
                statistic=statistic,
                threshold=Z,
                samples=now.n,
                warming_up=False,
                value=now.value,
                low=max(0.0, now.value - half),
                high=min(1.0, now.value + half),
                reference=limit,
                tolerance=(bound.value, None) if worse < 0 else (None, bound.value),
                details={"blocks": float(held.streaks[metric])},
            )
            key = Key(version, NAME, metric=metric)
            fired, recovered = held.streaks[metric] >= STREAK, statistic <= 0
            yield Observation(when_ms, key, Said("performance", "ticket", fired, recovered, evidence))

    def _rules(self, block: Int64s, reference: Int64s) -> Iterator[tuple[str, Estimate, float, Estimate]]:
        """(metric, its estimate now, its value at launch, the bound with the bound's own variance)."""
        if self.config.auc_drop is not None:
            now, launch = roc_auc(self.layout, block), roc_auc(self.layout, reference)
            if now and launch:
                keeps = 1 - self.config.auc_drop
                yield "roc_auc", now, launch.value, _scaled(launch, keeps)
        if self.config.false_positive_cap is not None and self.layout.task == "binary":
            confusion = self.layout.performance["confusion"]
            now, launch = _share(*rate(block[confusion], _FPR)), _share(*rate(reference[confusion], _FPR))
            if now and launch:
                yield _FPR, now, launch.value, _scaled(launch, self.config.false_positive_cap)

    def state(self) -> dict[str, Any]:
        """Everything, as JSON; blocks by their cells that are not zero."""
        found = {}
        for version, held in sorted(self._versions.items()):
            cells = np.flatnonzero(held.block)
            found[version] = [cells.tolist(), held.block[cells].tolist(), dict(sorted(held.streaks.items()))]
        return found

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self._versions = {}
        for version, (cells, values, streaks) in state.items():
            block = self.layout.empty_performance()
            block[np.asarray(cells, dtype=np.int64)] = values
            self._versions[version] = _Version(block, dict(streaks))


_FPR = "false_positive_rate"


def roc_auc(layout: Layout, counts: Int64s) -> Estimate | None:
    """ROC AUC and DeLong's variance from the score histogram by label; the mean over classes.

    For several classes the standard errors are averaged, which holds for any dependence among them.
    """
    held = counts[layout.performance["by_label"]].reshape(layout.score_columns, 2, SCORE_BINS)
    values, errors = [], []
    for negative, positive in held.astype(np.float64):
        n, m = negative.sum(), positive.sum()
        if min(n, m) < 2:
            return None
        below = (np.cumsum(negative) - negative / 2) / n
        above = 1.0 - (np.cumsum(positive) - positive / 2) / m
        auc = float(positive @ below / m)
        spread = positive @ (below - auc) ** 2 / (m - 1) / m + negative @ (above - auc) ** 2 / (n - 1) / n
        values.append(auc)
        errors.append(math.sqrt(float(spread)))
    return Estimate(float(np.mean(values)), float(np.mean(errors)) ** 2, int(held[0].sum()))


def _share(successes: int, failures: int) -> Estimate | None:
    """A rate; one success and one failure are added to its variance, so that none is ever certain."""
    n = successes + failures
    if n == 0:
        return None
    near = (successes + 1) / (n + 2)
    return Estimate(successes / n, near * (1 - near) / n, n)


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    return Estimate(estimate.value * factor, estimate.variance * factor**2, estimate.n)
