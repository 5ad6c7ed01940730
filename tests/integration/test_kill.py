"""`kill -9` at random moments: nothing is lost, nothing counts twice, and no counter ever goes down."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from kafka import KafkaProducer

from agent.config import load
from agent.pipeline import Pipeline
from agent.store import Store
from tests.compas import CONFIG, compas_or_skip, streams, with_carriers
from tests.integration.agent_process import (
    agent,
    merged,
    read_all,
    topic_ends,
    write_config,
)
from tests.integration.scraper import Scraper
from tests.kafka_node import Broker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # some 90 s on a machine of its own

KILLS = 20
PARTITIONS = 2
LONGEST_S = 2.5
"""A life lasts at most so long after it is ready."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What an agent left behind."""

    fingerprint: str
    letters: list[Any]
    requests: list[Json]


@dataclass(frozen=True)
class Story:
    """The same topics, read once with kills and once without."""

    killed: Outcome
    quiet: Outcome
    scraper: Scraper
    positions_at_kill: list[float]


@pytest.fixture(scope="module")
def story(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """COMPAS in event-time order, a portion in each of twenty-one lives, then the whole in one life."""
    compas_or_skip()
    seed = int(os.environ.get("PLUMBLINE_KILL_SEED", random.SystemRandom().randrange(10**6)))
    print(f"PLUMBLINE_KILL_SEED={seed}")
    random_ = random.Random(seed)
    folder = tmp_path_factory.mktemp("kill")
    topics = {name: broker.create_topic(f"kill-{name}", PARTITIONS) for name in ("predictions", "labels")}
    records = with_carriers(*streams(seed), partitions=PARTITIONS)
    cut = [len(records) * i // (KILLS + 1) for i in range(KILLS + 2)]
    portions = [records[a:b] for a, b in pairwise(cut)]

    scraper = Scraper()
    positions: list[float] = []
    config = _config(folder, "killed", broker, topics, max_poll_records=100)
    with (
        closing(KafkaProducer(bootstrap_servers=broker.bootstrap, linger_ms=5)) as producer,
        scraper.scraping(),
    ):
        for portion in portions[:-1]:
            with agent(config) as running:
                scraper.running = running
                running.wait_ready()
                hurry = threading.Event()
                feeder = threading.Thread(target=_trickle, args=(producer, topics, portion, hurry))
                feeder.start()
                time.sleep(
                    random_.uniform(0, LONGEST_S)
                )  # there is more input to come at any of these moments
                assert feeder.is_alive()
                running.kill9()
                hurry.set()
                positions.append(
                    sum(v for (n, _), v in scraper.last.items() if n == "plumbline_commits_total")
                )
                feeder.join()
        hurry.set()
        _trickle(producer, topics, portions[-1], hurry)
        with agent(config) as running:
            scraper.running = running
            running.wait_read(topic_ends(broker, *topics.values()), 120)
            scraper.scrape(running)
            assert running.stop() == 0
        scraper.running = None
    killed = _outcome(broker, config)

    config = _config(folder, "quiet", broker, topics, max_poll_records=5000)
    with agent(config) as running:
        running.wait_read(topic_ends(broker, *topics.values()))
        assert running.stop() == 0
    return Story(killed, _outcome(broker, config), scraper, positions)


def _trickle(
    producer: KafkaProducer,
    topics: dict[str, str],
    portion: list[tuple[str, int, bytes, bytes]],
    hurry: threading.Event,
) -> None:
    """Send records evenly over more than the longest time to the kill, or what is left of them at once."""
    for i, (name, partition, key, value) in enumerate(portion):
        producer.send(topics[name], key=key, value=value, partition=partition)
        if i % 10 == 9:
            hurry.wait(2 * LONGEST_S * 10 / len(portion))
    producer.flush()


def _config(
    folder: Path, name: str, broker: Broker, topics: dict[str, str], *, max_poll_records: int
) -> Path:
    document = merged(
        yaml.safe_load(CONFIG.read_text()),
        {
            "kafka": {
                "bootstrap_servers": broker.bootstrap,
                "group_id": f"{topics['labels']}-{name}",
                "max_poll_records": max_poll_records,
            },
            "sources": [
                {"topics": [topics["predictions"]], "kind": "prediction"},
                {"topics": [topics["labels"]], "kind": "feedback"},
            ],
            "dead_letters": {"topic": broker.create_topic(f"kill-{name}-dead")},
            "retraining_topic": broker.create_topic(f"kill-{name}-retraining"),
            "state": {"dir": str(folder / f"{name}.state"), "commit_interval": "300ms"},
            "idle_timeout": "10d",
            "models": {"compas": {"segments": ["race"], "intersections": []}},
        },
    )
    return write_config(folder / f"{name}.yaml", document)


def _outcome(broker: Broker, path: Path) -> Outcome:
    config = load(path, {})
    store = Store(config.state.dir)
    with closing(store):
        fingerprint = Pipeline(config, store).fingerprint()
    letters = read_all(broker, str(config.dead_letters.topic))
    requests = [json.loads(record.value) for record in read_all(broker, str(config.retraining_topic))]
    return Outcome(fingerprint, letters, requests)


def test_the_state_is_that_of_an_uninterrupted_run(story: Story) -> None:
    """Twenty lives and one, small polls and large: the same state, byte for byte."""
    assert story.killed.fingerprint == story.quiet.fingerprint


def test_the_kills_hit_a_working_agent(story: Story) -> None:
    """The moments were worth something: work was committed between most kills."""
    assert len(story.positions_at_kill) == KILLS
    assert len(set(story.positions_at_kill)) > KILLS / 2
    assert story.scraper.scrapes > 5 * KILLS


def test_no_counter_ever_went_down(story: Story) -> None:
    """No scrape of any life shows a counter, bucket, count or sum below an earlier one, or lacks it."""
    assert story.scraper.last
    assert story.scraper.fell == []


def test_dead_letters_are_the_same(story: Story) -> None:
    """Each malformed record is a dead letter; one that was sent twice was sent in the same words."""
    once = {(letter.key, letter.value, tuple(letter.headers)) for letter in story.killed.letters}
    assert once == {(letter.key, letter.value, tuple(letter.headers)) for letter in story.quiet.letters}
    assert len({key for key, _, _ in once}) == len(once) == 144
    assert len(story.quiet.letters) == 144


def test_retraining_requests_are_the_same(story: Story) -> None:
    """The same ids, and one payload for each, however often a crash made it go out."""
    killed = {json.dumps(request, sort_keys=True) for request in story.killed.requests}
    assert killed == {json.dumps(request, sort_keys=True) for request in story.quiet.requests}
    assert len({json.loads(request)["id"] for request in killed}) == len(killed) >= 1
    assert len(story.quiet.requests) == len(killed)
