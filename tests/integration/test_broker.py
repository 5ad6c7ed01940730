import uuid
from contextlib import closing
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from tests.broker import Broker, KafkaNode


def test_records_come_back_in_order_and_whole(broker: Broker) -> None:
    """What is produced to a partition is consumed from it, every record in order, with key and headers."""
    topic = broker.create_topic("round-trip", partitions=2)
    sent = [(f"key-{number}".encode(), b"\x00\xff" * number) for number in range(50)]
    _produce(broker, topic, sent)

    with closing(KafkaConsumer(bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest")) as consumer:
        partition = TopicPartition(topic, 1)
        consumer.assign([partition])
        records = _read(consumer, len(sent))

    assert [(record.key, record.value) for record in records] == sent
    assert [record.offset for record in records] == list(range(50))
    assert all(record.headers == [("h", b"1")] for record in records)


def test_two_topics_of_one_name_do_not_meet(broker: Broker) -> None:
    """Tests that ask for the same topic name get topics of their own."""
    assert broker.create_topic("same") != broker.create_topic("same")


def test_kill_and_restart_keep_data_and_offsets(own_broker: KafkaNode) -> None:
    """Acknowledged records and committed offsets survive kill -9, and a client that was connected goes on."""
    topic = own_broker.create_topic("durable")
    bootstrap, group, partition = own_broker.bootstrap, uuid.uuid4().hex, TopicPartition(topic, 0)
    with closing(
        KafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
    ) as consumer:
        consumer.assign([partition])
        _produce(own_broker, topic, [(b"k", b"before")], partition=0)
        consumer.commit({partition: OffsetAndMetadata(1, "note", -1)})

        own_broker.kill9()
        own_broker.start()
        _produce(own_broker, topic, [(b"k", b"after")], partition=0)

        assert own_broker.bootstrap == bootstrap
        assert consumer.committed(partition, metadata=True)[:2] == (1, "note")
        consumer.seek(partition, 0)
        assert [record.value for record in _read(consumer, 2)] == [b"before", b"after"]


def test_a_paused_broker_answers_again_after_resume(own_broker: KafkaNode) -> None:
    """A frozen broker delays a record and, once resumed, takes it: nothing is lost."""
    topic = own_broker.create_topic("paused")
    with closing(KafkaProducer(bootstrap_servers=own_broker.bootstrap)) as producer:
        producer.send(topic, b"first").get(timeout=10)
        own_broker.pause()
        waiting = producer.send(topic, b"second")
        own_broker.resume()
        assert waiting.get(timeout=20).offset == 1


def _produce(broker: Broker, topic: str, records: list[tuple[bytes, bytes]], partition: int = 1) -> None:
    with closing(KafkaProducer(bootstrap_servers=broker.bootstrap)) as producer:
        for key, value in records:
            producer.send(topic, key=key, value=value, partition=partition, headers=[("h", b"1")])
        producer.flush(timeout=20)


def _read(consumer: KafkaConsumer, count: int) -> list[Any]:
    """The next `count` records, and whatever else arrives within a moment after them."""
    records: list[Any] = []
    for _ in range(40):
        batch = consumer.poll(timeout_ms=250)
        records += [record for found in batch.values() for record in found]
        if not batch and len(records) >= count:
            break
    return records
