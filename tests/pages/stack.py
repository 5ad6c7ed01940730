"""A real Prometheus and a real Alertmanager on the committed rules and routes, at the pace of a story."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from deploy.prometheus.generate import dump, rules
from deploy.prometheus.settings import Settings
from tests.kafka_node import _die_with_parent

ROUTES = Path(__file__).parents[2] / "deploy" / "alertmanager" / "alertmanager.yaml"

RESTART_S = 70.0
"""No `for` is shorter: a killed agent whose group has to give its last life up first reads again after 45 s,
and that takes as long in any story."""

PROMETHEUS = "prometheus"
ALERTMANAGER = next((name for name in ("prometheus-alertmanager", "alertmanager") if shutil.which(name)), "")
"""Debian's name, or the project's own."""
START_DELAY_S = 4.0
"""Prometheus repeats every alert within two seconds here, where the example's two minutes have 75 s."""


def missing() -> str:
    """Why the real things cannot run here; empty if they can."""
    if not shutil.which(PROMETHEUS) or not ALERTMANAGER:
        return (
            "prometheus or alertmanager missing (Debian: apt-get install prometheus prometheus-alertmanager)"
        )
    return ""


class Process:
    """A server that can be killed and started again on the same port and data."""

    def __init__(self, name: str, command: list[str], ready: str, log: Path) -> None:
        self.name, self.command, self.ready, self.log = name, command, ready, log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 30) -> None:
        """Start, and wait until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*_die_with_parent(), *self.command], stdout=log, stderr=log)
        deadline = time.monotonic() + seconds
        while not self._answers():
            tail = self.log.read_text(errors="replace")[-3000:]
            assert self.process.poll() is None, f"{self.name} ended:\n{tail}"
            assert time.monotonic() < deadline, f"{self.name} does not answer:\n{tail}"
            time.sleep(0.05)

    def kill9(self) -> None:
        """End it as a power cut does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.ready, timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def write_rules(path: Path, speed: float) -> None:
    """The shipped rules, every duration as much shorter as the story is faster."""
    pace = Settings(scale=1 / speed, shortest_hold_s=RESTART_S, shortest_range_s=5.0)
    path.write_text(dump(rules(pace)))


def write_routes(path: Path, receiver_port: int) -> None:
    """The shipped routes, with short waits and local receivers; grouping and inhibition untouched."""
    text = ROUTES.read_text()
    for receiver in ("pager", "tickets", "snitch"):
        text, count = re.subn(
            rf"http://{receiver}\.example\.com/plumbline",
            f"http://127.0.0.1:{receiver_port}/{receiver}",
            text,
        )
        assert count == 1, receiver
    document: dict[str, Any] = yaml.safe_load(text)
    _hasten(document["route"])
    path.write_text(yaml.safe_dump(document))


def _hasten(route: dict[str, Any]) -> None:
    for name, hasty in (("group_wait", "2s"), ("group_interval", "1s")):
        if name in route and route[name] != "0s":
            route[name] = hasty
    if route.get("repeat_interval") == "1m":
        route["repeat_interval"] = "5s"  # the snitch's
    for child in route.get("routes", ()):
        _hasten(child)


def prometheus(folder: Path, port: int, agent_port: int, alertmanager_port: int, speed: float) -> Process:
    """Scrapes the agent and judges the rules every second."""
    folder.mkdir()
    write_rules(folder / "rules.yaml", speed)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "rules.yaml")],
        "alerting": {
            "alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager_port}"]}]}]
        },
        "scrape_configs": [
            {"job_name": "plumbline", "static_configs": [{"targets": [f"127.0.0.1:{agent_port}"]}]}
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    command = [
        PROMETHEUS,
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--rules.alert.resend-delay=500ms",
    ]
    return Process("prometheus", command, f"http://127.0.0.1:{port}/-/ready", folder / "prometheus.log")


def alertmanager(folder: Path, port: int, receiver_port: int, program: str | None = None) -> Process:
    """One instance; it writes its memory every second, as the example asks for a minute.

    Debian's is too old to wait after its start; a `program` that is killed must.
    """
    folder.mkdir()
    write_routes(folder / "alertmanager.yaml", receiver_port)
    command = [
        program or ALERTMANAGER,
        f"--config.file={folder / 'alertmanager.yaml'}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
        "--data.maintenance-interval=1s",
    ]
    if program:
        command.append(f"--dispatch.start-delay={START_DELAY_S:g}s")
    return Process("alertmanager", command, f"http://127.0.0.1:{port}/-/ready", folder / "alertmanager.log")


@contextmanager
def running(process: Process) -> Iterator[Process]:
    """Started, and ended with the block."""
    try:
        process.start()
        yield process
    finally:
        process.kill9()
