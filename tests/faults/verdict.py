"""Holds what an agent left behind against the oracle: panes cell by cell, metrics, triggers, dead letters.

The state file is read by SQL and by the layout that `agent/measure/layout.py` documents; nothing of the agent
computes here, but for the fingerprint of an uninterrupted run, which is the oracle of what detectors decide.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.config import Config
from agent.events import NO_TIME, Partition, RawBatch
from agent.measure.bins import LATENCY_BINS, SCORE_BINS
from agent.pipeline import Pipeline
from agent.store import Store
from tests.faults.oracle import LIFETIME, Pane, PaneName, Raw, Truth, metrics
from tests.integration.agent_process import Series, series

HOUR, LIFE = 1, 2
BATCH = 20_000
Ints = NDArray[np.int64]

_HEADS = {
    "prediction": ("predictions", "errors", "latency_us", "predicted.0", "predicted.1"),
    "performance": (
        "labelled",
        *(f"confusion.{k}" for k in range(4)),
        "scored",
        "log_loss",
        "brier",
    ),
}


BINS = (
    *("amount.range", "amount.unseen", "amount.missing", "amount.invalid"),
    *("city.unseen", "city.missing", "city.invalid"),
)
"""Without a baseline a feature has one range, or none, and then the three bins of what cannot be used."""


@dataclass
class Left:
    """What an agent left: its state file, what it sent, what it showed last."""

    state: Path
    letters: list[Any]
    requests: list[Any]
    shown: Mapping[Series, float]


def compare(truth: Truth, left: Left) -> list[str]:
    """Each difference in words; empty if the agent is right."""
    return [
        *_panes(truth, left.state),
        *_letters(truth, left.letters),
        *_counters(truth, left.shown),
        *_metrics(truth, left.shown),
    ]


# panes


def _panes(truth: Truth, state: Path) -> Iterator[str]:
    seen = set()
    for name, found in stored_panes(state).items():
        seen.add(name)
        expected = truth.panes.get(name)
        if expected is None:
            yield f"pane {name}: nobody knows it"
        else:
            yield from (f"pane {name}: {d}" for d in _differences(expected, found))
    for name in truth.panes.keys() - seen:
        yield f"pane {name}: missing"


def _differences(expected: Pane, found: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted(expected.counts.keys() | found["counts"].keys()):
        if expected.counts[key] != found["counts"].get(key, 0):
            yield f"{key} is {found['counts'].get(key, 0)}, must be {expected.counts[key]}"
    for part, by_value in (
        ("score", expected.scores),
        ("latency", expected.latencies),
        ("by_label", expected.by_label),
    ):
        if list(by_value.values()) != found[part]:
            yield f"{part} is {found[part]}, must be {list(by_value.values())}"


def stored_panes(state: Path) -> dict[PaneName, dict[str, Any]]:
    """Hours and lifetimes as they are stored, ages of labels summed up, in the oracle's words."""
    parts: dict[PaneName, dict[str, Ints]] = {}
    with closing(sqlite3.connect(f"file:{state / 'state.db'}?mode=ro", uri=True)) as db:
        rows = db.execute(
            "SELECT model, version, tier, start, age, segment, vector FROM panes WHERE tier > 0"
        )
        for model, version, tier, start, age, segment, blob in rows:
            vector = decoded(blob)
            if not vector.any():
                continue
            name = PaneName(model, version, LIFETIME if tier == LIFE else start, segment)
            part = "prediction" if age < 0 else "performance"
            held = parts.setdefault(name, {})
            held[part] = vector + held[part] if part in held else vector
    return {name: _told(held) for name, held in parts.items()}


def decoded(blob: bytes) -> Ints:
    """A pane's vector: width, number of cells, the cells, their counts."""
    data = zlib.decompress(blob)
    width, n = np.frombuffer(data, "<u4", 2)
    vector = np.zeros(int(width), dtype=np.int64)
    vector[np.frombuffer(data, "<u4", n, 8)] = np.frombuffer(data, "<i8", n, 8 + 4 * int(n))
    return vector


def _told(held: Mapping[str, Ints]) -> dict[str, Any]:
    counts: dict[str, int] = {}
    told: dict[str, Any] = {"counts": counts, "score": [], "latency": [], "by_label": []}
    for part, names in _HEADS.items():
        vector = held.get(part)
        if vector is None:
            continue
        counts |= {name: int(n) for name, n in zip(names, vector, strict=False) if n}
        rest = vector[len(names) :]
        if part == "performance":
            told["by_label"] = [int(n) for n in rest if n]
            continue
        told["score"] = [int(n) for n in rest[:SCORE_BINS] if n]
        told["latency"] = [int(n) for n in rest[SCORE_BINS:][:LATENCY_BINS] if n]
        bins = rest[SCORE_BINS + LATENCY_BINS :]
        counts |= {name: int(n) for name, n in zip(BINS, bins, strict=False) if n}
    return told


# messages


def _letters(truth: Truth, letters: list[Any]) -> Iterator[str]:
    found: dict[str, set[tuple[str, bytes | None]]] = {}
    for letter in letters:
        reason = dict(letter.headers)["plumbline-reason"].decode()
        found.setdefault(letter.key.decode(), set()).add((reason, letter.value))
    for key in sorted(truth.letters.keys() | found.keys()):
        expected = {tuple(truth.letters[key])} if key in truth.letters else set()
        if found.get(key, set()) != expected:
            yield f"dead letter {key}: {found.get(key)}, must be {expected}"


def same_requests(expected: list[bytes], found: list[Any]) -> list[str]:
    """Retraining events: the ids of the uninterrupted run, and for each id one payload, which is its."""
    by_id: dict[str, set[bytes]] = {}
    for record in found:
        by_id.setdefault(json.loads(record.value)["id"], set()).add(record.value)
    wanted = {json.loads(value)["id"]: {value} for value in expected}
    return [
        f"trigger {id_}: {len(by_id.get(id_, ()))} payloads, must be {len(wanted.get(id_, ()))}"
        for id_ in sorted(by_id.keys() | wanted.keys())
        if by_id.get(id_) != wanted.get(id_)
    ]


# what is shown


def expected_counters(truth: Truth) -> dict[Series, float]:
    """Every counter that the oracle knows, as /metrics must show it at the end."""
    found: dict[Series, float] = {}
    for (topic, outcome), n in truth.records.items():
        found[series("plumbline_records_total", outcome=outcome, topic=topic)] = n
    for topic, n in truth.read.items():
        found[series("plumbline_records_read_total", topic=topic)] = n
    reasons = Counter(
        (key.rpartition("/")[0].rpartition("/")[0], one.reason) for key, one in truth.letters.items()
    )
    for (topic, reason), n in reasons.items():
        found[series("plumbline_dead_letters_total", reason=reason, topic=topic)] = n
    for outcome in ("matched", "duplicate", "superseded"):
        found[series("plumbline_labels_total", outcome=outcome)] = truth.labels[outcome]
    for name, pane in truth.panes.items():
        if name.start == LIFETIME and name.segment == "":
            labels = {"model_name": name.model, "model_version": name.version}
            found[series("plumbline_predictions_total", **labels)] = pane.counts["predictions"]
            found[series("plumbline_prediction_errors_total", **labels)] = pane.counts["errors"]
    return found


def _counters(truth: Truth, shown: Mapping[Series, float]) -> Iterator[str]:
    for key, value in expected_counters(truth).items():
        if shown.get(key, 0.0) != value:
            yield f"{key} is {shown.get(key)}, must be {value}"
    for (topic, partition), end in truth.next_offsets.items():
        key = series("plumbline_next_offset", topic=topic, partition=str(partition))
        if shown.get(key, 0.0) < end:
            yield f"{key} is {shown.get(key)}, must be {end}"


def _metrics(truth: Truth, shown: Mapping[Series, float]) -> Iterator[str]:
    newest = max((name.version for name in truth.panes), default="")  # one that was replaced is not shown
    for name, pane in truth.panes.items():
        cells = [pane.counts[f"confusion.{k}"] for k in range(4)]
        if name.start != LIFETIME or not sum(cells):
            continue
        labels = {"model_name": name.model, "model_version": name.version, "window": "lifetime"}
        for metric, value in metrics(cells).items():
            key = series(f"plumbline_{metric}", segment=name.segment, **labels)
            if key in shown and not math.isclose(shown[key], value, rel_tol=1e-9, abs_tol=1e-12):
                yield f"{key} is {shown[key]}, must be {value}"
            if key not in shown and name.segment == "" and name.version == newest:
                yield f"{key} is absent, must be {value}"


# an uninterrupted run


@dataclass
class Quiet:
    """What one uninterrupted life in large batches makes of the same topics."""

    fingerprint: str
    requests: list[bytes] = field(default_factory=list)


def quiet_run(config: Config, partitions: Sequence[tuple[str, int]], batches: Iterator[RawBatch]) -> Quiet:
    """The agent's own pipeline over the whole of the topics, with one commit at the end."""
    with tempfile.TemporaryDirectory() as folder, closing(Store(Path(folder))) as store:
        pipeline = Pipeline(config, store)
        pipeline.assign(Partition(*p) for p in partitions)
        for batch in batches:
            pipeline.apply(batch)
        pipeline.advance()
        pipeline.commit(0.0)
        with closing(sqlite3.connect(Path(folder) / "state.db")) as db:
            topic = config.retraining_topic or "retraining"
            rows = db.execute("SELECT value FROM outbox WHERE topic = ? ORDER BY id", (topic,))
            return Quiet(pipeline.fingerprint(), [value for (value,) in rows])


def fingerprint(config: Config) -> str:
    """Of what an agent left; nobody may be using the state."""
    with closing(Store(config.state.dir)) as store:
        return Pipeline(config, store).fingerprint()


def batches(records: Iterator[Raw]) -> Iterator[RawBatch]:
    """Records as the agent's sources hand them over, many at a time."""
    held: list[Raw] = []
    for raw in records:
        if held and (len(held) >= BATCH or held[0][:2] != raw[:2]):
            yield _batch(held)
            held = []
        held.append(raw)
    if held:
        yield _batch(held)


def _batch(held: list[Raw]) -> RawBatch:
    stamps = np.array([r.append_ms for r in held], dtype=np.int64)
    return RawBatch(
        Partition(held[0].topic, held[0].partition),
        np.array([r.offset for r in held], dtype=np.int64),
        np.where(stamps > 0, stamps, NO_TIME),
        held[-1].offset + 1,
        values=[r.value for r in held],
    )


def hidden(text: str, secrets: list[str]) -> list[str]:
    """Which of the secrets a text gives away."""
    return [secret for secret in secrets if re.search(re.escape(secret), text)]
