"""Whether reading goes on: a partition may stall in silence, and a lost broker raises nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from kafka import TopicPartition

from agent.events import Partition

ASK_MS = 2_000
LOOK_AROUND_S = 1.0
ASK_S = 5.0
"""How long without a record before the broker is asked where its ends are."""
STALLED_S = 60.0
"""A partition that has more to read and does not move for so long gets a new client."""


class Progress:
    """How far each partition is and where it ends; when it moved, and when the broker was heard, last."""

    def __init__(self) -> None:
        self.positions: dict[Partition, int] = {}
        self._ends: dict[Partition, int] = {}
        self._moved: dict[Partition, float] = {}
        self._looked_at = 0.0
        self._heard_at = 0.0
        self._asked_at = 0.0

    def hear(self, now_s: float) -> None:
        """The broker answered."""
        self._heard_at = now_s

    def move(self, partition: Partition, position: int, end: int, now_s: float) -> None:
        """A partition is at a position now."""
        self.positions[partition] = position
        self._ends[partition] = end
        self._moved[partition] = now_s

    def forget_end(self, partition: Partition, now_s: float) -> None:
        """It was assigned or taken away: its end is not known, and its patience begins anew."""
        self._ends.pop(partition, None)
        self._moved[partition] = now_s

    def forget_ends(self) -> None:
        """There is no client to tell them."""
        self._ends.clear()

    def is_at_end(self, partition: Partition) -> bool:
        """As far as is known."""
        return self.positions[partition] >= self._ends.get(partition, 2**63)

    def ends(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Where they end, as far as is known."""
        return {p: self._ends[p] for p in partitions if p in self._ends}

    def look(self, now_s: float) -> bool:
        """Whether it is time to look around; once a second it is."""
        if now_s - self._looked_at < LOOK_AROUND_S:
            return False
        self._looked_at = now_s
        return True

    def without_records(
        self,
        consumer: Any,  # noqa: ANN401 # untyped client
        partitions: Iterable[Partition],
        now_s: float,
    ) -> Iterator[tuple[Partition, int]]:
        """Partitions that moved past transaction markers or aborted records, and where they are now."""
        for partition in [p for p in partitions if self._moved[p] < now_s]:
            at = consumer.position(TopicPartition(*partition), timeout_ms=0)
            if at is not None and at > self.positions[partition]:
                self.positions[partition] = at
                self._moved[partition] = now_s
                yield partition, at

    def doubtful(self, reading: Collection[Partition], now_s: float) -> list[Partition] | None:
        """The partitions to ask the broker about; None while there is no need to ask."""
        still = [p for p in reading if now_s - self._moved[p] >= ASK_S]
        silent = now_s - self._heard_at >= ASK_S
        behind = any(self.positions[p] < self._ends[p] for p in still)
        if now_s - self._asked_at < ASK_S or not (silent or behind):
            return None
        self._asked_at = now_s
        return still

    def tell_ends(self, ends: Mapping[Partition, int]) -> None:
        """Where partitions end, as the broker says."""
        self._ends.update(ends)

    def stalled(self, partitions: Iterable[Partition], now_s: float) -> list[Partition]:
        """Those behind their ends, if one of them is for too long; their patience begins anew."""
        behind = [p for p in partitions if self.positions[p] < self._ends[p]]
        if not any(now_s - self._moved[p] >= STALLED_S for p in behind):
            return []
        self._moved.update(dict.fromkeys(behind, now_s))
        return behind


def ends_of(
    consumer: Any,  # noqa: ANN401 # untyped client
    partitions: Iterable[Partition],
) -> dict[Partition, int]:
    """Where the ends are now; under an open transaction they lie before the high watermark."""
    ends = consumer.end_offsets([TopicPartition(*p) for p in partitions], timeout_ms=ASK_MS)
    return {Partition(*tp): end for tp, end in ends.items()}
