"""What a field is, as polars expressions: from its places in an event to native columns, and what is wrong.

Two passes over a batch: `texts` picks every field up as a String, the first alternative that is present;
`native` turns texts into numbers and classes. `reason` then names the first fault of each row, or null.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import polars as pl

from agent.events import FEEDBACK_COLUMNS, NO_TIME, PREDICTION_COLUMNS, Kind, Reason
from agent.ingest.convert import canonical, number, present, time_ms, whole
from agent.ingest.mapping import Expression, FieldMap, Schema, Term

DTypes = dict[str, pl.DataType | type[pl.DataType]]
EVENT_TYPES = {
    "io.plumbline.prediction.v1": Kind.PREDICTION,
    "io.plumbline.feedback.v1": Kind.FEEDBACK,
}
ROW, TYPE = "\0row", "\0type"  # no producer names a field like that
IDENTITIES = ("prediction_id", "model_name", "model_version", "prediction", "label")
"""Texts that must not be made of an array or an object."""
_NO_TEXT = pl.lit(None, dtype=pl.String)


def dtypes(columns: Mapping[str, pl.DataType | type[pl.DataType]], schema: Schema) -> DTypes:
    """PREDICTION_COLUMNS or FEEDBACK_COLUMNS with the structs spelt out for one schema."""
    structs = {
        "features": pl.Struct(dict.fromkeys(schema.features, pl.String)),
        "tags": pl.Struct(dict.fromkeys(schema.tags, pl.String)),
        "prediction_probabilities": pl.Struct(dict.fromkeys(schema.classes, pl.Float64)),
    }
    return {name: structs.get(name, dtype) for name, dtype in columns.items()}


def outside(term: Term) -> str:
    """The column that brings a header or a property of the Kafka record into the frame."""
    return f"\0{term.root}.{term.path[0]}"


def flat_name(path: tuple[str, ...]) -> str:
    """The column that a path of a flat file is brought in as."""
    return "\0value." + ".".join(path)


def nested(term: Term) -> pl.Expr:
    """A term over parsed JSON."""
    if term.root == "value":
        expr = pl.col(term.path[0])
        for name in term.path[1:]:
            expr = expr.struct.field(name)
        return expr
    return pl.lit(term.path[0]) if term.root == "constant" else pl.col(outside(term))


def flat(term: Term) -> pl.Expr:
    """A term over the columns of a file."""
    return pl.col(flat_name(term.path)) if term.root == "value" else nested(term)


def texts(fields: FieldMap, type_term: Term, leaf: Callable[[Term], pl.Expr]) -> tuple[pl.Expr, ...]:
    """Pass one: every field of a source as text, structs too, and the time if it is spelt the common way."""

    def first(expression: Expression) -> pl.Expr:
        return pl.coalesce([present(leaf(term)) for term in expression])

    def struct(group: Mapping[str, Expression]) -> pl.Expr:
        found = [first(expression).alias(name) for name, expression in group.items()]
        return pl.struct(found) if found else pl.lit(None, dtype=pl.Struct({}))

    def scalar(name: str) -> pl.Expr:
        return first(fields.scalars[name]) if name in fields.scalars else _NO_TEXT

    times = fields.scalars["timestamp"]
    ms, plain = pl.lit(None, dtype=pl.Int64), pl.lit(True)
    for term in reversed(times):  # the first that is present decides, readable or not
        here = present(leaf(term)).is_not_null()
        ms = pl.when(here).then(time_ms(leaf(term), term.converter)).otherwise(ms)
        plain = pl.when(here).then(pl.lit(term.converter is None)).otherwise(plain)
    names = dict.fromkeys(
        [*fields.scalars, *IDENTITIES, "prediction_score", "latency_seconds", "error", "revision"]
    )
    return (
        pl.col(ROW),
        leaf(type_term).alias(TYPE),
        *(scalar(name).alias(name) for name in names),
        (ms if len(times) > 1 else time_ms(leaf(times[0]), times[0].converter)).alias("timestamp_ms"),
        plain.alias("plain_time"),
        struct(fields.features).alias("features"),
        struct(fields.tags).alias("tags"),
        struct(fields.probabilities).alias("prediction_probabilities"),
    )


def kind_of(kind: Kind | None, checks_type: bool) -> pl.Expr:
    """What each row is; null if its type contradicts the source or says nothing that is known."""
    told = pl.col(TYPE).replace_strict(EVENT_TYPES, default=None, return_dtype=pl.String)
    if kind is not None:
        fits = pl.col(TYPE).is_null() | (told == kind) if checks_type else pl.lit(True)
        return pl.when(fits).then(pl.lit(str(kind))).alias("kind")
    predicts = pl.any_horizontal(pl.col(c).is_not_null() for c in ("prediction", "prediction_score", "error"))
    labels = pl.any_horizontal(pl.col(c).is_not_null() for c in ("label", "revision"))
    content = pl.when(labels & ~predicts).then(pl.lit("feedback")).otherwise(pl.lit("prediction"))
    return pl.when(pl.col(TYPE).is_null()).then(content).otherwise(told).alias("kind")


def native(probabilities: Iterable[str]) -> dict[str, pl.Expr]:
    """Pass two: texts to times, numbers and classes. A number that cannot be read is null beside its text."""
    inside = [
        number(pl.col("prediction_probabilities").struct.field(name)).alias(name) for name in probabilities
    ]
    return {
        "class": canonical(pl.col("prediction")),
        "truth": canonical(pl.col("label")),
        "score": number(pl.col("prediction_score")),
        "latency": number(pl.col("latency_seconds")),
        "rank": whole(pl.col("revision")),
        "probability": pl.struct(inside) if inside else pl.lit(None, dtype=pl.Struct({})),
    }


def reason(probabilities: Iterable[str], future_skew_ms: int) -> pl.Expr:
    """The first fault of each row, in the order in which a person would look; null for a good one."""
    known_time = pl.col("append_ms") != NO_TIME
    ahead = known_time & (pl.col("timestamp_ms") - future_skew_ms > pl.col("append_ms"))
    predicts = pl.col("kind") == Kind.PREDICTION

    def unread(text: pl.Expr, value: pl.Expr) -> pl.Expr:
        return text.is_not_null() & value.is_null()

    texts_, values = pl.col("prediction_probabilities").struct, pl.col("probability").struct
    chances = [unread(texts_.field(p), values.field(p)) for p in probabilities]
    numbers = pl.any_horizontal(
        unread(pl.col("latency_seconds"), pl.col("latency")) | (pl.col("latency") < 0).fill_null(False),
        *chances,
    )
    says = [pl.col(c).is_null() for c in ("prediction", "prediction_score", "error")]
    empty = pl.all_horizontal(*says, *(texts_.field(p).is_null() for p in probabilities))
    faults = [
        (Reason.UNEXPECTED_EVENT_TYPE, pl.col("kind").is_null()),
        (Reason.MISSING_PREDICTION_ID, pl.col("prediction_id").is_null()),
        (Reason.MISSING_MODEL_NAME, predicts & pl.col("model_name").is_null()),
        (Reason.MISSING_TIMESTAMP, pl.col("timestamp").is_null()),
        (Reason.BAD_TIMESTAMP, pl.col("timestamp_ms").is_null()),
        (Reason.FUTURE_TIMESTAMP, ahead),
        (Reason.MISSING_PREDICTION, predicts & empty),
        (Reason.BAD_SCORE, predicts & unread(pl.col("prediction_score"), pl.col("score"))),
        (Reason.BAD_NUMBER, (predicts & numbers) | (~predicts & unread(pl.col("revision"), pl.col("rank")))),
    ]
    found = _NO_TEXT
    for name, fault in reversed(faults):
        found = pl.when(fault).then(pl.lit(str(name))).otherwise(found)
    return found.alias("reason")


PREDICTION_SELECT = tuple(
    {
        "model_version": pl.col("model_version").fill_null("unknown"),
        "prediction": pl.col("class").alias("prediction"),
        "prediction_score": pl.col("score").alias("prediction_score"),
        "prediction_probabilities": pl.col("probability").alias("prediction_probabilities"),
        "latency_seconds": pl.col("latency").alias("latency_seconds"),
    }.get(name, pl.col(name))
    for name in PREDICTION_COLUMNS
)
FEEDBACK_SELECT = tuple(
    {
        "label": pl.col("truth").alias("label"),
        "revision": pl.col("rank").fill_null(0).alias("revision"),
    }.get(name, pl.col(name))
    for name in FEEDBACK_COLUMNS
)
