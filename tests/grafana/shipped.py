"""The dashboards as they are committed, and what of them asks Prometheus something."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "grafana"
DASHBOARDS: Mapping[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text("utf-8")) for path in sorted((FOLDER / "dashboards").glob("*.json"))
}

SELECTOR = re.compile(r"\b([a-zA-Z_:][a-zA-Z0-9_:]*)\s*\{([^}]*)\}")
LABEL_VALUES = re.compile(r"label_values\((?P<selector>.+), (?P<label>\w+)\)")


@dataclass(frozen=True)
class Asked:
    """One query, and where it stands."""

    uid: str
    where: str
    expr: str

    def __str__(self) -> str:
        return f"{self.uid}: {self.where}"


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """All panels that show data."""
    for uid, one in DASHBOARDS.items():
        yield from ((uid, panel) for panel in one["panels"] if panel["type"] != "row")


def variables(*types: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """All variables of these types."""
    for uid, one in DASHBOARDS.items():
        yield from ((uid, variable) for variable in one["templating"]["list"] if variable["type"] in types)


def targets() -> list[Asked]:
    """Every query of a panel."""
    return [
        Asked(uid, f"{panel['title']} {target['refId']}", target["expr"])
        for uid, panel in panels()
        for target in panel["targets"]
    ]


def notes() -> list[Asked]:
    """Every query of an annotation."""
    return [
        Asked(uid, note["name"], note["expr"])
        for uid, one in DASHBOARDS.items()
        for note in one["annotations"]["list"]
    ]


def choices() -> list[Asked]:
    """Every query of a variable: the selector whose label's values it offers."""
    return [Asked(uid, variable["name"], variable["query"]["query"]) for uid, variable in variables("query")]


def named(expr: str) -> set[str]:
    """The metrics that a query reads."""
    return {name for name, _ in SELECTOR.findall(expr)}
