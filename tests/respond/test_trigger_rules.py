import json
from datetime import timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import ModelConfig, RetrainingConfig
from agent.events import Int64s, Partition
from agent.measure.bins import score_bin
from agent.measure.launch import NAME, SinceLaunch, roc_auc
from agent.measure.layout import Layout
from agent.measure.offsets import Offsets
from agent.respond.request import MAX_BYTES, encode
from agent.respond.trigger import JointStep, Reason, Retraining
from agent.respond.view import MonitorKey, Severity
from tests.respond.examples import ACCURACY, DAY, DRIFT, HOUR, MINUTE
from tests.respond.test_trigger import FAMILY, START, at, policy, raised, reasons, resolved

AUC = MonitorKey("credit", "v1", NAME, metric="roc_auc")
FALSE_POSITIVES = MonitorKey("credit", "v1", NAME, metric="false_positive_rate")
FAMILY[NAME] = "performance"
LAYOUT = Layout.of(ModelConfig())


@pytest.mark.parametrize(
    ("alarms", "reason"),
    [
        ([AUC], Reason.AUC_DROP),
        ([FALSE_POSITIVES], Reason.FALSE_POSITIVES),
        ([AUC, FALSE_POSITIVES], Reason.AUC_DROP),
        ([AUC, DRIFT], Reason.DRIFT_CONFIRMED),
    ],
)
def test_worse_than_at_launch_asks_for_retraining(alarms: list[MonitorKey], reason: Reason) -> None:
    """A fallen AUC and false positives over the cap are reasons of their own; with drift, drift is."""
    decisions = policy().step(at(0, *(raised(key, -MINUTE, Severity.TICKET) for key in alarms)))
    assert reasons(decisions) == [reason]
    assert decisions[0].event
    assert {e["detector"] for e in decisions[0].event["data"]["evidence"]} == {key.detector for key in alarms}


def ageing(ms: int, since_ms: int = 0, version: str = "v1", labels: int = 1000) -> JointStep:
    """A step at which a version has been at work since a time."""
    return JointStep(START + ms, version, labels, START - 30 * DAY, (), START + since_ms)


def test_an_old_version_asks_once_and_a_new_one_ends_it() -> None:
    """At `max_age`, not a step sooner; the new version resolves it and starts to age anew."""
    retraining = policy(max_age="10d")
    assert not retraining.idle
    assert retraining.step(ageing(10 * DAY - 1)) == []
    assert reasons(retraining.step(ageing(10 * DAY))) == [Reason.STALE]
    assert reasons(retraining.step(ageing(15 * DAY))) == [Reason.ALREADY_REQUESTED]
    [ended] = retraining.step(ageing(16 * DAY, 16 * DAY, "v2"))
    assert ended.reason is Reason.VERSION_REPLACED
    assert ended.event
    assert retraining.step(ageing(26 * DAY - 1, 16 * DAY, "v2")) == []
    assert reasons(retraining.step(ageing(26 * DAY, 16 * DAY, "v2"))) == [Reason.STALE]


def test_age_alone_asks_for_nothing_by_default() -> None:
    """Without `max_age` a version may grow as old as it likes, and idle steps may be skipped."""
    retraining = policy()
    assert retraining.step(ageing(1000 * DAY)) == []
    assert retraining.idle


def test_a_period_has_a_maximum() -> None:
    """However many episodes begin, a period has at most so many requests; the rest are counted."""
    retraining = policy(cooldown=timedelta(0), max_requests=2, period="10d")
    made = []
    for day in range(20):
        decisions = retraining.step(at(day * DAY, raised(ACCURACY, day * DAY)))
        made += [day for d in decisions if d.event]
        retraining.step(at(day * DAY + HOUR, resolved(ACCURACY, day * DAY + HOUR)))
    assert made == [0, 1, 10, 11]
    assert retraining.suppressed == {"max_requests": 16}


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=60),
    st.integers(1, 4),
    st.integers(0, 20),
)
def test_no_period_ever_has_more_than_its_maximum(gaps: list[int], most: int, cooldown: int) -> None:
    """Any window of a period has at most `max_requests`, and none lies in the cool-down of another."""
    retraining = policy(cooldown=timedelta(hours=cooldown), max_requests=most, period="2d")
    hour, made = 0, []
    for gap in gaps:
        hour += gap
        made += [hour for d in retraining.step(at(hour * HOUR, raised(ACCURACY, hour * HOUR))) if d.event]
        retraining.step(at(hour * HOUR + 1, resolved(ACCURACY, hour * HOUR + 1)))
    assert all(later - first >= 48 for first, later in zip(made, made[most:], strict=False))
    assert all(later - first >= cooldown for first, later in pairwise(made))


def test_an_operator_may_ask_and_force() -> None:
    """A manual request obeys cool-down, labels and maximum unless forced, and a dry run always."""
    retraining = policy()
    first, second = retraining.ask(at(0), "a"), retraining.ask(at(HOUR), "b")
    assert (first.reason, second.reason) == (Reason.MANUAL, Reason.COOLDOWN)
    assert first.event
    assert first.event["data"]["reason"] == "manual"
    forced = retraining.ask(at(HOUR), "c", force=True)
    assert forced.event
    assert forced.event["id"] != first.event["id"]
    assert retraining.suppressed == {"cooldown": 1}
    assert retraining.ask(at(2 * HOUR), "c", force=True).reason is Reason.ALREADY_REQUESTED
    assert policy().ask(at(0, labels=3), "a").reason is Reason.NOT_ENOUGH_LABELS
    dry = policy(dry_run=True).ask(at(0), "a", force=True)
    assert dry.event is None
    assert dry.rehearsed


def test_the_request_fits_a_webhook_with_evidence_and_offsets_galore() -> None:
    """Hundreds of partitions and long names: weak evidence and offsets go before it grows too large."""
    spans = [{"topic": "t" * 200, "offsets": {str(p): [10**12, 10**13] for p in range(500)}}]
    retraining = Retraining("credit", RetrainingConfig(), lambda since, until: spans)
    many = [raised(DRIFT._replace(feature="f" * 200 + str(i)), -MINUTE) for i in range(50)]
    [decision] = retraining.step(at(0, raised(ACCURACY, -MINUTE), *many))
    assert decision.event
    assert len(encode(decision.event)) <= MAX_BYTES
    assert decision.event["data"]["reason"] == "drift_confirmed"


def test_the_data_window_names_offsets_where_they_are_known() -> None:
    """Topic, offsets and up to when they hold are in the window."""
    spans = [{"topic": "predictions", "offsets": {"0": [100, 900]}}]
    retraining = Retraining("credit", RetrainingConfig(), lambda since, until: spans)
    [decision] = retraining.step(at(5 * MINUTE, raised(ACCURACY, 0)))
    assert decision.event
    window = decision.event["data"]["data_window"]
    assert window["topics"] == spans
    assert window["offsets_until"] == "2026-08-01T12:00:00.000Z"


records = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50 * HOUR)), min_size=1, max_size=60)


@given(records, st.integers(0, 30), st.integers(1, 30))
def test_offsets_hold_every_event_of_the_window(found: list[tuple[int, int]], start: int, hours: int) -> None:
    """The ranges hold all events of the window's full hours, whatever the batches, and survive storage."""
    kept = Offsets()
    logs: dict[int, list[int]] = {}
    for partition, time_ms in found:
        logs.setdefault(partition, []).append(time_ms)
    for partition, times in logs.items():
        for i in range(0, len(times), 7):
            batch = np.array(times[i : i + 7], dtype=np.int64)
            kept.note(Partition("p", partition), batch, np.arange(i, i + len(batch), dtype=np.int64))
    again = Offsets()
    again.load(list(kept.documents()))
    since, until = start * HOUR, (start + hours) * HOUR + 5
    spans = kept.spans(since, until)
    assert again.spans(since, until) == spans
    offsets = spans[0]["offsets"] if spans else {}
    for partition, times in logs.items():
        inside = [i for i, t in enumerate(times) if since <= t < until // HOUR * HOUR]
        wide = [i for i, t in enumerate(times) if since - HOUR < t < until // HOUR * HOUR]
        if inside:
            low, high = offsets[str(partition)]
            assert low <= min(inside)
            assert max(inside) < high
            assert (low, high - 1) <= (min(inside), max(wide))


def labelled(truth: Int64s, score: np.ndarray[tuple[int], np.dtype[np.float64]], cut: float = 0.5) -> Int64s:
    """The performance counts of scored, labelled predictions."""
    counts = LAYOUT.empty_performance()
    counts[0] = len(truth)
    confusion = np.zeros((2, 2), dtype=np.int64)
    np.add.at(confusion, (truth, (score >= cut).astype(int)), 1)
    counts[LAYOUT.performance["confusion"]] = confusion.ravel()
    bins = counts[LAYOUT.performance["by_label"]].reshape(2, -1)
    np.add.at(bins, (truth, score_bin(score)), 1)
    counts[LAYOUT.performance["by_label"]] = bins.ravel()
    return counts


def sample(rng: np.random.Generator, n: int, shift: float) -> Int64s:
    """Scores whose separation is `shift` standard deviations."""
    truth = rng.integers(0, 2, n)
    score = 1 / (1 + np.exp(-(rng.normal(size=n) + shift * (truth - 0.5))))
    return labelled(truth, score)


def test_the_auc_and_its_error_are_delongs() -> None:
    """Against the definition, pair by pair, on the binned scores."""
    rng = np.random.default_rng(7)
    truth = rng.integers(0, 2, 300)
    score = np.round(1 / (1 + np.exp(-(rng.normal(size=300) + truth))), 1)
    found = roc_auc(LAYOUT, labelled(truth, score))
    assert found
    bins = score_bin(score)
    wins = np.sign(bins[truth == 1][:, None] - bins[truth == 0][None, :]) / 2 + 0.5
    by_positive, by_negative = wins.mean(axis=1), wins.mean(axis=0)
    assert found.value == pytest.approx(wins.mean(), abs=1e-12)
    variance = by_positive.var(ddof=1) / len(by_positive) + by_negative.var(ddof=1) / len(by_negative)
    assert found.variance == pytest.approx(variance, rel=1e-9)


def run(seed: int, shifts: list[float], launch: float = 2.0) -> list[tuple[int, str]]:
    """(hour, what fired) over hours of 250 labels each; the reference is large."""
    rng = np.random.default_rng(seed)
    reference = sample(rng, 20_000, launch)
    watch = SinceLaunch(RetrainingConfig(), LAYOUT)
    fired = []
    for hour, shift in enumerate(shifts):
        state = json.loads(json.dumps(watch.state()))
        watch = SinceLaunch(RetrainingConfig(), LAYOUT)
        watch.load(state)
        fired += [
            (hour, seen.key.metric)
            for seen in watch.note(hour * HOUR, "v1", sample(rng, 250, shift), reference)
            if seen.said.fired
        ]
    return fired


def test_a_fall_since_launch_fires_after_two_blocks_and_noise_does_not() -> None:
    """A model as good as at launch is left alone for 400 blocks; one that got worse is found in two."""
    assert run(1, [2.0] * 800) == []
    fired = run(2, [2.0] * 20 + [0.8] * 20)
    assert (23, "roc_auc") in fired
    assert min(hour for hour, _ in fired) == 23


def test_a_little_worse_is_within_the_tolerance() -> None:
    """An AUC 3 % lower than at launch is tolerated: it may fall by 5."""
    assert [metric for _, metric in run(3, [1.72] * 400) if metric == "roc_auc"] == []


def test_a_cap_on_false_positives_is_relative_to_the_baseline() -> None:
    """At 1.3 times the baseline's rate nothing fires; at twice it does."""
    rng = np.random.default_rng(5)

    def counts(n: int, rate: float) -> Int64s:
        truth = rng.integers(0, 2, n)
        positive = np.where(truth == 1, 0.9, np.where(rng.random(n) < rate, 0.9, 0.1))
        return labelled(truth, positive)

    config = RetrainingConfig(auc_drop=None)
    for rate, expected in ((0.13, False), (0.2, True)):
        watch = SinceLaunch(config, LAYOUT)
        reference = counts(50_000, 0.1)
        seen = [s for h in range(40) for s in watch.note(h * HOUR, "v1", counts(1000, rate), reference)]
        assert {s.key.metric for s in seen} == {"false_positive_rate"}
        assert any(s.said.fired for s in seen) is expected
        assert (not seen[-1].said.recovered) is expected


def test_either_rule_can_be_turned_off() -> None:
    """Null means never."""
    config = RetrainingConfig(auc_drop=None, false_positive_cap=None)
    rng = np.random.default_rng(1)
    watch = SinceLaunch(config, LAYOUT)
    assert list(watch.note(0, "v1", sample(rng, 5000, 0.0), sample(rng, 5000, 2.0))) == []
