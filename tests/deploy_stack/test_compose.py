import json
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent import config
from tests.deploy_stack.tools import DEPLOY, ROOT, run, tried

FILE = DEPLOY / "compose.yaml"
STACK = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, Any] = STACK["services"]
OURS = [name for name, service in SERVICES.items() if "PLUMBLINE_IMAGE" in service["image"]]
OTHERS = [name for name in SERVICES if name not in OURS]
TESTED = ["kafka", "topics", "baseline", "agent", "producer", "prometheus", "alertmanager", "receiver"]
"""All but Grafana, which has no part of the story's way to the pager."""


@pytest.mark.parametrize("name", OTHERS)
def test_images_of_others_are_pinned(name: str) -> None:
    """Each public image is named with a full version."""
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


def test_kafka_is_the_version_that_is_tested() -> None:
    """The stack's broker has the version of the broker tests."""
    version = SERVICES["kafka"]["image"].split(":")[1]
    assert f"<kafka.version>{version}</kafka.version>" in (ROOT / "tests" / "broker" / "pom.xml").read_text()


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_may_gain_rights_or_is_reachable_from_outside(name: str) -> None:
    """Every service drops its capabilities and publishes on the loopback address only."""
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_waited_for_can_be_waited_for(name: str) -> None:
    """Health is awaited of services with a health check only, and an end only of services that end."""
    for other, wait in SERVICES[name].get("depends_on", {}).items():
        check = SERVICES[other].get("healthcheck", {"image": "has one"} if other in OURS else None)
        if wait["condition"] == "service_healthy":
            assert check is not None
            assert not check.get("disable")
        else:
            assert SERVICES[other]["restart"] == "no"


@pytest.mark.parametrize("name", SERVICES)
def test_mounted_files_exist(name: str) -> None:
    """Every mounted file and folder is in the repository, and read-only; the rest are named volumes."""
    for mount in SERVICES[name].get("volumes", []):
        source, _, rest = mount.partition(":")
        if source.startswith("."):
            assert (DEPLOY / source).exists(), source
            assert rest.endswith(":ro")
        else:
            assert source in STACK["volumes"]


def test_the_stack_holds_no_secret() -> None:
    """No environment variable of any service bears a password, token or key."""
    names = [name for service in SERVICES.values() for name in service.get("environment", {})]
    assert names
    assert not [name for name in names if re.search("PASSWORD|TOKEN|SECRET|_KEY", name)]


def test_the_agent_takes_its_config() -> None:
    """The stack's config is valid, names the topics that are created, and keeps its state on the volume."""
    settings = config.load(DEPLOY / "compose" / "plumbline.yaml", {}, need_baselines=False)
    created = set(re.findall(r"([\w.-]+):\d+", SERVICES["topics"]["command"][0].partition(";")[0]))
    used = {topic for source in settings.sources for topic in source.topics}
    used |= {str(settings.dead_letters.topic), str(settings.retraining_topic)}
    assert created == used
    assert settings.state.dir.is_relative_to("/var/lib/plumbline")


def test_prometheus_takes_its_config(tmp_path: Path) -> None:
    """The stack's rules and Prometheus config: promtool accepts them."""
    if shutil.which("promtool") is None:
        pytest.skip("NOT TESTED: no promtool on PATH (Debian: apt-get install prometheus)")
    text = (DEPLOY / "compose" / "prometheus.yaml").read_text()
    assert text.count("/etc/prometheus/rules/") == 1
    written = tmp_path / "prometheus.yaml"
    written.write_text(text.replace("/etc/prometheus/rules", str(DEPLOY / "prometheus")))
    assert "SUCCESS: 1 rule files found" in run("promtool", "check", "config", str(written))


@pytest.fixture
def stack(compose: None, image: str, tmp_path: Path) -> Iterator[list[str]]:
    """The stack under a name of its own, without ports on the host, told at the speed it is shipped with."""
    override = tmp_path / "no-ports.yaml"
    override.write_text(
        "services:\n" + "".join(f"  {n}: {{ports: !reset []}}\n" for n in TESTED if "ports" in SERVICES[n])
    )
    project = f"plumbline-test-{uuid.uuid4().hex[:6]}"
    command = ["docker", "compose", "-p", project, "-f", str(FILE), "-f", str(override)]
    try:
        env = {"PLUMBLINE_IMAGE": image}
        run(*command, "up", "--detach", "--no-build", *TESTED, env=env)
        yield command
    finally:
        tried(*command, "down", "--volumes", "--timeout", "5")


def test_compose_accepts_the_file(compose: None) -> None:
    """`docker compose config` finds nothing wrong, Grafana and all."""
    listed = run("docker", "compose", "-f", str(FILE), "config", "--services")
    assert set(listed.split()) == set(SERVICES)


@pytest.mark.timeout(900)
def test_the_story_reaches_the_ticket_system_through_the_stack(stack: list[str]) -> None:
    """Producer, Kafka, agent, Prometheus, Alertmanager: the drift that the story scripts is notified of."""
    deadline = time.monotonic() + 420
    while "drifted" not in (said := tried(*stack, "logs", "receiver").stdout):
        assert time.monotonic() < deadline, tried(*stack, "logs", "--tail", "20").stdout + said
        time.sleep(2)
    metrics = fetch(stack, "http://agent:9464/metrics")
    assert "plumbline_source_connected 1" in metrics
    targets = json.loads(fetch(stack, "http://prometheus:9090/api/v1/targets"))["data"]["activeTargets"]
    assert {t["labels"]["job"]: t["health"] for t in targets} == {
        "plumbline": "up",
        "prometheus": "up",
        "alertmanager": "up",
    }
    rules = json.loads(fetch(stack, "http://prometheus:9090/api/v1/rules"))["data"]["groups"]
    assert rules
    assert not [rule["name"] for group in rules for rule in group["rules"] if rule["health"] == "err"]
    states = [json.loads(line) for line in run(*stack, "ps", "--format", "json").splitlines()]
    assert {s["Service"] for s in states if s["Health"] == "healthy"} >= {"kafka", "agent", "prometheus"}


def fetch(stack: list[str], url: str) -> str:
    """A page as another container of the stack sees it."""
    code = f"import urllib.request as u; print(u.urlopen({url!r}).read().decode())"
    return run(*stack, "exec", "-T", "agent", "python", "-c", code)
