from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import repeat
from typing import Any

import numpy as np
import pytest

from agent.events import Partition, RawBatch
from agent.ingest.demo import FEEDBACK, PREDICTIONS, DemoSource
from agent.ingest.story import BY_NAME, END, MINUTE_MS, START_MS, STORY

Records = dict[Partition, list[bytes]]


def read(
    source: DemoSource,
    polls: Iterable[float] = repeat(0.0),
    positions: Mapping[Partition, int] = {PREDICTIONS: 0, FEEDBACK: 0},
) -> Records:
    """Everything a source gives from the positions on, checking that offsets leave no gap."""
    got: Records = {PREDICTIONS: [], FEEDBACK: []}
    following = dict(positions)
    for now in polls:
        for batch in source.poll(0.0, now):
            at = following[batch.partition]
            assert batch.offsets.tolist() == list(range(at, batch.next_position))
            following[batch.partition] = batch.next_position
            got[batch.partition] += [value for value in batch.values if value is not None]
        if source.finished:
            break
    return got


def ms(event: dict[str, Any]) -> int:
    return round(datetime.fromisoformat(event["timestamp"]).timestamp() * 1000)


def parsed(values: list[bytes]) -> list[dict[str, Any]]:
    return [json.loads(value) for value in values]


@pytest.fixture(scope="module")
def whole() -> Records:
    return read(DemoSource(7, math.inf))


def test_the_same_seed_gives_the_same_records_however_they_are_polled() -> None:
    """What lies at an offset depends on the seed only, not on the pace of reading."""
    unpaced = read(DemoSource(3, math.inf, 90))
    paced = read(DemoSource(3, 600.0, 90), (0.37 * i for i in range(10_000)))
    assert paced == unpaced
    assert read(DemoSource(4, math.inf, 90)) != unpaced


def test_reading_resumes_exactly_at_the_given_positions() -> None:
    """A source started at positions gives the rest of what a source from the beginning gives."""
    whole = read(DemoSource(3, math.inf, 120))
    positions = {PREDICTIONS: 3456, FEEDBACK: 789}
    source = DemoSource(3, math.inf, 120)
    source.start(positions)
    rest = read(source, positions=positions)
    assert rest == {p: values[positions[p] :] for p, values in whole.items()}


def test_a_paced_source_gives_what_has_come_and_nothing_of_the_future() -> None:
    """After s seconds exactly the records of the first s x speed simulated seconds were given."""
    source = DemoSource(5, 1200.0)
    source.poll(0.0, 100.0)
    given: list[RawBatch] = []
    for now in (100.5, 101.0, 101.7, 102.4, 103.0):
        given += source.poll(0.0, now)
    due_ms = START_MS + 3_000 * 1200
    everything = read(DemoSource(5, math.inf, 90))
    appended = np.concatenate([batch.append_ms for batch in given])
    assert appended.max() <= due_ms
    assert due_ms - appended.max() < 20_000
    total = sum(ms(r) <= due_ms for values in everything.values() for r in parsed(values))
    assert len(appended) == total


def test_a_source_that_fell_behind_catches_up_little_by_little() -> None:
    """A late poll gets no batch too large for a small machine."""
    source = DemoSource(5, 1200.0)
    source.poll(0.0, 0.0)
    lengths = [sum(map(len, source.poll(0.0, 30.0))) for _ in range(12)]
    assert max(lengths) < 2500
    assert sum(lengths) > 10 * 15 * 60


def test_the_source_ends_with_the_story_and_waits_quietly_then() -> None:
    """Finished means that every record was given; before that no partition claims to be read to its end."""
    source = DemoSource(1, math.inf, 61)
    assert not source.finished
    assert source.caught_up() == frozenset()
    read(source)
    assert source.finished
    assert source.caught_up() == source.partitions() == {PREDICTIONS, FEEDBACK}
    assert source.poll(0.0, 1.0) == []


def test_labels_come_late_twice_corrected_or_never_at_the_stated_rates(whole: Records) -> None:
    """10 to 35 minutes of delay, 2 % never, 1 % duplicates, 0.5 % corrections, in order of arrival."""
    made = {p["prediction_id"]: ms(p) for p in parsed(whole[PREDICTIONS])}
    labels = parsed(whole[FEEDBACK])
    arrivals = [ms(label) for label in labels]
    assert arrivals == sorted(arrivals)
    first: dict[str, int] = {}
    for label, when in zip(labels, arrivals, strict=True):
        first.setdefault(label["prediction_id"], when)
    delays = [first[i] - made[i] for i in first]
    assert min(delays) >= 10 * MINUTE_MS
    assert max(delays) < 35 * MINUTE_MS
    old = [i for i, when in made.items() if when < START_MS + (END - 60) * MINUTE_MS]
    assert np.mean([i not in first for i in old]) == pytest.approx(0.02, abs=0.002)
    assert (len(labels) - len(first)) / len(made) == pytest.approx(0.015, abs=0.002)
    assert sum(label["revision"] for label in labels) / len(made) == pytest.approx(0.005, abs=0.001)


def test_each_incident_happens_in_its_time_and_only_then(whole: Records) -> None:
    """The world of the records is the world of the script, minute by minute."""
    outside = {"harmless": [0.0, 0], "silent": [0.0, 0], "harmful": [0.0, 0]}
    inside = {name: [0.0, 0] for name in outside}
    versions = set()
    for p in parsed(whole[PREDICTIONS]):
        minute = (ms(p) - START_MS) // MINUTE_MS
        versions.add((p["model_version"], minute >= BY_NAME["healed"].start))
        signs = {
            "harmless": p["features"]["channel"] == "mobile",
            "silent": p["features"]["bureau_score"] is None,
            "harmful": p["features"]["debt_ratio"],
        }
        for name, sign in signs.items():
            cell = (inside if BY_NAME[name].start <= minute < BY_NAME[name].end else outside)[name]
            cell[0] += sign
            cell[1] += 1
    mean = {
        name: (inside[name][0] / inside[name][1], outside[name][0] / outside[name][1]) for name in outside
    }
    assert mean["harmless"] == pytest.approx((0.7, 0.3), abs=0.02)
    assert mean["silent"] == (1.0, 0.0)
    assert mean["harmful"] == pytest.approx((0.43, 0.35), abs=0.005)
    assert versions == {("1", False), ("2", True)}


def test_the_unfair_rule_costs_no_more_accuracy_than_is_tolerated(whole: Records) -> None:
    """While women are flagged far beyond the four-fifths rule, accuracy stays within 5 % of what it was."""
    label = {f["prediction_id"]: f["label"] for f in parsed(whole[FEEDBACK])}
    right: dict[str, list[bool]] = {"quiet": [], "unfair": []}
    flagged: dict[str, list[int]] = {"female": [], "male": []}
    for p in parsed(whole[PREDICTIONS]):
        minute = (ms(p) - START_MS) // MINUTE_MS
        for name, seen in right.items():
            if BY_NAME[name].start <= minute < BY_NAME[name].end and p["prediction_id"] in label:
                seen.append(p["prediction"] == label[p["prediction_id"]])
        if BY_NAME["unfair"].start <= minute < BY_NAME["unfair"].end:
            flagged[p["tags"]["sex"]].append(p["prediction"])
    assert np.mean(flagged["female"]) > 1.35 * np.mean(flagged["male"])
    assert np.mean(right["unfair"]) > 0.96 * np.mean(right["quiet"])


def test_the_script_is_in_order() -> None:
    """Rows follow one another in time, and what a row promises is seen before the next row's cause begins."""
    assert [incident.start for incident in STORY] == sorted(incident.start for incident in STORY)
    assert all(incident.start < incident.end <= END for incident in STORY)
    assert all(incident.start < incident.seen_by <= END for incident in STORY)
