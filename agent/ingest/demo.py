"""The demo as a source: the simulated world's predictions and late labels, as fast as one likes.

The same seed gives the same record at the same offset, however fast it is read, and after a restart.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from agent.events import Int64s, Mark, Partition, RawBatch, Rejected
from agent.ingest.simulate import LABELS, World, feedback
from agent.ingest.story import END, MINUTE_MS, START_MS

PREDICTIONS = Partition("predictions", 0)
FEEDBACK = Partition("feedback", 0)
PACE_S = 0.1
"""Records are handed over at most so often: few, large batches."""
MINUTES_PER_POLL = 15
"""At most so much of the story at once, however fast it is told."""


@dataclass(slots=True)
class _Log:
    """What one partition holds that was not handed over yet."""

    partition: Partition
    offset: int = 0
    times: list[int] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)

    def append(self, times: Int64s, values: Sequence[bytes]) -> None:
        self.times += times.tolist()
        self.values += values

    def skip(self, count: int) -> None:
        self.offset += count
        del self.times[:count], self.values[:count]

    def take(self, due_ms: float) -> RawBatch | None:
        count = int(np.searchsorted(self.times, due_ms, side="right"))
        if not count:
            return None
        offsets = np.arange(self.offset, self.offset + count, dtype=np.int64)
        appended = np.array(self.times[:count], dtype=np.int64)
        batch = RawBatch(self.partition, offsets, appended, self.offset + count, self.values[:count])
        self.skip(count)
        return batch


class DemoSource:
    """Minutes of the story as two partitions of native JSON, `speed` times as fast as life (inf: unpaced).

    `story=False` leaves the incidents out: reference data.
    """

    def __init__(self, seed: int, speed: float, minutes: int = END, *, story: bool = True) -> None:
        self._speed = speed
        self._world = World(seed, story)
        self._end = minutes
        self._began_s: float | None = None
        self._polled_s = -math.inf
        self.start({})

    def start(self, positions: Mapping[Partition, int]) -> None:
        """Begin; the past is told again up to the positions, and its records dropped."""
        self._minute = 0
        self._pending = np.empty(0, dtype=LABELS)
        self._logs = {p: _Log(p) for p in (PREDICTIONS, FEEDBACK)}
        self._began_s = None
        wanted = {p: positions.get(p, 0) for p in self._logs}
        while any(self._logs[p].offset < position for p, position in wanted.items()) and self._more():
            for p, log in self._logs.items():
                log.skip(min(len(log.values), max(0, wanted[p] - log.offset)))
        heads = [log.times[0] for log in self._logs.values() if log.times]
        self._origin_ms = min(heads, default=START_MS + self._minute * MINUTE_MS)

    def poll(self, timeout_s: float, now_s: float) -> Sequence[RawBatch]:
        """Everything whose simulated time has come, up to a quarter of an hour of it."""
        now_s += self._wait(timeout_s, now_s)
        if self._began_s is None:
            self._began_s = now_s
        due_ms = self._origin_ms + (now_s - self._began_s) * self._speed * 1000 if self._paced else math.inf
        heads = [log.times[0] for log in self._logs.values() if log.times]
        due_ms = min(due_ms, min(heads, default=self._now_ms()) + MINUTES_PER_POLL * MINUTE_MS)
        while self._now_ms() <= due_ms and self._more():
            pass
        return [batch for log in self._logs.values() if (batch := log.take(due_ms)) is not None]

    def caught_up(self) -> frozenset[Partition]:
        """Both partitions, once the story is told; before that a record is always about to come."""
        return frozenset(self._logs) if self.finished else frozenset()

    def ends(self) -> Mapping[Partition, int]:
        """Nobody knows how a story ends before it is told."""
        return {}

    def partitions(self) -> frozenset[Partition]:
        """One of predictions, one of feedback."""
        return frozenset(self._logs)

    def take_rejected(self) -> Sequence[Rejected]:
        """None: the simulated world damages nothing."""
        return ()

    def commit(self, marks: Mapping[Partition, Mark]) -> None:
        """Nobody outside to tell."""

    @property
    def connected(self) -> bool:
        """Always: there is nothing to reach."""
        return True

    @property
    def finished(self) -> bool:
        """The story is told."""
        return self._minute >= self._end and not any(log.values for log in self._logs.values())

    def close(self) -> None:
        """Nothing to release."""

    @property
    def _paced(self) -> bool:
        return math.isfinite(self._speed)

    def _now_ms(self) -> int:
        return START_MS + self._minute * MINUTE_MS

    def _wait(self, timeout_s: float, now_s: float) -> float:
        """Sleep until there is enough to hand over; the seconds slept."""
        pause = timeout_s if self.finished else self._polled_s + PACE_S - now_s if self._paced else 0.0
        pause = min(timeout_s, max(0.0, pause))
        time.sleep(pause)
        self._polled_s = now_s + pause
        return pause

    def _more(self) -> bool:
        """Simulate one more minute; False at the end of the story."""
        if self._minute >= self._end:
            return False
        times, values, labels = self._world.minute(self._minute)
        self._minute += 1
        pending = np.concatenate([self._pending, labels])
        come = pending["arrival"] < self._now_ms()
        arrived, self._pending = np.sort(pending[come], order=["arrival", "id"]), pending[~come]
        self._logs[PREDICTIONS].append(times, values)
        self._logs[FEEDBACK].append(arrived["arrival"], feedback(arrived))
        return True
