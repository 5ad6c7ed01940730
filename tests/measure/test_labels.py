"""What labels tell beside their rates, from events to alarms: that they are late, that they changed, that a
version began worse than the last one ended.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from agent.config import ModelConfig
from agent.events import Partition
from agent.measure.arrivals import LEARN_HOURS, Arrivals
from agent.measure.pane import AGE_EDGES_MS, HOUR_MS
from agent.pipeline import Pipeline
from agent.respond.view import AlarmView
from tests.measure.events import FEEDBACK, HOUR, MINUTE, PREDICTIONS, T0, Event, config_of, label, prediction
from tests.measure.running import assert_same, running

PER_HOUR = 60
LATE, BACK, WORSE, MORE = 40, 48, 60, 75
"""Hours: labels stop coming but for a tenth, come again, a bad version 2 begins, positives multiply."""
END = 85


def logs() -> dict[Partition, list[Event | bytes]]:
    rng = np.random.default_rng(3)
    predictions: list[Event | bytes] = []
    feedback: list[tuple[int, Event]] = []
    for i in range(END * PER_HOUR):
        at, hour = T0 + i * HOUR // PER_HOUR, i // PER_HOUR
        truth = int(rng.random() < (0.9 if hour >= MORE else 0.3))
        right = rng.random() < (0.6 if hour >= WORSE else 0.9)
        version = "2" if hour >= WORSE else "1"
        says = truth if right else 1 - truth
        predictions.append(prediction(i, at, "m", model_version=version, prediction=str(says)))
        if not LATE <= hour < BACK or rng.random() < 0.1:
            due = at + 30 * MINUTE
            feedback.append((due, label(i, due, str(truth))))
    return {PREDICTIONS: predictions, FEEDBACK: [event for _, event in sorted(feedback, key=lambda f: f[0])]}


CONFIG = config_of(m=ModelConfig.model_validate({"label_maturity": "12h", "min_samples": 1}))


@pytest.fixture(scope="module")
def told() -> Iterator[Pipeline]:
    with running(logs(), CONFIG) as run:
        for _ in range(END + 1):
            run.read(PREDICTIONS, PER_HOUR)
            run.read(FEEDBACK, PER_HOUR)
        yield run.finish()


def of(told: Pipeline, detector: str, feature: str = "") -> list[AlarmView]:
    return [
        a for a in told.judges["m"].alarms if a.key.detector == detector and a.key.feature in ("", feature)
    ]


def test_labels_that_stay_away_are_called_long_before_their_hours_mature(told: Pipeline) -> None:
    """A ticket within three hours, though maturity is twelve, and over once labels come again."""
    (alarm,) = of(told, "labels_late")
    assert LATE + 1 < (alarm.raised_ms - T0) / HOUR <= LATE + 3
    assert alarm.resolved_ms is not None
    assert BACK < (alarm.resolved_ms - T0) / HOUR <= BACK + 8


def test_a_version_that_begins_worse_than_the_last_is_called(told: Pipeline) -> None:
    """Its own baseline is learned from its own bad labels; its predecessor's labels know better."""
    (alarm,) = of(told, "version_drop")
    assert alarm.key.model_version == "2"
    assert alarm.key.metric == "accuracy"
    assert WORSE < (alarm.raised_ms - T0) / HOUR <= WORSE + 5
    assert alarm.evidence.reference == pytest.approx(0.9, abs=0.02)
    assert not of(told, "rate_drop")


def test_a_change_of_the_truth_is_a_ticket_of_its_own(told: Pipeline) -> None:
    """Three times as many positives: drift of the label, beside that of the prediction."""
    (alarm,) = [a for a in of(told, "histogram_drift", "label") if a.key.feature == "label"]
    assert MORE < (alarm.raised_ms - T0) / HOUR <= MORE + 4


def test_it_does_not_depend_on_batches_or_restarts(told: Pipeline) -> None:
    """All predictions first, with kills between, ends in the same state to the byte."""
    with running(logs(), CONFIG) as run:
        run.read(PREDICTIONS, 10**6)
        for n in (700, 900, 1100):
            run.read(FEEDBACK, n)
            run.pipeline.commit(0.0)
            run.kill()
        assert_same(run.finish(), told)


def test_labels_that_come_once_a_night_have_an_age_of_a_day() -> None:
    """The usual age is one at which even the hour that waits longest had its labels."""
    arrivals = Arrivals()
    predictions = np.array([100, 0], dtype=np.int64)
    for hour in range(LEARN_HOURS):
        waits = (24 - hour) * HOUR_MS
        age = int(np.searchsorted(AGE_EDGES_MS, waits, side="left"))
        arrivals.learn(hour * HOUR_MS, predictions, {age: 90})
    assert arrivals.usual is not None
    assert AGE_EDGES_MS[arrivals.usual] == 24 * HOUR_MS
    assert arrivals.reference == (24 * 90, 24 * 10)
