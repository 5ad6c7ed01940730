"""Experiments: each variant against its control, with an interval that holds at every look."""

from __future__ import annotations

from agent.measure.catalogue import definition
from agent.respond.page import tell
from agent.respond.page.html import Html, join, name, table, tag, words
from agent.respond.page.numbers import GAP, between, number, unit_of
from agent.respond.view import ExperimentView, LiftView, ModelView

_BADGES = {
    "better": "ok",
    "equivalent": "ok",
    "worse": "broken",
    "guardrail broken": "broken",
    "not to be trusted": "broken",
}
MAX_ROWS = 20


def experiments(model: ModelView) -> Html:
    """A table for each experiment."""
    return join(_table(one) for one in model.experiments)


def _table(one: ExperimentView) -> Html:
    shared = {
        True: " Units are not shared out as planned: no verdict is to be trusted.",
        False: " Units are shared out as planned.",
        None: "",
    }[one.mismatched]
    said = f"Experiment {name(one.name)}: against {name(one.control)}, from all events so far.{shared}"
    rows = [_row(lift) for lift in one.lifts[:MAX_ROWS]]
    if not rows:
        return tag("p", words(f"{said} Not enough evidence yet."), class_="faint")
    return table(words(said), ("Variant", "Control", "Variant's value", "Difference", "Verdict"), rows)


def _row(lift: LiftView) -> list[Html]:
    unit = unit_of(lift.metric)
    metric = f"{tell.plain(lift.metric)}, {lift.role}: {definition(lift.metric)}"
    values = [
        words(f"{number(value, unit)}, n{GAP}={GAP}{n:,}")
        for value, n in ((lift.control_value, lift.control_n), (lift.variant_value, lift.variant_n))
    ]
    difference = words(number(lift.difference))
    reach = tag("small", words(f"{between(lift.low, lift.high, 'plain')}, {lift.method}"))
    badge = tag("span", words(lift.verdict), class_=f"badge {_BADGES.get(lift.verdict, 'unknown')}")
    head = join([words(name(lift.variant)), tag("small", words(metric))])
    return [head, *values, join([difference, reach]), badge]
