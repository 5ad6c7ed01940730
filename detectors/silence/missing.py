"""A feature that goes missing."""

from typing import ClassVar

from detectors.rate import Surge


class MissingSurge(Surge):
    """Is a feature missing more often than in the reference, by more than is tolerated?

    Counts are [missing, others] events. With edge = reference_rate + tolerated_rise, each bet
    theta > edge gives

        log S = missing log(theta / edge) + others log((1 - theta) / (1 - edge)),   M <- (M + 1) S

    and the mean M over the bets (five fixed sizes of rise, two memories of the past) alarms when
    log M >= log c. A fall never alarms.

    Parameters: `reference_rate`, share missing in the reference, 0 to 1. `tolerated_rise`, absolute rise of
    the share that is nobody's concern (0.05: five points); more tolerates more. `reference_samples`, events
    behind the reference, by two of whose standard errors the tolerance is widened; None if it is exact.
    `log_threshold`, log c in nats. `overdispersion`, variance over binomial variance, 1 or more.

    Example:
        >>> import math, numpy as np
        >>> rng = np.random.default_rng(42)
        >>> detector = MissingSurge(0.02, log_threshold=math.log(1e6))
        >>> for step in range(200):
        ...     missing = rng.binomial(300, 0.02 if step < 100 else 0.12)
        ...     detector.update(np.array([missing, 300 - missing]))
        ...     if detector.fired:
        ...         break
        >>> step, round(detector.evidence.value, 2)
        (103, 0.12)

    Reference: Shin, Ramdas and Rinaldo (2024), E-detectors.
    """

    name: ClassVar[str] = "missing_surge"
    family: ClassVar[str] = "silence"
    severity: ClassVar[str] = "page"
    TOLERATED: ClassVar[float] = 0.05
