"""What every Source promises, held against real files and a real broker."""

import gzip
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from kafka import KafkaProducer

from agent.config import KafkaConfig
from agent.events import Mark, Partition, RawBatch
from agent.ingest.files import FileSource
from agent.ingest.kafka import KafkaSource
from agent.ingest.source import Source
from tests.kafka_node import Broker

CLIENTS = ("kafka-python", "confluent-kafka")
RECORDS = [json.dumps({"prediction_id": f"p{i}"}).encode() for i in range(57)]


class Made:
    """Sources of one kind, all over the same 57 records in one partition."""

    def __init__(self, partition: Partition, make: Callable[[], Source]) -> None:
        self.partition = partition
        self._make = make
        self._open: list[Source] = []

    def start(self, positions: Mapping[Partition, int] | None = None) -> Source:
        source = self._make()
        self._open.append(source)
        source.start(positions or {})
        return source

    def close(self) -> None:
        for source in self._open:
            source.close()


@pytest.fixture(params=["jsonl", "jsonl.gz", "csv", "parquet", "kafka-python", "confluent-kafka"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Made]:
    kind = request.param
    if kind in CLIENTS:
        made = _kafka(request.getfixturevalue("broker"), kind)
    else:
        path = tmp_path / f"predictions.{kind}"
        _write(path)
        made = Made(Partition(str(path), 0), lambda: FileSource([path], chunk_rows=10))
    with closing(made):
        yield made


def _write(path: Path) -> None:
    table = pl.DataFrame([json.loads(record) for record in RECORDS])
    match path.suffix:
        case ".csv":
            table.write_csv(path)
        case ".parquet":
            table.write_parquet(path)
        case ".gz":
            path.write_bytes(gzip.compress(b"\n".join(RECORDS)))
        case _:
            path.write_bytes(b"\n".join(RECORDS) + b"\n")


def _kafka(broker: Broker, client: str) -> Made:
    topic = broker.create_topic("contract")
    with closing(KafkaProducer(bootstrap_servers=broker.bootstrap)) as producer:
        for record in RECORDS:
            producer.send(topic, record)
        producer.flush()
    config = KafkaConfig.model_validate(
        {
            "bootstrap_servers": broker.bootstrap,
            "group_id": uuid.uuid4().hex,
            "max_poll_records": 10,
            "client": client,
        }
    )
    return Made(Partition(topic, 0), lambda: KafkaSource(config, [topic]))


def read(source: Source, partition: Partition, seconds: float = 30) -> list[RawBatch]:
    """Everything to the end of the partition."""
    batches: list[RawBatch] = []
    deadline = time.monotonic() + seconds
    while partition not in source.caught_up():
        assert time.monotonic() < deadline, "not caught up in time"
        got = source.poll(0.1, time.monotonic())
        assert len({batch.partition for batch in got}) == len(got)
        batches += got
    return batches


def ids(batches: Sequence[RawBatch]) -> list[str]:
    found: list[str] = []
    for batch in batches:
        if batch.frame is not None:
            found += batch.frame["prediction_id"].to_list()
        found += [json.loads(value or b"")["prediction_id"] for value in batch.values]
    return found


def offsets(batches: Sequence[RawBatch]) -> list[int]:
    return [offset for batch in batches for offset in batch.offsets.tolist()]


def test_every_record_comes_once_in_order(made: Made) -> None:
    """From nothing, the whole partition is read in offset order, and batches join without a gap."""
    batches = read(made.start(), made.partition)
    assert ids(batches) == [f"p{i}" for i in range(57)]
    assert offsets(batches) == list(range(57))
    ends = [batch.next_position for batch in batches]
    assert ends == sorted(ends)
    assert ends[-1] == 57
    assert all(len(b.append_ms) == len(b.offsets) == len(ids([b])) for b in batches)


def test_reading_resumes_exactly_at_the_given_position(made: Made) -> None:
    """A new source that is given a batch's next position reads on right after that batch."""
    first = made.start()
    taken: list[RawBatch] = []
    deadline = time.monotonic() + 30
    while not taken and time.monotonic() < deadline:
        taken = list(first.poll(0.2, time.monotonic()))
    first.close()
    position = taken[-1].next_position
    rest = read(made.start({made.partition: position}), made.partition)
    assert offsets(taken) + offsets(rest) == list(range(57))


def test_the_given_position_wins_over_what_was_committed(made: Made) -> None:
    """The state's position counts, whatever was told outside."""
    first = made.start()
    read(first, made.partition)
    first.commit({made.partition: Mark(57, 57)})
    first.close()
    assert offsets(read(made.start({made.partition: 40}), made.partition)) == list(range(40, 57))


def test_partitions_and_connection_are_told(made: Made) -> None:
    """While it reads, a source names its partitions, is connected, and has rejected nothing."""
    source = made.start()
    read(source, made.partition)
    assert source.partitions() == {made.partition} == source.caught_up()
    assert source.ends() == ({} if isinstance(source, FileSource) else {made.partition: 57})
    assert source.connected
    assert not source.take_rejected()
    assert source.finished is isinstance(source, FileSource)


def test_closing_twice_is_harmless(made: Made) -> None:
    """Close may be called again, and a closed source can be started anew."""
    source = made.start()
    source.close()
    source.close()
    source.start({made.partition: 50})
    assert offsets(read(source, made.partition)) == list(range(50, 57))
