"""What volume a time of day and week should bring, from the model's own last eight days.

What is expected at least is the smaller of what the hours around brought a day and a week ago, at most the
larger, so that a night or a weekend is no outage and a Monday no surge. In the first week there is no week
ago: only a fifth of yesterday is asked for, and twice as much is usual. On the first day nothing can be said.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.measure.pane import DAY_MS, HOUR_MS

_KEPT = 8 * DAY_MS
_FIRST_WEEK = 0.2, 2.0


class Season:
    """Events by hour, as far back as a week and a day."""

    def __init__(self) -> None:
        self._hours: dict[int, int] = {}
        self._since: int | None = None

    def expected(self, start: int, end: int) -> tuple[float, float] | None:
        """Events that the step [start, end) should bring at least and at most; None on the first day."""
        if self._since is None or start - self._since < DAY_MS + HOUR_MS:
            return None
        yesterday = self._level(start - DAY_MS, end - DAY_MS)
        if start - self._since < 7 * DAY_MS + HOUR_MS:
            return _FIRST_WEEK[0] * yesterday, _FIRST_WEEK[1] * yesterday
        last_week = self._level(start - 7 * DAY_MS, end - 7 * DAY_MS)
        return min(yesterday, last_week), max(yesterday, last_week)

    def share(self, whole: Season, start: int, end: int) -> float | None:
        """Least share of the whole's events that this part had around the same time, a day or a week ago."""
        if self._since is None or start - self._since < DAY_MS + HOUR_MS:
            return None
        shares = []
        for ago in (DAY_MS, 7 * DAY_MS) if start - self._since >= 7 * DAY_MS + HOUR_MS else (DAY_MS,):
            of = whole._level(start - ago, end - ago)
            shares.append(self._level(start - ago, end - ago) / of if of else 0.0)
        return min(shares)

    @property
    def silent(self) -> bool:
        """Has there been nothing as far back as is remembered?"""
        return not any(self._hours.values())

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
