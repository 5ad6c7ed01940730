"""A real `python -m agent run` process, as an orchestrator sees it: its ports, its log, its exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import yaml
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from tests.kafka_node import Broker

ROOT = Path(__file__).parents[2]
_SERIES = re.compile(r"^([a-zA-Z_:][\w:]*)(\{.*\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Record = tuple[bytes, bytes]
Series = tuple[str, frozenset[tuple[str, str]]]


class AgentProcess:
    """One life of the agent. Its log goes on in the same file as that of earlier lives."""

    def __init__(self, config: Path, *, environ: Mapping[str, str] | None = None) -> None:
        self.log = config.with_suffix(".log")
        self._begin = self.log.stat().st_size if self.log.exists() else 0
        self._url: str | None = None
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PLUMBLINE_")}
        command = [*_die_with_parent(), sys.executable, "-m", "agent", "run", "-c", str(config)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, env=inherited | dict(environ or {})
            )

    @property
    def said(self) -> str:
        """What this life wrote."""
        with self.log.open("rb") as file:
            file.seek(self._begin)
            return file.read().decode(errors="replace")

    @property
    def url(self) -> str | None:
        """Where it serves, once it does: with port 0 only its log says so."""
        if self._url is None and (found := re.search(r"http://[^/]*:(\d+)/metrics", self.said)):
            self._url = f"http://127.0.0.1:{found[1]}"
        return self._url

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of an HTTP GET; ConnectionError while nobody serves."""
        if self.url is None:
            raise ConnectionError("does not serve yet")
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except urllib.error.URLError as error:
            raise ConnectionError(str(error)) from error

    def metrics(self) -> dict[Series, float]:
        """All series of /metrics."""
        return parse_metrics(self.get("/metrics")[1])[0]

    def status(self) -> Any:  # noqa: ANN401 - any JSON document
        """The document of /status."""
        return json.loads(self.get("/status")[1])

    def wait(self, condition: Callable[[AgentProcess], bool], seconds: float = 60) -> None:
        """Wait until the condition holds; it may raise ConnectionError while the agent is starting."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if condition(self):
                    return
            except ConnectionError:
                pass
            assert self.process.poll() is None, f"exit code {self.process.returncode}:\n{self.said}"
            assert time.monotonic() < deadline, f"still waiting after {seconds} s:\n{self.said[-8000:]}"
            time.sleep(0.05)

    def wait_ready(self) -> None:
        """Until /readyz answers 200."""
        self.wait(lambda agent: agent.get("/readyz")[0] == 200)

    def wait_read(self, ends: Mapping[tuple[str, int], int], seconds: float = 90) -> None:
        """Until everything up to these offsets is committed and shown, and nothing is left to send."""

        def done(agent: AgentProcess) -> bool:
            shown = agent.metrics()
            at = {
                tp: shown.get(series("plumbline_next_offset", topic=tp[0], partition=str(tp[1])))
                for tp in ends
            }
            return at == dict(ends) and shown.get(series("plumbline_outbox_messages")) == 0

        self.wait(done, seconds)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.terminate()
        return self.process.wait(30)

    def kill9(self) -> None:
        """End it as the out-of-memory killer does."""
        self.process.kill()
        self.process.wait()


@contextmanager
def agent(config: Path, environ: Mapping[str, str] | None = None) -> Iterator[AgentProcess]:
    """A running agent, ended with the block whatever happens."""
    running = AgentProcess(config, environ=environ)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.kill9()


def write_config(path: Path, document: Mapping[str, Any]) -> Path:
    """Write a config file, its port chosen by the system, its state beside it."""
    base = {"http": {"host": "127.0.0.1", "port": 0}, "state": {"dir": str(path.with_suffix(".state"))}}
    path.write_text(yaml.safe_dump(merged(base, document), sort_keys=False))
    return path


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings laid over one another."""
    both = dict(base)
    for key, value in over.items():
        held = both.get(key)
        both[key] = merged(held, value) if isinstance(held, Mapping) and isinstance(value, Mapping) else value
    return both


def series(name: str, **labels: str) -> Series:
    """The key of one series."""
    return name, frozenset(labels.items())


def parse_metrics(text: str) -> tuple[dict[Series, float], set[Series]]:
    """(all series, those that may only grow: counters, and a histogram's buckets, count and sum)."""
    kinds: dict[str, str] = {}
    values: dict[Series, float] = {}
    growing: set[Series] = set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            kinds[name] = kind
        elif line and not line.startswith("#"):
            found = _SERIES.match(line)
            assert found, line
            key = found[1], frozenset(_LABEL.findall(found[2] or ""))
            values[key] = float(found[3])
            base = re.sub(r"_(bucket|count|sum)$", "", found[1])
            if kinds.get(found[1]) == "counter" or kinds.get(base) == "histogram":
                growing.add(key)
    return values, growing


def send(broker: Broker, topic: str, records: list[Record]) -> None:
    """Produce in order; equal keys share a partition."""
    with closing(KafkaProducer(bootstrap_servers=broker.bootstrap, linger_ms=20)) as producer:
        for key, value in records:
            producer.send(topic, key=key, value=value)
        producer.flush(timeout=60)


def read_all(broker: Broker, topic: str) -> list[Any]:
    """Every record that lies in a topic now."""
    with closing(KafkaConsumer(bootstrap_servers=broker.bootstrap, group_id=None)) as consumer:
        ends = {TopicPartition(*tp): end for tp, end in topic_ends(broker, topic).items()}
        consumer.assign(list(ends))
        consumer.seek_to_beginning()
        found: list[Any] = []
        deadline = time.monotonic() + 30
        while any(consumer.position(tp) < end for tp, end in ends.items()):
            assert time.monotonic() < deadline
            found += [r for records in consumer.poll(timeout_ms=200).values() for r in records]
        return found


def topic_ends(broker: Broker, *topics: str) -> dict[tuple[str, int], int]:
    """The end of every partition."""
    with closing(KafkaConsumer(bootstrap_servers=broker.bootstrap, group_id=None)) as consumer:
        wanted = [TopicPartition(t, p) for t in topics for p in sorted(consumer.partitions_for_topic(t))]
        return {(tp.topic, tp.partition): end for tp, end in consumer.end_offsets(wanted).items()}


def _die_with_parent() -> list[str]:
    return ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
