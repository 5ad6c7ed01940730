"""The sorted-run index against a dictionary."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.measure.runs import Hits, SortedRuns

BUCKET = 100
Row = tuple[int, int, int, int, tuple[float, float]]
"""(key, time, serial, note, pair)"""


def index() -> SortedRuns:
    spec = {"serial": np.int64, "note": np.int16, "pair": (np.float64, 2)}
    return SortedRuns(spec, mutable=("note",), bucket_ms=BUCKET)


def stored(disk: dict[int, tuple[int, bytes, list[bytes]]], runs: SortedRuns) -> None:
    """What a store does with a flush."""
    removed, new, overlays = runs.flush()
    for id_ in removed:
        del disk[id_]
    for id_, bucket, blob in new:
        assert id_ not in disk
        disk[id_] = (bucket, blob, [])
    for id_, blob in overlays:
        disk[id_][2].append(blob)


def loaded(disk: dict[int, tuple[int, bytes, list[bytes]]]) -> SortedRuns:
    runs = index()
    for id_, (bucket, blob, overlays) in sorted(disk.items()):
        runs.load(id_, bucket, blob, iter(overlays))
    return runs


def found(runs: SortedRuns, keys: np.ndarray[Any, Any]) -> list[set[tuple[int, ...]]]:
    """Per query what was found, as sets of (key, time, serial, note, pair)."""
    hits = runs.find(keys)
    assert list(hits.query) == sorted(hits.query)
    rows: list[set[tuple[int, ...]]] = [set() for _ in keys]
    columns = [runs.take(hits, name) for name in ("key", "time_ms", "serial", "note")]
    pairs = runs.take(hits, "pair")
    for i, query in enumerate(hits.query):
        rows[query].add((*(int(c[i]) for c in columns), *(int(v) for v in pairs[i])))
    return rows


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_the_index_equals_a_dictionary(seed: int) -> None:
    """Any mix of appends, look-ups, changes, expiry, flushes and restarts finds what a dictionary holds."""
    rng = random.Random(seed)
    runs, disk = index(), dict[int, tuple[int, bytes, list[bytes]]]()
    truth: dict[int, tuple[int, int, int]] = {}  # serial → (key, time, note)
    saved = dict(truth)
    serial = 0
    for _ in range(rng.randrange(4, 25)):
        act = rng.choice(["append", "append", "append", "put", "expire", "flush", "restart"])
        if act == "append":
            n = rng.choice([0, 1, 3, 40])
            keys = np.array(
                [rng.choice([0, 1, 2**64 - 1, rng.randrange(50)]) for _ in range(n)], dtype=np.uint64
            )
            times = np.array([rng.randrange(1000) for _ in range(n)], dtype=np.int64)
            serials = np.arange(serial, serial + n, dtype=np.int64)
            pair = np.stack([serials, -serials], axis=1).astype(np.float64)
            note = np.zeros(n, dtype=np.int16)
            runs.append({"key": keys, "time_ms": times, "serial": serials, "note": note, "pair": pair})
            for i in range(n):
                truth[serial + i] = (int(keys[i]), int(times[i]), 0)
            serial += n
        elif act == "put":
            keys = np.unique(np.array([rng.randrange(50) for _ in range(5)], dtype=np.uint64))
            hits = runs.find(keys)
            chosen = np.array([rng.random() < 0.5 for _ in hits.query], dtype=bool)
            hits = Hits(*(a[chosen] for a in hits))
            notes = np.array([rng.randrange(1, 1000) for _ in hits.query], dtype=np.int16)
            runs.put(hits, {"note": notes})
            for i, one in enumerate(runs.take(hits, "serial")):
                key, time, _ = truth[int(one)]
                truth[int(one)] = (key, time, int(notes[i]))
        elif act == "expire":
            before = rng.randrange(600)
            gone = {int(s) for run in runs.expired(before) for s in run.columns["serial"]}
            assert gone == {s for s, (_, t, _) in truth.items() if (t // BUCKET + 1) * BUCKET <= before}
            truth = {s: row for s, row in truth.items() if s not in gone}
        elif act == "flush":
            stored(disk, runs)
            saved = dict(truth)
        else:  # what was not flushed is forgotten
            runs, truth = loaded(disk), dict(saved)
        queries = np.array([*range(50), 2**64 - 1, 2**63], dtype=np.uint64)
        rng.shuffle(order := list(range(len(queries))))
        expected: list[set[tuple[int, ...]]] = [
            {(k, t, s, note, s, -s) for s, (k, t, note) in truth.items() if k == int(q)}
            for q in queries[order]
        ]
        assert found(runs, queries[order]) == expected
        assert len(runs) == len(truth)
        assert sorted(runs.rows()["serial"].tolist()) == sorted(truth)


def parts(total: int, rng: random.Random) -> Iterator[int]:
    while total > 0:
        n = min(total, rng.randrange(1, 30))
        yield n
        total -= n


def test_rows_come_in_an_order_of_their_content() -> None:
    """However the same rows were appended, merged and reloaded, `rows` gives the same arrays."""
    rng = random.Random(1)
    keys = np.array([rng.randrange(20) for _ in range(200)], dtype=np.uint64)
    times = np.array([rng.randrange(1000) for _ in range(200)], dtype=np.int64)
    serials = np.arange(200, dtype=np.int64)
    seen = []
    for _ in range(4):
        runs, at, disk = index(), 0, dict[int, tuple[int, bytes, list[bytes]]]()
        for n in parts(200, rng):
            part = slice(at, at + n)
            pair = np.stack([serials[part], serials[part]], axis=1).astype(np.float64)
            columns = {"key": keys[part], "time_ms": times[part], "serial": serials[part], "pair": pair}
            runs.append({**columns, "note": np.zeros(n, dtype=np.int16)})
            at += n
            if rng.random() < 0.3:
                stored(disk, runs)
                runs = loaded(disk)
        seen.append({name: column.tobytes() for name, column in runs.rows().items()})
    assert all(one == seen[0] for one in seen)


def test_the_number_of_runs_stays_logarithmic() -> None:
    """Two thousand batches of one stretch of time leave a handful of runs."""
    runs = index()
    for i in range(2000):
        one = np.array([i])
        pair = np.zeros((1, 2))
        columns = {"key": one.astype(np.uint64), "time_ms": one * 0, "serial": one, "pair": pair}
        runs.append({**columns, "note": one.astype(np.int16)})
    assert len(runs) == 2000
    assert len(runs.runs) <= 8
