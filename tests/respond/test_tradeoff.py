"""A new version against the last, the age of what serves, and the distance of production from the launch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.config import Config, ModelConfig
from agent.respond import page
from agent.respond.expose import render
from agent.respond.view import View
from agent.runner import end_input
from tests.measure.events import DAY, FEEDBACK, MINUTE, PREDICTIONS, T0, Event, config_of, label, prediction
from tests.measure.running import Run

CONFIG = config_of(
    m=ModelConfig.model_validate(
        {
            "step": "1h",
            "label_maturity": "1h",
            "performance": {"min_baseline_labels": 500},
            "roles": {
                "objectives": ["accuracy", "recall"],
                "constraints": [{"metric": "error_rate", "max": 0.05}],
            },
        }
    )
)
ACCURACY = {"1": 0.8, "2": 0.9}
LATENCY = {"1": 0.1, "2": 0.3}
SWITCH = 10


def logs() -> tuple[list[Event], list[Event]]:
    """Fifteen days; from the tenth on a version that is better and slower."""
    rng = np.random.default_rng(5)
    predictions, feedback = [], []
    for i in range(15 * 200):
        at = T0 + i * DAY // 200
        version = "1" if i < SWITCH * 200 else "2"
        truth = int(rng.random() < 0.5)
        said = truth if rng.random() < ACCURACY[version] else 1 - truth
        predictions.append(
            prediction(i, at, model_version=version, prediction=said, latency_seconds=LATENCY[version])
        )
        feedback.append(label(i, at + MINUTE, truth))
    return predictions, feedback


def seen(folder: Path, config: Config = CONFIG) -> tuple[View, tuple[list[Event], list[Event]]]:
    """The view after all events, and the events."""
    held = logs()
    pipeline = Run(config, {PREDICTIONS: [*held[0]], FEEDBACK: [*held[1]]}, folder).finish()
    end_input(pipeline)
    return pipeline.view(0.0), held


def test_a_version_stands_against_the_last_in_quality_errors_and_latency(tmp_path: Path) -> None:
    """Each difference is that of a recount; what is sure and what the bars allow stands beside it."""
    view, (predictions, feedback) = seen(tmp_path)
    rows = {row.metric: row for row in view.models["m"].changes}
    assert list(rows) == ["accuracy", "recall", "error_rate", "mean_latency_seconds"]
    right: dict[str, list[bool]] = {v: [] for v in ACCURACY}
    for event, truth in zip(predictions, feedback, strict=True):
        right[event["model_version"]].append(event["prediction"] == truth["label"])
    accuracy = rows["accuracy"]
    assert (accuracy.version, accuracy.previous) == ("2", "1")
    assert accuracy.difference == pytest.approx(np.mean(right["2"]) - np.mean(right["1"]))
    assert accuracy.low is not None
    assert accuracy.high is not None
    assert accuracy.low <= 0.1 <= accuracy.high
    assert accuracy.better is True
    assert rows["error_rate"].allowed is True
    assert rows["error_rate"].better is None
    assert rows["mean_latency_seconds"].difference == pytest.approx(0.2)
    text = render(view).decode()
    labels = 'metric="accuracy",model_name="m",model_version="2",previous_version="1"'
    assert f"plumbline_version_change{{{labels}}} {accuracy.difference}" in text
    assert b"Against version 1" in page.render(view)


def test_age_and_frequency_of_versions_are_in_event_time(tmp_path: Path) -> None:
    """The newest version began on day 10 of 15, and it is the one new version of the month."""
    view, (predictions, _) = seen(tmp_path)
    found = view.models["m"].staleness
    assert found is not None
    assert found.version == "2"
    assert found.age_ms == predictions[-1]["timestamp"] - predictions[SWITCH * 200]["timestamp"]
    assert found.new_versions_30d == 1
    text = render(view).decode()
    assert f'plumbline_model_age_seconds{{model_name="m"}} {found.age_ms / 1000}' in text
    assert 'plumbline_new_versions_30d{model_name="m"} 1.0' in text


def test_the_gap_to_the_launch_is_production_minus_the_reference(tmp_path: Path) -> None:
    """Each version has the numbers of its launch, and on /metrics how far its lifetime lies from them."""
    view, _ = seen(tmp_path)
    version = view.models["m"].versions["2"]
    now = version.windows["lifetime"].metrics[""]["accuracy"].value
    launch = version.launch["accuracy"]
    assert launch.n >= 500
    gap = now - launch.value
    assert abs(gap) < 0.05
    labels = 'metric="accuracy",model_name="m",model_version="2"'
    assert f"plumbline_offline_online_gap{{{labels}}} {gap}" in render(view).decode()
