"""The demo's story in a real Prometheus: the agent as a process, scraped every second from start to end.

A second target stands beside it for what only an agent on a broker has, with webhooks: its exposition comes
from the same renderer, so that lag, dead letters and deliveries are asked for under the names that they have.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from agent.ingest.story import END, MINUTE_MS, START_MS
from agent.respond.expose import Runtime, render
from agent.respond.view import CounterKey, View
from agent.respond.webhook import Outcome

SPEED = 2600
"""The story in half a minute."""
SCRAPE_S = 1
PATIENCE_S = 75
ROOT = Path(__file__).parents[2]

BROKER_COUNTERS = (
    CounterKey("dead_letters", (("reason", "malformed"), ("topic", "predictions"))),
    CounterKey("webhook_attempts", (("outcome", Outcome.TIMEOUT.value), ("webhook", "training"))),
    CounterKey("webhook_given_up", (("reason", Outcome.GONE.value), ("webhook", "training"))),
)
"""What the demo has no occasion to count."""

CONFIG = """
global: {{scrape_interval: {scrape}s, scrape_timeout: {scrape}s}}
scrape_configs:
  - {{job_name: plumbline, static_configs: [{{targets: ["127.0.0.1:{agent}"]}}]}}
  - {{job_name: plumbline-kafka, static_configs: [{{targets: ["127.0.0.1:{broker}"]}}]}}
"""


class Refused(Exception):
    """Prometheus does not understand a query."""


@dataclass(frozen=True)
class Prometheus:
    """A running server, and the time in which the story was told to it."""

    url: str
    start: float
    end: float

    @property
    def seconds(self) -> int:
        """How long the telling took."""
        return int(self.end - self.start)

    def series(self, expr: str) -> list[dict[str, Any]]:
        """What a query gives over the whole story: series of (time, value)."""
        answer = self._get("query_range", query=expr, start=self.start, end=self.end, step=SCRAPE_S)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def values(self, label: str, selector: str = "") -> set[str]:
        """The values that a label had in the story."""
        match = {"match[]": selector} if selector else {}
        answer = self._get(f"label/{label}/values", start=self.start, end=self.end, **match)
        return set(answer["data"])

    def _get(self, path: str, **arguments: str | float) -> dict[str, Any]:
        query = urllib.parse.urlencode(arguments)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as refusal:
            with refusal:
                raise Refused(json.load(refusal)["error"]) from None


@contextmanager
def told(folder: Path) -> Iterator[Prometheus]:
    """Tell the story to a Prometheus of its own; both live as long as the context."""
    agent, prometheus = free_port(), free_port()
    with broker_agent() as broker:
        config = folder / "prometheus.yml"
        config.write_text(CONFIG.format(scrape=SCRAPE_S, agent=agent, broker=broker))
        arguments = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
        arguments.append(f"--web.listen-address=127.0.0.1:{prometheus}")
        url = f"http://127.0.0.1:{prometheus}"
        with process(["prometheus", *arguments], folder / "prometheus.log") as server:
            _wait(server, lambda: _text(f"{url}/-/ready") is not None, 20, folder / "prometheus.log")
            start = time.time()
            demo = ["-m", "agent", "demo", "--speed", str(SPEED), "--port", str(agent)]
            with process([sys.executable, *demo], folder / "agent.log") as running:
                _wait(running, lambda: _is_told(agent), PATIENCE_S, folder / "agent.log")
                time.sleep(2 * SCRAPE_S)
                yield Prometheus(url, start, time.time())


@contextmanager
def process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the context."""
    with log.open("wb") as out, subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out) as running:
        try:
            yield running
        finally:
            running.terminate()
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                running.kill()


@contextmanager
def broker_agent() -> Iterator[int]:
    """The port of an exposition as an agent on a broker renders it, its dead letters growing."""

    class Handler(BaseHTTPRequestHandler):
        scrapes = 0

        def do_GET(self) -> None:
            type(self).scrapes += 1
            counters = dict.fromkeys(BROKER_COUNTERS, self.scrapes)
            view = View({}, counters, {("predictions", 0): 100}, self.scrapes, time.time(), "0.1.0")
            lag = {("predictions", 0): 12, ("predictions", 1): 0}
            body = render(view, Runtime(connected=True, partitions=2, lag=lag, config_since_s=time.time()))
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_told(port: int) -> bool:
    text = _text(f"http://127.0.0.1:{port}/metrics") or ""
    lines = [
        line for line in text.splitlines() if line.startswith("plumbline_joint_watermark_timestamp_seconds{")
    ]
    end_s = (START_MS + END * MINUTE_MS) / 1000
    return any(float(line.split()[-1]) >= end_s - 60 for line in lines)


def _text(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return None


def _wait(running: subprocess.Popen[bytes], done: Callable[[], bool], seconds: float, log: Path) -> None:
    until = time.monotonic() + seconds
    while not done():
        if running.poll() is not None or time.monotonic() > until:
            said = log.read_text("utf-8", "replace")[-2000:]
            raise RuntimeError(f"ended with {running.returncode}, or not done in {seconds} s:\n{said}")
        time.sleep(0.5)
