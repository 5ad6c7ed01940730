"""Where a case does its work: topics of its own, an agent as a process, and the oracle at the end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from agent.config import load
from tests.broker import kafka_node
from tests.faults.oracle import Oracle, Raw, Rules, Truth, read_topic
from tests.faults.registry import Result
from tests.faults.stream import LABELS, PREDICTIONS, Sent, Stream
from tests.faults.verdict import Left, batches, compare, fingerprint, quiet_run, same_requests
from tests.integration.agent_process import (
    AgentProcess,
    agent,
    merged,
    read_all,
    series,
    topic_ends,
    write_config,
)
from tests.integration.scraper import Scraper
from tests.kafka_node import Broker, KafkaNode

COMMITS = series("plumbline_commits_total")
SHORT = 0.02
"""The scale of the short form."""
STARTING = 0.25
"""Share of the kills that hit an agent that is still starting."""


@dataclass
class World:
    """What all cases of a run share: the seed, the size, and one broker that nobody kills."""

    folder: Path
    seed: int
    scale: float = 1.0
    """1.0 is the full form; the short one asks for less of everything that has a number."""
    say: Callable[[str], None] = lambda _: None
    _stack: ExitStack = field(default_factory=ExitStack)
    _shared: KafkaNode | None = None
    _folders: int = 0

    @property
    def broker(self) -> KafkaNode:
        """The shared one."""
        if self._shared is None:
            self._shared = self._stack.enter_context(kafka_node(self.folder / "shared"))
        return self._shared

    @contextmanager
    def own_broker(self, overrides: Mapping[str, str] | None = None) -> Iterator[KafkaNode]:
        """One that may be killed."""
        with kafka_node(self.new_folder("broker") / "kafka", overrides) as node:
            yield node

    def new_folder(self, name: str) -> Path:
        """An empty folder."""
        self._folders += 1
        folder = self.folder / f"{self._folders:03}-{name}"
        folder.mkdir(parents=True)
        return folder

    def many(self, full: int, short: int) -> int:
        """How many of something: in the full form, or in the short one."""
        return full if self.scale == 1.0 else max(short, round(full * self.scale))

    def close(self) -> None:
        """End the shared broker."""
        self._stack.close()


class Bench:
    """Topics, config and state of one case; what is sent is what the oracle reads back."""

    def __init__(
        self,
        world: World,
        result: Result,
        broker: Broker | None = None,
        *,
        partitions: int = 2,
        bootstrap: str = "",
        topics: Mapping[str, Mapping[str, str]] | None = None,
        rules: Mapping[str, Any] | None = None,
        **over: Any,  # noqa: ANN401 - YAML
    ) -> None:
        self.world, self.result = world, result
        self.broker = broker or world.broker
        self.partitions = partitions
        self.random = random.Random(world.seed)
        self.folder = world.new_folder("bench")
        settings = topics or {}
        self.topics = {
            name: self.broker.create_topic(name, partitions, settings.get(name))
            for name in (PREDICTIONS, LABELS)
        }
        self.dead = self.broker.create_topic("dead")
        self.requests = self.broker.create_topic("retraining")
        self.rules = replace(Rules(self.topics[PREDICTIONS], self.topics[LABELS]), **(rules or {}))
        self.group = self.topics[PREDICTIONS]
        self.config = self.write("agent", bootstrap=bootstrap, **over)
        self.scraper = Scraper()
        self.sent = 0
        self._producer: KafkaProducer | None = None
        result.runs += 1

    def write(self, name: str, *, bootstrap: str = "", **over: Any) -> Path:  # noqa: ANN401 - YAML
        """A config file of this bench, with other values laid over."""
        base = {
            "kafka": {
                "bootstrap_servers": bootstrap or self.broker.bootstrap,
                "group_id": self.group,
                "max_poll_records": 2000,
            },
            "sources": [
                {"topics": [self.topics[PREDICTIONS]], "kind": "prediction"},
                {"topics": [self.topics[LABELS]], "kind": "feedback"},
            ],
            "models": {
                "m": {
                    "segments": ["group"],
                    "features": {"amount": "numeric", "city": "categorical"},
                    "windows": ["24h", "lifetime"],
                    "min_samples": 1,
                    "label_horizon": "5d",
                    "label_maturity": "2h",
                    "retraining": {
                        "max_age": "3h", "cooldown": "0s", "min_labels": 0, "max_requests": 1000,
                    },
                }
            },
            "state": {"commit_interval": "200ms"},
            "idle_timeout": "10d",
            "dead_letters": {"topic": self.dead},
            "retraining_topic": self.requests,
        }  # fmt: skip
        return write_config(self.folder / f"{name}.yaml", merged(base, over))

    # input

    def stream(self, predictions: int, **fields: Any) -> Stream:  # noqa: ANN401 - of Stream
        """A stream whose event time stays within the label horizon, and in which the model fails half-way."""
        base: dict[str, Any] = {
            "seed": self.world.seed,
            "partitions": self.partitions,
            "per_hour": max(500, predictions // 60),
            "worse": predictions // 2,
        }
        return Stream(**(base | fields))

    def send(self, records: Iterable[Sent]) -> int:
        """Produce, and wait until all of it is acknowledged."""
        if self._producer is None:
            self._producer = KafkaProducer(
                bootstrap_servers=self.broker.bootstrap,
                linger_ms=5,
                batch_size=65_536,
                delivery_timeout_ms=180_000,
                max_block_ms=120_000,
            )
        n = 0
        for record in records:
            topic = self.topics.get(record.topic, record.topic)
            self._producer.send(topic, partition=record.partition, key=record.key, value=record.value)
            n += 1
            self.sent += 1
            if n % 20_000 == 0:
                self._producer.flush(timeout=180)  # its buffer has no bound
        self._producer.flush(timeout=180)
        return n

    @property
    def ends(self) -> dict[tuple[str, int], int]:
        """The ends of the topics."""
        return topic_ends(self.broker, *self.topics.values())

    # lives

    @contextmanager
    def life(self, config: Path | None = None, **environ: str) -> Iterator[AgentProcess]:
        """A running agent that the scraper watches; killed with the block if it is still there."""
        with agent(config or self.config, environ) as running:
            self.scraper.running = running
            try:
                yield running
            finally:
                self.scraper.running = None

    def finish(self, config: Path | None = None, seconds: float = 180) -> None:
        """One more life, that reads to the end and is stopped in order."""
        with self.life(config) as running:
            running.wait_read(self.ends, seconds)
            self.end(running)

    def end(self, running: AgentProcess) -> None:
        """A last look, and an orderly stop."""
        self.scraper.scrape(running)
        code = running.stop()
        self.result.must(code == 0, f"exit code {code} after SIGTERM:\n{running.said[-2000:]}")

    def committed(self, running: AgentProcess) -> int:
        """How many commits are shown."""
        self.scraper.scrape(running)
        return int(self.scraper.last.get(COMMITS, 0))

    @property
    def position(self) -> int:
        """Records that are committed, as last shown."""
        return int(sum(v for (name, _), v in self.scraper.shown.items() if name == "plumbline_next_offset"))

    def wait_commit(self, running: AgentProcess, seconds: float = 120) -> float:
        """Wait until something more is committed than a start shows; how long that took."""
        begun = time.monotonic()
        shown: list[int] = []

        def more(_: AgentProcess) -> bool:
            if running.url is None:
                return False
            shown.append(self.committed(running))
            return shown[-1] > shown[0]

        running.wait(more, seconds)
        return time.monotonic() - begun

    def kills(self, stream: Stream, kills: int, per_life: int, linger_s: float = 0.5) -> None:
        """So many lives, each with a portion of the stream under way and a `kill -9` at a random moment."""
        for _ in range(kills):
            with self._feeding(stream, per_life), self.life() as running:
                begun = time.monotonic()
                if self.random.random() < STARTING:
                    time.sleep(self.random.uniform(0.0, 3.0))
                else:
                    self.wait_commit(running)
                    self.result.recoveries_s.append(time.monotonic() - begun)
                    time.sleep(self.random.uniform(0.0, linger_s))
                self.kill(running)

    @contextmanager
    def _feeding(self, stream: Stream, predictions: int) -> Iterator[None]:
        failed: list[BaseException] = []

        def feed() -> None:
            try:
                self.send(stream.take(predictions))
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=feed)
        thread.start()
        try:
            yield
        finally:
            thread.join()
        if failed:
            raise failed[0]

    def kill(self, running: AgentProcess) -> None:
        """`kill -9`, counted."""
        if running.process.poll() is None:
            running.kill9()
            self.result.kills += 1
            self.result.replayed += max(0, self.sent - self.position)
            self.world.say(f"{self.result.kills} kills")
        else:
            self.result.must(
                False, f"ended by itself with {running.process.returncode}: {running.said[-3000:]}"
            )

    # judgement

    def records(self) -> Iterator[Raw]:
        """What lies in the topics."""
        for topic in self.topics.values():
            yield from read_topic(self.broker.bootstrap, topic)

    def truth(self, records: Iterable[Raw] | None = None) -> Truth:
        """What the oracle makes of the topics."""
        return Oracle(self.rules).feed(self.records() if records is None else records).finish()

    def left(self, config: Path | None = None) -> Left:
        """What the agent left, all of it."""
        state = (config or self.config).with_suffix(".state")
        letters, requests = read_all(self.broker, self.dead), read_all(self.broker, self.requests)
        return Left(state, letters, requests, self.scraper.shown)

    def judge(self, *, quiet: bool = True, seconds: float | None = None) -> Truth:
        """Compare everything with the oracle; `quiet` also with an uninterrupted run, byte for byte."""
        self.world.say("judging")
        records = list(self.records())
        truth, left = self.truth(records), self.left()
        self.result.events += truth.events
        self.result.wrong += compare(truth, left)
        self.result.wrong += self.scraper.fell
        self._positions()
        if quiet:
            config = load(self.config, {})
            calm = quiet_run(config, self._partitions(), batches(iter(records)))
            self.result.wrong += same_requests(calm.requests, left.requests)
            self.result.must(fingerprint(config) == calm.fingerprint, "the state is not that of a quiet run")
            self.result.seen["triggers"] = self.result.seen.get("triggers", 0) + len(calm.requests)
        self.result.seen["dead_letters"] = self.result.seen.get("dead_letters", 0) + len(truth.letters)
        self.close()
        return truth

    def _partitions(self) -> list[tuple[str, int]]:
        return [(topic, n) for topic in self.topics.values() for n in range(self.partitions)]

    def _positions(self) -> None:
        """I4: the group is told no more than is durable."""
        with closing(KafkaConsumer(bootstrap_servers=self.broker.bootstrap, group_id=self.group)) as consumer:
            for tp in self._partitions():
                told = consumer.committed(TopicPartition(*tp))
                key = series("plumbline_next_offset", topic=tp[0], partition=str(tp[1]))
                self.result.must(
                    (told or 0) <= self.scraper.shown.get(key, 0), f"group ahead of state at {tp}"
                )

    def close(self) -> None:
        """Let the producer go."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            with suppress(KafkaError):
                producer.close(timeout=10)
