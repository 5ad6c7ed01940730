from __future__ import annotations

import io
import math
import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console

from agent import runner
from agent.demo import demo_config, learn_baseline
from agent.ingest.demo import DemoSource
from agent.ingest.story import BY_NAME, MINUTE_MS, MODEL, START_MS, STORY, Expected, Incident, table
from agent.respond.expose import render
from agent.respond.teller import Screen, Teller
from agent.respond.view import AlarmView, ModelView, View

ACTIVE = re.compile(r"^plumbline_alarm_active\{(.*)\} 1(?:\.0)?$", re.MULTILINE)


@dataclass
class Told:
    """One whole run of the demo, as everything outside sees it."""

    teller: Teller = field(default_factory=Teller)
    terminal: io.StringIO = field(default_factory=io.StringIO)
    active: dict[float, set[frozenset[tuple[str, str]]]] = field(default_factory=dict)
    """Story time of each commit → labels of the alarms that are 1 on /metrics."""
    last: View | None = None

    @property
    def model(self) -> ModelView:
        assert self.last is not None
        return self.last.models[MODEL]


@pytest.fixture(scope="module", params=[1, 2, 3])
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder: Path = tmp_path_factory.mktemp("demo")
    baseline = folder / "baseline.json"
    learn_baseline(demo_config(folder, 0), request.param).save(baseline)
    config = demo_config(folder / "state", 0, baseline, commit_seconds=0.001)
    source = DemoSource(request.param, math.inf)
    run = Told()
    with Screen(0, Console(file=run.terminal, width=200)) as screen:

        def hear(view: View) -> None:
            screen.show(run.teller.tell(view), run.teller)
            run.last = view
            found = ACTIVE.findall(render(view).decode())
            run.active[run.teller.minute] = {frozenset(re.findall(r'(\w+)="([^"]*)"', f)) for f in found}

        runner.run(config, source, stop=threading.Event(), on_commit=hear, serve=False)
    return run


def minute(ms: int | None) -> float:
    assert ms is not None
    return (ms - START_MS) / MINUTE_MS


def expected(alarm: AlarmView) -> Expected:
    key = alarm.key
    return Expected(alarm.severity.value, key.detector, key.feature, key.segment, key.metric)


def scripted(alarm: AlarmView) -> Incident:
    """The row whose time an alarm falls into."""
    return next(row for row in STORY if row.start <= minute(alarm.raised_ms) < row.seen_by)


def labels(alarm: Expected) -> set[tuple[str, str]]:
    return {
        ("model_name", MODEL),
        ("model_version", "1"),
        ("detector", alarm.detector),
        ("feature", alarm.feature),
        ("segment", alarm.segment),
        ("metric", alarm.metric),
        ("severity", alarm.severity),
    }


def rows() -> Iterator[tuple[Incident, Expected]]:
    return ((row, alarm) for row in STORY for alarm in row.alarms)


@pytest.mark.slow
def test_every_alarm_of_the_script_is_raised_in_its_time_and_no_other(told: Told) -> None:
    """What is raised between start and end of the story is what the table says, each once."""
    raised = [(scripted(alarm).name, expected(alarm)) for alarm in told.model.alarms]
    assert sorted(raised, key=repr) == sorted(((row.name, alarm) for row, alarm in rows()), key=repr)


@pytest.mark.slow
def test_every_alarm_is_resolved_in_time(told: Told) -> None:
    """Causes that end resolve by themselves, the last ones with the new version; nothing stays."""
    for alarm in told.model.alarms:
        by = scripted(alarm).resolved_by
        assert by is not None
        assert minute(alarm.resolved_ms) <= by
        replaced = minute(alarm.raised_ms) >= BY_NAME["unfair"].start
        assert alarm.reason == ("version_replaced" if replaced else "recovered")


@pytest.mark.slow
def test_retraining_is_requested_where_the_script_says(told: Told) -> None:
    """One request for each row that names one, for its reason, and no further one."""
    asked = [row for row in STORY if row.request]
    assert [event["data"]["reason"] for event in told.model.triggers] == [row.request for row in asked]  # type: ignore[index]
    assert all(row.requested is not None for row in told.teller.rows if row.incident.request)


@pytest.mark.slow
def test_metrics_show_each_row_and_nothing_besides(told: Told) -> None:
    """Just the series of the table are 1, and none before the first incident or at the end."""
    seen = set().union(*told.active.values())
    assert seen == {frozenset(labels(alarm)) for _, alarm in rows()}
    assert not set().union(*(a for at, a in told.active.items() if at <= BY_NAME["harmless"].start))
    assert not told.active[max(told.active)]


@pytest.mark.slow
def test_the_terminal_tells_every_row(told: Told) -> None:
    """Each row is ticked off; each page, ticket, request and recovery has its line, and nothing else has."""
    assert told.teller.unexpected == []
    assert all(row.happened for row in told.teller.rows)
    text = told.terminal.getvalue()
    assert all(row.title in text for row in STORY)
    severities = [alarm.severity for _, alarm in rows()]
    assert Counter(re.findall(r"^\d\d:\d\d  (\w+) ", text, re.MULTILINE)) == {
        "story": len(STORY) - 1,  # the request's line is the request itself
        "PAGE": severities.count("page"),
        "ticket": severities.count("ticket"),
        "trigger": sum(bool(row.request) for row in STORY),
        "resolved": len(severities),
    }
    assert "The story is told" in text


def test_the_table_in_the_documentation_is_the_script() -> None:
    """The table that users read is generated from what the simulator and these tests run."""
    root = Path(__file__).parents[1]
    pages = [path for path in (root / "README.md", root / "docs/demo.md") if path.exists()]
    assert any(table() in page.read_text() for page in pages)
