"""JSON texts to columns, many records at a time, with the bad ones put aside one by one.

polars reads lines into an all-String schema outside the interpreter lock, some 3 µs an event, but one bad
line fails them all and does not say which. So a failing batch is sifted, each step dearer
and for fewer records:

1. what is not UTF-8 or does not begin with `{` and end with `}` is no object: out, no question asked;
2. lines with a NaN or Infinity (Python's json writes them), and, if the rest still fails, lines that a
   second parser finds fault with, are tried alone;
3. the rest is read once more with wrong shapes as nulls; what has one is told by reading that place as text;
4. whatever is left is halved until the culprits stand alone.

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
    values: Sequence[bytes], schema: JsonSchema, *, wary: bool = False
) -> tuple[pl.DataFrame, Int64s, dict[int, Reason]]:
    """Columns of the good records, their indices in `values`, and the reason of each bad one.

    `wary` expects bad ones, as after a batch that had some: reading all as they are would be in vain.
    """
    frame = None if wary else _parse(values, schema)
    if frame is not None:
        return frame, np.arange(len(values), dtype=np.int64), {}
    bad: dict[int, Reason] = {}
    lines = pl.Series("line", [_text(value) for value in values], dtype=pl.String)
    good = _at_a_glance(values, lines, schema, bad)
    frame = _parse([values[i] for i in good], schema, lenient=True)
    if frame is None:
        _try_alone(values, schema, (i for i in good if _doubtful(values[i])), bad)
        good = [i for i in good if i not in bad]
        frame = _parse([values[i] for i in good], schema, lenient=True)
    if frame is None:
        frames = list(_halve(values, schema, good, bad))
        frame = pl.concat(frames) if frames else pl.DataFrame(schema=schema)
    else:
        odd = {good[row] for row in _misshapen(frame, lines[good], schema)}
        bad.update({i: _reason(values[i], schema) for i in odd})
        frame = frame.filter([i not in odd for i in good]) if odd else frame
    return frame, np.array([i for i in good if i not in bad], dtype=np.int64), bad


def one_record(value: bytes | None) -> object:
    """A single record as Python reads it; None if it cannot be read."""
    try:
        return json.loads(value or b"null")
    except (ValueError, RecursionError):
        return None


def _parse(values: Sequence[bytes], schema: JsonSchema, *, lenient: bool = False) -> pl.DataFrame | None:
    """All records as columns, or None if any is bad; `lenient` reads a wrong shape as null."""
    if not values:
        return pl.DataFrame(schema=schema)
    text = b"\n".join(values)
    if text.count(b"\n") != len(values) - 1:  # JSON needs no line feeds, and here they would cut records
        text = b"\n".join(value.replace(b"\n", b" ") for value in values)
    try:
        frame = pl.read_ndjson(text, schema=schema, ignore_errors=lenient)
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


def _at_a_glance(
    values: Sequence[bytes], lines: pl.Series, schema: JsonSchema, bad: dict[int, Reason]
) -> list[int]:
    """Put aside what a column expression can tell to be bad; the indices of the rest."""
    line = pl.col("line").str.strip_chars(_WHITESPACE)
    seen = lines.to_frame().select(
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


def _doubtful(value: bytes) -> bool:
    """Whether another, stricter parser refuses it."""
    try:
        from_json(value, allow_inf_nan=False)
    except ValueError:
        return True
    return False


def _misshapen(frame: pl.DataFrame, lines: pl.Series, schema: JsonSchema) -> Iterable[int]:
    """Rows of a leniently read frame in which something else stands where an object may."""
    frame = frame.with_columns(lines)
    for path in _object_paths(schema):
        name = json.dumps(path[-1], ensure_ascii=False)
        named = pl.any_horizontal(pl.col("line").str.contains(text, literal=True) for text in (name, "\\u"))
        rows = frame.select(_at(path).is_null() & named).to_series().arg_true()
        if len(rows):
            texts = _parse([line.encode() for line in lines[rows]], _as_text(path), lenient=True)
            if texts is not None:
                yield from rows.filter(texts.select(_at(path).is_not_null()).to_series()).to_list()


def _at(path: tuple[str, ...]) -> pl.Expr:
    expr = pl.col(path[0])
    for name in path[1:]:
        expr = expr.struct.field(name)
    return expr


def _as_text(path: tuple[str, ...]) -> JsonSchema:
    """The schema that reads one place, whatever stands there, as text."""
    dtype: pl.DataType | type[pl.DataType] = pl.String
    for name in reversed(path[1:]):
        dtype = pl.Struct({name: dtype})
    return {path[0]: dtype}


def _object_paths(schema: Mapping[str, object], above: tuple[str, ...] = ()) -> Iterable[tuple[str, ...]]:
    """Where the schema goes deeper."""
    for name, dtype in schema.items():
        if isinstance(dtype, pl.Struct):
            yield (*above, name)
            yield from _object_paths(dtype.to_schema(), (*above, name))


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
