import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy_stack.tools import DEPLOY, ROOT, inspect, run, tried

Start = Callable[..., str]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
docker = pytest.mark.timeout(900)


def test_only_locked_dependencies_are_installed() -> None:
    """Every pip installation is checked against the lock's hashes, or installs the project alone."""
    installs = re.findall(r"pip install[^\n]*", DOCKERFILE)
    assert len(installs) == 2
    assert "--require-hashes -r /src/run.txt" in installs[0]
    assert "--no-deps --no-build-isolation" in installs[1]


def test_commands_are_given_without_a_shell() -> None:
    """ENTRYPOINT, CMD and HEALTHCHECK are in exec form, so that SIGTERM reaches the agent itself."""
    commands = re.findall(r"^(?:HEALTHCHECK .*)?(?:ENTRYPOINT|CMD) (.*)$", DOCKERFILE, re.M)
    assert len(commands) == 3
    assert all(command.startswith("[") for command in commands)


def test_the_builder_is_sent_what_is_copied_and_no_more() -> None:
    """.dockerignore denies everything and allows exactly the sources of the Dockerfile's COPY lines."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.M)
    assert "*" in lines
    assert allowed == {source for line in copied for source in line.split()}


@docker
def test_the_image_runs_as_nobody_in_particular(image: str) -> None:
    """The user is numeric and not root, as runAsNonRoot demands; the labels are those of OCI."""
    config = inspect(image)["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["plumbline"]
    wanted = {"title", "description", "version", "revision", "created", "licenses", "base.name"}
    assert {f"org.opencontainers.image.{name}" for name in wanted} <= set(config["Labels"])


@docker
def test_no_build_tool_is_left(image: str) -> None:
    """The environment of the agent holds neither pip nor the build backend."""
    listed = run(
        "docker", "run", "--rm", "--entrypoint", "ls", image, "/opt/plumbline/lib/python3.11/site-packages"
    )
    assert "polars" in listed
    assert not {"pip", "hatchling", "setuptools"} & set(listed.split())


@docker
def test_the_demo_becomes_healthy_on_a_read_only_root(container: Start) -> None:
    """`plumbline demo` runs without rights or a writable root, becomes healthy, and ends on SIGTERM."""
    name = container("demo", "--speed", "4000")
    wait_for(name, "healthy")
    assert get(name, "/livez") == "ok\n"
    assert "plumbline_accuracy" in get(name, "/metrics")
    began = time.monotonic()
    run("docker", "stop", "--time", "20", name)
    assert inspect(name)["State"]["ExitCode"] == 0
    assert time.monotonic() - began < 10


@docker
def test_an_unreachable_kafka_leaves_the_agent_healthy(container: Start) -> None:
    """Without a broker the agent waits: alive, ready, its state on the volume, and a gauge that says so."""
    config = DEPLOY / "examples" / "binary.yaml"
    name = container(volume=f"{config}:/etc/plumbline/plumbline.yaml:ro")
    wait_for(name, "healthy")
    assert get(name, "/readyz") == "ok\n"
    assert "plumbline_source_connected 0" in get(name, "/metrics")
    assert "state.db" in run("docker", "exec", name, "ls", "/var/lib/plumbline/plumbline-state")


@docker
def test_a_mistaken_config_ends_the_container_with_its_reason(container: Start, tmp_path: Path) -> None:
    """A config with an unknown key ends the container with code 2 and the line of the key."""
    config = tmp_path / "plumbline.yaml"
    config.write_text("models: {m: {}}\ngibberish: 1\n")
    config.chmod(0o644)
    tmp_path.chmod(0o755)
    name = container(volume=f"{config}:/etc/plumbline/plumbline.yaml:ro")
    run("docker", "wait", name)
    assert inspect(name)["State"]["ExitCode"] == 2
    said = tried("docker", "logs", name).stderr
    assert "plumbline.yaml:2" in said


def wait_for(name: str, health: str, seconds: float = 120) -> None:
    """Until the health check says so."""
    deadline = time.monotonic() + seconds
    while (state := inspect(name)["State"])["Health"]["Status"] != health:
        logs = tried("docker", "logs", name)
        assert state["Running"], logs.stderr
        assert time.monotonic() < deadline, f"{state['Health']}\n{logs.stderr}"
        time.sleep(1)


def get(name: str, path: str) -> str:
    """A page of the agent, fetched from inside."""
    fetch = (
        f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:9464{path}').read().decode(), end='')"
    )
    return run("docker", "exec", name, "python", "-c", fetch)
