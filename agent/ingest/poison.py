"""Past a batch that the client cannot decode (bad checksum, missing codec, damaged compression).

After such an error the client would spin on the batch for ever, and neither says which partition it was nor
where the batch ends. So a partition under suspicion is tried with a consumer of its own, outside the group:
each offset inside the bad batch fails, the first that works begins the next one. Linearly: doubling steps
would jump over good batches that lie between two bad ones.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaTimeoutError, RetriableError

PROBES = 300
"""Offsets tried at a time; each costs one fetch of the batch."""
_PATIENCE = 3


class Probe(NamedTuple):
    """How far the search came."""

    offset: int
    """The first offset that works, or where to go on searching."""
    passed: bool
    """Whether `offset` works."""
    error: Exception | None
    """What the last failing offset failed with; None if none failed."""


def search(options: dict[str, Any], partition: TopicPartition, offset: int) -> Probe:
    """Look for the first offset from `offset` on that can be read, or the end; RetriableError if offline."""
    error: Exception | None = None
    with closing(KafkaConsumer(**options)) as consumer:
        consumer.assign([partition])
        for _ in range(PROBES):
            consumer.seek(partition, offset)
            try:
                if _readable(consumer, partition, offset):
                    return Probe(offset, True, error)
            except RetriableError:
                raise
            except Exception as undecodable:  # whatever a codec or the record parser comes up with
                error = undecodable
                offset += 1
    return Probe(offset, False, error)


def _readable(consumer: Any, partition: TopicPartition, offset: int) -> bool:  # noqa: ANN401 # untyped client
    for _ in range(_PATIENCE):
        if consumer.poll(timeout_ms=2_000, max_records=1):
            return True
        if consumer.end_offsets([partition], timeout_ms=5_000)[partition] <= offset:
            return True
        if consumer.position(partition) > offset:  # transaction markers only
            return True
    raise KafkaTimeoutError(f"{partition.topic}[{partition.partition}] at {offset}: no answer")
