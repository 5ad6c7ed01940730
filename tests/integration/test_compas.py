"""ProPublica's published COMPAS table, by a real process from a real broker's dirty topics."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from kafka import KafkaConsumer, TopicPartition

from agent.events import Reason
from tests.compas import CONFIG, PUBLISHED, RATES, compas_or_skip, streams
from tests.integration.agent_process import (
    ROOT,
    agent,
    merged,
    parse_metrics,
    read_all,
    send,
    series,
    topic_ends,
    write_config,
)
from tests.kafka_node import Broker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SEED = 20160523

Place = tuple[str, int, int]
Json = dict[str, Any]
Table = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Run:
    """What one run left behind."""

    broker: Broker
    topics: dict[str, str]
    document: Json
    metrics: str
    status: Json
    backtest: Json
    produced: int
    malformed: dict[Place, bytes]


@pytest.fixture(scope="module")
def run(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Both topics, dirty and out of order, read to their end by an agent; and the same records as files."""
    compas_or_skip()
    folder = tmp_path_factory.mktemp("compas")
    topics = {
        name: broker.create_topic(f"compas-{name}", partitions=3 if name in ("predictions", "labels") else 1)
        for name in ("predictions", "labels", "dead", "retraining")
    }
    predictions, labels = streams(SEED)
    send(broker, topics["predictions"], predictions.records)
    send(broker, topics["labels"], labels.records)
    document = merged(
        yaml.safe_load(CONFIG.read_text()),
        {
            "kafka": {"bootstrap_servers": broker.bootstrap, "group_id": topics["predictions"]},
            "sources": [
                {"topics": [topics["predictions"]], "kind": "prediction"},
                {"topics": [topics["labels"]], "kind": "feedback"},
            ],
            "dead_letters": {"topic": topics["dead"]},
            "retraining_topic": topics["retraining"],
            "state": {"dir": str(folder / "state"), "commit_interval": "500ms"},
            "idle_timeout": "2s",
        },
    )
    ends = topic_ends(broker, topics["predictions"], topics["labels"])
    with agent(write_config(folder / "live.yaml", document)) as running:
        running.wait_read(ends)
        running.wait(lambda a: _matured(a.status()), 60)
        metrics, status = running.get("/metrics")[1], running.status()
        assert running.stop() == 0
    broken = {
        (topics[name], record.partition, record.offset): record.value
        for name, stream in (("predictions", predictions), ("labels", labels))
        for record in read_all(broker, topics[name])
        if record.value in stream.broken
    }
    return Run(
        broker,
        topics,
        document,
        metrics,
        status,
        _backtest(folder, document, topics, predictions.records, labels.records),
        sum(ends.values()),
        broken,
    )


def _matured(status: Json) -> bool:
    """The labels' clock stands at its newest event: nothing more will be judged but by the wall clock."""
    alarms = status["models"]["compas"]["alarms"]
    return any(alarm["key"]["segment"] == "race=African-American" for alarm in alarms)


def _backtest(
    folder: Path,
    document: Json,
    topics: dict[str, str],
    *records: list[tuple[bytes, bytes]],
) -> Json:
    """`plumbline backtest --json` of the same records in files."""
    files = [folder / "predictions.jsonl", folder / "labels.jsonl"]
    for file, held in zip(files, records, strict=True):
        file.write_bytes(b"".join(value + b"\n" for _, value in held))
    text = json.dumps(document)
    for name, file in zip(("predictions", "labels"), files, strict=True):
        text = text.replace(topics[name], str(file))
    config = write_config(folder / "backtest.yaml", json.loads(text))
    inputs = [argument for file in files for argument in ("--input", str(file))]
    command = [sys.executable, "-m", "agent", "backtest", "-c", str(config), *inputs, "--json", "-"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    report: Json = json.loads(done.stdout)
    return report


def of_metrics(run: Run) -> Table:
    """Lifetime values on /metrics."""
    found: dict[str, dict[str, float]] = {}
    for (name, labels), value in parse_metrics(run.metrics)[0].items():
        held = dict(labels)
        if held.get("window") == "lifetime" and "segment" in held and "metric" not in held:
            found.setdefault(held["segment"], {})[name.removeprefix("plumbline_")] = value
    return found


def of_status(run: Run) -> Table:
    """Lifetime values in /status."""
    window = run.status["models"]["compas"]["versions"]["1"]["windows"]["lifetime"]
    return {s: {name: m["value"] for name, m in values.items()} for s, values in window["metrics"].items()}


def of_backtest(run: Run) -> Table:
    """Lifetime values in the report."""
    model = run.backtest["models"]["compas"]
    found = {"": {name: m["value"] for name, m in model["metrics"].items()}}
    for attribute, groups in model["segments"].items():
        for group, held in groups.items():
            parts = zip(attribute.split(","), group.split(","), strict=True)
            where = ",".join(f"{name}={value}" for name, value in parts)
            found[where] = {name: m["value"] for name, m in held["metrics"].items()}
    return found


@pytest.mark.parametrize("table", [of_metrics, of_status, of_backtest])
def test_every_face_gives_the_published_table(run: Run, table: Callable[[Run], Table]) -> None:
    """TN, FP, FN and TP, overall and by race, are ProPublica's to the last case; so are the rounded rates."""
    found = table(run)
    for segment, cells in PUBLISHED.items():
        assert {name: found[segment][name] for name in cells} == cells, segment
    for segment, rates in RATES.items():
        assert {name: round(found[segment][name], 4) for name in rates} == rates, segment


def test_the_three_faces_agree_on_everything(run: Run) -> None:
    """Where two faces show the same value of the same slice, it is the same number."""
    metrics, status, backtest = of_metrics(run), of_status(run), of_backtest(run)
    assert status.keys() == backtest.keys()
    assert {"", *RATES} <= metrics.keys() <= status.keys()
    for segment, values in status.items():
        assert backtest[segment] == pytest.approx(values, rel=1e-12), segment
        shown = {k: v for k, v in metrics.get(segment, {}).items() if k != "window_predictions"}
        assert shown == pytest.approx({k: values[k] for k in shown}, rel=1e-12), segment


def test_the_fairness_alarm_names_race(run: Run) -> None:
    """African-American defendants' false positives page: on /metrics, /status and in the backtest."""
    shown = parse_metrics(run.metrics)[0]
    latched = [dict(labels) for (n, labels), v in shown.items() if n == "plumbline_alarm_active" and v == 1]
    race = [a for a in latched if a["segment"] == "race=African-American"]
    assert [(a["detector"], a["severity"]) for a in race] == [("group_ratio", "page")]
    key = {"detector": "group_ratio", "segment": "race=African-American", "metric": "false_positive_rate"}
    live = [a for a in run.status["models"]["compas"]["alarms"] if key.items() <= a["key"].items()]
    assert len(live) == 1
    assert live[0]["evidence"]["value"] > 1.25  # against the reference group, Caucasian
    replayed = [
        a
        for a in run.backtest["models"]["compas"]["alarms"]
        if (a["detector"], a["segment"], a["severity"]) == ("group_ratio", key["segment"], "page")
    ]
    assert [a["evidence"]["metric"] for a in replayed] == [key["metric"]]


def test_every_malformed_record_is_a_dead_letter_and_nothing_else(run: Run) -> None:
    """The dead-letter topic holds each malformed record's place once, a bounded reason, and no payload."""
    letters = read_all(run.broker, run.topics["dead"])
    places: Counter[Place] = Counter()
    for letter in letters:
        headers = {name.removeprefix("plumbline-"): value.decode() for name, value in letter.headers}
        place = headers["topic"], int(headers["partition"]), int(headers["offset"])
        places[place] += 1
        assert headers["reason"] in set(Reason)
        assert letter.key.decode() == "/".join(map(str, place))
        assert letter.value == hashlib.sha256(run.malformed[place]).hexdigest().encode()
    assert places == Counter(run.malformed.keys())
    assert len(places) == 144


def test_every_record_read_is_accounted_for(run: Run) -> None:
    """Records produced = read = merged + late + duplicate + dead-lettered + ignored, topic by topic."""
    shown = parse_metrics(run.metrics)[0]
    ends = topic_ends(run.broker, run.topics["predictions"], run.topics["labels"])
    outcomes: Counter[str] = Counter()
    for topic in (run.topics["predictions"], run.topics["labels"]):
        mine = {
            dict(labels)["outcome"]: int(v)
            for (name, labels), v in shown.items()
            if name == "plumbline_records_total" and dict(labels)["topic"] == topic
        }
        outcomes.update(mine)
        produced = sum(end for (name, _), end in ends.items() if name == topic)
        assert sum(mine.values()) == produced == shown[series("plumbline_records_read_total", topic=topic)]
    assert outcomes == {
        "merged": 2 * 7214,
        "duplicate": 2 * 360,
        "dead_lettered": 144,
        "late": 0,
        "ignored": 0,
    }
    assert outcomes.total() == run.produced
    empty = sum(not value for value in run.malformed.values())  # in a file, an empty line is no record
    assert sum(run.backtest["rejected"].values()) == 144 - empty


def test_a_retraining_request_is_sent_once(run: Run) -> None:
    """The fairness break asks for retraining on its topic with just the words of the backtest's request."""
    sent = [json.loads(record.value) for record in read_all(run.broker, run.topics["retraining"])]
    assert len(sent) >= 1
    assert len({event["id"] for event in sent}) == len(sent)
    assert sent == run.backtest["models"]["compas"]["triggers"]


def test_the_group_is_told_the_committed_positions(run: Run) -> None:
    """After an orderly stop the consumer group's offsets are the ends of the topics."""
    ends = topic_ends(run.broker, run.topics["predictions"], run.topics["labels"])
    group = run.document["kafka"]["group_id"]
    with closing(KafkaConsumer(bootstrap_servers=run.broker.bootstrap, group_id=group)) as consumer:
        assert {tp: consumer.committed(TopicPartition(*tp)) for tp in ends} == ends


def test_in_ci_the_data_must_be_there() -> None:
    """With CI=true an absent data folder fails the run instead of skipping the published table."""
    environ = os.environ | {"CI": "true"}
    code = "from pathlib import Path; import tests.compas as c; c.FILE = Path('/nowhere'); c.compas_or_skip()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "Failed" in done.stderr
    assert "CI" in done.stderr
