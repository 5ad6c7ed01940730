"""The baseline: frozen bins and the pane of the reference data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from agent.config import ModelConfig
from agent.errors import ConfigError
from agent.measure.baseline import Baseline, profile
from agent.measure.pane import LIFETIME, PREDICTIONS, PaneKey
from agent.measure.reference import Reference
from agent.respond.publish import drift
from tests.measure import events as e
from tests.measure.events import HOUR, T0, Event, config_of, decoded, folded, label, prediction

MODEL = ModelConfig.model_validate(
    {"features": {"age": "numeric", "city": "categorical"}, "segments": ["city"]}
)


def reference(n: int, seed: int, *, shift: float = 0.0) -> tuple[list[Event], list[Event]]:
    rng = np.random.default_rng(seed)
    predictions, feedback = [], []
    for i in range(n):
        age: object = None if rng.random() < 0.02 else round(float(rng.normal(40 + shift, 9)), 2)
        features = {"age": age, "city": str(rng.choice(["rome", "oslo", "bonn"], p=[0.5, 0.3, 0.2]))}
        score = round(float(rng.beta(2, 2)), 4)
        predictions.append(prediction(f"{seed}-{i}", T0 + i * 100, prediction_score=score, features=features))
        if i % 2:
            feedback.append(label(f"{seed}-{i}", T0 + i * 100 + HOUR, str(int(rng.random() < score))))
    return predictions, feedback


def learn(model: ModelConfig = MODEL, seed: int = 0, parts: int = 1) -> Baseline:
    predictions, feedback = reference(4000, seed)
    config = config_of(m=model)
    size = -(-len(predictions) // parts)
    batches = [
        decoded(config, e.PREDICTIONS, predictions[at : at + size], at)
        for at in range(0, len(predictions), size)
    ]
    return Baseline.learn("m", model, [*batches, decoded(config, e.FEEDBACK, feedback)])


def same(one: Baseline, other: Baseline) -> bool:
    return (
        (one.model_name, one.layout_version, one.features)
        == (other.model_name, other.layout_version, other.features)
        and np.array_equal(one.prediction, other.prediction)
        and np.array_equal(one.performance, other.performance)
    )


def test_a_baseline_survives_its_file(tmp_path: Path) -> None:
    """What is saved is loaded, number by number."""
    learned = learn()
    learned.save(tmp_path / "baseline.json")
    assert same(Baseline.load(tmp_path / "baseline.json", "m", MODEL), learned)


def test_the_same_data_give_the_same_baseline() -> None:
    """Twice the same events, in one batch or in seven, give equal baselines; other events do not."""
    assert same(learn(), learn())
    assert same(learn(), learn(parts=7))
    assert not same(learn(), learn(seed=1))


def test_a_baseline_counts_its_events() -> None:
    """Predictions, labels and out-of-range bins are those of the reference data."""
    learned = learn()
    reference_ = Reference.of(
        folded(config_of(m=MODEL), [], baselines={"m": learned}).models["m"].layout, learned
    )
    assert learned.prediction[0] == 4000
    assert learned.performance[0] == 2000
    ages = learned.prediction[reference_.layout.feature_slices["age"]]
    edges = learned.features[0].edges
    assert ages[0] == ages[len(edges)] == 0
    assert ages[1 : len(edges)].min() > 300
    assert learned.features[1].categories == ("bonn", "oslo", "rome")
    assert not reference_.learning


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"classes": ["no", "yes"]}, "other classes"),
        ({"task": "multiclass", "classes": ["0", "1"]}, "another task"),
        ({"features": {"age": "numeric", "city": "categorical", "pay": "numeric"}}, "other features"),
    ],
)
def test_a_baseline_of_other_cells_is_refused(tmp_path: Path, change: dict[str, object], told: str) -> None:
    """Another task, other classes or more features: refused with the key and the remedy, never added."""
    learn().save(tmp_path / "baseline.json")
    other = ModelConfig.model_validate({**MODEL.model_dump(mode="json", exclude={"baseline"}), **change})
    with pytest.raises(ConfigError, match=rf"models\.m\.baseline: .*{told}.*plumbline profile") as refused:
        Baseline.load(tmp_path / "baseline.json", "m", other)
    assert "baseline.json" in str(refused.value)


def broken_cells(text: str) -> str:
    document = json.loads(text)
    document["prediction"]["cells"][-1] = 10**9
    return json.dumps(document)


def broken_width(text: str) -> str:
    document = json.loads(text)
    document["performance"]["width"] += 5
    return json.dumps(document)


@pytest.mark.parametrize(
    "damage",
    [lambda text: text[:-50], lambda _: "[]", lambda _: "{}", lambda _: "\xff", broken_cells, broken_width],
)
def test_a_damaged_baseline_is_refused(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    """Whatever is wrong with the file, the message names it and how to make it anew."""
    path = tmp_path / "baseline.json"
    learn().save(path)
    path.write_text(damage(path.read_text()), encoding="latin-1")
    with pytest.raises(ConfigError, match=r"models\.m\.baseline: .*plumbline profile"):
        Baseline.load(path, "m", MODEL)


def test_drift_is_next_to_nothing_for_data_like_the_baseline() -> None:
    """Gauges of 4,000 further events lie near 0; a shift of half a deviation shows, in its feature only."""
    learned = learn()
    gauges = {}
    for name, shift in (("alike", 0.0), ("shifted", 4.5)):
        predictions, _ = reference(4000, 77, shift=shift)
        model = folded(config_of(m=MODEL), predictions, baselines={"m": learned}).models["m"]
        counts = model.panes.get(PaneKey("unknown", LIFETIME, 0, PREDICTIONS, ""))
        gauges[name] = drift(Reference.of(model.layout, learned), counts)
    assert set(gauges["alike"]) == {"age", "city", "score"}
    for seen in gauges["alike"].values():
        assert max(abs(seen.psi), abs(seen.kl), abs(seen.js)) < 0.01
        assert seen.n > 3800
    assert gauges["shifted"]["age"].psi > 0.15
    assert abs(gauges["shifted"]["city"].psi) < 0.01


def test_profile_guesses_the_features_of_files(tmp_path: Path) -> None:
    """Without configured features `profile` finds them: numbers are numeric, words categorical."""
    predictions, feedback = reference(600, 3)
    for name, rows in (("predictions", predictions), ("feedback", feedback)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = config_of(m=ModelConfig())
    paths = [tmp_path / "predictions.jsonl", tmp_path / "feedback.jsonl"]
    told: list[float] = []
    first = profile(config, "m", paths, told.append)
    assert [(f.name, f.kind) for f in first.features] == [("age", "numeric"), ("city", "categorical")]
    assert first.performance[0] == 300
    assert told[-1] == 1.0
    assert told == sorted(told)
    assert same(first, profile(config, "m", paths, lambda _: None))
    with pytest.raises(ConfigError, match="--model x: the configuration has no such model; it has m"):
        profile(config, "x", paths, lambda _: None)


def test_reference_data_without_the_model_are_refused() -> None:
    """Reference events of another model teach nothing."""
    with pytest.raises(ConfigError, match="no prediction of model 'm' in the reference data"):
        Baseline.learn(
            "m", MODEL, [decoded(config_of(m=MODEL), e.PREDICTIONS, [prediction(1, T0, "z", prediction="1")])]
        )
