"""Categories that the reference never had."""

from typing import ClassVar

from detectors.rate import Surge


class UnseenSurge(Surge):
    """Does a categorical feature bring values that the reference had not, more often than is tolerated?

    Counts are [unseen, others] of the values that are there. With edge = reference_rate + tolerated_rise,
    each bet theta > edge gives

        log S = unseen log(theta / edge) + others log((1 - theta) / (1 - edge)),   M <- (M + 1) S

    and the mean M over the bets (five fixed sizes of rise, two memories of the past) alarms when
    log M >= log c. A fall never alarms.
    A new category may be the business growing: this is a ticket, and names the feature before drift shows.

    Parameters: `reference_rate`, share unseen in the reference (0 unless categories were cut), 0 to 1.
    `tolerated_rise`, absolute rise of the share that is nobody's concern (0.02: two points); more tolerates
    more. `reference_samples`, events behind the reference, by two of whose standard errors the tolerance is
    widened; None if it is exact. `log_threshold`, log c in nats. `overdispersion`, variance over binomial
    variance, 1 or more.

    Example:
        >>> import math, numpy as np
        >>> rng = np.random.default_rng(42)
        >>> detector = UnseenSurge(0.0, log_threshold=math.log(1e6))
        >>> for step in range(200):
        ...     unseen = rng.binomial(300, 0.0 if step < 100 else 0.08)
        ...     detector.update(np.array([unseen, 300 - unseen]))
        ...     if detector.fired:
        ...         break
        >>> step, round(detector.evidence.value, 2)
        (100, 0.09)

    Reference: Shin, Ramdas and Rinaldo (2024), E-detectors.
    """

    name: ClassVar[str] = "unseen_surge"
    family: ClassVar[str] = "silence"
    severity: ClassVar[str] = "ticket"
    TOLERATED: ClassVar[float] = 0.02
