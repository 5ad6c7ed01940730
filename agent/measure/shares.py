"""Which cells of a pane each monitor of predictions gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.events import Int64s
from agent.measure.reference import Reference, regroup
from detectors import (
    ErrorSurge,
    InvalidSurge,
    MissingSurge,
    OverconfidentPredictions,
    SlowAnswers,
    UnseenSurge,
)
from detectors.rate import Surge

SCORE, PREDICTION, LABEL = "score", "prediction", "label"
"""Feature names of the drift monitors of the model's own output, and of the truth."""


def output(reference: Reference, feature: str, counts: Int64s) -> Int64s:
    """The histogram in which drift of a feature, the score or the prediction is sought."""
    if feature == SCORE:
        return regroup(reference.part("score", counts), reference.score_groups)
    if feature == PREDICTION:
        return reference.part("predicted", counts)
    return counts[reference.layout.feature_slices[feature]][
        :-2
    ]  # missing and invalid have monitors of their own


def truths(confusion: Int64s) -> Int64s:
    """Labelled predictions by their true class."""
    return np.asarray(confusion.reshape(int(len(confusion) ** 0.5), -1).sum(axis=1))


def confidence(reference: Reference, counts: Int64s) -> Int64s:
    """(at least, less) confident than the reference's median prediction."""
    return _split(reference.part("score", counts), reference.confident)


def _certain(reference: Reference, feature: str, counts: Int64s) -> Int64s:
    return _split(reference.part("score", counts), reference.certain)


def _slow(reference: Reference, feature: str, counts: Int64s) -> Int64s:
    return _split(reference.part("latency", counts), reference.slow)


def _errors(reference: Reference, feature: str, counts: Int64s) -> Int64s:
    return np.array([counts[1], counts[0] - counts[1]], dtype=np.int64)


def _missing(reference: Reference, feature: str, counts: Int64s) -> Int64s:
    *held, missing, invalid = counts[reference.layout.feature_slices[feature]].tolist()
    return np.array([missing, sum(held) + invalid], dtype=np.int64)


def _invalid(reference: Reference, feature: str, counts: Int64s) -> Int64s:
    *held, missing, invalid = counts[reference.layout.feature_slices[feature]].tolist()
    return np.array([invalid, sum(held) + missing], dtype=np.int64)


def _unseen(reference: Reference, feature: str, counts: Int64s) -> Int64s:
    *held, unseen, _, _ = counts[reference.layout.feature_slices[feature]].tolist()
    return np.array([unseen, sum(held)], dtype=np.int64)


def _split(counts: Int64s, mask: NDArray[np.bool_]) -> Int64s:
    """Sums inside and outside of a mask."""
    return np.array([counts[mask].sum(), counts[~mask].sum()], dtype=np.int64)


class SurgeOf(NamedTuple):
    """A share that must not rise: how it is counted, and the key of `silence` that says how far it may."""

    detector: type[Surge]
    counts: Callable[[Reference, str, Int64s], Int64s]
    tolerated: str


SURGES = {
    surge.detector.name: surge
    for surge in (
        SurgeOf(ErrorSurge, _errors, "tolerated_error_rise"),
        SurgeOf(MissingSurge, _missing, "tolerated_missing_rise"),
        SurgeOf(InvalidSurge, _invalid, "tolerated_invalid_rise"),
        SurgeOf(UnseenSurge, _unseen, "tolerated_unseen_rise"),
        SurgeOf(OverconfidentPredictions, _certain, "tolerated_certain_rise"),
        SurgeOf(SlowAnswers, _slow, "tolerated_slow_rise"),
    )
}


def watched(reference: Reference) -> list[tuple[str, str]]:
    """(detector, feature) of every such share that this reference lets judge."""
    found = [(ErrorSurge.name, "")]
    for feature in reference.layout.features:
        found.append((MissingSurge.name, feature.name))
        if feature.kind == "numeric":
            found.append((InvalidSurge.name, feature.name))
        elif feature.categories:
            found.append((UnseenSurge.name, feature.name))
    if reference.part("score").sum() > 0:
        found.append((OverconfidentPredictions.name, ""))
    if reference.part("latency").sum() > 0:
        found.append((SlowAnswers.name, ""))
    return found
