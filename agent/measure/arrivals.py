"""When labels used to come: the age by which a cohort of predictions should be labelled, learned once.

The first matured hours of a model say what share of their labels had come by each age. The usual age is the
youngest at which nine in ten of all labels were there, and half of those of the slowest hour: where labels
come once a night, it is a day. Every later hour is held against it when it reaches that age, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from agent.events import Int64s
from agent.measure.pane import AGE_EDGES_MS, HOUR, HOUR_MS, PREDICTIONS, PaneKey, Panes

LEARN_HOURS, LEARN_LABELS = 24, 500


class Arrivals:
    """The labels of one model, all versions together, by the age at which they came."""

    def __init__(self) -> None:
        self._answered = 0
        self._labelled = np.zeros(len(AGE_EDGES_MS), dtype=np.int64)
        """By age, and younger, over the learned hours."""
        self._slowest = [1.0] * len(AGE_EDGES_MS)
        """Least share of an hour's labels that had come by each age."""
        self._hours = 0
        self.usual: int | None = None
        """Index of the usual age; None while it is learned."""
        self._next_ms = 0

    def learn(self, when_ms: int, predictions: Int64s | None, by_age: Mapping[int, int]) -> None:
        """Take in an hour that matured, with its labels by age; the usual age is never learned anew."""
        total = sum(by_age.values())
        if self.usual is not None or predictions is None or not total:
            return
        came = np.zeros(len(AGE_EDGES_MS), dtype=np.int64)
        for age, labels in by_age.items():
            came[age] += labels
        came = np.cumsum(came)
        self._answered += int(predictions[0] - predictions[1])
        self._labelled += came
        self._slowest = np.minimum(self._slowest, came / total).tolist()
        self._hours += 1
        if self._hours < LEARN_HOURS or self._labelled[-1] < LEARN_LABELS:
            return
        usual = (self._labelled >= 0.9 * self._labelled[-1]) & (np.array(self._slowest) >= 0.5)
        self.usual = int(np.argmax(usual))
        self._next_ms = when_ms - HOUR_MS - int(AGE_EDGES_MS[self.usual]) + 1

    @property
    def reference(self) -> tuple[int, int]:
        """(labelled by the usual age, not labelled) of the hours it was learned from."""
        labelled = int(self._labelled[self.usual or 0])
        return labelled, self._answered - labelled

    def due(self, panes: Panes, until_ms: int) -> list[tuple[int, int, Int64s]]:
        """Hours that reached the usual age: (when, start, [labelled, not labelled]); each is told once."""
        found: list[tuple[int, int, Int64s]] = []
        if self.usual is None:
            return found
        age_ms = HOUR_MS + int(AGE_EDGES_MS[self.usual])
        for start in panes.starts(HOUR):
            if start >= self._next_ms and start + age_ms <= until_ms:
                self._next_ms = start + 1
                answered, labelled = 0, 0
                for key in panes.at(HOUR, start):
                    if key.segment == "" and key.age <= self.usual and (held := panes.get(key)) is not None:
                        if key.age == PREDICTIONS:
                            answered += int(held[0] - held[1])
                        else:
                            labelled += int(held[0])
                if answered:
                    seen = np.array([labelled, max(0, answered - labelled)], dtype=np.int64)
                    found.append((start + age_ms, start, seen))
        return found

    def state(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {
            "answered": self._answered,
            "labelled": self._labelled.tolist(),
            "slowest": self._slowest,
            "hours": self._hours,
            "usual": self.usual,
            "next_ms": self._next_ms,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self._answered, self._hours = state["answered"], state["hours"]
        self._labelled = np.array(state["labelled"], dtype=np.int64)
        self._slowest = list(state["slowest"])
        self.usual, self._next_ms = state["usual"], state["next_ms"]


def labels_by_age(panes: Panes, version: str, start: int, age: int) -> tuple[Int64s | None, dict[int, int]]:
    """An hour's predictions, and its labels by the age at which they came, up to an age."""
    by_age = {}
    for key in panes.at(HOUR, start):
        if key.version == version and key.segment == "" and PREDICTIONS < key.age <= age:
            held = panes.get(key)
            by_age[key.age] = 0 if held is None else int(held[0])
    return panes.get(PaneKey(version, HOUR, start, PREDICTIONS, "")), by_age
