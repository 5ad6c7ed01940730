"""Reading ahead changes when records are handed over, and nothing else."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from agent.events import NO_TIME, Mark, Partition, RawBatch, Reason, Rejected
from agent.ingest.prefetch import LARGEST, Prefetch

HERE = Partition("predictions", 0)


def batch(first: int, n: int) -> RawBatch:
    """Records `first` to `first + n`, whose values are their offsets."""
    offsets = np.arange(first, first + n)
    return RawBatch(HERE, offsets, np.full(n, NO_TIME), first + n, [b"%d" % at for at in offsets])


class Script:
    """A source that says what it is told to, poll by poll."""

    connected = True

    def __init__(self, *polls: tuple[list[RawBatch], list[Rejected]] | Exception) -> None:
        self._polls = list(polls)
        self._rejected: list[Rejected] = []
        self.committed: list[Mapping[Partition, Mark]] = []

    def start(self, positions: Mapping[Partition, int]) -> None:
        """Nothing to do."""

    def poll(self, timeout_s: float, now_s: float) -> Sequence[RawBatch]:
        """The next line of the script."""
        if not self._polls:
            time.sleep(0.001)
            return ()
        said = self._polls.pop(0)
        if isinstance(said, Exception):
            raise said
        self._rejected += said[1]
        return said[0]

    def take_rejected(self) -> Sequence[Rejected]:
        """Those of the last poll."""
        taken, self._rejected = self._rejected, []
        return taken

    def caught_up(self) -> frozenset[Partition]:
        """At the script's end."""
        return frozenset() if self._polls else frozenset({HERE})

    def ends(self) -> Mapping[Partition, int]:
        """Known."""
        return {HERE: 9}

    def partitions(self) -> frozenset[Partition]:
        """One."""
        return frozenset({HERE})

    def commit(self, marks: Mapping[Partition, Mark]) -> None:
        """Remember."""
        self.committed.append(marks)

    @property
    def finished(self) -> bool:
        """When the script is told."""
        return not self._polls

    def close(self) -> None:
        """Nothing to do."""


def read(source: Prefetch) -> list[tuple[list[RawBatch], list[Rejected]]]:
    """All that is handed over, until the source ends."""
    found = []
    while not source.finished:
        found.append((list(source.poll(0.05, 0.0)), list(source.take_rejected())))
    return found


def test_every_record_is_handed_over_once_and_in_order() -> None:
    """Batches grow together up to the largest size; no record is lost, repeated or moved."""
    sizes = [3, LARGEST - 1, 5, 1, 7]
    starts = np.cumsum([0, *sizes]).tolist()
    script = Script(*(([batch(at, n)], []) for at, n in zip(starts, sizes, strict=False)))
    source = Prefetch(script, time.monotonic)
    source.start({})
    handed = [one for batches, _ in read(source) for one in batches]
    source.close()

    assert [v for one in handed for v in one.values] == [b"%d" % at for at in range(sum(sizes))]
    assert np.concatenate([one.offsets for one in handed]).tolist() == list(range(sum(sizes)))
    assert handed[-1].next_position == sum(sizes)
    assert source.ends() == {HERE: 9}
    assert all(len(one) <= LARGEST for one in handed)


def test_what_was_rejected_comes_with_the_position_that_passes_it() -> None:
    """Never before: it would be committed, and after a crash read and counted again."""
    bad = Rejected(HERE, LARGEST + 2, Reason.POISON_BATCH, None, LARGEST + 8)
    beyond = RawBatch(HERE, np.empty(0, np.int64), np.empty(0, np.int64), LARGEST + 9)
    script = Script(
        ([batch(0, LARGEST)], []), ([batch(LARGEST, 2), beyond], [bad]), ([batch(LARGEST + 9, 1)], [])
    )
    source = Prefetch(script, time.monotonic)
    source.start({})
    while not script.finished:
        time.sleep(0.01)  # all of it is read ahead before anything is taken
    time.sleep(0.05)
    told = read(source)
    source.close()

    assert [rejected for _, rejected in told if rejected] == [[bad]]
    [batches] = [batches for batches, rejected in told if rejected]
    assert batches[-1].next_position > bad.offset
    assert told[0][1] == []  # the first, largest batch ends before it


def test_an_error_of_the_thread_reaches_the_caller() -> None:
    """The caller of poll hears what broke the reading."""
    source = Prefetch(Script(ValueError("broken")), time.monotonic)
    source.start({})
    with pytest.raises(ValueError, match="broken"):
        source.poll(5.0, 0.0)
    source.close()


def test_the_newest_positions_are_told_at_the_latest_when_closing() -> None:
    """Positions go out through the thread that owns the client, and none is forgotten."""
    script = Script()
    source = Prefetch(script, time.monotonic)
    source.start({})
    source.commit({HERE: Mark(1, 0)})
    source.commit({HERE: Mark(2, 0)})
    source.close()
    assert script.committed[-1] == {HERE: Mark(2, 0)}
