"""What columns cannot tell, asked of the few records that may be concerned.

An array reads as a text that begins with a bracket, as a genuine text may; and a label of null, which
retracts, reads like no label at all, which is a fault. A file's empty label retracts beside a revision.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from agent.events import Kind, RawBatch, Reason
from agent.ingest.columns import IDENTITIES, ROW
from agent.ingest.mapping import FieldMap
from agent.ingest.parse import one_record


def look_closer(table: pl.DataFrame, batch: RawBatch, fields: FieldMap, bad: dict[int, Reason]) -> None:
    """Tell in `bad` which of the suspects are at fault."""
    odd = pl.any_horizontal(pl.col(c).str.contains(r"^[\[{]").fill_null(False) for c in IDENTITIES)
    unlabelled = (pl.col("kind") == Kind.FEEDBACK) & pl.col("label").is_null()
    suspects = table.filter((odd | unlabelled) & pl.col("reason").is_null())
    rows = suspects.select(ROW, unlabelled, pl.col("revision").is_not_null()).rows()
    for row, asks_label, revised in rows:
        retracts = revised
        if batch.frame is None:
            record = one_record(batch.values[row])
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
