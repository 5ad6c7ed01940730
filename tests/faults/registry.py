"""Cases by id, what a run of one yields, and the table that is written."""

from __future__ import annotations

import importlib
import json
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tests.faults.bench import World

CLASSES = ("process",)
"""One file for each class of fault, in the order of the table."""


class Skip(Exception):
    """The case cannot run here; the message says what is missing."""


@dataclass
class Result:
    """What a case has seen; it adds to it as it goes."""

    runs: int = 0
    kills: int = 0
    events: int = 0
    replayed: int = 0
    """Records beyond the last committed position at the kills: at most so many were read again."""
    recoveries_s: list[float] = field(default_factory=list)
    """From the start of the next life, or the end of the fault, to the first commit after it."""
    wrong: list[str] = field(default_factory=list)
    """Differences from the oracle, and whatever else must not be."""
    seen: dict[str, Any] = field(default_factory=dict)
    """The figures that the fault is about."""

    def must(self, holds: object, what: str) -> None:
        """Note a promise that was not kept."""
        if not holds:
            self.wrong.append(what)


@dataclass(frozen=True)
class Case:
    """A fault: its id in the list, one sentence of what is done and must hold, and the function."""

    id: str
    what: str
    run: Callable[[World, Result], None]
    short: bool
    """Runs in CI too."""


CASES: dict[str, Case] = {}


def case(id_: str, what: str, *, short: bool = False) -> Callable[..., Callable[[World, Result], None]]:
    """Register a function as a case."""

    def register(run: Callable[[World, Result], None]) -> Callable[[World, Result], None]:
        assert id_ not in CASES, id_
        CASES[id_] = Case(id_, what, run, short)
        return run

    return register


def cases(only: Iterable[str] = ()) -> list[Case]:
    """All cases, or those that are named, in the order of the table."""
    for name in CLASSES:
        importlib.import_module(f"tests.faults.{name}")
    wanted = list(only)
    assert not (unknown := set(wanted) - CASES.keys()), f"no such case: {unknown}"
    return [CASES[i] for i in sorted(CASES, key=_order) if not wanted or i in wanted]


def _order(id_: str) -> tuple[int, str]:
    digits = "".join(c for c in id_ if c.isdigit())
    return int(digits), id_


def run(case_: Case, world: World) -> dict[str, Any]:
    """Run a case, and make its row of the table."""
    result, begun = Result(), time.monotonic()
    skipped = ""
    try:
        case_.run(world, result)
    except Skip as why:
        skipped = str(why)
    except Exception:
        result.wrong.append(traceback.format_exc())
    recoveries = result.recoveries_s or [0.0]
    row = {
        "id": case_.id,
        "what": case_.what,
        "runs": result.runs,
        "kills": result.kills,
        "mismatches": len(result.wrong),
        "recovery_p50_s": round(float(np.percentile(recoveries, 50)), 3),
        "recovery_p99_s": round(float(np.percentile(recoveries, 99)), 3),
        "replayed": result.replayed,
        "ok": not result.wrong and not skipped and result.runs > 0,
        "events": result.events,
        "seconds": round(time.monotonic() - begun, 1),
        "seen": result.seen,
    }
    if skipped:
        row["skipped"] = skipped
    if result.wrong:
        row["wrong"] = [one[:2000] for one in result.wrong[:10]]
    return row


def write(path: Path, rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """The table as JSON."""
    document = {
        "cases": rows,
        "events": sum(row["events"] for row in rows),
        "kills": sum(row["kills"] for row in rows),
        "mismatches": sum(row["mismatches"] for row in rows),
        "seeds": [seed],
        "ok": all(row["ok"] for row in rows),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2, default=str) + "\n")
    return document


__all__ = ["CASES", "Case", "Result", "Skip", "asdict", "case", "cases", "run", "write"]
