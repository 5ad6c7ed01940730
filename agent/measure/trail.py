"""Counts of one rate by stretch of event time, as far back as its window reaches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Trail:
    """Successes and failures by step or hour; which are in the window depends on event times alone."""

    def __init__(self, unit_ms: int, window_ms: int = 0) -> None:
        self.unit_ms = unit_ms
        self.window_ms = window_ms
        self.at_ms = 0
        """When it was last judged."""
        self._first_ms: int | None = None
        self._counts: dict[int, tuple[int, int]] = {}

    def add(self, at_ms: int, start_ms: int, good: int, bad: int) -> None:
        """Take in a stretch, each once; one that lies before the window comes too late."""
        self.at_ms = at_ms
        if self._first_ms is None:
            self._first_ms = start_ms
        self._counts[start_ms] = (good, bad)
        oldest = max(self._counts) + self.unit_ms - self.window_ms
        self._counts = {start: held for start, held in self._counts.items() if start >= oldest}

    def window(self, since_ms: int | None) -> tuple[int, int, int]:
        """(successes, failures, number of the stretch the window begins with, from 1)."""
        if self._first_ms is None:
            return 0, 0, 1
        begin = max(max(self._counts) + self.unit_ms - self.window_ms, self._first_ms)
        if since_ms is not None:
            begin = max(begin, since_ms)
        held = [counts for start, counts in self._counts.items() if start >= begin]
        number = -(-(begin - self._first_ms) // self.unit_ms) + 1
        return sum(good for good, _ in held), sum(bad for _, bad in held), number

    def state(self) -> list[Any]:
        """Everything, as JSON."""
        counts = [[start, *held] for start, held in sorted(self._counts.items())]
        return [self.unit_ms, self.window_ms, self.at_ms, self._first_ms, counts]

    @classmethod
    def of(cls, state: Sequence[Any]) -> Trail:
        """Go on from a saved state."""
        trail = cls(state[0], state[1])
        trail.at_ms, trail._first_ms = state[2], state[3]
        trail._counts = {start: (good, bad) for start, good, bad in state[4]}
        return trail
