import logging
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition

from agent.config import KafkaConfig
from agent.respond.kafka_sink import BUDGET_S, MAX_IN_FLIGHT, KafkaSink
from agent.respond.outbox import OutboxMessage
from tests.broker import Broker, KafkaNode


def message(id_: int, topic: str, value: bytes | None = b"v") -> OutboxMessage:
    """A message with a key and a header."""
    return OutboxMessage(id_, topic, b"%d" % id_, (("h", b"1"),), value)


@pytest.fixture
def sink(broker: Broker) -> Iterator[KafkaSink]:
    """A sink on the shared broker."""
    with closing(KafkaSink({"bootstrap_servers": broker.bootstrap}, time.monotonic)) as running:
        yield running


def read(bootstrap: str, topic: str) -> list[Any]:
    """Everything in the topic's only partition."""
    with closing(KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)) as consumer:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        consumer.seek_to_beginning()
        end = consumer.end_offsets([partition])[partition]
        found: list[Any] = []
        while consumer.position(partition) < end:
            found += consumer.poll(500).get(partition, [])
        return found


def test_every_acknowledged_message_is_in_the_topic_once_and_in_order(
    broker: Broker, sink: KafkaSink
) -> None:
    """More messages than may be in flight all arrive, whole and in order."""
    topic = broker.create_topic("outbox")
    sent = [message(i, topic, None if i == 7 else b"%d" % i) for i in range(MAX_IN_FLIGHT + 100)]
    done: list[int] = []
    while len(done) < len(sent):
        done += sink.publish([m for m in sent if m.id not in set(done)])
    assert sorted(done) == [m.id for m in sent]
    records = read(broker.bootstrap, topic)
    assert [(r.key, r.value, r.headers) for r in records] == [(m.key, m.value, [("h", b"1")]) for m in sent]


def test_a_message_that_can_never_be_sent_is_given_up_and_counted(broker: Broker, sink: KafkaSink) -> None:
    """Too large for the broker: it does not stand in the way of the others for ever."""
    topic = broker.create_topic("large")
    assert sorted(sink.publish([message(1, topic, b"x" * 2_000_000), message(2, topic)])) == [1, 2]
    assert sink.refused == 1
    assert [r.key for r in read(broker.bootstrap, topic)] == [b"2"]


def test_a_broker_that_is_not_there_raises_nothing_and_takes_bounded_time() -> None:
    """No broker: nothing is acknowledged, the call comes back within its budget, and then backs off."""
    with closing(KafkaSink({"bootstrap_servers": "127.0.0.1:1"}, time.monotonic)) as sink:
        begin = time.monotonic()
        assert sink.publish([message(1, "t")]) == []
        assert time.monotonic() - begin < BUDGET_S + 2
        begin = time.monotonic()
        assert sink.publish([message(1, "t")]) == []
        assert time.monotonic() - begin < 0.1


def test_no_secret_is_logged_when_the_broker_is_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Wherever the logs go and however much is asked for, the password is not in them."""
    (tmp_path / "password").write_text("hunter2-secret")
    config = KafkaConfig(
        bootstrap_servers="127.0.0.1:1",
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_username="agent",
        sasl_password_file=tmp_path / "password",
    )
    caplog.set_level(logging.DEBUG)
    with closing(KafkaSink.from_config(config, time.monotonic)) as sink:
        assert sink.publish([message(1, "t")]) == []
    written = capfd.readouterr()
    assert "outbox_publish_failed" in written.out + written.err + caplog.text
    assert "hunter2" not in written.out + written.err + caplog.text


@pytest.mark.slow
def test_messages_of_an_outage_arrive_when_it_is_over(own_broker: KafkaNode) -> None:
    """Killed and restarted, the broker gets every message; none was acknowledged while it was away."""
    topic = own_broker.create_topic("outage")
    with closing(KafkaSink({"bootstrap_servers": own_broker.bootstrap}, time.monotonic)) as sink:
        assert sink.publish([message(0, topic)]) == [0]
        own_broker.kill9()
        left = {i: message(i, topic) for i in range(1, 5)}
        begin = time.monotonic()
        assert sink.publish(list(left.values())) == []
        assert time.monotonic() - begin < BUDGET_S + 2
        own_broker.start()
        deadline = time.monotonic() + 60
        while left and time.monotonic() < deadline:
            for done in sink.publish(list(left.values())):
                del left[done]
            time.sleep(0.2)
        assert not left
    assert {r.key for r in read(own_broker.bootstrap, topic)} == {b"0", b"1", b"2", b"3", b"4"}
