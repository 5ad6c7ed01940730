"""Where records come from: one protocol for Kafka, files and the demo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from agent.events import Mark, Partition, RawBatch, Rejected


class Source(Protocol):
    """A set of ordered partitions that is read forwards from given positions.

    The runner calls every method from one thread. Positions mean "next to read".
    """

    def start(self, positions: Mapping[Partition, int]) -> None:
        """Begin; partitions in `positions` resume exactly there, whatever the broker's group says.

        Raises StartError with a message for a tired engineer (broker unreachable, topic missing, wrong
        credentials, position no longer retained); nothing was consumed then and `start` may be called again.
        """

    def poll(self, timeout_s: float, now_s: float) -> Sequence[RawBatch]:
        """Return the next records, at most one batch per partition; empty when there are none in time.

        `now_s` is the runner's monotonic clock (a paced source needs it). Never blocks much past `timeout_s`.
        Trouble with the broker is retried inside and told by `connected`.
        """

    def caught_up(self) -> frozenset[Partition]:
        """Partitions that were read to their end, as far as is known after the last poll."""

    def ends(self) -> Mapping[Partition, int]:
        """Where partitions ended when last heard of, as positions; only those that are known."""

    def partitions(self) -> frozenset[Partition]:
        """Partitions this agent reads now."""

    def take_rejected(self) -> Sequence[Rejected]:
        """Records the source itself could not read (a damaged batch), each told once."""

    def commit(self, marks: Mapping[Partition, Mark]) -> None:
        """Tell the outside how far the durable state is (group offsets). Failing is logged, retried later."""

    @property
    def connected(self) -> bool:
        """Whether the last poll reached the source."""

    @property
    def finished(self) -> bool:
        """No record will ever come again (files read to their end; never true for Kafka)."""

    def close(self) -> None:
        """Release everything; bounded to a few seconds."""
