"""The external oracle: reads the topics from the start and counts everything again, in its own way.

It shares no code with the agent: its own JSON reading, one plain pass per partition for what is late,
repeated or unusable, a dictionary for the join, and polars to count the cells. The rules are those of the
documentation: a record is late against the clock of its own partition; an id counts once; among labels of an
id the higher (revision, time) wins.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from kafka import KafkaConsumer, TopicPartition

HOUR_MS = 3_600_000
LIFETIME = -1
"""The start of the pane that holds everything."""
NEVER = -(2**62)
UNKNOWN, RETRACTED = -3, -2
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
OTHER = "other"


class Raw(NamedTuple):
    """A record as it lies in a topic."""

    topic: str
    partition: int
    offset: int
    append_ms: int
    value: bytes | None


@dataclass(frozen=True)
class Rules:
    """What the agent was configured to do, as far as counting is concerned."""

    predictions: str
    labels: str
    lateness_ms: int = 600_000
    horizon_ms: int = 5 * 24 * HOUR_MS
    skew_ms: int = 300_000
    max_bytes: int = 1_048_576
    models: tuple[str, ...] = ("m",)
    classes: tuple[str, str] = ("0", "1")
    group: str = "group"
    numeric: str = "amount"
    categorical: str = "city"
    cap: int = 50
    payload: str = "hash"


class Letter(NamedTuple):
    """What a dead letter must say."""

    reason: str
    value: bytes | None


class PaneName(NamedTuple):
    """Which pane."""

    model: str
    version: str
    start: int
    segment: str


@dataclass
class Pane:
    """The counts of a pane: numbers by name, and for scores and latencies by value, in order."""

    counts: Counter[str] = field(default_factory=Counter)
    scores: dict[float, int] = field(default_factory=dict)
    latencies: dict[float, int] = field(default_factory=dict)
    by_label: dict[tuple[int, float], int] = field(default_factory=dict)


@dataclass
class Truth:
    """What must have come out."""

    read: Counter[str] = field(default_factory=Counter)
    records: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(topic, outcome)"""
    letters: dict[str, Letter] = field(default_factory=dict)
    labels: Counter[str] = field(default_factory=Counter)
    panes: dict[PaneName, Pane] = field(default_factory=dict)
    next_offsets: dict[tuple[str, int], int] = field(default_factory=dict)
    dropped_groups: int = 0

    @property
    def events(self) -> int:
        """Records read."""
        return sum(self.read.values())


@dataclass
class _Prediction:
    model: int
    version: str
    time_ms: int
    offset: int
    predicted: int
    score: float | None
    latency: float | None
    failed: bool
    group: str | None
    amount: str
    city: str
    label: int | None = None
    revision: int = 0
    label_ms: int = NEVER


def read_topic(bootstrap: str, topic: str) -> Iterator[Raw]:
    """Every committed record of a topic, partition by partition."""
    with closing(
        KafkaConsumer(
            bootstrap_servers=bootstrap,
            group_id=None,
            isolation_level="read_committed",
            max_poll_records=5000,
        )
    ) as consumer:
        for number in sorted(consumer.partitions_for_topic(topic)):
            tp = TopicPartition(topic, number)
            consumer.assign([tp])
            end = consumer.end_offsets([tp])[tp]
            consumer.seek(tp, consumer.beginning_offsets([tp])[tp])
            while consumer.position(tp) < end:
                for records in consumer.poll(timeout_ms=500).values():
                    for r in records:
                        yield Raw(topic, number, r.offset, r.timestamp, r.value)


class Oracle:
    """Counts records again; feed every partition of both topics from its start, one after another."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.truth = Truth()
        self._clock: dict[tuple[str, int], int] = {}
        """Newest event time by (stream, partition): a model, "" for labels, "*" for any model."""
        self._by_id: dict[str, list[_Prediction]] = {}
        self._labels: list[tuple[str, int | None, int, int, int, int]] = []
        self._said: dict[tuple[str, int, int, str | None, int | None], int] = {}
        self._groups: dict[str, None] = {}

    def feed(self, records: Iterable[Raw]) -> Oracle:
        """Take in records, in the order of their partitions."""
        for raw in records:
            self.truth.read[raw.topic] += 1
            at = raw.topic, raw.partition
            self.truth.next_offsets[at] = max(self.truth.next_offsets.get(at, 0), raw.offset + 1)
            outcome = self._one(raw)
            self.truth.records[raw.topic, outcome] += 1
        return self

    def finish(self) -> Truth:
        """Join, count the cells, and return everything."""
        self._join()
        self._count()
        return self.truth

    # records

    def _one(self, raw: Raw) -> str:
        event, reason = self._parse(raw)
        if event is None:
            return self._dead(raw, reason)
        labels = raw.topic == self.rules.labels
        return self._feedback(raw, event) if labels else self._prediction(raw, event)

    def _dead(self, raw: Raw, reason: str) -> str:
        value = raw.value
        if value is not None and self.rules.payload != "keep":
            value = hashlib.sha256(value).hexdigest().encode() if self.rules.payload == "hash" else None
        self.truth.letters[f"{raw.topic}/{raw.partition}/{raw.offset}"] = Letter(reason, value)
        return "dead_lettered"

    def _parse(self, raw: Raw) -> tuple[dict[str, Any] | None, str]:
        """The event, or why it cannot be used."""
        if raw.value is None:
            return None, "null_value"
        if len(raw.value) > self.rules.max_bytes:
            return None, "too_large"
        try:
            event = json.loads(raw.value, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return None, "malformed_json"
        if not isinstance(event, dict):
            return None, "not_an_object"
        if any(not isinstance(event.get(name) or {}, dict) for name in ("features", "tags")):
            return None, "wrong_type"
        if fault := self._fault(raw, event):
            return None, fault
        return event, ""

    def _fault(self, raw: Raw, event: dict[str, Any]) -> str:
        labels = raw.topic == self.rules.labels
        names = ("prediction_id", "model_name", "label" if labels else "prediction")
        if not _text(event.get("prediction_id")):
            return "missing_prediction_id"
        if not labels and not _text(event.get("model_name")):
            return "missing_model_name"
        if _text(event.get("timestamp")) is None:
            return "missing_timestamp"
        at = time_ms(event["timestamp"])
        if at is None:
            return "bad_timestamp"
        if at - self.rules.skew_ms > raw.append_ms > 0:
            return "future_timestamp"
        says = ("prediction", "prediction_score", "error")
        if not labels and all(_text(event.get(name)) is None for name in says):
            return "missing_prediction"
        score = event.get("prediction_score")
        if not labels and score is not None and _number(score) is None:
            return "bad_score"
        latency = event.get("latency_seconds")
        if latency is not None and (_number(latency) is None or float(_number(latency) or 0) < 0):
            return "bad_number"
        if any(isinstance(event.get(name), list | dict) for name in names):
            return "wrong_type"
        if labels and "label" not in event:
            return "missing_label"
        return ""

    def _advance(self, stream: str, partition: int, at: int) -> int:
        """The newest time before this record; the clock then stands at least at `at`."""
        newest = self._clock.get((stream, partition), NEVER)
        self._clock[stream, partition] = max(newest, at)
        return newest

    def _prediction(self, raw: Raw, event: dict[str, Any]) -> str:
        rules, name = self.rules, str(_text(event["model_name"]))
        if name not in rules.models:
            return "ignored"
        at = time_ms(event["timestamp"])
        assert at is not None
        any_ = self._advance("*", raw.partition, at)
        named, score = _text(event.get("prediction")), _number(event.get("prediction_score"))
        if named is None:
            predicted = -1 if score is None else int(score >= 0.5)
        elif (canonical := _canonical(named)) in rules.classes:
            predicted = rules.classes.index(canonical)
        else:
            return self._dead(raw, "unknown_class")
        newest = self._advance(name, raw.partition, at)
        if at < max(newest - rules.lateness_ms, any_ - rules.horizon_ms):
            return "late"
        id_, version = str(_text(event["prediction_id"])), _text(event.get("model_version")) or "unknown"
        model = rules.models.index(name)
        held = self._by_id.setdefault(id_, [])
        if any(
            (p.model, p.version) == (model, version) and abs(p.time_ms - at) <= rules.horizon_ms for p in held
        ):
            return "duplicate"
        failed = _text(event.get("error")) is not None
        features, tags = event.get("features") or {}, event.get("tags") or {}
        amount = _text(features.get(rules.numeric))
        held.append(
            _Prediction(
                model,
                version,
                at,
                raw.offset,
                -1 if failed else predicted,
                None if failed else score,
                _number(event.get("latency_seconds")),
                failed,
                self._admit(_text(tags.get(rules.group))),
                "missing" if amount is None else "range" if _number(amount) is not None else "invalid",
                "missing" if _text(features.get(rules.categorical)) is None else "unseen",
            )
        )
        return "merged"

    def _admit(self, group: str | None) -> str | None:
        if group is None or group in self._groups:
            return group
        if len(self._groups) < self.rules.cap:
            self._groups[group] = None
            return group
        self.truth.dropped_groups += 1
        return OTHER

    def _feedback(self, raw: Raw, event: dict[str, Any]) -> str:
        rules, name = self.rules, _text(event.get("model_name"))
        if name is not None and name not in rules.models:
            return "ignored"
        at = time_ms(event["timestamp"])
        assert at is not None
        newest = self._advance("", raw.partition, at)
        watermark = newest - rules.lateness_ms
        label = _text(event.get("label"))
        code = RETRACTED if label is None else self._class(label)
        id_, revision = str(_text(event["prediction_id"])), int(event.get("revision") or 0)
        model = None if name is None else rules.models.index(name)
        canonical = None if label is None else _canonical(label)
        said = id_, at, revision, canonical, model
        remembered = newest == NEVER or at >= watermark - (2 * rules.lateness_ms + 60_000)
        if said in self._said and remembered:
            self.truth.labels["duplicate"] += 1
            return "duplicate"
        self._said[said] = raw.offset
        self._labels.append((id_, model, at, max(at, watermark), revision, code))
        return "merged"

    def _class(self, label: str) -> int:
        name = _canonical(label)
        return self.rules.classes.index(name) if name in self.rules.classes else UNKNOWN

    # join

    def _join(self) -> None:
        for id_, model, at, effective, revision, code in self._labels:
            first: tuple[int, str] | None = None
            for p in self._by_id.get(id_, ()):
                if model not in (None, p.model):
                    continue
                if at < p.time_ms - self.rules.lateness_ms or effective - p.time_ms > self.rules.horizon_ms:
                    continue
                verdict = _verdict(p, at, revision, code)
                first = min(first or (p.offset, verdict), (p.offset, verdict))
            self.truth.labels[first[1] if first else "unmatched"] += 1

    # cells

    def _count(self) -> None:
        rows = [p for held in self._by_id.values() for p in held]
        if not rows:
            return
        frame = pl.DataFrame(
            {
                "model": [self.rules.models[p.model] for p in rows],
                "version": [p.version for p in rows],
                "start": [p.time_ms // HOUR_MS * HOUR_MS for p in rows],
                "group": [p.group for p in rows],
                "predicted": [p.predicted for p in rows],
                "score": [p.score for p in rows],
                "latency": [p.latency for p in rows],
                "failed": [p.failed for p in rows],
                "amount": [p.amount for p in rows],
                "city": [p.city for p in rows],
                "label": [p.label for p in rows],
            },
            schema_overrides={
                "group": pl.String,
                "score": pl.Float64,
                "latency": pl.Float64,
                "label": pl.Int64,
            },
        )
        sliced = frame.filter(pl.col("group").is_not_null())
        slices = [
            frame.with_columns(segment=pl.lit("")),
            sliced.with_columns(segment=pl.format(self.rules.group + "={}", "group")),
        ]
        both = pl.concat(slices)
        self._panes(both)
        self._panes(both.with_columns(start=pl.lit(LIFETIME, dtype=pl.Int64)))

    def _panes(self, frame: pl.DataFrame) -> None:
        by = list(PaneName._fields)
        us = (pl.col("latency") * 1e6).round().cast(pl.Int64)
        self._add(
            frame.group_by(by).agg(
                pl.len().alias("predictions"),
                pl.col("failed").sum().alias("errors"),
                us.fill_null(0).sum().alias("latency_us"),
                *((pl.col("predicted") == k).sum().alias(f"predicted.{k}") for k in (0, 1)),
                *(
                    (pl.col("amount") == k).sum().alias(f"amount.{k}")
                    for k in ("range", "missing", "invalid")
                ),
                *((pl.col("city") == k).sum().alias(f"city.{k}") for k in ("unseen", "missing")),
            )
        )
        for name in ("score", "latency"):
            held = frame.drop_nulls(name).group_by([*by, name]).len().sort(name)
            for *key, value, n in held.iter_rows():
                pane = self.truth.panes[PaneName(*key)]
                (pane.scores if name == "score" else pane.latencies)[value] = n
        known = frame.filter((pl.col("label") >= 0) & ~pl.col("failed"))
        self._labelled(known)

    def _labelled(self, frame: pl.DataFrame) -> None:
        by = list(PaneName._fields)
        frame = frame.with_columns(
            fixed(frame["score"], frame["label"], "log_loss"), fixed(frame["score"], frame["label"], "brier")
        )
        cell = pl.col("label") * 2 + pl.col("predicted")
        self._add(
            frame.group_by(by).agg(
                pl.len().alias("labelled"),
                *((cell == k).sum().alias(f"confusion.{k}") for k in range(4)),
                pl.col("score").is_not_null().sum().alias("scored"),
                pl.col("log_loss").fill_null(0).sum(),
                pl.col("brier").fill_null(0).sum(),
            )
        )
        held = frame.drop_nulls("score").group_by([*by, "label", "score"]).len().sort("label", "score")
        for *key, label, score, n in held.iter_rows():
            self.truth.panes[PaneName(*key)].by_label[label, score] = n

    def _add(self, frame: pl.DataFrame) -> None:
        for row in frame.iter_rows(named=True):
            name = PaneName(*(row.pop(part) for part in PaneName._fields))
            pane = self.truth.panes.setdefault(name, Pane())
            pane.counts.update({key: int(n) for key, n in row.items() if n})


def fixed(score: pl.Series, label: pl.Series, name: str) -> pl.Series:
    """Each event's loss in 1/2^24, as the documentation of a pane says."""
    p, y = score.cast(pl.Float64).to_numpy(), label.to_numpy().astype(float)
    with np.errstate(invalid="ignore"):
        right = np.where(y > 0, p, 1 - p)
        tiny = 2.220446049250313e-16
        loss = -np.log(np.clip(right, tiny, 1 - tiny)) if name == "log_loss" else (p - y) ** 2
    scaled = np.rint(loss * (1 << 24))
    return pl.Series(name, scaled, nan_to_null=True).cast(pl.Int64)


def _verdict(p: _Prediction, at: int, revision: int, code: int) -> str:
    newer = p.label is None or revision > p.revision or (revision == p.revision and at > p.label_ms)
    same = p.label == code
    if newer:
        p.label, p.revision, p.label_ms = code, revision, at
    return "duplicate" if same else "matched" if newer else "superseded"


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _text(value: object) -> str | None:
    """A JSON value as text; what is empty or null is absent."""
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value)


def _canonical(text: str) -> str:
    """True is 1, 1.0 is 1."""
    if text.lower() in ("true", "false"):
        return "1" if text.lower() == "true" else "0"
    whole, point, rest = text.partition(".")
    return whole if point and rest and not rest.strip("0") and whole.lstrip("-").isdigit() else text


def _number(value: object) -> float | None:
    """A finite number, also in quotes."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        found = float(str(value).strip())
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def time_ms(value: object) -> int | None:
    """RFC 3339 to milliseconds; numbers by their size: seconds, milliseconds, micro- or nanoseconds."""
    number = _number(value)
    if number is not None:
        size = abs(number)
        unit = 1000 if size < 1e11 else 1 if size < 1e14 else 1e-3 if size < 1e17 else 1e-6
        found = math.floor(round(number * unit, 6))
        return found if abs(found) <= 253_402_300_799_999 and size < 1e19 else None
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    return (at.replace(tzinfo=at.tzinfo or UTC) - _EPOCH) // _MS


def metrics(cells: Sequence[int]) -> dict[str, float]:
    """The documented metrics of a binary confusion matrix, by hand: tn, fp, fn, tp."""
    tn, fp, fn, tp = cells
    total = sum(cells)
    found = {
        "true_negatives": tn, "false_positives": fp, "false_negatives": fn, "true_positives": tp,
        "accuracy": (tn + tp) / total,
    }  # fmt: skip
    if tp + fp:
        found["precision"] = tp / (tp + fp)
    if tp + fn:
        found["recall"] = tp / (tp + fn)
    if tn + fp:
        found["false_positive_rate"] = fp / (tn + fp)
    return found
