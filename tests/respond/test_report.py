import json
import math
from collections.abc import Mapping
from dataclasses import replace

import pytest

from agent.respond.report import Report, split_slice, to_html, to_json
from agent.respond.view import AlarmView, MetricValue, MonitorKey, Severity, WindowView
from tests.respond.examples import evidence, model, version, view, window

KEY = MonitorKey("credit", "v1", "group_ratio", segment="sex=f", metric="false_positive_rate")
JOIN = {"predictions": 200, "joined": 120, "pending": 70, "expired": 10, "feedback": 150}
KEYS = {
    "report": {"models", "rejected", "seconds"},
    "model": {
        *("predictions", "feedback", "joined", "metrics", "segments", "windows", "alarms", "triggers"),
        *("experiments", "version_changes"),
    },
    "window": {"window", "start", "end", "n", "metrics", "drift"},
    "alarm": {"time", "detector", "feature", "segment", "severity", "evidence"},
}


def report(windows: Mapping[str, WindowView] | None = None, **changes: object) -> Report:
    """A report on one model with one version and one alarm."""
    alarm = AlarmView(KEY, Severity.PAGE, 3_600_000, None, evidence(1.5), "fired")
    one = replace(model(alarms=[alarm]), join=JOIN, **changes)  # type: ignore[arg-type]
    return Report(view(one), {"credit": list((windows or {"1h": window()}).items())}, {"bad_score": 2}, 1.5)


def test_the_document_has_the_agreed_keys_and_no_others() -> None:
    """Whoever reads the backtest's JSON finds exactly the documented structure."""
    document = to_json(report())
    found = document["models"]["credit"]
    assert set(document) == KEYS["report"]
    assert set(found) == KEYS["model"]
    assert set(found["windows"][0]) == KEYS["window"]
    assert set(found["alarms"][0]) == KEYS["alarm"]
    assert found["metrics"]["accuracy"] == {"value": 0.8125, "n": 160, "low": 0.75, "high": 0.87}
    assert found["segments"]["sex"]["f"] == {
        "n": 200,
        "metrics": {"accuracy": {"value": 0.8125, "n": 160}, "true_negatives": {"value": 70.0, "n": 160}},
    }
    assert found["windows"][0]["drift"]["age"] == {"psi": 0.1, "kl": 0.05, "js": 0.02}
    assert (found["predictions"], found["feedback"], found["joined"]) == (200, 150, 120)
    assert (document["rejected"], document["seconds"]) == ({"bad_score": 2}, 1.5)


def test_an_alarm_says_when_where_and_why() -> None:
    """Times are RFC 3339, what does not apply is null, and the evidence names metric and ratio."""
    (alarm,) = to_json(report())["models"]["credit"]["alarms"]
    assert (alarm["time"], alarm["severity"]) == ("1970-01-01T01:00:00.000Z", "page")
    assert (alarm["feature"], alarm["segment"]) == (None, "sex=f")
    assert alarm["evidence"]["metric"] == "false_positive_rate"
    assert alarm["evidence"]["ratio"] == pytest.approx(1.5)


def test_lifetime_values_cover_all_versions() -> None:
    """The window "lifetime" wins over a version's and is not listed; without it the newest counts."""
    all_of_it = replace(window(), metrics={"": {"accuracy": MetricValue(0.5, 400)}})
    newest = replace(window(), metrics={"": {"accuracy": MetricValue(0.6, 10)}})
    versions = {"v2": replace(version("v2", {"lifetime": newest}), last_seen_ms=10**9), "v1": version()}
    summed = to_json(report({"1h": window(), "lifetime": all_of_it}, versions=versions))["models"]["credit"]
    assert summed["metrics"]["accuracy"]["value"] == 0.5
    assert [w["window"] for w in summed["windows"]] == ["1h"]
    alone = to_json(report(versions=versions))["models"]["credit"]
    assert alone["metrics"]["accuracy"]["value"] == 0.6


def test_no_number_is_infinite() -> None:
    """The document is JSON in the strict sense: an undefined metric is absent, an infinite bound null."""
    odd = {"accuracy": MetricValue(math.nan, 3), "recall": MetricValue(1.0, 3, -math.inf, math.inf)}
    infinite = replace(evidence(), details={"shift": math.inf}, low=-math.inf)
    alarm = AlarmView(KEY, Severity.TICKET, 0, 1, infinite, "fired")
    found = report({"lifetime": replace(window(), metrics={"": odd, "sex=f": odd})}, alarms=[alarm])
    document = json.loads(json.dumps(to_json(found), allow_nan=False))["models"]["credit"]
    assert document["metrics"] == {"recall": {"value": 1.0, "n": 3, "low": None, "high": None}}
    assert document["segments"]["sex"]["f"]["metrics"] == {"recall": {"value": 1.0, "n": 3}}
    assert document["alarms"][0]["evidence"]["details"] == {"shift": None}


@pytest.mark.parametrize(
    ("where", "attribute", "group"),
    [
        ("sex=f", "sex", "f"),
        ("race=A,sex=f", "race,sex", "A,f"),
        ("city=Washington, D.C.", "city", "Washington, D.C."),
        ("formula=a=b", "formula", "a=b"),
        ("note=", "note", ""),
    ],
)
def test_slices_are_taken_apart(where: str, attribute: str, group: str) -> None:
    """Groups may hold commas and equals signs; intersections join attributes and groups by commas."""
    assert split_slice(where) == (attribute, group)


def test_a_model_without_events_has_an_empty_report() -> None:
    """A configured model that never spoke is there, with nothing in it."""
    found = to_json(report({"x": replace(window(), metrics={}, counts={}, drift={})}, versions={}))
    assert found["models"]["credit"]["metrics"] == {}
    assert found["models"]["credit"]["windows"][0]["n"] == 0


def test_the_page_is_self_contained_and_escaped() -> None:
    """No script, no address outside, and names from events cannot become markup."""
    evil = replace(window(("sex=<script>alert(1)</script>",)))
    page = to_html(report({"lifetime": evil, "1h": window()}))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page
    for word in ("accuracy", "0.8125", "group_ratio", "bad_score", "By sex"):
        assert word in page
