"""A score that no longer means what it meant."""

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from detectors.edetector import HORIZON, EDetector, Estimate
from detectors.sequential import EDGE, Floats, rate_interval

FIXED = 1 << 24
"""Fixed-point units of one expected positive."""
_SIZES = (2.0, 4.0)
"""Residuals bet on, in tolerances."""
_MEMORIES = ((0.5, 200.0), (0.1, 2000.0))
"""(weight of the newest cohort, events it must have for that weight) of the two adaptive bets."""
_PRIOR = 50.0
MIN_GROUP = 30
"""Events a group must have to be shown."""


class CalibrationBreak(EDetector):
    """Do labels contradict the probabilities that an estimate without labels rests on?

    Events are put into groups by their calibrated probability. Counts are, per group, [positives, negatives,
    expected positives in units of 1 / FIXED] of one matured cohort. Tolerated is whatever keeps the rate of
    each group within `tolerance` of its expectation e_g; each bet theta is set against its nearest tolerated
    rate p_g = min(max(theta_g, e_g - tolerance), e_g + tolerance),

        log S = sum_g positives_g log(theta_g / p_g) + negatives_g log((1 - theta_g) / (1 - p_g)),
        M <- (M + 1) S

    and the mean M over the bets (all groups up, all down, all towards the middle, each of two sizes; two
    memories of the past residuals) alarms when log M >= log c. Within a group probabilities may differ: the
    product of e-values is concave in them, so their mean is what counts.

    `value` is the largest distance of a group's rate from its expectation, its interval that of the same
    groups' beta-binomial confidence sequences at a share of the error each.

    Parameters: `groups`, how many. `tolerance`, absolute distance that is nobody's concern; more tolerates
    more. `log_threshold`, log c in nats. `overdispersion`, variance over binomial variance, 1 or more.

    Example:
        >>> rng = np.random.default_rng(42)
        >>> expected = np.array([0.1, 0.5, 0.9])
        >>> detector = CalibrationBreak(3, log_threshold=math.log(1e4))
        >>> for cohort in range(200):
        ...     hits = rng.binomial(40, expected if cohort < 100 else [0.3, 0.5, 0.7])
        ...     counts = np.column_stack([hits, 40 - hits, 40 * expected * FIXED])
        ...     detector.update(counts.ravel().astype(np.int64))
        ...     if detector.fired:
        ...         break
        >>> cohort, round(detector.evidence.value, 1), detector.evidence.verdict.value
        (101, 0.2, 'alarm')

    References: Shin, Ramdas and Rinaldo (2024), E-detectors; Gruenwald, de Heide and Koolen (2024), Safe
    testing; Vovk (1997) for predictions tested by betting.
    """

    name: ClassVar[str] = "calibration_break"
    family: ClassVar[str] = "performance"
    severity: ClassVar[str] = "ticket"
    _remembered = (*EDetector._remembered, "_residuals", "_trials")

    def __init__(
        self, groups: int, *, tolerance: float = 0.05, log_threshold: float, overdispersion: float = 1.0
    ) -> None:
        """Judge so many groups of probabilities."""
        if groups < 1 or not 0.0 < tolerance < 1.0:
            raise ValueError("there must be a group, and a tolerance between 0 and 1")
        self._groups = groups
        self._band = tolerance
        self._phi = max(1.0, overdispersion)
        self._residuals = np.zeros((len(_MEMORIES), groups))
        self._trials = np.zeros((len(_MEMORIES), groups))
        bets = 3 * len(_SIZES) + len(_MEMORIES)
        super().__init__(weights=[1.0 / bets] * bets, width=3 * groups, log_threshold=log_threshold)

    def _check(self, counts: NDArray[np.int64]) -> None:
        if counts.shape != (3 * self._groups,) or counts.min() < 0:
            raise ValueError(f"{self.name} takes {3 * self._groups} counts of zero or more, not {counts!r}")

    def _size(self, sample: Floats) -> float:
        return float(sample[0::3].sum() + sample[1::3].sum())

    def _expected(self, sample: Floats) -> Floats:
        events = np.maximum(sample[0::3] + sample[1::3], 1e-9)
        return np.asarray(np.clip(sample[2::3] / FIXED / events, EDGE, 1.0 - EDGE))

    def _bets(self, sample: Floats) -> Floats:
        expected = self._expected(sample)
        middle = np.sign(0.5 - expected)
        thetas = [
            expected + size * self._band * direction
            for size in _SIZES
            for direction in (np.ones(self._groups), -np.ones(self._groups), middle)
        ]
        thetas += [
            expected + residual / (trial + _PRIOR)
            for residual, trial in zip(self._residuals, self._trials, strict=True)
        ]
        theta = np.clip(np.array(thetas), EDGE, 1.0 - EDGE)
        null = np.clip(theta, expected - self._band, expected + self._band)
        log_s = np.log(theta / null) @ sample[0::3] + np.log((1.0 - theta) / (1.0 - null)) @ sample[1::3]
        return np.where((theta == null).all(axis=1), math.nan, log_s / self._phi)

    def _learn(self, sample: Floats) -> None:
        trials = sample[0::3] + sample[1::3]
        residuals = sample[0::3] - sample[2::3] / FIXED
        for j, (newest, events) in enumerate(_MEMORIES):
            keep = 1.0 - min(newest, float(trials.sum()) / events)
            self._residuals[j] = keep * self._residuals[j] + residuals
            self._trials[j] = keep * self._trials[j] + trials

    def _estimate(self, sample: Floats, alpha: float) -> Estimate:
        found = []
        expected = self._expected(sample)
        for g in range(self._groups):
            hits, misses = sample[3 * g] / self._phi, sample[3 * g + 1] / self._phi
            if hits + misses < MIN_GROUP:
                continue
            low, high = rate_interval(hits, misses, alpha / self._groups)
            low, high = low - expected[g], high - expected[g]
            found.append((abs(hits / (hits + misses) - expected[g]), max(0.0, low, -high), max(high, -low)))
        if not found:
            return None, None, None
        value, least, most = (float(max(one)) for one in zip(*found, strict=True))
        return value, least, most

    def _reference(self) -> float | None:
        return 0.0

    def _tolerance(self) -> tuple[float | None, float | None]:
        return None, self._band

    def _smallest_change(self, nats: float) -> float | None:
        # Of all groups by the same distance, at rates of a half, where it is hardest to see.
        shift = nats / math.sqrt(2.0 * HORIZON * self._mean_size / self._phi)
        change = self._band + max(0.5 * self._band, 0.5 * math.sin(min(2.0 * shift, math.pi / 2)))
        return change if 2.0 * shift < math.pi / 2 else None
