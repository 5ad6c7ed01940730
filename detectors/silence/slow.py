"""A model whose answers take longer."""

from typing import ClassVar

from detectors.rate import Surge


class SlowAnswers(Surge):
    """Are more answers slow than is tolerated, slow being what only the reference's slowest 5 % were?

    The caller fixes "slow" in advance, as a latency above the reference's
    95th percentile, and counts [slow, others]. With edge = reference_rate + tolerated_rise, each bet
    theta > edge gives

        log S = slow log(theta / edge) + others log((1 - theta) / (1 - edge)),   M <- (M + 1) S

    and the mean M over the bets (five fixed sizes of rise, two memories of the past) alarms when
    log M >= log c. A fall never alarms.
    A shift of the whole distribution shows here first; latency objectives are the burn-rate rules' question.

    Parameters: `reference_rate`, share slow in the reference (0.05 by definition), 0 to 1.
    `tolerated_rise`, absolute rise of the share that is nobody's concern (0.15: fifteen points); more
    tolerates more. `reference_samples`, events behind the reference, by two of whose standard errors the
    tolerance is widened; None if it is exact. `log_threshold`, log c in nats. `overdispersion`, variance
    over binomial variance, 1 or more.

    Example:
        >>> import math, numpy as np
        >>> rng = np.random.default_rng(42)
        >>> detector = SlowAnswers(0.05, log_threshold=math.log(1e6))
        >>> for step in range(200):
        ...     slow = rng.binomial(100, 0.05 if step < 100 else 0.4)
        ...     detector.update(np.array([slow, 100 - slow]))
        ...     if detector.fired:
        ...         break
        >>> step, round(detector.evidence.value, 2)
        (100, 0.49)

    Reference: Shin, Ramdas and Rinaldo (2024), E-detectors.
    """

    name: ClassVar[str] = "slow_answers"
    family: ClassVar[str] = "silence"
    severity: ClassVar[str] = "ticket"
    TOLERATED: ClassVar[float] = 0.15
