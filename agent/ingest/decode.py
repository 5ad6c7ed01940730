"""A batch of raw records to columns of predictions and feedback; the rest goes out with its reason.

One parse and two column passes per batch; Python looks at single records only where one is suspect or has
headers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta

import numpy as np
import polars as pl

from agent.config import Config, SourceConfig
from agent.events import (
    FEEDBACK_COLUMNS,
    PREDICTION_COLUMNS,
    Decoded,
    Int64s,
    Kind,
    RawBatch,
    Reason,
    Rejected,
)
from agent.ingest import columns
from agent.ingest.columns import ROW
from agent.ingest.convert import time_ms_slowly
from agent.ingest.envelope import CE_TYPE, HeaderTexts, header_texts, outside, structured
from agent.ingest.mapping import Schema, source_of
from agent.ingest.parse import JsonSchema, one_record, parse_lines
from agent.ingest.plan import Plan, Reader
from agent.ingest.suspects import look_closer
from agent.ingest.table import file_columns

MAX_UNKNOWN_FIELDS = 100


class Decoder:
    """Reads the batches of all sources. Raises ConfigError when made.

    It remembers which topics had bad records last: that changes its pace, not its result.
    """

    def __init__(
        self, sources: Sequence[SourceConfig], schema: Schema, *, max_message_bytes: int, future_skew_ms: int
    ) -> None:
        self._sources = tuple(sources)
        self._schema = schema
        self._max_message_bytes = max_message_bytes
        self._future_skew_ms = future_skew_ms
        self._plans = {topic: Plan.of(s, schema) for s in reversed(self._sources) for topic in s.topics}
        self._wary: set[str] = set()
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
        return frozenset(sorted(plan.unknown(one_record(_raw(batch, 0))))[:MAX_UNKNOWN_FIELDS])

    def _plan(self, topic: str) -> Plan:
        if topic not in self._plans:
            self._plans[topic] = Plan.of(source_of(topic, self._sources), self._schema)
        return self._plans[topic]

    def _tables(self, plan: Plan, batch: RawBatch, bad: dict[int, Reason]) -> Iterator[pl.DataFrame]:
        """One table of native columns for each envelope in the batch; bad rows are told in `bad`."""
        if batch.frame is not None:
            rows = np.arange(len(batch), dtype=np.int64)
            found = batch.frame.select(file_columns(batch.frame, plan.fields))
            reader = replace(plan.bare, texts=columns.texts(plan.fields, CE_TYPE, columns.flat))
            yield self._finish(plan, reader, batch, found, rows, {}, bad)
            return
        rows = self._readable(batch.values, bad)
        headers = header_texts(batch.headers, plan.header_names)
        enveloped = structured(headers, rows)
        bare = np.setdiff1d(rows, enveloped, assume_unique=True)
        if len(bare):
            parsed, bare = self._parse(batch, bare, plan.bare.json, bad)
            if plan.bare.sees_envelopes:
                inside = (parsed["specversion"].is_not_null() & parsed["data"].is_not_null()).to_numpy()
                if inside.any():
                    enveloped = np.union1d(enveloped, bare[inside])
                    parsed, bare = parsed.filter(~inside), bare[~inside]
            yield self._finish(plan, plan.bare, batch, parsed, bare, headers, bad)
        if len(enveloped):
            parsed, enveloped = self._parse(batch, enveloped, plan.envelope.json, bad)
            yield self._finish(plan, plan.envelope, batch, parsed, enveloped, headers, bad)

    def _readable(self, values: Sequence[bytes | None], bad: dict[int, Reason]) -> Int64s:
        rows = np.arange(len(values), dtype=np.int64)
        for i, value in enumerate(values):
            if value is None:
                bad[i] = Reason.NULL_VALUE
            elif len(value) > self._max_message_bytes:
                bad[i] = Reason.TOO_LARGE
        return np.delete(rows, list(bad)) if bad else rows

    def _parse(
        self, batch: RawBatch, rows: Int64s, schema: JsonSchema, bad: dict[int, Reason]
    ) -> tuple[pl.DataFrame, Int64s]:
        """Columns of the rows that can be parsed, and which they are."""
        values: Sequence[bytes] = batch.values  # type: ignore[assignment] # rows without a value are out already
        if len(rows) != len(batch):
            values = [values[i] for i in rows.tolist()]
        topic = batch.partition.topic
        frame, kept, wrong = parse_lines(values, schema, wary=topic in self._wary)
        (self._wary.add if wrong else self._wary.discard)(topic)
        bad.update({int(rows[i]): why for i, why in wrong.items()})
        return frame, rows[kept] if wrong else rows

    def _finish(
        self,
        plan: Plan,
        reader: Reader,
        batch: RawBatch,
        parsed: pl.DataFrame,
        rows: Int64s,
        headers: HeaderTexts,
        bad: dict[int, Reason],
    ) -> pl.DataFrame:
        """Parsed rows to native columns; the good ones come back, the others are told in `bad`."""
        table = parsed.with_columns(pl.Series(ROW, rows), *outside(plan.fields, batch, rows, headers)).select(
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
        look_closer(table, batch, reader.fields, here)
        bad.update(here)
        return table.filter(~pl.col(ROW).is_in(list(here))) if here else table


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
