"""The rules of Grafana's dashboard-linter, ported: its binary is not needed to keep them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from grafana_foundation_sdk.models import units

from tests.grafana.shipped import (
    DASHBOARDS,
    LABEL_VALUES,
    SELECTOR,
    choices,
    notes,
    panels,
    targets,
    variables,
)

UNITS = {value for name, value in vars(units).items() if isinstance(value, str) and not name.startswith("_")}
COUNTED = re.compile(r"_(?:total|bucket|count|sum)$")
RANGE = re.compile(r"(\w+)\s*\(\s*(\w+)\{[^}]*\}\[([^\]]+)\]")
FOLLOWS = {
    "rate": {"$__rate_interval"},
    "irate": {"$__rate_interval"},
    "increase": {"$__rate_interval", "$__range"},
}
SELECTED = {"job": 'job=~"$job"', "instance": 'instance=~"$instance"'}

each = pytest.mark.parametrize("uid", DASHBOARDS)


def variable(uid: str, name: str) -> dict[str, Any]:
    """The one variable of this name."""
    (found,) = (one for one in DASHBOARDS[uid]["templating"]["list"] if one["name"] == name)
    return dict(found)


@each
def test_there_is_one_data_source_variable(uid: str) -> None:
    """template-datasource-rule: one, named `datasource`, labelled as people expect, and first."""
    found = [one for one in DASHBOARDS[uid]["templating"]["list"] if one["type"] == "datasource"]
    assert [(one["name"], one["label"], one["query"]) for one in found] == [
        ("datasource", "Data source", "prometheus")
    ]
    assert DASHBOARDS[uid]["templating"]["list"][0]["type"] == "datasource"


@each
@pytest.mark.parametrize(("name", "label"), [("job", "Job"), ("instance", "Instance")])
def test_job_and_instance_can_be_chosen(uid: str, name: str, label: str) -> None:
    """template-job-rule, template-instance-rule: query variables, any number of values, none empty."""
    found = variable(uid, name)
    assert found["type"] == "query"
    assert found["label"] == label
    assert (found["multi"], found["includeAll"], found["allValue"]) == (True, True, ".+")
    assert found["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_variables_follow_the_time_range() -> None:
    """template-on-time-change-reload-rule: a model that was retired can be found in its own time."""
    assert all(one["refresh"] == 2 for _, one in variables("query"))


def test_variables_ask_for_the_values_of_a_label() -> None:
    """template-label-promql-rule: label_values of a selector; only job itself is not narrowed by job."""
    for asked in choices():
        found = LABEL_VALUES.fullmatch(asked.expr)
        assert found, asked
        ((_, matchers),) = SELECTOR.findall(found["selector"])
        assert (SELECTED["job"] in matchers) == (asked.where != "job"), asked


def test_panels_say_what_they_show() -> None:
    """panel-title-description-rule, panel-no-targets-rule, panel-datasource-rule."""
    for uid, panel in panels():
        assert panel["title"], uid
        assert panel["description"], panel["title"]
        assert panel["targets"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]


def test_units_are_grafanas() -> None:
    """panel-units-rule: of every panel and every column, and a misspelt one would not be among them."""
    assert {"percentunit", "s", "ops"} <= UNITS
    assert "second" not in UNITS
    for _, panel in panels():
        overrides = panel["fieldConfig"].get("overrides", [])
        used = [prop["value"] for one in overrides for prop in one["properties"] if prop["id"] == "unit"]
        assert {panel["fieldConfig"]["defaults"]["unit"], *used} <= UNITS, panel["title"]


def test_every_selector_matches_job_and_instance() -> None:
    """target-job-rule, target-instance-rule: of every selector, so that no agent's series slips in."""
    for asked in (*targets(), *notes()):
        found = SELECTOR.findall(asked.expr)
        assert found, asked
        for _, matchers in found:
            assert all(wanted in matchers for wanted in SELECTED.values()), asked


def test_no_metric_stands_without_a_selector() -> None:
    """A bare metric name would escape all the rules here."""
    for asked in (*targets(), *notes()):
        assert not re.search(r"plumbline_|\bup\b", SELECTOR.sub("", asked.expr)), asked


def raw_counters(expr: str) -> list[str]:
    """The counters of a query outside rate and increase, and the ranges that do not follow the graph."""
    ranged = [(function, metric, interval) for function, metric, interval in RANGE.findall(expr)]
    aggregated = {metric for function, metric, _ in ranged if function in FOLLOWS}
    raw = [name for name, _ in SELECTOR.findall(expr) if COUNTED.search(name) and name not in aggregated]
    return raw + [
        interval for function, _, interval in ranged if interval not in FOLLOWS.get(function, {interval})
    ]


@pytest.mark.parametrize(
    ("expr", "wrong"),
    [
        ('sum(rate(a_total{x="1"}[$__rate_interval]))', []),
        ('sum(increase(a_total{x="1"}[$__range]))', []),
        ('sum(a_total{x="1"})', ["a_total"]),
        ('max_over_time(a_total{x="1"}[1d])', ["a_total"]),
        ('rate(a_total{x="1"}[5m])', ["5m"]),
        ('rate(a_total{x="1"}[$__range])', ["$__range"]),
    ],
)
def test_a_raw_counter_would_be_found(expr: str, wrong: list[str]) -> None:
    """The rule below can fail."""
    assert raw_counters(expr) == wrong


def test_counters_are_aggregated_over_the_rate_interval() -> None:
    """target-counter-agg-rule, target-rate-interval-rule: a raw counter says when the agent was started."""
    assert not [str(asked) for asked in targets() if raw_counters(asked.expr)]


@each
def test_nobody_edits_in_the_browser(uid: str) -> None:
    """uneditable-dashboard-rule: an edit there would be lost with the next roll-out."""
    assert DASHBOARDS[uid]["editable"] is False


@each
def test_every_variable_is_used_and_every_used_one_exists(uid: str) -> None:
    """No filter without effect, and no query with a filter that cannot be set."""
    defined = {one["name"] for one in DASHBOARDS[uid]["templating"]["list"]}
    asked = [*targets(), *notes(), *choices()]
    used = {name for one in asked if one.uid == uid for name in re.findall(r"\$(\w+)", one.expr)}
    used = {name for name in used if not name.startswith("__")}
    assert used | {"datasource"} == defined
