"""JSON Schemas of the native events, as data: what a producer promises.

The reader is more lenient than the promise (numbers as text, times without a zone): an event that it
understands need not follow the schema, but every event that follows the schema is understood.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_TEXT: Schema = {"type": "string", "minLength": 1}
_CLASS: Schema = {"type": ["string", "number", "boolean"]}
_TIME: Schema = {
    "description": "RFC 3339 with a zone, or a number since the epoch in s, ms, µs or ns (told by its size).",
    "anyOf": [{"type": "string", "format": "date-time"}, {"type": "number", "exclusiveMinimum": 0}],
}
_NULLABLE_VALUE: Schema = {"type": ["string", "number", "boolean", "null"]}


def _optional(schema: Schema) -> Schema:
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return {**schema, "type": [*kinds, "null"]}


_SECONDS: Schema = {"type": ["number", "null"], "minimum": 0}

PREDICTION: Schema = {
    "$schema": _DRAFT,
    "title": "io.plumbline.prediction.v1",
    "description": (
        "One answer of a model. The value of a Kafka record with key `prediction_id`, or the data of a "
        "CloudEvent of this type (binary or structured)."
    ),
    "type": "object",
    "required": ["prediction_id", "timestamp", "model_name"],
    "anyOf": [
        {"required": ["prediction"], "properties": {"prediction": _CLASS}},
        {"required": ["prediction_score"], "properties": {"prediction_score": {"type": "number"}}},
        {"required": ["ranking"], "properties": {"ranking": {"type": "array"}}},
        {"required": ["error"], "properties": {"error": {"type": "string"}}},
    ],
    "properties": {
        "prediction_id": {
            **_TEXT,
            "description": "Unique per model and version; feedback names it.",
        },
        "timestamp": {**_TIME},
        "model_name": _TEXT,
        "model_version": {
            **_optional(_TEXT),
            "description": "Where there is none, the version is `unknown`.",
        },
        "variant": {**_optional(_TEXT), "description": "Arm of an experiment."},
        "prediction": {**_optional(_CLASS), "description": "The class; 1, 1.0 and true are the same one."},
        "prediction_score": {
            "type": ["number", "null"],
            "description": "Binary: that of the positive class; the threshold decides.",
        },
        "prediction_probabilities": {
            "type": ["object", "null"],
            "description": "Probability by class.",
            "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1},
        },
        "ranking": {
            "type": ["array", "null"],
            "items": _CLASS,
            "description": "Items shown, the first first.",
        },
        "error": {
            "type": ["string", "null"],
            "description": "Not null: the inference failed; it has no class.",
        },
        "features": {
            "type": ["object", "null"],
            "description": "Inputs by name; null is a missing value.",
            "additionalProperties": _NULLABLE_VALUE,
        },
        "tags": {
            "type": ["object", "null"],
            "description": "Segments and protected attributes that are not inputs of the model.",
            "additionalProperties": _NULLABLE_VALUE,
        },
        "user_id": {**_optional(_TEXT), "description": "Kept as a salted hash only."},
        "latency_seconds": _SECONDS,
        "timings": {
            "type": ["object", "null"],
            "description": "Seconds by name: first_token, first_answer.",
            "additionalProperties": _SECONDS,
        },
        "cost": {"type": ["number", "null"], "minimum": 0},
        "sample_weight": {
            "type": ["number", "null"],
            "exclusiveMinimum": 0,
            "description": "1 / sampling fraction: how many events this one stands for.",
        },
        "trace_id": _optional(_TEXT),
    },
    "additionalProperties": True,
    "examples": [
        {
            "prediction_id": "9f1c",
            "timestamp": "2026-08-09T08:00:00Z",
            "model_name": "credit-risk",
            "model_version": "7",
            "prediction_score": 0.83,
            "features": {"age": 31, "income": 42000.0, "region": "north"},
            "tags": {"sex": "f"},
            "latency_seconds": 0.012,
        }
    ],
}

FEEDBACK: Schema = {
    "$schema": _DRAFT,
    "title": "io.plumbline.feedback.v1",
    "description": (
        "What turned out to be true, or what a user did. Key it like its prediction, so that both share a "
        "partition. Feedback that names no model labels every model that has the id."
    ),
    "type": "object",
    "required": ["timestamp"],
    "allOf": [
        {
            "anyOf": [
                {"required": ["prediction_id"], "properties": {"prediction_id": _TEXT}},
                {"required": ["model_name"], "properties": {"model_name": _TEXT}},
            ]
        },
        {
            "anyOf": [
                {"required": ["label"]},
                {"required": ["label_value"]},
                {"required": ["relevance"]},
                {"required": ["outcomes"]},
            ]
        },
    ],
    "properties": {
        "prediction_id": {
            **_optional(_TEXT),
            "description": "Absent only for outcomes of no single prediction.",
        },
        "timestamp": {**_TIME},
        "model_name": _optional(_TEXT),
        "label": {**_optional(_CLASS), "description": "The true class; null takes an earlier label back."},
        "label_value": {"type": ["number", "null"], "description": "The true value of a regression."},
        "relevance": {
            "type": ["object", "null"],
            "description": "Grade by item of a ranking.",
            "additionalProperties": {"type": "number", "minimum": 0},
        },
        "outcomes": {
            "type": ["object", "null"],
            "description": "By name: accepted, overridden, converted, time_saved_seconds, support_ticket, …",
            "additionalProperties": _NULLABLE_VALUE,
        },
        "label_source": {**_optional(_TEXT), "description": "ground_truth, human, proxy, judge."},
        "revision": {
            "type": ["integer", "null"],
            "minimum": 0,
            "description": "The highest wins; of equal ones the later timestamp.",
        },
    },
    "additionalProperties": True,
    "examples": [
        {
            "prediction_id": "9f1c",
            "timestamp": "2026-09-08T08:00:00Z",
            "model_name": "credit-risk",
            "label": "1",
        }
    ],
}
