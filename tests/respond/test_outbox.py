import base64
import hashlib
import json
import os
import resource
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.events import Partition, Reason, Rejected
from agent.respond.outbox import (
    MAX_KEPT_PAYLOAD,
    FileSink,
    OutboxMessage,
    _line,
    dead_letter_message,
    event_message,
)

SECRET = b'{"name":"Ada Lovelace","iban":"DE89370400440532013000"}'


def rejected(value: bytes | None = SECRET, topic: str = "predictions") -> Rejected:
    """A malformed record."""
    return Rejected(Partition(topic, 3), 41, Reason.MALFORMED_JSON, value)


def message(id_: int = 1, topic: str = "t", value: bytes | None = b'{"a":1}') -> OutboxMessage:
    """A message in the outbox."""
    return OutboxMessage(id_, topic, f"key-{id_}".encode(), (("content-type", b"application/json"),), value)


def lines(path: Path) -> list[dict[str, object]]:
    """The lines of a file that parse."""
    found = []
    for line in path.read_bytes().split(b"\n"):
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def test_a_dead_letter_says_where_and_why() -> None:
    """Topic, partition, offset and reason are in the headers, and the key is the record's place."""
    key, headers, _ = dead_letter_message(rejected(), "hash")
    assert key == b"predictions/3/41"
    assert dict(headers) == {
        "plumbline-topic": b"predictions",
        "plumbline-partition": b"3",
        "plumbline-offset": b"41",
        "plumbline-reason": b"malformed_json",
        "plumbline-payload": b"sha256",
    }


def test_the_payload_follows_the_policy() -> None:
    """Kept as it was, as its SHA-256, or not at all."""
    assert dead_letter_message(rejected(), "keep").value == SECRET
    assert dead_letter_message(rejected(), "hash").value == hashlib.sha256(SECRET).hexdigest().encode()
    assert dead_letter_message(rejected(), "drop").value is None


@pytest.mark.parametrize("policy", ["hash", "drop"])
def test_no_personal_data_without_keep(policy: str) -> None:
    """Unless the payload is kept, no piece of it is anywhere in the dead letter."""
    letter = dead_letter_message(rejected(), "hash" if policy == "hash" else "drop")
    everything = b"|".join([letter.key, letter.value or b"", *(v for _, v in letter.headers)])
    assert b"Ada" not in everything
    assert b"DE89" not in everything


def test_a_payload_that_the_broker_would_refuse_is_hashed() -> None:
    """A dead letter must not itself be too large, or it would never leave the outbox."""
    letter = dead_letter_message(rejected(b"x" * (MAX_KEPT_PAYLOAD + 1)), "keep")
    assert letter.value is not None
    assert len(letter.value) == 64
    assert dict(letter.headers)["plumbline-payload"] == b"sha256"


def test_a_skipped_range_is_told() -> None:
    """A poison batch is one dead letter that names its last offset."""
    poison = Rejected(Partition("p", 0), 5, Reason.POISON_BATCH, None, last_offset=9)
    assert dict(dead_letter_message(poison, "keep").headers)["plumbline-last-offset"] == b"9"


def test_an_event_is_a_structured_cloud_event() -> None:
    """Content type, key and body are what a CloudEvents reader expects."""
    event = {"specversion": "1.0", "id": "1", "subject": "crédit", "data": {"x": 1.5}}
    key, headers, value = event_message(event)
    assert key == "crédit".encode()
    assert dict(headers)["content-type"].startswith(b"application/cloudevents+json")
    assert json.loads(value or b"") == event


def test_the_file_holds_what_was_published(tmp_path: Path) -> None:
    """Each topic's file gets its own messages in order; a topic without a file is left in the outbox."""
    sink = FileSink({"a": tmp_path / "new" / "a.jsonl", "b": tmp_path / "b.jsonl"})
    done = sink.publish([message(1, "a"), message(2, "b"), message(3, "a", b"not json"), message(4, "c")])
    assert sorted(done) == [1, 2, 3]
    assert lines(tmp_path / "new" / "a.jsonl") == [
        {"key": "key-1", "headers": {"content-type": "application/json"}, "value": {"a": 1}},
        {"key": "key-3", "headers": {"content-type": "application/json"}, "value": "not json"},
    ]


@settings(deadline=None)
@given(
    value=st.none() | st.binary(max_size=40) | st.sampled_from([b'{"a":NaN}', b'{"a":1e999}', b"[[1]", b"1"])
)
def test_any_payload_is_one_line_of_json(value: bytes | None) -> None:
    """Whatever the bytes, the line parses strictly and the bytes can be had back."""
    written = _line(message(value=value))
    assert written.count(b"\n") == 1
    line = json.loads(written, parse_constant=pytest.fail)
    if "value_base64" in line:
        assert base64.b64decode(line["value_base64"]) == value
    elif isinstance(line["value"], dict):
        assert json.dumps(line["value"], separators=(",", ":"), ensure_ascii=False).encode() == value
    else:
        assert (line["value"].encode() if line["value"] is not None else None) == value


def test_a_torn_line_does_not_swallow_the_next(tmp_path: Path) -> None:
    """After a crash in the middle of a line, what follows stands on lines of its own."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"key":"key-0"}\n{"key":"to')
    FileSink({"a": path}).publish([message(1, "a")])
    assert [line["key"] for line in lines(path)] == ["key-0", "key-1"]


def test_a_repetition_is_recognised_by_its_line(tmp_path: Path) -> None:
    """The same message after a restart is the same line, so that duplicates can be told."""
    path = tmp_path / "a.jsonl"
    for _ in range(2):
        FileSink({"a": path}).publish([message(1, "a")])
    first, second = path.read_bytes().splitlines()
    assert first == second


def test_a_file_that_cannot_be_written_keeps_its_messages(tmp_path: Path) -> None:
    """A path that is a directory: nothing is done with, nothing is raised, and the other file is served."""
    (tmp_path / "a.jsonl").mkdir()
    sink = FileSink({"a": tmp_path / "a.jsonl", "b": tmp_path / "b.jsonl"})
    assert sink.publish([message(1, "a"), message(2, "b")]) == [2]
    (tmp_path / "a.jsonl").rmdir()
    assert sink.publish([message(1, "a")]) == [1]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_keeps_its_messages() -> None:
    """No space left: the messages stay in the outbox."""
    assert FileSink({"a": Path("/dev/full")}).publish([message(1, "a")]) == []


@pytest.mark.usefixtures("capsys")  # the limit is the process's: its output must not go to a file meanwhile
def test_a_disk_that_fills_in_the_middle_of_a_line_leaves_no_half(tmp_path: Path) -> None:
    """What was written before the disk was full is taken back, and written once when there is room."""
    path = tmp_path / "a.jsonl"
    sink = FileSink({"a": path})
    sink.publish([message(1, "a")])
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, hard))
    try:
        assert sink.publish([message(2, "a")]) == []
        assert path.read_bytes() == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sink.publish([message(2, "a")]) == [2]
    assert [line["key"] for line in lines(path)] == ["key-1", "key-2"]
