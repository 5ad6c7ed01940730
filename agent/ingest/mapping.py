"""Where each native field of an event is found: a small expression language, compiled once.

An expression is alternatives separated by `|`; the first that is present and not empty counts:

    value.id | header.x-request-id          a path into the JSON value, or a record header
    kafka.timestamp_ms > epoch_ms           what Kafka knows of the record, read by a converter
    =credit-risk                            a constant

Roots are `value`, `header` and `kafka` (key, topic, partition, offset, timestamp_ms); a path segment with odd
characters is quoted: `value."loan.amount"`. Converters (epoch_s, epoch_ms) belong to `timestamp`, which
without one reads RFC 3339 and numbers of any common unit.

`features`, `tags` and `prediction_probabilities` are containers: their expression is where the container
lies, and `features.NAME` overrides one entry. A segment attribute is looked for in the tags, then in the
features.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

from agent.config import ModelConfig, SourceConfig
from agent.errors import ConfigError

Root = Literal["value", "header", "kafka", "constant"]

PREDICTION_FIELDS = (
    *("prediction_id", "timestamp", "model_name", "model_version"),
    *("prediction", "prediction_score", "latency_seconds", "error"),
)
FEEDBACK_FIELDS = ("prediction_id", "timestamp", "model_name", "label", "revision")
CONTAINERS = ("features", "tags", "prediction_probabilities")
_SCALARS = tuple(dict.fromkeys(PREDICTION_FIELDS + FEEDBACK_FIELDS))
_KAFKA = ("key", "topic", "partition", "offset", "timestamp_ms")
_CONVERTERS = ("epoch_s", "epoch_ms")
_SEGMENT = re.compile(r'\.(?:"([^"]+)"|([^\s."|>]+))')

PRESETS: dict[str, dict[str, str]] = {
    "native": {
        **{name: f"value.{name}" for name in (*_SCALARS, *CONTAINERS)},
        "label": "value.label | value.label_value",
    },
    "flat": {
        **{name: f"value.{name}" for name in _SCALARS},
        "features": "value",
        "tags": "value",
        "prediction_probabilities": "value.prediction_probabilities",
    },
}


@dataclass(frozen=True, slots=True)
class Schema:
    """What the configured models know by name; anything else in an event is not read."""

    features: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    @classmethod
    def of(cls, models: Mapping[str, ModelConfig]) -> Schema:
        """The union over all models, sorted, so that it does not depend on their order."""
        return cls(
            features=tuple(sorted({f for m in models.values() for f in m.features})),
            tags=tuple(sorted({s for m in models.values() for s in (*m.segments, *chain(*m.intersections))})),
            classes=tuple(sorted({c for m in models.values() for c in m.classes or ("0", "1")})),
        )


@dataclass(frozen=True, slots=True)
class Term:
    """One alternative of an expression."""

    root: Root
    path: tuple[str, ...]
    """Below the root; a constant's is its text."""
    converter: str | None = None


Expression = tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class FieldMap:
    """Every native field of one source with the places it is found in."""

    scalars: Mapping[str, Expression]
    features: Mapping[str, Expression]
    tags: Mapping[str, Expression]
    probabilities: Mapping[str, Expression]

    @property
    def terms(self) -> tuple[Term, ...]:
        """Every place that is read, in a fixed order."""
        groups = (self.scalars, self.features, self.tags, self.probabilities)
        return tuple(dict.fromkeys(term for group in groups for e in group.values() for term in e))

    def moved(self, move: Callable[[Term], Term]) -> FieldMap:
        """The same fields found elsewhere (inside an envelope)."""

        def each(group: Mapping[str, Expression]) -> dict[str, Expression]:
            return {name: tuple(map(move, expression)) for name, expression in group.items()}

        return FieldMap(each(self.scalars), each(self.features), each(self.tags), each(self.probabilities))


def parse_expression(key: str, text: str) -> Expression:
    """Read `text`, the value of `fields.key`; a ConfigError names both and says what would be right."""
    if text.lstrip().startswith("="):
        return (Term("constant", (text.strip()[1:],)),)
    return tuple(_parse_term(key, text, part.strip()) for part in _split(text))


def _split(text: str) -> list[str]:
    return re.findall(r'(?:"[^"]*"|[^|"])+', text) or [""]


def _parse_term(key: str, text: str, part: str) -> Term:
    if part.startswith("="):
        return Term("constant", (part[1:].strip(),))
    path, _, converter = (piece.strip() for piece in part.partition(">"))
    root = re.match(r"\w*", path)[0]  # type: ignore[index] # it matches the empty string
    segments = tuple(quoted or bare for quoted, bare in _SEGMENT.findall(path, len(root)))
    if root not in {"value", "header", "kafka"}:
        raise _bad(key, text, f"`{part}` begins with none of value., header., kafka. and `=`", "value.NAME")
    if "".join(m[0] for m in _SEGMENT.finditer(path, len(root))) != path[len(root) :]:
        raise _bad(key, text, f"`{part}` is not a path", 'dots between names, odd names quoted: value."a b"')
    if root == "kafka" and (len(segments) != 1 or segments[0] not in _KAFKA):
        raise _bad(key, text, f"Kafka has no `{part}`", "one of " + ", ".join(f"kafka.{k}" for k in _KAFKA))
    if root == "header" and segments:  # names may have dots, are not nested, and are compared without case
        segments = (".".join(segments).lower(),)
    if converter and converter not in _CONVERTERS:
        raise _bad(key, text, f"unknown converter `{converter}`", " or ".join(_CONVERTERS))
    if converter and key != "timestamp":
        raise _bad(key, text, f"converter `{converter}` is for timestamp only", f"`{path}` alone")
    if (">" in part) != bool(converter):
        raise _bad(key, text, "nothing follows `>`", "a converter: " + " or ".join(_CONVERTERS))
    return Term(root, segments, converter or None)  # type: ignore[arg-type] # checked above


def _bad(key: str, text: str, wrong: str, remedy: str) -> ConfigError:
    return ConfigError(f'sources: fields.{key}: "{text}": {wrong}. Write {remedy}.')


def compile_fields(source: SourceConfig, schema: Schema) -> FieldMap:
    """Preset and overrides of one source as a table of places; raises ConfigError."""
    known = {*_SCALARS, *CONTAINERS}
    for key in source.fields:
        container, _, name = key.partition(".")
        if key not in known and not (container in CONTAINERS and name):
            raise ConfigError(
                f"sources: fields.{key}: no such field. "
                f"Use one of {', '.join(sorted(known))}, or features.NAME, tags.NAME."
            )
    texts = {**PRESETS[source.preset], **source.fields}
    parsed = {key: parse_expression(key, text) for key, text in texts.items()}
    for key in CONTAINERS:
        if any(term.root != "value" for term in parsed[key]):
            raise _bad(key, texts[key], "a container lies in the value", f"value.{key}")
    for key, terms in parsed.items():
        if key not in CONTAINERS and any(
            term.root in {"value", "header"} and not term.path for term in terms
        ):
            raise _bad(key, texts[key], "the root alone names no field", f"value.{key}")

    def entries(container: str, names: tuple[str, ...]) -> dict[str, Expression]:
        inside = {n: tuple(replace(t, path=(*t.path, n)) for t in parsed[container]) for n in names}
        return {n: parsed.get(f"{container}.{n}", inside[n]) for n in names}

    # A tag may be a feature of the model: the same places are tried, with the features' own overrides.
    as_features = entries("features", schema.tags)
    tags = {n: tuple(dict.fromkeys((*e, *as_features[n]))) for n, e in entries("tags", schema.tags).items()}
    fixed = {"prediction": PREDICTION_FIELDS, "feedback": FEEDBACK_FIELDS}
    scalars = fixed.get(source.kind, _SCALARS)
    predicts = source.kind != "feedback"
    return FieldMap(
        scalars={name: parsed[name] for name in scalars},
        features=entries("features", schema.features) if predicts else {},
        tags=tags if predicts else {},
        probabilities=entries("prediction_probabilities", schema.classes) if predicts else {},
    )


def source_of(topic: str, sources: Sequence[SourceConfig]) -> SourceConfig:
    """The source a topic or a file belongs to.

    A file is named in `topics` by its path, its name or its name up to the first dot (`feedback` is
    feedback.jsonl.gz). One that is named nowhere is read like the only source there is; among several, by the
    format they share, and each record by its content.
    """
    path = Path(topic)
    for name in (topic, path.name, path.stem, path.name.split(".")[0]):
        for source in sources:
            if name in source.topics:
                return source
    if len(sources) == 1:
        return sources[0]
    formats = {(s.preset, tuple(sorted(s.fields.items()))) for s in sources}
    if len(formats) == 1:
        return sources[0].model_copy(update={"kind": "auto"})
    return SourceConfig(topics=[topic])
