"""A process killed at each named place of a commit, and started again, ends where one that lived on does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from agent.config import Config
from tests.measure.events import MINUTE, T0, label, prediction

PLACES = [
    *("before_apply", "after_apply", "in_transaction", "after_commit"),
    *("mid_outbox", "after_outbox", "before_group_commit"),
]
CHILD = """
import sys, threading
from pathlib import Path
from agent import runner
from agent.config import Config
from agent.ingest.files import FileSource
from agent.pipeline import Pipeline
from agent.store import Store
config = Config.model_validate_json(Path(sys.argv[1]).read_text())
files = [Path(topic) for source in config.sources for topic in source.topics]
runner.run(config, FileSource(files, chunk_rows=20), stop=threading.Event(), serve=False)
store = Store(config.state.dir)
print(Pipeline(config, store).fingerprint())
"""


def lives(folder: Path, *failpoints: str) -> tuple[str, set[str]]:
    """Run the agent over the files of a folder, once per failpoint and once to the end.

    Returns the fingerprint of the end, and the dead letters, each as often as it counts.
    """
    state = folder / ("killed" if failpoints else "whole")
    config = Config.model_validate(
        {
            "models": {"m": {"allowed_lateness": "0s"}},
            "sources": [
                {"topics": [str(folder / "p.jsonl")], "kind": "prediction"},
                {"topics": [str(folder / "f.jsonl")], "kind": "feedback"},
            ],
            "state": {"dir": state, "commit_interval": "1ms"},
        }
    )
    written = folder / f"{state.name}.json"
    written.write_text(config.model_dump_json())
    for failpoint in (*failpoints, ""):
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(written)],
            env=os.environ | {"PLUMBLINE_FAILPOINT": failpoint},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == (-signal.SIGKILL if failpoint else 0), (failpoint, done.stderr)
    letters = (state / "dead-letters.jsonl").read_text().splitlines()
    return done.stdout, set(letters)


def test_a_kill_at_any_named_place_changes_nothing(tmp_path: Path) -> None:
    """A life ends at each of them in turn: the same state and the same dead letters as without."""
    events = [prediction(i, T0 + i * MINUTE, prediction=str(i % 2)) for i in range(200)]
    lines = [json.dumps(event) if i % 20 else "{broken" for i, event in enumerate(events)]
    (tmp_path / "p.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "f.jsonl").write_text(
        "".join(json.dumps(label(i, T0 + (i + 5) * MINUTE, "1")) + "\n" for i in range(200))
    )
    whole = lives(tmp_path)
    assert len(whole[1]) == 10
    assert lives(tmp_path, *(f"{place}:{1 + i % 2}" for i, place in enumerate(PLACES))) == whole


def test_a_place_may_stand_still(tmp_path: Path) -> None:
    """With a duration the process stops there once and goes on, as under a hung disk or a debugger."""
    code = "from agent.failpoint import failpoint\nfailpoint('here'), failpoint('here'), failpoint('there')"
    environ = os.environ | {"PLUMBLINE_FAILPOINT": "here:2:0.3"}
    assert subprocess.run([sys.executable, "-c", code], env=environ, check=False).returncode == 0
