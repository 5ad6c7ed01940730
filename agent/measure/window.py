"""Windows are sums of panes. What is shown includes the open panes; it advances by the step of its tier."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent.events import Int64s
from agent.measure.model import Model
from agent.measure.pane import DAY_MS, HOUR, HOUR_MS, LIFETIME, MINUTE, MINUTE_MS, PREDICTIONS, PaneKey

SPANS: dict[str, tuple[int, int]] = {
    "5m": (MINUTE, 5 * MINUTE_MS),
    "1h": (MINUTE, HOUR_MS),
    "24h": (HOUR, DAY_MS),
    "7d": (HOUR, 7 * DAY_MS),
    "30d": (HOUR, 30 * DAY_MS),
}
"""Tier and length of each window but the lifetime."""


@dataclass(frozen=True, slots=True)
class Sums:
    """The panes of one stretch of time, summed by slice."""

    start_ms: int
    end_ms: int
    predictions: dict[str, Int64s]
    performance: dict[str, Int64s]


def window(model: Model, version: str, name: str, end_ms: int) -> Sums:
    """The window of this name that holds `end_ms`, the newest event time."""
    if name == "lifetime":
        first, last = model.seen[version]
        return stretch(model, version, LIFETIME, [0], first, last + 1)
    tier, length = SPANS[name]
    unit = MINUTE_MS if tier == MINUTE else HOUR_MS
    end = (end_ms // unit + 1) * unit
    return stretch(model, version, tier, range(end - length, end, unit), end - length, end)


def stretch(
    model: Model, version: str | None, tier: int, starts: Iterable[int], start_ms: int, end_ms: int
) -> Sums:
    """The sum of panes of one tier, of one version or of all."""
    keys: dict[tuple[str, bool], list[PaneKey]] = {}
    for start in starts:
        for key in model.panes.at(tier, start):
            if version in (None, key.version):
                keys.setdefault((key.segment, key.age == PREDICTIONS), []).append(key)
    predictions: dict[str, Int64s] = {}
    performance: dict[str, Int64s] = {}
    for (segment, unlabelled), found in keys.items():
        total = model.panes.total(found)
        if total is not None:
            (predictions if unlabelled else performance)[segment] = total
    return Sums(start_ms, end_ms, predictions, performance)
