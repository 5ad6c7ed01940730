"""`plumbline sample`: the last records of a topic as they are and as the config reads them.

Names are shown, values are not, unless asked for: `text(8)` is a text of eight characters. Where records
cannot be used, a preset and fields are suggested by the names that are in them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from agent.config import Config
from agent.errors import StartError
from agent.events import NO_TIME, Partition, RawBatch
from agent.ingest.client import client_options
from agent.ingest.decode import Decoder

TIMEOUT_MS = 5000
MAX_DEPTH = 4

ALIASES: dict[str, tuple[str, ...]] = {
    "prediction_id": ("prediction_id", "request_id", "inference_id", "event_id", "id", "uuid", "trace_id"),
    "timestamp": ("timestamp", "ts", "time", "event_time", "event_timestamp", "created_at", "scored_at"),
    "model_name": ("model_name", "model", "model_id"),
    "model_version": ("model_version", "version", "deployed_model_id", "served_entity_id"),
    "prediction": ("prediction", "prediction_label", "predicted", "predicted_class", "decision"),
    "prediction_score": ("prediction_score", "score", "probability", "proba", "confidence"),
    "label": (
        "label",
        "label_value",
        "actual_label",
        "actual",
        "ground_truth",
        "groundtruth",
        "target",
        "truth",
    ),
    "latency_seconds": ("latency_seconds", "latency", "duration_seconds"),
}
"""Native field → names it has elsewhere, the likeliest first."""


def read(config: Config, topic: str, n: int) -> list[RawBatch]:
    """About the last `n` records, without a group: nobody's offsets move. StartError if there is no way."""
    options = client_options(config.kafka) | {"request_timeout_ms": TIMEOUT_MS}
    try:
        consumer = KafkaConsumer(**options, group_id=None, bootstrap_timeout_ms=TIMEOUT_MS)
        with closing(consumer):
            numbers = consumer.partitions_for_topic(topic) if topic in consumer.topics() else None
            if not numbers:
                raise StartError(f"no topic {topic} at {config.kafka.bootstrap_servers}; correct --topic")
            return _last(consumer, [TopicPartition(topic, number) for number in sorted(numbers)], n)
    except KafkaError as error:
        where = config.kafka.bootstrap_servers
        raise StartError(
            f"{where}: {type(error).__name__}; `plumbline doctor` says what is wrong with the broker"
        ) from None


def _last(consumer: Any, partitions: list[TopicPartition], n: int) -> list[RawBatch]:  # noqa: ANN401 - untyped
    first = consumer.beginning_offsets(partitions, timeout_ms=TIMEOUT_MS)
    end = consumer.end_offsets(partitions, timeout_ms=TIMEOUT_MS)
    each = -(-n // len(partitions))
    begin = {tp: max(first[tp], end[tp] - each) for tp in partitions if end[tp] > first[tp]}
    consumer.assign(list(begin))
    for tp, at in begin.items():
        consumer.seek(tp, at)
    found: dict[Any, list[Any]] = {tp: [] for tp in begin}
    for _ in range(20):
        if all(consumer.position(tp) >= end[tp] for tp in begin):
            break
        for tp, records in consumer.poll(timeout_ms=500).items():
            found[tp] += [record for record in records if record.offset < end[tp]]
    left, batches = n, []
    for tp, records in found.items():
        if kept := records[-left:] if left else []:
            batches.append(_batch(Partition(*tp), kept))
            left -= len(kept)
    return batches


def _batch(partition: Partition, records: Sequence[Any]) -> RawBatch:
    return RawBatch(
        partition,
        np.array([record.offset for record in records], dtype=np.int64),
        np.array([record.timestamp or NO_TIME for record in records], dtype=np.int64),
        records[-1].offset + 1,
        [record.value for record in records],
        [record.key for record in records],
        [[(k, v) for k, v in record.headers or () if v is not None] for record in records],
    )


def describe(config: Config, batches: Sequence[RawBatch], *, show_values: bool) -> Iterator[str]:
    """Lines for each record, a count, and a suggestion where records could not be used."""
    decoder = Decoder.of(config)
    bad: Counter[str] = Counter()
    total = 0
    for batch in batches:
        mapped = _mapped(decoder, batch, config, show_values, bad)
        for offset, value in zip(batch.offsets.tolist(), batch.values, strict=True):
            total += 1
            yield f"{batch.partition.topic}[{batch.partition.partition}] @ {offset}"
            yield f"  raw     {_raw(value, show_values)}"
            yield from (f"  mapped  {line}" for line in mapped.get(offset, ["nothing"]))
    if not total:
        yield "no records; do the producers write to this topic?"
        return
    yield f"{total} records, {sum(bad.values())} of them could not be used"
    yield from (f"  {n} × {reason}" for reason, n in bad.most_common())
    if bad:
        yield from suggestion(batches[0].partition.topic, [v for batch in batches for v in batch.values])


def _mapped(
    decoder: Decoder, batch: RawBatch, config: Config, show_values: bool, bad: Counter[str]
) -> dict[int, list[str]]:
    decoded = decoder.decode(batch)
    found: dict[int, list[str]] = {}
    for kind, frame in (("prediction", decoded.predictions), ("feedback", decoded.feedback)):
        for row in frame.to_dicts():
            name = row.get("model_name")
            known = "" if name is None or name in config.models else " (its model is not in the config)"
            held = {k: v for k, v in _without_nulls(row).items() if k != "offset"}
            text = json.dumps(held if show_values else masked(held), ensure_ascii=False, default=str)
            found.setdefault(row["offset"], []).append(f"{kind}{known} {text}")
    for rejected in decoded.rejected:
        bad[rejected.reason.value] += 1
        found.setdefault(rejected.offset, []).append(f"rejected: {rejected.reason.value}")
    return found


def _without_nulls(value: Any) -> Any:  # noqa: ANN401 - whatever a frame holds
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return value


def _raw(value: bytes | None, show_values: bool) -> str:
    if value is None:
        return "null"
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return value.decode("utf-8", "replace") if show_values else f"not JSON, {len(value)} bytes"
    return json.dumps(parsed if show_values else masked(parsed), ensure_ascii=False)


def masked(value: Any, depth: int = 0) -> Any:  # noqa: ANN401 - whatever JSON holds
    """The shape of a value without its content."""
    if isinstance(value, Mapping):
        return {str(k): masked(v, depth + 1) for k, v in value.items()} if depth < 8 else "mapping"
    if isinstance(value, list):
        return [masked(item, depth + 1) for item in value[:3]] + ["…"] * (len(value) > 3)
    if isinstance(value, str):
        return f"text({len(value)})"
    return {bool: "boolean", int: "number", float: "number"}.get(type(value), "null")


def suggestion(topic: str, values: Sequence[bytes | None]) -> Iterator[str]:
    """A `sources` entry, by the names that at least half of the records have."""
    records = [record for record in map(_parsed, values) if record]
    seen = Counter(path for record in records for path in set(_paths(record)))
    common = [path for path, n in seen.items() if 2 * n >= len(records)]
    fields: dict[str, str] = {}
    for field, names in ALIASES.items():
        for name in names:
            here = sorted((p for p in common if p[-1].lower() == name), key=lambda p: (len(p), p))
            if here:
                fields[field] = "value." + ".".join(map(_quoted, here[0]))
                break
    if "prediction_id" not in fields:
        yield "no suggestion: no name in these records looks like the id of a prediction"
        return
    kind = (
        "feedback"
        if "label" in fields and not fields.keys() & {"prediction", "prediction_score"}
        else "prediction"
    )
    if kind == "prediction":
        fields.pop("label", None)
    nested = any(isinstance(record.get("features"), dict) for record in records)
    yield "perhaps:"
    yield "sources:"
    yield f"  - topics: [{topic}]"
    yield f"    kind: {kind}"
    yield f"    preset: {'native' if nested or kind == 'feedback' else 'flat'}"
    if "model_name" not in fields and kind == "prediction":
        fields["model_name"] = "=NAME # a constant, where the records do not say"
    own = {field: path for field, path in fields.items() if path != f"value.{field}"}
    if own:
        yield "    fields:"
        yield from (f"      {field}: {path}" for field, path in own.items())


def _quoted(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() else f'"{name}"'


def _parsed(value: bytes | None) -> dict[str, Any] | None:
    try:
        record = json.loads(value or b"")
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _paths(record: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in record.items():
        if isinstance(value, dict) and len(above) < MAX_DEPTH:
            yield from _paths(value, (*above, name))
        elif not isinstance(value, list):
            yield (*above, name)
