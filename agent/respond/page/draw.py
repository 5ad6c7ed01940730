"""Small drawings as inline SVG: a sparkline with its bar, an interval against its tolerance.

Shapes carry classes, the style sheet the colours; every drawing says in words what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from agent.respond.page.history import Point
from agent.respond.page.html import NOTHING, Html, tag, words
from agent.respond.page.numbers import Unit, between, known, number

WIDTH, HEIGHT, PAD = 240.0, 56.0, 4.0
Span = tuple[int, int]


def sparkline(
    points: Sequence[Point], unit: Unit, tolerance: tuple[float | None, float | None], alarms: Iterable[Span]
) -> Html:
    """A line over event time; dashes where the tolerance ends, shaded while an alarm was active."""
    values = [p.value for p in points if p.value is not None]
    if len(values) < 2:
        return tag("p", words("no history yet"), class_="faint")
    bars = [bar for bar in tolerance if bar is not None and math.isfinite(bar)]
    low, high = min([*values, *bars]), max([*values, *bars])
    start, end = points[0].at_ms, points[-1].at_ms

    def x(ms: int) -> float:
        return round(PAD + (WIDTH - 2 * PAD) * (min(max(ms, start), end) - start) / max(1, end - start), 1)

    def y(value: float) -> float:
        return round(
            HEIGHT - PAD - (HEIGHT - 2 * PAD) * ((value - low) / (high - low) if high > low else 0.5), 1
        )

    shades = [
        tag("rect", x=x(a), y=0, width=max(1.5, round(x(b) - x(a), 1)), height=HEIGHT, class_="shade")
        for a, b in alarms
        if b > start
    ]
    lines = [tag("line", x1=0, x2=WIDTH, y1=y(bar), y2=y(bar), class_="bar") for bar in bars]
    runs = [
        tag("polyline", points=" ".join(f"{x(p.at_ms)},{y(p.value or 0.0)}" for p in run))
        for run in _runs(points)
    ]
    last = next(p for p in reversed(points) if p.value is not None)
    dot = tag("circle", cx=x(last.at_ms), cy=y(last.value or 0.0), r=3)
    told = (
        f"From {number(values[0], unit)} to {number(values[-1], unit)};"
        f" lowest {number(min(values), unit)}, highest {number(max(values), unit)}."
    )
    return _svg(WIDTH, HEIGHT, "spark", told, [*shades, *lines, *runs, dot])


def interval(
    value: float | None, low: float | None, high: float | None, tolerance: tuple[float | None, float | None]
) -> Html:
    """A ratio, its interval and its tolerance, on a logarithmic scale from a quarter to four times."""
    if value is None or not math.isfinite(value) or value <= 0:
        return NOTHING
    width, height = 120.0, 20.0

    def x(ratio: float | None, otherwise: float) -> float:
        if ratio is None or not math.isfinite(ratio) or ratio <= 0:
            return otherwise
        return round(min(max(width * (math.log2(ratio) + 2) / 4, 0.0), width), 1)

    left, right = x(tolerance[0], 0), x(tolerance[1], width)
    parts = [
        tag("rect", x=left, y=0, width=max(0.0, round(right - left, 1)), height=height, class_="fine"),
        tag("line", x1=x(1.0, 0), x2=x(1.0, 0), y1=0, y2=height, class_="bar"),
        tag("line", x1=x(low, 0), x2=x(high, width), y1=height / 2, y2=height / 2, class_="reach"),
        tag("circle", cx=x(value, 0), cy=height / 2, r=4),
    ]
    told = f"{number(value, 'times')}, interval {between(low, high, 'times')}"
    told += f", tolerated {between(*tolerance, 'times')}"
    return _svg(width, height, "reach", told, parts)


def strength(ratio: float, active: bool) -> Html:
    """How much of the evidence for an alarm there is."""
    share = min(max(ratio, 0.0), 1.0) if known(ratio) else 0.0
    parts = [
        tag("rect", x=0, y=0, width=60, height=8, rx=4, class_="track"),
        tag(
            "rect", x=0, y=0, width=round(60 * share, 1), height=8, rx=4, class_="full" if active else "some"
        ),
    ]
    return _svg(60, 8, "strength", f"{number(ratio, 'times')} the evidence of an alarm", parts)


def _runs(points: Sequence[Point]) -> list[list[Point]]:
    """Stretches without a gap."""
    runs: list[list[Point]] = [[]]
    for point in points:
        if point.value is not None:
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if len(run) > 1]


def _svg(width: float, height: float, kind: str, told: str, parts: Iterable[Html]) -> Html:
    return tag("svg", *parts, class_=kind, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=told)
