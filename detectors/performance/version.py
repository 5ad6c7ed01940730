"""A new version that is worse than the one it replaces."""

from typing import ClassVar

from detectors.performance.drop import RateDrop


class VersionDrop(RateDrop):
    """Is a labelled rate of a version worse than its predecessor's by more than is tolerated?

    A version without baseline learns its reference from its own first labels, so `RateDrop` cannot see that
    it was bad from the beginning; this one can. Counts are [successes, failures] of one matured cohort of the
    new version. With edge = predecessor (1 - relative_drop), or (1 + relative_drop) where lower is better,
    widened by two standard errors of the predecessor's rate, each bet theta beyond the edge gives

        log S = successes log(theta / edge) + failures log((1 - theta) / (1 - edge)),   M <- (M + 1) S

    and the mean M over the bets alarms when log M >= log c. Being better never alarms.

    Parameters: as of `RateDrop`, with the predecessor's last matured labels as the reference.

    Example:
        >>> import math, numpy as np
        >>> rng = np.random.default_rng(42)
        >>> detector = VersionDrop(0.9, reference_samples=5000, log_threshold=math.log(1e4))
        >>> for cohort in range(200):
        ...     right = rng.binomial(200, 0.75)
        ...     detector.update(np.array([right, 200 - right]))
        ...     if detector.fired:
        ...         break
        >>> cohort, round(detector.evidence.value, 2)
        (2, 0.77)

    References: Shin, Ramdas and Rinaldo (2024), E-detectors; Podkopaev and Ramdas (2022), Tracking the risk
    of a deployed model, for the tolerated null.
    """

    name: ClassVar[str] = "version_drop"
