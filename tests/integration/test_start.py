"""What a real agent process does with bad beginnings: no broker, no topic, no sense in the config."""

from __future__ import annotations

import json
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from tests.integration.agent_process import agent, merged, read_all, send, series, topic_ends, write_config
from tests.kafka_node import Broker, KafkaNode

CONNECTED = series("plumbline_source_connected")


def document(broker: Broker, topic: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - YAML
    base = {
        "kafka": {"bootstrap_servers": broker.bootstrap, "group_id": uuid.uuid4().hex},
        "sources": [{"topics": [topic], "kind": "prediction"}],
        "models": {"m": {"min_samples": 1}},
        "state": {"commit_interval": "300ms"},
        "dead_letters": {"topic": None},
    }
    return merged(base, more)


def prediction(number: int) -> bytes:
    event = {
        "prediction_id": str(number),
        "timestamp": f"2026-01-01T00:00:{number % 60:02}Z",
        "model_name": "m",
        "prediction_score": 0.7,
    }
    return json.dumps(event).encode()


def predictions(count: int) -> list[tuple[bytes, bytes]]:
    return [(b"%d" % number, prediction(number)) for number in range(count)]


def test_it_waits_for_a_broker_that_is_not_there(own_broker: KafkaNode, tmp_path: Path) -> None:
    """Without a broker the agent lives, is ready, and says so; when one comes up, it reads by itself."""
    topic = own_broker.create_topic("late")
    send(own_broker, topic, predictions(5))
    ends = topic_ends(own_broker, topic)
    own_broker.stop()
    with agent(write_config(tmp_path / "agent.yaml", document(own_broker, topic))) as running:
        running.wait(lambda a: a.metrics().get(CONNECTED) == 0)
        running.wait(lambda a: "cannot be reached" in a.said)
        assert running.get("/livez")[0] == running.get("/readyz")[0] == 200
        assert "retry" in running.said
        own_broker.start()
        running.wait_read(ends)
        assert running.metrics()[CONNECTED] == 1
        assert running.stop() == 0


def test_it_can_be_stopped_while_it_waits(tmp_path: Path) -> None:
    """SIGTERM ends a waiting agent at once and in order: a pod without a broker can be rolled."""
    nowhere = Broker("127.0.0.1:1")
    with agent(write_config(tmp_path / "agent.yaml", document(nowhere, "none"))) as running:
        running.wait(lambda a: "cannot be reached" in a.said)
        assert running.stop() == 0


def test_an_unreachable_broker_never_ends_the_agent(tmp_path: Path) -> None:
    """`on_start_failure: exit` is for what waiting cannot mend; a broker may come up any moment."""
    nowhere = Broker("127.0.0.1:1")
    config = write_config(tmp_path / "agent.yaml", document(nowhere, "none", on_start_failure="exit"))
    with agent(config) as running:
        running.wait(lambda a: "cannot be reached" in a.said)
        assert running.process.poll() is None
        assert running.get("/readyz")[0] == 200


def test_a_missing_topic_ends_it_if_asked_to(broker: Broker, tmp_path: Path) -> None:
    """With `on_start_failure: exit` it exits with 1, naming the topic and what to do."""
    missing = f"missing-{uuid.uuid4().hex}"
    config = write_config(tmp_path / "agent.yaml", document(broker, missing, on_start_failure="exit"))
    with agent(config) as running:
        assert running.process.wait(60) == 1
        last = running.said.strip().splitlines()[-1]
        assert last.startswith("plumbline: ")
        assert missing in last
        assert "sources.topics" in last
        assert "Traceback" not in running.said


def test_a_missing_topic_is_waited_for_by_default(broker: Broker, tmp_path: Path) -> None:
    """With `on_start_failure: wait` it says the same, stays alive, and reads the topic once it is made."""
    topic = f"missing-{uuid.uuid4().hex}"
    config = write_config(tmp_path / "agent.yaml", document(broker, topic, on_start_failure="wait"))
    with agent(config) as running:
        running.wait(lambda a: topic in a.said)
        assert running.get("/livez")[0] == running.get("/readyz")[0] == 200
        with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
            made = {"num_partitions": 1, "replication_factor": 1}
            admin.create_topics({topic: made}, wait_for_metadata=True)
        send(broker, topic, predictions(7))
        running.wait_read(topic_ends(broker, topic))
        assert running.stop() == 0


def test_a_wrong_config_consumes_nothing(broker: Broker, tmp_path: Path) -> None:
    """Exit 2 with key, value and remedy of every mistake; no state, no offset, no port."""
    topic = broker.create_topic("untouched")
    send(broker, topic, predictions(3))
    wrong = document(broker, topic, models={"m": {"step": "5", "tresholds": 0.5}})
    with agent(write_config(tmp_path / "agent.yaml", wrong)) as running:
        assert running.process.wait(60) == 2
        said = running.said
    assert "models.m.step" in said
    assert "'5'" in said or '"5"' in said
    assert "with its unit" in said
    assert "models.m.tresholds" in said
    assert "threshold" in said.replace("tresholds", "")
    assert "Traceback" not in said
    assert not (tmp_path / "agent.state").exists()
    group = wrong["kafka"]["group_id"]
    with closing(KafkaConsumer(bootstrap_servers=broker.bootstrap, group_id=group)) as consumer:
        assert consumer.committed(TopicPartition(topic, 0)) is None


def test_a_second_agent_on_the_same_state_is_refused(broker: Broker, tmp_path: Path) -> None:
    """The second exits with 2 and says why; the first goes on, and its state serves the next one."""
    topic = broker.create_topic("one")
    config = write_config(tmp_path / "agent.yaml", document(broker, topic))
    with agent(config) as first:
        first.wait_ready()
        other = tmp_path / "second.yaml"
        other.write_text(config.read_text())
        with agent(other) as second:
            assert second.process.wait(60) == 2
            assert f"{tmp_path / 'agent.state'} is in use by another agent" in second.said
            assert "Traceback" not in second.said
        send(broker, topic, predictions(3))
        first.wait_read(topic_ends(broker, topic))
        assert first.stop() == 0
    with agent(other) as third:
        third.wait_read(topic_ends(broker, topic))
        assert third.stop() == 0


@pytest.mark.parametrize("where", ["topic", "file"])
def test_a_malformed_record_touches_nothing_but_itself(broker: Broker, tmp_path: Path, where: str) -> None:
    """Bad records among good ones are dead-lettered with their reason; every good one is merged."""
    topic = broker.create_topic("mixed", 2)
    dead = broker.create_topic("dead") if where == "topic" else None
    bad = [(b"k", b"not json"), (b"k", b"\xff"), (b"k", b"[]"), (b"k", prediction(1)[:-9])]
    mixed = [*predictions(20), *bad, *[(b"%d" % n, prediction(n)) for n in range(20, 40)]]
    send(broker, topic, mixed)
    config = write_config(tmp_path / "agent.yaml", document(broker, topic, dead_letters={"topic": dead}))
    with agent(config) as running:
        running.wait_read(topic_ends(broker, topic))
        shown = running.metrics()
        assert running.stop() == 0
    outcome = {
        o: shown[series("plumbline_records_total", outcome=o, topic=topic)]
        for o in ("merged", "dead_lettered")
    }
    assert outcome == {"merged": 40, "dead_lettered": 4}
    if dead is not None:
        reasons = sorted(
            dict(letter.headers)["plumbline-reason"].decode() for letter in read_all(broker, dead)
        )
    else:
        lines = (tmp_path / "agent.state" / "dead-letters.jsonl").read_text().splitlines()
        reasons = sorted(json.loads(line)["headers"]["plumbline-reason"] for line in lines)
    assert reasons == ["malformed_json", "malformed_json", "malformed_json", "not_an_object"]
