"""Labels that come late, or not at all."""

from typing import ClassVar

from detectors.rate import RateDetector


class LabelsLate(RateDetector):
    """Are fewer predictions labelled by their usual age than is tolerated?

    The caller fixes an age by which labels used to be there, and counts [labelled, not labelled] of each
    cohort of predictions once, when it reaches that age: so young predictions, which have no label yet, are
    no alarm. With low the least tolerated share, each bet theta < low gives

        log S = labelled log(theta / low) + others log((1 - theta) / (1 - low)),   M <- (M + 1) S

    and the mean M over the bets alarms when log M >= log c. Labels that come sooner never alarm.

    Parameters: `reference_rate`, share labelled by that age in the reference, 0 to 1. `low`, least tolerated
    share; half the reference if None; lower tolerates more. `reference_samples`, events behind the reference,
    by two of whose standard errors the tolerance is widened; None if it is exact. `log_threshold`, log c in
    nats. `overdispersion`, variance over binomial variance, 1 or more: labels come in batches.

    Example:
        >>> import math, numpy as np
        >>> rng = np.random.default_rng(42)
        >>> detector = LabelsLate(0.9, log_threshold=math.log(1e6))
        >>> for cohort in range(200):
        ...     labelled = rng.binomial(100, 0.9 if cohort < 100 else 0.1)
        ...     detector.update(np.array([labelled, 100 - labelled]))
        ...     if detector.fired:
        ...         break
        >>> cohort, detector.evidence.tolerance
        (100, (0.45, None))

    Reference: Shin, Ramdas and Rinaldo (2024), E-detectors.
    """

    name: ClassVar[str] = "labels_late"
    family: ClassVar[str] = "silence"
    severity: ClassVar[str] = "ticket"

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
