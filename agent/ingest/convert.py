"""Texts to times, numbers and classes, column by column. Null stays null; what cannot be read too."""

from __future__ import annotations

import re

import polars as pl

_LAST_MS = 253_402_300_799_999
"""The end of the year 9999; a number beyond it is no time in any unit."""
_INTEGRAL = r"^(-?\d+)\.0+$"
_ISO = (
    r"^\s*(\d{4}-\d{2}-\d{2})(?:[Tt ](\d{2}:\d{2})(:\d{2}(?:\.\d+)?)?)?\s*([Zz]|[+-]\d{2}(?::?\d{2})?)?\s*$"
)


def present(text: pl.Expr) -> pl.Expr:
    """An empty text is a missing one."""
    return pl.when(text != "").then(text)


def canonical(text: pl.Expr) -> pl.Expr:
    """One spelling per class, however a producer or a file format wrote it: true → 1, False → 0, 1.0 → 1."""
    text = text.str.replace(_INTEGRAL, "${1}")
    lower = text.str.to_lowercase()
    return pl.when(lower == "true").then(pl.lit("1")).when(lower == "false").then(pl.lit("0")).otherwise(text)


def canonical_class(text: str) -> str:
    """`canonical` for one text: how class names of the config must be spelt to meet those of the events."""
    return {"true": "1", "false": "0"}.get(text.lower(), re.sub(_INTEGRAL, r"\1", text))


def number(text: pl.Expr) -> pl.Expr:
    """A finite number."""
    value = text.str.strip_chars().cast(pl.Float64, strict=False)
    return pl.when(value.is_finite()).then(value)


def whole(text: pl.Expr) -> pl.Expr:
    """An integer, `2.0` included."""
    return text.str.replace(_INTEGRAL, "${1}").cast(pl.Int64, strict=False)


def time_ms(text: pl.Expr, converter: str | None = None) -> pl.Expr:
    """Milliseconds since the epoch from RFC 3339, or from a number.

    Without a converter a number's unit is told by its size: seconds below 1e11, milliseconds below 1e14,
    microseconds below 1e17, nanoseconds above.
    """
    if converter is not None:
        return _epoch(text, converter)
    return text.str.to_datetime("%+", time_unit="ms", time_zone="UTC", strict=False).dt.timestamp("ms")


def time_ms_slowly(text: pl.Expr) -> pl.Expr:
    """`time_ms` for texts that it left null: other spellings of RFC 3339 (no zone is UTC), numbers."""
    zone = text.str.extract(_ISO, 4).fill_null("Z").str.to_uppercase().str.replace(r"^([+-]\d{2})$", "${1}00")
    clock = text.str.extract(_ISO, 2).fill_null("00:00") + text.str.extract(_ISO, 3).fill_null(":00")
    iso = text.str.extract(_ISO, 1) + "T" + clock + zone
    zoned = iso.str.to_datetime("%+", time_unit="ms", time_zone="UTC", strict=False).dt.timestamp("ms")
    return pl.coalesce(zoned, _epoch(text, None))


def _epoch(text: pl.Expr, converter: str | None) -> pl.Expr:
    exact = text.str.replace(_INTEGRAL, "${1}").cast(pl.Int64, strict=False)
    real = number(text)
    size = real.abs()
    as_ms = pl.coalesce(exact, real.floor().cast(pl.Int64, strict=False))
    # Rounded to the microsecond first: 1.001 s is 1000.9999999999999 ms in binary.
    as_s = pl.coalesce(exact * 1000, ((real * 1e6).round() / 1e3).floor().cast(pl.Int64, strict=False))
    if converter == "epoch_ms":
        ms = as_ms
    elif converter == "epoch_s":
        ms = as_s
    else:
        finer = pl.when(size < 1e17).then(as_ms // 1000).otherwise(as_ms // 1_000_000)
        ms = pl.when(size < 1e11).then(as_s).when(size < 1e14).then(as_ms).otherwise(finer)
    return pl.when(ms.is_between(-_LAST_MS, _LAST_MS) & (size < 1e19)).then(ms)
