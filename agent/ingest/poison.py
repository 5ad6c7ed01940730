"""Past a batch that the client cannot decode (bad checksum, missing codec, damaged compression).

After such an error the client would spin on the batch for ever, and neither says which partition it was nor
where the batch ends. So a partition under suspicion is tried with a consumer of its own, outside the group:
each offset inside the bad batch fails, the first that works begins the next one. Linearly: doubling steps
would jump over good batches that lie between two bad ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from contextlib import closing
from typing import Any, NamedTuple

import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaTimeoutError, RetriableError

from agent.events import Partition
from agent.ingest.consumer import name_of
from agent.ingest.refusal import say

PROBES = 300
"""Offsets tried at a time; each costs one fetch of the batch."""
_PATIENCE = 3

log = structlog.get_logger(__name__)


class Poisoned:
    """Partitions set aside, each until the bad batch it stands at is passed; the others are read on.

    `passed` is told each range that was left behind: the partition, its first offset, the one after its last.
    """

    def __init__(self, options: dict[str, Any], passed: Callable[[Partition, int, int], None]) -> None:
        self._options = options
        self._passed = passed
        self._searched: dict[Partition, tuple[int, int]] = {}
        """First offset of the batch, and where the search for its end goes on."""

    @property
    def partitions(self) -> Set[Partition]:
        """Those set aside now."""
        return self._searched.keys()

    def forget(self, partition: Partition) -> None:
        """It is no longer ours."""
        self._searched.pop(partition, None)

    def clear(self) -> None:
        """None is ours any more."""
        self._searched.clear()

    def find(self, consumer: Any, positions: Mapping[Partition, int]) -> bool:  # noqa: ANN401 # untyped client
        """Whether any partition cannot be decoded where it is; each that cannot is set aside."""
        found = False
        for partition in sorted(positions.keys() - self._searched.keys()):
            first = positions[partition]
            probe = search(self._options, TopicPartition(*partition), first)
            if probe.error is not None:
                found = True
                log.error("undecodable batch", at=name_of(partition), offset=first, error=say(probe.error))
                consumer.pause(TopicPartition(*partition))
                self._set_aside(consumer, partition, first, probe)
        return found

    def search_on(self, consumer: Any) -> None:  # noqa: ANN401 # untyped client
        """Look for the ends of the batches that were not found yet."""
        for partition, (first, offset) in list(self._searched.items()):
            probe = search(self._options, TopicPartition(*partition), offset)
            self._set_aside(consumer, partition, first, probe)

    def _set_aside(
        self,
        consumer: Any,  # noqa: ANN401 # untyped client
        partition: Partition,
        first: int,
        probe: Probe,
    ) -> None:
        tp = TopicPartition(*partition)
        # Another offset than before is what makes the client let go of the batch.
        consumer.seek(tp, probe.offset)
        if probe.passed:
            self._searched.pop(partition, None)
            self._passed(partition, first, probe.offset)
            consumer.resume(tp)
        else:
            self._searched[partition] = (first, probe.offset)


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
