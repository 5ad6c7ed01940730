"""Commands of the deployment's tests."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def run(*command: str, timeout: float = 600, env: dict[str, str] | None = None) -> str:
    """Standard output of a command that must succeed."""
    done = tried(*command, timeout=timeout, env=env)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def tried(
    *command: str, timeout: float = 600, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What became of a command."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        env=os.environ | (env or {}),
        check=False,
    )


def inspect(name: str) -> Any:  # noqa: ANN401 - any JSON document
    """What Docker knows of a container or an image."""
    return json.loads(run("docker", "inspect", name))[0]
