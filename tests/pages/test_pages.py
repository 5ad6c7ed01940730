from typing import Any

import pytest

from agent.ingest.story import STORY
from tests.kafka_node import Broker
from tests.pages.stack import missing
from tests.pages.story_run import Run, rows, tell

SPEED = 1100.0
"""The short form: 22 hours in 72 seconds, and nobody is killed. `make pages` is the long one."""


@pytest.fixture(scope="module")
def run(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Run:
    if why := missing():
        pytest.skip(why)
    return tell(broker, tmp_path_factory.mktemp("pages"), seed=2, speed=SPEED)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_story_pages_tickets_and_triggers_as_it_says_and_nothing_else_does(run: Run) -> None:
    """An incident is one page and one ticket at most, with just its detectors in it, and each is resolved."""
    wrong = [row for row in rows(run) if not (row["as_expected"] and row.get("resolved"))]
    assert wrong == []
    kinds = [row["kind"] for row in rows(run)]
    for severity in ("page", "ticket"):
        assert kinds.count(severity) == sum(any(a.severity == severity for a in i.alarms) for i in STORY)
    assert kinds.count("trigger") == sum(bool(i.request) for i in STORY)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_quiet_hour_is_quiet_and_the_heart_beats(run: Run) -> None:
    """Nothing arrives before the first incident's cause, but the dead man's switch hears its heartbeat."""
    first = next(incident for incident in STORY if incident.alarms)
    assert all(run.minute(incident.opened_s) > first.start for incident in run.incidents)
    assert run.heartbeats > 5


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_what_is_read_at_night_is_whole(run: Run) -> None:
    """Every text that arrived is rendered: no template failed, no label was empty."""
    texts: set[str] = set().union(*(incident.texts for incident in run.incidents))
    assert texts
    broken: Any = [text for text in texts if "<" in text or "{{" in text or "  " in text]
    assert broken == []
