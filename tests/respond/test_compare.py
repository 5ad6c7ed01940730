"""Experiments from events to /metrics, /status and the page: lifts, guardrails, the sharing of units."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from agent.config import Config, ExperimentConfig, ModelConfig
from agent.config.rules import rules
from agent.respond import page, status
from agent.respond.expose import render
from agent.respond.view import ExperimentView, View
from agent.runner import end_input
from tests.measure.events import FEEDBACK, MINUTE, PREDICTIONS, T0, Event, config_of, label, prediction
from tests.measure.running import Run

PLAN: dict[str, Any] = {
    "name": "bigger-model",
    "control": "a",
    "metrics": ["recall"],
    "margin": 0.02,
    "guardrails": {"false_positive_rate": 0.02},
    "shares": {"a": 0.5, "b": 0.5},
}


def config(**changes: Any) -> Config:  # noqa: ANN401 - any config value
    """One model with one experiment."""
    return config_of(
        m=ModelConfig.model_validate({"segments": ["variant"], "experiments": [PLAN | changes], "step": "1h"})
    )


def events(
    rates: dict[str, tuple[float, float]], n: dict[str, int], seed: int = 1
) -> tuple[list[Event], list[Event]]:
    """Labelled predictions of each arm with its (recall, false positive rate)."""
    rng = np.random.default_rng(seed)
    arms = [arm for arm, count in n.items() for _ in range(count)]
    rng.shuffle(arms)
    predictions, feedback = [], []
    for i, arm in enumerate(arms):
        truth = rng.random() < 0.5
        said = rng.random() < rates[arm][0 if truth else 1]
        at = T0 + i * 500
        predictions.append(prediction(i, at, prediction=int(said), tags={"variant": arm}))
        feedback.append(label(i, at + MINUTE, int(truth)))
    return predictions, feedback


def seen(folder: Path, asked: Config, logs: tuple[list[Event], list[Event]]) -> View:
    """The committed view after all events."""
    pipeline = Run(asked, {PREDICTIONS: [*logs[0]], FEEDBACK: [*logs[1]]}, folder).finish()
    end_input(pipeline)
    return pipeline.view(0.0)


def experiment(view: View) -> ExperimentView:
    """The only one."""
    (found,) = view.models["m"].experiments
    return found


def test_a_better_variant_is_seen_everywhere_with_the_counts_of_its_events(tmp_path: Path) -> None:
    """Values equal a recount; verdict and interval stand in /metrics, /status and on the page."""
    logs = events({"a": (0.6, 0.2), "b": (0.75, 0.2)}, {"a": 6000, "b": 6000})
    view = seen(tmp_path, config(), logs)
    found = experiment(view)
    assert found.counts == {"a": 6000, "b": 6000}
    assert found.mismatched is False
    lifts = {lift.metric: lift for lift in found.lifts}
    truth = [event["label"] for event in logs[1]]
    for arm, value, n in (
        ("a", lifts["recall"].control_value, lifts["recall"].control_n),
        ("b", lifts["recall"].variant_value, lifts["recall"].variant_n),
    ):
        said = [
            p["prediction"] for p, t in zip(logs[0], truth, strict=True) if t and p["tags"]["variant"] == arm
        ]
        assert (value, n) == (np.mean(said), len(said))
    assert lifts["recall"].verdict == "better"
    assert lifts["recall"].low <= 0.15 <= lifts["recall"].high
    assert lifts["false_positive_rate"].role == "guardrail"
    assert lifts["false_positive_rate"].verdict in ("equivalent", "not enough evidence")
    text = render(view).decode()
    labels = 'experiment="bigger-model",metric="recall",model_name="m",variant="b"'
    assert f"plumbline_experiment_lift{{{labels}}} {lifts['recall'].difference}" in text
    assert f"plumbline_experiment_lift_low{{{labels}}} {lifts['recall'].low}" in text
    assert f"plumbline_experiment_lift_high{{{labels}}} {lifts['recall'].high}" in text
    assert 'variant="b",verdict="better"} 1.0' in text
    assert 'plumbline_experiment_sample_ratio_mismatch{experiment="bigger-model",model_name="m"} 0.0' in text
    shown = json.loads(status.to_json(view))["models"]["m"]["experiments"][0]
    assert {lift["metric"]: lift["verdict"] for lift in shown["lifts"]}["recall"] == "better"
    assert b"bigger-model" in page.render(view)
    assert b">better<" in page.render(view)


def test_no_variant_is_better_while_a_guardrail_is_broken(tmp_path: Path) -> None:
    """More recall for far more false positives is not called better."""
    logs = events({"a": (0.6, 0.1), "b": (0.75, 0.3)}, {"a": 5000, "b": 5000})
    found = experiment(seen(tmp_path, config(), logs))
    assert {lift.metric: lift.verdict for lift in found.lifts} == {
        "false_positive_rate": "guardrail broken",
        "recall": "guardrail broken",
    }


def test_no_verdict_is_trusted_when_units_are_shared_out_otherwise(tmp_path: Path) -> None:
    """A planned half that got 46 % of 10,000 units: the bug is told, and no verdict is given."""
    logs = events({"a": (0.6, 0.1), "b": (0.75, 0.1)}, {"a": 5400, "b": 4600})
    found = experiment(seen(tmp_path, config(), logs))
    assert found.mismatched is True
    assert {lift.verdict for lift in found.lifts} == {"not to be trusted"}


def test_users_that_come_often_count_once(tmp_path: Path) -> None:
    """Twenty predictions of each user are a twentieth of the units: no mismatch, and a wide interval."""
    logs = events({"a": (0.6, 0.1), "b": (0.75, 0.1)}, {"a": 5400, "b": 4600})
    often = experiment(seen(tmp_path / "often", config(predictions_per_unit=20), logs))
    once = experiment(seen(tmp_path / "once", config(), logs))
    assert often.mismatched is False
    for wide, narrow in zip(often.lifts, once.lifts, strict=True):
        assert wide.difference == pytest.approx(narrow.difference)
        assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_arms_are_not_judged_as_groups(tmp_path: Path) -> None:
    """That a variant differs from its control is what it is for: the fairness detectors do not look at it."""
    logs = events({"a": (0.6, 0.1), "b": (0.95, 0.4)}, {"a": 3000, "b": 3000})
    view = seen(tmp_path, config(), logs)
    assert not [m for m in view.models["m"].monitors if m.key.segment.startswith("variant=")]


def test_no_experiment_no_series(tmp_path: Path) -> None:
    """Without a plan for an experiment nothing is compared or shown."""
    logs = events({"a": (0.6, 0.1), "b": (0.6, 0.1)}, {"a": 200, "b": 200})
    plain = config_of(m=ModelConfig.model_validate({"segments": ["variant"]}))
    assert b"plumbline_experiment" not in render(seen(tmp_path, plain, logs))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"attribute": "arm"}, "attribute"),
        ({"metrics": ["roc_auc"]}, "metrics"),
        ({"guardrails": {"nonsense": 0.1}}, "guardrails"),
        ({"variants": ["a"]}, "variants"),
        ({"shares": {"a": 0.5, "b": 0.4}}, "shares"),
        ({"metrics": ["recall"], "guardrails": {"recall": 0.1}}, "0"),
    ],
)
def test_a_mistake_names_its_key_and_the_remedy(changes: dict[str, Any], key: str) -> None:
    """Each mistake in an experiment is told under its own key with what to do."""
    (problem,) = rules(config(**changes), need_baselines=False)
    assert str(problem.loc[-1]) == key
    assert problem.remedy


def test_an_experiment_needs_a_metric() -> None:
    """An empty list of metrics is refused."""
    with pytest.raises(ValidationError):
        ExperimentConfig.model_validate(PLAN | {"metrics": []})
