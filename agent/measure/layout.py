"""Which cell of a pane counts what: the frozen layout of one model's vectors.

A pane of one slice is one vector of int64 counts. The prediction part is complete when the pane closes; the
performance part grows as labels arrive. Reals are kept in fixed point (FIXED units per 1.0).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from agent.config import ModelConfig
from agent.ingest.convert import canonical_class
from agent.measure.bins import LATENCY_BINS, SCORE_BINS

FIXED = 1 << 24
"""Fixed-point units per 1.0: rounding 3e-8 a value; a log loss of at most 64 leaves room for 8e9 events."""
LOSS_CLIP = 2.220446049250313e-16
"""Probabilities are clipped to [LOSS_CLIP, 1 - LOSS_CLIP] for the log loss."""


@dataclass(frozen=True)
class FeatureBins:
    """The frozen bins of one feature. Bins: the ranges or categories, then unseen, missing, invalid."""

    name: str
    kind: str
    edges: tuple[float, ...] = ()
    """Numeric: inner edges; the first and the last range lie outside the reference."""
    categories: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return self.unseen + 3

    @property
    def unseen(self) -> int:
        """Bin of a category the baseline has not (numeric features: always empty)."""
        return len(self.edges) + 1 if self.kind == "numeric" else len(self.categories)

    @property
    def missing(self) -> int:
        return self.unseen + 1

    @property
    def invalid(self) -> int:
        return self.unseen + 2


def class_names(model: ModelConfig) -> tuple[str, ...]:
    """The classes in the order of the confusion matrix; for binary the positive one is last."""
    names = tuple(canonical_class(name) for name in model.classes or ())
    positive = canonical_class(model.positive) if model.positive else None
    if names:
        return names[::-1] if model.task == "binary" and positive == names[0] else names
    return (f"not {positive}", positive) if positive else ("0", "1")


class Part:
    """Named stretches of a vector: `part["score"]` is a slice."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.names = tuple(sizes)
        self._slices: dict[str, slice] = {}
        self.width = 0
        for name, size in sizes.items():
            self._slices[name] = slice(self.width, self.width + size)
            self.width += size

    def __getitem__(self, name: str) -> slice:
        return self._slices[name]

    def start(self, name: str) -> int:
        return int(self._slices[name].start)


@dataclass(frozen=True)
class Layout:
    """The cells of one model."""

    task: str
    classes: tuple[str, ...]
    features: tuple[FeatureBins, ...] = ()

    @classmethod
    def of(cls, model: ModelConfig, features: tuple[FeatureBins, ...] = ()) -> Layout:
        """The layout of a model; features without frozen bins are counted as present, missing or invalid."""
        known = {feature.name for feature in features}
        plain = tuple(FeatureBins(name, kind) for name, kind in model.features.items() if name not in known)
        return cls(model.task, class_names(model), features + plain)

    @cached_property
    def prediction(self) -> Part:
        """Counts that need no label. A slice of a minute has them up to `features` only."""
        return Part(
            {
                "predictions": 1,
                "errors": 1,
                "latency_us": 1,
                "predicted": len(self.classes),
                "score": SCORE_BINS,
                "latency": LATENCY_BINS,
                "features": sum(feature.size for feature in self.features),
            }
        )

    @cached_property
    def performance(self) -> Part:
        """Counts of labelled predictions; `by_label`: per scored class, score bins of others and of it."""
        n = len(self.classes)
        return Part(
            {
                "labelled": 1,
                "confusion": n * n,  # row: true class, column: predicted class
                "scored": 1,
                "log_loss": 1,
                "brier": 1,
                "by_label": self.score_columns * 2 * SCORE_BINS,
            }
        )

    @property
    def score_columns(self) -> int:
        """Scores kept per prediction: the positive's for binary, one per class otherwise."""
        return 1 if self.task == "binary" else len(self.classes)

    @cached_property
    def feature_slices(self) -> dict[str, slice]:
        """Where each feature's bins lie in the prediction part."""
        at = self.prediction.start("features")
        found = {}
        for feature in self.features:
            found[feature.name] = slice(at, at + feature.size)
            at += feature.size
        return found

    @cached_property
    def version(self) -> str:
        """Fingerprint of all that gives a cell its meaning; vectors of different versions are never added."""
        text = repr((self.task, self.classes, self.features, SCORE_BINS, LATENCY_BINS, FIXED))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def empty_prediction(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.zeros(self.prediction.width, dtype=np.int64)

    def empty_performance(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.zeros(self.performance.width, dtype=np.int64)
