import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import RetrainingConfig
from agent.respond.decide import Change, Transition
from agent.respond.decide import Reason as AlarmReason
from agent.respond.request import MAX_EVIDENCE, REQUESTED, RESOLVED, encode
from agent.respond.trigger import Cause, Decision, JointStep, Reason, Retraining
from agent.respond.view import AlarmView, MonitorKey, Severity
from tests.respond.examples import ACCURACY, DAY, DRIFT, FAIRNESS, HOUR, MINUTE, evidence

PAGE, TICKET = Severity.PAGE, Severity.TICKET
FAMILY = {ACCURACY.detector: "performance", DRIFT.detector: "drift", FAIRNESS.detector: "fairness"}
RECALL_LINE = MonitorKey("credit", "v1", "red_line", metric="recall")
ERROR_LINE = MonitorKey("credit", "v1", "red_line", metric="error_rate")
FAMILY["red_line"] = "constraint"
START = 1_785_585_600_000  # 2026-08-01T12:00:00Z


def policy(**changes: object) -> Retraining:
    """A policy with a day of cool-down and 500 labels."""
    return Retraining("credit", RetrainingConfig.model_validate(changes))


def raised(key: MonitorKey, at_ms: int, severity: Severity = PAGE) -> Transition:
    """An alarm is raised."""
    alarm = AlarmView(key, severity, START + at_ms, None, evidence(1.5), AlarmReason.FIRED)
    return Transition(Change.RAISED, AlarmReason.FIRED, START + at_ms, alarm, FAMILY[key.detector])


def resolved(key: MonitorKey, at_ms: int) -> Transition:
    """An alarm is resolved."""
    alarm = AlarmView(key, PAGE, START, START + at_ms, evidence(1.5), AlarmReason.RECOVERED)
    return Transition(Change.RESOLVED, AlarmReason.RECOVERED, START + at_ms, alarm, FAMILY[key.detector])


def at(ms: int, *transitions: Transition, labels: int = 1000, version: str = "v1") -> JointStep:
    """One joint step."""
    return JointStep(START + ms, version, labels, START - 30 * DAY, transitions)


def reasons(decisions: Sequence[Decision]) -> list[Reason]:
    """Of each decision, why."""
    return [decision.reason for decision in decisions]


@pytest.mark.parametrize(
    ("alarms", "reason"),
    [
        ([(ACCURACY, PAGE)], Reason.PERFORMANCE_DROP),
        ([(ACCURACY, PAGE), (DRIFT, TICKET)], Reason.DRIFT_CONFIRMED),
        ([(ACCURACY, TICKET), (DRIFT, TICKET)], Reason.DRIFT_CONFIRMED),
        ([(FAIRNESS, PAGE)], Reason.CONSTRAINT_BROKEN),
        ([(RECALL_LINE, PAGE)], Reason.CONSTRAINT_BROKEN),
        ([(ERROR_LINE, PAGE)], None),
        ([(ACCURACY, TICKET)], None),
        ([(DRIFT, PAGE)], None),
        ([(FAIRNESS, TICKET)], None),
    ],
)
def test_what_asks_for_retraining(alarms: list[tuple[MonitorKey, Severity]], reason: Reason | None) -> None:
    """Harm asks for retraining: a drop, drift with a drop, a broken constraint; never drift or errors."""
    decisions = policy().step(at(0, *(raised(key, -MINUTE, severity) for key, severity in alarms)))
    assert reasons(decisions) == ([reason] if reason else [])
    assert all(d.event and d.event["data"]["reason"] == reason for d in decisions)


def test_the_request_says_what_a_pipeline_must_know() -> None:
    """Model, version, evidence, impact and the event time of usable data are in the request."""
    [decision] = policy().step(at(0, raised(ACCURACY, -MINUTE), raised(DRIFT, -2 * MINUTE, TICKET)))
    event = decision.event
    assert event is not None
    assert event["type"] == REQUESTED
    assert event["time"] == "2026-08-01T12:00:00.000Z"
    assert event["source"] == "/plumbline/credit"
    data = event["data"]
    assert (data["model_name"], data["model_version"], data["dry_run"]) == ("credit", "v1", False)
    assert data["cooldown_until"] == "2026-08-02T12:00:00.000Z"
    assert data["data_window"] == {"from": "2026-07-02T12:00:00.000Z", "to": "2026-08-01T12:00:00.000Z"}
    assert [(e["detector"], e["feature"]) for e in data["evidence"]] == [
        ("histogram_drift", "age"),
        ("rate_drop", None),
    ]
    assert data["evidence"][1]["threshold_ratio"] == 1.5
    assert data["evidence"][1]["first_alarm_at"] == "2026-08-01T11:59:00.000Z"
    assert data["impact"] == {
        "accuracy": {"now": 0.8, "low": 0.75, "high": 0.85, "reference": 0.9, "samples": 1000}
    }


def test_the_request_stays_small_with_many_alarms() -> None:
    """A request with a thousand alarms carries the strongest few and fits a webhook's 20 kB."""
    many = [raised(DRIFT._replace(feature=f"feature_{i}"), -MINUTE, TICKET) for i in range(1000)]
    [decision] = policy().step(at(0, raised(ACCURACY, -MINUTE), *many))
    assert decision.event is not None
    assert len(decision.event["data"]["evidence"]) == MAX_EVIDENCE
    assert len(encode(decision.event)) < 20_000


def test_an_episode_asks_once_and_says_when_it_is_over() -> None:
    """However long it lasts and whatever joins it, an episode has one request and one resolution of it."""
    retraining = policy()
    [first] = retraining.step(at(0, raised(ACCURACY, 0)))
    assert reasons(retraining.step(at(HOUR))) == [Reason.ALREADY_REQUESTED]
    assert retraining.suppressed == {}
    assert reasons(retraining.step(at(3 * DAY, raised(DRIFT, 2 * DAY)))) == [Reason.ALREADY_REQUESTED]
    assert retraining.suppressed == {"already_requested": 1}
    [last] = retraining.step(at(4 * DAY, resolved(ACCURACY, 4 * DAY)))
    assert last.reason is Reason.RECOVERED
    assert first.event is not None
    assert last.event is not None
    assert last.event["type"] == RESOLVED
    assert last.event["correlationid"] == first.event["id"] != last.event["id"]
    assert retraining.step(at(5 * DAY)) == []
    assert retraining.requests == (first.event,)


def test_cooldown_delays_the_next_episode_and_is_counted_once() -> None:
    """An episode within the cool-down waits for its end, then asks if it still lasts."""
    retraining = policy(cooldown=timedelta(hours=24))
    retraining.step(at(0, raised(ACCURACY, 0)))
    retraining.step(at(HOUR, resolved(ACCURACY, HOUR)))
    for hours in range(2, 24):
        again = [raised(ACCURACY, 2 * HOUR)] if hours == 2 else []
        assert reasons(retraining.step(at(hours * HOUR, *again))) == [Reason.COOLDOWN]
    assert retraining.suppressed == {"cooldown": 1}
    assert reasons(retraining.step(at(24 * HOUR))) == [Reason.PERFORMANCE_DROP]
    assert len({event["id"] for event in retraining.requests}) == 2


def test_too_few_labels_hold_the_request_back() -> None:
    """No request before there is enough to train on; then it is made."""
    retraining = policy(min_labels=500)
    assert reasons(retraining.step(at(0, raised(ACCURACY, 0), labels=499))) == [Reason.NOT_ENOUGH_LABELS]
    assert reasons(retraining.step(at(HOUR, labels=500))) == [Reason.PERFORMANCE_DROP]
    assert retraining.suppressed == {"not_enough_labels": 1}


def test_a_dry_run_decides_alike_but_sends_nothing() -> None:
    """The rehearsed request is the real one but for its mark; neither it nor its end is sent."""
    steps = [
        at(0, raised(ACCURACY, 0)),
        at(HOUR, resolved(ACCURACY, HOUR)),
        at(2 * HOUR, raised(ACCURACY, 2 * HOUR)),
    ]
    real, dry = policy(), policy(dry_run=True)
    sent = [d for step in steps for d in real.step(step)]
    kept = [d for step in steps for d in dry.step(step)]
    assert all(d.event is None for d in kept)
    assert reasons(kept) == [Reason.DRY_RUN, Reason.RECOVERED, Reason.COOLDOWN]
    rehearsed = kept[0].rehearsed
    assert rehearsed is not None
    assert {**rehearsed, "data": {**rehearsed["data"], "dry_run": False}} == sent[0].event
    assert dry.requests == ()
    assert dry.suppressed == {"dry_run": 1, "cooldown": 1}


def test_a_new_version_ends_the_episode_of_the_old_one() -> None:
    """What a replaced version still does wrong asks for nothing; its request is resolved as replaced."""
    retraining = policy(cooldown=timedelta(0))
    retraining.step(at(0, raised(ACCURACY, 0)))
    [ended] = retraining.step(at(HOUR, version="v2"))
    assert ended.reason is Reason.VERSION_REPLACED
    assert ended.event is not None
    assert ended.event["data"]["model_version"] == "v1"
    assert reasons(retraining.step(at(2 * HOUR, version="v2"))) == [Reason.VERSION_REPLACED]
    new = ACCURACY._replace(model_version="v2")
    assert reasons(retraining.step(at(3 * HOUR, raised(new, 3 * HOUR), version="v2"))) == [
        Reason.PERFORMANCE_DROP
    ]


def test_both_causes_have_their_own_episodes_but_one_cooldown() -> None:
    """A broken constraint is told apart from a drop, and does not start a second training at once."""
    retraining = policy()
    decisions = retraining.step(at(0, raised(ACCURACY, 0), raised(FAIRNESS, 0)))
    assert [(d.cause, d.reason) for d in decisions] == [
        (Cause.PERFORMANCE, Reason.PERFORMANCE_DROP),
        (Cause.CONSTRAINT, Reason.COOLDOWN),
    ]


def test_alarms_of_the_future_wait() -> None:
    """Drift seen on predictions whose labels are still to come counts only when the joint step gets there."""
    retraining = policy()
    early = raised(DRIFT, 2 * HOUR, TICKET)
    [first] = retraining.step(at(0, early, raised(ACCURACY, 0)))
    assert first.reason is Reason.PERFORMANCE_DROP
    other = policy()
    [late] = other.step(at(0, raised(ACCURACY, 0)))
    assert other.step(at(HOUR)) == retraining.step(at(HOUR))
    assert other.step(at(3 * HOUR, early)) == retraining.step(at(3 * HOUR))
    assert late == first
    assert other.state() == retraining.state()


keys = st.sampled_from([ACCURACY, DRIFT, FAIRNESS, ACCURACY._replace(model_version="v2")])


@st.composite
def stories(draw: st.DrawFn) -> list[JointStep]:
    """Hourly steps with alarms that come and go, some told ahead of their time."""
    steps = []
    for hour in range(draw(st.integers(1, 40))):
        told = [
            (raised if draw(st.booleans()) else resolved)(
                draw(keys), (hour + draw(st.integers(-1, 3))) * HOUR
            )
            for _ in range(draw(st.integers(0, 2)))
        ]
        labels = draw(st.sampled_from([100, 1000]))
        steps.append(at(hour * HOUR, *told, labels=labels, version=draw(st.sampled_from(["v1", "v1", "v2"]))))
    return steps


@settings(deadline=None)
@given(stories(), st.data())
def test_a_replay_says_the_same_bytes(story: list[JointStep], data: st.DataObject) -> None:
    """Stopped anywhere, saved to JSON and replayed, the policy makes the same decisions, byte for byte."""
    straight = policy(cooldown=timedelta(hours=5))
    stop = data.draw(st.integers(0, len(story)))
    before = [straight.step(step) for step in story[:stop]]
    saved = json.dumps(straight.state(), allow_nan=False)
    restarted = policy(cooldown=timedelta(hours=5))
    restarted.load(json.loads(saved))
    assert json.dumps(restarted.state()) == saved
    after = [straight.step(step) for step in story[stop:]]
    assert [restarted.step(step) for step in story[stop:]] == after
    events = [d.event for decisions in [*before, *after] for d in decisions if d.event is not None]
    payloads: dict[str, set[bytes]] = {}
    for event in events:
        payloads.setdefault(event["id"], set()).add(encode(event))
    assert len(payloads) == len(events), "an id was used twice"
    requests = [datetime.fromisoformat(e["time"]) for e in events if e["type"] == REQUESTED]
    assert all(later - earlier >= timedelta(hours=5) for earlier, later in pairwise(requests))


def test_ids_are_the_same_in_every_process() -> None:
    """The id is a function of model, version, cause and begin: pinned, because consumers remember it."""
    [decision] = policy().step(at(0, raised(ACCURACY, 0)))
    assert decision.event is not None
    assert decision.event["id"] == "e473d44a-dc36-54c6-8e72-bdb92e2caf4c"
    other = Retraining("other", RetrainingConfig())
    [elsewhere] = other.step(at(0, raised(ACCURACY, 0)))
    assert elsewhere.event is not None
    assert elsewhere.event["id"] != decision.event["id"]
