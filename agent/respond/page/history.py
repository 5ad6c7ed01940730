"""What the sparklines show: the vital numbers of the last 24 hours of event time, for display only.

Kept in memory, bounded, empty after a restart; the page says so. Nothing is decided on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from agent.respond.page.numbers import known
from agent.respond.page.vital import vitals
from agent.respond.view import View

STEP_MS = 5 * 60_000
SPAN_MS = 24 * 3_600_000
MAX_MODELS = 200
"""Models beyond these have no sparklines."""


class Point(NamedTuple):
    """A vital number at an event time; None: it was not known."""

    at_ms: int
    value: float | None


History = Mapping[tuple[str, str], tuple[Point, ...]]
"""(model, vital number) → points in order of time; at most one in STEP_MS, none older than SPAN_MS."""


def noted(history: History, view: View) -> History:
    """The history with this view in it; models and numbers that are gone are forgotten."""
    found: dict[tuple[str, str], tuple[Point, ...]] = {}
    for name in sorted(view.models)[:MAX_MODELS]:
        model = view.models[name]
        if model.watermark_ms is None:
            continue
        for vital in vitals(model):
            point = Point(model.watermark_ms, vital.value if known(vital.value) else None)
            found[name, vital.id] = _with(history.get((name, vital.id), ()), point)
    return found


def _with(points: tuple[Point, ...], new: Point) -> tuple[Point, ...]:
    """The newest of each step stands for it."""
    if points and new.at_ms <= points[-1].at_ms:
        return (*points[:-1], new._replace(at_ms=points[-1].at_ms))
    same = points and points[-1].at_ms // STEP_MS == new.at_ms // STEP_MS
    kept = points[:-1] if same else points
    first = next((i for i, p in enumerate(kept) if p.at_ms > new.at_ms - SPAN_MS), len(kept))
    return (*kept[first:], new)
