"""Every metric against scikit-learn on the events of the same window, and River fed event by event."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from river import metrics as river
from sklearn import metrics as sk

from agent.config import Config, ModelConfig
from agent.measure.layout import FIXED
from agent.measure.metrics import Value, performance_metrics, prediction_metrics
from agent.measure.models import Models
from agent.measure.pane import HOUR as HOUR_TIER
from agent.measure.pane import LIFETIME
from agent.measure.window import stretch, window
from tests.measure.events import DAY, HOUR, MINUTE, T0, Event, config_of, folded, label, prediction

EXACT = 1e-9
ROUNDED = 0.5 / FIXED + 1e-12
"""Losses are rounded to 1/FIXED each, so a mean is off by at most half of that: 3e-8."""
BINNED = 0.002

Array = NDArray[Any]
Windows = list[tuple[str, int, int]]
HOURS: Windows = [("1h", T0 + i * HOUR, T0 + (i + 1) * HOUR) for i in range(50)]
ALL: Windows = [
    *HOURS,
    *(("24h", T0 + i * DAY, T0 + (i + 1) * DAY) for i in range(3)),
    ("lifetime", 0, 2**60),
]


class Stream:
    """Labelled predictions as arrays and as events."""

    def __init__(self, truth: Array, scores: Array, predicted: Array, times: Array, groups: Array) -> None:
        self.truth, self.scores, self.predicted, self.times, self.groups = (
            truth,
            scores,
            predicted,
            times,
            groups,
        )

    def chosen(self, at: Array) -> Stream:
        return Stream(self.truth[at], self.scores[at], self.predicted[at], self.times[at], self.groups[at])


def measured(models: Models, first: int, last: int) -> dict[str, dict[str, Value]]:
    """All metrics by slice of the panes of one stretch."""
    model = models.models["m"]
    tier, starts = (LIFETIME, [0]) if last == 2**60 else (HOUR_TIER, list(range(first, last, HOUR)))
    sums = stretch(model, None, tier, starts, first, last)
    return {
        segment: {
            **prediction_metrics(model.layout, counts),
            **(
                performance_metrics(model.layout, sums.performance[segment], 1)
                if segment in sums.performance
                else {}
            ),
        }
        for segment, counts in sums.predictions.items()
    }


def every_window(stream: Stream, windows: Windows) -> list[tuple[int, int, str, Stream]]:
    """The events of each window and slice that has any."""
    found = []
    for _, first, last in windows:
        inside = (stream.times >= first) & (stream.times < last)
        for segment in ("", "group=x", "group=y"):
            at = inside if not segment else inside & (stream.groups == segment[-1])
            if at.any():
                found.append((first, last, segment, stream.chosen(at)))
    return found


# binary

BINARY = config_of(m=ModelConfig.model_validate({"segments": ["group"], "label_horizon": "10d"}))


def binary_stream(seed: int, n: int) -> Stream:
    rng = np.random.default_rng(seed)
    truth = (rng.random(n) < 0.3).astype(np.int64)
    scores = np.clip(rng.beta(2, 3, n) + 0.25 * truth, 0, 1)
    scores[rng.random(n) < 0.02] = 0.0
    scores[rng.random(n) < 0.02] = 1.0
    groups = rng.choice(["x", "x", "y"], n)
    times = T0 + np.sort(rng.integers(0, 49 * HOUR, n))
    return Stream(truth, scores, (scores >= 0.5).astype(np.int64), times, groups)


def binary_events(stream: Stream) -> tuple[list[Event], list[Event]]:
    predictions, feedback = [], []
    for i in range(len(stream.truth)):
        at = int(stream.times[i])
        tags, score = {"group": str(stream.groups[i])}, float(stream.scores[i])
        predictions.append(prediction(i, at, prediction_score=score, tags=tags))
        feedback.append(label(i, at + HOUR, str(stream.truth[i])))
    return predictions, feedback


def expected_binary(s: Stream) -> dict[str, tuple[float, int, float]]:
    """Id → (value, denominator, tolerance), absent where undefined."""
    y, p = s.truth, s.predicted
    tn, fp, fn, tp = (int(v) for v in sk.confusion_matrix(y, p, labels=[0, 1]).ravel())
    n, found = len(y), dict[str, tuple[float, int, float]]()
    counts = {"true_negatives": tn, "false_positives": fp, "false_negatives": fn, "true_positives": tp}
    found |= {name: (float(value), n, 0.0) for name, value in counts.items()}
    found["accuracy"] = (sk.accuracy_score(y, p), n, EXACT)
    found["majority_class_rate"] = (float(max(y.mean(), 1 - y.mean())), n, EXACT)
    found["prevalence"] = (float(y.mean()), n, EXACT)
    found["selection_rate"] = (float(p.mean()), n, EXACT)
    found["error_rate"] = (0.0, n, EXACT)
    found["log_loss"] = (sk.log_loss(y, s.scores, labels=[0, 1]), n, ROUNDED)
    found["brier"] = (float(np.mean((s.scores - y) ** 2)), n, ROUNDED)
    both = 0 < y.sum() < n
    if both:
        found["balanced_accuracy"] = (sk.balanced_accuracy_score(y, p), n, EXACT)
        found["roc_auc"] = (sk.roc_auc_score(y, s.scores), n, BINNED)
        if 0 < p.sum() < n:
            found["matthews_correlation"] = (sk.matthews_corrcoef(y, p), n, EXACT)
    if tp + fp:
        found["precision"] = (sk.precision_score(y, p), tp + fp, EXACT)
    if tp + fn:
        found["recall"] = (sk.recall_score(y, p), tp + fn, EXACT)
        found["false_negative_rate"] = (fn / (tp + fn), tp + fn, EXACT)
    if tp + fp + fn:
        found["f1"] = (sk.f1_score(y, p), tp + fp + fn, EXACT)
    if tn + fp:
        found["specificity"] = (sk.recall_score(y, p, pos_label=0), tn + fp, EXACT)
        found["false_positive_rate"] = (fp / (tn + fp), tn + fp, EXACT)
    return found


def assert_equal(seen: Mapping[str, Value], expected: Mapping[str, tuple[float, int, float]]) -> None:
    assert set(seen) == set(expected)
    for name, (value, n, tolerance) in expected.items():
        assert seen[name].value == pytest.approx(value, abs=tolerance, rel=0), name
        assert seen[name].n == n, name


@pytest.mark.parametrize(("seed", "n"), [(1, 6000), (2, 150)])
def test_binary_metrics_equal_scikit_learn_in_every_window_and_slice(seed: int, n: int) -> None:
    """Hours, days and the lifetime, overall and by group: value, denominator and absence agree."""
    stream = binary_stream(seed, n)
    models = folded(BINARY, *binary_events(stream), batch=997)
    seen: dict[tuple[int, int], dict[str, dict[str, Value]]] = {}
    windows = every_window(stream, ALL)
    for first, last, segment, events in windows:
        found = seen.setdefault((first, last), measured(models, first, last))
        expected = expected_binary(events)
        if len(events.truth) < 500:  # a coarse histogram of few events is no estimate to be held to .002
            expected = {k: (v, m, 0.02 if k == "roc_auc" else t) for k, (v, m, t) in expected.items()}
        assert_equal(found[segment], expected)
    assert len(windows) > 100


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_auc_holds_at_a_prevalence_of_a_thousandth(seed: int) -> None:
    """With 0.1 % positives and scores spread logarithmically near zero the AUC is within 0.002."""
    rng = np.random.default_rng(seed)
    n = 60_000
    truth = (rng.random(n) < 0.001).astype(np.int64)
    scores = np.clip(10 ** rng.normal(-3.6 + 0.9 * truth, 0.5), 0, 1)
    models = folded(
        BINARY, *binary_events(Stream(truth, scores, truth, T0 + np.arange(n) * 100, np.full(n, "x")))
    )
    exact = sk.roc_auc_score(truth, scores)
    assert 0.6 < exact < 0.99
    assert measured(models, 0, 2**60)[""]["roc_auc"].value == pytest.approx(exact, abs=BINNED)


def test_scores_outside_zero_and_one_are_ranked_but_have_no_loss() -> None:
    """Scores that are no probabilities give an AUC within 0.01 from logarithmic bins, and no losses."""
    rng = np.random.default_rng(4)
    n = 20_000
    truth = (rng.random(n) < 0.4).astype(np.int64)
    scores = np.minimum(-(10 ** rng.normal(2.5 - 0.4 * truth, 0.5)), -1.001)
    models = folded(
        BINARY, *binary_events(Stream(truth, scores, truth, T0 + np.arange(n) * 100, np.full(n, "x")))
    )
    found = measured(models, 0, 2**60)[""]
    assert found["roc_auc"].value == pytest.approx(sk.roc_auc_score(truth, scores), abs=0.01)
    assert {"log_loss", "brier"} & set(found) == set()


# multiclass

CLASSES = ["ant", "bee", "cat", "dog"]
MANY = config_of(
    m=ModelConfig.model_validate(
        {"task": "multiclass", "classes": CLASSES, "segments": ["group"], "label_horizon": "10d"}
    )
)


def many_stream(seed: int, n: int) -> Stream:
    rng = np.random.default_rng(seed)
    truth = rng.choice(4, n, p=[0.55, 0.3, 0.1, 0.05])
    logits = rng.normal(size=(n, 4)) + 1.5 * np.eye(4)[truth]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    times = T0 + np.sort(rng.integers(0, 49 * HOUR, n))
    return Stream(truth, scores, scores.argmax(axis=1), times, rng.choice(["x", "x", "y"], n))


def many_events(stream: Stream) -> tuple[list[Event], list[Event]]:
    predictions, feedback = [], []
    for i in range(len(stream.truth)):
        at = int(stream.times[i])
        by_class = dict(zip(CLASSES, (float(v) for v in stream.scores[i]), strict=True))
        tags, named = {"group": str(stream.groups[i])}, CLASSES[stream.predicted[i]]
        event = prediction(i, at, prediction=named, prediction_probabilities=by_class, tags=tags)
        predictions.append(event)
        feedback.append(label(i, at + MINUTE, CLASSES[stream.truth[i]]))
    return predictions, feedback


def expected_many(s: Stream) -> dict[str, tuple[float, int, float]]:
    y, p, n = s.truth, s.predicted, len(s.truth)
    matrix = sk.confusion_matrix(y, p, labels=range(4))
    found: dict[str, tuple[float, int, float]] = {"error_rate": (0.0, n, EXACT)}
    found["accuracy"] = (sk.accuracy_score(y, p), n, EXACT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes that are only predicted
        found["balanced_accuracy"] = (sk.balanced_accuracy_score(y, p), n, EXACT)
    found["majority_class_rate"] = (float(np.bincount(y).max() / n), n, EXACT)
    scores: dict[str, Callable[..., Any]] = {
        "precision": sk.precision_score,
        "recall": sk.recall_score,
        "f1": sk.f1_score,
    }
    for name, score in scores.items():
        for average in ("macro", "weighted"):
            found[f"{name}_{average}"] = (score(y, p, average=average, zero_division=0), n, EXACT)
        each = score(y, p, labels=range(4), average=None, zero_division=0)
        for i, class_ in enumerate(CLASSES):
            true, guessed, right = int(matrix[i].sum()), int(matrix[:, i].sum()), int(matrix[i, i])
            m = {"precision": guessed, "recall": true, "f1": true + guessed - right}[name]
            if m:
                found[f"{name}:{class_}"] = (each[i], m, EXACT)
    for i, class_ in enumerate(CLASSES):
        others = y != i
        if others.any():
            wrong = float(np.mean(p[others] == i))
            found[f"false_positive_rate:{class_}"] = (wrong, int(others.sum()), EXACT)
            found[f"specificity:{class_}"] = (1 - wrong, int(others.sum()), EXACT)
    found["log_loss"] = (sk.log_loss(y, s.scores, labels=range(4)), n, ROUNDED)
    found["brier"] = (float(((s.scores - np.eye(4)[y]) ** 2).sum(axis=1).mean()), n, ROUNDED)
    if len(set(y.tolist())) == 4 and n > 1:
        auc = np.mean([sk.roc_auc_score(y == i, s.scores[:, i]) for i in range(4)])
        assert auc == pytest.approx(sk.roc_auc_score(y, s.scores, multi_class="ovr", average="macro"))
        found["roc_auc_macro"] = (float(auc), n, BINNED if n >= 500 else 0.03)
    return found


@pytest.mark.parametrize(("seed", "n"), [(1, 5000), (2, 120)])
def test_multiclass_metrics_equal_scikit_learn_in_every_window_and_slice(seed: int, n: int) -> None:
    """Macro, weighted and by class, in hours, days and the lifetime, overall and by group."""
    stream = many_stream(seed, n)
    models = folded(MANY, *many_events(stream), batch=1999)
    seen: dict[tuple[int, int], dict[str, dict[str, Value]]] = {}
    for first, last, segment, events in every_window(stream, [*HOURS[::6], *ALL[len(HOURS) :]]):
        found = seen.setdefault((first, last), measured(models, first, last))
        assert_equal(found[segment], expected_many(events))


# River

RIVER: dict[str, Callable[[], Any]] = {
    "accuracy": river.Accuracy,
    "balanced_accuracy": river.BalancedAccuracy,
    "precision": river.Precision,
    "recall": river.Recall,
    "f1": river.F1,
    "matthews_correlation": river.MCC,
}
RIVER_MANY: dict[str, Callable[[], Any]] = {
    "accuracy": river.Accuracy,
    "balanced_accuracy": river.BalancedAccuracy,
    "precision_macro": river.MacroPrecision,
    "recall_macro": river.MacroRecall,
    "f1_macro": river.MacroF1,
    "precision_weighted": river.WeightedPrecision,
    "recall_weighted": river.WeightedRecall,
    "f1_weighted": river.WeightedF1,
}


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_confusion_metrics_equal_river_fed_event_by_event(task: str) -> None:
    """One update per event of the same hour or lifetime gives River what our sums of panes give."""
    binary = task == "binary"
    stream = binary_stream(8, 1500) if binary else many_stream(8, 1500)
    events = binary_events(stream) if binary else many_events(stream)
    models = folded(BINARY if binary else MANY, *events)
    compared = 0
    for _, first, last in [*HOURS[:12], ALL[-1]]:
        at = (stream.times >= first) & (stream.times < last)
        found = measured(models, first, last)[""]
        for name, made in (RIVER if binary else RIVER_MANY).items():
            metric = made()
            for y, p in zip(stream.truth[at].tolist(), stream.predicted[at].tolist(), strict=True):
                metric.update(bool(y), bool(p)) if binary else metric.update(y, p)
            if name in found:
                assert found[name].value == pytest.approx(metric.get(), abs=EXACT), name
                compared += 1
    assert compared > 60


def test_what_is_undefined_or_too_small_is_absent() -> None:
    """No positive predicted: no precision; none at all: no recall, no AUC; below min_samples: nothing."""
    config = Config.model_validate(BINARY.model_dump())
    predictions = [prediction(i, T0 + i, prediction_score=0.1) for i in range(20)]
    models = folded(config, predictions, [label(i, T0 + HOUR, "0") for i in range(20)])
    found = measured(models, 0, 2**60)[""]
    undefined = {"precision", "recall", "false_negative_rate", "f1", "roc_auc", "matthews_correlation"}
    assert (undefined | {"balanced_accuracy"}) & set(found) == set()
    assert found["specificity"] == Value(1.0, 20)
    model = models.models["m"]
    held = stretch(model, None, LIFETIME, [0], 0, 1).performance[""]
    assert performance_metrics(model.layout, held, 21) == {}


def test_the_shown_hour_is_the_sum_of_its_minutes() -> None:
    """The sliding windows of the view advance by minutes or hours and hold just the events inside them."""
    stream = binary_stream(3, 3000)
    models = folded(BINARY, *binary_events(stream))
    model, last = models.models["m"], int(stream.times[-1])
    for name, unit, length in (("5m", MINUTE, 5 * MINUTE), ("1h", MINUTE, HOUR), ("24h", HOUR, DAY)):
        sums = window(model, "unknown", name, last)
        assert sums.end_ms == (last // unit + 1) * unit
        assert sums.start_ms == sums.end_ms - length
        inside = stream.chosen((stream.times >= sums.start_ms) & (stream.times < sums.end_ms))
        assert int(sums.predictions[""][0]) == len(inside.truth)
        found = performance_metrics(model.layout, sums.performance[""], 1)
        expected = expected_binary(inside)
        for metric in ("accuracy", "true_positives", "false_positives", "log_loss", "brier"):
            value, n, tolerance = expected[metric]
            assert found[metric].value == pytest.approx(value, abs=tolerance)
            assert found[metric].n == n
