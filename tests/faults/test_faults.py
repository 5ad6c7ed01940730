"""The short form of `make faults`: a handful of cases, and the form of what they write."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from tests.broker import NoBroker
from tests.conftest import IN_CI
from tests.faults.bench import SHORT, World
from tests.faults.registry import cases, run, write

ROW = {"id", "what", "runs", "kills", "mismatches", "recovery_p50_s", "recovery_p99_s", "replayed", "ok"}


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_short_form_holds_and_writes_its_table(tmp_path: Path) -> None:
    """Every short case is ok against the external oracle, and the table has the form that is published."""
    seed = int(os.environ.get("PLUMBLINE_FAULTS_SEED", random.SystemRandom().randrange(10**6)))
    print(f"PLUMBLINE_FAULTS_SEED={seed}")
    world = World(tmp_path, seed, SHORT)
    try:
        try:
            world.broker.rss_megabytes()
        except NoBroker as why:
            if IN_CI:
                pytest.fail(f"CI needs a real broker: {why}", pytrace=False)
            pytest.skip(f"no real broker: {why}")
        rows = [run(case, world) for case in cases() if case.short]
    finally:
        world.close()
    document = write(tmp_path / "faults.json", rows, seed)
    assert json.loads((tmp_path / "faults.json").read_text()) == json.loads(json.dumps(document, default=str))
    assert [row for row in rows if not row["ok"]] == []
    assert all(row.keys() >= ROW for row in rows)
    assert {"cases", "events", "kills", "mismatches", "seeds"} <= document.keys()
    assert document["seeds"] == [seed]
    assert document["kills"] >= 4
    assert document["mismatches"] == 0


def test_every_case_says_what_it_does() -> None:
    """Ids are those of the list, each once, and each has one sentence."""
    found = cases()
    assert len({case.id for case in found}) == len(found)
    for case in found:
        assert case.id[:1] == "F"
        assert case.id[1:].rstrip("abc").isdigit()
        assert 20 <= len(case.what) <= 150, case.what
