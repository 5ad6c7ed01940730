"""Event-time clocks: how far each partition has got, and so what is late and what is complete.

A record is late only against the watermark of its own partition at its own offset, so lateness does not
depend on how reads of several partitions interleave. Only two things move a clock: records, and control
records (a partition that is read to its end and silent must not hold the others back).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from agent.events import NO_TIME, Int64s, Partition


class Clock:
    """The event times of one stream (a model's predictions, or all feedback), by partition."""

    def __init__(self, lateness_ms: int) -> None:
        self.lateness_ms = lateness_ms
        self.newest: dict[Partition, int] = {}
        """The latest event time read."""
        self.floor: dict[Partition, int] = {}
        """Watermarks set by control records."""

    def running(self, partition: Partition, times: Int64s) -> Int64s:
        """The watermark each record meets at its offset; the clock then stands after the last of them."""
        if len(times) == 0:
            return times
        newest = np.maximum.accumulate(np.concatenate([[self.newest.get(partition, NO_TIME)], times]))
        self.newest[partition] = int(newest[-1])
        known = newest[:-1] > NO_TIME
        floor = self.floor.get(partition, NO_TIME)
        running: Int64s = np.where(known, np.maximum(newest[:-1] - self.lateness_ms, floor), floor)
        return running

    def watermark(self, partition: Partition) -> int:
        """No record that is not late can have an earlier time; NO_TIME while nothing is known."""
        newest = self.newest.get(partition, NO_TIME)
        floor = self.floor.get(partition, NO_TIME)
        return max(newest - self.lateness_ms, floor) if newest > NO_TIME else floor

    def low(self, partitions: frozenset[Partition]) -> int:
        """The watermark of all partitions together."""
        return min((self.watermark(p) for p in partitions | self.newest.keys()), default=NO_TIME)

    def high(self) -> int:
        """The latest event time of any partition."""
        return max(self.newest.values(), default=NO_TIME)

    def raise_floor(self, partition: Partition, to_ms: int) -> None:
        """Apply a control record: the partition's watermark is at least this from here on."""
        self.floor[partition] = max(self.floor.get(partition, NO_TIME), to_ms)

    def state(self) -> list[list[object]]:
        """JSON-safe, in a fixed order."""
        known = sorted(self.newest.keys() | self.floor.keys())
        return [
            [p.topic, p.partition, self.newest.get(p, NO_TIME), self.floor.get(p, NO_TIME)] for p in known
        ]

    def load(self, state: list[list[object]]) -> None:
        for topic, number, newest, floor in state:
            partition = Partition(str(topic), int(str(number)))
            for into, value in ((self.newest, int(str(newest))), (self.floor, int(str(floor)))):
                if value > NO_TIME:
                    into[partition] = value


def watermarks(clocks: Mapping[str, Clock], partitions: frozenset[Partition]) -> dict[str, int]:
    """The joint watermark of each clock."""
    return {name: clock.low(partitions) for name, clock in clocks.items()}
