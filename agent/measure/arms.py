"""The arms of an experiment as sums, from the panes of their slices: all that a comparison needs."""

from __future__ import annotations

from agent.config import ModelConfig
from agent.events import Int64s
from agent.measure.layout import Layout
from agent.measure.reference import rate
from agent.measure.window import Sums
from detectors.experiment.lift import Arm

_OF_PREDICTIONS = ("error_rate", "selection_rate")
_OF_CLASSES = ("accuracy", "error_rate")
_BINARY = (
    *("precision", "recall", "specificity", "false_positive_rate", "false_negative_rate"),
    *("selection_rate", "prevalence"),
)


def comparable(model: ModelConfig) -> tuple[str, ...]:
    """Metrics of a model that are means of what single events say, so that arms can be compared by sums."""
    return (*_OF_CLASSES, *_BINARY) if model.task == "binary" else _OF_CLASSES


def arm(layout: Layout, sums: Sums, segment: str, metric: str) -> Arm:
    """One arm's n, sum and sum of squares of a metric; all 0 where nothing is known."""
    counts = (sums.predictions if metric in _OF_PREDICTIONS else sums.performance).get(segment)
    if counts is None:
        return Arm(0, 0, 0)
    yes, no = (
        _of_predictions(layout, counts, metric)
        if metric in _OF_PREDICTIONS
        else _of_labels(layout, counts, metric)
    )
    return Arm.of_rate(yes, yes + no)


def _of_predictions(layout: Layout, counts: Int64s, metric: str) -> tuple[int, int]:
    if metric == "error_rate":
        return int(counts[1]), int(counts[0] - counts[1])
    predicted = counts[layout.prediction["predicted"]]
    return int(predicted[-1]), int(predicted[:-1].sum())


def _of_labels(layout: Layout, counts: Int64s, metric: str) -> tuple[int, int]:
    confusion = counts[layout.performance["confusion"]]
    if metric == "false_negative_rate":
        return rate(confusion, "recall")[::-1]
    if metric == "prevalence":
        negative, positive = confusion.reshape(2, 2).sum(axis=1).tolist()
        return int(positive), int(negative)
    return rate(confusion, metric)
