"""`make pages`: the long form, with the processes killed on the way; the table goes to build/pages.json."""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.broker import kafka_node
from tests.pages.stack import missing
from tests.pages.story_run import Kills, rows, tell

SPEED = 900.0
"""22 hours in 88 seconds."""
OUT = Path("build/pages.json")


def main() -> int:
    """Tell the story, write the table, and say whether all of it came and nothing else."""
    parser = argparse.ArgumentParser(prog="python -m tests.pages", description=__doc__)
    parser.add_argument("--alertmanager", required=True, help="0.30 or newer")
    parser.add_argument("--kill-seed", type=int, default=random.randrange(10**6), help="repeats the kills")
    given = parser.parse_args()
    if why := missing():
        print(why, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="plumbline-pages-") as name:
        folder = Path(name)
        with kafka_node(folder / "kafka") as broker:
            kills = Kills(given.alertmanager, random.Random(given.kill_seed))
            run = tell(broker, folder, seed=1, speed=SPEED, kills=kills)
    table = rows(run)
    good = all(row["as_expected"] and row["resolved"] for row in table) and run.heartbeats > 0
    document = {
        "as_the_story_says": good,
        "speed": SPEED,
        "kill_seed": given.kill_seed,
        "killed": [asdict(killed) for killed in run.killed],
        "heartbeats": run.heartbeats,
        "incidents": table,
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(document, indent=2) + "\n")
    for row in table:
        mark = "ok " if row["as_expected"] and row.get("resolved") else "BAD"
        delay = f"{row['delay_seconds']} s" if "delay_seconds" in row else ""
        print(f"{mark} {row['incident']:9} {row['kind']:8} {', '.join(row['received'])}  {delay}")
    for killed in run.killed:
        print(f"    {killed.what} killed at minute {killed.story_minute}, open: {', '.join(killed.open)}")
    print(f"    kill seed {given.kill_seed}, {run.heartbeats} heartbeats")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
