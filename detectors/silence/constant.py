"""A model that gives everyone the same answer."""

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detectors.rate import RateDetector
from detectors.sequential import Floats


class ConstantPredictions(RateDetector):
    """Does one bin hold more of the predictions (or scores) than any bin may?

    Picking the fullest bin after looking would find one by chance. So each step is judged on the bin that
    was fullest in the steps *before* it: whichever bin that is, its share is at most the limit while no
    bin's is more. With top the step's count in that bin and rest the others', each bet theta > limit gives

        log S = top log(theta / limit) + rest log((1 - theta) / (1 - limit)),   M <- (M + 1) S

    and the mean M over the bets alarms when log M >= log c. The limit is the reference's largest share plus
    the tolerance, but leaves at least a quarter of what lies outside that bin, so that 99 % of one class
    can be guarded.

    Parameters: `reference_counts`, histogram of predictions or scores in the reference. `tolerance`,
    absolute rise of the largest share that is nobody's concern; more tolerates more. `log_threshold`, log c
    in nats. `overdispersion`, variance over binomial variance, 1 or more.

    Example:
        >>> import math, numpy as np
        >>> rng = np.random.default_rng(42)
        >>> detector = ConstantPredictions([300, 400, 200, 100], log_threshold=math.log(1e6))
        >>> for step in range(200):
        ...     shares = [0.3, 0.4, 0.2, 0.1] if step < 100 else [0.0, 0.0, 1.0, 0.0]
        ...     detector.update(rng.multinomial(50, shares))
        ...     if detector.fired:
        ...         break
        >>> step, detector.evidence.value
        (101, 1.0)

    Reference: Shin, Ramdas and Rinaldo (2024), E-detectors; predictable choice as in Ville (1939).
    """

    name: ClassVar[str] = "constant_predictions"
    family: ClassVar[str] = "silence"
    severity: ClassVar[str] = "page"
    _remembered = (*RateDetector._remembered, "_recent", "_mode")

    def __init__(
        self,
        reference_counts: ArrayLike,
        *,
        tolerance: float = 0.2,
        log_threshold: float,
        overdispersion: float = 1.0,
    ) -> None:
        """Judge against the largest share of the reference."""
        counts = np.asarray(reference_counts, dtype=np.float64)
        if counts.ndim != 1 or counts.size < 2 or counts.min() < 0.0 or counts.sum() <= 0.0:
            raise ValueError("reference_counts must be a histogram of at least two bins that is not empty")
        self._recent = np.zeros(counts.size)
        self._mode = int(counts.argmax())
        largest = float(counts.max() / counts.sum())
        super().__init__(
            reference=largest,
            limit=min(largest + tolerance, 1.0 - 0.25 * (1.0 - largest)),
            rising=True,
            reference_samples=None,
            log_threshold=log_threshold,
            overdispersion=overdispersion,
        )

    def update(self, counts: NDArray[np.int64]) -> None:
        """Take in one step's histogram; then see which bin to watch in the next."""
        super().update(counts)
        if counts.any():
            self._recent = 0.5 * self._recent + counts
            self._mode = int(self._recent.argmax())

    def _check(self, counts: NDArray[np.int64]) -> None:
        if counts.shape != self._recent.shape or counts.min() < 0:
            raise ValueError(f"{self.name} takes {self._recent.size} counts of zero or more, not {counts!r}")

    def _sample(self, counts: NDArray[np.int64]) -> Floats:
        top = float(counts[self._mode])
        return np.array([top, float(counts.sum()) - top])
