import time
from contextlib import closing
from pathlib import Path

from kafka import KafkaAdminClient, KafkaProducer

from agent.config import Config
from agent.doctor import Level, examine
from tests.kafka_node import Broker


def config(broker: Broker, folder: Path, predictions: str, feedback: str) -> Config:
    """A config for topics of the broker."""
    return Config.model_validate(
        {
            "kafka": {"bootstrap_servers": broker.bootstrap, "group_id": f"doctor-{predictions}"},
            "sources": [
                {"topics": [predictions], "kind": "prediction"},
                {"topics": [feedback], "kind": "feedback"},
            ],
            "models": {"credit": {}},
            "state": {"dir": folder / "state"},
            "http": {"host": "127.0.0.1", "port": 0},
            "dead_letters": {"topic": f"{predictions}.dead"},
            "retraining_topic": None,
        }
    )


def produce(broker: Broker, topic: str, timestamp_ms: int) -> None:
    """One record of a given time."""
    with closing(KafkaProducer(bootstrap_servers=broker.bootstrap)) as producer:
        producer.send(topic, b"{}", timestamp_ms=timestamp_ms).get(timeout=10)


def test_a_healthy_broker_is_found_healthy_and_left_alone(broker: Broker, tmp_path: Path) -> None:
    """All is ok but for the missing dead-letter topic, which is not created, nor a group joined."""
    predictions, feedback = broker.create_topic("p", partitions=2), broker.create_topic("f", partitions=2)
    now = time.time()
    produce(broker, predictions, int(now * 1000) - 5000)
    settings = config(broker, tmp_path, predictions, feedback)
    found = list(examine(settings, now))
    assert {f.about: f.level for f in found if f.level is not Level.OK} == {"topic": Level.WARN}, found
    assert [f.text for f in found if f.about == "clock"] == ["the newest record is 5 s old"]
    with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
        assert f"{predictions}.dead" not in admin.list_topics()
        assert settings.kafka.group_id not in str(admin.list_groups())


def test_what_is_wrong_at_the_broker_is_told(broker: Broker, tmp_path: Path) -> None:
    """A missing topic, unequal partitions and a clock that lags by an hour are each a finding."""
    predictions, feedback = broker.create_topic("p", partitions=2), broker.create_topic("f", partitions=3)
    now = time.time()
    produce(broker, predictions, int(now * 1000))
    settings = config(broker, tmp_path, predictions, feedback)
    found = {f.about: f for f in examine(settings, now - 3600)}
    assert found["partitions"].level is Level.WARN
    assert found["clock"].level is Level.FAIL
    missing = config(broker, tmp_path, predictions, "no-such-topic")
    told = [f for f in examine(missing, now) if f.level is Level.FAIL]
    assert [f.text for f in told] == ["no-such-topic is not there"]
