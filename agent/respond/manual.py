"""An operator's requests for retraining: files in the state directory, so that who may write there may ask.

`plumbline retrain` puts one there, the agent that works in the directory answers it with its next commit and
removes it after that. Its name is its token: read again after a crash, it asks for nothing more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FOLDER = "asked"


class Asked(NamedTuple):
    """One request."""

    path: Path
    model: str
    force: bool

    @property
    def token(self) -> str:
        """What tells it from all others."""
        return self.path.stem


def put(state_dir: Path, model: str, token: str, *, force: bool) -> None:
    """Write a request, whole or not at all."""
    folder = state_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = folder / f"{token}.partial"
    partial.write_text(json.dumps({"model": model, "force": force}))
    partial.rename(folder / f"{token}.json")


def waiting(state_dir: Path) -> Iterator[Asked]:
    """Requests that lie there; what is none of ours is left alone."""
    for path in sorted((state_dir / FOLDER).glob("*.json")):
        try:
            held = json.loads(path.read_bytes())
            yield Asked(path, str(held["model"]), held["force"] is True)
        except (OSError, ValueError, KeyError, TypeError):
            continue
