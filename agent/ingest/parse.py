"""JSON texts to columns, many records at a time, with the bad ones put aside one by one.

polars reads lines into an all-String schema outside the interpreter lock, some 3 µs an event, but one bad
line fails them all and does not say which. So a failing batch is sifted, each step dearer
and for fewer records:

1. what is not UTF-8 or does not begin with `{` and end with `}` is no object: out, no question asked;
2. lines with a NaN or Infinity (Python's json writes them), and, if the rest still fails, lines that a
   second parser or the schema finds fault with, are tried alone;
3. whatever is left is halved until the culprits stand alone.

Whether a record is accepted is always the one parser's verdict on that record, never that of its company.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import polars as pl
from pydantic_core import from_json

from agent.events import Int64s, Reason

JsonSchema = Mapping[str, pl.DataType | type[pl.DataType]]
"""Names at the top of an object; every leaf is a String, everything else a Struct."""
_WHITESPACE = " \t\r\n"
_Objects: TypeAlias = dict[str, "_Objects"]
"""The part of a schema that goes deeper."""


def json_schema(paths: Iterable[tuple[str, ...]]) -> JsonSchema:
    """The schema that reads exactly `paths`; raises ValueError where one path lies inside another's leaf."""
    tree: dict[str, dict] = {}  # type: ignore[type-arg] # a tree of itself
    leaves = set(paths)
    for path in sorted(leaves):
        node = tree
        for depth, name in enumerate(path):
            if depth and path[:depth] in leaves:
                raise ValueError(f"{'.'.join(path[:depth])} is read both as a value and as an object")
            node = node.setdefault(name, {})

    def shape(node: dict[str, dict]) -> dict[str, pl.DataType | type[pl.DataType]]:  # type: ignore[type-arg]
        return {k: pl.Struct(shape(v)) if v else pl.String for k, v in node.items()}

    return shape(tree) or {"": pl.String}


def parse_lines(
    values: Sequence[bytes], schema: JsonSchema
) -> tuple[pl.DataFrame, Int64s, dict[int, Reason]]:
    """Columns of the good records, their indices in `values`, and the reason of each bad one."""
    everything = np.arange(len(values), dtype=np.int64)
    frame = _parse(values, schema)
    if frame is not None:
        return frame, everything, {}
    bad: dict[int, Reason] = {}
    good = _at_a_glance(values, schema, bad)
    frame = _parse([values[i] for i in good], schema)
    if frame is None:
        objects = _objects(schema)
        _try_alone(values, schema, (i for i in good if _doubtful(values[i], objects)), bad)
    frames = (
        [frame] if frame is not None else list(_halve(values, schema, [i for i in good if i not in bad], bad))
    )
    kept = np.array([i for i in good if i not in bad], dtype=np.int64)
    return (pl.concat(frames) if frames else pl.DataFrame(schema=schema)), kept, bad


def one_record(value: bytes | None) -> object:
    """A single record as Python reads it; None if it cannot be read."""
    try:
        return json.loads(value or b"null")
    except (ValueError, RecursionError):
        return None


def _parse(values: Sequence[bytes], schema: JsonSchema) -> pl.DataFrame | None:
    """All records as columns, or None if any is bad."""
    if not values:
        return pl.DataFrame(schema=schema)
    text = b"\n".join(values)
    if text.count(b"\n") != len(values) - 1:  # JSON needs no line feeds, and here they would cut records
        text = b"\n".join(value.replace(b"\n", b" ") for value in values)
    try:
        frame = pl.read_ndjson(text, schema=schema)
    except pl.exceptions.PolarsError:
        return None
    return frame if frame.height == len(values) else None  # a blank line vanishes


def _parse_one(value: bytes, schema: JsonSchema) -> bool:
    """The verdict on one record; the same as `_parse([value])`, at a quarter of its fixed cost."""
    try:
        text = pl.Series([value], dtype=pl.Binary).cast(pl.String)
        return len(text.str.json_decode(pl.Struct(dict(schema)))) == 1
    except pl.exceptions.PolarsError:
        return False


def _at_a_glance(values: Sequence[bytes], schema: JsonSchema, bad: dict[int, Reason]) -> list[int]:
    """Put aside what a column expression can tell to be bad; the indices of the rest."""
    lines = pl.DataFrame({"line": pl.Series(map(_text, values), dtype=pl.String)})
    line = pl.col("line").str.strip_chars(_WHITESPACE)
    seen = lines.select(
        outside=~(line.str.starts_with("{") & line.str.ends_with("}")).fill_null(False),
        literal=(
            line.str.contains("NaN", literal=True) | line.str.contains("Infinity", literal=True)
        ).fill_null(False),
    )
    for i in seen["outside"].arg_true().to_list():
        bad[i] = _reason(values[i], schema)
    _try_alone(values, schema, (i for i in seen["literal"].arg_true().to_list() if i not in bad), bad)
    return [i for i in range(len(values)) if i not in bad]


def _text(value: bytes) -> str | None:
    """None where it is no UTF-8; polars' own cast fails for all of them then, whatever `strict` says."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _try_alone(
    values: Sequence[bytes], schema: JsonSchema, which: Iterable[int], bad: dict[int, Reason]
) -> None:
    for i in which:
        if not _parse_one(values[i], schema):
            bad[i] = _reason(values[i], schema)


def _doubtful(value: bytes, objects: _Objects) -> bool:
    try:
        record = from_json(value, allow_inf_nan=False)
    except ValueError:
        return True
    return not _fits(record, objects)


def _objects(schema: Mapping[str, object]) -> _Objects:
    return {
        name: _objects(dtype.to_schema()) for name, dtype in schema.items() if isinstance(dtype, pl.Struct)
    }


def _fits(record: object, objects: _Objects) -> bool:
    """Whether an object, or nothing, stands wherever the schema goes deeper."""
    if not isinstance(record, dict):
        return False
    for name, inside in objects.items():
        here = record.get(name)
        if here is not None and not _fits(here, inside):
            return False
    return True


def _halve(
    values: Sequence[bytes], schema: JsonSchema, which: list[int], bad: dict[int, Reason]
) -> Iterable[pl.DataFrame]:
    """Frames of the good among `which`, in order; the bad are added to `bad`."""
    if not which:
        return
    frame = _parse([values[i] for i in which], schema)
    if frame is not None:
        yield frame
    elif len(which) == 1:
        bad[which[0]] = _reason(values[which[0]], schema)
    else:
        middle = len(which) // 2
        yield from _halve(values, schema, which[:middle], bad)
        yield from _halve(values, schema, which[middle:], bad)


def _reason(value: bytes, schema: JsonSchema) -> Reason:
    """Why a record that was refused was refused."""
    try:
        record = json.loads(value, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return Reason.MALFORMED_JSON
    if not isinstance(record, dict):
        return Reason.NOT_AN_OBJECT
    return Reason.MALFORMED_JSON if _fits(record, _objects(schema)) else Reason.WRONG_TYPE


def _no_constant(name: str) -> object:
    raise ValueError(name)
