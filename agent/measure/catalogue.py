"""Every metric there is, said once: /metrics, the page, the command `schema metrics` and the docs read it.

One that is computed and not in here, or in here and not computed, fails a test.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from agent.config import ConstraintConfig

Layer = Literal["model", "product", "business"]
Task = Literal["binary", "multiclass"]
Unit = Literal["share", "seconds", "count", "nats", "plain"]
"""share: 0 to 1; plain: a number without unit."""
Direction = Literal["higher", "lower", "neither"]
"""Which way is better."""

EXACT = "exact"
FIXED_POINT = "each value to 1/2^24: a mean is off by at most 3e-8"
BINNED = "score bins: off by at most 0.002"
_PAGES = frozenset(get_args(ConstraintConfig.model_fields["metric"].annotation))


@dataclass(frozen=True, slots=True)
class Row:
    """One metric, as people read of it."""

    id: str
    name: str
    layer: Layer
    tasks: tuple[Task, ...]
    unit: Unit
    direction: Direction
    definition: str
    fields: tuple[str, ...]
    """Event fields without which it is not computed."""
    rounding: str = EXACT
    memory: str = "classes² counts, shared"
    """What a pane of one slice holds for it."""
    per_class: bool = False
    """Several classes have one value each, `recall:CLASS`; on /metrics `plumbline_class_recall`."""

    @property
    def pages(self) -> bool:
        """Can a red line be drawn on it?"""
        return self.id in _PAGES


_BINARY: tuple[Task, ...] = ("binary",)
_SEVERAL: tuple[Task, ...] = ("multiclass",)
_BOTH: tuple[Task, ...] = ("binary", "multiclass")
_ANSWER = "prediction | prediction_score"
_SCORE = "prediction_score"


def _rate(
    id_: str, direction: Direction, definition: str, tasks: tuple[Task, ...] = _BOTH, *, each: bool = False
) -> Row:
    return Row(
        id_, _words(id_), "model", tasks, "share", direction, definition, (_ANSWER, "label"), per_class=each
    )


def _cell(id_: str, direction: Direction, definition: str) -> Row:
    return Row(id_, _words(id_), "model", _BINARY, "count", direction, definition, (_ANSWER, "label"))


def _words(id_: str) -> str:
    return id_.replace("_", " ")


CATALOGUE: dict[str, Row] = {
    row.id: row
    for row in (
        _rate("accuracy", "higher", "Share of predictions that are right."),
        _rate("balanced_accuracy", "higher", "Mean recall of the classes."),
        _rate("majority_class_rate", "neither", "Accuracy of always predicting the most frequent class."),
        _rate("prevalence", "neither", "Share of labels that are positive.", _BINARY),
        _rate("precision", "higher", "Share of positive predictions that are right.", each=True),
        _rate("recall", "higher", "Share of positives that are found.", each=True),
        _rate("f1", "higher", "Harmonic mean of precision and recall.", each=True),
        _rate("specificity", "higher", "Share of negatives that are found.", each=True),
        _rate("false_positive_rate", "lower", "Share of negatives that are predicted positive.", each=True),
        _rate("false_negative_rate", "lower", "Share of positives that are predicted negative.", _BINARY),
        _rate("precision_macro", "higher", "Mean precision of the classes.", _SEVERAL),
        _rate(
            "precision_weighted",
            "higher",
            "Mean precision of the classes, weighted by their frequency.",
            _SEVERAL,
        ),
        _rate("recall_macro", "higher", "Mean recall of the classes.", _SEVERAL),
        _rate(
            "recall_weighted", "higher", "Mean recall of the classes, weighted by their frequency.", _SEVERAL
        ),
        _rate("f1_macro", "higher", "Mean F1 of the classes.", _SEVERAL),
        _rate("f1_weighted", "higher", "Mean F1 of the classes, weighted by their frequency.", _SEVERAL),
        Row(
            "matthews_correlation",
            "Matthews correlation",
            "model",
            _BINARY,
            "plain",
            "higher",
            "Matthews correlation coefficient, -1 to 1.",
            (_ANSWER, "label"),
        ),
        _cell("true_positives", "neither", "Positives predicted positive, in the window."),
        _cell("true_negatives", "neither", "Negatives predicted negative, in the window."),
        _cell("false_positives", "lower", "Negatives predicted positive, in the window."),
        _cell("false_negatives", "lower", "Positives predicted negative, in the window."),
        Row(
            "roc_auc",
            "ROC AUC",
            "model",
            _BINARY,
            "plain",
            "higher",
            "Area under the ROC curve.",
            (_SCORE, "label"),
            BINNED,
            "2 score histograms, shared",
        ),
        Row(
            "roc_auc_macro",
            "macro ROC AUC",
            "model",
            _SEVERAL,
            "plain",
            "higher",
            "Mean area under the ROC curves of each class against the rest.",
            ("prediction_probabilities", "label"),
            BINNED,
            "2 score histograms per class",
        ),
        Row(
            "log_loss",
            "log loss",
            "model",
            _BOTH,
            "nats",
            "lower",
            "Mean negative log-likelihood of the labels in nats.",
            (_SCORE, "label"),
            FIXED_POINT,
            "1 sum",
        ),
        Row(
            "brier",
            "Brier score",
            "model",
            _BOTH,
            "plain",
            "lower",
            "Mean squared error of the predicted probability.",
            (_SCORE, "label"),
            FIXED_POINT,
            "1 sum",
        ),
        Row(
            "selection_rate",
            "selection rate",
            "model",
            _BINARY,
            "share",
            "neither",
            "Share of predictions that are positive.",
            (_ANSWER,),
            memory="1 count per class",
        ),
        Row(
            "label_coverage",
            "label coverage",
            "model",
            _BOTH,
            "share",
            "higher",
            "Share of predictions that have their label.",
            ("label",),
            memory="1 count",
        ),
        Row(
            "error_rate",
            "error rate",
            "product",
            _BOTH,
            "share",
            "lower",
            "Share of requests that the model answered with an error.",
            ("error",),
            memory="2 counts",
        ),
        Row(
            "mean_latency_seconds",
            "mean latency",
            "product",
            _BOTH,
            "seconds",
            "lower",
            "Mean latency of the model's answers.",
            ("latency_seconds",),
            "each value to 1 µs",
            "1 sum and the latency histogram",
        ),
    )
}
"""By id."""

LOWER_IS_BETTER = frozenset(row.id for row in CATALOGUE.values() if row.direction == "lower")


def row_of(metric: str) -> Row | None:
    """The row of a metric, or of the metric of one class; None for what no catalogue can know."""
    return CATALOGUE.get(metric.partition(":")[0])


def definition(metric: str) -> str:
    """What a metric means, as one sentence; empty where the catalogue does not know it."""
    row = row_of(metric)
    return row.definition if row else ""


def document() -> dict[str, Any]:
    """The catalogue as JSON."""
    return {"metrics": [{**asdict(row), "pages": row.pages} for row in CATALOGUE.values()]}


def markdown() -> str:
    """The catalogue as a page of the documentation."""
    lines = [
        "# Metrics",
        "",
        "Written by `make metrics` from `agent/measure/catalogue.py`; `plumbline schema metrics` prints it",
        "as JSON. On /metrics the series of an id is `plumbline_ID`, of one class `plumbline_class_ID`. A",
        "value whose own denominator is below `min_samples` is left out. Counts are 64-bit integers, so that",
        '"exact" is exact: sums of panes are the same whatever was merged with what, and in which order.',
    ]
    for layer in get_args(Layer):
        rows = [row for row in CATALOGUE.values() if row.layer == layer]
        if rows:
            lines += ["", f"## {layer.capitalize()} layer", "", *_table(rows)]
    return "\n".join([*lines, ""])


def _table(rows: list[Row]) -> list[str]:
    head = ("id", "definition", "task", "unit", "better", "needs", "rounding", "memory per slice", "pages")
    told = [
        (
            f"`{row.id}`" + (", per class" if row.per_class else ""),
            row.definition,
            ", ".join(row.tasks),
            row.unit,
            row.direction,
            ", ".join(f"`{field}`" for field in row.fields),
            row.rounding,
            row.memory,
            "yes" if row.pages else "no",
        )
        for row in rows
    ]
    lines = [head, ("---",) * len(head), *told]
    return [f"| {' | '.join(cell.replace(' | ', ' or ') for cell in line)} |" for line in lines]


if __name__ == "__main__":
    sys.stdout.write(markdown())
