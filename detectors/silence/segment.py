"""A part of the stream that dies while the rest goes on."""

from typing import ClassVar

from detectors.silence.volume import VolumeDetector


class DeadSegment(VolumeDetector):
    """Do (nearly) no events come from a segment that should bring a share of them?

    Counts are [events of the segment]; `expect` its usual share times the events of *all* in the step, so
    that an outage of everything, nights and holidays are not the segment's. With floor = 1 - tolerated_drop,
    mu expected and counts of variance m + m^2 / r, each bet rho < floor gives

        log S = y [log(rho / floor) + s] + r s,   s = log((r + floor mu) / (r + rho mu)),   M <- (M + 1) S

    and the mean M over the bets alarms when log M >= log c: of a dead segment once the events that should
    have come by now reach about log c / floor.

    Parameters: `expected_per_step`, events per step, or None to learn. `tolerated_drop`, share of them that
    may be missing, 0 to 1: high, since groups come and go by themselves. `log_threshold`, log c in nats.
    `overdispersion`, variance over mean, 1 or more, or None to learn. `samples` are expected events.

    Example:
        >>> import math, numpy as np
        >>> rng = np.random.default_rng(42)
        >>> detector = DeadSegment(None, log_threshold=math.log(1e6))
        >>> for step in range(200):
        ...     detector.update(np.array([rng.poisson(20) if step < 100 else 0]))
        ...     if detector.fired:
        ...         break
        >>> step, round(detector.evidence.value, 1)
        (104, 0.0)

    Reference: Shin, Ramdas and Rinaldo (2024), E-detectors.
    """

    name: ClassVar[str] = "dead_segment"
    family: ClassVar[str] = "silence"
    severity: ClassVar[str] = "page"
    DEPTHS: ClassVar[tuple[float, ...]] = (0.02, 0.3, 0.6, 0.85, 0.93)

    def __init__(
        self,
        expected_per_step: float | None,
        *,
        tolerated_drop: float = 0.8,
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
