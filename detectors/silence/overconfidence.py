"""A model that is suddenly sure of everything."""

from typing import ClassVar

from detectors.rate import Surge


class OverconfidentPredictions(Surge):
    """Has the entropy of the predictions collapsed: are more of them nearly certain than is tolerated?

    The caller fixes "nearly certain" in advance, as a confidence above all but the reference's surest 5 %,
    and counts [certain, others]. With edge = reference_rate + tolerated_rise, each bet theta > edge gives

        log S = certain log(theta / edge) + others log((1 - theta) / (1 - edge)),   M <- (M + 1) S

    and the mean M over the bets (five fixed sizes of rise, two memories of the past) alarms when log M >=
    log c. A fall never alarms. The opposite of ConfidenceCollapse; for two classes entropy falls as
    confidence rises, so one share says both.

    Parameters: `reference_rate`, share nearly certain in the reference (0.05, more with ties), 0 to 1.
    `tolerated_rise`, absolute rise of the share that is nobody's concern (0.3: thirty points); more
    tolerates more. `reference_samples`, events behind the reference, by two of whose standard errors the
    tolerance is widened; None if it is exact. `log_threshold`, log c in nats. `overdispersion`, variance
    over binomial variance, 1 or more.

    Example:
        >>> import math, numpy as np
        >>> rng = np.random.default_rng(42)
        >>> detector = OverconfidentPredictions(0.05, log_threshold=math.log(1e6))
        >>> for step in range(200):
        ...     certain = rng.binomial(100, 0.05 if step < 100 else 0.6)
        ...     detector.update(np.array([certain, 100 - certain]))
        ...     if detector.fired:
        ...         break
        >>> step, round(detector.evidence.value, 2)
        (101, 0.56)

    Reference: Shin, Ramdas and Rinaldo (2024), E-detectors.
    """

    name: ClassVar[str] = "overconfidence"
    family: ClassVar[str] = "silence"
    severity: ClassVar[str] = "page"
    TOLERATED: ClassVar[float] = 0.3
