"""A model whose labelled performance gets worse."""

from typing import ClassVar

from detectors.rate import RateDetector


class RateDrop(RateDetector):
    """Is a labelled rate worse than the reference by more than is tolerated?

    Counts are [successes, failures] of the metric's own denominator, in one matured cohort: for accuracy
    right and wrong, for recall true positives and false negatives. With edge = reference (1 - relative_drop),
    or reference (1 + relative_drop) where lower is better, each bet theta beyond the edge gives

        log S = successes log(theta / edge) + failures log((1 - theta) / (1 - edge)),   M <- (M + 1) S

    and the mean M over the bets alarms when log M >= log c. Getting better never alarms.

    Parameters: `reference_rate`, the rate in the reference, 0 to 1. `relative_drop`, tolerated worsening as
    a share of the reference; more tolerates more. `higher_is_better`, False for the likes of the false
    positive rate. `reference_samples`, events behind the reference, by two of whose standard errors the
    tolerance is widened; None if it is exact. `log_threshold`, log c in nats. `overdispersion`, variance
    over binomial variance, 1 or more.

    Example:
        >>> import math, numpy as np
        >>> rng = np.random.default_rng(42)
        >>> detector = RateDrop(0.9, log_threshold=math.log(1e4))
        >>> for cohort in range(200):
        ...     right = rng.binomial(200, 0.9 if cohort < 100 else 0.75)
        ...     detector.update(np.array([right, 200 - right]))
        ...     if detector.fired:
        ...         break
        >>> cohort, round(detector.evidence.value, 2)
        (102, 0.78)

    Reference: Shin, Ramdas and Rinaldo (2024), E-detectors; Podkopaev and Ramdas (2022), Tracking the risk
    of a deployed model, for the tolerated null.
    """

    name: ClassVar[str] = "rate_drop"
    family: ClassVar[str] = "performance"
    severity: ClassVar[str] = "page"

    def __init__(
        self,
        reference_rate: float,
        *,
        relative_drop: float = 0.05,
        higher_is_better: bool = True,
        reference_samples: int | None = None,
        log_threshold: float,
        overdispersion: float = 1.0,
    ) -> None:
        """Judge against a reference rate."""
        sign = -1.0 if higher_is_better else 1.0
        super().__init__(
            reference=reference_rate,
            limit=min(1.0, reference_rate * (1.0 + sign * relative_drop)),
            rising=not higher_is_better,
            reference_samples=reference_samples,
            log_threshold=log_threshold,
            overdispersion=overdispersion,
        )
