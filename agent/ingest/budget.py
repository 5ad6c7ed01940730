"""When to stop rather than divert: a topic that is nearly all poison is read wrongly, or written wrongly.

Whoever breaks a limit is not committed, and how far a topic had come is stored: so the next start stops again
at once, and does not divert another stretch of the topic each time it is restarted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from agent.config import DeadLetterConfig
from agent.errors import PoisonError
from agent.events import Reason

STRETCH = 10_000
"""Records of a topic over which the share is taken, one stretch after another."""


@dataclass(slots=True)
class Spent:
    """Of one topic, in the order in which it was read."""

    run: int = 0
    """Records in a row, up to the last one, that could not be used."""
    read: int = 0
    bad: int = 0
    """Of those read in this stretch."""


class DeadLetterBudget:
    """What `dead_letters` allows, and what was spent of it."""

    def __init__(self, config: DeadLetterConfig) -> None:
        self._most_in_a_row = config.max_consecutive
        self._largest_share = config.max_ratio
        self._spent: dict[str, Spent] = {}

    def spend(self, topic: str, bad: NDArray[np.bool_], reasons: Sequence[Reason]) -> None:
        """Take in a batch; PoisonError if it breaks a limit. `reasons` are those of the bad records."""
        spent = self._spent.setdefault(topic, Spent())
        good = np.flatnonzero(~bad)
        runs = np.diff(np.concatenate([[-1 - spent.run], good, [len(bad)]])) - 1
        spent.run = int(runs[-1])
        spent.read += len(bad)
        spent.bad += int(bad.sum())
        if self._most_in_a_row is not None and runs.max() >= self._most_in_a_row:
            raise _poison(topic, f"{int(runs.max())} records in a row", reasons, "max_consecutive")
        if spent.read >= STRETCH:
            share = spent.bad / spent.read
            if self._largest_share is not None and share > self._largest_share:
                raise _poison(topic, f"{share:.1%} of the records", reasons, "max_ratio")
            spent.read = spent.bad = 0

    def state(self) -> Mapping[str, Mapping[str, int]]:
        return {topic: asdict(spent) for topic, spent in sorted(self._spent.items())}

    def load(self, state: Mapping[str, Mapping[str, int]]) -> None:
        self._spent = {topic: Spent(**spent) for topic, spent in state.items()}


def _poison(topic: str, what: str, reasons: Sequence[Reason], limit: str) -> PoisonError:
    most = f", most of them for {Counter(reasons).most_common(1)[0][0].value}" if reasons else ""
    return PoisonError(
        f"{topic}: {what} could not be used{most}. The last of them were not diverted, and no offset moved "
        f"past them. Correct the mapping in sources or the producer; to divert them all the same, raise "
        f"dead_letters.{limit}."
    )
