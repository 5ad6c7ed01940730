"""`make faults`: every fault of the list, an oracle that counts again, and the table in build/faults.json."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.faults.bench import SHORT, World
from tests.faults.registry import cases, run, write

OUT = Path("build/faults.json")


def main() -> int:
    """Run what is asked for; 0 if every case is ok."""
    options = _options()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    console = Console()
    console.print(f"seed {seed} (again with ARGS='--seed {seed}')")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="plumbline-faults-") as name, _progress(console) as progress:
        wanted = [c for c in cases(options.only) if c.short or not options.short]
        task = progress.add_task("", total=len(wanted))
        world = World(Path(name), seed, SHORT if options.short else 1.0)
        try:
            for case in wanted:
                progress.update(task, description=case.id)
                world.say = lambda what, id_=case.id: progress.update(task, description=f"{id_} {what}")  # type: ignore[misc]
                row = run(case, world)
                rows.append(row)
                progress.console.print(_line(row))
                progress.advance(task)
                document = write(options.out, rows, seed)
        finally:
            world.close()
    console.print(
        f"{len(rows)} cases, {document['events']:,} events, {document['kills']} kills, "
        f"{document['mismatches']} mismatches → {options.out}"
    )
    return 0 if document["ok"] else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], metavar="F1,F2,…")
    parser.add_argument("--seed", type=int, help="of an earlier run, to see the same again")
    parser.add_argument("--short", action="store_true", help="what CI runs")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def _line(row: dict[str, Any]) -> str:
    mark = "ok  " if row["ok"] else "SKIP" if row.get("skipped") else "BAD "
    figures = f"{row['events']:>9,} events {row['kills']:>4} kills {row['seconds']:>7.1f} s"
    why = row.get("skipped") or "; ".join(one.splitlines()[-1] for one in row.get("wrong", [])[:3])
    return f"{mark} {row['id']:<4} {figures}  {row['what'] if row['ok'] else why}"


if __name__ == "__main__":
    sys.exit(main())
