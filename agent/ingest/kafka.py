"""Records from Kafka, as a member of a consumer group that keeps its own positions.

What kafka-python needs to be correct, and where it is done:

- the client never decodes, commits or resets by itself, and creates no topics: `consumer`;
- its listener runs on the I/O thread, so it pauses what is assigned and leaves a note; the polling thread
  looks up where to begin, by the state's positions first, and lets the partition go: `placement`;
- a partition may stall in silence, and a lost broker raises nothing: `progress` tells when to ask;
- it makes an object of each record, which costs more than all that follows: `records` gives columns;
- after an error inside a batch the next poll would hang: `poison` finds the batch, to be skipped as a range;
- whatever else the client raises, a new client resumes from our own positions: `_recover`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import structlog
from kafka import TopicPartition
from kafka.errors import (
    CorruptRecordError,
    KafkaError,
    OffsetOutOfRangeError,
    RetriableError,
    UnsupportedCodecError,
)
from kafka.structs import OffsetAndMetadata

from agent.config import KafkaConfig
from agent.errors import StartError
from agent.events import NO_TIME, Headers, Int64s, Mark, Partition, RawBatch, Reason, Rejected
from agent.ingest.consumer import consumer_options, name_of, open_consumer
from agent.ingest.placement import REQUEST_MS, Listener, Notes, Placement, metadata
from agent.ingest.poison import Poisoned
from agent.ingest.progress import Progress, ends_of
from agent.ingest.records import Chunk
from agent.ingest.refusal import say, why_not

MAX_BACKOFF_S = 30.0
_UNDECODABLE = (CorruptRecordError, UnsupportedCodecError)

log = structlog.get_logger(__name__)


class KafkaSource:
    """The partitions of `topics` that the group gives to this agent.

    `instance` names a member that comes back (static membership, KIP-345): after a crash it gets its
    partitions at once, where a stranger would wait for the dead member's session to end.
    """

    def __init__(self, config: KafkaConfig, topics: Sequence[str], instance: str | None = None) -> None:
        self._config = config
        self._instance = instance
        self._topics = tuple(dict.fromkeys(topics))
        self._options = consumer_options(config)
        self._consumer: Any = None
        self._notes = Notes()
        self._waiting: set[Partition] = set()
        """Assigned, and not yet let go: where to begin is not known."""
        self._reading: set[Partition] = set()
        self._progress = Progress()
        self._knew_nothing = True
        self._poisoned = Poisoned(self._options, self._passed)
        self._committed: dict[Partition, int] = {}
        self._rejected: list[Rejected] = []
        self._skipped: list[RawBatch] = []
        self._connected = False
        self._failures = 0
        self._retry_at = 0.0

    def start(self, positions: Mapping[Partition, int]) -> None:
        """Connect, check topics and positions, and join the group; see Source.start."""
        self.close()
        self._knew_nothing = not positions
        self._progress.positions = {p: at for p, at in positions.items() if p.topic in self._topics}
        self._consumer = open_consumer(self._config, self._options, self._instance)
        try:
            self._placement().check(self._topics)
            self._join()
        except KafkaError as error:
            self.close()
            raise why_not(self._config, error) from error
        except StartError:
            self.close()
            raise
        self._connected = True

    def poll(self, timeout_s: float, now_s: float) -> Sequence[RawBatch]:
        """See Source.poll. What had to be skipped on the way is told by `take_rejected`."""
        if self._consumer is None and not self._reconnect(timeout_s, now_s):
            return ()
        batches: list[RawBatch] = []
        try:
            self._take_notes(now_s)
            self._place(now_s)
            self._poisoned.search_on(self._consumer)
            if not self._skipped:  # what was skipped comes before what follows it
                for tp, records in self._consumer.poll(timeout_ms=max(0, int(timeout_s * 1000))).items():
                    batches.append(self._batch(tp, records, now_s))
                self._take_notes(now_s)
                self._look_around(now_s, heard=bool(batches))
        except Exception as error:
            # The client raises whatever codecs, parser and I/O thread raise; none of it ends the agent.
            self._recover(error, now_s)
        skipped, self._skipped = self._skipped, []
        return [*batches, *skipped]

    def take_rejected(self) -> Sequence[Rejected]:
        """Ranges skipped since the last call: undecodable batches, records that were no longer retained.

        They belong to the batches of the same poll: take them right after it, into the same transaction.
        """
        taken, self._rejected = self._rejected, []
        return taken

    def caught_up(self) -> frozenset[Partition]:
        """See Source.caught_up; nobody knows while the broker does not answer."""
        if not self._connected:
            return frozenset()
        return frozenset(p for p in self._reading if self._progress.is_at_end(p))

    def ends(self) -> Mapping[Partition, int]:
        """See Source.ends; nobody knows while the broker does not answer."""
        if not self._connected:
            return {}
        return self._progress.ends(self._reading)

    def partitions(self) -> frozenset[Partition]:
        """Assigned partitions that are being read."""
        return frozenset(self._reading)

    def commit(self, marks: Mapping[Partition, Mark]) -> None:
        """Tell the group, never backwards; a failure is logged, and the next commit says more."""
        ahead = {p: m for p, m in marks.items() if p in self._reading and m.next > self._committed.get(p, -1)}
        if self._consumer is None or not ahead or not self._connected:
            return
        try:
            offsets = {
                TopicPartition(*p): OffsetAndMetadata(m.next, metadata(m), -1) for p, m in ahead.items()
            }
            self._consumer.commit(offsets, timeout_ms=REQUEST_MS)
            self._committed.update({p: m.next for p, m in ahead.items()})
        except Exception as error:  # the state is durable already; the group may lag behind it
            log.warning("group offsets not committed, will try again", error=say(error))

    @property
    def connected(self) -> bool:
        """Whether the broker answered lately."""
        return self._connected

    @property
    def finished(self) -> bool:
        """Never: a topic has no end."""
        return False

    def close(self) -> None:
        """Leave the group and drop the client."""
        consumer, self._consumer = self._consumer, None
        self._connected = False
        if consumer is not None:
            try:
                consumer.close(autocommit=False, timeout_ms=2_000)
            except Exception as error:
                log.warning("client did not close cleanly", error=say(error))
        for forgotten in (self._notes, self._waiting, self._reading, self._poisoned, self._committed):
            forgotten.clear()
        self._progress.forget_ends()

    # -- client ------------------------------------------------------------------------------------

    def _join(self) -> None:
        self._consumer.subscribe(self._topics, listener=Listener(self._consumer, self._notes))

    def _reconnect(self, timeout_s: float, now_s: float) -> bool:
        """A new client in the place of one that was given up, patiently."""
        if now_s < self._retry_at:
            time.sleep(min(timeout_s, self._retry_at - now_s))
            return False
        try:
            self._consumer = open_consumer(self._config, self._options, self._instance)
            self._join()
        except (StartError, KafkaError) as error:
            self._failures += 1
            self._retry_at = now_s + min(MAX_BACKOFF_S, 2.0 ** min(self._failures, 6))
            log.warning("broker not reached, will try again", error=say(error), failures=self._failures)
            return False
        self._connected = True
        self._progress.hear(now_s)
        return True

    def _give_up(self, now_s: float) -> None:
        """Drop the client; a new one resumes from our own positions."""
        self.close()
        self._failures += 1
        self._retry_at = now_s + min(MAX_BACKOFF_S, 2.0 ** min(self._failures - 1, 6))

    def _recover(self, error: Exception, now_s: float) -> None:
        """Make the next poll safe, losing nothing and skipping no good record."""
        try:
            if isinstance(error, OffsetOutOfRangeError):
                self._hold([Partition(*tp) for tp in error.args[0]])
            elif isinstance(error, RetriableError):
                self._connected = False
                log.warning("broker does not answer, will try again", error=say(error))
            elif not isinstance(error, KafkaError) or isinstance(error, _UNDECODABLE):
                here = {p: self._progress.positions[p] for p in self._reading}
                if not self._poisoned.find(self._consumer, here):
                    raise error
            else:
                raise error
        except Exception as deeper:
            log.error("client given up, making a new one", error=say(deeper))
            self._give_up(now_s)

    # -- partitions --------------------------------------------------------------------------------

    def _take_notes(self, now_s: float) -> None:
        """What the listener wrote down on the I/O thread."""
        while self._notes:
            what, partitions = self._notes.popleft()
            log.info("partitions " + what, partitions=[name_of(p) for p in partitions])
            self._reading.difference_update(partitions)
            self._waiting.difference_update(partitions)
            for p in partitions:
                self._poisoned.forget(p)
                self._committed.pop(p, None)
                self._progress.forget_end(p, now_s)
            if what == "assigned":
                self._waiting.update(partitions)

    def _placement(self) -> Placement:
        return Placement(self._config, self._consumer, self._progress.positions)

    def _place(self, now_s: float) -> None:
        """Let waiting partitions go from where they are to begin; who cannot begin waits on, alone."""
        if not self._waiting:
            return
        placement = self._placement()
        for retained in placement.retained(sorted(self._waiting)):
            partition = retained.partition
            try:
                begin = placement.beginning(retained)
            except StartError as error:
                log.error("partition is not read", error=str(error))
                continue
            at = begin.at
            if begin.of_group and self._knew_nothing and begin.wanted > 0:
                self._skip(partition, 0, begin.wanted, Reason.STATE_LOST)
            if at > begin.wanted:
                self._skip(partition, begin.wanted, at, Reason.NOT_RETAINED)
            if begin.floor_ms > NO_TIME:
                self._skipped.append(replace(_nothing(partition, at), floor_ms=begin.floor_ms))
            self._consumer.seek(TopicPartition(*partition), at)
            self._consumer.resume(TopicPartition(*partition))
            self._waiting.discard(partition)
            self._reading.add(partition)
            self._progress.move(partition, at, retained.end, now_s)

    def _hold(self, partitions: Sequence[Partition]) -> None:
        """Let them wait for a new place."""
        for partition in partitions:
            self._consumer.pause(TopicPartition(*partition))
            self._reading.discard(partition)
            self._waiting.add(partition)

    def _skip(self, partition: Partition, first: int, beyond: int, reason: Reason) -> None:
        """Go past a range, and say so."""
        log.error(
            "records skipped", partition=name_of(partition), first=first, last=beyond - 1, reason=reason
        )
        self._rejected.append(Rejected(partition, first, reason, None, last_offset=beyond - 1))
        self._skipped.append(_nothing(partition, beyond))

    def _passed(self, partition: Partition, first: int, beyond: int) -> None:
        self._progress.positions[partition] = beyond
        self._skip(partition, first, beyond, Reason.POISON_BATCH)

    # -- records -----------------------------------------------------------------------------------

    def _batch(self, tp: Any, records: list[Any], now_s: float) -> RawBatch:  # noqa: ANN401 # untyped client
        chunks: list[Chunk] = [record.value for record in records]
        partition = Partition(*tp)
        stamps = np.concatenate([chunk.timestamps for chunk in chunks])
        offsets: Int64s = np.concatenate([chunk.offsets for chunk in chunks])
        headers: list[Headers] | None = None
        if any(chunk.headers for chunk in chunks):
            headers = [h for chunk in chunks for h in chunk.headers or [()] * len(chunk)]
        position = int(offsets[-1]) + 1
        end = max(self._consumer.highwater(tp) or 0, position)
        self._progress.move(partition, position, end, now_s)
        return RawBatch(
            partition,
            offsets,
            # Kafka bounds a producer's time stamp by its own clock, so either kind will do.
            np.where(stamps > 0, stamps, NO_TIME),
            position,
            values=[value for chunk in chunks for value in chunk.values],
            keys=[key for chunk in chunks for key in chunk.keys],
            headers=headers,
        )

    def _look_around(self, now_s: float, *, heard: bool) -> None:
        """Once a second: who moved without records, who is caught up, whether the broker still answers."""
        if heard:
            self._hear(now_s)
        if not self._progress.look(now_s):
            return
        sound = self._reading - self._poisoned.partitions
        for partition, at in self._progress.without_records(self._consumer, sound, now_s):
            self._skipped.append(_nothing(partition, at))
        doubtful = self._progress.doubtful(self._reading, now_s)
        if doubtful is not None:
            self._ask(doubtful, now_s)

    def _ask(self, doubtful: list[Partition], now_s: float) -> None:
        ends = ends_of(self._consumer, doubtful or [Partition(self._topics[0], 0)])
        self._hear(now_s)
        self._progress.tell_ends({p: ends[p] for p in doubtful})
        stalled = self._progress.stalled([p for p in doubtful if p not in self._poisoned.partitions], now_s)
        if stalled:
            log.error("partitions stalled, making a new client", partitions=[name_of(p) for p in stalled])
            self._give_up(now_s)

    def _hear(self, now_s: float) -> None:
        self._connected, self._failures = True, 0
        self._progress.hear(now_s)


def _nothing(partition: Partition, position: int) -> RawBatch:
    """No records, but a position to remember."""
    none = np.empty(0, dtype=np.int64)
    return RawBatch(partition, none, none, position)
