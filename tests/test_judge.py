"""One model's story from counts to alarms and requests, told twice in different orders."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.config import Config, ModelConfig
from agent.events import Partition
from agent.measure.baseline import Baseline
from agent.pipeline import Pipeline
from agent.respond.view import AlarmView
from tests.measure.events import (
    FEEDBACK,
    HOUR,
    MINUTE,
    PREDICTIONS,
    T0,
    Event,
    config_of,
    decoded,
    label,
    prediction,
)
from tests.measure.running import Run, assert_same, running

PER_HOUR = 120
GOOD, BAD = 0.9, 0.6
QUIET, HARM, HEALED, SECOND, NEXT = 0, 30, 45, 100, 115
"""Hours at which chapters begin: all is well; scores drift and accuracy drops; back; it drops; version 2."""
END = 135

Logs = dict[Partition, list[Event | bytes]]


def accuracy(hour: int) -> float:
    return BAD if HARM <= hour < HEALED or SECOND <= hour < NEXT else GOOD


def hours(first: int, last: int, seed: int) -> tuple[list[Event], list[Event]]:
    """Steady traffic whose labels, half an hour later, are right as often as the chapter says."""
    rng = np.random.default_rng(seed)
    predictions, feedback = [], []
    for i in range(first * PER_HOUR, last * PER_HOUR):
        at, hour = T0 + i * HOUR // PER_HOUR, i // PER_HOUR
        says = int(rng.random() < (0.95 if HARM <= hour < HEALED else 0.5))
        truth = says if rng.random() < accuracy(hour) else 1 - says
        score = round(float(0.5 * says + 0.5 * rng.random()) * 0.999, 4)
        version = "2" if hour >= NEXT else "1"
        predictions.append(prediction(i, at, "m", model_version=version, prediction_score=score))
        feedback.append(label(i, at + 30 * MINUTE, str(truth)))
    return predictions, feedback


def learned(path: Path) -> ModelConfig:
    """A model whose baseline is thirty hours in which all was well."""
    fields = {"retraining": {"min_labels": 100, "cooldown": "24h"}, "label_maturity": "3h", "min_samples": 1}
    model = ModelConfig.model_validate(fields)
    config = config_of(m=model)
    predictions, feedback = hours(0, 30, seed=99)
    batches = [decoded(config, PREDICTIONS, predictions), decoded(config, FEEDBACK, feedback)]
    Baseline.learn("m", model, batches).save(path)
    return ModelConfig.model_validate({**fields, "baseline": path})


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return config_of(m=learned(tmp_path_factory.mktemp("baseline") / "m.json"))


@pytest.fixture(scope="module")
def logs() -> Logs:
    predictions, feedback = hours(QUIET, END, seed=1)
    return {PREDICTIONS: [*predictions], FEEDBACK: [*feedback]}


@pytest.fixture(scope="module")
def told(config: Config, logs: Logs) -> Iterator[Pipeline]:
    """The whole story, read hour by hour."""
    with running(logs, config) as run:
        for _ in range(END + 1):
            run.read(PREDICTIONS, PER_HOUR)
            run.read(FEEDBACK, PER_HOUR)
        yield run.pipeline


def hour_of(ms: int | None) -> float:
    assert ms is not None
    return (ms - T0) / HOUR


def pages(pipeline: Pipeline) -> list[AlarmView]:
    return [alarm for alarm in pipeline.judges["m"].alarms if alarm.severity == "page"]


def test_nothing_alarms_while_all_is_well(config: Config, logs: Logs) -> None:
    """Thirty quiet hours: monitors of every family that can work do, and none says anything."""
    quiet = {p: log[: HARM * PER_HOUR] for p, log in logs.items()}
    with running(quiet, config) as run:
        judge = run.finish().judges["m"]
        assert judge.alarms == []
        assert judge.retraining.requests == ()
        detectors = {key.detector for key in judge.monitors.watch.monitors}
        assert {"rate_drop", "histogram_drift", "volume_drop", "confidence_collapse"} <= detectors


def test_a_drop_of_accuracy_pages_and_recovery_resolves(told: Pipeline) -> None:
    """Both drops page for accuracy within hours, nothing else pages, and the first resolves."""
    found = pages(told)
    assert {(a.key.detector, a.key.metric, a.key.model_version) for a in found} == {
        ("rate_drop", "accuracy", "1")
    }
    first, second = found
    assert HARM + 1 <= hour_of(first.raised_ms) <= HARM + 8
    assert first.reason == "recovered"
    assert HEALED + 1 <= hour_of(first.resolved_ms) <= SECOND
    assert SECOND + 1 <= hour_of(second.raised_ms) <= SECOND + 8
    assert first.evidence.value is not None
    assert first.evidence.value < 0.9


def test_a_version_that_takes_over_ends_the_alarms_of_the_old_one(told: Pipeline) -> None:
    """The second drop never heals: its alarm ends an hour after version 1 gave way to version 2."""
    last = pages(told)[-1]
    assert last.reason == "version_replaced"
    assert NEXT + 1 <= hour_of(last.resolved_ms) <= NEXT + 1.5
    assert told.judges["m"].active == []


def test_drift_is_a_ticket_that_confirms_the_drop(told: Pipeline) -> None:
    """The shift of the scores opens tickets and no page, and they resolve when the scores are as before."""
    tickets = [a for a in told.judges["m"].alarms if a.severity == "ticket" and a.key.model_version == "1"]
    assert {a.key.detector for a in tickets} == {"histogram_drift"}
    for ticket in tickets:
        assert HARM <= hour_of(ticket.raised_ms) <= HARM + 4
        assert HEALED <= hour_of(ticket.resolved_ms) <= SECOND


def test_each_episode_asks_once_for_retraining(told: Pipeline) -> None:
    """One request per drop, for the version and cause that page, though the alarm lasts for many steps."""
    requests = told.judges["m"].retraining.requests
    assert [r["data"]["reason"] for r in requests] == ["drift_confirmed", "performance_drop"]
    assert [r["data"]["model_version"] for r in requests] == ["1", "1"]
    assert len({r["id"] for r in requests}) == 2
    sent = [m.topic for m in told.store.outbox(100)] + [topic for topic, _ in told._outbox]
    assert sent.count("plumbline.retraining") >= 2


def test_a_new_version_is_learning_and_the_first_is_not(told: Pipeline, config: Config, logs: Logs) -> None:
    """The configured baseline belongs to version 1; version 2 is shown as learning until it has its own."""
    early = {p: log[: (NEXT + 4) * PER_HOUR] for p, log in logs.items()}
    with running(early, config) as run:
        assert run.finish().view(0.0).models["m"].versions["2"].learning
    with running({p: log[: 5 * PER_HOUR] for p, log in logs.items()}, config) as run:
        assert not run.finish().view(0.0).models["m"].versions["1"].learning
    assert set(told.view(0.0).models["m"].versions) == {"2"}
    assert not told.view(0.0).models["m"].versions["2"].learning


@pytest.mark.parametrize("order", ["all predictions first", "all labels first", "by chance, with kills"])
def test_the_story_does_not_depend_on_the_telling(
    told: Pipeline, config: Config, logs: Logs, order: str
) -> None:
    """I2 and I14 with alarms, requests and replaced versions: the same state and words in any order."""
    with running(logs, config) as run:
        {
            "all predictions first": lambda: ahead(run),
            "all labels first": lambda: run.read(FEEDBACK, 10**6),
            "by chance, with kills": lambda: wander(run),
        }[order]()
        assert_same(run.finish(), told)


def ahead(run: Run) -> None:
    """All predictions are judged and committed before the first label is read by another process."""
    run.read(PREDICTIONS, 10**6)
    run.pipeline.commit(0.0)
    run.kill()


def wander(run: Run) -> None:
    """Read any side by any amount, commit now and then, and be killed at times."""
    rng = random.Random(7)
    for _ in range(60):
        run.read(rng.choice([PREDICTIONS, FEEDBACK]), rng.randrange(1, 900))
        if rng.random() < 0.3:
            run.pipeline.commit(0.0)
        if rng.random() < 0.15:
            run.kill()
