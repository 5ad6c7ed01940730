"""Silent failures from events to alarms: each is called by its own name, within the hour, and resolves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from agent.config import Config, ModelConfig
from agent.measure.baseline import Baseline
from agent.respond.view import AlarmView, Severity
from tests.measure.events import DAY, HOUR, PREDICTIONS, T0, Event, config_of, decoded, prediction
from tests.measure.running import running

PER_HOUR = 240


@dataclass(frozen=True)
class Failure:
    """What begins at an hour of the third day, lasts two hours, and must raise this."""

    hour: int
    detector: str
    severity: str
    feature: str = ""
    segment: str = ""


FAILURES = [
    Failure(50, "error_surge", "page"),
    Failure(54, "invalid_surge", "page", feature="age"),
    Failure(58, "missing_surge", "page", feature="age"),
    Failure(62, "unseen_surge", "ticket", feature="plan"),
    Failure(66, "slow_answers", "ticket"),
    Failure(70, "overconfidence", "page"),
    Failure(74, "confidence_collapse", "page"),
    Failure(78, "dead_segment", "page", segment="region=eu"),
    Failure(82, "volume_drop", "page"),
    Failure(86, "volume_surge", "ticket"),
]
END = 92
_BY_HOUR = {hour: f.detector for f in FAILURES for hour in (f.hour, f.hour + 1)}


def events(first: int, last: int, seed: int) -> list[Event]:
    """Steady traffic of two regions, with what fails at each hour."""
    rng = np.random.default_rng(seed)
    found = []
    for hour in range(first, last):
        failing = _BY_HOUR.get(hour, "")
        n = {"volume_surge": 20 * PER_HOUR, "volume_drop": 0}.get(failing, PER_HOUR)
        for i in range(n):
            score = float(rng.beta(2, 2))
            if failing == "overconfidence":
                score = float(rng.choice([0.9995, 0.0005])) + float(rng.uniform(-0.0004, 0.0004))
            if failing == "confidence_collapse":
                score = float(rng.uniform(0.47, 0.53))
            slow = 10.0 if failing == "slow_answers" else 1.0
            region = "us" if failing == "dead_segment" else str(rng.choice(["us", "eu"]))
            says: Event = {"prediction_score": round(score, 6)}
            if failing == "error_surge" and i % 3 == 0:
                says = {"error": "timeout"}
            age: object = int(rng.integers(18, 80))
            if i % 5 == 0:
                age = {"invalid_surge": "old", "missing_surge": None}.get(failing, age)
            plan = "new" if failing == "unseen_surge" and i % 5 == 0 else str(rng.choice(["a", "b", "c"]))
            found.append(
                prediction(
                    f"{hour}-{i}",
                    T0 + hour * HOUR + i * HOUR // n,
                    model_version="1",
                    features={"age": age, "plan": plan},
                    tags={"region": region},
                    latency_seconds=0.05 * slow * float(np.exp(0.3 * rng.standard_normal())),
                    **says,
                )
            )
    return found


@pytest.fixture(scope="module")
def alarms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[AlarmView]]:
    path: Path = tmp_path_factory.mktemp("baseline") / "m.json"
    fields = {"features": {"age": "numeric", "plan": "categorical"}, "segments": ["region"]}
    model = ModelConfig.model_validate(fields)
    learned: Config = config_of(m=model)
    reference = events(0, 24, seed=2)
    Baseline.learn("m", model, [decoded(learned, PREDICTIONS, reference)]).save(path)
    config = config_of(m=ModelConfig.model_validate({**fields, "baseline": path}))
    log = [*events(0, END, seed=1)]
    with running({PREDICTIONS: [*log]}, config) as run:
        while run.pipeline.positions.get(PREDICTIONS, 0) < len(log):
            run.read(PREDICTIONS, 1000)
        yield run.pipeline.judges["m"].alarms


@pytest.mark.slow
@pytest.mark.parametrize("failure", FAILURES, ids=lambda f: f.detector)
def test_each_failure_is_called_by_its_name_within_the_hour_and_resolves(
    alarms: list[AlarmView], failure: Failure
) -> None:
    """The right detector, the right place, the right severity; once; over once an interval shows it."""
    found = [alarm for alarm in alarms if alarm.key.detector == failure.detector]
    assert len(found) == 1
    (alarm,) = found
    raised = (alarm.raised_ms - T0) / HOUR
    assert failure.hour < raised <= failure.hour + 1
    assert alarm.severity is Severity(failure.severity)
    assert (alarm.key.feature, alarm.key.segment) == (failure.feature, failure.segment)
    assert alarm.resolved_ms is not None
    assert (alarm.resolved_ms - T0) / HOUR <= failure.hour + 8


@pytest.mark.slow
def test_nothing_is_called_while_all_is_well(alarms: list[AlarmView]) -> None:
    """Two days of quiet raise nothing, and later alarms all fall into the hours of a failure."""
    assert {int((alarm.raised_ms - T0 - 1) // HOUR) for alarm in alarms} <= set(_BY_HOUR)
    assert min(alarm.raised_ms for alarm in alarms) > T0 + 2 * DAY
