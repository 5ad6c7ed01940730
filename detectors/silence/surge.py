"""A stream of events that swells: a retry storm, a loop, a replay, a bot."""

from typing import ClassVar

from detectors.silence.volume import VolumeDetector


class VolumeSurge(VolumeDetector):
    """Has the number of events per step risen above the tolerated multiple of what is expected?

    Counts are [events]. With mu expected, ceiling = 1 + tolerated_surge, and counts of variance m + m^2 / r,
    each bet rho > ceiling gives the negative-binomial ratio

        log S = y [log(rho / ceiling) + s] + r s,   s = log((r + ceiling mu) / (r + rho mu)),
        M <- (M + 1) S

    with r = mu / (overdispersion - 1), and the mean M over the bets (four heights, two memories) alarms when
    log M >= log c. It is valid for every smaller mean and every larger r; a drop never alarms. What is not
    given is learned, as by VolumeDrop, with its cautions. Popularity is no failure: this is a ticket.

    Parameters: `expected_per_step`, events per step, or None to learn. `tolerated_surge`, share of them that
    may come on top (1: twice as many); more tolerates more. `log_threshold`, log c in nats.
    `overdispersion`, variance over mean, 1 or more, or None to learn. `samples` are expected events.

    Example:
        >>> import math, numpy as np
        >>> rng = np.random.default_rng(42)
        >>> detector = VolumeSurge(None, log_threshold=math.log(1e6))
        >>> for step in range(200):
        ...     detector.update(np.array([rng.poisson(40 if step < 100 else 160)]))
        ...     if detector.fired:
        ...         break
        >>> step, round(detector.evidence.reference), round(detector.evidence.value)
        (100, 40, 158)

    References: Shin, Ramdas and Rinaldo (2024), E-detectors; Robbins and Siegmund (1974) for the gamma
    mixture.
    """

    name: ClassVar[str] = "volume_surge"
    family: ClassVar[str] = "silence"
    severity: ClassVar[str] = "ticket"
    DEPTHS: ClassVar[tuple[float, ...]] = (10.0, 3.0, 1.7, 1.2, 1.07)

    def __init__(
        self,
        expected_per_step: float | None,
        *,
        tolerated_surge: float = 1.0,
        log_threshold: float,
        overdispersion: float | None = None,
    ) -> None:
        """Judge against a given or learned expectation."""
        if not tolerated_surge > 0.0:
            raise ValueError(f"tolerated_surge must be above 0, not {tolerated_surge}")
        super().__init__(
            expected_per_step,
            edge=1.0 + tolerated_surge,
            log_threshold=log_threshold,
            overdispersion=overdispersion,
        )
