"""The versions of one model over time: which serves, which was replaced. A function of closed steps alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agent.events import NO_TIME
from agent.measure.pane import HOUR_MS

REPLACED_AFTER_MS = HOUR_MS
"""A version without events for so long, while another has some, is replaced: its alarms end."""
_FOR_EVER = 2**62


class Lifecycle:
    """What closed steps told about the versions."""

    def __init__(self) -> None:
        self.first_version: str | None = None
        """The first version at work: the configured baseline belongs to it."""
        self._active_ms: dict[str, tuple[int, int]] = {}
        """End of the first and of the last step in which a version had events."""
        self._absent: dict[str, list[list[int]]] = {}
        """[from, to) in which a version was replaced; the last may be open."""
        self._serving: list[tuple[int, str]] = []
        """(since, version): the newest version at work, at each change."""

    def note(self, versions: Iterable[str], first_seen_ms: Mapping[str, int], end: int) -> None:
        """Take in the versions that had events in the step that ended."""
        active = list(versions)
        for version in active:
            first, _ = self._active_ms.get(version, (end, end))
            self._active_ms[version] = (first, end)
            gone = self._absent.get(version, [])
            if gone and gone[-1][1] == _FOR_EVER:
                gone[-1][1] = end
        if not active:
            return
        newest = max(active, key=lambda version: (self._active_ms[version][0], version))
        if self.first_version is None:
            self.first_version = min(active, key=lambda version: (first_seen_ms[version], version))
        if not self._serving or self._serving[-1][1] != newest:
            self._serving.append((end, newest))

    def replaced(self, end: int) -> list[str]:
        """Versions that count as replaced from this step on."""
        newest = max((last for _, last in self._active_ms.values()), default=NO_TIME)
        gone = [
            version
            for version, (_, last) in sorted(self._active_ms.items())
            if end - last > REPLACED_AFTER_MS and newest > last and not self.is_replaced(version, end)
        ]
        for version in gone:
            self._absent.setdefault(version, []).append([end, _FOR_EVER])
        return gone

    def is_replaced(self, version: str, at_ms: int) -> bool:
        """Whether another version had taken over at a time."""
        return any(since <= at_ms < until for since, until in self._absent.get(version, ()))

    def serving_at(self, at_ms: int) -> str:
        """The version that served at a time; "" before any."""
        return next((version for since, version in reversed(self._serving) if since <= at_ms), "")

    def predecessor(self, version: str) -> str | None:
        """The version that served before this one did first; None for the first of all."""
        before = None
        for _, serving in self._serving:
            if serving == version:
                return before
            before = serving
        return None

    def since(self, version: str) -> int | None:
        """End of the first step in which a version had events."""
        return self._active_ms[version][0] if version in self._active_ms else None

    def state(self) -> dict[str, Any]:
        return {
            "first_version": self.first_version,
            "active_ms": dict(sorted(self._active_ms.items())),
            "absent": dict(sorted(self._absent.items())),
            "serving": self._serving,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.first_version = state["first_version"]
        self._active_ms = {version: (first, last) for version, (first, last) in state["active_ms"].items()}
        self._absent = {version: list(gone) for version, gone in state["absent"].items()}
        self._serving = [(since, version) for since, version in state["serving"]]
