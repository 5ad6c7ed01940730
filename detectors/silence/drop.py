"""A stream of events that dries up."""

from typing import ClassVar

from detectors.silence.volume import VolumeDetector


class VolumeDrop(VolumeDetector):
    """Has the number of events per step fallen below the tolerated part of what is expected?

    Counts are [events]. With mu expected, floor = 1 - tolerated_drop, and counts of variance m + m^2 / r,
    each bet rho < floor gives the negative-binomial ratio

        log S = y [log(rho / floor) + s] + r s,   s = log((r + floor mu) / (r + rho mu)),   M <- (M + 1) S

    (Poisson, r infinite: y log(rho / floor) - mu (rho - floor)), with r = mu / (overdispersion - 1). The
    mean M over the bets (four depths, two memories) alarms when log M >= log c. It is valid for every larger
    mean and every larger r; a rise never alarms.

    Without `expected_per_step` it is learned: first steps (at least 24 and 100 events; warming up), then a
    slow moving average of the past that stands still while evidence rises and from an alarm until recovery.
    Overdispersion around the recent level, if not given, is learned likewise, so bursts cost power, not false
    alarms. Long runs of correlated lows are not covered: replay history and raise the threshold by what it
    shows. Nor are days and nights that differ by more than the tolerance: `expect` each step's own number.

    Parameters: `expected_per_step`, events per step, or None to learn. `tolerated_drop`, share of them that
    may be missing, 0 to 1; more tolerates more. `log_threshold`, log c in nats. `overdispersion`, variance
    over mean, 1 or more, or None to learn. `samples` of the evidence are expected events.

    Example:
        >>> import math, numpy as np
        >>> rng = np.random.default_rng(42)
        >>> detector = VolumeDrop(None, log_threshold=math.log(1e6))
        >>> for step in range(200):
        ...     detector.update(np.array([rng.poisson(40 if step < 100 else 4)]))
        ...     if detector.fired:
        ...         break
        >>> step, round(detector.evidence.reference), round(detector.evidence.value)
        (101, 40, 2)

    References: Shin, Ramdas and Rinaldo (2024), E-detectors; Robbins and Siegmund (1974) for the gamma
    mixture.
    """

    name: ClassVar[str] = "volume_drop"
    family: ClassVar[str] = "silence"
    severity: ClassVar[str] = "page"
    DEPTHS: ClassVar[tuple[float, ...]] = (0.02, 0.3, 0.6, 0.85, 0.93)

    def __init__(
        self,
        expected_per_step: float | None,
        *,
        tolerated_drop: float = 0.5,
        log_threshold: float,
        overdispersion: float | None = None,
    ) -> None:
        """Judge against a given or learned expectation."""
        if not 0.0 < tolerated_drop < 1.0:
            raise ValueError(f"tolerated_drop must lie between 0 and 1, not {tolerated_drop}")
        super().__init__(
            expected_per_step,
            edge=1.0 - tolerated_drop,
            log_threshold=log_threshold,
            overdispersion=overdispersion,
        )
