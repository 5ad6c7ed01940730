"""The oracle itself: it agrees with a sound agent, and sees one record that is lost, doubled or changed."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config import load
from agent.pipeline import Pipeline
from agent.store import Store
from tests.faults.oracle import Oracle, Raw, Rules
from tests.faults.stream import LABELS, PREDICTIONS, Odds, Stream
from tests.faults.verdict import _panes, batches

CONFIG = {
    "sources": [
        {"topics": [PREDICTIONS], "kind": "prediction"},
        {"topics": [LABELS], "kind": "feedback"},
    ],
    "models": {
        "m": {"segments": ["group"], "features": {"amount": "numeric", "city": "categorical"}}
        | {"label_horizon": "5d"}
    },
    "idle_timeout": "10d",
}
MANY = Odds(0.1, 0.05, 0.3, 0.05, 0.05, 0.05, 0.1, 0.1, 0.05, 0.05, 0.2)


def records(seed: int) -> list[Raw]:
    """A stream with much mischief, as it would lie in its topics."""
    stream = Stream(seed, odds=MANY, per_hour=300)
    found: dict[tuple[str, int], list[Raw]] = {}
    for sent in (*stream.take(1500), *stream.rest()):
        log = found.setdefault(sent[:2], [])
        log.append(Raw(sent.topic, sent.partition, len(log), 1_790_000_000_000, sent.value))
    return [raw for at in sorted(found) for raw in found[at]]


def differences(folder: Path, told: list[Raw], seen: list[Raw]) -> list[str]:
    """What the oracle, told one thing, finds wrong in an agent that has seen another."""
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    with closing(Store(folder / "state")) as store:
        pipeline = Pipeline(load(folder / "config.yaml", {}), store)
        for batch in batches(iter(seen)):
            pipeline.apply(batch)
        pipeline.commit(0.0)
    truth = Oracle(Rules(PREDICTIONS, LABELS)).feed(told).finish()
    assert {outcome for _, outcome in truth.records} == {
        *("merged", "late", "duplicate", "ignored", "dead_lettered")
    }
    assert all(truth.labels[outcome] for outcome in ("matched", "duplicate", "superseded", "unmatched"))
    return list(_panes(truth, folder / "state"))


@pytest.mark.parametrize("seed", range(3))
def test_it_agrees_with_a_sound_agent(tmp_path: Path, seed: int) -> None:
    """Late, repeated, corrected, retracted, orphaned, malformed: two independent counts, the same cells."""
    sent = records(seed)
    assert differences(tmp_path, sent, sent) == []


def _good(sent: list[Raw]) -> int:
    """The place of a prediction that counts: sent once, and the newest of its time."""
    newest, seen = "", Counter(raw.value for raw in sent)
    for at, raw in enumerate(sent):
        event = _event(raw)
        if raw.topic != PREDICTIONS or event.get("model_name") != "m" or "prediction_score" not in event:
            continue
        is_newest = event["timestamp"] > newest
        newest = max(newest, event["timestamp"])
        if is_newest and raw.offset > 100 and seen[raw.value] == 1:
            return at
    raise AssertionError("no such record")


def _event(raw: Raw) -> dict[str, Any]:
    try:
        event = json.loads(raw.value or b"")
    except ValueError:
        return {}
    return event if isinstance(event, dict) and "timestamp" in event else {}


def test_it_sees_a_lost_record(tmp_path: Path) -> None:
    """One prediction fewer is seen in its panes."""
    sent = records(1)
    at = _good(sent)
    assert differences(tmp_path, sent, [*sent[:at], *sent[at + 1 :]])


def test_it_sees_a_record_that_counts_twice(tmp_path: Path) -> None:
    """One prediction twice, under another id, is seen in its panes."""
    sent, at = records(1), _good(records(1))
    again = json.dumps(json.loads(sent[at].value or b"") | {"prediction_id": "again"}).encode()
    more = [*sent[: at + 1], sent[at]._replace(value=again), *sent[at + 1 :]]
    assert differences(tmp_path, sent, more)


def test_it_sees_a_changed_cell(tmp_path: Path) -> None:
    """One prediction with another score is seen in its panes."""
    sent, at = records(1), _good(records(1))
    event = json.loads(sent[at].value or b"")
    event["prediction_score"] = 1 - event["prediction_score"]
    changed = [*sent[:at], sent[at]._replace(value=json.dumps(event).encode()), *sent[at + 1 :]]
    assert differences(tmp_path, sent, changed)
