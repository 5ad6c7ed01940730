"""Polling beside processing: a thread reads ahead, and what waits for it grows into larger batches.

The client decodes records under the interpreter lock, columns are parsed outside it; so the two go on at
once. All calls to the wrapped source come from this one thread, for no client is thread-safe. What was read
ahead but not taken is not applied and so never committed: after a crash it is simply read again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from agent.events import Headers, Mark, Partition, RawBatch, Rejected
from agent.ingest.source import Source

MAX_RECORDS = 100_000
"""Read ahead at most so many; then the thread rests until they are taken."""
LARGEST = 50_000
"""Records of one partition that are handed over at once."""
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the source said after its last poll."""

    caught_up: frozenset[Partition] = frozenset()
    partitions: frozenset[Partition] = frozenset()
    ends: Mapping[Partition, int] = field(default_factory=dict)
    connected: bool = False
    finished: bool = False


class Prefetch:
    """A Source that reads another one ahead."""

    def __init__(self, source: Source, now: Callable[[], float]) -> None:
        self._source = source
        self._now = now
        self._lock = threading.Condition()
        self._waiting: dict[Partition, list[RawBatch]] = {}
        self._records = 0
        self._rejected: list[Rejected] = []
        self._handed: list[Rejected] = []
        """Rejected records that lie within what the last poll handed over."""
        self._to_commit: Mapping[Partition, Mark] | None = None
        self._seen = _Seen()
        self._error: BaseException | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._read, name="plumbline-poll", daemon=True)

    def start(self, positions: Mapping[Partition, int]) -> None:
        """Start the source here, so that its trouble is told to the caller, then the thread."""
        self._source.start(positions)
        self._note()
        self._thread.start()

    def poll(self, timeout_s: float, now_s: float) -> Sequence[RawBatch]:
        """Everything that was read ahead, one batch per partition."""
        with self._lock:
            if not self._waiting and not self._error and not self._seen.finished:
                self._lock.wait(timeout_s)
            if self._error:
                raise self._error
            taken = [joined(self._take(partition)) for partition in list(self._waiting)]
            upto = {batch.partition: batch.next_position for batch in taken}
            self._handed += [r for r in self._rejected if r.offset < upto.get(r.partition, 0)]
            self._rejected = [r for r in self._rejected if r.offset >= upto.get(r.partition, 0)]
            self._lock.notify_all()
        return taken

    def _take(self, partition: Partition) -> list[RawBatch]:
        batches = self._waiting[partition]
        taken: list[RawBatch] = []
        n = 0
        while batches and (not taken or n + len(batches[0]) <= LARGEST):
            taken.append(batches.pop(0))
            n += len(taken[-1])
        if not batches:
            del self._waiting[partition]
        self._records -= n
        return taken

    def caught_up(self) -> frozenset[Partition]:
        """Partitions of which nothing is left, here or there."""
        with self._lock:
            return self._seen.caught_up - self._waiting.keys()

    def ends(self) -> Mapping[Partition, int]:
        return self._seen.ends

    def partitions(self) -> frozenset[Partition]:
        return self._seen.partitions

    def take_rejected(self) -> Sequence[Rejected]:
        """Those that the last poll's positions have passed; what lies ahead waits for its batch."""
        taken, self._handed = self._handed, []
        return taken

    def commit(self, marks: Mapping[Partition, Mark]) -> None:
        """The thread tells the outside at its next turn; only the newest positions matter."""
        with self._lock:
            self._to_commit = dict(marks)

    @property
    def connected(self) -> bool:
        return self._seen.connected

    @property
    def finished(self) -> bool:
        """Nothing more to come, and nothing left to take."""
        with self._lock:
            return self._seen.finished and not self._waiting

    def close(self) -> None:
        """Let the thread finish its turn, tell the last positions, and close the source."""
        with self._lock:
            self._closing = True
            self._lock.notify_all()
        if self._thread.is_alive():
            self._thread.join(5.0)
        self._tell()
        self._source.close()

    def _read(self) -> None:
        try:
            while not self._closing:
                with self._lock:
                    if self._records >= MAX_RECORDS:
                        self._lock.wait(_POLL_S)
                    room = self._records < MAX_RECORDS
                if room:
                    self._turn()
                self._tell()
        except BaseException as error:  # raised again by the caller's next poll
            with self._lock:
                self._error = error
                self._lock.notify_all()

    def _turn(self) -> None:
        batches = self._source.poll(_POLL_S, self._now())
        rejected = self._source.take_rejected()
        with self._lock:
            for batch in batches:
                self._waiting.setdefault(batch.partition, []).append(batch)
                self._records += len(batch)
            self._rejected += rejected
        self._note()

    def _note(self) -> None:
        source = self._source
        seen = _Seen(
            source.caught_up(), source.partitions(), source.ends(), source.connected, source.finished
        )
        with self._lock:
            self._seen = seen
            self._lock.notify_all()

    def _tell(self) -> None:
        with self._lock:
            marks, self._to_commit = self._to_commit, None
        if marks is not None:
            self._source.commit(marks)


def joined(batches: Sequence[RawBatch]) -> RawBatch:
    """Consecutive batches of one partition as one."""
    if len(batches) == 1:
        return batches[0]
    values: list[bytes | None] = []
    for batch in batches:
        values += batch.values
    keys: list[bytes | None] = []
    headers: list[Headers] = []
    if any(batch.keys is not None for batch in batches):
        for batch in batches:
            keys += batch.keys if batch.keys is not None else [None] * len(batch)
    if any(batch.headers is not None for batch in batches):
        for batch in batches:
            headers += batch.headers if batch.headers is not None else [()] * len(batch)
    return replace(
        batches[0],
        offsets=np.concatenate([batch.offsets for batch in batches]),
        append_ms=np.concatenate([batch.append_ms for batch in batches]),
        next_position=batches[-1].next_position,
        values=values,
        keys=keys or None,
        headers=headers or None,
        floor_ms=max(batch.floor_ms for batch in batches),
    )
