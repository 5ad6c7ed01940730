"""From the group's assignment to the first offset that is read.

The client's listener runs on its I/O thread, where no call may wait: it pauses what is assigned, at a
placeholder, and leaves a note. The polling thread takes the notes and looks up where to begin. The state's
positions win over the group's, which forgets after a week. A state that knows nothing at all was lost, or is
new: it begins where the group's metadata says that every open hour can still be counted whole.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from kafka import ConsumerRebalanceListener, TopicPartition

from agent.config import KafkaConfig
from agent.errors import StartError
from agent.events import NO_TIME, Mark, Partition
from agent.ingest.consumer import name_of
from agent.ingest.refusal import where

REQUEST_MS = 5_000

Notes = deque[tuple[str, list[Partition]]]
"""What happened to which partitions, oldest first: assigned, revoked or lost."""


class Listener(ConsumerRebalanceListener):  # type: ignore[misc] # untyped client
    """Runs on the client's I/O thread: no call that waits, no state of ours but the notes."""

    def __init__(self, consumer: Any, notes: Notes) -> None:  # noqa: ANN401 # untyped client
        self._consumer = consumer
        self._notes = notes

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        """Newly added ones only (cooperative)."""
        for tp in assigned:
            self._consumer.seek(tp, 0)  # a placeholder: without a position the next poll would raise
            self._consumer.pause(tp)
        self._notes.append(("assigned", [Partition(*tp) for tp in assigned]))

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        self._notes.append(("revoked", [Partition(*tp) for tp in revoked]))

    def on_partitions_lost(self, lost: Iterable[Any]) -> None:
        self._notes.append(("lost", [Partition(*tp) for tp in lost]))


class Retained(NamedTuple):
    """What the broker has of a partition."""

    partition: Partition
    first: int
    end: int


class Beginning(NamedTuple):
    """Where to begin."""

    at: int
    wanted: int
    """Below `at` where the broker no longer has it."""
    floor_ms: int = NO_TIME
    """Predictions of an earlier time were counted by a state that is lost."""
    of_group: bool = False
    """Only the group knew."""


def metadata(mark: Mark) -> str:
    """A mark as text for the group's offset."""
    return f"safe={mark.safe};open={mark.open_ms};config={mark.config}"


def mark_of(next_: int, text: str) -> Mark:
    """The mark that a group's offset tells; without metadata of ours nothing before it can be made again."""
    found = re.match(r"safe=(\d+);open=(-?\d+);", text)
    if found is None or not 0 <= int(found[1]) <= next_:
        return Mark(next_, next_)
    return Mark(next_, int(found[1]), int(found[2]))


class Placement:
    """Says where partitions begin, by the state's positions, the group's, or the `start` policy."""

    def __init__(
        self,
        config: KafkaConfig,
        consumer: Any,  # noqa: ANN401 # untyped client
        positions: Mapping[Partition, int],
    ) -> None:
        self._config = config
        self._consumer = consumer
        self._positions = positions
        self._strict = config.start == "fail"

    def check(self, topics: Sequence[str]) -> None:
        """Topics exist, positions are retained, and with `start: fail` every partition has a position."""
        existing = self._consumer.topics()
        missing = [topic for topic in topics if topic not in existing]
        if missing:
            raise StartError(
                f"{where(self._config)}: no topic {', '.join(missing)} (or this user may not see it). "
                "Create it, grant Describe and Read, or correct sources.topics."
            )
        here = [
            Partition(topic, number)
            for topic in topics
            for number in sorted(self._consumer.partitions_for_topic(topic))
        ]
        if gone := sorted(set(self._positions) - set(here)):
            raise StartError(
                f"{name_of(gone[0])}: the state has a position in it, but it is gone; was the topic made "
                "anew? Start with a new state.dir."
            )
        asked = here if self._strict else [p for p in here if p in self._positions]
        if asked:
            for retained in self.retained(asked):
                self.beginning(retained)

    def retained(self, partitions: Sequence[Partition]) -> list[Retained]:
        """What the broker has of each partition now."""
        asked = [TopicPartition(*p) for p in partitions]
        first = self._consumer.beginning_offsets(asked, timeout_ms=REQUEST_MS)
        end = self._consumer.end_offsets(asked, timeout_ms=REQUEST_MS)
        return [Retained(Partition(*tp), first[tp], end[tp]) for tp in asked]

    def beginning(self, retained: Retained) -> Beginning:
        """The first offset to read; StartError if beginning there would lose or invent records."""
        partition, first, end = retained
        at = self._positions.get(partition)
        whose = "the state"
        mark = None
        if at is None:
            whose = f"group {self._config.group_id}"
            told = self._consumer.committed(TopicPartition(*partition), metadata=True, timeout_ms=REQUEST_MS)
            if told is not None and told.offset >= 0:
                mark = mark_of(told.offset, told.metadata or "")
                at = mark.next
        if at is None:
            if self._strict:
                raise StartError(
                    f"{name_of(partition)}: neither the state nor {whose} knows where to begin; kafka.start "
                    "is fail. Set it to earliest or latest for the first start."
                )
            begin = first if self._config.start == "earliest" else end
            return Beginning(begin, begin)
        if at > end:
            raise StartError(
                f"{name_of(partition)}: {whose} is at {at}, but the broker ends at {end}; was the topic made "
                "anew? Start with a new state.dir and group_id."
            )
        wanted = at if mark is None else mark.safe
        if wanted < first and self._strict:
            raise StartError(
                f"{name_of(partition)}: {whose} is at {wanted}, but the broker has only {first} and later. "
                f"Set kafka.start to earliest to go on without {first - wanted} records."
            )
        floor_ms = NO_TIME if mark is None else mark.open_ms
        return Beginning(max(wanted, first), wanted, floor_ms, of_group=mark is not None)
