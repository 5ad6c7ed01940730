"""Records from Kafka, as a member of a consumer group that keeps its own positions.

What kafka-python needs to be correct, and where it is done:

- the client never decodes, commits or resets by itself, and creates no topics: `_open`;
- its listener runs on the I/O thread, so it pauses what is assigned, at a placeholder, and leaves a note;
  the polling thread looks up where to begin and lets the partition go: `_place`;
- the state's positions win over the group's, which forgets after a week: `_beginning`;
- after an error inside a batch the next poll would hang: `_recover` finds the batch and skips it as a range;
- a partition may stall in silence, and a lost broker raises nothing: `_look_around` asks and starts afresh.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import structlog
from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import (
    AuthorizationError,
    CorruptRecordError,
    IllegalSaslStateError,
    KafkaError,
    KafkaTimeoutError,
    OffsetOutOfRangeError,
    RetriableError,
    SaslAuthenticationFailedError,
    UnsupportedCodecError,
    UnsupportedSaslMechanismError,
)
from kafka.net.compat import KafkaNetClient
from kafka.structs import OffsetAndMetadata

from agent.config import KafkaConfig
from agent.errors import StartError
from agent.events import NO_TIME, Int64s, Partition, RawBatch, Reason, Rejected
from agent.ingest.client import client_options, connection_errors
from agent.ingest.poison import search

CONNECT_MS = 5_000
REQUEST_MS = 5_000
ASK_MS = 2_000
LOOK_AROUND_S = 1.0
ASK_S = 5.0
"""How long without a record before the broker is asked where its ends are."""
STALLED_S = 60.0
"""A partition that has more to read and does not move for so long gets a new client."""
MAX_BACKOFF_S = 30.0
_UNDECODABLE = (CorruptRecordError, UnsupportedCodecError)
_REFUSED = (
    AuthorizationError,
    IllegalSaslStateError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)

log = structlog.get_logger(__name__)


class BrokerUnreachable(StartError):
    """No broker answers; unlike every other StartError this one may pass by itself."""


class KafkaSource:
    """The partitions of `topics` that the group gives to this agent.

    `instance` names a member that comes back (static membership, KIP-345): after a crash it gets its
    partitions at once, where a stranger would wait for the dead member's session to end.
    """

    def __init__(self, config: KafkaConfig, topics: Sequence[str], instance: str | None = None) -> None:
        self._config = config
        self._instance = instance
        self._topics = tuple(dict.fromkeys(topics))
        self._options = client_options(config)
        self._consumer: Any = None
        self._notes: deque[tuple[str, list[Partition]]] = deque()
        self._positions: dict[Partition, int] = {}
        self._waiting: set[Partition] = set()
        """Assigned, and not yet let go: where to begin is not known."""
        self._reading: set[Partition] = set()
        self._poisoned: dict[Partition, tuple[int, int]] = {}
        """First offset of an undecodable batch, and where the search for its end goes on."""
        self._ends: dict[Partition, int] = {}
        self._committed: dict[Partition, int] = {}
        self._rejected: list[Rejected] = []
        self._skipped: list[RawBatch] = []
        self._connected = False
        self._failures = 0
        self._retry_at = 0.0
        self._moved: dict[Partition, float] = {}
        self._looked_at = 0.0
        self._heard_at = 0.0
        self._asked_at = 0.0

    def start(self, positions: Mapping[Partition, int]) -> None:
        """Connect, check topics and positions, and join the group; see Source.start."""
        self.close()
        self._positions = {p: at for p, at in positions.items() if p.topic in self._topics}
        self._consumer = self._open()
        try:
            self._check_start()
            self._consumer.subscribe(self._topics, listener=_Listener(self._consumer, self._notes))
        except KafkaError as error:
            self.close()
            if isinstance(error, AuthorizationError):
                raise StartError(self._refused(error)) from error
            raise BrokerUnreachable(self._unreachable(error)) from error
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
            self._search_on()
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
        return frozenset(p for p in self._reading if self._positions[p] >= self._ends.get(p, 2**63))

    def partitions(self) -> frozenset[Partition]:
        """Assigned partitions that are being read."""
        return frozenset(self._reading)

    def commit(self, positions: Mapping[Partition, int]) -> None:
        """Tell the group, never backwards; a failure is logged, and the next commit says more."""
        ahead = {
            p: at for p, at in positions.items() if p in self._reading and at > self._committed.get(p, -1)
        }
        if self._consumer is None or not ahead or not self._connected:
            return
        try:
            offsets = {TopicPartition(*p): OffsetAndMetadata(at, "", -1) for p, at in ahead.items()}
            self._consumer.commit(offsets, timeout_ms=REQUEST_MS)
            self._committed.update(ahead)
        except Exception as error:  # the state is durable already; the group may lag behind it
            log.warning("group offsets not committed, will try again", error=_say(error))

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
                log.warning("client did not close cleanly", error=_say(error))
        for forgotten in (
            self._notes,
            self._waiting,
            self._reading,
            self._poisoned,
            self._ends,
            self._committed,
        ):
            forgotten.clear()

    # -- client ------------------------------------------------------------------------------------

    def _open(self) -> Any:  # noqa: ANN401 # untyped client
        """A connected client; StartError says what refused it."""
        clients: list[Any] = []

        def client(**options: Any) -> Any:  # noqa: ANN401 # untyped client
            clients.append(KafkaNetClient(**options))
            return clients[-1]

        with connection_errors() as causes:
            try:
                return KafkaConsumer(
                    **self._consumer_options(),
                    group_id=self._config.group_id,
                    group_instance_id=self._instance,
                    partition_assignment_strategy=[CooperativeStickyAssignor],
                    kafka_client=client,
                )
            except Exception as error:
                for half_open in clients:
                    half_open.close()
                refused = next((c for c in causes if isinstance(c, _REFUSED)), None)
                if refused is not None or isinstance(error, _REFUSED):
                    raise StartError(self._refused(refused or error)) from error
                cause = next((c for c in reversed(causes) if not isinstance(c, KafkaTimeoutError)), error)
                if isinstance(error, KafkaTimeoutError):
                    raise BrokerUnreachable(self._unreachable(cause)) from error
                raise StartError(f"{self._where()}: {_say(cause)}. Check the kafka section.") from error

    def _consumer_options(self) -> dict[str, Any]:
        return {
            **self._options,
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            "isolation_level": "read_committed",
            "allow_auto_create_topics": False,
            "max_poll_records": self._config.max_poll_records,
            "fetch_max_bytes": 16 << 20,
            "max_partition_fetch_bytes": 2 << 20,
            "bootstrap_timeout_ms": CONNECT_MS,
        }

    def _check_start(self) -> None:
        """Topics exist, positions are retained, and with `start: fail` every partition has a position."""
        existing = self._consumer.topics()
        missing = [topic for topic in self._topics if topic not in existing]
        if missing:
            raise StartError(
                f"{self._where()}: no topic {', '.join(missing)} (or this user may not see it). "
                "Create it, grant Describe and Read, or correct sources.topics."
            )
        here = [
            Partition(topic, number)
            for topic in self._topics
            for number in sorted(self._consumer.partitions_for_topic(topic))
        ]
        if gone := sorted(set(self._positions) - set(here)):
            raise StartError(
                f"{_name(gone[0])}: the state has a position in it, but it is gone; was the topic made anew? "
                "Start with a new state.dir."
            )
        known = [TopicPartition(*p) for p in here if p in self._positions]
        strict = self._config.start == "fail"
        asked = [TopicPartition(*p) for p in here] if strict else known
        if not asked:
            return
        first, end = self._bounds(asked)
        for tp in asked:
            self._beginning(Partition(*tp), first[tp], end[tp], strict=strict)

    def _reconnect(self, timeout_s: float, now_s: float) -> bool:
        """A new client in the place of one that was given up, patiently."""
        if now_s < self._retry_at:
            time.sleep(min(timeout_s, self._retry_at - now_s))
            return False
        try:
            self._consumer = self._open()
            self._consumer.subscribe(self._topics, listener=_Listener(self._consumer, self._notes))
        except (StartError, KafkaError) as error:
            self._failures += 1
            self._retry_at = now_s + min(MAX_BACKOFF_S, 2.0 ** min(self._failures, 6))
            log.warning("broker not reached, will try again", error=_say(error), failures=self._failures)
            return False
        self._connected, self._heard_at = True, now_s
        return True

    def _give_up(self, now_s: float) -> None:
        """Drop the client; a new one resumes from our own positions."""
        self.close()
        self._failures += 1
        self._retry_at = now_s + min(MAX_BACKOFF_S, 2.0 ** min(self._failures - 1, 6))

    # -- partitions --------------------------------------------------------------------------------

    def _take_notes(self, now_s: float) -> None:
        """What the listener wrote down on the I/O thread."""
        while self._notes:
            what, partitions = self._notes.popleft()
            log.info("partitions " + what, partitions=[_name(p) for p in partitions])
            self._reading.difference_update(partitions)
            self._waiting.difference_update(partitions)
            for p in partitions:
                self._poisoned.pop(p, None)
                self._committed.pop(p, None)
                self._ends.pop(p, None)
                self._moved[p] = now_s
            if what == "assigned":
                self._waiting.update(partitions)

    def _place(self, now_s: float) -> None:
        """Let waiting partitions go from where they are to begin; who cannot begin waits on, alone."""
        if not self._waiting:
            return
        waiting = [TopicPartition(*p) for p in sorted(self._waiting)]
        first, end = self._bounds(waiting)
        for tp in waiting:
            partition = Partition(*tp)
            try:
                at = self._beginning(partition, first[tp], end[tp], strict=self._config.start == "fail")
            except StartError as error:
                log.error("partition is not read", error=str(error))
                continue
            if at > self._positions.get(partition, at):
                self._skip(partition, self._positions[partition], at, Reason.NOT_RETAINED)
            self._consumer.seek(tp, at)
            self._consumer.resume(tp)
            self._waiting.discard(partition)
            self._reading.add(partition)
            self._positions[partition] = at
            self._ends[partition] = end[tp]
            self._moved[partition] = now_s

    def _bounds(self, partitions: list[Any]) -> tuple[dict[Any, int], dict[Any, int]]:
        return (
            self._consumer.beginning_offsets(partitions, timeout_ms=REQUEST_MS),
            self._consumer.end_offsets(partitions, timeout_ms=REQUEST_MS),
        )

    def _beginning(self, partition: Partition, first: int, end: int, *, strict: bool) -> int:
        """Where to begin: the state's position, else the group's, else by the `start` policy."""
        at = self._positions.get(partition)
        whose = "the state"
        if at is None:
            whose = f"group {self._config.group_id}"
            at = self._consumer.committed(TopicPartition(*partition), timeout_ms=REQUEST_MS)
        if at is None:
            if strict:
                raise StartError(
                    f"{_name(partition)}: neither the state nor {whose} knows where to begin; kafka.start "
                    "is fail. Set it to earliest or latest for the first start."
                )
            return first if self._config.start == "earliest" else end
        if at > end:
            raise StartError(
                f"{_name(partition)}: {whose} is at {at}, but the broker ends at {end}; was the topic made "
                "anew? Start with a new state.dir and group_id."
            )
        if at < first and strict:
            raise StartError(
                f"{_name(partition)}: {whose} is at {at}, but the broker retains only {first} and later. "
                f"Set kafka.start to earliest to go on without {first - at} records."
            )
        return max(at, first)

    def _skip(self, partition: Partition, first: int, beyond: int, reason: Reason) -> None:
        """Go past a range, and say so."""
        log.error("records skipped", partition=_name(partition), first=first, last=beyond - 1, reason=reason)
        self._rejected.append(Rejected(partition, first, reason, None, last_offset=beyond - 1))
        self._skipped.append(_nothing(partition, beyond))

    # -- records -----------------------------------------------------------------------------------

    def _batch(self, tp: Any, records: list[Any], now_s: float) -> RawBatch:  # noqa: ANN401 # untyped client
        columns = ConsumerRecord(*zip(*records, strict=True))  # a record of columns
        partition = Partition(*tp)
        stamps = np.array(columns.timestamp, dtype=np.int64)
        offsets: Int64s = np.array(columns.offset, dtype=np.int64)
        headers = None
        if any(columns.headers):
            headers = [[(k, v) for k, v in h or () if v is not None] for h in columns.headers]
        self._positions[partition] = position = int(offsets[-1]) + 1
        self._moved[partition] = now_s
        self._ends[partition] = max(self._consumer.highwater(tp) or 0, position)
        return RawBatch(
            partition,
            offsets,
            # Kafka bounds a producer's time stamp by its own clock, so either kind will do.
            np.where(stamps > 0, stamps, NO_TIME),
            position,
            values=columns.value,
            keys=columns.key,
            headers=headers,
        )

    def _look_around(self, now_s: float, *, heard: bool) -> None:
        """Once a second: who moved without records, who is caught up, whether the broker still answers."""
        if heard:
            self._heard_at, self._connected, self._failures = now_s, True, 0
        if now_s - self._looked_at < LOOK_AROUND_S:
            return
        self._looked_at = now_s
        idle = [p for p in self._reading if self._moved[p] < now_s and p not in self._poisoned]
        for partition in idle:
            at = self._consumer.position(TopicPartition(*partition), timeout_ms=0)
            if at is not None and at > self._positions[partition]:  # transaction markers, aborted records
                self._positions[partition] = at
                self._moved[partition] = now_s
                self._skipped.append(_nothing(partition, at))
        still = [p for p in self._reading if now_s - self._moved[p] >= ASK_S]
        silent = now_s - self._heard_at >= ASK_S
        behind = any(self._positions[p] < self._ends[p] for p in still)
        if now_s - self._asked_at >= ASK_S and (silent or behind):
            self._asked_at = now_s
            self._ask(still, now_s)

    def _ask(self, still: list[Partition], now_s: float) -> None:
        """Where the ends are now; under an open transaction they lie before the high watermark."""
        asked = [TopicPartition(*p) for p in still] or [TopicPartition(self._topics[0], 0)]
        ends = self._consumer.end_offsets(asked, timeout_ms=ASK_MS)
        self._heard_at, self._connected, self._failures = now_s, True, 0
        self._ends.update({p: ends[TopicPartition(*p)] for p in still})
        behind = [p for p in still if self._positions[p] < self._ends[p] and p not in self._poisoned]
        if any(now_s - self._moved[p] >= STALLED_S for p in behind):
            log.error("partitions stalled, making a new client", partitions=[_name(p) for p in behind])
            self._moved.update(dict.fromkeys(behind, now_s))
            self._give_up(now_s)

    # -- trouble -----------------------------------------------------------------------------------

    def _recover(self, error: Exception, now_s: float) -> None:
        """Make the next poll safe, losing nothing and skipping no good record."""
        try:
            if isinstance(error, OffsetOutOfRangeError):
                self._hold(Partition(*tp) for tp in error.args[0])
            elif isinstance(error, RetriableError):
                self._connected = False
                log.warning("broker does not answer, will try again", error=_say(error))
            elif not isinstance(error, KafkaError) or isinstance(error, _UNDECODABLE):
                if not self._find_poison():
                    raise error
            else:
                raise error
        except Exception as deeper:
            log.error("client given up, making a new one", error=_say(deeper))
            self._give_up(now_s)

    def _hold(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            self._consumer.pause(TopicPartition(*partition))
            self._reading.discard(partition)
            self._waiting.add(partition)

    def _find_poison(self) -> bool:
        """Which partitions cannot be decoded where they are; each is set aside until its batch is passed."""
        found = False
        for partition in sorted(self._reading - self._poisoned.keys()):
            first = self._positions[partition]
            probe = search(self._consumer_options(), TopicPartition(*partition), first)
            if probe.error is not None:
                found = True
                log.error("undecodable batch", at=_name(partition), offset=first, error=_say(probe.error))
                self._consumer.pause(TopicPartition(*partition))
                self._set_aside(partition, first, probe.offset, probe.passed)
        return found

    def _search_on(self) -> None:
        for partition, (first, offset) in list(self._poisoned.items()):
            probe = search(self._consumer_options(), TopicPartition(*partition), offset)
            self._set_aside(partition, first, probe.offset, probe.passed)

    def _set_aside(self, partition: Partition, first: int, offset: int, passed: bool) -> None:
        tp = TopicPartition(*partition)
        self._consumer.seek(
            tp, offset
        )  # another offset than before: what makes the client let go of the batch
        if passed:
            self._poisoned.pop(partition, None)
            self._positions[partition] = offset
            self._skip(partition, first, offset, Reason.POISON_BATCH)
            self._consumer.resume(tp)
        else:
            self._poisoned[partition] = (first, offset)

    # -- words -------------------------------------------------------------------------------------

    def _where(self) -> str:
        return f"Kafka at {self._config.bootstrap_servers}"

    def _unreachable(self, cause: Exception) -> str:
        return (
            f"{self._where()} cannot be reached: {_say(cause)}. "
            "Check kafka.bootstrap_servers, kafka.security_protocol, and that the broker is up."
        )

    def _refused(self, cause: Exception) -> str:
        return (
            f"{self._where()} refuses user {self._config.sasl_username}: {_say(cause)}. "
            "Check kafka.sasl_username, kafka.sasl_mechanism and the password's file or variable."
        )


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc] # untyped client
    """Runs on the client's I/O thread: no call that waits, no state of ours but the notes."""

    def __init__(self, consumer: Any, notes: deque[tuple[str, list[Partition]]]) -> None:  # noqa: ANN401
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


def _nothing(partition: Partition, position: int) -> RawBatch:
    """No records, but a position to remember."""
    none = np.empty(0, dtype=np.int64)
    return RawBatch(partition, none, none, position)


def _name(partition: Partition) -> str:
    return f"{partition.topic}[{partition.partition}]"


def _say(error: Exception) -> str:
    """An error in words; of foreign ones only the kind, since their text may quote a payload."""
    if isinstance(error, KafkaError | StartError):
        return str(error)  # begins with its kind
    return f"{type(error).__name__}: {error.strerror}" if isinstance(error, OSError) else type(error).__name__
