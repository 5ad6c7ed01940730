"""Panes are sums: of shards, of batches, and of what a batch recomputation counts."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import polars as pl
import pytest

from agent.config import ModelConfig
from agent.measure.bins import latency_bin, score_bin
from agent.measure.models import Models
from agent.measure.pane import HOUR as HOUR_TIER
from agent.measure.pane import LIFETIME, MINUTE, PaneKey, encode
from tests.measure.events import HOUR, T0, Event, config_of, folded, label, prediction
from tests.measure.events import MINUTE as MINUTE_MS

CONFIG = config_of(
    m=ModelConfig.model_validate(
        {
            "segments": ["sex", "region"],
            "intersections": [["sex", "region"]],
            "features": {"age": "numeric", "job": "categorical"},
            "label_horizon": "10d",
        }
    )
)


def traffic(n: int, seed: int) -> tuple[list[Event], list[Event]]:
    rng = np.random.default_rng(seed)
    predictions, feedback = [], []
    for i in range(n):
        at = T0 + int(rng.integers(0, 5 * HOUR)) // 1000 * 1000
        fields: Event = {
            "prediction_score": round(float(rng.random()), 4),
            "model_version": str(rng.integers(1, 3)),
        }
        if rng.random() < 0.7:
            fields["tags"] = {"sex": str(rng.choice(["f", "m"])), "region": str(rng.choice(["n", "s"]))}
        if rng.random() < 0.1:
            fields["tags"] = {"sex": "f"}
        if rng.random() < 0.8:
            fields["latency_seconds"] = round(float(rng.exponential(0.1)), 6)
        age: object = rng.choice(["old", "NaN", "inf"]) if rng.random() < 0.1 else float(rng.normal(40, 9))
        fields["features"] = {} if rng.random() < 0.1 else {"age": age, "job": str(rng.choice(["a", "b"]))}
        if rng.random() < 0.05:
            fields["error"] = "boom"
        predictions.append(prediction(i, at, "m", **fields))
        if rng.random() < 0.6:
            feedback.append(label(i, at + int(rng.integers(0, 3 * HOUR)), str(rng.integers(0, 2))))
    predictions.sort(key=lambda e: e["timestamp"])
    feedback.sort(key=lambda e: e["timestamp"])
    return predictions, feedback


def panes(models: Models) -> dict[PaneKey, bytes]:
    held = models.models["m"].panes
    keys = sorted(held.keys())
    found = {key: held.get(key) for key in keys}
    return {key: encode(vector) for key, vector in found.items() if vector is not None and vector.any()}


@pytest.mark.parametrize("seed", [0, 1])
def test_panes_of_shards_add_up(seed: int) -> None:
    """I13: three replicas that share the ids have panes whose sum is, byte for byte, the pane of one."""
    predictions, feedback = traffic(1500, seed)
    whole = folded(CONFIG, predictions, feedback)
    shards = [
        folded(
            CONFIG,
            [e for e in predictions if int(e["prediction_id"]) % 3 == shard],
            [e for e in feedback if int(e["prediction_id"]) % 3 == shard],
        )
        for shard in range(3)
    ]
    total: dict[PaneKey, bytes] = {}
    for key in {key for shard in shards for key in panes(shard)}:
        found = [shard.models["m"].panes.get(key) for shard in shards]
        vectors = [v for v in found if v is not None]
        total[key] = encode(np.sum(vectors, axis=0))
        assert total[key] == encode(np.sum(vectors[::-1], axis=0))
    assert total == panes(whole)


def test_panes_do_not_depend_on_batches() -> None:
    """One batch, or batches of seven, give the same bytes: sparse and dense tallies agree."""
    predictions, feedback = traffic(400, 7)
    assert panes(folded(CONFIG, predictions, feedback)) == panes(
        folded(CONFIG, predictions, feedback, batch=7)
    )


def test_every_pane_equals_a_batch_recomputation() -> None:
    """I3: minutes, hours and lifetimes, by version and slice, hold what a group-by over the events counts."""
    predictions, feedback = traffic(2000, 3)
    model = folded(CONFIG, predictions, feedback, batch=301).models["m"]
    part, work = model.layout.prediction, model.layout.performance
    labels = {e["prediction_id"]: e["label"] for e in feedback}
    frame = pl.DataFrame(
        [row(e, labels.get(e["prediction_id"])) for e in predictions], infer_schema_length=None
    )
    checked = Counter[int]()
    for tier, unit in ((MINUTE, MINUTE_MS), (HOUR_TIER, HOUR), (LIFETIME, 2**60)):
        for segment in ("", "sex=f", "region=s", "sex=m,region=n"):
            inside = frame.filter(pl.col("slices").list.contains(segment))
            inside = inside.with_columns(start=pl.col("at") // unit * unit)
            for (version, start), rows in inside.group_by("version", "start"):
                key = PaneKey(str(version), tier, int(str(start)), -1, segment)
                counts = model.panes.get(key)
                assert counts is not None, key
                assert counts[0] == len(rows)
                assert counts[1] == rows["failed"].sum()
                assert counts[part.start("latency_us")] == rows["latency_us"].sum()
                answered = rows.filter(~pl.col("failed"))
                yes = int((answered["score"] >= 0.5).sum())
                assert counts[part["predicted"]].tolist() == [len(answered) - yes, yes]
                assert histogram(counts[part["score"]]) == Counter(
                    score_bin(answered["score"].to_numpy()).tolist()
                )
                timed = rows["latency"].drop_nulls().to_numpy()
                assert histogram(counts[part["latency"]]) == Counter(latency_bin(timed).tolist())
                if not segment or tier != MINUTE:
                    bins = counts[model.layout.feature_slices["age"]]
                    assert bins[-2] == rows["age"].is_null().sum()
                    assert bins[-1] == (rows["age"] == "bad").sum()
                    assert bins.sum() == len(rows)
                ages = [k for k in model.panes.at(tier, key.start_ms) if k[::4] == key[::4] and k.age >= 0]
                labelled = model.panes.total(ages)
                matrix = [[0, 0], [0, 0]]
                for truth, score in answered.select("label", "score").drop_nulls("label").iter_rows():
                    matrix[int(truth)][int(score >= 0.5)] += 1
                assert (
                    [[0, 0], [0, 0]]
                    if labelled is None
                    else labelled[work["confusion"]].reshape(2, 2).tolist()
                ) == matrix
                checked[tier] += 1
    assert checked[MINUTE] > 500
    assert checked[HOUR_TIER] > 30
    assert checked[LIFETIME] == 8


def row(event: Event, truth: str | None) -> dict[str, object]:
    """What a batch job would make of one event."""
    tags, features = event.get("tags", {}), event["features"]
    slices = ["", *(f"{name}={tags[name]}" for name in ("sex", "region") if name in tags)]
    if len(tags) == 2:
        slices.append(f"sex={tags['sex']},region={tags['region']}")
    age, latency = features.get("age"), event.get("latency_seconds")
    usable = age is None or (isinstance(age, float) and math.isfinite(age))
    return {
        "at": event["timestamp"],
        "version": event["model_version"],
        "score": event["prediction_score"],
        "failed": "error" in event,
        "latency": latency,
        "latency_us": 0 if latency is None else round(latency * 1e6),
        "age": None if age is None else "good" if usable else "bad",
        "slices": slices,
        "label": truth,
    }


def histogram(counts: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Counter[int]:
    return Counter({i: n for i, n in enumerate(counts.tolist()) if n})
