"""How many events a second the agent reads from a real broker, against a bare kafka-python poll loop.

    python -m tests.benchmarks.throughput [--events 300000] [--repetitions 3] [--profile]

Both read the same topics, by turns: predictions of some 470 bytes with 12 features (8 numeric, 4 categorical)
and 2 segment attributes, in event-time order over a day, and labels for half of them. An event is a record of
either topic. Start-up is left out of both: the clock runs from the first batch to the last.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from agent.config import load
from agent.events import NO_TIME, Partition, RawBatch
from agent.pipeline import Pipeline
from agent.store import Store
from tests.broker import any_broker
from tests.integration.agent_process import agent, topic_ends, write_config
from tests.kafka_node import Broker

PARTITIONS = 4
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
NUMERIC = ["amount", "balance", "income", "age", "tenure", "utilisation", "inquiries", "limit"]
CATEGORICAL = {
    "country": ["NL", "DE", "FR", "BE", "ES"],
    "channel": ["web", "app", "branch"],
    "product": ["card", "loan", "overdraft", "mortgage"],
    "device": ["ios", "android", "desktop"],
}
SEGMENTS = {"region": ["north", "south", "east", "west"], "sex": ["f", "m"]}

Event = tuple[str, int, bytes, bytes]
"""(topic, partition, key, value)"""


def events(count: int, seed: int = 1) -> Iterator[Event]:
    """Predictions and, for every second one, a label ten minutes later in event time."""
    random_ = random.Random(seed)
    made = count * 2 // 3
    gap = timedelta(days=1) / made
    behind = int(timedelta(minutes=10) / gap)
    for number in range(made + behind):
        if number < made:
            yield "predictions", number % PARTITIONS, b"%d" % number, prediction(random_, number, gap)
        labelled = number - behind
        if labelled >= 0 and labelled % 2:
            yield "labels", labelled % PARTITIONS, b"%d" % labelled, label(random_, labelled, number * gap)


def prediction(random_: random.Random, number: int, gap: timedelta) -> bytes:
    """One native event."""
    features: dict[str, float | str] = {name: round(random_.gauss(50, 20), 2) for name in NUMERIC}
    features |= {name: random_.choice(values) for name, values in CATEGORICAL.items()}
    event = {
        "prediction_id": f"request-{number:09}",
        "timestamp": (BEGIN + number * gap).isoformat(timespec="milliseconds"),
        "model_name": "credit",
        "model_version": "7",
        "prediction_score": round(random_.betavariate(2, 5), 4),
        "latency_seconds": round(random_.expovariate(50), 4),
        "features": features,
        "tags": {name: random_.choice(values) for name, values in SEGMENTS.items()},
        "trace_id": f"{random_.getrandbits(128):032x}",
    }
    return json.dumps(event, separators=(",", ":")).encode()


def label(random_: random.Random, number: int, at: timedelta) -> bytes:
    """The label of a prediction."""
    event = {
        "prediction_id": f"request-{number:09}",
        "timestamp": (BEGIN + at).isoformat(timespec="milliseconds"),
        "label": int(random_.random() < 0.3),
    }
    return json.dumps(event, separators=(",", ":")).encode()


def config(topics: dict[str, str], bootstrap: str, group: str) -> dict[str, Any]:
    """As a user would write it, with the defaults that a user would leave."""
    return {
        "kafka": {"bootstrap_servers": bootstrap, "group_id": group},
        "sources": [
            {"topics": [topics["predictions"]], "kind": "prediction"},
            {"topics": [topics["labels"]], "kind": "feedback"},
        ],
        "models": {
            "credit": {
                "segments": list(SEGMENTS),
                "features": dict.fromkeys(NUMERIC, "numeric") | dict.fromkeys(CATEGORICAL, "categorical"),
            }
        },
        "dead_letters": {"topic": None},
    }


def produce(broker: Broker, count: int) -> dict[str, str]:
    """Fill both topics; returns their names."""
    topics = {name: broker.create_topic(f"bench-{name}", PARTITIONS) for name in ("predictions", "labels")}
    options = {"linger_ms": 50, "batch_size": 1 << 18}
    with closing(KafkaProducer(bootstrap_servers=broker.bootstrap, **options)) as producer:
        for name, partition, key, value in events(count):
            producer.send(topics[name], key=key, value=value, partition=partition)
        producer.flush(timeout=120)
    return topics


def bare(broker: Broker, topics: dict[str, str]) -> float:
    """Records a second of a loop that only polls, with the agent's fetch sizes."""
    ends = topic_ends(broker, *topics.values())
    options: dict[str, Any] = {
        "bootstrap_servers": broker.bootstrap,
        "group_id": None,
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "max_poll_records": 5000,
        "fetch_max_bytes": 16 << 20,
        "max_partition_fetch_bytes": 2 << 20,
    }
    with closing(KafkaConsumer(**options)) as consumer:
        consumer.assign([TopicPartition(*tp) for tp in ends])
        read, total, first, began = 0, sum(ends.values()), 0, 0.0
        while read < total:
            polled = sum(len(records) for records in consumer.poll(timeout_ms=1000).values())
            read += polled
            if polled and not first:  # the clock starts behind the first batch: connecting is no reading
                first, began = polled, time.perf_counter()
        return (total - first) / (time.perf_counter() - began)


def agents(broker: Broker, topics: dict[str, str], folder: Path, turn: int) -> float:
    """Records a second of a real agent process, from the first to the last commit that reads any."""
    ends = topic_ends(broker, *topics.values())
    total = sum(ends.values())
    document = config(topics, broker.bootstrap, f"{topics['labels']}-{turn}")
    document["state"] = {"dir": str(folder / f"state-{turn}"), "commit_interval": "1s"}
    with agent(write_config(folder / f"agent-{turn}.yaml", document)) as running:
        running.wait_ready()
        points: list[tuple[float, int]] = []
        while not points or points[-1][1] < total:
            time.sleep(0.25)
            try:
                shown = running.metrics()
            except ConnectionError as error:
                raise RuntimeError(running.said) from error
            read = int(sum(v for (name, _), v in shown.items() if name == "plumbline_next_offset"))
            at = shown.get(("plumbline_last_commit_timestamp_seconds", frozenset()), 0.0)
            if read and (not points or read > points[-1][1]):
                points.append((at, read))
        running.stop()
    (began, first), (ended, last) = points[0], points[-1]
    assert len(points) > 2, "too few events for a measurement"
    return (last - first) / (ended - began)


def profile(topics: dict[str, str], bootstrap: str, count: int, folder: Path) -> None:
    """Where the agent's own time goes: decode, fold, judge and commit in one thread, with no broker."""
    settings = load(
        write_config(
            folder / "profile.yaml", config(topics, bootstrap, "x") | {"state": {"dir": str(folder / "p")}}
        ),
        {},
    )
    batches = list(_batches(topics, count))
    with closing(Store(settings.state.dir)) as store:
        pipeline = Pipeline(settings, store)
        pipeline.assign(Partition(t, n) for t in topics.values() for n in range(PARTITIONS))

        def work() -> None:
            for number, batch in enumerate(batches):
                pipeline.apply(batch)
                pipeline.advance()
                if number % 20 == 19:
                    pipeline.commit(0.0)
            pipeline.commit(0.0)

        profiler = cProfile.Profile()
        began = time.perf_counter()
        profiler.runcall(work)
        spent = time.perf_counter() - began
    print(f"\npipeline without broker, under cProfile: {spent / count * 1e6:.1f} µs/event")
    stats = pstats.Stats(profiler)
    stats.sort_stats("cumtime").print_stats(r"agent/|detectors/|collect|PyLazy", 45)
    stats.sort_stats("tottime").print_stats(25)


def _batches(topics: dict[str, str], count: int) -> Iterator[RawBatch]:
    held: dict[tuple[str, int], list[tuple[bytes, bytes]]] = {}
    at: dict[tuple[str, int], int] = {}
    for name, number, key, value in events(count):
        mine = held.setdefault((name, number), [])
        mine.append((key, value))
        if len(mine) == 5000:
            yield _batch(topics, name, number, held.pop((name, number)), at)
    for (name, number), mine in held.items():
        yield _batch(topics, name, number, mine, at)


def _batch(
    topics: dict[str, str],
    name: str,
    number: int,
    records: list[tuple[bytes, bytes]],
    at: dict[tuple[str, int], int],
) -> RawBatch:
    first = at.get((name, number), 0)
    end = at[name, number] = first + len(records)
    offsets = np.arange(first, end, dtype=np.int64)
    keys, values = zip(*records, strict=True)
    unknown = np.full(len(records), NO_TIME, dtype=np.int64)
    return RawBatch(Partition(topics[name], number), offsets, unknown, end, values, keys)


def main() -> None:
    """Produce once, measure by turns, print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="also show where the agent's time goes")
    asked = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="throughput-")))
        broker = stack.enter_context(any_broker(folder / "kafka"))
        began = time.perf_counter()
        topics = produce(broker, asked.events)
        size = statistics.mean(len(v) for t, _, _, v in events(3000) if t == "predictions")
        spent = time.perf_counter() - began
        print(f"{asked.events} events, predictions of {size:.0f} bytes, made in {spent:.0f} s", flush=True)
        polled, monitored = [], []
        for turn in range(asked.repetitions):
            polled.append(bare(broker, topics))
            monitored.append(agents(broker, topics, folder, turn))
            load_ = os.getloadavg()[0]
            print(
                f"  bare {polled[-1]:9,.0f}/s   agent {monitored[-1]:9,.0f}/s   (load {load_:.1f})",
                flush=True,
            )
        whole, ours = statistics.median(polled), statistics.median(monitored)
        print(f"median: bare {whole:,.0f}/s, agent {ours:,.0f}/s, ratio {ours / whole:.3f}")
        if asked.profile:
            profile(topics, broker.bootstrap, asked.events, folder)


if __name__ == "__main__":
    main()
