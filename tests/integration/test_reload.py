"""SIGHUP to a real agent process."""

from __future__ import annotations

import json
import signal
import uuid
from pathlib import Path
from typing import Any

from tests.integration.agent_process import (
    AgentProcess,
    agent,
    parse_metrics,
    send,
    series,
    topic_ends,
    write_config,
)
from tests.kafka_node import Broker

SUCCESSFUL = series("plumbline_config_last_reload_successful")
SINCE = series("plumbline_config_last_reload_success_timestamp_seconds")


def document(broker: Broker, topic: str, *models: str) -> dict[str, Any]:
    return {
        "kafka": {
            "bootstrap_servers": broker.bootstrap,
            "group_id": uuid.uuid5(uuid.NAMESPACE_DNS, topic).hex,
        },
        "sources": [{"topics": [topic], "kind": "prediction"}],
        "models": {name: {} for name in models},
        "state": {"commit_interval": "200ms"},
        "dead_letters": {"topic": None},
        "retraining_topic": None,
    }


def records(begin: int, end: int, model: str) -> list[tuple[bytes, bytes]]:
    found = []
    for n in range(begin, end):
        event = {"prediction_id": str(n), "timestamp": "2026-01-01T00:00:00Z", "model_name": model}
        found.append((b"%d" % n, json.dumps(event | {"prediction_score": 0.7}).encode()))
    return found


def hang_up(running: AgentProcess) -> None:
    running.process.send_signal(signal.SIGHUP)


def test_a_hangup_reads_the_config_and_goes_on(broker: Broker, tmp_path: Path) -> None:
    """Same process, same consumer: a new file takes effect, a bad one does not, each record counts once."""
    topic = broker.create_topic("reload", partitions=2)
    path = write_config(tmp_path / "agent.yaml", document(broker, topic, "a"))
    send(broker, topic, [*records(0, 100, "a"), *records(0, 100, "b")])
    with agent(path) as running:
        running.wait_read(topic_ends(broker, topic))
        before, growing = parse_metrics(running.get("/metrics")[1])
        assert before[SUCCESSFUL] == 1
        for partition in "01":
            assert before[series("plumbline_consumer_lag_records", topic=topic, partition=partition)] == 0
        assert before[series("plumbline_records_total", outcome="merged", topic=topic)] == 100

        write_config(path, document(broker, topic, "a", "b"))
        hang_up(running)
        running.wait(lambda a: a.metrics()[SINCE] > before[SINCE])
        after = running.metrics()
        assert after[SUCCESSFUL] == 1
        assert all(after[key] >= before[key] for key in growing)

        path.write_text("models: {a: {treshold: 0.5}}\n")
        hang_up(running)
        running.wait(lambda a: a.metrics()[SUCCESSFUL] == 0)
        assert "did you mean threshold?" in running.said
        assert running.metrics()[SINCE] == after[SINCE]

        send(broker, topic, [*records(100, 150, "a"), *records(100, 150, "b")])
        running.wait_read(topic_ends(broker, topic))
        shown = running.metrics()
        counts = {
            name: shown[series("plumbline_predictions_total", model_name=name, model_version="unknown")]
            for name in "ab"
        }
        assert counts == {"a": 150, "b": 50}
        assert running.stop() == 0


def test_a_hangup_while_it_waits_for_the_broker(tmp_path: Path) -> None:
    """A config is taken although nothing was ever read, and the agent goes on waiting."""
    nowhere = Broker("127.0.0.1:1")
    path = write_config(tmp_path / "agent.yaml", document(nowhere, "none", "a"))
    with agent(path) as running:
        running.wait(lambda a: "cannot be reached" in a.said)
        running.wait(lambda a: SINCE in a.metrics())
        before = running.metrics()[SINCE]
        hang_up(running)
        running.wait(lambda a: a.metrics()[SINCE] > before)
        assert running.metrics()[SUCCESSFUL] == 1
        assert running.stop() == 0
