"""Events from files: JSON lines, Parquet and CSV, the text formats also gzipped.

A file is one partition, (its path, 0), and its row numbers are the offsets; so reading resumes in the middle
of a file as it does in the middle of a topic. Each poll reads on in the file of which the smallest share has
been read: predictions and their feedback in another file progress together, whatever their sizes.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import polars as pl

from agent.errors import StartError
from agent.events import NO_TIME, Int64s, Mark, Partition, RawBatch, Rejected

CHUNK_ROWS = 20_000
CHUNK_BYTES = 16 << 20
"""A chunk of JSON lines ends with the line that passes this size, if not by its rows."""
_JSON, _CSV, _PARQUET = (".jsonl", ".ndjson", ".json"), (".csv",), (".parquet", ".pq")


class FileSource:
    """Reads files from end to end, once; a Source that finishes."""

    def __init__(self, paths: Sequence[Path], *, chunk_rows: int = CHUNK_ROWS) -> None:
        self._files = [_File(path, chunk_rows) for path in dict.fromkeys(paths)]

    def start(self, positions: Mapping[Partition, int]) -> None:
        """Open every file at its row; StartError names one that is missing or of no known format."""
        for file in self._files:
            file.open(positions.get(file.partition, 0))

    def poll(self, timeout_s: float, now_s: float) -> Sequence[RawBatch]:
        """The next chunk of the file that is least far. Raises StartError where a file turns out damaged."""
        waiting = [file for file in self._files if not file.finished]
        if not waiting:
            return ()
        batch = min(waiting, key=lambda file: file.fraction).read()
        return () if batch is None else (batch,)

    def caught_up(self) -> frozenset[Partition]:
        """Files read to their end."""
        return frozenset(file.partition for file in self._files if file.finished)

    def ends(self) -> Mapping[Partition, int]:
        """A file's length in records is known once it is read."""
        return {}

    def partitions(self) -> frozenset[Partition]:
        """All files."""
        return frozenset(file.partition for file in self._files)

    def take_rejected(self) -> Sequence[Rejected]:
        """None: a damaged file stops the reading."""
        return ()

    def commit(self, marks: Mapping[Partition, Mark]) -> None:
        """Nobody outside needs to know."""

    @property
    def connected(self) -> bool:
        """Always."""
        return True

    @property
    def finished(self) -> bool:
        """Whether every file was read to its end."""
        return all(file.finished for file in self._files)

    @property
    def fraction(self) -> float:
        """Share of all bytes that were read: what a progress bar shows."""
        size = sum(file.size for file in self._files)
        return sum(file.fraction * file.size for file in self._files) / size if size else 1.0

    def close(self) -> None:
        """Close every file."""
        for file in self._files:
            file.close()


class _File:
    """One file as a partition."""

    def __init__(self, path: Path, chunk_rows: int) -> None:
        self.partition = Partition(str(path), 0)
        self.row = 0
        self.size = 0
        self.finished = False
        self._path = path
        self._chunk_rows = chunk_rows
        self._rows = 0
        self._raw: BinaryIO | None = None
        self._chunks: Iterator[RawBatch] = iter(())

    @property
    def fraction(self) -> float:
        """Share of the file that was read: of its bytes where they are read one by one, else of its rows."""
        if self.finished:
            return 1.0
        if self._raw is not None:
            return min(1.0, self._raw.tell() / max(self.size, 1))
        return min(1.0, self.row / max(self._rows, 1))

    def open(self, position: int) -> None:
        self.close()
        self.row, self.finished = position, False
        suffixes = [s.lower() for s in self._path.suffixes]
        zipped = suffixes[-1:] == [".gz"]
        kind = "".join(suffixes[:-1][-1:] if zipped else suffixes[-1:])
        try:
            self.size = self._path.stat().st_size
            if kind in _JSON or not kind:
                self._raw = self._path.open("rb")  # closed at its end or by close()
                lines = gzip.GzipFile(fileobj=self._raw) if zipped else self._raw
                self._chunks = self._lines(cast(BinaryIO, lines), position)
            elif kind in _CSV:
                table = pl.scan_csv(self._path, infer_schema=False, glob=False)
                self._chunks = self._table(table, position)
            elif kind in _PARQUET and not zipped:
                self._chunks = self._table(pl.scan_parquet(self._path, glob=False), position)
            else:
                known = ", ".join((*_JSON, *_CSV, *_PARQUET))
                raise StartError(
                    f"{self._path}: unknown format; the name must end in one of {known} (or .gz)"
                )
        except OSError as error:
            raise StartError(f"{self._path}: {error.strerror or error}; check --input") from error
        except pl.exceptions.PolarsError as error:
            raise StartError(f"{self._path}: cannot be read: {error}") from error

    def read(self) -> RawBatch | None:
        try:
            batch = next(self._chunks, None)
        except (OSError, EOFError, pl.exceptions.PolarsError) as error:
            raise StartError(f"{self._path}: damaged after row {self.row}: {error}") from error
        if batch is None:
            self.finished = True
            self.close()
        else:
            self.row = batch.next_position
        return batch

    def close(self) -> None:
        self._chunks = iter(())
        if self._raw is not None:
            self._raw.close()
            self._raw = None

    def _lines(self, lines: BinaryIO, position: int) -> Iterator[RawBatch]:
        row, skipped = 0, 0
        while skipped < position and lines.readline():
            skipped += 1
        row = position
        while chunk := self._chunk(lines):
            values = [line.rstrip(b"\r\n") for line in chunk]
            offsets = np.arange(row, row + len(values), dtype=np.int64)
            row += len(values)
            full = np.array([bool(value.strip()) for value in values])
            if not full.all():  # a blank line is no record, only a row number
                offsets, values = offsets[full], [value for value in values if value.strip()]
            yield self._batch(offsets, row, values=values)

    def _chunk(self, lines: BinaryIO) -> list[bytes]:
        chunk: list[bytes] = []
        room = CHUNK_BYTES
        while room > 0 and len(chunk) < self._chunk_rows and (line := lines.readline()):
            chunk.append(line)
            room -= len(line)
        return chunk

    def _table(self, table: pl.LazyFrame, position: int) -> Iterator[RawBatch]:
        self._rows = int(table.select(pl.len()).collect().item())
        row = position
        batches = table.slice(position).collect_batches(chunk_size=self._chunk_rows, maintain_order=True)
        for frame in batches:
            if frame.height:
                offsets = np.arange(row, row + frame.height, dtype=np.int64)
                row += frame.height
                yield self._batch(offsets, row, frame=frame)

    def _batch(
        self, offsets: Int64s, row: int, values: Sequence[bytes] = (), frame: pl.DataFrame | None = None
    ) -> RawBatch:
        return RawBatch(
            self.partition, offsets, np.full(len(offsets), NO_TIME, dtype=np.int64), row, values, frame=frame
        )
