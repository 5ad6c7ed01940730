"""A group that is treated unlike another."""

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from detectors.edetector import HORIZON, EDetector, Estimate
from detectors.sequential import Floats, group_ratio, rate_interval, ratio_interval

_EXCESSES = (1.2, 1.6, 2.5)
"""Ratios bet on, as multiples of the tolerated one."""
_SMALLEST = 1.05
_MEMORIES = ((0.1, 400.0), (0.01, 4000.0))
"""(weight of the newest step, events it must have for that weight) of the two adaptive bets."""
_TOP = 0.999
MIN_GROUP = 30
"""Events each group must have before there is a verdict."""
MIN_BLOCK = 10
"""Events each group must have for a bet: a block without one of the groups can say nothing of their ratio."""


class GroupRatio(EDetector):
    """Is a rate of group a more than `tolerance` times that of reference group b, or less than its inverse?

    Counts are [successes a, failures a, successes b, failures b] of the metric's own denominator: for the
    false positive rate these are false positives and true negatives. H0 of each direction is p_a <= rho p_b
    (and a, b exchanged); the bet (theta_a, theta_b) of the recent past is set against its projection on it,

        log S = sum over groups of s log(theta / p) + f log((1 - theta) / (1 - p)),   p_a = rho p_b,

    M <- (M + 1) S, and the mean M of both directions and all bets alarms when log M >= log c. Groups of any
    size, and absent ones, are fine. There is no verdict before each group has 30 events.

    `value` is the ratio of the rates, its interval [L_a / U_b, U_a / L_b] from their beta-binomial confidence
    sequences at half the error each.

    Parameters: `tolerance`, rho > 1, the largest tolerated ratio either way (1.25 is the four-fifths rule);
    more tolerates more. `log_threshold`, log c in nats. `overdispersion`, variance over binomial variance,
    1 or more.

    Example:
        >>> rng = np.random.default_rng(42)
        >>> detector = GroupRatio(log_threshold=math.log(1e4))
        >>> for step in range(400):
        ...     a, b = rng.binomial(20, 0.2 if step < 100 else 0.4), rng.binomial(30, 0.2)
        ...     detector.update(np.array([a, 20 - a, b, 30 - b]))
        ...     if detector.fired:
        ...         break
        >>> step, round(detector.evidence.value, 1), detector.evidence.verdict.value
        (126, 1.9, 'alarm')

    References: Turner, Ly and Gruenwald (2024), Generic e-variables for exact sequential k-sample tests;
    Chugg et al. (2023), Auditing fairness by betting.
    """

    name: ClassVar[str] = "group_ratio"
    family: ClassVar[str] = "fairness"
    severity: ClassVar[str] = "page"
    _remembered = (*EDetector._remembered, "_seen", "_memories", "_held")

    def __init__(self, *, tolerance: float = 1.25, log_threshold: float, overdispersion: float = 1.0) -> None:
        """Judge the ratio of two groups' rates."""
        if not tolerance >= 1.0:
            raise ValueError(f"tolerance must be 1 or more, not {tolerance}")
        self._rho = tolerance
        self._phi = max(1.0, overdispersion)
        self._seen = [0.0, 0.0]
        self._held = np.zeros(4)
        self._memories = [0.0] * (4 * len(_MEMORIES))
        bets = 2 * (len(_EXCESSES) + len(_MEMORIES))
        super().__init__(weights=[1.0 / bets] * bets, width=4, log_threshold=log_threshold)

    @property
    def warming_up(self) -> bool:
        """Has one of the groups too few events?"""
        return min(self._seen) < MIN_GROUP

    def update(self, counts: NDArray[np.int64]) -> None:
        """Take in one closed step; steps with few events of a group are pooled until there are MIN_BLOCK."""
        self._check(counts)
        self._held = self._held + counts
        if min(self._held[:2].sum(), self._held[2:].sum()) >= MIN_BLOCK:
            pooled, self._held = self._held.astype(np.int64), np.zeros(4)
            super().update(pooled)
        elif self._fired:
            self._restart()

    def _check(self, counts: NDArray[np.int64]) -> None:
        if counts.shape != (4,) or counts.min() < 0:
            raise ValueError(f"{self.name} takes four counts of zero or more, not {counts!r}")

    def _count(self, sample: Floats) -> None:
        s_a, f_a, s_b, f_b = sample.tolist()
        self._seen = [self._seen[0] + s_a + f_a, self._seen[1] + s_b + f_b]
        super()._count(sample)

    def _bets(self, sample: Floats) -> list[float]:
        s_a, f_a, s_b, f_b = sample.tolist()
        if s_a + f_a == 0.0 or s_b + f_b == 0.0:
            return [math.nan] * len(self._log_m)
        bets: list[float] = []
        for theta_a, theta_b in self._guesses(forward=True):
            bets.append(group_ratio(s_a, f_a, s_b, f_b, theta_a, theta_b, self._rho) / self._phi)
        for theta_b, theta_a in self._guesses(forward=False):
            bets.append(group_ratio(s_b, f_b, s_a, f_a, theta_b, theta_a, self._rho) / self._phi)
        return bets

    def _guesses(self, forward: bool) -> list[tuple[float, float]]:
        """Rates of the (first, second) group to bet on, from the past: first over second exceeds rho."""
        memories = [self._memories[j : j + 4] for j in range(0, len(self._memories), 4)]
        if not forward:
            memories = [[s_b, f_b, s_a, f_a] for s_a, f_a, s_b, f_b in memories]
        s_1, f_1, s_2, f_2 = memories[-1]
        n_1, n_2 = s_1 + f_1 + 1.0, s_2 + f_2 + 1.0
        pooled, share = (s_1 + s_2 + 1.0) / (n_1 + n_2), n_1 / (n_1 + n_2)

        def at(ratio: float) -> tuple[float, float]:
            """Rates of that ratio which keep the pooled rate."""
            second = min(pooled / (1.0 + share * (ratio - 1.0)), _TOP / ratio)
            return ratio * second, second

        guesses = [at(self._rho * excess) for excess in _EXCESSES]
        for s_1, f_1, s_2, f_2 in memories:
            first, second = (s_1 + 0.5) / (s_1 + f_1 + 1.0), (s_2 + 0.5) / (s_2 + f_2 + 1.0)
            smallest = self._rho * _SMALLEST
            guesses.append((first, second) if first > smallest * second else at(smallest))
        return guesses

    def _learn(self, sample: Floats) -> None:
        counts = sample.tolist()
        n = sum(counts)
        for j, (newest, events) in enumerate(_MEMORIES):
            keep = 1.0 - min(newest, n / events)
            for k, count in enumerate(counts):
                self._memories[4 * j + k] = keep * self._memories[4 * j + k] + count

    def _estimate(self, sample: Floats, alpha: float) -> Estimate:
        s_a, f_a, s_b, f_b = (sample / self._phi).tolist()
        low, high = ratio_interval(rate_interval(s_a, f_a, alpha / 2), rate_interval(s_b, f_b, alpha / 2))
        defined = s_a + f_a > 0.0 and s_b > 0.0
        value = s_a / (s_a + f_a) * (s_b + f_b) / s_b if defined else None
        return value, low, high

    def _reference(self) -> float | None:
        return 1.0

    def _tolerance(self) -> tuple[float | None, float | None]:
        return 1.0 / self._rho, self._rho

    def _smallest_change(self, nats: float) -> float | None:
        s_a, f_a, s_b, f_b = self._memories[-4:]
        n_a, n_b = s_a + f_a, s_b + f_b
        rate = (s_a + s_b + 0.5) / (n_a + n_b + 1.0)
        if rate >= 1.0 or n_a == 0.0 or n_b == 0.0:
            return None
        events = HORIZON * self._mean_size / self._phi
        variance = (1.0 - rate) / rate * (n_a + n_b) * (1.0 / n_a + 1.0 / n_b) / events
        shift = nats * math.sqrt(2.0 * variance)
        ratio = self._rho * math.exp(min(shift, 50.0))
        return ratio - 1.0 if ratio * rate < 1.0 else None
