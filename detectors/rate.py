"""The detector of a rate that leaves its band on one side, shared by all monitors of shares."""

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from detectors.edetector import HORIZON, EDetector, Estimate
from detectors.sequential import EDGE, Floats, rate_band, rate_interval, temper

_SHIFTS = (0.012, 0.03, 0.075, 0.19, 0.47)
"""Sizes of change bet on, in arcsine units: 2 shift^2 nats per event, so spaced for even efficiency."""
_MEMORIES = ((0.5, 50.0), (0.1, 400.0))
"""(weight of the newest step, events it must have for that weight) of the two adaptive bets."""


class RateDetector(EDetector):
    """Does a share leave [0, limit] (`rising`) or [limit, 1] (not rising)?

    Falls are rises of the complement, so that one set of bets serves both. Counts are [successes, failures].
    """

    _remembered = (*EDetector._remembered, "_hits", "_trials")

    def __init__(
        self,
        *,
        reference: float,
        limit: float,
        rising: bool,
        reference_samples: int | None,
        log_threshold: float,
        overdispersion: float,
    ) -> None:
        """Judge against `limit`, set two standard errors wider where the reference is itself an estimate."""
        if not 0.0 <= reference <= 1.0:
            raise ValueError(f"the reference of {self.name} is a share from 0 to 1, not {reference}")
        self._rising = rising
        if reference_samples is not None:
            margin = 2.0 * _standard_error(reference, reference_samples)
            limit = min(1.0, limit + margin) if rising else max(0.0, limit - margin)
        self._limit = limit
        self._baseline = reference
        self._phi = max(1.0, overdispersion)
        self._edge = min(max(limit if rising else 1.0 - limit, EDGE), 1.0 - 2.0 * EDGE)
        angle = math.asin(math.sqrt(self._edge))
        room = 0.9 * (math.pi / 2 - angle)
        shifts = sorted({min(shift, room) for shift in _SHIFTS})
        thetas = [min(math.sin(angle + shift) ** 2, 1.0 - EDGE) for shift in shifts]
        self._nearest = thetas[0]
        self._gains = [
            (math.log(theta / self._edge), math.log((1.0 - theta) / (1.0 - self._edge))) for theta in thetas
        ]
        self._hits = [0.0] * len(_MEMORIES)
        self._trials = [0.0] * len(_MEMORIES)
        bets = len(thetas) + len(_MEMORIES)
        super().__init__(weights=[1.0 / bets] * bets, width=2, log_threshold=log_threshold)

    def _check(self, counts: NDArray[np.int64]) -> None:
        if counts.shape != (2,) or counts[0] < 0 or counts[1] < 0:
            raise ValueError(f"{self.name} takes two counts of zero or more, not {counts!r}")

    def _hits_misses(self, sample: Floats) -> tuple[float, float]:
        first, second = sample.tolist()
        return (first, second) if self._rising else (second, first)

    def _bets(self, sample: Floats) -> list[float]:
        hits, misses = self._hits_misses(sample)
        bets = [temper(hits * up + misses * down, self._phi) for up, down in self._gains]
        for hit, trial in zip(self._hits, self._trials, strict=True):
            # Never bet inside the tolerance: the smallest bet lets evidence fade while all is well.
            theta = max(self._nearest, (hit + 10.0 * self._edge) / (trial + 10.0))
            bets.append(temper(rate_band(hits, misses, theta, 0.0, self._edge), self._phi))
        return bets

    def _learn(self, sample: Floats) -> None:
        hits, misses = self._hits_misses(sample)
        for j, (newest, events) in enumerate(_MEMORIES):
            keep = 1.0 - min(newest, (hits + misses) / events)
            self._hits[j] = keep * self._hits[j] + hits
            self._trials[j] = keep * self._trials[j] + hits + misses

    def _estimate(self, sample: Floats, alpha: float) -> Estimate:
        successes, failures = sample.tolist()
        low, high = rate_interval(successes / self._phi, failures / self._phi, alpha)
        return successes / (successes + failures), low, high

    def _reference(self) -> float | None:
        return self._baseline

    def _tolerance(self) -> tuple[float | None, float | None]:
        return (None, self._limit) if self._rising else (self._limit, None)

    def _smallest_change(self, nats: float) -> float | None:
        # KL between rates is nearly 2 (difference of arcsines)^2 per event.
        events = HORIZON * self._mean_size / self._phi
        shift = max(nats / math.sqrt(2.0 * events), _SHIFTS[0])
        angle = math.asin(math.sqrt(self._edge)) + shift
        if angle >= math.pi / 2:
            return None
        found = math.sin(angle) ** 2
        return abs((found if self._rising else 1.0 - found) - self._baseline)


class Surge(RateDetector):
    """Is a share higher than in the reference, by more than is tolerated? A fall never alarms.

    Counts are [hits, others]. With edge = reference_rate + tolerated_rise, each bet theta > edge gives

        log S = hits log(theta / edge) + others log((1 - theta) / (1 - edge)),   M <- (M + 1) S

    and the mean M over the bets (five fixed sizes of rise, two memories of the past) alarms when
    log M >= log c. The edge leaves at least half of what lies between the reference and 1.
    """

    TOLERATED: ClassVar[float]
    """The rise tolerated unless another is given."""

    def __init__(
        self,
        reference_rate: float,
        *,
        tolerated_rise: float | None = None,
        reference_samples: int | None = None,
        log_threshold: float,
        overdispersion: float = 1.0,
    ) -> None:
        """Judge against a reference share."""
        rise = self.TOLERATED if tolerated_rise is None else tolerated_rise
        super().__init__(
            reference=reference_rate,
            limit=reference_rate + min(rise, 0.5 * (1.0 - reference_rate)),
            rising=True,
            reference_samples=reference_samples,
            log_threshold=log_threshold,
            overdispersion=overdispersion,
        )


def _standard_error(rate: float, samples: int) -> float:
    """Of an estimated rate, by Agresti and Coull: not zero for rates of 0 and 1."""
    n = samples + 4.0
    centre = (rate * samples + 2.0) / n
    return math.sqrt(centre * (1.0 - centre) / n)
