"""`make pages`: the long form, with the processes killed on the way; the table goes to build/pages.json."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.broker import kafka_node
from tests.pages.stack import missing
from tests.pages.story_run import rows, tell

SPEED = 900.0
"""22 hours in 88 seconds."""
OUT = Path("build/pages.json")


def main() -> int:
    """Tell the story, write the table, and say whether all of it came and nothing else."""
    if why := missing():
        print(why, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="plumbline-pages-") as name:
        folder = Path(name)
        with kafka_node(folder / "kafka") as broker:
            run = tell(broker, folder, seed=1, speed=SPEED, kill=True)
    table = rows(run)
    good = all(row["as_expected"] and row["resolved"] for row in table) and run.heartbeats > 0
    document = {
        "as_the_story_says": good,
        "speed": SPEED,
        "killed": [{"what": what, "story_minute": round(minute)} for what, minute in run.killed],
        "heartbeats": run.heartbeats,
        "incidents": table,
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(document, indent=2) + "\n")
    for row in table:
        mark = "ok " if row["as_expected"] and row.get("resolved") else "BAD"
        delay = f"{row['delay_seconds']} s" if "delay_seconds" in row else ""
        print(f"{mark} {row['incident']:9} {row['kind']:8} {', '.join(row['received'])}  {delay}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
