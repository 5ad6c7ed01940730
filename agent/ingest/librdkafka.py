"""The consumer of confluent-kafka, dressed as the part of kafka-python's that the source uses.

librdkafka fetches and decodes outside the interpreter lock. The source, its placement and its errors stay
the same: this says to librdkafka what they say to the other client, and back. Where the two differ:

- it can seek only where it already fetches: a seek is kept until the partition is resumed;
- it has no position past transaction markers: the end-of-partition event brings one;
- its callbacks run inside `poll`, on the thread that polls.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from confluent_kafka import (
    OFFSET_END,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka import KafkaError as Fault
from kafka import ConsumerRebalanceListener
from kafka import TopicPartition as Place
from kafka.errors import (
    CorruptRecordError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    OffsetOutOfRangeError,
    SaslAuthenticationFailedError,
    UnsupportedCodecError,
    for_code,
)
from kafka.structs import OffsetAndMetadata

from agent.config import KafkaConfig
from agent.ingest.records import Chunk
from agent.ingest.tls import key_password

_NAMES = {
    "client_id": "client.id",
    "security_protocol": "security.protocol",
    "sasl_mechanism": "sasl.mechanisms",
    "sasl_plain_username": "sasl.username",
    "sasl_plain_password": "sasl.password",
    "reconnect_backoff_max_ms": "reconnect.backoff.max.ms",
    "isolation_level": "isolation.level",
    "fetch_max_bytes": "fetch.max.bytes",
    "max_partition_fetch_bytes": "max.partition.fetch.bytes",
}
"""kafka-python's options in the other's words; those that are not here are its own affair or fixed below."""
_FIXED = {
    "enable.auto.commit": False,
    "auto.offset.reset": "error",
    "allow.auto.create.topics": False,
    "partition.assignment.strategy": "cooperative-sticky",
    "enable.partition.eof": True,
    "check.crcs": True,
}
_LOCAL: dict[int, type[KafkaError]] = {
    Fault._TRANSPORT: KafkaConnectionError,
    Fault._ALL_BROKERS_DOWN: KafkaConnectionError,
    Fault._RESOLVE: KafkaConnectionError,
    Fault._SSL: KafkaConnectionError,
    Fault._UNKNOWN_PARTITION: KafkaConnectionError,  # it has no leader: its broker is down
    Fault._WAIT_COORD: KafkaConnectionError,
    Fault._TIMED_OUT: KafkaTimeoutError,
    Fault._AUTHENTICATION: SaslAuthenticationFailedError,
    Fault._BAD_MSG: CorruptRecordError,
    Fault._BAD_COMPRESSION: CorruptRecordError,
    Fault._NOT_IMPLEMENTED: UnsupportedCodecError,
}
SEEKS, SEEK_S = 250, 0.02
"""How often, and how far apart, a seek is tried."""
_log = logging.getLogger("plumbline.librdkafka")
_log.propagate = False  # each attempt to connect is a line there; what matters comes as an error
_log.addHandler(logging.NullHandler())


class LibrdkafkaConsumer:
    """A member of a group. Raises kafka-python's errors; `causes` gets those that only callbacks are told."""

    def __init__(
        self, config: KafkaConfig, options: Mapping[str, Any], instance: str | None, causes: list[Exception]
    ) -> None:
        known = {_NAMES[name]: value for name, value in options.items() if name in _NAMES}
        self._most = int(options["max_poll_records"])
        self._causes = causes
        self._wanted: dict[Place, int] = {}
        """Where to go on at the next resume."""
        self._fault: KafkaError | None = None
        self._passed: dict[Place, int] = {}
        """The position behind the last record, or at the end of the partition."""
        self._client = Consumer(
            {
                **known,
                **_FIXED,
                **_files(config),
                **({"group.instance.id": instance} if instance else {}),
                "bootstrap.servers": ",".join(options["bootstrap_servers"]),
                "group.id": config.group_id,
                "error_cb": self._note,
            },
            logger=_log,
        )
        self._metadata(int(options["bootstrap_timeout_ms"]))

    def _note(self, fault: Fault) -> None:
        self._causes.append(_error(fault))

    # what there is

    def topics(self) -> set[str]:
        """All topics that this user may see."""
        return set(self._metadata(5_000))

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        """The numbers of its partitions; None if there is no such topic."""
        found = self._metadata(5_000).get(topic)
        return None if found is None else set(found.partitions)

    def _metadata(self, timeout_ms: int) -> dict[str, Any]:
        return dict(_asked(self._client.list_topics, timeout=timeout_ms / 1000).topics)

    def beginning_offsets(self, places: Iterable[Place], timeout_ms: int) -> dict[Place, int]:
        """The first retained offset of each."""
        return {place: self._retained(place, timeout_ms)[0] for place in places}

    def end_offsets(self, places: Iterable[Place], timeout_ms: int) -> dict[Place, int]:
        """The offset behind the last committed record of each."""
        return {place: self._retained(place, timeout_ms)[1] for place in places}

    def _retained(self, place: Place, timeout_ms: int) -> tuple[int, int]:
        found = _asked(self._client.get_watermark_offsets, TopicPartition(*place), timeout=timeout_ms / 1000)
        if found is None:
            raise KafkaTimeoutError(f"{place.topic}[{place.partition}]: no answer")
        first, end = found
        return first, end

    def highwater(self, place: Place) -> int | None:
        """The end as the last fetch told it."""
        _, end = self._client.get_watermark_offsets(TopicPartition(*place), cached=True)
        return end if end >= 0 else None

    # where it is

    def subscribe(self, topics: Sequence[str], listener: ConsumerRebalanceListener) -> None:
        """Join the group; what is assigned waits for the listener's word."""

        def assigned(client: Consumer, found: list[TopicPartition]) -> None:
            client.incremental_assign([TopicPartition(p.topic, p.partition, OFFSET_END) for p in found])
            listener.on_partitions_assigned(_places(found))

        self._client.subscribe(
            list(topics),
            on_assign=assigned,
            on_revoke=lambda _, found: listener.on_partitions_revoked(_places(found)),
            on_lost=lambda _, found: listener.on_partitions_lost(_places(found)),
        )

    def seek(self, place: Place, offset: int) -> None:
        """Go on there when the partition is resumed."""
        self._wanted[place] = offset

    def pause(self, place: Place) -> None:
        """Fetch no more of it."""
        _asked(self._client.pause, [TopicPartition(*place)])

    def resume(self, place: Place) -> None:
        """Fetch on, from where it was sought."""
        if place in self._wanted:
            self._seek(TopicPartition(place.topic, place.partition, self._wanted[place]))
            self._passed[place] = self._wanted.pop(place)
        _asked(self._client.resume, [TopicPartition(*place)])

    def _seek(self, place: TopicPartition) -> None:
        """A partition that was just assigned is not fetched yet, and cannot be sought until it is."""
        for patience in reversed(range(SEEKS)):
            try:
                self._client.seek(place)
            except KafkaException as error:
                if error.args[0].code() != Fault._STATE or not patience:
                    raise _error(error.args[0]) from error
                time.sleep(SEEK_S)
            else:
                return

    def position(self, place: Place, timeout_ms: int = 0) -> int | None:
        """The next offset to read, as far as it is known."""
        return self._passed.get(place)

    def committed(self, place: Place, timeout_ms: int, metadata: bool = False) -> Any:  # noqa: ANN401
        """The group's offset, or None; with its metadata where asked for."""
        (found,) = _asked(self._client.committed, [TopicPartition(*place)], timeout=timeout_ms / 1000)
        if found.error is not None:
            raise _error(found.error)
        if found.offset < 0:
            return None
        return OffsetAndMetadata(found.offset, found.metadata or "", -1) if metadata else found.offset

    def commit(self, offsets: Mapping[Place, OffsetAndMetadata], timeout_ms: int) -> None:
        """Tell the group."""
        told = [
            TopicPartition(p.topic, p.partition, at.offset, metadata=at.metadata) for p, at in offsets.items()
        ]
        for one in _asked(self._client.commit, offsets=told, asynchronous=False):
            if one.error is not None:
                raise _error(one.error)

    # what comes

    def poll(self, timeout_ms: int) -> dict[Place, list[Any]]:
        """Records by partition, each time as the single value that the source expects.

        Behind a fault nothing of its partition is given, for librdkafka would go on past it. It is raised at
        once, or else by the next call.
        """
        self._raise_fault()
        held: dict[Place, list[Message]] = {}
        faulty: set[Place] = set()
        for message in _asked(self._client.consume, self._most, timeout=timeout_ms / 1000):
            place, error = Place(message.topic(), message.partition()), message.error()
            if error is None:
                if place not in faulty:
                    held.setdefault(place, []).append(message)
            elif error.code() == Fault._PARTITION_EOF:
                self._passed[place] = message.offset()
            else:
                faulty.add(place)
                self._fault = self._fault or _fault(message, error)
        if not held:
            self._raise_fault()
        found = {}
        for place, messages in held.items():
            chunk = _chunk(messages)
            self._passed[place] = max(self._passed.get(place, 0), int(chunk.offsets[-1]) + 1)
            found[place] = [SimpleNamespace(value=chunk)]
        return found

    def _raise_fault(self) -> None:
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault

    def close(self, *, autocommit: bool, timeout_ms: int) -> None:
        """Leave the group."""
        self._client.close()


def _files(config: KafkaConfig) -> dict[str, str]:
    """Whom it trusts and who it is; librdkafka reads the files itself, when it is made."""
    if not config.security_protocol.endswith("SSL"):
        return {}
    paths = {
        "ssl.ca.location": config.ssl_cafile,
        "ssl.certificate.location": config.ssl_certfile,
        "ssl.key.location": config.ssl_keyfile or config.ssl_certfile,
    }
    found = {name: str(path) for name, path in paths.items() if path is not None}
    if config.ssl_certfile is not None and (password := key_password(config)):
        found["ssl.key.password"] = password
    return found


def _chunk(messages: Sequence[Any]) -> Chunk:
    stamps = [message.timestamp() for message in messages]
    headers = [message.headers() for message in messages]
    return Chunk(
        np.array([message.offset() for message in messages], dtype=np.int64),
        np.array([-1 if kind == TIMESTAMP_NOT_AVAILABLE else at for kind, at in stamps], dtype=np.int64),
        [message.key() for message in messages],
        [message.value() for message in messages],
        [[(k, v) for k, v in h or () if v is not None] for h in headers] if any(headers) else (),
    )


def _places(found: Iterable[TopicPartition]) -> list[Place]:
    return [Place(p.topic, p.partition) for p in found]


def _fault(message: Message, fault: Fault) -> KafkaError:
    if fault.code() in {Fault._AUTO_OFFSET_RESET, Fault.OFFSET_OUT_OF_RANGE}:
        return OffsetOutOfRangeError({Place(message.topic(), message.partition()): message.offset()})
    return _error(fault)


def _error(fault: Fault) -> KafkaError:
    """A broker's codes are those of the protocol, the client's own are below 0."""
    code = fault.code()
    kind = _LOCAL.get(code, KafkaError) if code < 0 else for_code(code)
    return kind(fault.str())


def _asked(what: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401
    try:
        return what(*args, **options)
    except KafkaException as error:
        raise _error(error.args[0]) from error
