"""The label join against one that holds everything in dictionaries and looks at one event at a time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import ModelConfig
from agent.measure.models import Models
from agent.measure.pane import HOUR as HOUR_TIER
from agent.measure.pane import LIFETIME, PaneKey, age_index
from agent.measure.pane import PREDICTIONS as UNLABELLED
from tests.measure.events import (
    FEEDBACK,
    HOUR,
    MINUTE,
    PREDICTIONS,
    T0,
    Event,
    apply,
    config_of,
    label,
    prediction,
)

LATENESS, HORIZON = 10 * MINUTE, 4 * HOUR
CONFIG = config_of(
    a=ModelConfig.model_validate(
        {"classes": ["no", "yes"], "segments": ["group"], "allowed_lateness": "10m", "label_horizon": "4h"}
    ),
    b=ModelConfig.model_validate(
        {"classes": ["no", "yes"], "segments": ["group"], "allowed_lateness": "10m", "label_horizon": "4h"}
    ),
)
CODES = {"no": 0, "yes": 1}

Cells = Counter[tuple[str, str, int, int, str, str, str | None]]
"""(model, version, hour, label age index, slice, truth, predicted) → events"""


@dataclass
class Held:
    """A prediction that counted, and the label it holds."""

    model: str
    version: str
    at: int
    predicted: str | None
    group: str | None
    label: object = "nothing"
    rank: tuple[int, int] = (-1, -1)


class Oracle:
    """Reads all predictions, then all feedback, one by one: what should have been counted."""

    def __init__(self) -> None:
        self.held: list[Held] = []
        self.records: Counter[str] = Counter()
        self.labels: Counter[str] = Counter()
        self.cells: Cells = Counter()
        self.newest: dict[str, int] = {}
        self.fed: int | None = None
        self.read: set[tuple[object, ...]] = set()

    def predict(self, event: Event) -> None:
        name, at = event["model_name"], event["timestamp"]
        if name not in CONFIG.models:
            self.records["ignored"] += 1
            return
        newest_any = max(self.newest.get("any", at), at)
        oldest = self.newest["any"] - HORIZON if "any" in self.newest else None
        self.newest["any"] = newest_any
        if event["prediction"] not in CODES:
            self.records["dead"] += 1
            return
        known = self.newest.get(name)
        late = (known is not None and at < known - LATENESS) or (oldest is not None and at < oldest)
        self.newest[name] = max(known if known is not None else at, at)
        identity = (name, event["model_version"], event["prediction_id"])
        if late:
            self.records["late"] += 1
        elif any(i == identity and abs(h.at - at) <= HORIZON for i, h in self.by_identity):
            self.records["duplicate"] += 1
        else:
            self.records["merged"] += 1
            held = Held(name, event["model_version"], at, event["prediction"], event["tags"]["group"])
            self.by_identity.append((identity, held))

    by_identity: list[tuple[tuple[str, str, str], Held]]

    def feed(self, event: Event) -> None:
        name, at, value = event.get("model_name"), event["timestamp"], event["label"]
        if name is not None and name not in CONFIG.models:
            self.records["ignored"] += 1
            return
        watermark = None if self.fed is None else self.fed - LATENESS
        self.fed = at if self.fed is None else max(self.fed, at)
        identity = (event["prediction_id"], at, event.get("revision", 0), value, name)
        if identity in self.read and (watermark is None or at >= watermark - 2 * LATENESS - MINUTE):
            self.records["label duplicate"] += 1
            self.labels["duplicate"] += 1
            return
        self.read.add(identity)
        self.records["label merged"] += 1
        effective = at if watermark is None else max(at, watermark)
        fate = None
        for (model, _, id_), held in self.by_identity:
            if id_ != event["prediction_id"] or name not in (None, model):
                continue
            if at < held.at - LATENESS or effective - held.at > HORIZON:
                continue
            found = self.meet(held, value, (event.get("revision", 0), at), effective)
            fate = fate or found
        self.labels[fate or "unmatched"] += 1

    def meet(self, held: Held, value: object, rank: tuple[int, int], effective: int) -> str:
        # A class the model does not know takes the label away like a retraction, whatever its name.
        value = value if value in CODES or value is None else "stranger"
        same, newer = value == held.label, rank > held.rank
        if newer:
            if not same:
                self.count(held, effective, -1)
            held.rank = rank
            if not same:
                held.label = value
                self.count(held, effective, +1)
        return "duplicate" if same else "matched" if newer else "superseded"

    def count(self, held: Held, effective: int, sign: int) -> None:
        if held.label not in CODES:
            return
        hour = held.at // HOUR * HOUR
        age = int(age_index(np.array([effective - hour - HOUR]))[0])
        for segment in ("", *([f"group={held.group}"] if held.group else [])):
            self.cells[held.model, held.version, hour, age, segment, str(held.label), held.predicted] += sign


def oracle(predictions: list[Event], feedback: list[Event]) -> Oracle:
    found = Oracle()
    found.by_identity = []
    for event in predictions:
        found.predict(event)
    for event in feedback:
        found.feed(event)
    return found


def cells(models: Models) -> Cells:
    """The confusion counts of every hour pane."""
    found: Cells = Counter()
    for name, model in models.models.items():
        where = model.layout.performance["confusion"]
        for key in model.panes.keys():  # noqa: SIM118
            vector = model.panes.get(key)
            if key.tier == HOUR_TIER and key.age != UNLABELLED and vector is not None:
                for i, n in enumerate(vector[where].tolist()):
                    truth, predicted = model.layout.classes[i // 2], model.layout.classes[i % 2]
                    found[name, key.version, key.start_ms, key.age, key.segment, truth, predicted] += n
    return Counter({cell: n for cell, n in found.items() if n})


def events(seed: int, n: int = 60) -> tuple[list[Event], list[Event]]:
    """Predictions and feedback in reading order, of every fate."""
    rng = random.Random(seed)
    predictions: list[tuple[float, Event]] = []
    feedback: list[tuple[float, Event]] = []
    for i in range(n):
        at = T0 + rng.randrange(3 * HOUR)
        for name in rng.choice([["a"], ["b"], ["a", "b"], ["a", "stranger"]]):
            for version in rng.choice([["1"], ["2"], ["1", "2"]]):
                mine = at + rng.choice([0, 0, rng.randrange(6 * HOUR)])
                value = rng.choice(
                    ["no", "yes", "yes", "no", "no", "what"] if rng.random() < 0.2 else ["no", "yes"]
                )
                group = rng.choice(["x", "y", None])
                event = prediction(
                    i, mine, name, model_version=version, prediction=value, tags={"group": group}
                )
                for _ in range(rng.choice([1, 1, 1, 2])):
                    predictions.append((mine + rng.expovariate(1 / (5 * MINUTE)), event))
        for _ in range(rng.choice([0, 1, 1, 2, 3])):
            when = at + rng.choice(
                [rng.randrange(-HOUR, HOUR), rng.randrange(3 * HOUR), rng.randrange(7 * HOUR)]
            )
            given_ = label(i, when, rng.choice(["no", "yes", "yes", None, "what", "else"]))
            if rng.random() < 0.3:
                given_["revision"] = rng.randrange(3)
            if rng.random() < 0.5:
                given_["model_name"] = rng.choice(["a", "a", "b", "stranger"])
            for _ in range(rng.choice([1, 1, 1, 2])):
                feedback.append((when + rng.expovariate(1 / (20 * MINUTE)), given_))
    predictions.sort(key=lambda pair: pair[0])
    feedback.sort(key=lambda pair: pair[0])
    return [e for _, e in predictions], [e for _, e in feedback]


def forget(models: Models) -> None:
    """What the pipeline does after a batch, with both partitions assigned."""
    fed = models.feedback_clock.low(frozenset([FEEDBACK]))
    marks = {}
    for name, model in models.models.items():
        low = model.clock.low(frozenset([PREDICTIONS]))
        marks[name] = (low, min(low, fed))
    models.forget(marks)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_the_join_equals_one_of_dictionaries(seed: int) -> None:
    """In any reading order and batches every label and every pane cell ends as the oracle's."""
    predictions, feedback = events(seed)
    expected = oracle(predictions, feedback)
    rng = random.Random(seed)
    models, records = Models(CONFIG.models, {}), Counter[str]()
    at = {PREDICTIONS: 0, FEEDBACK: 0}
    logs = {PREDICTIONS: predictions, FEEDBACK: feedback}
    while left := [p for p, log in logs.items() if at[p] < len(log)]:
        partition = rng.choice(left)
        batch = logs[partition][at[partition] : at[partition] + rng.choice([1, 3, 20, 200])]
        done = apply(models, CONFIG, partition, batch, at[partition])
        prefix = "" if partition == PREDICTIONS else "label "
        records.update({f"{prefix}merged": done.merged, f"{prefix}duplicate": done.duplicate})
        records.update({"late": done.late, "ignored": done.ignored, "dead": len(done.unknown_class)})
        at[partition] += len(batch)
        forget(models)
    assert +records == +expected.records
    assert cells(models) == Counter({cell: n for cell, n in expected.cells.items() if n})
    told = {fate: models.counts[f"labels_{fate}"] for fate in ("matched", "duplicate", "superseded")}
    assert told == {fate: expected.labels[fate] for fate in told}
    assert models.counts["labels_orphan"] + models.labels_waiting == expected.labels["unmatched"]
    joined = Counter(held.model for _, held in expected.by_identity if held.label in CODES)
    for name, model in models.models.items():
        assert model.join.counts["joined"] == joined[name]


STORIES: Mapping[str, tuple[list[Event], dict[str, int], dict[tuple[str, str], int]]] = {
    "a label": ([label(1, T0 + HOUR, "yes")], {"matched": 1}, {("yes", "yes"): 1}),
    "a label before its prediction": (
        [label(1, T0 - 5 * MINUTE, "yes")],
        {"matched": 1},
        {("yes", "yes"): 1},
    ),
    "a label long before its prediction": ([label(1, T0 - HOUR, "yes")], {"orphan": 1}, {}),
    "the same record twice": (
        [label(1, T0 + HOUR, "yes")] * 2,
        {"matched": 1, "duplicate": 1},
        {("yes", "yes"): 1},
    ),
    "the same word again later": (
        [label(1, T0 + HOUR, "yes"), label(1, T0 + 2 * HOUR, "yes")],
        {"matched": 1, "duplicate": 1},
        {("yes", "yes"): 1},
    ),
    "a correction by time": (
        [label(1, T0 + HOUR, "yes"), label(1, T0 + 2 * HOUR, "no")],
        {"matched": 2},
        {("no", "yes"): 1},
    ),
    "an older word read later": (
        [label(1, T0 + HOUR + 1, "yes"), label(1, T0 + HOUR, "no")],
        {"matched": 1, "superseded": 1},
        {("yes", "yes"): 1},
    ),
    "a correction by revision": (
        [label(1, T0 + HOUR, "yes", revision=1), label(1, T0 + HOUR, "no", revision=2)],
        {"matched": 2},
        {("no", "yes"): 1},
    ),
    "a lower revision later": (
        [label(1, T0 + HOUR, "yes", revision=2), label(1, T0 + 2 * HOUR, "no", revision=1)],
        {"matched": 1, "superseded": 1},
        {("yes", "yes"): 1},
    ),
    "two words at once": (
        [label(1, T0 + HOUR, "yes"), label(1, T0 + HOUR, "no")],
        {"matched": 1, "superseded": 1},
        {("yes", "yes"): 1},
    ),
    "a retraction": ([label(1, T0 + HOUR, "yes"), label(1, T0 + 2 * HOUR, None)], {"matched": 2}, {}),
    "a label after a retraction": (
        [label(1, T0 + HOUR, None), label(1, T0 + 2 * HOUR, "no")],
        {"matched": 2},
        {("no", "yes"): 1},
    ),
    "an unknown class": ([label(1, T0 + HOUR, "what")], {"matched": 1}, {}),
    "within the horizon": ([label(1, T0 + 4 * HOUR, "yes")], {"matched": 1}, {("yes", "yes"): 1}),
    "beyond the horizon": ([label(1, T0 + 4 * HOUR + 1, "yes")], {"orphan": 1}, {}),
    "a stranger": ([label("nobody", T0 + HOUR, "yes")], {"orphan": 1}, {}),
    "another model's": ([label(1, T0 + HOUR, "yes", model_name="b")], {"orphan": 1}, {}),
}


@pytest.mark.parametrize("labels_first", [False, True])
@pytest.mark.parametrize("story", STORIES)
def test_a_label_has_the_fate_its_story_tells(story: str, labels_first: bool) -> None:
    """Each kind of label ends as it should, whether it is read before its prediction or after."""
    feedback, fates, confusion = STORIES[story]
    first = [prediction(1, T0, "a", model_version="1", prediction="yes")]
    models = Models(CONFIG.models, {})
    batches: list[tuple[Any, list[Event]]] = [(PREDICTIONS, first), (FEEDBACK, feedback)]
    for partition, batch in reversed(batches) if labels_first else batches:
        apply(models, CONFIG, partition, batch)
        forget(models)
    end = T0 + 20 * HOUR
    apply(models, CONFIG, PREDICTIONS, [prediction("end", end, m, prediction="no") for m in "ab"], 1)
    apply(models, CONFIG, FEEDBACK, [label("nothing", end, "no")], 100)
    forget(models)
    counts = {
        fate: models.counts[f"labels_{fate}"] for fate in ("matched", "duplicate", "superseded", "orphan")
    }
    assert +Counter(counts) == Counter(fates)
    lifetime = models.models["a"].panes.get(PaneKey("1", LIFETIME, 0, 0, ""))
    where = models.models["a"].layout.performance["confusion"]
    held = [0] * 4 if lifetime is None else lifetime[where].tolist()
    names = [(truth, predicted) for truth in ("no", "yes") for predicted in ("no", "yes")]
    assert {name: n for name, n in zip(names, held, strict=True) if n} == confusion
    assert models.models["a"].join.counts["joined"] == len(confusion)


def test_a_shadow_read_after_its_label_is_labelled_too() -> None:
    """Versions and models share ids: feedback that names no model labels each of them, whoever comes last."""
    models = Models(CONFIG.models, {})
    first = prediction(1, T0, "a", model_version="1", prediction="yes")
    apply(models, CONFIG, PREDICTIONS, [first])
    apply(models, CONFIG, FEEDBACK, [label(1, T0 + MINUTE, "yes")])
    forget(models)
    shadows = [{**first, "model_version": "2"}, {**first, "model_name": "b", "model_version": "9"}]
    apply(models, CONFIG, PREDICTIONS, shadows, 1)
    assert {name: model.join.counts["joined"] for name, model in models.models.items()} == {"a": 2, "b": 1}
    assert models.counts["labels_matched"] == 1


def test_a_failed_inference_is_counted_but_not_measured() -> None:
    """An event with an error takes a label without it entering any performance count, score or coverage."""
    models = Models(CONFIG.models, {})
    failed = prediction(1, T0, "a", error="timeout", prediction_score=0.9, model_version="1")
    apply(models, CONFIG, PREDICTIONS, [failed])
    apply(models, CONFIG, FEEDBACK, [label(1, T0 + MINUTE, "yes")])
    panes = models.models["a"].panes
    counted, labelled = (
        panes.get(PaneKey("1", LIFETIME, 0, -1, "")),
        panes.get(PaneKey("1", LIFETIME, 0, 0, "")),
    )
    assert counted is not None
    assert counted[:2].tolist() == [1, 1]
    assert counted[2:].any() == 0
    assert labelled is None or not labelled.any()


def test_no_pane_exists_without_a_count() -> None:
    """A failed inference leaves no empty labelled pane behind, also when others of its batch are measured."""
    models = Models(CONFIG.models, {})
    tags = [{"group": "x"}, {"group": "y"}]
    batch = [
        prediction(1, T0, "a", model_version="1", prediction="yes", tags=tags[0]),
        prediction(2, T0 + 2 * HOUR, "a", model_version="1", error="timeout", tags=tags[1]),
    ]
    apply(models, CONFIG, PREDICTIONS, batch)
    apply(models, CONFIG, FEEDBACK, [label(i, T0 + 3 * HOUR, "yes") for i in (1, 2)])
    panes = models.models["a"].panes
    vectors = [vector for key in panes.keys() if (vector := panes.get(key)) is not None]  # noqa: SIM118
    predicted, labelled = 2 * 2 + 2 * 2 + 3, 2 + 2 + 2  # minutes, hours, lifetime
    assert len(vectors) == predicted + labelled
    assert all(vector.any() for vector in vectors)


def test_an_id_is_free_again_after_the_horizon() -> None:
    """The same id within the horizon is a duplicate, later it is another prediction, however batches fall."""
    times = [T0, T0 + 2 * HOUR, T0 + 4 * HOUR, T0 + 4 * HOUR + 1, T0 + 8 * HOUR + 2]
    batch = [prediction(1, at, "a", model_version="1", prediction="yes") for at in times]
    for size in (1, 2, 5):
        models = Models(CONFIG.models, {})
        done = Counter[str]()
        for start in range(0, len(batch), size):
            applied = apply(models, CONFIG, PREDICTIONS, batch[start : start + size], start)
            done.update(merged=applied.merged, duplicate=applied.duplicate)
            forget(models)
        assert done == Counter(merged=3, duplicate=2)


def test_a_model_that_appears_late_finds_its_labels() -> None:
    """Labels of a model that is not yet seen wait while another model's clock runs ahead."""
    models = Models(CONFIG.models, {})
    apply(
        models,
        CONFIG,
        FEEDBACK,
        [label(1, T0 + MINUTE, "yes", model_name="b"), label(2, T0 + 4 * HOUR, "no")],
    )
    apply(models, CONFIG, PREDICTIONS, [prediction(9, T0 + 3 * HOUR, "a", prediction="yes")])
    forget(models)
    apply(models, CONFIG, PREDICTIONS, [prediction(1, T0, "b", prediction="yes")], 1)
    assert models.models["b"].join.counts["joined"] == 1
