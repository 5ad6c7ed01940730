import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from agent.ingest.records import Chunk, read_columns

CODECS = [0, 1, 3, 4]  # none, gzip, lz4, zstd
TP = TopicPartition("t", 0)

texts = st.none() | st.binary(max_size=20) | st.integers(100, 20_000).map(lambda n: b"x" * n)
header = st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5))
nothing: list[tuple[str, bytes | None]] = []
headers = st.just(nothing) | st.lists(header, max_size=2)
records = st.tuples(st.integers(0, 2**45), texts, texts, headers)
batches = st.lists(
    st.tuples(st.sampled_from(CODECS), st.integers(0, 9), st.lists(records, min_size=1, max_size=8)),
    min_size=1,
    max_size=4,
)
Batches = list[tuple[int, int, list[tuple[int, bytes | None, bytes | None, list[Any]]]]]


def encoded(batches: Batches) -> bytes:
    """Batches one behind the other, with gaps in the offsets between them."""
    whole, at = b"", 0
    for codec, gap, held in batches:
        at += gap
        builder = MemoryRecordsBuilder(magic=2, compression_type=codec, batch_size=1 << 24, offset=at)
        for timestamp, key, value, head in held:
            builder.append(timestamp, key, value, head)
        builder.close()
        whole += bytes(builder.buffer())
        at += len(held)
    return whole


def pieces(data: bytes, begin: int = 0, most: int = 1000, *, checked: bool = True) -> Any:  # noqa: ANN401
    fetcher = SimpleNamespace()
    read_columns(SimpleNamespace(_fetcher=fetcher), most)
    return fetcher.PartitionRecords(begin, TP, MemoryRecords(data), check_crcs=checked)


def rows(chunk: Chunk) -> list[Any]:
    heads = chunk.headers or [()] * len(chunk)
    columns = (chunk.offsets.tolist(), chunk.timestamps.tolist(), chunk.keys, chunk.values, heads)
    return [(*row, list(head)) for *row, head in zip(*columns, strict=True)]


def by_the_client(data: bytes, begin: int = 0) -> list[Any]:
    theirs = Fetcher.PartitionRecords(begin, TP, MemoryRecords(data))
    return [
        (r.offset, r.timestamp, r.key, r.value, [(k, v) for k, v in r.headers if v is not None])
        for r in theirs.take(1_000_000)
    ]


@settings(deadline=None)
@given(batches, st.integers(0, 12), st.integers(1, 5))
def test_columns_are_what_the_client_reads_one_by_one(batches: Batches, begin: int, most: int) -> None:
    """Any mix of codecs, sizes, nulls, headers and gaps gives the client's records, in pieces."""
    data = encoded(batches)
    ours = pieces(data, begin, most)
    taken = []
    while ours:
        taken += [record.value for record in ours.take(most)]
    assert [row for chunk in taken for row in rows(chunk)] == by_the_client(data, begin)
    assert all(0 < len(chunk) <= most for chunk in taken)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 12))
def test_no_more_is_taken_than_asked_for(sizes: list[int], n: int) -> None:
    """What is taken at once are whole pieces: fewer records than asked for before the last of them."""
    ours = pieces(encoded([(0, 0, [(1, None, b"v", [])] * size) for size in sizes]))
    while ours:
        taken = ours.take(n)
        held = [len(record.value) for record in itertools.islice(taken, 100)]
        assert len(taken) == sum(held)
        assert sum(held[:-1]) < n


@settings(deadline=None)
@given(st.sampled_from(CODECS), st.lists(records, min_size=1, max_size=5), st.data())
def test_damage_is_told_as_the_client_tells_it(codec: int, held: list[Any], data: st.DataObject) -> None:
    """A flipped bit anywhere behind the batch's length fails its checksum, and nothing of it is read."""
    good = bytearray(encoded([(codec, 0, held)]))
    good[data.draw(st.integers(17, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CorruptRecordError):
        pieces(bytes(good)).take()


def test_a_batch_that_lies_about_its_records_gives_those_before_the_lie() -> None:
    """With a wrong length under a good checksum the good records come first, then the client's own error."""
    good = encoded([(0, 0, [(1, b"k", b"first", []), (2, b"k", b"second", [])])])
    lied = bytearray(good)
    at = good.index(b"second") - 1  # the length of the value, zigzag
    lied[at] = 2 * len(b"second") + 2
    ours = pieces(bytes(lied), checked=False)
    (taken,) = itertools.islice(ours.take(), 9)
    assert rows(taken.value) == [(0, 1, b"k", b"first", [])]
    with pytest.raises(CorruptRecordError):
        ours.take()


def test_a_batch_emptied_by_compaction_is_passed() -> None:
    """A batch without records gives none, and reading goes on behind it."""
    empty = bytearray(encoded([(0, 0, [(1, None, b"v", [])])])[:61])
    empty[8:12] = (49).to_bytes(4, "big")  # its length: the header alone
    empty[57:61] = bytes(4)  # its count of records
    ours = pieces(bytes(empty) + encoded([(0, 1, [(2, None, b"w", [])])]), checked=False)
    (taken,) = itertools.islice(ours.take(), 9)
    assert rows(taken.value) == [(1, 2, None, b"w", [])]
