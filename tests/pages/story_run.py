"""The demo's story through everything that stands between an event and a pager.

producer → Kafka → agent (a process of its own) → Prometheus → Alertmanager → receiver, requests' topic.
"""

from __future__ import annotations

import json
import math
import random
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from kafka import KafkaProducer
from pydantic import BaseModel

from agent.config import format_duration
from agent.demo import demo_config, learn_baseline
from agent.ingest.demo import FEEDBACK, PREDICTIONS, DemoSource
from agent.ingest.story import END, MODEL, STORY, Expected
from tests.integration.agent_process import AgentProcess, read_all, topic_ends, write_config
from tests.kafka_node import Broker, _free_ports
from tests.pages.receiver import Incident, Label, Receiver
from tests.pages.stack import START_DELAY_S, Process, alertmanager, prometheus, running

SETTLE_S = 8.0
"""After the story: for what is still on its way."""
LONGEST_S = 4.0
"""So long after an incident was opened somebody dies at the latest: while the shortest page is open."""


class Teller:
    """Publishes the story at its pace, and holds its clock still while somebody recovers."""

    def __init__(self, broker: Broker, topics: Mapping[str, str], seed: int, speed: float) -> None:
        self.broker, self.speed = broker, speed
        self._source = DemoSource(seed, speed, END)
        self._names = {PREDICTIONS: topics["predictions"], FEEDBACK: topics["feedback"]}
        self.topics = tuple(self._names.values())
        self._stop, self._go = threading.Event(), threading.Event()
        self._go.set()
        self._quiet = threading.Event()
        self._marks: list[tuple[float, float]] = []
        """(moment, the story's seconds of telling up to then), at each poll."""
        self._thread = threading.Thread(target=self._publish, daemon=True)

    @contextmanager
    def telling(self) -> Iterator[Teller]:
        """From the first record on, to the end or that of the block."""
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._go.set()
            self._thread.join(30)

    @property
    def over(self) -> bool:
        """The story is told."""
        return not self._thread.is_alive()

    @contextmanager
    def held(self) -> Iterator[None]:
        """The story stands still; everything told so far lies in the topics."""
        self._go.clear()
        assert self.over or self._quiet.wait(30)
        try:
            yield
        finally:
            self._quiet.clear()
            self._go.set()

    def minute(self, moment_s: float) -> float:
        """The story's clock at a moment, by time.time()."""
        at = bisect_right(self._marks, (moment_s, math.inf)) - 1
        return self._marks[max(at, 0)][1] * self.speed / 60

    def _publish(self) -> None:
        told = 0.0
        with closing(KafkaProducer(bootstrap_servers=self.broker.bootstrap, linger_ms=20)) as producer:
            while not (self._source.finished or self._stop.is_set()):
                if not self._go.is_set():
                    producer.flush(timeout=30)
                    self._quiet.set()
                    self._go.wait()
                begun = time.monotonic()
                for batch in self._source.poll(0.1, told):
                    for value in batch.values or ():
                        producer.send(self._names[batch.partition], value=value)
                told += time.monotonic() - begun
                self._marks.append((time.time(), told))
            producer.flush(timeout=30)


@dataclass(frozen=True)
class Kills:
    """That somebody dies, and when."""

    alertmanager: str
    """One that waits after its start."""
    random: random.Random


@dataclass(frozen=True)
class Killed:
    """Who died when, and what was open then."""

    what: str
    story_minute: int
    open: list[str]


@dataclass
class Run:
    """What came out."""

    teller: Teller
    incidents: list[Incident] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    heartbeats: int = 0
    killed: list[Killed] = field(default_factory=list)

    def minute(self, moment_s: float) -> float:
        """The story's clock at a moment."""
        return self.teller.minute(moment_s)


def tell(broker: Broker, folder: Path, *, seed: int, speed: float, kills: Kills | None = None) -> Run:
    """Run the story `speed` times as fast as life; with `kills`, agents and Alertmanagers die in it."""
    agent_port, prometheus_port, alertmanager_port = _free_ports(3)
    topics = {
        name: broker.create_topic(name) for name in ("predictions", "feedback", "retraining", "dead-letters")
    }
    agent = Agent(agent_config(broker, folder, topics, agent_port, seed))
    run = Run(Teller(broker, topics, seed, speed))
    with ExitStack() as stack:
        receiver = stack.enter_context(Receiver().serving())
        alarms = alertmanager(
            folder / "alertmanager",
            alertmanager_port,
            receiver.port,
            kills.alertmanager if kills else None,
        )
        stack.enter_context(running(alarms))
        stack.callback(agent.kill9)
        agent.start()
        judge = prometheus(folder / "prometheus", prometheus_port, agent_port, alertmanager_port, speed)
        stack.enter_context(running(judge))
        with run.teller.telling():
            if kills:
                killings(run, receiver, agent, alarms, kills)
            while not run.teller.over:
                time.sleep(0.1)
            time.sleep(SETTLE_S)
        run.incidents, run.heartbeats = receiver.incidents, receiver.heartbeats
        run.requests = [json.loads(record.value) for record in read_all(broker, topics["retraining"])]
    return run


def killings(run: Run, receiver: Receiver, agent: Agent, alarms: Process, kills: Kills) -> None:
    """Alertmanager dies while the first ticket is open; at each page it or the agent, each once at least.

    The story stands still meanwhile: a minute of life is nothing at its pace.
    """
    victims = ["alertmanager", "agent", kills.random.choice(["alertmanager", "agent"])]
    kills.random.shuffle(victims)
    at_pages = [("pager", nth, victim) for nth, victim in enumerate(victims)]
    for name, nth, victim in [("tickets", 0, "alertmanager"), *at_pages]:
        if not await_incident(run, receiver, name, nth):
            return
        time.sleep(kills.random.uniform(0, LONGEST_S))
        still = [f"{i.receiver} {i.group}" for i in list(receiver.incidents) if i.resolved_s is None]
        run.killed.append(Killed(victim, round(run.minute(time.time())), still))
        if victim == "agent":
            agent.kill9()
            with run.teller.held():
                agent.start()
                agent.catch_up(topic_ends(run.teller.broker, *run.teller.topics))
        else:
            alarms.kill9()
            with run.teller.held():
                alarms.start()
                time.sleep(START_DELAY_S + 2)


def await_incident(run: Run, receiver: Receiver, name: str, nth: int) -> bool:
    """Wait until a receiver has its n-th, from 0; False if the story is over first."""
    while sum(i.receiver == name for i in list(receiver.incidents)) <= nth:
        if run.teller.over:
            return False
        time.sleep(0.05)
    return True


class Agent:
    """`python -m agent run`, over several lives."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self._life: AgentProcess | None = None

    def start(self) -> None:
        """Begin a life; returns when it is ready."""
        self._life = AgentProcess(self.config)
        self._life.wait_ready()

    def catch_up(self, ends: Mapping[tuple[str, int], int]) -> None:
        """Wait until it has read so far."""
        assert self._life is not None
        self._life.wait_read(ends)

    def kill9(self) -> None:
        """End it as the out-of-memory killer does."""
        if self._life is not None and self._life.process.poll() is None:
            self._life.kill9()


def agent_config(broker: Broker, folder: Path, topics: Mapping[str, str], port: int, seed: int) -> Path:
    """The demo's model, read from Kafka."""
    baseline = folder / "baseline.json"
    learn_baseline(demo_config(folder, port), seed).save(baseline)
    demo = demo_config(folder / "state", port, baseline)
    return write_config(
        folder / "plumbline.yaml",
        {
            "kafka": {"bootstrap_servers": broker.bootstrap, "group_id": topics["predictions"]},
            "sources": [
                {"topics": [topics["predictions"]], "kind": "prediction"},
                {"topics": [topics["feedback"]], "kind": "feedback"},
            ],
            "models": {MODEL: _written(demo.models[MODEL])},
            "state": {"commit_interval": "500ms"},
            "http": {"port": port},
            "dead_letters": {"topic": topics["dead-letters"]},
            "retraining_topic": topics["retraining"],
        },
    )


def _written(value: object) -> Any:  # noqa: ANN401 - what YAML can hold
    """A part of the configuration as its file would say it."""
    if isinstance(value, BaseModel):
        return {name: _written(getattr(value, name)) for name in value.model_fields_set}
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _written(item) for key, item in value.items()}
    return [_written(item) for item in value] if isinstance(value, list) else value


def monitor(alert: Label | Expected) -> tuple[str, str, str, str]:
    """(detector, feature, segment, metric)."""
    if isinstance(alert, Expected):
        return alert.detector, alert.feature, alert.segment, alert.metric
    labels = dict(alert)
    feature, segment, metric = (labels.get(name, "") for name in ("feature", "segment", "metric"))
    return labels.get("detector", labels["alertname"]), feature, segment, metric


def rows(run: Run) -> list[dict[str, Any]]:
    """The table: what the story calls for, what came, how long after its cause; and what came uncalled."""
    left = sorted(run.incidents, key=lambda i: i.opened_s)
    requests = [r for r in run.requests if r["data"]["decision"] == "request"]
    table: list[dict[str, Any]] = []
    for row in STORY:
        for receiver, severity in (("pager", "page"), ("tickets", "ticket")):
            expected = {monitor(alarm) for alarm in row.alarms if alarm.severity == severity}
            end = row.resolved_by or row.seen_by
            came = [
                i
                for i in left
                if i.receiver == receiver and row.start <= run.minute(i.opened_s) < end and expected
            ]
            left = [i for i in left if i not in came]
            if expected:
                table.append(_row(run, row.name, row.start, severity, sorted(expected), came))
        if row.request:
            asked = [r for r in requests if r["data"]["reason"] == row.request]
            requests = [r for r in requests if r not in asked]
            table.append(
                {
                    "incident": row.name,
                    "kind": "trigger",
                    "expected": [row.request],
                    "received": [r["data"]["reason"] for r in asked],
                    "as_expected": len(asked) == 1,
                    "resolved": all(_resolved(run, r) for r in asked),
                }
            )
    for i in left:
        table.append(_row(run, "", run.minute(i.opened_s), i.receiver, [], [i]))
    for r in requests:
        table.append(
            {
                "incident": "",
                "kind": "trigger",
                "expected": [],
                "received": [r["data"]["reason"]],
                "as_expected": False,
            }
        )
    return table


def _row(
    run: Run, name: str, start: float, kind: str, expected: list[Any], came: list[Incident]
) -> dict[str, Any]:
    alerts = sorted({monitor(alert) for incident in came for alert in incident.alerts})
    resolved = [i.resolved_s for i in came]
    found: dict[str, Any] = {
        "incident": name,
        "kind": kind,
        "expected": [" ".join(filter(None, e)) for e in expected],
        "received": [" ".join(filter(None, a)) for a in alerts],
        "incidents_opened": len(came),
        "notifications": sum(i.notifications for i in came),
        "as_expected": len(came) == 1 and alerts == expected,
        "resolved": None not in resolved,
    }
    if came:
        found["opened_story_minute"] = round(run.minute(came[0].opened_s))
        found["delay_story_minutes"] = round(run.minute(came[0].opened_s) - start)
        found["delay_seconds"] = round((run.minute(came[0].opened_s) - start) * 60 / run.teller.speed, 1)
        if len(came) > 1:
            found["histories"] = [incident.history for incident in came]
        if not expected:
            found["labels"] = [dict(sorted(alert)) for alert in sorted(came[0].alerts, key=sorted)]
        if resolved[-1] is not None:
            found["resolved_story_minute"] = round(run.minute(resolved[-1]))
    return found


def _resolved(run: Run, request: Mapping[str, Any]) -> bool:
    key = request["data"]["dedup_key"]
    return any(r["data"]["decision"] == "resolved" and r["data"]["dedup_key"] == key for r in run.requests)
