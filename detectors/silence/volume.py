"""How many events a stream brings, against what it should: the loop that drops and surges share."""

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from detectors.edetector import HORIZON, STIRRING, EDetector, Estimate
from detectors.sequential import Floats, count_interval, negative_binomial_band

_MEMORIES = (0.5, 0.1)
_UNREST = 2.0
_DRIFT = 0.01
"""Weight of the newest step in the learned expectation: about a hundred steps of memory."""
LEARN_STEPS, LEARN_EVENTS = 24, 100
"""What must be seen before a learned expectation is trusted."""


class VolumeDetector(EDetector):
    """Do events per step leave `edge` times the expected on one side? Counts are [events].

    Without `expected_per_step` it is learned: first steps (at least 24 and 100 events; warming up), then a
    slow moving average of the past that stands still while evidence rises and from an alarm until recovery.
    Overdispersion around the recent level, if not given, is learned likewise, so bursts cost power, not false
    alarms. Long runs of correlated lows or highs are not covered: replay history and raise the threshold by
    what it shows. Nor are days and nights that differ by more than the tolerance: `expect` each step's own.
    """

    _remembered = (
        *EDetector._remembered, "_expected", "_phi", "_learning", "_learns_level", "_sum", "_squares",
        "_levels", "_frozen",
    )  # fmt: skip
    DEPTHS: ClassVar[tuple[float, ...]]
    """Rates bet on, as multiples of the edge; the last is the nearest that the recent past may suggest."""

    def __init__(
        self,
        expected_per_step: float | None,
        *,
        edge: float,
        log_threshold: float,
        overdispersion: float | None = None,
    ) -> None:
        """Judge against a given or learned expectation."""
        if expected_per_step is not None and not expected_per_step > 0.0:
            raise ValueError(f"expected_per_step must be positive, not {expected_per_step}")
        self._edge = edge
        *depths, nearest = self.DEPTHS
        self._rates = [edge * depth for depth in depths]
        self._nearest = edge * nearest
        self._farthest = self._rates[0]
        self._learns_level = expected_per_step is None
        self._learns_phi = overdispersion is None
        self._expected = expected_per_step or 0.0
        self._phi = max(1.0, overdispersion or 1.0)
        self._learning = self._learns_level
        self._sum = 0.0
        self._squares = 0.0
        self._levels = [1.0] * len(_MEMORIES)  # recent events over expected
        self._frozen = False
        bets = len(self._rates) + len(_MEMORIES)
        super().__init__(weights=[1.0 / bets] * bets, width=2, log_threshold=log_threshold)

    @property
    def warming_up(self) -> bool:
        """Is the expectation still being learned, or are too few events due?"""
        return self._learning or self._total < 10.0

    def expect(self, expected_per_step: float) -> None:
        """Set what the next step should bring (of this hour of the week, say), known before it."""
        if not expected_per_step > 0.0:
            raise ValueError(f"expected_per_step must be positive, not {expected_per_step}")
        self._expected = expected_per_step
        self._learning = self._learns_level = False

    def _check(self, counts: NDArray[np.int64]) -> None:
        if counts.shape != (1,) or counts[0] < 0:
            raise ValueError(f"{self.name} takes one count of zero or more, not {counts!r}")

    def _sample(self, counts: NDArray[np.int64]) -> Floats:
        return np.array([float(counts[0]), self._expected])

    def _size(self, sample: Floats) -> float:
        return float(sample[1])

    def _size_parameter(self) -> float:
        return self._expected / max(self._phi - 1.0, 1e-4)

    def _bets(self, sample: Floats) -> list[float]:
        events, expected = sample.tolist()
        near, far = sorted((self._nearest, self._farthest))
        rates = [*self._rates, *(min(far, max(near, level)) for level in self._levels)]
        size = self._size_parameter()
        return [negative_binomial_band(events, expected, rho, self._edge, size) for rho in rates]

    def _learn(self, sample: Floats) -> None:
        events, expected = sample.tolist()
        if self._learning:
            self._begin(events)
            return
        local = self._levels[-1] * expected
        for j, newest in enumerate(_MEMORIES):
            self._levels[j] += newest * (events / expected - self._levels[j])
        self._frozen = self._fired or (self._frozen and not self.recovered)
        if self._frozen:
            return
        if self._learns_phi and local > 0.0:
            # Around the recent level, and clipped, so that a drop does not pass for a restless stream.
            restless = min((events - local) ** 2 / local, 9.0 * self._phi)
            self._phi = max(1.0, self._phi + 2.0 * _DRIFT * (restless - self._phi))
        if self._learns_level and self._rise < STIRRING:
            self._expected += _DRIFT * (min(events, 4.0 * expected) - expected)

    def _begin(self, events: float) -> None:
        self._sum += events
        self._squares += events * events
        if self._steps < LEARN_STEPS or self._sum < LEARN_EVENTS:
            return
        self._learning = False
        self._expected = self._sum / self._steps
        if self._learns_phi:
            variance = (self._squares - self._sum * self._expected) / (self._steps - 1)
            self._phi = max(1.0, variance / self._expected)

    def _estimate(self, sample: Floats, alpha: float) -> Estimate:
        events, expected = sample.tolist()
        low, high = count_interval(events / self._phi, expected / self._phi, alpha)
        return events / expected * self._expected, low * self._expected, high * self._expected

    def _reference(self) -> float | None:
        return None if self._learning else self._expected

    def _tolerance(self) -> tuple[float | None, float | None]:
        bound = None if self._learning else self._edge * self._expected
        return (bound, None) if self._edge < 1.0 else (None, bound)

    def _smallest_change(self, nats: float) -> float | None:
        # KL between Poisson means is nearly 2 (difference of roots)^2 per expected event.
        # A learned dispersion rises with the first steps of a change; the edge's own is nearer to Poisson.
        dispersion = self._phi * (_UNREST if self._learns_phi else 1.0)
        phi = 1.0 + self._edge * (dispersion - 1.0)
        reach = nats / math.sqrt(2.0 * HORIZON * self._expected / phi)
        if self._edge > 1.0:
            root = max(math.sqrt(self._edge) + reach, math.sqrt(self._nearest))
            return (root * root - 1.0) * self._expected
        root = min(math.sqrt(self._edge) - reach, math.sqrt(self._nearest))
        return (1.0 - root * root) * self._expected if root > 0.0 else None
