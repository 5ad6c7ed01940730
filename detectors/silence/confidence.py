"""A model that is no longer sure of anything."""

from typing import ClassVar

from detectors.rate import RateDetector


class ConfidenceCollapse(RateDetector):
    """Has the share of confident predictions fallen below what is tolerated?

    The caller fixes "confident" in advance, as a confidence of at least the reference's median, and counts
    [confident, not confident]. With low the least tolerated share, each bet theta < low gives

        log S = confident log(theta / low) + other log((1 - theta) / (1 - low)),   M <- (M + 1) S

    and the mean M over the bets alarms when log M >= log c. A rise never alarms.

    Parameters: `reference_rate`, share confident in the reference, 0 to 1 (0.5 at the median, more with
    ties). `low`, least tolerated share; half the reference if None; lower tolerates more.
    `reference_samples`, events behind the reference, by two of whose standard errors the tolerance is
    widened; None if it is exact. `log_threshold`, log c in nats. `overdispersion`, variance over binomial
    variance, 1 or more.

    Example:
        >>> import math, numpy as np
        >>> rng = np.random.default_rng(42)
        >>> detector = ConfidenceCollapse(0.5, log_threshold=math.log(1e6))
        >>> for step in range(200):
        ...     confident = rng.binomial(100, 0.5 if step < 100 else 0.1)
        ...     detector.update(np.array([confident, 100 - confident]))
        ...     if detector.fired:
        ...         break
        >>> step, detector.evidence.tolerance
        (102, (0.25, None))

    Reference: Shin, Ramdas and Rinaldo (2024), E-detectors.
    """

    name: ClassVar[str] = "confidence_collapse"
    family: ClassVar[str] = "silence"
    severity: ClassVar[str] = "page"

    def __init__(
        self,
        reference_rate: float,
        *,
        low: float | None = None,
        reference_samples: int | None = None,
        log_threshold: float,
        overdispersion: float = 1.0,
    ) -> None:
        """Judge against a reference share."""
        super().__init__(
            reference=reference_rate,
            limit=0.5 * reference_rate if low is None else low,
            rising=False,
            reference_samples=reference_samples,
            log_threshold=log_threshold,
            overdispersion=overdispersion,
        )
