"""A batch of raw records to columns of predictions and feedback; the rest goes out with its reason.

One parse and two column passes per batch; Python looks at single records only where one is suspect or has
headers. Envelopes (CloudEvents 1.0 over Kafka): structured if the content type says so, which is asked first
since structured messages may carry ce_ headers too; else binary if there are ce_ headers, with the value as
the data; else bare JSON, which may itself be a structured envelope.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import cast

import numpy as np
import polars as pl

from agent.config import Config, SourceConfig
from agent.errors import ConfigError
from agent.events import (
    FEEDBACK_COLUMNS,
    NO_TIME,
    PREDICTION_COLUMNS,
    Decoded,
    Headers,
    Int64s,
    Kind,
    RawBatch,
    Reason,
    Rejected,
)
from agent.ingest import columns
from agent.ingest.columns import IDENTITIES, ROW
from agent.ingest.convert import time_ms_slowly
from agent.ingest.mapping import CONTAINERS, FieldMap, Schema, Term, compile_fields, source_of
from agent.ingest.parse import JsonSchema, json_schema, parse_lines

MAX_UNKNOWN_FIELDS = 100
_CE_TYPE, _CE_TIME = Term("header", ("ce_type",)), Term("header", ("ce_time",))
_STRUCTURED = "application/cloudevents"

_HeaderTexts = Mapping[str, Sequence[str | None]]
"""Values by lower-case name, by row of the batch; empty when the batch has none."""


class Decoder:
    """Reads the batches of all sources; stateless but for what it compiled. Raises ConfigError when made."""

    def __init__(
        self, sources: Sequence[SourceConfig], schema: Schema, *, max_message_bytes: int, future_skew_ms: int
    ) -> None:
        self._sources = tuple(sources)
        self._schema = schema
        self._max_message_bytes = max_message_bytes
        self._future_skew_ms = future_skew_ms
        self._plans = {topic: _Plan.of(s, schema) for s in reversed(self._sources) for topic in s.topics}
        self._predictions = pl.DataFrame(schema=columns.dtypes(PREDICTION_COLUMNS, schema))
        self._feedback = pl.DataFrame(schema=columns.dtypes(FEEDBACK_COLUMNS, schema))

    @classmethod
    def of(cls, config: Config, schema: Schema | None = None) -> Decoder:
        """The decoder of a config; `schema` adds what baselines know besides."""
        return cls(
            config.sources,
            schema or Schema.of(config.models),
            max_message_bytes=config.max_message_bytes,
            future_skew_ms=config.future_skew // timedelta(milliseconds=1),
        )

    def decode(self, batch: RawBatch) -> Decoded:
        """Every record of the batch, each exactly once: prediction, feedback or rejected."""
        plan = self._plan(batch.partition.topic)
        bad: dict[int, Reason] = {}
        tables = list(self._tables(plan, batch, bad)) if len(batch) else []
        labels = Kind.PREDICTION if plan.labelled else Kind.FEEDBACK
        feedback = _side(tables, labels, columns.FEEDBACK_SELECT, self._feedback)
        return Decoded(
            batch.partition,
            _side(tables, Kind.PREDICTION, columns.PREDICTION_SELECT, self._predictions),
            feedback.filter(pl.col("label").is_not_null()) if plan.labelled else feedback,
            [Rejected(batch.partition, int(batch.offsets[i]), bad[i], _raw(batch, i)) for i in sorted(bad)],
            batch.next_position,
            plan.labelled,
        )

    def unknown_fields(self, batch: RawBatch) -> frozenset[str]:
        """Features outside the schema, seen in the first record of the batch; at most 100."""
        plan = self._plan(batch.partition.topic)
        if plan.kind is Kind.FEEDBACK or not len(batch):
            return frozenset()
        return frozenset(sorted(plan.unknown(_raw(batch, 0)))[:MAX_UNKNOWN_FIELDS])

    def _plan(self, topic: str) -> _Plan:
        if topic not in self._plans:
            self._plans[topic] = _Plan.of(source_of(topic, self._sources), self._schema)
        return self._plans[topic]

    def _tables(self, plan: _Plan, batch: RawBatch, bad: dict[int, Reason]) -> Iterator[pl.DataFrame]:
        """One table of native columns for each envelope in the batch; bad rows are told in `bad`."""
        if batch.frame is not None:
            rows = np.arange(len(batch), dtype=np.int64)
            found = batch.frame.select(_file_columns(batch.frame, plan.fields))
            reader = replace(plan.bare, texts=columns.texts(plan.fields, _CE_TYPE, columns.flat))
            yield self._finish(plan, reader, batch, found, rows, {}, bad)
            return
        rows = self._readable(batch.values, bad)
        headers = _header_texts(batch.headers, plan.header_names)
        structured = _structured(headers, rows)
        bare = np.setdiff1d(rows, structured, assume_unique=True)
        if len(bare):
            parsed, bare = _parse(batch, bare, plan.bare.json, bad)
            if plan.bare.sees_envelopes:
                inside = (parsed["specversion"].is_not_null() & parsed["data"].is_not_null()).to_numpy()
                if inside.any():
                    structured = np.union1d(structured, bare[inside])
                    parsed, bare = parsed.filter(~inside), bare[~inside]
            yield self._finish(plan, plan.bare, batch, parsed, bare, headers, bad)
        if len(structured):
            parsed, structured = _parse(batch, structured, plan.envelope.json, bad)
            yield self._finish(plan, plan.envelope, batch, parsed, structured, headers, bad)

    def _readable(self, values: Sequence[bytes | None], bad: dict[int, Reason]) -> Int64s:
        rows = np.arange(len(values), dtype=np.int64)
        for i, value in enumerate(values):
            if value is None:
                bad[i] = Reason.NULL_VALUE
            elif len(value) > self._max_message_bytes:
                bad[i] = Reason.TOO_LARGE
        return np.delete(rows, list(bad)) if bad else rows

    def _finish(
        self,
        plan: _Plan,
        reader: _Reader,
        batch: RawBatch,
        parsed: pl.DataFrame,
        rows: Int64s,
        headers: _HeaderTexts,
        bad: dict[int, Reason],
    ) -> pl.DataFrame:
        """Parsed rows to native columns; the good ones come back, the others are told in `bad`."""
        table = parsed.with_columns(pl.Series(ROW, rows), *_outside(plan, batch, rows, headers)).select(
            reader.texts
        )
        table = table.with_columns(
            pl.Series("offset", batch.offsets[rows]), pl.Series("append_ms", batch.append_ms[rows])
        )
        unread = pl.col("timestamp").is_not_null() & pl.col("timestamp_ms").is_null() & pl.col("plain_time")
        if table.select(unread.any()).item():
            slowly = time_ms_slowly(pl.when(unread).then(pl.col("timestamp")))
            table = table.with_columns(timestamp_ms=pl.coalesce("timestamp_ms", slowly))
        classes = tuple(plan.fields.probabilities)
        table = table.with_columns(columns.kind_of(plan.kind, plan.checks_type), **columns.native(classes))
        table = table.with_columns(columns.reason(classes, self._future_skew_ms))
        wrong = table.filter(pl.col("reason").is_not_null())
        here = dict(zip(wrong[ROW].to_list(), map(Reason, wrong["reason"].to_list()), strict=True))
        _look_closer(table, batch, reader.fields, here)
        bad.update(here)
        return table.filter(~pl.col(ROW).is_in(list(here))) if here else table


@dataclass(frozen=True, slots=True)
class _Reader:
    """How to read one source under one envelope."""

    fields: FieldMap
    json: JsonSchema
    texts: tuple[pl.Expr, ...]
    sees_envelopes: bool

    @classmethod
    def of(cls, fields: FieldMap, type_term: Term) -> _Reader:
        paths = {t.path for t in (*fields.terms, type_term) if t.root == "value"}
        sees = type_term == _CE_TYPE and not any(p[0] in {"specversion", "data"} for p in paths)
        try:
            schema = json_schema(paths | ({("specversion",), ("data",)} if sees else set()))
        except ValueError as error:
            raise ConfigError(f"sources: fields: {error}. Map one of the two elsewhere.") from error
        return cls(fields, schema, columns.texts(fields, type_term, columns.nested), sees)


@dataclass(frozen=True, slots=True)
class _Plan:
    """All that is decided about a source before its first record."""

    kind: Kind | None
    """None: told by each record."""
    labelled: bool
    """Each prediction carries its label, if that is known yet."""
    checks_type: bool
    fields: FieldMap
    containers: frozenset[tuple[str, ...]]
    """Where features may lie."""
    bare: _Reader
    envelope: _Reader
    header_names: frozenset[str]

    @classmethod
    def of(cls, source: SourceConfig, schema: Schema) -> _Plan:
        fields = compile_fields(source, schema)
        timestamp = (*fields.scalars["timestamp"], _CE_TIME)
        fields = replace(fields, scalars={**fields.scalars, "timestamp": timestamp})
        everything = compile_fields(source.model_copy(update={"kind": "auto"}), Schema(features=("",)))
        return cls(
            kind={"prediction": Kind.PREDICTION, "labelled": Kind.PREDICTION, "feedback": Kind.FEEDBACK}.get(
                source.kind
            ),
            labelled=source.kind == "labelled",
            # Other people's formats bring other people's types; with a fixed kind they are no contradiction.
            checks_type=source.kind == "auto" or source.preset == "native",
            fields=fields,
            containers=frozenset(t.path[:-1] for t in everything.features[""] if t.root == "value"),
            bare=_Reader.of(fields, _CE_TYPE),
            envelope=_Reader.of(fields.moved(_into_envelope), _into_envelope(_CE_TYPE)),
            header_names=frozenset({"content-type", "ce_type", "ce_time", *_names(fields, "header")}),
        )

    def unknown(self, raw: bytes | None) -> set[str]:
        """Names beside the features that no place of the mapping reads."""
        record = _loads(raw)
        if isinstance(record, dict) and "specversion" in record and "data" in record:
            record = record["data"]
        known = {t.path for t in self.fields.terms if t.root == "value"} | {(name,) for name in CONTAINERS}
        found: set[str] = set()
        for container in self.containers:
            inside = record
            for name in container:
                inside = inside.get(name) if isinstance(inside, dict) else None
            if isinstance(inside, dict):
                here = {
                    path[len(container)]
                    for path in known
                    if len(path) > len(container) and path[: len(container)] == container
                }
                found |= set(inside) - here
        return found


def _names(fields: FieldMap, root: str) -> set[str]:
    return {t.path[0] for t in fields.terms if t.root == root}


def _into_envelope(term: Term) -> Term:
    """The place of a term in a structured envelope: values under `data`, attributes at the top."""
    if term.root == "value":
        return replace(term, path=("data", *term.path))
    if term.root == "header" and term.path[0].startswith("ce_"):
        return Term("value", (term.path[0][3:],), term.converter)
    return term


def _parse(
    batch: RawBatch, rows: Int64s, schema: JsonSchema, bad: dict[int, Reason]
) -> tuple[pl.DataFrame, Int64s]:
    """Columns of the rows that can be parsed, and which they are."""
    values: Sequence[bytes] = batch.values  # type: ignore[assignment] # rows without a value are out already
    if len(rows) != len(batch):
        values = [values[i] for i in rows.tolist()]
    frame, kept, wrong = parse_lines(values, schema)
    bad.update({int(rows[i]): why for i, why in wrong.items()})
    return frame, rows[kept] if wrong else rows


def _header_texts(headers: Sequence[Headers] | None, names: frozenset[str]) -> _HeaderTexts:
    if headers is None:
        return {}
    found: dict[str, list[str | None]] = {name: [None] * len(headers) for name in names}
    for row, pairs in enumerate(headers):
        for name, value in pairs:
            if (column := found.get(name.lower())) is not None:
                column[row] = value.decode("utf-8", "replace")
    return found


def _structured(headers: _HeaderTexts, rows: Int64s) -> Int64s:
    content = headers.get("content-type")
    if content is None:
        return rows[:0]
    return np.array(
        [i for i in rows.tolist() if (content[i] or "").lower().startswith(_STRUCTURED)], dtype=np.int64
    )


def _outside(plan: _Plan, batch: RawBatch, rows: Int64s, headers: _HeaderTexts) -> list[pl.Series | pl.Expr]:
    """Columns for what the mapping reads beside the value."""
    found: list[pl.Series | pl.Expr] = []
    for term in {_CE_TYPE, *(t for t in plan.fields.terms if t.root in {"header", "kafka"})}:
        name, what = columns.outside(term), term.path[0]
        if term.root == "header":
            texts = headers.get(what)
            picked: Sequence[str | None] = [] if texts is None else [texts[i] for i in rows.tolist()]
            nothing = pl.lit(None, dtype=pl.String).alias(name)
            found.append(nothing if texts is None else pl.Series(name, picked, dtype=pl.String))
        elif what == "key":
            keys = [None if batch.keys is None else batch.keys[i] for i in rows.tolist()]
            decoded = [None if key is None else key.decode("utf-8", "replace") for key in keys]
            found.append(pl.Series(name, decoded, dtype=pl.String))
        elif what in {"offset", "timestamp_ms"}:
            numbers = pl.Series(name, (batch.offsets if what == "offset" else batch.append_ms)[rows])
            found.append(numbers.replace(NO_TIME, None).cast(pl.String))
        else:
            found.append(pl.lit(str(getattr(batch.partition, what))).alias(name))
    return found


def _file_columns(frame: pl.DataFrame, fields: FieldMap) -> list[pl.Expr]:
    """Each path of the mapping as a String column: a nested field, or a column named like the dotted path."""
    found = []
    for path in {t.path for t in fields.terms if t.root == "value"}:
        expr, dtype = _file_column(frame, path)
        if dtype == pl.Date or isinstance(dtype, pl.Datetime):
            moment = expr.cast(pl.Datetime("ms", getattr(dtype, "time_zone", None)))
            if getattr(dtype, "time_zone", None):
                moment = moment.dt.convert_time_zone("UTC")
            expr = moment.dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
        text = expr.cast(pl.String, strict=False)
        if dtype.is_float():  # as JSON numbers are read: 2.0 is 2
            text = text.str.strip_suffix(".0")
        found.append(text.alias(columns.flat_name(path)))
    return found


def _file_column(frame: pl.DataFrame, path: tuple[str, ...]) -> tuple[pl.Expr, pl.DataType]:
    whole = ".".join(path)
    if whole in frame.schema:
        return pl.col(whole), frame.schema[whole]
    dtype: pl.DataType = pl.Struct(frame.schema)
    expr: pl.Expr | None = None
    for name in path:
        inner = dtype.to_schema() if isinstance(dtype, pl.Struct) else pl.Schema()
        if name not in inner:
            return pl.repeat(None, frame.height, dtype=pl.String), pl.String()
        expr = pl.col(name) if expr is None else expr.struct.field(name)
        dtype = cast(pl.DataType, inner[name])
    if expr is None or isinstance(dtype, pl.Struct | pl.List | pl.Array):
        return pl.repeat(None, frame.height, dtype=pl.String), pl.String()
    return expr, dtype


def _look_closer(table: pl.DataFrame, batch: RawBatch, fields: FieldMap, bad: dict[int, Reason]) -> None:
    """What columns cannot tell, asked of the few records that may be concerned.

    An array reads as a text that begins with a bracket, as a genuine text may; and a label of null, which
    retracts, reads like no label at all, which is a fault. A file's empty label retracts beside a revision.
    """
    odd = pl.any_horizontal(pl.col(c).str.contains(r"^[\[{]").fill_null(False) for c in IDENTITIES)
    unlabelled = (pl.col("kind") == Kind.FEEDBACK) & pl.col("label").is_null()
    suspects = table.filter((odd | unlabelled) & pl.col("reason").is_null())
    rows = suspects.select(ROW, unlabelled, pl.col("revision").is_not_null()).rows()
    for row, asks_label, revised in rows:
        retracts = revised
        if batch.frame is None:
            record = _loads(batch.values[row])
            if any(isinstance(v, list | dict) for name in IDENTITIES for v in _found(record, fields, name)):
                bad[row] = Reason.WRONG_TYPE
                continue
            retracts = any(v is None for v in _found(record, fields, "label"))
        if asks_label and not retracts:
            bad[row] = Reason.MISSING_LABEL


def _found(record: object, fields: FieldMap, name: str) -> Iterator[object]:
    """What a record has at the places of a field; nothing where the key is absent."""
    for term in fields.scalars.get(name, ()):
        inside, here = record, term.root == "value"
        for key in term.path if here else ():
            here = isinstance(inside, dict) and key in inside
            inside = inside[key] if here else None  # type: ignore[index] # it is a dict
            if not here:
                break
        if here:
            yield inside


def _loads(value: bytes | None) -> object:
    try:
        return json.loads(value or b"null")
    except (ValueError, RecursionError):
        return None


def _raw(batch: RawBatch, row: int) -> bytes | None:
    if batch.frame is None:
        return batch.values[row]
    return json.dumps(batch.frame.row(row, named=True), default=str).encode()


def _side(
    tables: Sequence[pl.DataFrame], kind: Kind, select: Sequence[pl.Expr], empty: pl.DataFrame
) -> pl.DataFrame:
    """The rows of one kind, in offset order, with exactly its columns."""
    frames = []
    for table in tables:
        ours = table["kind"] == kind
        here = table if ours.all() else table.filter(ours)
        if here.height:
            frames.append(here.select(select))
    if not frames:
        return empty
    return frames[0] if len(frames) == 1 else pl.concat(frames).sort("offset")
