from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from itertools import pairwise

import pytest

from agent.ingest.story import MODEL, STORY
from tests.conftest import IN_CI
from tests.grafana.shipped import DASHBOARDS, LABEL_VALUES, Asked, choices, named, notes, targets, variables
from tests.grafana.told import SCRAPE_S, Prometheus, Refused, told

pytestmark = pytest.mark.slow

NOT_OURS = {"up"}
"""What Prometheus itself says of its targets."""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """The server that holds the story."""
    if shutil.which("prometheus") is None:
        reason = "no Prometheus (Debian: apt-get install prometheus)"
        if IN_CI:
            pytest.fail(f"CI needs a real Prometheus: {reason}", pytrace=False)
        pytest.skip(reason)
    with told(tmp_path_factory.mktemp("prometheus")) as running:
        yield running


def expanded(asked: Asked, prometheus: Prometheus) -> str:
    """A query as Grafana sends it, with the variables as they are when the dashboard is opened."""
    expr = asked.expr
    for one in DASHBOARDS[asked.uid]["templating"]["list"]:
        chosen = one["allValue"] if one.get("includeAll") else one["current"]["value"]
        expr = expr.replace(f"${one['name']}", chosen) if one["type"] == "query" else expr
    expr = expr.replace("$__rate_interval", f"{4 * SCRAPE_S}s").replace("$__range", f"{prometheus.seconds}s")
    assert "$" not in expr
    return expr


def test_the_variables_are_replaced_whole() -> None:
    """No variable's name begins with another's: replacing one leaves no rest of another."""
    names = {one["name"] for _, one in variables("query")}
    assert not [(a, b) for a in names for b in names if a != b and b.startswith(a)]


@pytest.mark.parametrize("asked", targets(), ids=str)
def test_every_panel_shows_something_of_the_story(asked: Asked, prometheus: Prometheus) -> None:
    """Each query of each panel returns numbers at some time of the story."""
    found = prometheus.series(expanded(asked, prometheus))
    assert any(math.isfinite(float(value)) for series in found for _, value in series["values"])


@pytest.mark.parametrize("asked", notes(), ids=str)
def test_every_annotation_marks_something_of_the_story(asked: Asked, prometheus: Prometheus) -> None:
    """Each annotation is there at some time, and none is there all the time."""
    found = prometheus.series(expanded(asked, prometheus))
    assert found
    marked = {time for series in found for time, _ in series["values"]}
    assert len(marked) < prometheus.seconds


@pytest.mark.parametrize("asked", choices(), ids=str)
def test_every_variable_offers_something(asked: Asked, prometheus: Prometheus) -> None:
    """Each variable has values to choose from, and what is chosen at first is one of them."""
    found = LABEL_VALUES.fullmatch(expanded(asked, prometheus))
    assert found
    offered = prometheus.values(found["label"], found["selector"])
    assert offered
    (variable,) = (one for one in DASHBOARDS[asked.uid]["templating"]["list"] if one["name"] == asked.where)
    assert variable["includeAll"] or variable["current"]["value"] in offered


def test_every_metric_that_is_named_exists(prometheus: Prometheus) -> None:
    """Panels, variables and annotations name only what an agent exposes."""
    exposed = prometheus.values("__name__")
    wanted = {name for asked in (*targets(), *notes(), *choices()) for name in named(asked.expr)}
    assert len(wanted) > 30
    assert wanted - NOT_OURS <= {name for name in exposed if name.startswith("plumbline_")}
    assert exposed >= NOT_OURS


def marked(prometheus: Prometheus, name: str) -> list[dict[str, str]]:
    """The labels of what an annotation marks on the model's dashboard."""
    (asked,) = (one for one in notes() if one.uid == "plumbline-model" and one.where == name)
    return [series["metric"] for series in prometheus.series(expanded(asked, prometheus))]


@pytest.mark.parametrize(("name", "severity"), [("Pages", "page"), ("Tickets", "ticket")])
def test_alarms_are_marked_as_the_story_tells_them(prometheus: Prometheus, name: str, severity: str) -> None:
    """The marks are the alarms of the script, no more and no fewer."""
    wanted = {
        (alarm.detector, alarm.feature, alarm.segment)
        for incident in STORY
        for alarm in incident.alarms
        if alarm.severity == severity
    }
    found = marked(prometheus, name)
    assert {(one["detector"], one.get("feature", ""), one.get("segment", "")) for one in found} == wanted


def bursts(prometheus: Prometheus, name: str) -> int:
    """How many separate times an annotation marks."""
    (asked,) = (one for one in notes() if one.uid == "plumbline-model" and one.where == name)
    found = 0
    for series in prometheus.series(expanded(asked, prometheus)):
        times = [time for time, _ in series["values"]]
        found += 1 + sum(b - a > 2 * SCRAPE_S for a, b in pairwise(times))
    return found


def test_each_version_and_each_request_is_marked_once(prometheus: Prometheus) -> None:
    """Two versions and two retraining requests make two marks each, however often they are scraped."""
    assert {one["model_version"] for one in marked(prometheus, "New versions")} == {"1", "2"}
    assert bursts(prometheus, "New versions") == 2
    assert bursts(prometheus, "Retraining requests") == sum(bool(incident.request) for incident in STORY)


def panel(uid: str, title: str, ref: str = "A") -> Asked:
    """One query of a panel."""
    (asked,) = (one for one in targets() if (one.uid, one.where) == (uid, f"{title} {ref}"))
    return asked


def test_the_fleet_turns_red_and_green_again(prometheus: Prometheus) -> None:
    """The first number that one sees follows the story: none, pages, none."""
    ((series),) = prometheus.series(expanded(panel("plumbline-fleet", "Pages active"), prometheus))
    course = [float(value) for _, value in series["values"]]
    assert course[0] == 0
    assert max(course) == 2
    assert course[-1] == 0


def test_the_fleet_names_the_model_that_needs_somebody(prometheus: Prometheus) -> None:
    """A row of the table of red lines carries what its link needs."""
    found = prometheus.series(expanded(panel("plumbline-fleet", "Pages active now"), prometheus))
    assert {series["metric"]["model_name"] for series in found} == {MODEL}


def test_a_query_that_prometheus_does_not_understand_fails(prometheus: Prometheus) -> None:
    """These tests can fail: a typing error in a query is an error, and an unknown metric gives nothing."""
    with pytest.raises(Refused, match="parse error"):
        prometheus.series("sum by (model_name (up)")
    assert prometheus.series("plumbline_no_such_metric") == []
