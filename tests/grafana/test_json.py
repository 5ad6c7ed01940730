from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import jsonschema
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins

from grafana.__main__ import dashboards, text
from grafana.frame import TITLES
from tests.grafana.shipped import DASHBOARDS, FOLDER, panels

SCHEMA = json.loads((Path(__file__).parent / "dashboard.schema.json").read_text("utf-8"))
LINK = re.compile(r"^/d/([a-z-]+)(?:\?(.*))?$")
each = pytest.mark.parametrize("uid", DASHBOARDS)


def urls(node: object) -> list[str]:
    """Every url in a piece of JSON."""
    if isinstance(node, list):
        return [found for one in node for found in urls(one)]
    if isinstance(node, dict):
        own = [node["url"]] if "url" in node else []
        return own + [found for one in node.values() for found in urls(one)]
    return []


def test_generating_again_changes_nothing() -> None:
    """The committed JSON is what the code writes, file by file and byte by byte."""
    written = {path.stem: path.read_text("utf-8") for path in (FOLDER / "dashboards").glob("*.json")}
    assert written == {uid: text(one) for uid, one in dashboards().items()}


def test_the_uids_are_those_that_alerts_and_bookmarks_name() -> None:
    """Nobody's link breaks: these six uids are shipped, each in the file of its name."""
    promised = {"fleet", "model", "feature", "fairness", "business", "agent"}
    assert {one["uid"] for one in DASHBOARDS.values()} == {f"plumbline-{name}" for name in promised}
    assert all(uid == one["uid"] for uid, one in DASHBOARDS.items())


@each
def test_a_dashboard_keeps_its_promises(uid: str) -> None:
    """Each dashboard is as our schema describes it."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(DASHBOARDS[uid], SCHEMA)


@each
def test_the_library_reads_what_is_shipped(uid: str) -> None:
    """Grafana's own model takes every key: reading and writing it again loses none."""
    from grafana_foundation_sdk.models.dashboard import Dashboard  # late: see grafana/__init__.py

    register_default_plugins()
    model = Dashboard.from_json(json.loads(json.dumps(DASHBOARDS[uid])))
    again = json.loads(json.dumps(model, cls=JSONEncoder))
    assert lost(DASHBOARDS[uid], again) == []


def lost(before: object, after: object, where: str = "") -> list[str]:
    """Where `after` lacks or changes something of `before`."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            found
            for key, value in before.items()
            for found in (lost(value, after[key], f"{where}.{key}") if key in after else [f"{where}.{key}"])
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [found for n, (one, other) in pairs for found in lost(one, other, f"{where}[{n}]")]
    return [] if before == after else [where]


@each
def test_panels_do_not_overlap_and_fill_their_lines(uid: str) -> None:
    """No panel hides another, none hangs over the edge, and every line of panels is as wide as the screen."""
    boxes = [panel["gridPos"] for panel in DASHBOARDS[uid]["panels"]]
    for a, b in combinations(boxes, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or below, f"{a} and {b}"
    full = Counter(y for box in boxes for y in range(box["y"], box["y"] + box["h"]) for _ in range(box["w"]))
    assert full == dict.fromkeys(range(max(full) + 1), 24)


@each
def test_panels_have_names_of_their_own(uid: str) -> None:
    """A panel can be linked to: its id is its own; a person can name it: so is its title, among its kind."""
    ids = [panel["id"] for panel in DASHBOARDS[uid]["panels"]]
    assert len(set(ids)) == len(ids)
    titles = [(panel["title"], panel["type"]) for panel in DASHBOARDS[uid]["panels"]]
    assert len(set(titles)) == len(titles)


@each
def test_links_lead_to_shipped_dashboards_and_set_variables_that_they_have(uid: str) -> None:
    """No link ends nowhere, and none sets a filter that its target does not know."""
    for url in urls(DASHBOARDS[uid]):
        found = LINK.match(url)
        assert found, url
        target = DASHBOARDS[found[1]]
        known = {variable["name"] for variable in target["templating"]["list"]}
        for part in (found[2] or "").split("&"):
            if part.startswith("var-"):
                assert part.removeprefix("var-").split("=")[0] in known, url


@each
def test_every_dashboard_links_to_all_others_in_reading_order(uid: str) -> None:
    """From anywhere to anywhere in one click, time and filters kept."""
    shown = [LINK.match(link["url"])[1] for link in DASHBOARDS[uid]["links"]]  # type: ignore[index]
    assert shown == [other for other in TITLES if other != uid]


def test_links_of_data_keep_the_time_and_the_agents() -> None:
    """A click on a row or a line loses neither the time range nor the choice of source, job and instance."""
    found = [url for _, panel in panels() for url in urls(panel)]
    assert len(found) > 5
    for url in found:
        for kept in (
            "${__url_time_range}",
            "${datasource:queryparam}",
            "${job:queryparam}",
            "${instance:queryparam}",
        ):
            assert kept in url


def test_the_fleet_shows_red_lines_first_and_three_to_five_numbers_per_model() -> None:
    """What is broken stands above what is only interesting, and a model's row can be taken in at a glance."""
    fleet = DASHBOARDS["plumbline-fleet"]["panels"]
    assert fleet[0]["title"] == "Red lines"
    assert fleet[1]["title"] == "Pages active"
    models = next(panel for panel in fleet if panel["title"] == "Models" and panel["type"] == "table")
    assert 3 <= len(models["targets"]) <= 5
    assert models["options"]["sortBy"][0] == {"displayName": "Pages", "desc": True}


def test_tables_sort_by_columns_that_they_have() -> None:
    """A table that says 'worst first' names its column as it is shown."""
    for _, panel in panels():
        if panel["type"] == "table":
            shown = {
                prop["value"]
                for override in panel["fieldConfig"]["overrides"]
                for prop in override["properties"]
                if prop["id"] == "displayName"
            }
            assert {by["displayName"] for by in panel["options"]["sortBy"]} <= shown


def test_tables_name_their_values_as_grafana_does() -> None:
    """Grafana calls the value of the only query "Value", and "Value #B" that of B among several."""
    for _, panel in panels():
        if panel["type"] == "table":
            letters = {target["refId"] for target in panel["targets"]}
            shown = {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}
            hidden = set(panel["transformations"][1]["options"]["excludeByName"])
            values = {f"Value #{letter}" for letter in letters} if len(letters) > 1 else {"Value"}
            assert values == {name for name in shown | hidden if name.startswith("Value")}, panel["title"]


def test_provisioning_finds_its_files() -> None:
    """Grafana takes both files: a Prometheus source, and dashboards that nobody edits in the browser."""
    source = yaml.safe_load((FOLDER / "provisioning/datasources/plumbline.yaml").read_text("utf-8"))
    assert source["apiVersion"] == 1
    assert [one["type"] for one in source["datasources"]] == ["prometheus"]
    provider = yaml.safe_load((FOLDER / "provisioning/dashboards/plumbline.yaml").read_text("utf-8"))
    assert provider["apiVersion"] == 1
    (one,) = provider["providers"]
    assert (one["type"], one["allowUiUpdates"]) == ("file", False)
    assert one["options"]["path"].startswith("/")


def test_the_page_about_dashboards_names_each_with_its_question() -> None:
    """Who reads the documentation finds every dashboard, under the name and uid that it has."""
    page = (FOLDER.parent / "docs/dashboards.md").read_text("utf-8")
    for uid, title in TITLES.items():
        assert f"| {title} | `{uid}` |" in page
