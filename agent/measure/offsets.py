"""Where the events of an hour lie: offsets by partition and hour of event time, so that a retraining can read
exactly its data again.

A minimum and a maximum per hour, of merged predictions alone: so an hour that is complete never changes, and
the answer does not depend on how far partitions were read ahead of one another.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from agent.events import Int64s, Partition
from agent.measure.pane import DAY_MS, HOUR_MS

SLOTS = 64
"""Days that are stored apart, so that a commit writes the days that changed; more than are ever kept."""

FROM = "offsets_from"
"""The document that says which day is the first that was not dropped."""

Hours = dict[int, dict[Partition, tuple[int, int]]]


class Offsets:
    """First and last offset of each partition in each hour."""

    def __init__(self) -> None:
        self._days: defaultdict[int, Hours] = defaultdict(dict)
        self._first_day = 0
        self._texts: dict[int, str] = {}

    def note(self, partition: Partition, times_ms: Int64s, offsets: Int64s) -> None:
        """Take in merged records, in offset order."""
        hours = times_ms // HOUR_MS * HOUR_MS
        for hour in np.unique(hours).tolist():
            mine = offsets[hours == hour]
            day = hour // DAY_MS
            held = self._days[day].setdefault(hour, {})
            low, high = held.get(partition, (int(mine[0]), int(mine[-1])))
            held[partition] = (min(low, int(mine[0])), max(high, int(mine[-1])))
            self._texts.pop(day, None)

    def spans(self, from_ms: int, to_ms: int) -> list[Mapping[str, Any]]:
        """Topics with the half-open range of offsets by partition that holds every event of [from, to).

        The hour that `to_ms` lies in may still be open and is left out.
        """
        found: dict[Partition, tuple[int, int]] = {}
        until = to_ms // HOUR_MS * HOUR_MS
        for day in range(from_ms // DAY_MS, until // DAY_MS + 1):
            for hour, held in self._days.get(day, {}).items():
                if from_ms < hour + HOUR_MS <= until:
                    for partition, (low, high) in held.items():
                        least, most = found.get(partition, (low, high))
                        found[partition] = (min(least, low), max(most, high))
        topics: defaultdict[str, dict[str, list[int]]] = defaultdict(dict)
        for partition, (low, high) in sorted(found.items()):
            topics[partition.topic][str(partition.partition)] = [low, high + 1]
        return [{"topic": topic, "offsets": offsets} for topic, offsets in sorted(topics.items())]

    def lowest(self, partition: Partition, from_ms: int) -> int | None:
        """The first offset of a partition in any hour from a time on; None where there is none."""
        found = [
            held[partition][0]
            for day, hours in self._days.items()
            for hour, held in hours.items()
            if day >= from_ms // DAY_MS and hour >= from_ms and partition in held
        ]
        return min(found, default=None)

    def forget(self, before_ms: int) -> None:
        """Drop days that end before a time."""
        self._first_day = max(self._first_day, before_ms // DAY_MS)
        for day in [day for day in self._days if day < self._first_day]:
            del self._days[day]
            self._texts.pop(day, None)

    def documents(self) -> Iterator[tuple[str, str]]:
        """The state by name; a new day takes the place of one that was dropped long ago."""
        yield FROM, str(self._first_day)
        for day, hours in sorted(self._days.items()):
            if day not in self._texts:
                rows = [
                    [hour, *partition, *ends]
                    for hour, held in sorted(hours.items())
                    for partition, ends in sorted(held.items())
                ]
                self._texts[day] = json.dumps([day, rows])
            yield f"offsets:{day % SLOTS}", self._texts[day]

    def load(self, documents: Iterable[tuple[str, str]]) -> None:
        """Go on from saved documents."""
        saved = {name: json.loads(text) for name, text in documents if name.startswith("offsets")}
        self._first_day = saved.pop(FROM, 0)
        for day, rows in saved.values():
            if day >= self._first_day:  # what was dropped stays in the store until its place is taken
                for hour, topic, number, low, high in rows:
                    self._days[day].setdefault(hour, {})[Partition(topic, number)] = (low, high)
