"""Numbers, times and durations as people read them; what is not known is said to be unknown."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Literal

from agent.measure.catalogue import row_of
from agent.respond.page.html import Html, tag, words

Unit = Literal["share", "times", "seconds", "count", "plain"]

UNKNOWN = "unknown"
GAP = "\u00a0"
"""Between a number and its unit: no line ends there."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 253_402_300_799_999


def unit_of(metric: str) -> Unit:
    """The unit of a metric by its id."""
    row = row_of(metric)
    if row is None:
        return "seconds" if metric.endswith("_seconds") else "share"
    return "plain" if row.unit == "nats" else row.unit


def number(value: float | None, unit: Unit = "plain") -> str:
    """One number with its unit; None, NaN and infinities are unknown."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    match unit:
        case "share":
            return f"{100 * value:.1f}{GAP}%"
        case "times":
            return f"{value:.2f}{GAP}×"
        case "seconds":
            return f"{1000 * value:.1f}{GAP}ms" if abs(value) < 1 else f"{value:.2f}{GAP}s"
        case "count":
            return f"{value:,.0f}"
        case "plain":
            return f"{value:.3f}"


def between(low: float | None, high: float | None, unit: Unit) -> str:
    """An interval in words; empty where there is none."""
    known_low, known_high = known(low), known(high)
    if known_low and known_high:
        return f"{number(low, unit)} to {number(high, unit)}"
    if known_low:
        return f"at least {number(low, unit)}"
    return f"at most {number(high, unit)}" if known_high else ""


def known(value: float | None) -> bool:
    """Is it a number that can be shown?"""
    return value is not None and math.isfinite(value)


def moment(ms: int | None, *, date: bool = True) -> Html:
    """A time in UTC."""
    if ms is None:
        return words(UNKNOWN)
    at = _EPOCH + timedelta(milliseconds=min(max(ms, 0), _LAST_MS))
    shown = f"{at.day} {at:%b %Y}, {at:%H:%M} UTC" if date else f"{at:%H:%M} UTC"
    return tag("time", words(shown), datetime=at.strftime("%Y-%m-%dT%H:%M:%SZ"))


def duration(ms: int) -> str:
    """A span in its two largest units."""
    minutes = max(0, ms) // 60_000
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {rest} min" if hours else f"{rest} min"
