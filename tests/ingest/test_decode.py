import json
from typing import Any

import numpy as np
import pytest

from agent.config import SourceConfig
from agent.events import (
    FEEDBACK_COLUMNS,
    NO_TIME,
    PREDICTION_COLUMNS,
    Decoded,
    Headers,
    Partition,
    RawBatch,
    Reason,
)
from agent.ingest.decode import Decoder
from agent.ingest.mapping import Schema

SCHEMA = Schema(features=("age", "city"), tags=("sex", "city"), classes=("0", "1"))
SOURCES = [
    SourceConfig(topics=["predictions"], kind="prediction"),
    SourceConfig(topics=["feedback"], kind="feedback"),
    SourceConfig(topics=["auto"]),
    SourceConfig(topics=["flat"], kind="prediction", preset="flat"),
]
PREDICTION = {
    "prediction_id": "a",
    "timestamp": "2026-08-01T12:00:00.123Z",
    "model_name": "m",
    "prediction": "1",
}
FEEDBACK = {"prediction_id": "a", "timestamp": "2026-08-02T12:00:00Z", "label": 1}
NOON = 1_785_585_600_000
ENVELOPE = {"specversion": "1.0", "id": "e1", "source": "s", "time": "2026-08-01T12:00:00Z"}
BINARY = [("ce_specversion", b"1.0"), ("ce_time", b"2026-08-01T12:00:00Z")]
STRUCTURED = ("Content-Type", b"Application/CloudEvents+json; charset=UTF-8")


def decode(
    topic: str,
    *records: dict[str, Any] | bytes | None,
    headers: list[Headers] | None = None,
    append_ms: int = NO_TIME,
    sources: list[SourceConfig] = SOURCES,
) -> Decoded:
    values = [json.dumps(r).encode() if isinstance(r, dict) else r for r in records]
    n = len(values)
    batch = RawBatch(
        Partition(topic, 3),
        np.arange(100, 100 + n, dtype=np.int64),
        np.full(n, append_ms, dtype=np.int64),
        100 + n,
        values,
        headers=headers,
    )
    return Decoder(sources, SCHEMA, max_message_bytes=10_000, future_skew_ms=60_000).decode(batch)


def without(record: dict[str, Any], name: str) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k != name}


@pytest.mark.parametrize(
    ("reason", "topic", "record"),
    [
        (Reason.NULL_VALUE, "predictions", None),
        (Reason.TOO_LARGE, "predictions", {**PREDICTION, "x": "y" * 10_000}),
        (Reason.MALFORMED_JSON, "predictions", b'{"prediction_id": '),
        (Reason.MALFORMED_JSON, "predictions", b""),
        (Reason.MALFORMED_JSON, "predictions", b"   "),
        (Reason.MALFORMED_JSON, "predictions", b'{"prediction_id": "\xff"}'),
        (Reason.MALFORMED_JSON, "predictions", b"\xef\xbb\xbf{}"),
        (Reason.MALFORMED_JSON, "predictions", b'{"prediction_score": NaN}'),
        (Reason.MALFORMED_JSON, "predictions", b'{"prediction_score": -Infinity}'),
        (Reason.MALFORMED_JSON, "predictions", b'{"a": 1} {"a": 2}'),
        (Reason.MALFORMED_JSON, "predictions", b'{"a": 1 "b": 2}'),
        (Reason.NOT_AN_OBJECT, "predictions", b"[1]"),
        (Reason.NOT_AN_OBJECT, "predictions", b"null"),
        (Reason.NOT_AN_OBJECT, "predictions", b'"text"'),
        (Reason.WRONG_TYPE, "predictions", {**PREDICTION, "features": 3}),
        (Reason.WRONG_TYPE, "predictions", {**PREDICTION, "tags": ["x"]}),
        (Reason.WRONG_TYPE, "predictions", {**PREDICTION, "prediction_id": ["a"]}),
        (Reason.WRONG_TYPE, "feedback", {**FEEDBACK, "label": {"x": 1}}),
        (Reason.MISSING_PREDICTION_ID, "predictions", {**PREDICTION, "prediction_id": None}),
        (Reason.MISSING_PREDICTION_ID, "feedback", {**FEEDBACK, "prediction_id": ""}),
        (Reason.MISSING_MODEL_NAME, "predictions", without(PREDICTION, "model_name")),
        (Reason.MISSING_TIMESTAMP, "predictions", without(PREDICTION, "timestamp")),
        (Reason.BAD_TIMESTAMP, "predictions", {**PREDICTION, "timestamp": "yesterday"}),
        (Reason.BAD_TIMESTAMP, "predictions", {**PREDICTION, "timestamp": "2026-02-30T00:00:00Z"}),
        (Reason.BAD_TIMESTAMP, "predictions", {**PREDICTION, "timestamp": True}),
        (Reason.MISSING_PREDICTION, "predictions", without(PREDICTION, "prediction")),
        (Reason.MISSING_LABEL, "feedback", without(FEEDBACK, "label")),
        (Reason.BAD_SCORE, "predictions", {**PREDICTION, "prediction_score": "high"}),
        (Reason.BAD_SCORE, "predictions", {**PREDICTION, "prediction_score": "NaN"}),
        (Reason.BAD_NUMBER, "predictions", {**PREDICTION, "latency_seconds": "slow"}),
        (Reason.BAD_NUMBER, "predictions", {**PREDICTION, "latency_seconds": -1}),
        (Reason.BAD_NUMBER, "predictions", {**PREDICTION, "prediction_probabilities": {"1": "x"}}),
        (Reason.BAD_NUMBER, "feedback", {**FEEDBACK, "revision": 1.5}),
    ],
)
def test_a_bad_record_goes_out_alone_with_its_reason(
    reason: Reason, topic: str, record: dict[str, Any] | bytes | None
) -> None:
    """Each kind of fault has its reason, whether the record comes alone or between good ones."""
    good = PREDICTION if topic == "predictions" else FEEDBACK
    alone = decode(topic, record)
    between = decode(topic, good, record, good)
    assert [(r.offset, r.reason) for r in alone.rejected] == [(100, reason)]
    assert [(r.offset, r.reason) for r in between.rejected] == [(101, reason)]
    assert between.predictions.height + between.feedback.height == 2
    assert between.rejected[0].value == (json.dumps(record).encode() if isinstance(record, dict) else record)


def test_an_event_ahead_of_its_append_time_is_rejected_only_beyond_the_skew() -> None:
    """A time stamp may lead the append time by the skew and no more; unknown append times accuse nobody."""
    stamp = NOON + 123
    assert not decode("predictions", PREDICTION, append_ms=stamp - 60_000).rejected
    late = decode("predictions", PREDICTION, append_ms=stamp - 60_001)
    assert [r.reason for r in late.rejected] == [Reason.FUTURE_TIMESTAMP]
    assert not decode("predictions", PREDICTION).rejected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-08-01T12:00:00Z", NOON),
        ("2026-08-01t12:00:00.5z", NOON + 500),
        ("2026-08-01 12:00:00.123999+00:00", NOON + 123),
        ("2026-08-01T14:30:00+0230", NOON),
        ("2026-08-01T12:00:00", NOON),
        (NOON // 1000, NOON),
        (NOON / 1000 + 0.25, NOON + 250),
        (NOON + 7, NOON + 7),
        (NOON * 1000 + 7999, NOON + 7),
        (NOON * 1_000_000 + 7_999_999, NOON + 7),
        (str(NOON), NOON),
        (0, 0),
        (-5, -5000),
    ],
)
def test_times_are_read_in_every_common_spelling(text: object, expected: int) -> None:
    """RFC 3339 in its variants and numbers of seconds to nanoseconds mean the same millisecond."""
    got = decode("predictions", {**PREDICTION, "timestamp": text}, PREDICTION)
    assert got.predictions["timestamp_ms"].to_list() == [expected, NOON + 123]


def test_columns_are_exactly_those_of_the_contract() -> None:
    """Frames have the contract's columns and types, with rows and without."""
    for got in (
        decode("predictions", PREDICTION),
        decode("feedback", FEEDBACK),
        decode("feedback"),
        decode("auto"),
    ):
        assert list(got.predictions.schema) == list(PREDICTION_COLUMNS)
        assert list(got.feedback.schema) == list(FEEDBACK_COLUMNS)
        for frame, columns in ((got.predictions, PREDICTION_COLUMNS), (got.feedback, FEEDBACK_COLUMNS)):
            assert all(frame.schema[name] == dtype for name, dtype in columns.items())
    assert decode("feedback").predictions.schema == decode("predictions", PREDICTION).predictions.schema


def test_features_are_text_and_missing_is_null() -> None:
    """A number, a flag and a word arrive as text; null, an empty text and an absent key are missing."""
    records = [
        {**PREDICTION, "features": f} for f in ({"age": 1.5, "city": True}, {"age": None, "city": ""}, {})
    ]
    got = decode("predictions", *records, PREDICTION).predictions["features"]
    assert got.struct.field("age").to_list() == ["1.5", None, None, None]
    assert got.struct.field("city").to_list() == ["true", None, None, None]


def test_a_segment_attribute_is_found_in_tags_first_then_in_features() -> None:
    """A configured attribute is taken from the tags, and from the features where no tag has it."""
    both = {**PREDICTION, "tags": {"city": "tag"}, "features": {"city": "feature"}}
    only = {**PREDICTION, "features": {"city": "feature"}}
    assert decode("predictions", both, only).predictions["tags"].struct.field("city").to_list() == [
        "tag",
        "feature",
    ]


@pytest.mark.parametrize(
    ("label", "expected"),
    [(True, "1"), ("False", "0"), (1.0, "1"), ("0.0", "0"), ("approve", "approve"), (0.5, "0.5")],
)
def test_classes_have_one_spelling(label: object, expected: str) -> None:
    """Flags and integral floats are spelt like integers, in predictions as in labels."""
    assert decode("feedback", {**FEEDBACK, "label": label}).feedback["label"].to_list() == [expected]
    assert decode("predictions", {**PREDICTION, "prediction": label}).predictions["prediction"].to_list() == [
        expected
    ]


def test_a_label_of_null_retracts() -> None:
    """An explicit null label is kept as a retraction; the revision defaults to 0."""
    got = decode(
        "feedback", {**FEEDBACK, "label": None, "revision": 2}, {**FEEDBACK, "label": None}, FEEDBACK
    ).feedback
    assert got["label"].to_list() == [None, None, "1"]
    assert got["revision"].to_list() == [2, 0, 0]


def test_a_text_that_looks_like_an_array_is_a_text() -> None:
    """An id that begins with a bracket is no array."""
    assert decode("predictions", {**PREDICTION, "prediction_id": "[a]"}).predictions[
        "prediction_id"
    ].to_list() == ["[a]"]


def test_line_feeds_inside_a_value_do_not_cut_it() -> None:
    """A pretty-printed record is one record."""
    value = json.dumps(PREDICTION, indent=2).encode()
    assert decode("predictions", value, PREDICTION).predictions["prediction_id"].to_list() == ["a", "a"]


def test_binary_cloudevents_carry_kind_and_time_in_headers() -> None:
    """A binary event's value is its data, ce_type its kind, ce_time stands in for a missing timestamp."""
    bare = without(PREDICTION, "timestamp")
    typed: list[Headers] = [
        [*BINARY, ("ce_type", b"io.plumbline.prediction.v1")],
        [*BINARY, ("ce_type", b"io.plumbline.feedback.v1")],
        [*BINARY, ("ce_type", b"com.example.other")],
    ]
    got = decode("auto", bare, FEEDBACK, bare, headers=typed)
    assert got.predictions["offset"].to_list() == [100]
    assert got.predictions["timestamp_ms"].to_list() == [NOON]
    assert got.feedback["offset"].to_list() == [101]
    assert [(r.offset, r.reason) for r in got.rejected] == [(102, Reason.UNEXPECTED_EVENT_TYPE)]


def test_a_structured_cloudevent_is_recognised_before_its_ce_headers() -> None:
    """The content type decides: a structured message that also has ce_ headers is read from its envelope."""
    envelope = {**ENVELOPE, "type": "io.plumbline.prediction.v1", "data": without(PREDICTION, "timestamp")}
    misleading: Headers = [
        STRUCTURED,
        ("ce_type", b"io.plumbline.feedback.v1"),
        ("ce_time", b"1970-01-01T00:00:00Z"),
    ]
    got = decode("auto", PREDICTION, envelope, PREDICTION, headers=[(), misleading, ()])
    assert got.predictions["offset"].to_list() == [100, 101, 102]
    assert got.predictions["timestamp_ms"].to_list() == [NOON + 123, NOON, NOON + 123]


def test_a_bare_json_envelope_is_opened() -> None:
    """A structured event without headers (from a file) is recognised by specversion and data."""
    envelope = {**ENVELOPE, "type": "io.plumbline.feedback.v1", "data": FEEDBACK}
    assert decode("auto", PREDICTION, envelope).feedback["offset"].to_list() == [101]


def test_the_type_of_the_other_kind_is_refused_on_a_topic_of_one_kind() -> None:
    """Feedback on the predictions' topic is not read as a prediction."""
    got = decode("predictions", PREDICTION, headers=[[("ce_type", b"io.plumbline.feedback.v1")]])
    assert [r.reason for r in got.rejected] == [Reason.UNEXPECTED_EVENT_TYPE]


def test_kinds_are_told_by_content_where_nothing_else_tells() -> None:
    """Bare JSON on a mixed topic: a label without a prediction is feedback, and so is a retraction."""
    retraction = {**FEEDBACK, "label": None, "revision": 1}
    got = decode("auto", PREDICTION, FEEDBACK, retraction)
    assert got.predictions["offset"].to_list() == [100]
    assert got.feedback["offset"].to_list() == [101, 102]


def test_the_flat_preset_reads_columns_by_name() -> None:
    """Features and tags lie at the top under their own names."""
    got = decode("flat", {**PREDICTION, "age": 3, "sex": "f", "city": "x"}).predictions
    assert got["features"].to_list() == [{"age": "3", "city": "x"}]
    assert got["tags"].to_list() == [{"sex": "f", "city": "x"}]


def test_mapping_overrides_reach_headers_kafka_and_constants() -> None:
    """Every root of the expression language is read, the first alternative that is present wins."""
    source = SourceConfig(
        topics=["theirs"],
        kind="prediction",
        fields={
            "prediction_id": "value.rid | header.X-Request-Id",
            "timestamp": "kafka.timestamp_ms > epoch_ms",
            "model_name": "=theirs",
            "model_version": 'value."v.1"',
            "prediction": "value.out.class",
            "features.age": "value.in.years",
        },
    )
    records = [{"rid": "r", "out": {"class": 1}, "in": {"years": 7}}, {"out": {"class": 0}, "v.1": "2"}]
    headers: list[Headers] = [[("x-request-id", b"no")], [("x-request-id", b"h")]]
    got = decode("theirs", *records, headers=headers, append_ms=NOON, sources=[source]).predictions
    assert got["prediction_id"].to_list() == ["r", "h"]
    assert got["timestamp_ms"].to_list() == [NOON, NOON]
    assert got["model_name"].to_list() == ["theirs", "theirs"]
    assert got["model_version"].to_list() == ["unknown", "2"]
    assert got["prediction"].to_list() == ["1", "0"]
    assert got["features"].struct.field("age").to_list() == ["7", None]


def test_names_outside_the_schema_are_told() -> None:
    """A feature nobody configured is named, from where the preset looks for features."""
    decoder = Decoder(SOURCES, SCHEMA, max_message_bytes=10_000, future_skew_ms=0)
    none = np.array([0], dtype=np.int64)
    for topic, record in (
        ("predictions", {**PREDICTION, "features": {"age": 1, "new": 2}}),
        ("flat", {**PREDICTION, "age": 1, "new": 2}),
    ):
        batch = RawBatch(Partition(topic, 0), none, none, 1, [json.dumps(record).encode()])
        assert decoder.unknown_fields(batch) == {"new"}
