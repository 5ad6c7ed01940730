"""Record batches of Kafka to columns, in the place where the client makes an object of each record.

The client reads each record in Python: some 6 µs under the interpreter lock, more than everything the agent
does with it. Here only the length of each record is read in a loop, to find where they begin; the numbers
inside are read for all records at once. What the client knows of batches (checksums, codecs, transactions,
markers) stays its own: it is given batches whose only record is a `Chunk`, all of theirs.

A batch that is not as expected is read by the client's own code, and fails as it would there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from numpy.typing import NDArray

from agent.events import Headers, Int64s

_NO_HEADERS: tuple[Headers, ...] = ()
_LONGEST_SHIFT = 63


class Chunk:
    """Records of one batch as columns. To the client it is the value of a single record, its last."""

    def __init__(
        self,
        offsets: Int64s,
        timestamps: Int64s,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        headers: Sequence[Headers] = _NO_HEADERS,
    ) -> None:
        self.offsets = offsets
        self.timestamps = timestamps
        self.keys = keys
        self.values = values
        self.headers = headers
        """One for each record, or none at all."""

    def __len__(self) -> int:
        return len(self.offsets)

    def pieces(self, begin: int, most: int) -> Iterator[Chunk]:
        """From an offset on, at most so many records each."""
        first = int(np.searchsorted(self.offsets, begin))
        if first == 0 and 0 < len(self) <= most:
            yield self
            return
        for at in range(first, len(self), most):
            here = slice(at, at + most)
            yield Chunk(
                self.offsets[here],
                self.timestamps[here],
                self.keys[here],
                self.values[here],
                self.headers[here],
            )


def read_columns(consumer: Any, most: int) -> None:  # noqa: ANN401 # untyped client
    """Make a consumer give `Chunk`s of at most `most` records as the values of its records."""
    consumer._fetcher.PartitionRecords = type("Pieces", (_Pieces,), {"most": most})


class _Pieces(Fetcher.PartitionRecords):  # type: ignore[misc] # untyped client
    """The client's records of one fetch, read by batches."""

    most: int

    def _unpack_records(self, tp: Any, records: Any, *_: Any) -> Any:  # noqa: ANN401
        return super()._unpack_records(tp, _Batches(records, self.fetch_offset, self.most), None, None)

    def take(self, n: int | None = None) -> list[Any]:
        """Pieces of together at most n records, or one."""
        taken = _Taken()
        while self.record_iterator is not None and taken.records < (self.most if n is None else n):
            try:
                pieces = super().take(1)
            except Exception as error:  # is raised by the next call, as the client does
                if not taken.records:
                    raise
                self._next_inline_exception = error
                break
            for piece in pieces:
                taken.append(piece)
                taken.records += len(piece.value)
        return taken


class _Taken(list[Any]):
    """What the client counts against its limit: the records in the pieces."""

    records = 0

    def __len__(self) -> int:
        return self.records


class _Batches:
    """The client's batches, each read as a whole."""

    def __init__(self, records: Any, begin: int, most: int) -> None:  # noqa: ANN401
        self._records = records
        self._begin = begin
        self._most = most

    def next_batch(self) -> _Batch | None:
        batch = self._records.next_batch()
        return None if batch is None else _Batch(batch, self._begin, self._most)


class _Batch:
    """A batch that gives its records as pieces."""

    def __init__(self, batch: Any, begin: int, most: int) -> None:  # noqa: ANN401
        self._batch = batch
        self._begin = begin
        self._most = most

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._batch, name)

    def __next__(self) -> Any:  # noqa: ANN401 # a marker's record
        return next(self._batch)

    def __iter__(self) -> Iterator[_Record]:
        whole = _columns(self._batch) if self._batch.magic == 2 else None
        error: Exception | None = None
        if whole is None:
            whole, error = _one_by_one(self._batch)
        size = self._batch.size_in_bytes
        for piece in whole.pieces(self._begin, self._most):
            yield _Record(piece, size)
            size = 0
        if error is not None:
            raise error


class _Record:
    """A chunk in the guise of a record."""

    key = None
    headers = ()
    checksum = None
    timestamp_type = 0

    def __init__(self, value: Chunk, size: int) -> None:
        self.value = value
        self.offset = int(value.offsets[-1])
        self.timestamp = int(value.timestamps[-1])
        self.size_in_bytes = size

    def validate_crc(self) -> bool:
        """Its batch was checked."""
        return True


def _one_by_one(batch: Any) -> tuple[Chunk, Exception | None]:  # noqa: ANN401
    """As the client reads them, up to the first that it cannot."""
    records, error = [], None
    try:
        for record in batch:
            if not record.validate_crc():
                raise CorruptRecordError(f"record at offset {record.offset} failed its checksum")
            records.append(record)
    except Exception as undecodable:  # whatever a codec or the parser comes up with
        error = undecodable
    headers = [[(k, v) for k, v in record.headers or () if v is not None] for record in records]
    return (
        Chunk(
            np.array([record.offset for record in records], dtype=np.int64),
            np.array([record.timestamp for record in records], dtype=np.int64),
            [record.key for record in records],
            [record.value for record in records],
            headers if any(headers) else _NO_HEADERS,
        ),
        error,
    )


def _columns(batch: Any) -> Chunk | None:  # noqa: ANN401
    """All records of a batch of today's format at once; None where it must be read one by one.

    Record: length, attributes, time and offset less the batch's, key, value, headers; in zigzag varints.
    """
    batch._maybe_uncompress()
    data = bytes(memoryview(batch._buffer)[batch._pos :])
    cells = np.frombuffer(data, dtype=np.uint8)
    try:
        begin, end = _bounds(data, batch.records_count)
        stamp, at = _varints(cells, begin + 1)  # behind the attributes: there are none today
        offset, at = _varints(cells, at)
        keys, at = _texts(data, cells, at)
        values, at = _texts(data, cells, at)
        headers, at = _varints(cells, at)
    except IndexError:
        return None
    if headers.any() or not np.array_equal(at, end) or (end[-1:] != len(data)).any():
        return None
    appended = batch.timestamp_type == batch.LOG_APPEND_TIME
    stamps = np.full(len(stamp), batch.max_timestamp) if appended else batch.first_timestamp + stamp
    return Chunk(batch.base_offset + offset, stamps, keys, values)


def _bounds(data: bytes, count: int) -> tuple[Int64s, Int64s]:
    """Where each record begins, behind its length, and ends; IndexError past the end of the data."""
    begins, ends, at = [], [], 0
    for _ in range(count):
        length = data[at]
        at += 1
        if length > 127:
            length &= 127
            shift, more = 7, True
            while more:
                byte = data[at]
                at += 1
                length |= (byte & 127) << shift
                shift += 7
                more = byte > 127
        begins.append(at)
        at += length >> 1
        ends.append(at)
    return np.array(begins, dtype=np.int64), np.array(ends, dtype=np.int64)


def _varints(cells: NDArray[np.uint8], at: Int64s) -> tuple[Int64s, Int64s]:
    """The number at each place, and the place behind it; IndexError past the end."""
    byte = cells[at].astype(np.int64)
    number, at = byte & 127, at + 1
    going = np.flatnonzero(byte > 127)
    shift = 7
    while len(going):
        if shift > _LONGEST_SHIFT:
            raise IndexError("a number without an end")
        byte = cells[at[going]].astype(np.int64)
        number[going] |= (byte & 127) << shift
        at[going] += 1
        going = going[byte > 127]
        shift += 7
    return (number >> 1) ^ -(number & 1), at


def _texts(data: bytes, cells: NDArray[np.uint8], at: Int64s) -> tuple[list[bytes | None], Int64s]:
    """The bytes at each place, None for those of length -1, and the place behind them."""
    length, at = _varints(cells, at)
    end = at + np.maximum(length, 0)
    if (length < -1).any() or (end > len(data)).any():
        raise IndexError("a text without an end")
    found: list[bytes | None] = [data[b:e] for b, e in zip(at.tolist(), end.tolist(), strict=True)]
    for i in np.flatnonzero(length < 0).tolist():
        found[i] = None
    return found, end
