"""A pipeline over two logs that can be read in any order, committed and killed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.config import Config
from agent.errors import StateBusyError
from agent.events import Partition
from agent.pipeline import Pipeline
from agent.store import Store
from tests.measure.events import Event, raw


class Run:
    """A pipeline over its own copy of a state directory, fed by ranges of two logs."""

    def __init__(self, config: Config, logs: dict[Partition, list[Event | bytes]], folder: Path) -> None:
        self.config, self.logs, self.folder = config, logs, folder
        self.generation = 0
        self.open(folder / "0")

    def open(self, directory: Path) -> None:
        self.store = Store(directory)
        self.pipeline = Pipeline(self.config, self.store)
        self.pipeline.assign(self.logs)

    def read(self, partition: Partition, n: int) -> None:
        at = self.pipeline.positions.get(partition, 0)
        batch = self.logs[partition][at : at + n]
        if batch:
            self.pipeline.apply(raw(partition, batch, at))
            self.pipeline.advance()

    def kill(self) -> None:
        """What a crash leaves: the files as they are on disk, read by a new process."""
        self.generation += 1
        after = self.folder / str(self.generation)
        shutil.copytree(self.store.directory, after)
        self.store.close()
        self.open(after)

    def commit_on_a_full_disk(self, *, killed: bool) -> None:
        """A commit that may fail; then there is room again, for this process or for the next."""
        (pages,) = self.store._db.execute("PRAGMA page_count").fetchone()
        self.store._db.execute(f"PRAGMA max_page_count={pages}")
        try:
            self.pipeline.commit(0.0)
        except StateBusyError:
            assert self.pipeline.unwritten
        if killed:
            self.kill()
        else:
            self.store._db.execute(f"PRAGMA max_page_count={2**30}")
            self.pipeline.commit(0.0)

    def finish(self) -> Pipeline:
        for partition, log in self.logs.items():
            self.read(partition, len(log))
        return self.pipeline


@contextmanager
def running(logs: dict[Partition, list[Event | bytes]], config: Config) -> Iterator[Run]:
    """A run in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(config, logs, Path(folder))
        try:
            yield run
        finally:
            run.store.close()


def story(pipeline: Pipeline) -> tuple[object, ...]:
    """Everything that was said, besides the state."""
    return tuple((j.alarms, j.retraining.requests) for j in pipeline.judges.values())


def documents(pipeline: Pipeline) -> dict[tuple[str, str], str]:
    """What the fingerprint digests as text, so that a difference has a name."""
    free = {
        ("", "commits"),
        ("", "poison"),
        *((name, n) for name in pipeline.judges for n in ("slices", "versions")),
    }
    return {key: text for key, text in pipeline.state.documents().items() if key not in free}


def assert_same(one: Pipeline, other: Pipeline) -> None:
    assert story(one) == story(other)
    assert documents(one) == documents(other)
    assert one.fingerprint() == other.fingerprint()
