"""Metrics from sums of panes. River does the arithmetic of the confusion matrix, one weighted update a cell.

Every value carries its own denominator n; one that is undefined or has too small a denominator is left out.
Source: River's metrics take sample weights, so that w = count gives exactly what count single updates give.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from river import metrics as river

from agent.events import Int64s
from agent.measure.bins import SCORE_BINS
from agent.measure.layout import FIXED, Layout


class Value(NamedTuple):
    """A metric and its denominator."""

    value: float
    n: int


def prediction_metrics(layout: Layout, counts: Int64s) -> dict[str, Value]:
    """What needs no label: error rate, mean latency, selection rate (binary)."""
    part = layout.prediction
    total, errors = int(counts[part.start("predictions")]), int(counts[part.start("errors")])
    timed = int(counts[part["latency"]].sum())
    found = {
        "error_rate": _ratio(errors, total),
        "mean_latency_seconds": _ratio(int(counts[part.start("latency_us")]) / 1e6, timed),
    }
    predicted = counts[part["predicted"]]
    if layout.task == "binary":
        found["selection_rate"] = _ratio(int(predicted[-1]), int(predicted.sum()))
    return {name: value for name, value in found.items() if value is not None}


def performance_metrics(layout: Layout, counts: Int64s, min_samples: int) -> dict[str, Value]:
    """Everything that needs labels, with denominators of at least `min_samples`."""
    part, k = layout.performance, len(layout.classes)
    matrix = counts[part["confusion"]].reshape(k, k)
    named = _binary if layout.task == "binary" else _multiclass
    found = dict(named(matrix, layout))
    if layout.task == "binary":
        (tn, fp), (fn, tp) = matrix.tolist()
        total = int(matrix.sum())
        for name, count in (
            ("true_negatives", tn),
            ("false_positives", fp),
            ("false_negatives", fn),
            ("true_positives", tp),
        ):
            found[name] = Value(count, total)
    scored = int(counts[part.start("scored")])
    for name in ("log_loss", "brier"):
        found[name] = Value(int(counts[part.start(name)]) / FIXED / max(1, scored), scored)
    found.update(_auc(layout, counts))
    return {name: value for name, value in found.items() if value.n >= min_samples}


def _binary(matrix: Int64s, layout: Layout) -> Iterator[tuple[str, Value]]:
    cm = _confusion(matrix)
    (tn, fp), (fn, tp) = matrix.tolist()
    total, positives, negatives, chosen = tn + fp + fn + tp, fn + tp, tn + fp, fp + tp
    if total:
        yield "accuracy", Value(_get(river.Accuracy, cm), total)
        yield "majority_class_rate", Value(max(positives, negatives) / total, total)
        yield "prevalence", Value(positives / total, total)
    if positives and negatives:
        yield "balanced_accuracy", Value(_get(river.BalancedAccuracy, cm), total)
        if chosen and total - chosen:
            yield "matthews_correlation", Value(_get(river.MCC, cm, pos_val=1), total)
    if chosen:
        yield "precision", Value(_get(river.Precision, cm, pos_val=1), chosen)
    if positives:
        recall = _get(river.Recall, cm, pos_val=1)
        yield "recall", Value(recall, positives)
        yield "false_negative_rate", Value(1 - recall, positives)
    if positives + chosen:
        yield "f1", Value(_get(river.F1, cm, pos_val=1), tp + fp + fn)
    if negatives:
        specificity = _get(river.Recall, cm, pos_val=0)
        yield "specificity", Value(specificity, negatives)
        yield "false_positive_rate", Value(1 - specificity, negatives)


def _multiclass(matrix: Int64s, layout: Layout) -> Iterator[tuple[str, Value]]:
    cm = _confusion(matrix)
    total = int(matrix.sum())
    if not total:
        return
    yield "accuracy", Value(_get(river.Accuracy, cm), total)
    yield "balanced_accuracy", Value(_get(river.BalancedAccuracy, cm), total)
    yield "majority_class_rate", Value(float(matrix.sum(axis=1).max() / total), total)
    averages = {
        "precision": (river.MacroPrecision, river.WeightedPrecision),
        "recall": (river.MacroRecall, river.WeightedRecall),
        "f1": (river.MacroF1, river.WeightedF1),
    }
    for name, (macro, weighted) in averages.items():
        yield f"{name}_macro", Value(_get(macro, cm), total)
        yield f"{name}_weighted", Value(_get(weighted, cm), total)
    true, predicted = matrix.sum(axis=1).tolist(), matrix.sum(axis=0).tolist()
    for i, label in enumerate(layout.classes):
        if predicted[i]:
            yield f"precision:{label}", Value(_get(river.Precision, cm, pos_val=i), predicted[i])
        if true[i]:
            yield f"recall:{label}", Value(_get(river.Recall, cm, pos_val=i), true[i])
        if true[i] + predicted[i]:
            n = true[i] + predicted[i] - int(matrix[i, i])
            yield f"f1:{label}", Value(_get(river.F1, cm, pos_val=i), n)
        others = total - true[i]
        if others:
            wrong = predicted[i] - int(matrix[i, i])
            yield f"false_positive_rate:{label}", Value(wrong / others, others)
            yield f"specificity:{label}", Value(1 - wrong / others, others)


def _get(metric: Any, cm: Any, **options: int) -> float:  # noqa: ANN401 - River is not typed here
    return float(metric(cm=cm, **options).get())


def _confusion(matrix: Int64s) -> Any:  # noqa: ANN401
    made: Any = river.ConfusionMatrix
    cm = made()
    for true, row in enumerate(matrix.tolist()):
        for predicted, count in enumerate(row):
            if count:
                cm.update(true, predicted, w=count)
    return cm


def _auc(layout: Layout, counts: Int64s) -> Iterator[tuple[str, Value]]:
    """ROC AUC from the score histogram by label; ties within a bin count half (Hanley and McNeil, 1982)."""
    held = counts[layout.performance["by_label"]].reshape(layout.score_columns, 2, SCORE_BINS)
    aucs = []
    for column in range(layout.score_columns):
        negative, positive = held[column, 0].astype(np.float64), held[column, 1].astype(np.float64)
        if negative.sum() and positive.sum():
            below = np.cumsum(negative) - negative / 2
            aucs.append(float((positive * below).sum() / (positive.sum() * negative.sum())))
    n = int(held[0].sum())
    if layout.task == "binary" and aucs:
        yield "roc_auc", Value(aucs[0], n)
    elif len(aucs) == layout.score_columns and aucs:
        yield "roc_auc_macro", Value(float(np.mean(aucs)), n)


def _ratio(part: float, whole: int) -> Value | None:
    return Value(part / whole, whole) if whole else None
