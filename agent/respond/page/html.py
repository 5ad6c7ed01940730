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
    """A table; the first cell of a row is its heading.

    On a phone the style sheet lays each row out as a list with the columns' heads beside the cells. The roles
    keep it a table for screen readers, which go by the layout.
    """
    named = list(heads)
    head = tag("tr", *(tag("th", words(one), scope="col", role="columnheader") for one in named), role="row")
    body = [_row(named, list(row)) for row in rows]
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", head, role="rowgroup"),
        tag("tbody", *body, role="rowgroup"),
        role="table",
    )


def _row(heads: list[str], cells: list[Html]) -> Html:
    rest = (
        tag("td", tag("div", cell), role="cell", data_label=head)
        for head, cell in zip(heads[1:], cells[1:], strict=True)
    )
    return tag("tr", tag("th", cells[0], scope="row", role="rowheader"), *rest, role="row")
