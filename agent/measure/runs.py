"""Sorted runs: an index from a 64-bit hash to rows of columns, for millions of pending entries.

Each batch becomes a small run sorted by key; neighbouring runs of one stretch of time are merged by size, and
a whole stretch is dropped at once when it is too old. Stored as immutable blobs, one a run; changes of the
few mutable columns are stored as small overlays until the run is merged away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.events import Int64s

Column = NDArray[Any]
Columns = dict[str, Column]


class Hits(NamedTuple):
    """Matches of a look-up: query i matched row `row` of run `run`; ordered by query."""

    query: Int64s
    run: Int64s
    row: Int64s


@dataclass
class Run:
    """Rows sorted by `key`."""

    bucket: int
    columns: Columns
    id: int | None = None
    """Under which it is stored; None while it is not."""
    changed: list[Int64s] = field(default_factory=list)
    """Rows whose mutable columns changed since they were stored."""

    def __len__(self) -> int:
        return len(self.columns["key"])


class SortedRuns:
    """The index. `spec` gives the columns beside `key` and `time_ms` their dtype (a tuple adds a width)."""

    def __init__(self, spec: Mapping[str, Any], *, mutable: tuple[str, ...], bucket_ms: int) -> None:
        self.spec = {"key": np.uint64, "time_ms": np.int64, **spec}
        self.mutable = mutable
        self.bucket_ms = bucket_ms
        self.runs: list[Run] = []
        self.removed: list[int] = []
        self._next_id = 0

    def __len__(self) -> int:
        return sum(len(run) for run in self.runs)

    def append(self, columns: Columns) -> None:
        """Add rows (any order); they go to the stretches their times belong to."""
        buckets = columns["time_ms"] // self.bucket_ms
        for bucket in np.unique(buckets):
            rows = buckets == bucket
            part = columns if rows.all() else {name: c[rows] for name, c in columns.items()}
            order = np.argsort(part["key"], kind="stable")
            self.runs.append(Run(int(bucket), {name: c[order] for name, c in part.items()}))
            self._merge(int(bucket))

    def find(self, keys: NDArray[np.uint64]) -> Hits:
        """All rows with these keys."""
        queries, runs, rows = [], [], []
        order = np.argsort(keys)
        ordered = keys[order]
        for number, run in enumerate(self.runs):
            held = run.columns["key"]
            low = np.searchsorted(held, ordered, side="left")
            found = np.flatnonzero(held[np.minimum(low, len(held) - 1)] == ordered)
            if len(found) == 0:
                continue
            count = np.searchsorted(held, ordered[found], side="right") - low[found]
            queries.append(np.repeat(order[found], count))
            first = np.repeat(low[found], count)
            rows.append(first + np.arange(len(first)) - np.repeat(np.cumsum(count) - count, count))
            runs.append(np.full(len(first), number, dtype=np.int64))
        if not queries:
            return Hits(*(np.empty(0, dtype=np.int64) for _ in range(3)))
        query, run_number, row = np.concatenate(queries), np.concatenate(runs), np.concatenate(rows)
        by_query = np.argsort(query, kind="stable")
        return Hits(query[by_query], run_number[by_query], row[by_query])

    def take(self, hits: Hits, name: str) -> Column:
        """The values of a column at these hits."""
        kind, width = self._dtype(name)
        out = np.empty((len(hits.query), *width), dtype=kind)
        for number in np.unique(hits.run):
            at = hits.run == number
            out[at] = self.runs[number].columns[name][hits.row[at]]
        return out

    def put(self, hits: Hits, values: Mapping[str, Column]) -> None:
        """Change mutable columns at these hits (each row at most once)."""
        for number in np.unique(hits.run):
            at = hits.run == number
            run = self.runs[number]
            for name, column in values.items():
                run.columns[name][hits.row[at]] = column[at]
            if run.id is not None:
                run.changed.append(hits.row[at])

    def expired(self, before_ms: int) -> list[Run]:
        """Drop and return the runs of all stretches that end at or before `before_ms`."""
        gone = [run for run in self.runs if (run.bucket + 1) * self.bucket_ms <= before_ms]
        if gone:
            self.runs = [run for run in self.runs if (run.bucket + 1) * self.bucket_ms > before_ms]
            self.removed += [run.id for run in gone if run.id is not None]
        return gone

    def flush(self) -> tuple[list[int], list[tuple[int, int, bytes]], list[tuple[int, bytes]]]:
        """Changes since the last flush: (ids removed, new runs (id, bucket, blob), overlays (id, blob))."""
        removed, self.removed = self.removed, []
        new, overlays = [], []
        for run in self.runs:
            if run.id is None:
                run.id, self._next_id = self._next_id, self._next_id + 1
                new.append((run.id, run.bucket, self._pack(run.columns, tuple(self.spec))))
            elif run.changed:
                rows = np.unique(np.concatenate(run.changed))
                changed = {"row": rows, **{name: run.columns[name][rows] for name in self.mutable}}
                overlays.append((run.id, self._pack(changed, ("row", *self.mutable))))
            run.changed = []
        return removed, new, overlays

    def load(self, id_: int, bucket: int, blob: bytes, overlays: Iterator[bytes]) -> None:
        """Take over a stored run with its overlays in the order they were stored."""
        columns = self._unpack(blob, tuple(self.spec))
        for overlay in overlays:
            changed = self._unpack(overlay, ("row", *self.mutable))
            for name in self.mutable:
                columns[name][changed["row"]] = changed[name]
        self.runs.append(Run(bucket, columns, id_))
        self._next_id = max(self._next_id, id_ + 1)

    def rows(self) -> Columns:
        """Everything, in an order that depends on the content only."""
        joined = {
            name: np.concatenate([r.columns[name] for r in self.runs] or [self._empty(name)])
            for name in self.spec
        }
        order = np.lexsort([c for c in joined.values() if c.ndim == 1][::-1])
        return {name: column[order] for name, column in joined.items()}

    def _merge(self, bucket: int) -> None:
        mine = [run for run in self.runs if run.bucket == bucket]
        while len(mine) >= 2 and len(mine[-2]) <= 4 * len(mine[-1]):
            b, a = mine.pop(), mine.pop()
            joined = {name: np.concatenate([a.columns[name], b.columns[name]]) for name in self.spec}
            order = np.argsort(joined["key"], kind="stable")
            merged = Run(bucket, {name: column[order] for name, column in joined.items()})
            self.removed += [run.id for run in (a, b) if run.id is not None]
            self.runs = [run for run in self.runs if run is not a and run is not b] + [merged]
            mine.append(merged)

    def _dtype(self, name: str) -> tuple[Any, tuple[int, ...]]:
        kind = np.int64 if name == "row" else self.spec[name]
        return (kind[0], (kind[1],)) if isinstance(kind, tuple) else (kind, ())

    def _empty(self, name: str) -> Column:
        kind, width = self._dtype(name)
        return np.empty((0, *width), dtype=kind)

    def _pack(self, columns: Columns, names: tuple[str, ...]) -> bytes:
        parts = [np.ascontiguousarray(columns[n], dtype=self._dtype(n)[0]).tobytes() for n in names]
        return len(columns[names[0]]).to_bytes(8, "little") + b"".join(parts)

    def _unpack(self, blob: bytes, names: tuple[str, ...]) -> Columns:
        n, data, at = int.from_bytes(blob[:8], "little"), blob[8:], 0
        columns = {}
        for name in names:
            kind, width = self._dtype(name)
            size = n * int(np.prod(width, dtype=np.int64)) * np.dtype(kind).itemsize
            columns[name] = np.frombuffer(data[at : at + size], dtype=kind).reshape(n, *width).copy()
            at += size
        return columns
