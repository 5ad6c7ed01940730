"""The demo's model as a producer: its story into Kafka, and the baseline its reference data make.

    python producer.py baseline CONFIG     write the baseline that CONFIG names, unless it is there
    python producer.py publish BOOTSTRAP   publish predictions and feedback, SPEED times as fast as life

It runs in the agent's image and is no example of a producer of your own: that needs no Plumbline, only JSON.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

from kafka import KafkaProducer

from agent import config
from agent.demo import learn_baseline
from agent.ingest.demo import DemoSource
from agent.ingest.story import MODEL


def main(arguments: list[str]) -> None:
    """Do what the first argument says."""
    match arguments:
        case ["baseline", path]:
            write_baseline(Path(path))
        case ["publish", bootstrap]:
            publish(bootstrap, int(os.environ.get("SEED", "1")), float(os.environ.get("SPEED", "60")))
        case _:
            raise SystemExit(__doc__)


def write_baseline(path: Path) -> None:
    """Learn it from eight quiet hours of the demo's world; one that is there stays."""
    settings = config.load(path, os.environ, need_baselines=False)
    wanted = settings.models[MODEL].baseline
    if wanted is None:
        raise SystemExit(f"{path} names no baseline")
    if not wanted.exists():
        learn_baseline(settings, seed=1).save(wanted)
    print(f"baseline: {wanted}")


def publish(bootstrap: str, seed: int, speed: float) -> None:
    """Publish until the story ends or SIGTERM comes (SPEED 0: as fast as Kafka takes it).

    Keyed by prediction_id, so that a prediction and its label share a partition. The records are dated today:
    by the story's own date, long past, retention would delete them at once.
    """
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    source, sent = DemoSource(seed, speed or math.inf), 0
    with closing(KafkaProducer(bootstrap_servers=bootstrap, linger_ms=50)) as producer:
        while not (stop.is_set() or source.finished):
            for batch in source.poll(0.2, time.monotonic()):
                for value in filter(None, batch.values):
                    producer.send(batch.partition.topic, key=key(value), value=value)
                    sent += 1
        producer.flush(timeout=60)
    print(f"published {sent} events")


def key(value: bytes) -> bytes:
    """The id that prediction and feedback share."""
    return str(json.loads(value)["prediction_id"]).encode()


if __name__ == "__main__":
    main(sys.argv[1:])
