"""Estimates without labels against scikit-learn, event by event, and their intervals against what came."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.isotonic import IsotonicRegression

from detectors.performance.cbpe import (
    auc_estimate,
    confusion_estimates,
    expected_confusion,
    isotonic,
    macro,
    unsupported,
)

MIDDLES = (np.arange(20) + 0.5) / 20


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=20))
def test_the_calibrator_is_the_weighted_isotonic_regression(bins: list[tuple[int, int]]) -> None:
    """Pooling gives scikit-learn's isotonic regression, interpolated over empty bins and clipped outside."""
    negative, positive = np.array(bins).T
    total, where = negative + positive, MIDDLES[: len(bins)]
    found = isotonic(negative, positive, where)
    held = total > 0
    if not held.any():
        assert np.isnan(found).all()
        return
    oracle = IsotonicRegression(out_of_bounds="clip")
    oracle.fit(where[held], positive[held] / total[held], sample_weight=total[held])
    np.testing.assert_allclose(found, oracle.predict(where), atol=1e-9)


def test_metrics_of_an_expected_matrix_are_those_of_weighted_events() -> None:
    """With each event counted once as positive and once as negative, weighted, scikit-learn says the same."""
    rng = np.random.default_rng(1)
    rest, chosen = rng.integers(1, 50, 20), rng.integers(1, 50, 20)
    g = np.sort(rng.uniform(0, 1, 20))
    found = confusion_estimates(expected_confusion(rest, chosen, g), 1e9)
    auc = auc_estimate((rest + chosen) * (1 - g), (rest + chosen) * g, 1e9)
    truth = np.tile(np.repeat([0, 1], 20), 2)
    predicted = np.repeat([0, 1], 40)
    weight = np.concatenate([rest * (1 - g), rest * g, chosen * (1 - g), chosen * g])
    for name, oracle in (
        ("accuracy", metrics.accuracy_score),
        ("precision", metrics.precision_score),
        ("recall", metrics.recall_score),
        ("f1", metrics.f1_score),
    ):
        assert found[name].value == pytest.approx(oracle(truth, predicted, sample_weight=weight))
    assert auc is not None
    assert auc.value == pytest.approx(metrics.roc_auc_score(truth, np.tile(MIDDLES, 4), sample_weight=weight))


def test_macro_metrics_are_those_of_weighted_events() -> None:
    """The same for three classes."""
    rng = np.random.default_rng(2)
    matrix = rng.uniform(1, 50, (3, 3))
    truth, predicted = (at.ravel() for at in np.indices((3, 3)))
    found = confusion_estimates(matrix, 1e9)
    for name, oracle in (
        ("precision_macro", metrics.precision_score),
        ("recall_macro", metrics.recall_score),
        ("f1_macro", metrics.f1_score),
    ):
        expected = oracle(truth, predicted, average="macro", sample_weight=matrix.ravel())
        assert found[name].value == pytest.approx(expected)


def test_what_labels_show_later_lies_in_the_intervals() -> None:
    """While the calibration holds, at least nine in ten realised values of 300 windows lie in their interval.

    The calibrator itself is learned from 2,000 labels, anew for each window.
    """
    rng = np.random.default_rng(3)
    p = MIDDLES**1.3
    inside = dict.fromkeys(("accuracy", "precision", "recall", "f1", "roc_auc"), 0)
    for _ in range(300):
        reference = rng.multinomial(2000, np.full(20, 0.05))
        hits = rng.binomial(reference, p)
        g = isotonic(reference - hits, hits, MIDDLES)
        seen = rng.multinomial(1000, np.full(20, 0.05))
        chosen = np.where(MIDDLES >= 0.5, seen, 0)
        found = confusion_estimates(expected_confusion(seen - chosen, chosen, g), 2000)
        auc = auc_estimate(seen * (1 - g), seen * g, 2000)
        assert auc is not None
        found["roc_auc"] = auc
        scores, good = np.repeat(MIDDLES, seen), rng.binomial(seen, p)
        truth = np.concatenate([np.repeat([1, 0], [k, n - k]) for k, n in zip(good, seen, strict=True)])
        predicted = (scores >= 0.5).astype(int)
        realised = {
            "accuracy": metrics.accuracy_score(truth, predicted),
            "precision": metrics.precision_score(truth, predicted),
            "recall": metrics.recall_score(truth, predicted),
            "f1": metrics.f1_score(truth, predicted),
            "roc_auc": metrics.roc_auc_score(truth, scores),
        }
        for name, value in realised.items():
            inside[name] += found[name].low <= value <= found[name].high
    assert min(inside.values()) >= 0.9 * 300, inside


def test_scores_unlike_the_references_are_told_from_chance() -> None:
    """Fresh events of the same scores are supported, however thin the reference; those beyond it are not."""
    rng = np.random.default_rng(4)
    shares = np.append(np.full(500, 0.8 / 500), np.full(100, 0.0))
    shares[:10] += 0.02
    for events in (300, 3000):
        reference = rng.multinomial(events, shares)
        assert unsupported(rng.multinomial(5000, shares), reference) < 0.05
        assert unsupported(rng.multinomial(5000, 0.5 * shares + 0.5 * shares[::-1]), reference) > 0.1
    assert unsupported(np.zeros(3), np.ones(3)) == 0.0


def test_a_mean_of_classes_has_the_mean_interval() -> None:
    """The classes' errors come from the same events: they are not averaged away."""
    one = auc_estimate(np.array([5.0, 1.0]), np.array([1.0, 5.0]), 100)
    assert one is not None
    assert macro([one, one]) == one
    assert auc_estimate(np.zeros(2), np.ones(2), 100) is None
