"""The first screen of a model: its vital numbers, each with its bar, its line and what it means."""

from __future__ import annotations

from collections.abc import Sequence

from agent.respond.page import draw
from agent.respond.page.history import History, Point
from agent.respond.page.html import NOTHING, Html, join, tag, words
from agent.respond.page.numbers import GAP, between, number
from agent.respond.page.vital import Vital, vitals
from agent.respond.view import ModelView

_BADGES = {
    "broken": "broken",
    "warn": "to look at",
    "unproven": "outside, not proven",
    "unknown": "not enough evidence",
    "ok": "ok",
    "": "no bar",
}


def vital_numbers(model: ModelView, history: History) -> Html:
    """A card for each, and how to read their lines."""
    shown = [_card(model, vital, history) for vital in vitals(model)]
    return join([tag("div", *shown, class_="vitals"), _note(history)])


def _note(history: History) -> Html:
    kept = (
        "Lines: the last 24 h of event time, kept since the agent started and only for display."
        " Dashes: where the tolerance ends. Shaded: an alarm."
    )
    return tag("p", words(kept if history else "Lines appear with the next commits."), class_="faint")


def _card(model: ModelView, vital: Vital, history: History) -> Html:
    points: Sequence[Point] = history.get((model.name, vital.id), ())
    own = {monitor.key[2:] for monitor in vital.monitors}  # an alarm of the last version is part of the story
    end = model.watermark_ms or 0
    spans = [(a.raised_ms, a.resolved_ms or end) for a in model.alarms if a.key[2:] in own]
    if vital.value is None:
        value = tag("p", words(vital.lacking or "unknown"), class_="lacking")
    else:
        value = tag("p", tag("b", words(number(vital.value, vital.unit))), class_="value")
    badge = _BADGES[vital.verdict]
    interval = between(vital.low, vital.high, vital.unit) if vital.value is not None else ""
    facts = [
        f"95{GAP}% interval {interval}" if interval else "",
        f"{'baseline ' + number(vital.reference, vital.unit)}" if vital.reference is not None else "",
        f"tolerated {bar}" if (bar := between(*vital.tolerance, vital.unit)) else "",
        f"n{GAP}={GAP}{vital.n:,}" if vital.n is not None and vital.value is not None else "",
    ]
    return tag(
        "article",
        tag(
            "h4",
            words(vital.name),
            Html(" "),
            tag("span", words(badge), class_=f"badge {vital.verdict}".strip()),
        ),
        value,
        tag("p", words(vital.scope)),
        draw.sparkline(points, vital.unit, vital.tolerance, spans),
        tag("p", words(" · ".join(fact for fact in facts if fact)), class_="facts"),
        tag("p", words(vital.meaning), class_="faint"),
        tag("p", words(vital.owner), class_="faint") if vital.owner else NOTHING,
        class_=f"card vital {vital.verdict}".strip(),
    )
