"""Drift of a feature, a score or a prediction, from its histogram."""

import math
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detectors.drift.divergence import chi_square, frequencies, js, js_distance, kl, ks, psi, wasserstein
from detectors.edetector import HORIZON, EDetector, Estimate
from detectors.sequential import Floats, histogram_ball, histogram_radius, project

_NEWEST, _NEEDED = np.array([1.0, 0.5, 0.1]), np.array([16.0, 8.0, 40.0])
"""Weight of the newest step in each memory, and the events per bin that the step must have for it."""
_TILTS = (3.0, 8.0, 20.0)
_SPREADS = _BUMPS = 8.0
"""Divergence of the fixed bets, in epsilons: all bins shifted, spread out or in, mass moved to one bin."""
_FLOOR = 0.001
"""Share of the reference mixed into each bet, so that no bin is ruled out."""
REFERENCE_EVENTS = 10
"""Events per bin that the reference must have before there is a verdict."""
MAX_BINS = 24
"""More bins than this are merged with their neighbours: power falls with the number of bins."""


class HistogramDrift(EDetector):
    """Does a histogram differ from the reference by more than is tolerated?

    Tolerated are all distributions p, even moving ones, with KL(q || p) <= epsilon for the reference q. Each
    step bets the recent past theta against its projection theta0 = w q + (1 - w) theta on that ball:

        log S = sum_b n_b log(theta_b / theta0_b) / overdispersion,   M <- (M + 1) S

    and the mean M over the bets (three memories of the past; fixed tilts of the reference along its bins, and
    mass moved to one bin, for the first steps after a change) alarms when log M >= log c.

    `value` is KL(q || p) of the counts in nats, corrected for sampling; its interval combines the exact
    radius of the multinomial confidence sequence with KL by the triangle inequality of its root, which is
    asymptotic.

    Parameters: `reference`, counts per bin of the reference data. `epsilon`, nats of KL tolerated; more
    tolerates more; PSI is about twice KL, so 0.05 is the folklore PSI of 0.1. What sampling of the
    reference alone would show, (bins - 1) / (2 n), is added. `log_threshold`, log c in nats, from
    `detectors.budget`. `overdispersion`, variance over multinomial variance (1: independent events; more:
    clusters). A reference of fewer than 10 events per bin gets no verdict.

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
        (101, 1.6, 'alarm')

    References: Gruenwald, de Heide and Koolen (2024), Safe testing; Shin, Ramdas and Rinaldo (2024),
    E-detectors.
    """

    name: ClassVar[str] = "histogram_drift"
    family: ClassVar[str] = "drift"
    severity: ClassVar[str] = "ticket"
    _remembered = (*EDetector._remembered, "_memories", "_slow_squares")

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
        self._thin = float(counts.sum()) < REFERENCE_EVENTS * width
        self._memories = np.zeros((_NEWEST.size, width))
        self._slow_squares = 0.0  # events weighted by the square: gives the effective size
        fixed = _fixed_bets(self._q, self._epsilon)
        gains = [np.log(theta / project(theta, self._q, self._epsilon)) for theta in fixed]
        self._gains = np.array(gains).reshape(len(fixed), width)
        adaptive_share = 0.5 if fixed else 1.0
        adaptive = [adaptive_share / _NEWEST.size] * _NEWEST.size
        super().__init__(
            weights=adaptive + [0.5 / len(fixed) for _ in fixed], width=width, log_threshold=log_threshold
        )

    @property
    def warming_up(self) -> bool:
        """Are there too few events, or too few in the reference for ever knowing?"""
        return self._thin or super().warming_up

    def _check(self, counts: NDArray[np.int64]) -> None:
        if counts.shape != (self._bins,) or counts.min() < 0:
            raise ValueError(f"{self.name} takes {self._bins} counts of zero or more, not {counts!r}")

    def _sample(self, counts: NDArray[np.int64]) -> Floats:
        return np.add.reduceat(counts, self._cuts).astype(np.float64)

    def _bets(self, sample: Floats) -> Floats:
        adaptive = [self._bet(sample, memory) for memory in self._memories]
        return np.concatenate([adaptive, self._gains @ sample]) / self._phi

    def _bet(self, sample: Floats, memory: Floats) -> float:
        theta = memory + self._q * (0.5 * self._q.size)
        theta = theta * ((1.0 - _FLOOR) / float(theta.sum())) + _FLOOR * self._q
        if -float(self._q @ np.log(theta / self._q)) <= self._epsilon:
            return math.nan
        return histogram_ball(sample, theta, self._q, self._epsilon)

    def _learn(self, sample: Floats) -> None:
        n = float(sample.sum())
        keep = 1.0 - np.minimum(_NEWEST, n / (_NEEDED * self._q.size))
        self._memories = keep[:, None] * self._memories + sample
        self._slow_squares = float(keep[-1] ** 2 * self._slow_squares + n)

    def _distance(self, sample: Floats) -> float:
        """KL(q || p) of the counts, less what sampling shows."""
        noise = 0.5 * (self._q.size - 1) / float(sample.sum())
        return max(0.0, -float(self._q @ np.log(frequencies(sample) / self._q)) - noise)

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
        # Learning the direction of the change costs about half a log of the steps per bin.
        nats = math.sqrt(nats**2 + 0.6 * (self._q.size - 1) * math.log(HORIZON))
        events = HORIZON * self._mean_size / self._phi
        return float((math.sqrt(self._epsilon) + nats / math.sqrt(events)) ** 2)

    def _details(self) -> dict[str, float]:
        slow = self._memories[-1]
        n = float(slow.sum())
        if n <= 0.0:
            return {}
        recent = slow * (n / self._slow_squares)  # scaled to its effective size
        return {
            "psi": psi(recent, self._base),
            "kl": kl(recent, self._base),
            "js": js(recent, self._base),
            "js_distance": js_distance(recent, self._base),
            "ks": ks(recent, self._base),
            "wasserstein": wasserstein(recent, self._base),
            "chi_square": chi_square(recent, self._base),
        }


def _cuts(shares: Floats) -> NDArray[np.intp]:
    """First bins of at most MAX_BINS groups of neighbours with nearly equal shares."""
    if shares.size <= MAX_BINS:
        return np.arange(shares.size)
    before = np.concatenate([[0.0], np.cumsum(shares)[:-1]])
    groups = np.minimum((before * MAX_BINS).astype(np.intp), MAX_BINS - 1)
    return np.flatnonzero(np.diff(groups, prepend=-1))


def _fixed_bets(q: Floats, epsilon: float) -> list[Floats]:
    """What to bet on before anything is learned, clear of the tolerance so that evidence can fade."""
    bets = [(1.0 - _FLOOR) * theta + _FLOOR * q for theta in (*_tilts(q, epsilon), *_bumps(q, epsilon))]
    return [theta for theta in bets if -float(q @ np.log(theta / q)) > 1.5 * epsilon]


def _tilts(q: Floats, epsilon: float) -> list[Floats]:
    """The reference tilted along its own ranks, up and down, outwards and inwards."""
    rank = np.cumsum(q) - 0.5 * q
    line = rank - q @ rank
    line /= math.sqrt(q @ line**2)
    curve = line**2 - q @ line**2
    curve -= (q @ (curve * line)) * line
    scale = math.sqrt(q @ curve**2)
    shapes = [(line, times) for times in _TILTS]
    if scale > 1e-6:  # two bins have no spread
        shapes.append((curve / scale, _SPREADS))
    # KL is about half the square of the tilt; rare bins must not run away with it.
    tilted = [
        q * np.exp(sign * math.sqrt(2.0 * times * epsilon) * np.clip(shape, -4.0, 4.0))
        for shape, times in shapes
        for sign in (1.0, -1.0)
    ]
    return [theta / theta.sum() for theta in tilted]


def _bumps(q: Floats, epsilon: float) -> list[Floats]:
    """The reference with mass moved to each bin in turn, as much as has the divergence wanted."""
    low, high = np.zeros_like(q), np.full_like(q, 1.0 - 1e-9)
    for _ in range(30):
        moved = 0.5 * (low + high)
        small = -(1.0 - q) * np.log1p(-moved) - q * np.log1p(moved / q - moved) < _BUMPS * epsilon
        low, high = np.where(small, moved, low), np.where(small, high, moved)
    return [(1.0 - share) * q + share * (np.arange(q.size) == b) for b, share in enumerate(high.tolist())]
