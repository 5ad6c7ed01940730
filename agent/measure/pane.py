"""Panes: additive integer summaries of a stretch of event time, per version and slice.

Tiers: minutes (kept for hours), hours (kept until the label horizon), and one lifetime pane per version. The
performance part of an hour is kept by label age, so that "what was known when the hour matured" is itself a
sum, whatever came later and in whatever order it was read. Adding vectors is all that ever happens to a
pane.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from agent.events import Int64s

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000

MINUTE, HOUR, LIFETIME = 0, 1, 2
PREDICTIONS = -1
"""The `age` of a prediction part; performance parts have a label age index >= 0."""

AGE_EDGES_MS: Int64s = np.array(
    [m * MINUTE_MS for m in (0, 5, 10, 15, 20, 30, 45)]
    + [h * HOUR_MS for h in (1, 1.5, 2, 3, 4, 6, 8, 12, 18)]
    + [
        d * DAY_MS
        for d in (1, 1.5, 2, 3, 4, 5, 6, 7, 10, 14, 21, 30, 45, 60, 90, 120, 180, 270, 365, 550, 730)
    ]
    + [d * DAY_MS for d in (800, 1095, 1460)],
    dtype=np.int64,
)
"""Label ages are measured from the end of the hour; index i holds edges[i-1] < age <= edges[i]."""


def age_index(age_ms: Int64s) -> Int64s:
    """Index of the age stretch each label falls into."""
    return np.searchsorted(AGE_EDGES_MS, age_ms, side="left")


class PaneKey(NamedTuple):
    """Which vector: of what version, tier, start, part and slice."""

    version: str
    tier: int
    start_ms: int
    age: int
    segment: str


class Panes:
    """All panes of one model. Open ones are arrays; those not touched since a commit may be kept encoded."""

    def __init__(self) -> None:
        self._live: dict[PaneKey, Int64s] = {}
        self._cold: dict[PaneKey, bytes] = {}
        """As of the last flush; what is live is newer."""
        self.dirty: set[PaneKey] = set()
        self.dropped: set[PaneKey] = set()
        self._by_start: dict[tuple[int, int], set[PaneKey]] = {}

    def add(self, key: PaneKey, counts: Int64s, cells: Int64s | None = None) -> None:
        """Add counts (at distinct cells, else from the first cell on) to a pane, creating it if needed."""
        vector = self._vector(key)
        if cells is None:
            if len(counts) > len(vector):
                vector = self._grow(key, len(counts))
            vector[: len(counts)] += counts
        else:
            vector[cells] += counts
        self.dirty.add(key)

    def create(self, key: PaneKey, width: int) -> Int64s:
        """The vector of a pane, at least `width` wide, marked as changed."""
        vector = self._vector(key)
        if len(vector) < width:
            vector = self._grow(key, width)
        self.dirty.add(key)
        return vector

    def get(self, key: PaneKey) -> Int64s | None:
        """The vector of a pane, not to be changed; None where nothing was counted."""
        vector = self._live.get(key)
        if vector is None and key in self._cold:
            vector = decode(self._cold[key])
        return vector

    def total(self, keys: Iterable[PaneKey]) -> Int64s | None:
        """The sum of panes of one part; None where none of them exists."""
        total: Int64s | None = None
        for key in keys:
            vector = self.get(key)
            if vector is not None:
                total = vector.copy() if total is None else total + vector
        return total

    def starts(self, tier: int) -> list[int]:
        """Starts of all panes of a tier, in order."""
        return sorted(start for t, start in self._by_start if t == tier)

    def at(self, tier: int, start_ms: int) -> Iterable[PaneKey]:
        """Keys of all panes of a tier that begin there."""
        return self._by_start.get((tier, start_ms), ())

    def keys(self) -> Iterator[PaneKey]:
        """All panes."""
        yield from self._live.keys() | self._cold.keys()

    def drop(self, tier: int, before_ms: int) -> None:
        """Forget panes of a tier that begin earlier."""
        for start in [s for t, s in self._by_start if t == tier and s < before_ms]:
            for key in self._by_start.pop((tier, start)):
                self._live.pop(key, None)
                self._cold.pop(key, None)
                self.dirty.discard(key)
                self.dropped.add(key)

    def load(self, key: PaneKey, blob: bytes) -> None:
        """Take over a stored pane."""
        self._cold[key] = blob
        self._index(key)

    def flush(self) -> Iterator[tuple[PaneKey, bytes]]:
        """Encoded panes changed since the last flush; the others are from now on kept encoded only."""
        for key in self._live.keys() - self.dirty:
            del self._live[key]
        for key in sorted(self.dirty):
            self._cold[key] = encode(self._live[key])
            yield key, self._cold[key]
        self.dirty.clear()

    def _vector(self, key: PaneKey) -> Int64s:
        vector = self._live.get(key)
        if vector is None:
            blob = self._cold.get(key)
            vector = decode(blob) if blob is not None else np.zeros(0, dtype=np.int64)
            self._live[key] = vector
            self._index(key)
        return vector

    def _grow(self, key: PaneKey, width: int) -> Int64s:
        grown = np.zeros(width, dtype=np.int64)
        grown[: len(self._live[key])] = self._live[key]
        self._live[key] = grown
        return grown

    def _index(self, key: PaneKey) -> None:
        self._by_start.setdefault((key.tier, key.start_ms), set()).add(key)
        self.dropped.discard(key)


def encode(vector: Int64s) -> bytes:
    """A vector as bytes: width, non-zero cells and their counts, compressed; equal vectors, equal bytes."""
    cells = np.flatnonzero(vector).astype("<u4")
    head = np.array([len(vector), len(cells)], dtype="<u4")
    return zlib.compress(head.tobytes() + cells.tobytes() + vector[cells].astype("<i8").tobytes(), 1)


def decode(blob: bytes) -> Int64s:
    """Undo `encode`."""
    data = zlib.decompress(blob)
    width, n = np.frombuffer(data, dtype="<u4", count=2)
    vector = np.zeros(int(width), dtype=np.int64)
    cells = np.frombuffer(data, dtype="<u4", count=int(n), offset=8)
    vector[cells] = np.frombuffer(data, dtype="<i8", count=int(n), offset=8 + 4 * int(n))
    return vector
