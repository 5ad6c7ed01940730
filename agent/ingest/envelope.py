"""What stands around a record's value: Kafka's own columns, headers, and CloudEvents' attributes.

Envelopes (CloudEvents 1.0 over Kafka): structured if the content type says so, which is asked first since
structured messages may carry ce_ headers too; else binary if there are ce_ headers, with the value as the
data; else bare JSON, which may itself be a structured envelope.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from agent.events import NO_TIME, Headers, Int64s, RawBatch
from agent.ingest import columns
from agent.ingest.mapping import FieldMap, Term

CE_TYPE, CE_TIME = Term("header", ("ce_type",)), Term("header", ("ce_time",))
_STRUCTURED = "application/cloudevents"

HeaderTexts = Mapping[str, Sequence[str | None]]
"""Values by lower-case name, by row of the batch; empty when the batch has none."""


def into_envelope(term: Term) -> Term:
    """The place of a term in a structured envelope: values under `data`, attributes at the top."""
    if term.root == "value":
        return replace(term, path=("data", *term.path))
    if term.root == "header" and term.path[0].startswith("ce_"):
        return Term("value", (term.path[0][3:],), term.converter)
    return term


def header_texts(headers: Sequence[Headers] | None, names: frozenset[str]) -> HeaderTexts:
    """The headers of those names."""
    if headers is None:
        return {}
    found: dict[str, list[str | None]] = {name: [None] * len(headers) for name in names}
    for row, pairs in enumerate(headers):
        for name, value in pairs:
            if (column := found.get(name.lower())) is not None:
                column[row] = value.decode("utf-8", "replace")
    return found


def structured(headers: HeaderTexts, rows: Int64s) -> Int64s:
    """The rows whose content type says that the value is an envelope."""
    content = headers.get("content-type")
    if content is None:
        return rows[:0]
    return np.array(
        [i for i in rows.tolist() if (content[i] or "").lower().startswith(_STRUCTURED)], dtype=np.int64
    )


def outside(
    fields: FieldMap, batch: RawBatch, rows: Int64s, headers: HeaderTexts
) -> list[pl.Series | pl.Expr]:
    """Columns for what the mapping reads beside the value."""
    found: list[pl.Series | pl.Expr] = []
    for term in {CE_TYPE, *(t for t in fields.terms if t.root in {"header", "kafka"})}:
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
