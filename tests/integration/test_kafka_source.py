import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from agent.config import KafkaConfig
from agent.errors import ConfigError, StartError
from agent.events import NO_TIME, Mark, Partition, RawBatch, Reason, Rejected
from agent.ingest.client import client_options
from agent.ingest.kafka import KafkaSource
from agent.ingest.refusal import BrokerUnreachable
from tests.kafka_node import Broker, KafkaNode

both_clients = pytest.mark.parametrize("client", ["kafka-python", "confluent-kafka"])


def config(broker: Broker, **more: object) -> KafkaConfig:
    return KafkaConfig(bootstrap_servers=broker.bootstrap, group_id=uuid.uuid4().hex, **more)


@contextmanager
def started(
    settings: KafkaConfig, topic: str, positions: dict[Partition, int] | None = None
) -> Iterator[KafkaSource]:
    source = KafkaSource(settings, [topic])
    with closing(source):
        source.start(positions or {})
        yield source


def poll_until(
    source: KafkaSource, done: Callable[[Sequence[RawBatch]], bool], seconds: float = 40
) -> list[RawBatch]:
    batches: list[RawBatch] = []
    deadline = time.monotonic() + seconds
    while not done(batches):
        assert time.monotonic() < deadline, f"only {[b.offsets.tolist() for b in batches]}"
        batches += source.poll(0.1, time.monotonic())
    return batches


def send(broker: Broker, topic: str, values: Sequence[bytes], linger_ms: int = 0) -> None:
    with closing(KafkaProducer(bootstrap_servers=broker.bootstrap, linger_ms=linger_ms)) as producer:
        for value in values:
            producer.send(topic, value, partition=0)
        producer.flush()


def offsets(batches: Sequence[RawBatch]) -> list[int]:
    return [offset for batch in batches for offset in batch.offsets.tolist()]


@both_clients
def test_committed_offsets_serve_who_has_no_state(broker: Broker, client: str) -> None:
    """Who has no state begins where the group says every open hour is whole, and says what is lost."""
    topic, settings = broker.create_topic("group"), config(broker, client=client)
    send(broker, topic, [b"{}"] * 9)
    with started(settings, topic) as source:
        poll_until(source, lambda b: len(offsets(b)) == 9)
        deadline = time.monotonic() + 20
        while not source._committed:  # the group refuses a commit during a rebalance, and takes the next one
            assert time.monotonic() < deadline
            source.poll(0.1, time.monotonic())
            source.commit({Partition(topic, 0): Mark(8, 6, 1_767_225_600_000, "abc")})
    with started(settings, topic) as source:
        batches = poll_until(source, lambda b: len(offsets(b)) >= 3)
        assert offsets(batches) == [6, 7, 8]
        assert [batch.floor_ms for batch in batches if batch.floor_ms > NO_TIME] == [1_767_225_600_000]
        lost = Rejected(Partition(topic, 0), 0, Reason.STATE_LOST, None, last_offset=5)
        assert list(source.take_rejected()) == [lost]


@pytest.mark.parametrize(("policy", "expected"), [("earliest", [0, 1, 2, 3]), ("latest", [3])])
def test_the_start_policy_decides_only_for_the_unknown(
    broker: Broker, policy: str, expected: list[int]
) -> None:
    """On a partition that nobody knows, reading begins at the policy's end of it."""
    topic = broker.create_topic("policy")
    send(broker, topic, [b"{}"] * 3)
    with started(config(broker, start=policy), topic) as source:
        first = poll_until(source, lambda _: bool(source.partitions()))
        send(broker, topic, [b"{}"])
        rest = poll_until(source, lambda b: 3 in offsets(b))
    assert offsets([*first, *rest]) == expected


@both_clients
def test_start_says_what_is_wrong(broker: Broker, client: str) -> None:
    """Missing topic, missing position, position past the end, no broker: each has its message and remedy."""
    topic = broker.create_topic("wrong")
    for settings, topics, positions, words in (
        (config(broker, client=client), [topic, "no-such-topic"], {}, "no-such-topic"),
        (config(broker, client=client, start="fail"), [topic], {}, "earliest or latest"),
        (config(broker, client=client), [topic], {Partition(topic, 0): 7}, "new state.dir"),
        (config(broker, client=client), [topic], {Partition(topic, 5): 0}, "new state.dir"),
    ):
        with pytest.raises(StartError, match=words):
            KafkaSource(settings, topics).start(positions)
    with pytest.raises(BrokerUnreachable, match=r"127\.0\.0\.1:1 cannot be reached"):
        KafkaSource(KafkaConfig(bootstrap_servers="127.0.0.1:1", client=client), [topic]).start({})


@both_clients
def test_aborted_transactions_are_not_read_and_hold_nobody_back(broker: Broker, client: str) -> None:
    """Only committed records come, and markers at the end do not keep a partition from being caught up."""
    topic = broker.create_topic("transactions")
    with closing(
        KafkaProducer(bootstrap_servers=broker.bootstrap, transactional_id=uuid.uuid4().hex)
    ) as producer:
        producer.init_transactions()
        for commit in (True, False):
            producer.begin_transaction()
            producer.send(topic, b"{}")
            producer.flush()
            producer.commit_transaction() if commit else producer.abort_transaction()
    with started(config(broker, client=client), topic) as source:
        batches = poll_until(source, lambda _: bool(source.caught_up()))
        batches += poll_until(source, lambda b: (batches + list(b))[-1].next_position == 4)
    assert offsets(batches) == [0]


@both_clients
def test_records_lost_to_retention_are_told_as_a_range(broker: Broker, client: str) -> None:
    """A position before the first retained record goes on there; what lies between is one rejected range."""
    topic = broker.create_topic("retention")
    send(broker, topic, [b"{}"] * 10)
    with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
        admin.delete_records({TopicPartition(topic, 0): 7})
    partition = Partition(topic, 0)
    with started(config(broker, client=client), topic, {partition: 2}) as source:
        batches = poll_until(source, lambda b: len(offsets(b)) == 3)
        lost = source.take_rejected()
    assert [(r.offset, r.last_offset, r.reason) for r in lost] == [(2, 6, Reason.NOT_RETAINED)]
    assert batches[0].next_position == 7
    assert offsets(batches) == [7, 8, 9]
    with (
        pytest.raises(StartError, match="without 5 records"),
        started(config(broker, client=client, start="fail"), topic, {partition: 2}),
    ):
        pass


@both_clients
def test_the_end_is_known_before_the_records_are_read(broker: Broker, client: str) -> None:
    """Who is far behind says so at once, not when it has caught up."""
    topic = broker.create_topic("lag")
    send(broker, topic, [b"{}"] * 3)
    with started(config(broker, client=client), topic) as source:
        read = poll_until(source, lambda _: bool(source.ends()))
        assert source.ends() == {Partition(topic, 0): 3}
        assert offsets(read) in ([], [0, 1, 2])


@both_clients
def test_an_outage_is_waited_out(own_broker: KafkaNode, client: str) -> None:
    """A killed broker makes the source say so and wait; restarted, it goes on without loss or repetition."""
    topic = own_broker.create_topic("outage")
    send(own_broker, topic, [b"{}"] * 3)
    with started(config(own_broker, client=client), topic) as source:
        before = poll_until(source, lambda b: len(offsets(b)) == 3)
        own_broker.kill9()
        poll_until(source, lambda _: not source.connected)
        assert source.caught_up() == frozenset()
        assert source.ends() == {}
        own_broker.start()
        send(own_broker, topic, [b"{}"] * 2)
        after = poll_until(source, lambda b: len(offsets(b)) >= 2)
        assert source.connected
    assert offsets([*before, *after]) == [0, 1, 2, 3, 4]


@both_clients
def test_undecodable_batches_are_passed_as_ranges_and_nothing_else_is_lost(
    own_broker: KafkaNode, client: str
) -> None:
    """Two batches damaged on disk, a good one between: both are rejected as ranges, all good records come."""
    topic = own_broker.create_topic("poison")
    healthy = own_broker.create_topic("healthy")
    for letter in b"abcd":
        send(own_broker, topic, [bytes([letter]) * 40] * 5, linger_ms=200)
    own_broker.stop()
    for letter in b"ac":
        _damage(own_broker.directory, topic, bytes([letter]) * 40)
    own_broker.start()
    send(own_broker, healthy, [b"{}"] * 3)
    source = KafkaSource(config(own_broker, client=client), [topic, healthy])
    with closing(source):
        source.start({})
        batches = poll_until(source, lambda b: len(offsets(b)) == 13)
        rejected = source.take_rejected()
        send(own_broker, topic, [b"{}"])
        batches += poll_until(source, lambda b: 20 in offsets(b))
    bad = [b for b in batches if b.partition.topic == topic]
    assert offsets(bad) == [*range(5, 10), *range(15, 21)]
    assert [(r.offset, r.last_offset, r.reason) for r in rejected] == [
        (0, 4, Reason.POISON_BATCH),
        (10, 14, Reason.POISON_BATCH),
    ]
    positions = [b.next_position for b in bad]
    assert positions == sorted(positions)


def _damage(directory: Path, topic: str, payload: bytes) -> None:
    """Flip a byte of a payload where the segment holds it, so that the batch's checksum fails."""
    (segment,) = directory.rglob(f"{topic}-0/00000000000000000000.log")
    data = bytearray(segment.read_bytes())
    data[data.index(payload)] ^= 0x01
    segment.write_bytes(bytes(data))


@both_clients
def test_two_members_share_the_partitions(broker: Broker, client: str) -> None:
    """When a second member joins, some partitions move to it, and together they still read all."""
    topic, settings = broker.create_topic("shared", partitions=2), config(broker, client=client)
    with started(settings, topic) as one:
        poll_until(one, lambda _: len(one.partitions()) == 2)
        with started(settings, topic) as two:
            deadline = time.monotonic() + 40
            while not (len(one.partitions()) == len(two.partitions()) == 1):
                assert time.monotonic() < deadline
                one.poll(0.1, time.monotonic())
                two.poll(0.1, time.monotonic())
            assert one.partitions() | two.partitions() == {Partition(topic, 0), Partition(topic, 1)}
        poll_until(one, lambda _: len(one.partitions()) == 2)


def test_options_never_reset_commit_create_or_read_uncommitted(broker: Broker) -> None:
    """The client is asked for exactly the behaviour that loses nothing, by names that it knows."""
    topic = broker.create_topic("options")
    with started(config(broker), topic) as source:
        client: KafkaConsumer = source._consumer
        wanted = {
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            "isolation_level": "read_committed",
            "allow_auto_create_topics": False,
            "value_deserializer": None,
        }
        assert {name: client.config[name] for name in wanted} == wanted


def test_secrets_come_from_file_or_environment_and_are_never_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The password comes from its file, else the environment; without one the message says where it goes."""
    file = tmp_path / "password"
    file.write_text("from-file\n")
    sasl = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_username": "u"}
    monkeypatch.setenv("PLUMBLINE_KAFKA_PASSWORD", "from-environment")
    with caplog.at_level(logging.DEBUG):
        assert (
            client_options(KafkaConfig(**sasl, sasl_password_file=file))["sasl_plain_password"] == "from-file"
        )
        assert client_options(KafkaConfig(**sasl))["sasl_plain_password"] == "from-environment"
        assert logging.getLogger("kafka.net").getEffectiveLevel() >= logging.WARNING
        with pytest.raises(StartError):
            KafkaSource(KafkaConfig(bootstrap_servers="127.0.0.1:1", **sasl), ["t"]).start({})
    monkeypatch.delenv("PLUMBLINE_KAFKA_PASSWORD")
    with pytest.raises(ConfigError, match="sasl_password_file"):
        client_options(KafkaConfig(**sasl))
    assert "from-" not in caplog.text
