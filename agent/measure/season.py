"""What volume a time of day and week should bring, from the model's own last eight days.

The expectation of an hour is the smaller of what the hours around it brought a day and a week ago, so that a
night or a weekend is no outage. In the first week there is no week ago: only a fifth of yesterday is asked
for. On the first day nothing can be said.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.measure.pane import DAY_MS, HOUR_MS

_KEPT = 8 * DAY_MS
_FIRST_WEEK = 0.2


class Season:
    """Events by hour, as far back as a week and a day."""

    def __init__(self) -> None:
        self._hours: dict[int, int] = {}
        self._since: int | None = None

    def expected(self, start: int, end: int) -> float | None:
        """Events that the step [start, end) should bring; None on the first day."""
        if self._since is None or start - self._since < DAY_MS + HOUR_MS:
            return None
        yesterday = self._level(start - DAY_MS, end - DAY_MS)
        if start - self._since < 7 * DAY_MS + HOUR_MS:
            return _FIRST_WEEK * yesterday
        return min(yesterday, self._level(start - 7 * DAY_MS, end - 7 * DAY_MS))

    def note(self, start: int, end: int, events: int) -> None:
        """Take in a closed step; a step of several hours spreads its events over them."""
        if self._since is None:
            self._since = start
        hours = range(start // HOUR_MS, max(start // HOUR_MS + 1, end // HOUR_MS))
        for i, hour in enumerate(hours):
            share = events * (i + 1) // len(hours) - events * i // len(hours)
            self._hours[hour] = self._hours.get(hour, 0) + share
        oldest = (end - _KEPT) // HOUR_MS
        for hour in [hour for hour in self._hours if hour < oldest]:
            del self._hours[hour]

    def _level(self, start: int, end: int) -> float:
        """Events of such a stretch, averaged over the hours it touches and one more on each side."""
        hours = range(start // HOUR_MS - 1, -(-end // HOUR_MS) + 1)
        return sum(self._hours.get(hour, 0) for hour in hours) / len(hours) * (end - start) / HOUR_MS

    def state(self) -> dict[str, Any]:
        return {"since": self._since, "hours": sorted(self._hours.items())}

    def load(self, state: Mapping[str, Any]) -> None:
        self._hours = dict(state["hours"])
        self._since = state["since"]
