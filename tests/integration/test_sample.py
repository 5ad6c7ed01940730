from contextlib import closing

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from agent.config import Config
from agent.errors import StartError
from agent.sample import read
from tests.kafka_node import Broker


def config(broker: Broker) -> Config:
    """A config for the broker."""
    return Config.model_validate({"kafka": {"bootstrap_servers": broker.bootstrap}, "models": {"m": {}}})


def test_the_last_records_are_read_and_no_group_is_joined(broker: Broker) -> None:
    """The newest of each partition, with key and headers; an empty partition is no trouble."""
    topic = broker.create_topic("sampled", partitions=3)
    with closing(KafkaProducer(bootstrap_servers=broker.bootstrap)) as producer:
        for number in range(10):
            for partition in (0, 2):
                producer.send(topic, b"%d" % number, key=b"k", headers=[("h", b"1")], partition=partition)
        producer.flush(timeout=30)
    batches = read(config(broker), topic, 6)
    held = {batch.partition.partition: [int(v or b"-1") for v in batch.values] for batch in batches}
    assert held == {0: [8, 9], 2: [8, 9]}
    assert all(batch.headers == [[("h", b"1")]] * 2 for batch in batches)
    with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
        assert "plumbline" not in str(admin.list_groups())


def test_a_topic_that_is_not_there_is_not_made(broker: Broker) -> None:
    """A typing error is told, and creates nothing."""
    with pytest.raises(StartError, match="no topic no-such-sample"):
        read(config(broker), "no-such-sample", 3)
    with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
        assert "no-such-sample" not in admin.list_topics()
