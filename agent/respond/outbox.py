"""Committed messages on their way out: to Kafka, or to files where there is no broker.

A message is stored in the transaction that decided it, published after the commit, and deleted once a sink
has acknowledged it. A crash in between publishes it again, byte for byte and under the same key: delivery is
at least once, and a reader that remembers the event's `id` (a dead letter's key) sees it once in effect.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import structlog

from agent.events import Rejected
from agent.failpoint import failpoint
from agent.respond.request import encode

_log = structlog.get_logger()

MAX_KEPT_PAYLOAD = 900_000
"""A larger payload is hashed even where the policy keeps it: the broker would refuse the message."""

MAX_HEADER = 249
"""Bytes of a header's value; a topic's name is no longer."""


class Outgoing(NamedTuple):
    """A message without its place in the outbox and its topic, which the caller knows."""

    key: bytes
    headers: tuple[tuple[str, bytes], ...]
    value: bytes | None


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """A message with its place in the outbox."""

    id: int
    topic: str
    key: bytes
    headers: tuple[tuple[str, bytes], ...]
    value: bytes | None


class Sink(Protocol):
    """Where messages go."""

    def publish(self, messages: Sequence[OutboxMessage]) -> list[int]:
        """Send what can be sent in bounded time, and return the ids of the messages that are done with.

        The caller offers the rest again later, oldest first; so order holds only while nothing fails. Never
        raises because the other end is down, full or missing.
        """

    @property
    def refused(self) -> int:
        """Messages that were given up, and returned as done, because they can never be accepted."""

    def close(self) -> None:
        """Release everything; bounded to a few seconds."""


def event_message(event: Mapping[str, Any]) -> Outgoing:
    """A CloudEvent in structured mode, keyed by its subject so that a model's events stay in order."""
    headers = (("content-type", b"application/cloudevents+json; charset=utf-8"),)
    return Outgoing(_bytes(str(event["subject"])), headers, encode(event))


def dead_letter_message(rejected: Rejected, policy: Literal["keep", "hash", "drop"]) -> Outgoing:
    """A record that could not be used: where it lies and why in the headers, its payload as the policy says.

    Headers hold nothing of the payload. The key is the record's place, so that a repetition is recognised.
    """
    topic, partition, offset = rejected.partition.topic, rejected.partition.partition, rejected.offset
    headers = [
        ("plumbline-topic", _bytes(topic)[:MAX_HEADER]),
        ("plumbline-partition", b"%d" % partition),
        ("plumbline-offset", b"%d" % offset),
        ("plumbline-reason", rejected.reason.value.encode()),
    ]
    if rejected.last_offset is not None:
        headers.append(("plumbline-last-offset", b"%d" % rejected.last_offset))
    value = rejected.value
    if value is not None and (policy == "hash" or (policy == "keep" and len(value) > MAX_KEPT_PAYLOAD)):
        headers.append(("plumbline-payload", b"sha256"))
        value = hashlib.sha256(value).hexdigest().encode()
    else:
        headers.append(("plumbline-payload", b"drop" if policy == "drop" else b"keep"))
        value = value if policy == "keep" else None
    return Outgoing(_bytes(f"{topic}/{partition}/{offset}"), tuple(headers), value)


class FileSink:
    """Appends JSON lines to one file per topic, and syncs: `{"key", "headers", "value" | "value_base64"}`.

    After a crash between the sync and the deletion from the outbox, the same message is written again with
    the same key and content. A line that a crash has torn is closed, not repaired: skip what does not parse.
    """

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = dict(paths)
        self._failing: set[str] = set()

    def publish(self, messages: Sequence[OutboxMessage]) -> list[int]:
        """Append and sync; a file that cannot be written keeps its messages in the outbox."""
        done: list[int] = []
        for topic, path in self._paths.items():
            mine = [message for message in messages if message.topic == topic]
            if mine and self._append(topic, path, b"".join(_line(message) for message in mine)):
                done += [message.id for message in mine]
        return done

    @property
    def refused(self) -> int:
        """A file takes everything."""
        return 0

    def close(self) -> None:
        """Nothing is held open."""

    def _append(self, topic: str, path: Path, data: bytes) -> bool:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _append_synced(path, data)
            failpoint("mid_outbox")
        except OSError as error:
            if topic not in self._failing:
                _log.error("outbox_file_failed", path=str(path), error=error.strerror)
            self._failing.add(topic)
            return False
        self._failing.discard(topic)
        return True


class Routed:
    """Sends each topic's messages to its own sink, and those of any other topic to the last resort."""

    def __init__(self, by_topic: Mapping[str, Sink], otherwise: Sink) -> None:
        self._by_topic = dict(by_topic)
        self._otherwise = otherwise

    def publish(self, messages: Sequence[OutboxMessage]) -> list[int]:
        """Each sink gets its own messages, in order."""
        done: list[int] = []
        for sink in self._sinks:
            mine = [m for m in messages if self._by_topic.get(m.topic, self._otherwise) is sink]
            if mine:
                done += sink.publish(mine)
        return done

    @property
    def refused(self) -> int:
        """Of all sinks."""
        return sum(sink.refused for sink in self._sinks)

    def close(self) -> None:
        """Close every sink."""
        for sink in self._sinks:
            sink.close()

    @property
    def _sinks(self) -> list[Sink]:
        return list({id(sink): sink for sink in (*self._by_topic.values(), self._otherwise)}.values())


def _append_synced(path: Path, data: bytes) -> None:
    """All of the data or none of it, as far as the disk plays along; on its own lines in any case."""
    with path.open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if end and (file.seek(end - 1), file.read(1))[1] != b"\n":
            data = b"\n" + data
        try:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def _line(message: OutboxMessage) -> bytes:
    line: dict[str, object] = {
        "key": message.key.decode("utf-8", "replace"),
        "headers": {name: value.decode("utf-8", "replace") for name, value in message.headers},
    }
    line |= _value(message.value)
    return encode(line) + b"\n"


def _value(value: bytes | None) -> dict[str, object]:
    if value is None:
        return {"value": None}
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return {"value_base64": base64.b64encode(value).decode()}
    try:
        parsed = json.loads(text, parse_constant=_refuse)
        # Only what says the same when it is written again is shown as JSON rather than as text.
        same = isinstance(parsed, dict) and encode(parsed) == value
    except (ValueError, RecursionError):
        same = False
    return {"value": parsed if same else text}


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
