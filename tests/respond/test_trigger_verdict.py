import json

import numpy as np
import pytest

from agent.config import ModelConfig
from agent.respond import request
from agent.respond.request import CloudEvent, encode
from agent.respond.verdict import Handovers, Hour
from tests.respond.examples import ACCURACY, DAY, HOUR
from tests.respond.test_trigger import START, at, policy, raised

ASKED = 24
SWITCH = 30
"""Hours after START: when retraining was asked for, and when the new version came."""


def asked() -> CloudEvent:
    """A request about v1, made ASKED hours in."""
    [decision] = policy().step(at(ASKED * HOUR, raised(ACCURACY, ASKED * HOUR)))
    assert decision.event
    return decision.event


def handover(
    old: float, new: float, *, hours: int = 200, labels: int = 500, seed: int = 1, **model: object
) -> list[CloudEvent]:
    """v1 at rate `old`, replaced at SWITCH by v2 at rate `new`; saved and loaded every hour."""
    config = ModelConfig.model_validate(model)
    rng = np.random.default_rng(seed)
    found = Handovers("credit", config)
    events: list[CloudEvent] = []
    for hour in range(hours):
        version, rate = ("v1", old) if hour < SWITCH else ("v2", new)
        good = int(rng.binomial(labels, rate))
        if labels:
            found.note(Hour(START + hour * HOUR, version, good, labels - good))
        step = START + hour * HOUR + 1
        events += found.step(step, version)
        if hour == ASKED:
            found.asked(asked(), step)
        found.forget(step)
        again = Handovers("credit", config)
        again.load(json.loads(json.dumps(found.state(), allow_nan=False)))
        found = again
    return events


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        (0.80, 0.90, "better"),
        (0.90, 0.80, "worse"),
        (0.85, 0.85, "equivalent"),
    ],
)
def test_did_it_pay(old: float, new: float, verdict: str) -> None:
    """Better, worse or as good, with an interval of the difference that holds the truth, told once."""
    [event] = handover(old, new)
    data = event["data"]
    assert event["type"] == request.VERDICT
    assert (data["verdict"], data["reason"]) == (verdict, "decided")
    assert data["difference"]["low"] <= new - old <= data["difference"]["high"]
    assert (data["previous_version"], data["model_version"]) == ("v1", "v2")
    assert event["correlationid"] == data["request_id"] == asked()["id"]
    assert data["asked_for"] == "performance_drop"
    assert len(encode(event)) < 20_000


def test_for_a_rate_of_errors_lower_is_better() -> None:
    """Of the false positive rate a rise is worse."""
    [event] = handover(0.1, 0.2, performance={"metrics": ["false_positive_rate"]})
    assert event["data"]["verdict"] == "worse"
    assert event["data"]["higher_is_better"] is False


def test_no_verdict_without_evidence() -> None:
    """With few labels, or none, the verdict after `verdict_within` is that there is not enough evidence."""
    for labels in (0, 1):
        [event] = handover(0.8, 0.9, labels=labels, retraining={"verdict_within": "2d"})
        assert (event["data"]["verdict"], event["data"]["reason"]) == ("not_enough_evidence", "too_late")
        assert event["time"] == request.rfc3339(START + (SWITCH + 48) * HOUR + 1)


def test_nothing_is_said_where_no_version_came() -> None:
    """A request that nobody answered has no verdict, and is forgotten."""
    assert handover(0.8, 0.8, hours=SWITCH) == []
    found = Handovers("credit", ModelConfig())
    found.asked(asked(), START)
    assert found.step(START + 31 * DAY, "v1") == []
    assert found.idle


def test_a_version_that_is_replaced_at_once_gets_no_better_verdict() -> None:
    """Rolled back before its labels came: not enough evidence, because the version was replaced."""
    found = Handovers("credit", ModelConfig())
    found.note(Hour(START, "v1", 400, 100))
    found.asked(asked(), START + 1)
    assert found.step(START + HOUR, "v2") == []
    [event] = found.step(START + 2 * HOUR, "v1")
    assert (event["data"]["verdict"], event["data"]["reason"]) == ("not_enough_evidence", "version_replaced")


def test_the_old_version_is_judged_by_its_last_labels() -> None:
    """What counts is how it was when retraining was asked for, not its good days before."""
    config = ModelConfig.model_validate({"retraining": {"min_labels": 500}})
    found = Handovers("credit", config)
    for hour in range(ASKED):
        found.note(Hour(START + hour * HOUR, "v1", 95, 5))
    event = asked()
    found.asked(event, START + ASKED * HOUR)
    for hour in range(ASKED, SWITCH):
        found.note(Hour(START + hour * HOUR, "v1", 70, 30))
    found.step(START + SWITCH * HOUR, "v2")
    found.note(Hour(START + SWITCH * HOUR, "v2", 950, 50))
    [verdict] = found.step(START + (SWITCH + 1) * HOUR, "v2")
    assert verdict["data"]["previous"] == {"value": 0.7, "labels": 600}
    assert verdict["data"]["verdict"] == "better"


def test_equal_versions_are_seldom_told_apart() -> None:
    """Of 40 retrainings that changed nothing, at most a few percent are called better or worse."""
    verdicts = [handover(0.85, 0.85, hours=120, labels=60, seed=seed) for seed in range(40)]
    wrong = [e for events in verdicts for e in events if e["data"]["verdict"] in ("better", "worse")]
    assert len(wrong) <= 2
