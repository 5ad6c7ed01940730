"""HTML that cannot be broken by what it shows: only `text` and `tag` make it, and both escape."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import NewType

from agent.respond.series import label

Html = NewType("Html", str)
"""Markup that is safe to send; mypy keeps plain strings out."""

NOTHING = Html("")


def text(value: object) -> Html:
    """Any string as text: escaped, bounded in length, without control or reordering characters."""
    return Html(escape(label(str(value))))


def words(sentence: str) -> Html:
    """A sentence of ours that may hold names, of any length; the names went through `name`."""
    return Html(escape(sentence))


def name(value: str) -> str:
    """A name from outside, fit to stand in a sentence of ours."""
    return label(value)


def tag(element: str, *children: Html, **attributes: str | float | bool | None) -> Html:
    """An element. `class_` is `class`, `_` in names is `-`; None and False leave an attribute out."""
    shown = ""
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        spelled = key.rstrip("_").replace("_", "-")
        shown += f" {spelled}" if value is True else f' {spelled}="{escape(str(value))}"'
    return Html(f"<{element}{shown}>{''.join(children)}</{element}>")


def join(parts: Iterable[Html], between: str = "") -> Html:
    """Pieces one after the other."""
    return Html(between.join(parts))


def table(caption: Html, heads: Iterable[str], rows: Iterable[Iterable[Html]]) -> Html:
    """A table in a box that scrolls by itself where it must; the first cell of a row is its heading."""
    head = tag("tr", *(tag("th", words(one), scope="col") for one in heads))
    body = [_row(list(row)) for row in rows]
    whole = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body))
    return tag("div", whole, class_="wide", tabindex="0", role="region", aria_label="table")


def _row(cells: list[Html]) -> Html:
    return tag("tr", tag("th", cells[0], scope="row"), *(tag("td", cell) for cell in cells[1:]))
