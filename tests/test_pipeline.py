"""What the pipeline promises whatever the polls, the commits, the restarts and the order of topics."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.config import ModelConfig
from agent.events import Partition
from agent.measure.pane import PaneKey, Panes, encode
from agent.respond.view import CounterKey
from tests.measure.events import (
    FEEDBACK,
    HOUR,
    MINUTE,
    PREDICTIONS,
    T0,
    Event,
    config_of,
    label,
    prediction,
)
from tests.measure.running import assert_same, running

SLOW = settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def model(**fields: object) -> ModelConfig:
    """A model whose clocks are short enough for a test to pass them."""
    return ModelConfig.model_validate(
        {
            "segments": ["group"],
            "features": {"age": "numeric", "city": "categorical"},
            "allowed_lateness": "10m",
            "label_horizon": "6h",
            "label_maturity": "3h",
            "max_segment_values": 3,
            "min_samples": 1,
            "performance": {"min_baseline_labels": 40},
            "retraining": {"min_labels": 10, "cooldown": "0s"},
            **fields,
        }
    )


CONFIG = config_of(a=model(), b=model(positive="1"))


def traffic(seed: int, n: int = 80, span: int = 8 * HOUR) -> dict[Partition, list[Event | bytes]]:
    """Two models that share ids, two versions, drift, disorder, duplicates and labels of every fate."""
    rng = random.Random(seed)
    events: list[tuple[float, Event | bytes]] = []
    labels: list[tuple[float, Event | bytes]] = []
    for i in range(n):
        at = T0 + rng.randrange(span)
        for name in rng.choice([["a"], ["b"], ["a", "b"]]):
            for version in rng.choice([["1"], ["1"], ["2"], ["1", "2"]]):
                mine = at + rng.choice([0, 0, rng.randrange(8 * HOUR)])
                fields: Event = {
                    "model_version": version,
                    "prediction_score": round(rng.random(), 3),
                    "tags": {"group": rng.choice("uvwxyz")},
                    "features": {"age": rng.gauss(40, 10), "city": rng.choice(["x", "y"])},
                }
                if rng.random() < 0.05:
                    fields["error"] = "timeout"
                if rng.random() < 0.03:
                    fields["prediction"] = "unheard-of"
                event = prediction(i, mine, name, **fields)
                events += [
                    (mine + rng.expovariate(1 / rng.choice([MINUTE, MINUTE, 15 * MINUTE])), event)
                ] * rng.choice([1] * 9 + [2])
        for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
            when = at + rng.choice(
                [rng.randrange(-30 * MINUTE, HOUR), rng.randrange(3 * HOUR), rng.randrange(9 * HOUR)]
            )
            value = rng.choice(["0", "1", "1", None, "unheard-of"])
            given_ = label(i, when, value, **rng.choice([{}, {}, {"revision": rng.randrange(3)}]))
            if rng.random() < 0.5:
                given_["model_name"] = rng.choice(["a", "b", "a", "b", "stranger"])
            labels += [(when + rng.expovariate(1 / HOUR), given_)] * rng.choice([1] * 4 + [2])
    labels += [
        (T0 + rng.randrange(span), label(f"none{i}", T0 + rng.randrange(span), "1")) for i in range(20)
    ]
    for log in (events, labels):
        log += [(T0 + rng.randrange(span), b"{broken") for _ in range(5)]
        log.sort(key=lambda pair: pair[0])
    # Three horizons are the most by which labels may be read behind predictions.
    end = T0 + 17 * HOUR + 30 * MINUTE
    events += [(0, prediction("last", end, name, prediction="1")) for name in "ab"]
    labels.append((0, label("last", end, "1")))
    return {PREDICTIONS: [e for _, e in events], FEEDBACK: [e for _, e in labels]}


READS = st.lists(st.tuples(st.booleans(), st.integers(1, 150)), max_size=12)
ACTS = st.lists(
    st.tuples(st.sampled_from(["predictions", "feedback", "commit", "full", "kill"]), st.integers(1, 90)),
    max_size=16,
)


def test_the_traffic_of_these_tests_has_every_fate_in_it() -> None:
    """Over a few seeds every outcome of records and labels occurs, and detectors work: nothing is idle."""
    total: Counter[str] = Counter()
    for seed in range(3):
        with running(traffic(seed), CONFIG) as run:
            pipeline = run.finish()
            for name, labels in ((k.name, dict(k.labels)) for k in pipeline.counters):
                key = f"{name} {labels.get('outcome', '')}"
                total[key] += pipeline.counters[CounterKey(name, tuple(sorted(labels.items())))]
            total.update(pipeline.models.counts)
            for judge in pipeline.judges.values():
                total.update(
                    joined=judge.model.join.counts["joined"], expired=judge.model.join.counts["expired"]
                )
                total.update(beyond=judge.model.slices.overflowed, judged=len(judge.monitors.judged))
                total.update(monitors=len(judge.monitors.watch.monitors))
    wanted = {
        "records merged",
        "records late",
        "records duplicate",
        "records dead_lettered",
        "records ignored",
    }
    wanted |= {f"labels_{o}" for o in ("matched", "superseded", "duplicate", "orphan")}
    wanted |= {"joined", "expired", "beyond", "judged", "monitors"}
    assert {name for name in wanted if total[name] <= 0} == set()


@SLOW
@given(seed=st.integers(0, 10**6), reads=READS)
def test_the_result_does_not_depend_on_how_predictions_and_labels_interleave(
    seed: int, reads: list[tuple[bool, int]]
) -> None:
    """I14: any reading order that keeps each partition's own gives the same state, alarms and requests."""
    logs = traffic(seed)
    with running(logs, CONFIG) as one, running(logs, CONFIG) as other:
        for predictions, n in reads:
            other.read(PREDICTIONS if predictions else FEEDBACK, n)
        assert_same(one.finish(), other.finish())


@SLOW
@given(seed=st.integers(0, 10**6), acts=ACTS)
def test_the_result_does_not_depend_on_batches_commits_or_kills(
    seed: int, acts: list[tuple[str, int]]
) -> None:
    """I2: any poll sizes, commits, full disks and kills give the state of one uninterrupted read."""
    logs = traffic(seed)
    with running(logs, CONFIG) as one, running(logs, CONFIG) as other:
        for act, n in acts:
            if act == "commit":
                other.pipeline.commit(0.0)
            elif act == "full":
                other.commit_on_a_full_disk(killed=n > 45)
            elif act == "kill":
                other.kill()
            else:
                other.read(PREDICTIONS if act == "predictions" else FEEDBACK, n)
        assert_same(one.finish(), other.finish())
        one.pipeline.commit(0.0)
        other.pipeline.commit(0.0)
        one.kill()
        other.kill()
        assert_same(one.pipeline, other.pipeline)


def contents(panes: Panes) -> dict[PaneKey, bytes]:
    held = ((key, panes.get(key)) for key in sorted(panes.keys()))
    return {key: encode(vector) for key, vector in held if vector is not None}


@pytest.mark.parametrize("every", [1, 7])
def test_panes_survive_many_commits_and_restarts(every: int) -> None:
    """Committing after every few records, with a kill after each tenth commit, loses and doubles nothing."""
    logs = traffic(5, n=30)
    with running(logs, CONFIG) as one, running(logs, CONFIG) as other:
        for i in range(0, len(logs[PREDICTIONS]), every):
            other.read(PREDICTIONS, every)
            other.read(FEEDBACK, every)
            other.pipeline.commit(0.0)
            if i // every % 10 == 9:
                other.kill()
        assert_same(one.finish(), other.finish())


def test_the_first_step_waits_for_events_that_may_still_be_earlier() -> None:
    """Where the second event is earlier than the first but not late, one poll or two judge the same steps."""
    times = [T0 + 9 * MINUTE, T0, *(T0 + i * MINUTE for i in range(10, 90))]
    logs: dict[Partition, list[Event | bytes]] = {
        PREDICTIONS: [prediction(i, at, "a", prediction="1") for i, at in enumerate(times)],
        FEEDBACK: [],
    }
    config = config_of(a=model())
    with running(logs, config) as one, running(logs, config) as other:
        other.read(PREDICTIONS, 1)
        assert_same(one.finish(), other.finish())


def test_every_record_and_every_label_is_accounted_for() -> None:
    """I1 and I7 at every moment: each record, each label and each prediction is in just one of the terms."""
    rng = random.Random(3)
    logs = traffic(3)
    with running(logs, CONFIG) as run:
        while any(run.pipeline.positions.get(p, 0) < len(log) for p, log in logs.items()):
            run.read(rng.choice([PREDICTIONS, FEEDBACK]), rng.randrange(1, 60))
            models = run.pipeline.models
            outcomes: Counter[str] = Counter()
            merged: Counter[str] = Counter()
            for key, n in run.pipeline.counters.items():
                if key.name == "records":
                    outcomes[dict(key.labels)["topic"]] += n
                    merged[f"{dict(key.labels)['topic']} {dict(key.labels)['outcome']}"] += n
            assert outcomes == Counter({p.topic: n for p, n in run.pipeline.positions.items()})
            fates = sum(
                models.counts[f"labels_{o}"] for o in ("matched", "superseded", "duplicate", "orphan")
            )
            assert merged["feedback merged"] + merged["feedback duplicate"] == fates + models.labels_waiting
            assert merged["predictions merged"] == sum(
                m.join.counts["predictions"] for m in models.models.values()
            )
            for held in models.models.values():
                counts, rows = held.join.counts, held.join.index.rows()
                unlabelled = int((rows["label"] < 0).sum())
                assert held.join.pending == unlabelled
                assert counts["predictions"] == counts["joined"] + counts["expired"] + unlabelled


def test_a_late_record_changes_no_closed_pane() -> None:
    """I8: what comes with an event time behind the watermark is counted as late and leaves panes alone."""
    logs: dict[Partition, list[Event | bytes]] = {
        PREDICTIONS: [prediction(i, T0 + i * MINUTE, "a", prediction="1") for i in range(180)],
        FEEDBACK: [],
    }
    with running(logs, CONFIG) as run:
        pipeline = run.finish()
        panes = pipeline.models.models["a"].panes
        before = contents(panes)
        late = [prediction(f"late{i}", T0 + i * MINUTE, "a", prediction="1") for i in range(160)]
        logs[PREDICTIONS] += late
        run.finish()
        assert contents(panes) == before
        assert pipeline.models.models["a"].counts["late"] == 160
