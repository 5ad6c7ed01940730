"""A model whose own confidence says that it gets worse."""

import math
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detectors.edetector import HORIZON, EDetector, Estimate
from detectors.sequential import Floats, rate_interval, temper

_SHIFTS = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Falls of the mean below the edge that are bet on."""
_ROOM = 0.95
"""Share of the largest lawful bet that is ever made: no single event may bankrupt it."""


class EstimatedDrop(EDetector):
    """Does the estimated share of right predictions fall below the reference by more than is tolerated?

    No label is needed: each bin of a histogram (score by predicted class) stands for a probability a_b of
    being right, as calibrated on the reference. With m = reference (1 - relative_drop) tolerated, each bet
    lambda in (0, 1 / (1 - m)) gives

        log S = sum_b n_b log(1 + lambda (m - a_b)),   M <- (M + 1) S

    which has mean at most 1 while the mean of a is at least m, whatever its distribution; the mean M over the
    bets alarms when log M >= log c. It is blind to a change of what the scores mean: that is
    `calibration_break`'s, once labels come.

    Parameters: `right`, probability of being right by bin, 0 to 1. `reference_counts`, the same bins in the
    reference. `relative_drop`, tolerated share of the reference's mean; more tolerates more. `log_threshold`,
    log c in nats. `overdispersion`, variance of the counts over that of independent events, 1 or more.

    Example:
        >>> rng = np.random.default_rng(42)
        >>> right = np.array([0.95, 0.8, 0.55])
        >>> detector = EstimatedDrop(right, [700, 200, 100], log_threshold=math.log(1e4))
        >>> for step in range(200):
        ...     detector.update(rng.multinomial(30, [0.7, 0.2, 0.1] if step < 100 else [0.3, 0.3, 0.4]))
        ...     if detector.fired:
        ...         break
        >>> step, round(detector.evidence.value, 2), round(detector.evidence.reference, 2)
        (102, 0.7, 0.88)

    References: Waudby-Smith and Ramdas (2024), Estimating means of bounded random variables by betting; Shin,
    Ramdas and Rinaldo (2024), E-detectors.
    """

    name: ClassVar[str] = "estimated_drop"
    family: ClassVar[str] = "performance"
    severity: ClassVar[str] = "ticket"

    def __init__(
        self,
        right: ArrayLike,
        reference_counts: ArrayLike,
        *,
        relative_drop: float = 0.05,
        log_threshold: float,
        overdispersion: float = 1.0,
    ) -> None:
        """Judge against the mean over the reference counts, less two of its standard errors."""
        self._right = np.asarray(right, dtype=np.float64)
        counts = np.asarray(reference_counts, dtype=np.float64)
        if self._right.shape != counts.shape or counts.min() < 0.0 or counts.sum() <= 0.0:
            raise ValueError(
                "right and reference_counts must be of equal length, with events in the reference"
            )
        if not (self._right.min() >= 0.0 and self._right.max() <= 1.0):
            raise ValueError("right must be probabilities")
        total = float(counts.sum())
        self._mean = float(counts @ self._right) / total
        self._spread = math.sqrt(max(1e-8, float(counts @ (self._right - self._mean) ** 2) / total))
        margin = 2.0 * math.sqrt(self._mean * (1.0 - self._mean) / total)  # of the labels behind `right`
        self._edge = min(max(self._mean * (1.0 - relative_drop) - margin, 1e-6), 1.0 - 1e-6)
        self._phi = max(1.0, overdispersion)
        most = _ROOM / (1.0 - self._edge)
        bets = [min(most, shift / (self._spread**2 + shift**2)) for shift in _SHIFTS]
        self._gains = np.array([np.log1p(bet * (self._edge - self._right)) for bet in sorted(set(bets))])
        n = len(self._gains)
        super().__init__(weights=[1.0 / n] * n, width=2 + n, log_threshold=log_threshold)

    def _check(self, counts: NDArray[np.int64]) -> None:
        if counts.shape != self._right.shape or counts.min() < 0:
            raise ValueError(f"{self.name} takes {self._right.size} counts of zero or more, not {counts!r}")

    def _sample(self, counts: NDArray[np.int64]) -> Floats:
        right = float(counts @ self._right)
        return np.concatenate([[right, float(counts.sum()) - right], self._gains @ counts])

    def _size(self, sample: Floats) -> float:
        return float(sample[0] + sample[1])

    def _bets(self, sample: Floats) -> list[float]:
        return [temper(gain, self._phi) for gain in sample[2:].tolist()]

    def _learn(self, sample: Floats) -> None:
        """The bets are fixed."""

    def _estimate(self, sample: Floats, alpha: float) -> Estimate:
        right, wrong = (sample[:2] / self._phi).tolist()
        low, high = rate_interval(right, wrong, alpha)  # holds for means of any numbers from 0 to 1
        return right / (right + wrong), low, high

    def _reference(self) -> float | None:
        return self._mean

    def _tolerance(self) -> tuple[float | None, float | None]:
        return self._edge, None

    def _smallest_change(self, nats: float) -> float | None:
        # Of the mean's evidence against the edge: n delta^2 / (2 variance).
        delta = nats * self._spread * math.sqrt(2.0 * self._phi / (HORIZON * self._mean_size))
        below = self._edge - max(delta, _SHIFTS[0])
        return self._mean - below if below > float(self._right.min()) else None
