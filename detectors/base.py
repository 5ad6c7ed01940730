"""The vocabulary of detection: what a detector is, and the evidence it answers with."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

_Number = float | int | list[float] | list[int]
State = dict[str, _Number]
"""What a detector remembers between steps: plain numbers, exact through JSON."""


class Verdict(StrEnum):
    """A detector may also say that it cannot know yet."""

    OK = "ok"
    ALARM = "alarm"
    NOT_ENOUGH = "not enough evidence"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a detector knows after its last step; never a bare bool.

    `value` is the estimate since the last alarm or, once something stirs, since the change is thought to
    have begun; `low` and `high` hold simultaneously for every time and every such beginning.
    """

    statistic: float
    """Log of the Shiryaev-Roberts e-detector, floored at 0."""
    threshold: float
    """Log c, from the false-page budget."""
    samples: int
    """Events behind `value`."""
    warming_up: bool
    value: float | None = None
    low: float | None = None
    high: float | None = None
    reference: float | None = None
    tolerance: tuple[float | None, float | None] = (None, None)
    """The band of `value` in which the detector promises to keep its false-page budget; None is unbounded."""
    smallest_change: float | None = None
    """Distance of `value` from `reference` that would be seen, nine times in ten, in an hour's steps."""
    details: dict[str, float] = field(default_factory=dict)
    """More numbers. Of every detector: `smallest_change_steps`, in how many steps nine in ten changes of that
    size are seen, and `smallest_change_delay`, in how many half of them; `changed_steps_ago`, while the
    evidence rises: since when."""

    @property
    def ratio(self) -> float:
        """Statistic over threshold: 1 and more alarms."""
        return self.statistic / self.threshold

    @property
    def blind(self) -> bool:
        """Is there a verdict, and yet no change, however large, that would be seen within an hour's steps?"""
        return (
            not self.warming_up and self.smallest_change is None and "smallest_change_steps" in self.details
        )

    @property
    def verdict(self) -> Verdict:
        """The three-valued answer of the last step."""
        if self.warming_up:
            return Verdict.NOT_ENOUGH
        return Verdict.ALARM if self.ratio >= 1.0 else Verdict.OK


class Detector(Protocol):
    """One monitor over one stream of closed, merged counts.

    The caller calls `update` once per closed step (or matured cohort), never again with revised counts, then
    reads the rest. The alarm is latched by the caller: set when `fired`, resolved when `recovered`.
    """

    name: ClassVar[str]
    family: ClassVar[str]
    severity: ClassVar[str]

    def update(self, counts: NDArray[np.int64]) -> None:
        """Take in one closed step; raises ValueError on counts of the wrong shape or below zero."""

    @property
    def evidence(self) -> Evidence:
        """What is known after the last step."""

    @property
    def warming_up(self) -> bool:
        """Is it too early to judge?"""

    @property
    def fired(self) -> bool:
        """Did the last step cross the threshold? The next step starts again from no evidence."""

    @property
    def recovered(self) -> bool:
        """Do the counts since the evidence last rose show that all is inside the tolerance again?"""

    def state(self) -> State:
        """Everything needed to go on from here, safe and exact in JSON."""

    def load(self, state: State) -> None:
        """Go on from a state saved by a detector made with the same arguments."""
