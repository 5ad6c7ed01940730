"""Roles, silences and lives of metrics, through the pipeline: events in, pages and tickets out."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.config import ModelConfig
from agent.judge import Judge
from agent.measure.redlines import PAIR, RED_LINE
from agent.pipeline import Pipeline
from agent.respond.decide import Reason
from agent.respond.expose import render
from agent.respond.roles import ranked
from agent.respond.status import status
from agent.respond.view import AlarmState, AlarmView, ModelView, MonitorKey, Related, Severity
from agent.store import Store
from tests.measure.events import (
    FEEDBACK,
    HOUR,
    MINUTE,
    PREDICTIONS,
    T0,
    Event,
    config_of,
    label,
    prediction,
    raw,
)
from tests.respond.examples import evidence

HOURS = 20
CHANGE = 12
"""The hour in which things go wrong."""
PER_HOUR = 240
LINES = [
    {"metric": "false_positive_rate", "max": 0.2, "window": "1h"},
    {"metric": "recall", "min": 0.7, "window": "1h"},
]


class World(NamedTuple):
    """What the model does in an hour."""

    false_positives: float = 0.1
    recall: float = 0.9


Worlds = Callable[[int], World]
Logs = dict[str, list[Event]]


def broken(hour: int) -> World:
    """Both lines break at once."""
    return World(0.5, 0.4) if hour >= CHANGE else World()


def logs(worlds: Worlds = broken, hours: float = HOURS) -> Logs:
    """Predictions and, five minutes later, their labels."""
    rng = random.Random(7)
    predictions, feedback = [], []
    for i in range(int(hours * PER_HOUR)):
        at = T0 + i * HOUR // PER_HOUR
        world, positive = worlds((at - T0) // HOUR), rng.random() < 0.5
        chosen = rng.random() < (world.recall if positive else world.false_positives)
        predictions.append(
            prediction(
                i,
                at,
                model_version="1",
                prediction="1" if chosen else "0",
                features={"age": rng.gauss(40, 5)},
                tags={"sex": "f" if i % 2 else "m"},
            )
        )
        feedback.append(label(i, at + 5 * MINUTE, "1" if positive else "0"))
    return {"predictions": predictions, "feedback": feedback}


def model(**fields: object) -> ModelConfig:
    """A model that learns in eight hours what its labels should look like."""
    return ModelConfig.model_validate(
        {
            "segments": ["sex"],
            "features": {"age": "numeric"},
            "step": "15m",
            "label_maturity": "1h",
            "performance": {"min_baseline_labels": 1500},
            "retraining": {"min_labels": 10, "cooldown": "0s"},
            **fields,
        }
    )


def hour(n: float) -> str:
    """An hour of the story, as the config writes it."""
    return f"2026-01-01T{int(n):02d}:{int(n % 1 * 60):02d}:00Z"


def read(
    folder: Path, config: ModelConfig, told: Logs, sizes: Sequence[int] = (10_000,), restart: bool = False
) -> Pipeline:
    """A pipeline that has read everything, in polls of these sizes, topic by turns."""
    config_ = config_of(m=config)
    store = Store(folder)
    pipeline = Pipeline(config_, store)
    topics = {PREDICTIONS: told["predictions"], FEEDBACK: told["feedback"]}
    pipeline.assign(topics)
    at, turn = dict.fromkeys(topics, 0), 0
    while any(at[p] < len(events) for p, events in topics.items()):
        for partition, events in topics.items():
            n = sizes[turn % len(sizes)]
            turn += 1
            if batch := events[at[partition] : at[partition] + n]:
                pipeline.apply(raw(partition, batch, at[partition]))
                at[partition] += len(batch)
                pipeline.advance()
        if restart:
            pipeline.commit(0.0)
            store.close()
            store = Store(folder)
            pipeline = Pipeline(config_, store)
            pipeline.assign(topics)
    pipeline.commit(0.0)
    store.close()
    return pipeline


def judged(pipeline: Pipeline) -> tuple[Judge, ModelView]:
    return pipeline.judges["m"], pipeline.view(0.0).models["m"]


def named(alarms: Sequence[AlarmView]) -> list[tuple[str, str]]:
    """(detector, metric) of alarms, in their order."""
    return [(alarm.key.detector, alarm.key.metric) for alarm in alarms]


@pytest.fixture(scope="module")
def story() -> Logs:
    return logs()


def test_without_roles_everything_pages_for_itself(tmp_path: Path, story: Logs) -> None:
    """The story does break accuracy: what the tests below hold back is there to be held."""
    judge, view = judged(read(tmp_path, model(), story))
    assert ("rate_drop", "accuracy") in named(view.alarms)
    assert not view.held
    assert [event for event in view.triggers if event["type"] == "io.plumbline.retraining.requested.v1"]
    assert judge.reasons["constraint_broken"] == 0


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_first_of_the_broken_lines_pages_and_the_other_is_attached(
    tmp_path: Path, story: Logs, order: tuple[int, int]
) -> None:
    """Two lines break in the same hour: the configured order alone says which one calls somebody."""
    lines = [LINES[i] for i in order]
    roles = {"constraints": lines, "objectives": ["accuracy"]}
    pipeline = read(tmp_path, model(roles=roles), story)
    judge, view = judged(pipeline)
    pages = [a for a in view.alarms if a.severity is Severity.PAGE]
    assert named(pages) == [(RED_LINE, lines[0]["metric"])]
    assert pages[0].reason == Reason.RED_LINE
    assert [(r.key.metric, r.relation) for r in pages[0].related] == [(lines[1]["metric"], "also_broken")]
    assert {(a.key.metric, a.reason) for a in view.held} == {
        (lines[1]["metric"], Reason.CONSTRAINT_ORDER),
        ("accuracy", Reason.CONSTRAINT_BROKEN),
    }
    assert judge.reasons["constraint_broken"] > 0
    assert judge.reasons["constraint_order"] > 0
    assert [(c.key.metric, c.order, c.broken) for c in view.constraints] == [
        (line["metric"], place, True) for place, line in enumerate(lines, start=1)
    ]
    shown = render(pipeline.view(0.0)).decode()
    for place, line in enumerate(lines, start=1):
        labels = f'metric="{line["metric"]}",model_name="m",model_version="1",order="{place}",segment=""'
        assert f"plumbline_constraint_broken{{{labels}}} 1.0" in shown
    assert 'plumbline_constraint_bar{bound="max",metric="false_positive_rate"' in shown
    for reason in ("constraint_broken", "constraint_order"):
        assert f'plumbline_alarms_held{{model_name="m",reason="{reason}"}} 1.0' in shown


def test_what_waited_is_released_where_it_lasts(tmp_path: Path) -> None:
    """The line is repaired, accuracy is not: its page comes when the line is well, and not before."""

    def worlds(h: int) -> World:
        bad = World(0.5, 0.5)
        return World() if h < CHANGE else bad if h < CHANGE + 3 else World(0.1, 0.5)

    line = {"metric": "false_positive_rate", "max": 0.2, "window": "1h"}
    roles = {"constraints": [line], "objectives": ["accuracy"]}
    _, view = judged(read(tmp_path, model(roles=roles), logs(worlds)))
    first = next(a for a in view.alarms if a.key.detector == RED_LINE)
    released = next(a for a in view.alarms if a.key.metric == "accuracy")
    assert first.resolved_ms is not None
    assert released.reason == Reason.RELEASED
    assert released.raised_ms >= first.resolved_ms
    states = [(entry.state, entry.reason) for entry in view.audit if entry.key == released.key]
    assert states[:2] == [(AlarmState.PENDING, "constraint_broken"), (AlarmState.FIRING, "released")]


def test_a_diagnostic_never_pages(tmp_path: Path, story: Logs) -> None:
    """Its alarm is a ticket, in the alarm and on its monitor alike."""
    _, view = judged(read(tmp_path, model(roles={"diagnostics": ["accuracy"]}), story))
    mine = [a for a in view.alarms if a.key.metric == "accuracy"]
    assert [a.severity for a in mine] == [Severity.TICKET]
    assert {m.severity for m in view.monitors if m.key.metric == "accuracy"} == {Severity.TICKET}


def test_a_bar_judges_only_what_came_after_its_day(tmp_path: Path, story: Logs) -> None:
    """A bar that tightens below the rate breaks on its day, by hours since then, and not before."""
    bars = [{"from": "2025-01-01", "max": 0.3}, {"from": hour(6), "max": 0.05}]
    roles = {"constraints": [{"metric": "false_positive_rate", "bars": bars}]}
    _, view = judged(read(tmp_path, model(roles=roles), logs(lambda _: World())))
    raised = next(a for a in view.alarms if a.key.detector == RED_LINE)
    assert raised.raised_ms > T0 + 7 * HOUR
    hours = (raised.raised_ms - T0) // HOUR - 6
    assert raised.evidence.samples <= (hours + 1) * PER_HOUR * 0.6
    assert raised.evidence.tolerance == (None, 0.05)


def test_a_line_of_a_group_sees_that_group_alone(tmp_path: Path, story: Logs) -> None:
    """A constraint on a slice is judged by the slice's own counts."""
    lines = [{**LINES[1], "segment": "sex=f"}]
    _, view = judged(read(tmp_path, model(roles={"constraints": lines}), story))
    found = next(c for c in view.constraints)
    assert found.key.segment == "sex=f"
    assert found.broken
    assert found.evidence.samples < PER_HOUR * 0.4  # a quarter of the hour's predictions is positive and f


def test_errors_have_a_red_line_without_labels(tmp_path: Path) -> None:
    """The line of the error rate is judged by the step: it pages although no label ever comes."""
    events = logs(lambda _: World(), 8)["predictions"]
    for event in events[5 * PER_HOUR :: 4]:
        del event["prediction"]
        event["error"] = "timeout"
    roles = {"constraints": [{"metric": "error_rate", "max": 0.02, "window": "1h"}]}
    _, view = judged(read(tmp_path, model(roles=roles), {"predictions": events, "feedback": []}))
    raised = next(a for a in view.alarms if a.key.detector == RED_LINE)
    assert T0 + 5 * HOUR < raised.raised_ms <= T0 + 6 * HOUR


def test_a_gamed_metric_opens_a_ticket(tmp_path: Path) -> None:
    """Precision rises because the model dares less: recall pays, and the pair tells it."""
    eager, timid = World(0.3, 0.9), World(0.02, 0.5)
    config = model(
        pairs=[{"metric": "precision", "guard": "recall"}], performance={"min_baseline_labels": 1500}
    )
    _, view = judged(read(tmp_path / "a", config, logs(lambda h: timid if h >= CHANGE else eager, 30)))
    ticket = next(a for a in view.alarms if a.key.detector == PAIR)
    assert (ticket.severity, ticket.reason) == (Severity.TICKET, Reason.GUARD_FELL)
    assert ticket.evidence.details["metric_low"] > ticket.evidence.details["metric_reference"]
    assert ticket.evidence.high is not None
    assert ticket.evidence.reference is not None
    assert ticket.evidence.high < ticket.evidence.reference
    _, view = judged(read(tmp_path / "b", config, logs()))  # both fall: bad, but no gaming
    assert not [a for a in view.alarms if a.key.detector == PAIR]


def test_a_performance_page_names_its_suspects(tmp_path: Path) -> None:
    """Drift that is active when accuracy falls is a ticket, and stands in the page and in the view."""
    bad = World(1.0, 0.4)
    config = model(drift={"epsilon": 0.005})
    _, view = judged(read(tmp_path, config, logs(lambda h: bad if h >= CHANGE else World())))
    page = next(a for a in view.alarms if a.key.metric == "accuracy")
    drift = [a for a in view.alarms if a.key.detector == "histogram_drift"]
    assert [(a.severity, a.related) for a in drift] == [(Severity.TICKET, ())]
    suspect = Related(drift[0].key, "suspect", drift[0].evidence.ratio)
    assert list(page.related) == [suspect]
    assert view.suspects == {"1": [suspect]}


def test_suspects_are_ranked_by_their_ratio() -> None:
    """The strongest first, those of other versions left out."""
    at = [("age", 1.2, "1"), ("city", 9.0, "2"), ("income", 3.0, "1")]
    drift = [
        AlarmView(MonitorKey("m", version, "d", feature), Severity.TICKET, 0, None, evidence(ratio), "fired")
        for feature, ratio, version in at
    ]
    assert [r.key.feature for r in ranked(drift, "1")] == ["income", "age"]


def test_maintenance_counts_everything_teaches_nothing_and_calls_nobody(tmp_path: Path) -> None:
    """An outage inside a window leaves records behind, and detectors, references and season as they were."""

    def worlds(h: int) -> World:
        return World(0.9, 0.1) if CHANGE <= h < 15 else World()

    config = model(
        maintenance=[{"from": hour(CHANGE), "to": hour(15), "reason": "load test"}],
        roles={"constraints": LINES, "objectives": ["accuracy"]},
    )
    before = read(tmp_path / "a", config, logs(worlds, CHANGE + 0.25))
    after = read(tmp_path / "b", config, logs(worlds, 15.25))
    whole = read(tmp_path / "c", config, logs(worlds))
    for key, text in before.judges["m"].monitors.known().items():
        late = ("rate_drop", "group_ratio", "arrivals", '"label"')  # labels of the last quiet hour came later
        if not any(name in key for name in late):
            assert after.judges["m"].monitors.known()[key] == text
    judge, view = judged(whole)
    assert not view.alarms
    assert not view.triggers
    assert not view.held
    log = [(entry.state, entry.reason) for entry in view.audit]
    assert (
        log.count((AlarmState.PENDING, "maintenance")) == log.count((AlarmState.RESOLVED, "maintenance")) > 0
    )
    assert {reason for _, reason in log} == {"maintenance"}
    assert judge.reasons["maintenance"] > 0
    assert view.versions["1"].windows["lifetime"].counts[""] == HOURS * PER_HOUR
    assert view.versions["1"].windows["lifetime"].metrics[""]["recall"].value < 0.85


def test_the_same_outage_without_a_window_alarms(tmp_path: Path) -> None:
    """What the window kept silent would have called somebody."""

    def worlds(h: int) -> World:
        return World(0.9, 0.1) if CHANGE <= h < 15 else World()

    _, view = judged(read(tmp_path, model(), logs(worlds)))
    assert [a for a in view.alarms if a.severity is Severity.PAGE]


def test_a_backfill_is_counted_and_learned_but_calls_nobody(tmp_path: Path, story: Logs) -> None:
    """History with an incident raises nothing and asks for nothing; its alarms end with it."""
    judge, view = judged(read(tmp_path, model(backfill={"until": hour(23)}), story))
    assert not view.alarms
    assert not view.triggers
    assert {a.reason for a in view.held} == {Reason.BACKFILL}
    assert judge.reasons["backfill"] > 0
    assert not view.versions["1"].learning


def test_what_lasts_beyond_a_backfill_alarms_afterwards(tmp_path: Path, story: Logs) -> None:
    """The end of the backfill forgets its alarms, not the trouble: it is found anew."""
    _, view = judged(read(tmp_path, model(backfill={"until": hour(15)}), story))
    page = next(a for a in view.alarms if a.key.metric == "accuracy")
    assert page.raised_ms > T0 + 15 * HOUR
    assert (AlarmState.RESOLVED, "backfill") in {(e.state, e.reason) for e in view.audit}


def test_a_retired_metric_leaves_the_exposition_and_ends_its_alarm(tmp_path: Path, story: Logs) -> None:
    """From its day on it is neither shown nor watched, and its active alarm ends for that reason."""
    life = {"accuracy": {"owner": "risk", "retire": hour(18)}}
    pipeline = read(tmp_path, model(life=life), story)
    _, view = judged(pipeline)
    alarm = next(a for a in view.alarms if a.key.metric == "accuracy")
    assert alarm.reason == Reason.RETIRED
    assert alarm.resolved_ms is not None
    assert "plumbline_accuracy" not in render(pipeline.view(0.0)).decode()
    assert "plumbline_recall" in render(pipeline.view(0.0)).decode()
    assert not [m for m in view.monitors if m.key.metric == "accuracy"]
    assert view.life["accuracy"].retired


def test_a_review_that_is_due_is_counted(tmp_path: Path, story: Logs) -> None:
    """/status says which metrics are due, with their owner, and how many; days ahead are not due."""
    life = {"accuracy": {"owner": "risk", "review": hour(10)}, "recall": {"review": "2027-01-01"}}
    pipeline = read(tmp_path, model(life=life, roles={"objectives": ["accuracy"]}), story)
    shown = status(pipeline.view(0.0))["models"]["m"]
    assert shown["reviews_due"] == 1
    assert 'plumbline_metric_reviews_due{model_name="m"} 1.0' in render(pipeline.view(0.0)).decode()
    assert shown["life"]["accuracy"]["review_due"] is True
    assert (shown["life"]["accuracy"]["owner"], shown["life"]["accuracy"]["role"]) == ("risk", "objective")
    assert shown["life"]["recall"]["review_due"] is False


EVERYTHING = {
    "roles": {
        "constraints": [
            {"metric": "error_rate", "max": 0.5},
            {"metric": "false_positive_rate", "max": 0.2, "window": "1h"},
            {"metric": "recall", "min": 0.7, "window": "1h"},
        ],
        "objectives": ["accuracy", "histogram_drift"],
        "diagnostics": ["selection_rate_ratio"],
    },
    "pairs": [{"metric": "precision", "guard": "recall"}],
    "life": {"recall": {"retire": hour(19)}},
    "maintenance": [{"from": hour(9.3), "to": hour(10.1)}],
    "backfill": {"until": hour(3)},
}


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, story: Logs) -> str:
    """The state of one uninterrupted read."""
    pipeline = read(tmp_path_factory.mktemp("once"), model(**EVERYTHING), story)
    reasons = pipeline.judges["m"].reasons
    assert {
        r for r in ("red_line", "constraint_broken", "constraint_order", "retired") if not reasons[r]
    } == set()
    return pipeline.fingerprint()


@pytest.mark.parametrize("sizes", [(97, 1500), (1500, 97), (700,)])
@pytest.mark.parametrize("restart", [False, True])
def test_decisions_are_a_function_of_event_times(
    tmp_path: Path, story: Logs, once: str, sizes: tuple[int, ...], restart: bool
) -> None:
    """Any polls, whichever topic is ahead, with restarts or without, end in the very same state."""
    told = {name: events[:] for name, events in story.items()}
    assert read(tmp_path, model(**EVERYTHING), told, sizes, restart).fingerprint() == once
