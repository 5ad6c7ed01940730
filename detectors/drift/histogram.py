"""Drift of a feature, a score or a prediction, from its histogram."""

import math
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detectors.drift.divergence import frequencies, js, js_distance, kl, psi
from detectors.edetector import HORIZON, EDetector, Estimate
from detectors.sequential import Floats, histogram_ball, histogram_radius, temper

_MEMORIES = ((0.5, 8.0), (0.1, 40.0))
"""(weight of the newest step, events per bin it must have for that weight) of the two bets."""
_FLOOR = 0.001
"""Share of the reference mixed into each bet, so that no bin is ruled out."""
MAX_BINS = 24
"""More bins than this are merged with their neighbours: power falls with the number of bins."""


class HistogramDrift(EDetector):
    """Does a histogram differ from the reference by more than is tolerated?

    Tolerated are all distributions p, even moving ones, with KL(q || p) <= epsilon for the reference q. Each
    step bets the recent past theta against its projection theta0 = w q + (1 - w) theta on that ball:

        log S = sum_b n_b log(theta_b / theta0_b) / overdispersion,   M <- (M + 1) S

    and the mean M over the bets (two memories of the past) alarms when log M >= log c.

    `value` is KL(q || p) of the counts in nats, corrected for sampling; its interval combines the exact
    radius of the multinomial confidence sequence with KL by the triangle inequality of its root, which is
    asymptotic.

    Parameters: `reference`, counts per bin of the reference data. `epsilon`, nats of KL tolerated; more
    tolerates more; PSI is about twice KL, so 0.05 is the folklore PSI of 0.1. What sampling of the
    reference alone would show, (bins - 1) / (2 n), is added. `log_threshold`, log c in nats, from
    `detectors.budget`. `overdispersion`, variance over multinomial variance (1: independent events; more:
    clusters).

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(42)
        >>> reference = np.array([100, 200, 400, 200, 100]) * 100
        >>> detector = HistogramDrift(reference, log_threshold=math.log(1e6))
        >>> for step in range(200):
        ...     shares = [0.1, 0.2, 0.4, 0.2, 0.1] if step < 100 else [0.05, 0.1, 0.35, 0.3, 0.2]
        ...     detector.update(rng.multinomial(500, shares))
        ...     if detector.fired:
        ...         break
        >>> step, round(detector.evidence.ratio, 1), detector.evidence.verdict.value
        (102, 1.3, 'alarm')

    References: Gruenwald, de Heide and Koolen (2024), Safe testing; Shin, Ramdas and Rinaldo (2024),
    E-detectors.
    """

    name: ClassVar[str] = "histogram_drift"
    family: ClassVar[str] = "drift"
    severity: ClassVar[str] = "ticket"
    _remembered = (*EDetector._remembered, "_fast", "_slow", "_slow_squares")

    def __init__(
        self,
        reference: ArrayLike,
        *,
        epsilon: float = 0.02,
        log_threshold: float,
        overdispersion: float = 1.0,
    ) -> None:
        """Compare with the counts per bin of the reference."""
        counts = np.asarray(reference, dtype=np.float64)
        self._bins = counts.size
        self._cuts = _cuts(frequencies(counts))
        self._base = np.add.reduceat(counts, self._cuts)
        self._q = frequencies(self._base)
        width = self._q.size
        self._epsilon = epsilon + 0.5 * (width - 1) / max(1.0, float(counts.sum()))
        self._phi = max(1.0, overdispersion)
        self._fast, self._slow = np.zeros(width), np.zeros(width)
        self._slow_squares = 0.0  # events weighted by the square: gives the effective size
        super().__init__(bets=len(_MEMORIES), width=width, log_threshold=log_threshold)

    def _check(self, counts: NDArray[np.int64]) -> None:
        if counts.shape != (self._bins,) or counts.min() < 0:
            raise ValueError(f"{self.name} takes {self._bins} counts of zero or more, not {counts!r}")

    def _sample(self, counts: NDArray[np.int64]) -> Floats:
        return np.add.reduceat(counts, self._cuts).astype(np.float64)

    def _bets(self, sample: Floats) -> list[float | None]:
        bets: list[float | None] = []
        for memory in (self._fast, self._slow):
            theta = memory + self._q * (0.5 * self._q.size)
            theta = theta * ((1.0 - _FLOOR) / float(theta.sum())) + _FLOOR * self._q
            if -float(self._q @ np.log(theta / self._q)) <= self._epsilon:
                bets.append(None)
            else:
                bets.append(temper(histogram_ball(sample, theta, self._q, self._epsilon), self._phi))
        return bets

    def _learn(self, sample: Floats) -> None:
        n = float(sample.sum())
        keep_fast, keep_slow = (1.0 - min(new, n / (events * self._q.size)) for new, events in _MEMORIES)
        self._fast = keep_fast * self._fast + sample
        self._slow = keep_slow * self._slow + sample
        self._slow_squares = keep_slow**2 * self._slow_squares + n

    def _distance(self, sample: Floats) -> float:
        """KL(q || p) of the counts, less what sampling shows."""
        noise = 0.5 * (self._q.size - 1) / float(sample.sum())
        return max(0.0, -float(self._q @ np.log(frequencies(sample) / self._q)) - noise)

    def _outside(self, sample: Floats) -> bool:
        return self._distance(sample) > self._epsilon

    def _estimate(self, sample: Floats, alpha: float) -> Estimate:
        value = self._distance(sample)
        radius = math.sqrt(histogram_radius(sample / self._phi, alpha))
        return value, max(0.0, math.sqrt(value) - radius) ** 2, (math.sqrt(value) + radius) ** 2

    def _reference(self) -> float | None:
        return 0.0

    def _tolerance(self) -> tuple[float | None, float | None]:
        return None, self._epsilon

    def _smallest_change(self, nats: float) -> float | None:
        # The roots of KL are nearly distances: evidence per event is (root of change - root of epsilon)^2.
        events = HORIZON * self._mean_size / self._phi
        return float((math.sqrt(self._epsilon) + nats / math.sqrt(events)) ** 2)

    def _details(self) -> dict[str, float]:
        n = float(self._slow.sum())
        if n <= 0.0:
            return {}
        recent = self._slow * (n / self._slow_squares)  # scaled to its effective size
        return {
            "psi": psi(recent, self._base),
            "kl": kl(recent, self._base),
            "js": js(recent, self._base),
            "js_distance": js_distance(recent, self._base),
        }


def _cuts(shares: Floats) -> NDArray[np.intp]:
    """First bins of at most MAX_BINS groups of neighbours with nearly equal shares."""
    if shares.size <= MAX_BINS:
        return np.arange(shares.size)
    before = np.concatenate([[0.0], np.cumsum(shares)[:-1]])
    groups = np.minimum((before * MAX_BINS).astype(np.intp), MAX_BINS - 1)
    return np.flatnonzero(np.diff(groups, prepend=-1))
