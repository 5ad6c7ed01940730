"""A model that answers with errors."""

from typing import ClassVar

from detectors.rate import Surge


class ErrorSurge(Surge):
    """Does the model answer with an error more often than in the reference, by more than is tolerated?

    Counts are [errors, others] requests. With edge = reference_rate + tolerated_rise, each bet
    theta > edge gives

        log S = errors log(theta / edge) + others log((1 - theta) / (1 - edge)),   M <- (M + 1) S

    and the mean M over the bets (five fixed sizes of rise, two memories of the past) alarms when
    log M >= log c. A fall never alarms.
    Availability as an objective over weeks is the burn-rate rules' question; this one needs no objective.

    Parameters: `reference_rate`, share of errors in the reference, 0 to 1. `tolerated_rise`, absolute rise
    of the share that is nobody's concern (0.02: two points); more tolerates more. `reference_samples`,
    events behind the reference, by two of whose standard errors the tolerance is widened; None if it is
    exact. `log_threshold`, log c in nats. `overdispersion`, variance over binomial variance, 1 or more.

    Example:
        >>> import math, numpy as np
        >>> rng = np.random.default_rng(42)
        >>> detector = ErrorSurge(0.001, log_threshold=math.log(1e6))
        >>> for step in range(200):
        ...     errors = rng.binomial(300, 0.001 if step < 100 else 0.06)
        ...     detector.update(np.array([errors, 300 - errors]))
        ...     if detector.fired:
        ...         break
        >>> step, round(detector.evidence.value, 2)
        (101, 0.07)

    Reference: Shin, Ramdas and Rinaldo (2024), E-detectors.
    """

    name: ClassVar[str] = "error_surge"
    family: ClassVar[str] = "silence"
    severity: ClassVar[str] = "page"
    TOLERATED: ClassVar[float] = 0.02
