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

import numpy as np
import polars as pl
from pydantic_core import from_json

from agent.events import Int64s, Reason

JsonSchema = Mapping[str, pl.DataType | type[pl.DataType]]
"""Names at the top of an object; every leaf is a String, everything else a Struct."""
_WHITESPACE = " \t\r\n"


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
    good = _sift(values, schema, bad)
    frames = list(_halve(values, schema, good, bad))
    kept = np.array([i for i in good if i not in bad], dtype=np.int64)
    return (pl.concat(frames) if frames else pl.DataFrame(schema=schema)), kept, bad


def _parse(values: Sequence[bytes], schema: JsonSchema) -> pl.DataFrame | None:
    """All records as columns, or None if any is bad."""
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


def _sift(values: Sequence[bytes], schema: JsonSchema, bad: dict[int, Reason]) -> list[int]:
    """Put aside what is bad at a glance or on a closer look; the indices of the rest."""
    lines = pl.DataFrame({"line": pl.Series(values, dtype=pl.Binary).cast(pl.String, strict=False)})
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
    good = [i for i in range(len(values)) if i not in bad]
    if good and _parse([values[i] for i in good], schema) is None:
        _try_alone(values, schema, (i for i in good if _doubtful(values[i], schema)), bad)
        good = [i for i in good if i not in bad]
    return good


def _try_alone(
    values: Sequence[bytes], schema: JsonSchema, which: Iterable[int], bad: dict[int, Reason]
) -> None:
    for i in which:
        if not _parse_one(values[i], schema):
            bad[i] = _reason(values[i], schema)


def _doubtful(value: bytes, schema: JsonSchema) -> bool:
    try:
        record = from_json(value, allow_inf_nan=False)
    except ValueError:
        return True
    return not _fits(record, schema)


def _fits(record: object, schema: Mapping[str, object]) -> bool:
    """Whether an object stands wherever the schema goes deeper."""
    if not isinstance(record, dict):
        return False
    deeper = ((record.get(k), dtype) for k, dtype in schema.items() if isinstance(dtype, pl.Struct))
    return all(inner is None or _fits(inner, dict(dtype)) for inner, dtype in deeper)


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
    return Reason.MALFORMED_JSON if _fits(record, schema) else Reason.WRONG_TYPE


def _no_constant(name: str) -> object:
    raise ValueError(name)
