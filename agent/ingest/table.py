"""The fields of a file's table (Parquet, CSV) as the texts that JSON records would give."""

from __future__ import annotations

from typing import cast

import polars as pl

from agent.ingest import columns
from agent.ingest.mapping import FieldMap


def file_columns(frame: pl.DataFrame, fields: FieldMap) -> list[pl.Expr]:
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
