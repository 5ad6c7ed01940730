"""The deployment's tests need tools that not every machine has; each says loudly when it is skipped.

Docker tests build an image and start containers, minutes of work: they run where PLUMBLINE_DOCKER=1 asks for
them, not in CI. Helm tests run wherever helm 3 is on PATH.
"""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.deploy_stack.tools import run, tried

IMAGE = "plumbline:test"


@pytest.fixture(scope="session")
def engine() -> None:
    """A Docker engine that answers, and the wish to use it."""
    if os.environ.get("PLUMBLINE_DOCKER") != "1":
        pytest.skip("NOT TESTED: needs PLUMBLINE_DOCKER=1 and a Docker engine; takes minutes")
    if shutil.which("docker") is None or tried("docker", "info").returncode:
        pytest.skip("NOT TESTED: no Docker engine answers")


@pytest.fixture(scope="session")
def image(engine: None) -> str:
    """The agent's image, built from this tree."""
    run("docker", "build", "-f", "deploy/Dockerfile", "-t", IMAGE, ".")
    return IMAGE


@pytest.fixture
def container(image: str) -> Iterator[Callable[..., str]]:
    """Starts a container with a read-only root and no rights: `start(*agent's arguments, volume=…)`."""
    started = []

    def start(*arguments: str, volume: str | None = None) -> str:
        name = f"plumbline-test-{uuid.uuid4().hex[:8]}"
        hard = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        volumes = ["--volume", volume] if volume else []
        run("docker", "run", "--detach", "--name", name, *hard, *volumes, image, *arguments)
        started.append(name)
        return name

    yield start
    for name in started:
        tried("docker", "rm", "--force", "--volumes", name)


@pytest.fixture(scope="session")
def compose(engine: None) -> None:
    """Compose as a plugin of the docker command."""
    if tried("docker", "compose", "version").returncode:
        pytest.skip("NOT TESTED: the docker command has no compose plugin")


@pytest.fixture(scope="session")
def helm() -> str:
    """The helm command."""
    found = shutil.which("helm")
    if found is None:
        pytest.skip("NOT TESTED: no helm on PATH; the committed manifests are tested, not the chart")
    return found
