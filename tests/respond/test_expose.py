import math
import os
import shutil
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from agent.respond.decide import Reason
from agent.respond.expose import MAX_RATIO, Runtime, render
from agent.respond.families import OUTCOMES
from agent.respond.series import MAX_LABEL, label
from agent.respond.view import AlarmView, CounterKey, MetricValue, Severity, View
from tests.respond.examples import (
    ACCURACY,
    DRIFT,
    FAIRNESS,
    HOUR,
    evidence,
    model,
    monitor,
    version,
    view,
    window,
)

RUNTIME = Runtime(connected=True, partitions=4, lag={("predictions", 0): 12}, outbox_pending=1)

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(exposition: bytes) -> Samples:
    """What Prometheus would store; a series that is there twice is a failure."""
    found: Samples = {}
    for family in text_string_to_metric_families(exposition.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"twice: {key}"
            found[key] = sample.value
    return found


def value(exposition: bytes, name: str, **labels: str) -> float | None:
    """The one sample with at least these labels; None if there is none."""
    wanted = set(labels.items())
    found = [v for (n, own), v in samples(exposition).items() if n == name and wanted <= own]
    assert len(found) <= 1, f"{name} {labels} is not one series"
    return found[0] if found else None


def rich() -> View:
    """A view with something of everything."""
    raised = AlarmView(ACCURACY, Severity.PAGE, HOUR, None, evidence(1.4), Reason.FIRED)
    monitors = [
        monitor(found=evidence(1.4), active=True),
        monitor(DRIFT, "drift", Severity.TICKET),
        monitor(FAIRNESS, "fairness", found=evidence(warming_up=True)),
    ]
    return view(model(monitors=monitors, alarms=[raised]), model("fraud", max_series=20))


@pytest.mark.skipif(
    os.environ.get("CI") != "true" and shutil.which("promtool") is None,
    reason="no promtool (Debian package prometheus)",
)
def test_promtool_finds_nothing_to_complain_of() -> None:
    """Names, units, types and help are as Prometheus wants them."""
    found = subprocess.run(
        ["promtool", "check", "metrics"],
        input=render(rich(), RUNTIME),
        capture_output=True,
        check=False,
    )
    assert (found.returncode, found.stdout + found.stderr) == (0, b"")


def test_the_values_are_those_of_the_view() -> None:
    """Gauges equal the committed state, name by name."""
    text = render(rich(), RUNTIME)
    v1 = {"model_name": "credit", "model_version": "v1"}
    lifetime = {**v1, "window": "lifetime"}
    assert value(text, "plumbline_accuracy", **lifetime, segment="") == 0.8125
    assert value(text, "plumbline_true_negatives", **lifetime, segment="sex=f") == 70
    assert value(text, "plumbline_metric_samples", **lifetime, segment="", metric="accuracy") == 160
    assert value(text, "plumbline_metric_low", **lifetime, segment="", metric="accuracy") == 0.75
    assert value(text, "plumbline_window_predictions", **lifetime, segment="sex=m") == 200
    assert value(text, "plumbline_feature_psi", **lifetime, feature="age") == 0.1
    assert value(text, "plumbline_feature_missing_values_total", **v1, feature="age") == 3
    assert value(text, "plumbline_latency_seconds_bucket", **v1, le="0.1") == 9
    assert value(text, "plumbline_latency_seconds_bucket", **v1, le="+Inf") == 10
    assert value(text, "plumbline_latency_seconds_count", **v1) == 10
    assert value(text, "plumbline_latency_seconds_sum", **v1) == 0.7
    assert value(text, "plumbline_joint_watermark_timestamp_seconds", model_name="credit") == 4 * 3600
    assert value(text, "plumbline_join_events", model_name="credit", state="pending") == 12
    assert value(text, "plumbline_retraining_suppressed_total", model_name="credit", reason="cooldown") == 2
    assert (
        value(text, "plumbline_retraining_last_request_timestamp_seconds", model_name="credit")
        == 1_785_585_600
    )
    assert value(text, "plumbline_records_total", topic="predictions", outcome="merged") == 200
    assert value(text, "plumbline_dead_letters_total", reason="malformed_json") == 2
    assert value(text, "plumbline_last_commit_timestamp_seconds") == 1_790_000_000.25
    assert value(text, "plumbline_build_info", version="0.1.0") == 1
    assert value(text, "plumbline_consumer_lag_records", topic="predictions", partition="0") == 12


def test_groups_are_shown_for_the_lifetime_and_the_longest_other_window_only() -> None:
    """Small groups in short windows would be noise, and many series."""
    text = render(view())
    windows = {
        dict(labels)["window"]
        for name, labels in samples(text)
        if name == "plumbline_accuracy" and ("segment", "sex=f") in labels
    }
    assert windows == {"24h", "lifetime"}


def test_an_alarm_is_one_while_latched_and_zero_while_its_monitor_is_well() -> None:
    """A monitor that is still warming up is left out: a zero would say that all is well."""
    text = render(rich())
    active = "plumbline_alarm_active"
    assert value(text, active, model_name="credit", detector="rate_drop", severity="page") == 1
    assert value(text, active, model_name="credit", detector="histogram_drift", severity="ticket") == 0
    assert value(text, active, model_name="credit", detector="group_ratio") is None
    assert value(text, "plumbline_detector_threshold_ratio", detector="group_ratio") is None


def test_a_latched_alarm_stays_while_its_detector_starts_again() -> None:
    """After firing the detector knows nothing for a while; the alarm does not go away with that."""
    raised = AlarmView(FAIRNESS, Severity.PAGE, HOUR, None, evidence(1.4), Reason.FIRED)
    warming = monitor(FAIRNESS, "fairness", found=evidence(warming_up=True), active=True)
    text = render(view(model(monitors=[warming], alarms=[raised])))
    assert value(text, "plumbline_alarm_active", detector="group_ratio", segment="sex=f") == 1


def test_an_escalated_alarm_is_a_page_and_nothing_else() -> None:
    """A ticket that became a page is not shown as a healthy ticket beside it."""
    raised = AlarmView(DRIFT, Severity.PAGE, HOUR, None, evidence(1.4), Reason.ESCALATED)
    text = render(
        view(model(monitors=[monitor(DRIFT, "drift", Severity.TICKET, active=True)], alarms=[raised]))
    )
    assert value(text, "plumbline_alarm_active", detector="histogram_drift") == 1
    assert value(text, "plumbline_alarm_active", detector="histogram_drift", severity="page") == 1


def test_the_ratio_is_the_highest_over_the_metrics() -> None:
    """One detector that watches two metrics in one place has one ratio: the worse."""
    other = ACCURACY._replace(metric="recall")
    monitors = [monitor(found=evidence(0.2)), monitor(other, found=evidence(0.9))]
    assert (
        value(render(view(model(monitors=monitors))), "plumbline_detector_threshold_ratio")
        == evidence(0.9).ratio
    )


def test_nothing_undefined_is_shown() -> None:
    """NaN and infinite values are left out; an infinite ratio is cut, for it alarms."""
    bad = {"accuracy": MetricValue(math.nan, 3), "f1": MetricValue(math.inf, 3, math.nan, -math.inf)}
    broken = replace(window(), metrics={"": bad})
    found = evidence(math.inf, value=math.nan)
    text = render(
        view(model(versions=[version(windows={"lifetime": broken})], monitors=[monitor(found=found)]))
    )
    assert all(
        math.isfinite(v)
        for (name, _), v in samples(text).items()
        if name != "plumbline_latency_seconds_bucket"
    )
    assert value(text, "plumbline_accuracy") is None
    assert value(text, "plumbline_detector_threshold_ratio") == MAX_RATIO


@pytest.mark.parametrize("limit", [0, 1, 7, 60, 130, 2000])
def test_the_cap_holds_and_says_what_it_cost(limit: int) -> None:
    """No model has more series than were paid for; what is left out and what is shown make up the whole."""
    everything = render(view(model(max_series=10**9)))
    capped = render(view(model(max_series=limit)))
    own = [key for key in samples(capped) if ("model_name", "credit") in key[1]]
    bookkeeping = 3  # series, series_dropped, and the agent's own predictions_total
    assert len(own) - bookkeeping <= limit
    assert value(capped, "plumbline_series") == len(own) - bookkeeping
    dropped = value(capped, "plumbline_series_dropped")
    assert dropped is not None
    assert len(samples(capped)) + dropped == len(samples(everything))


def test_alarms_are_the_last_to_go() -> None:
    """With a hundred versions and features and room for forty series, the latched alarm is among them."""
    versions = [version(f"v{i}") for i in range(5)]
    monitors = [
        monitor(DRIFT._replace(feature=f"f{i}"), "drift", Severity.TICKET, evidence(), active=i == 99)
        for i in range(100)
    ]
    text = render(view(model(versions=versions, monitors=monitors, max_series=40)))
    assert value(text, "plumbline_alarm_active", feature="f99") == 1
    assert value(text, "plumbline_series_dropped") != 0


def test_the_same_view_gives_the_same_bytes_whatever_its_order() -> None:
    """The exposition does not depend on the order in which dictionaries were filled."""
    one = rich()
    turned = replace(
        one,
        models=dict(reversed(list(one.models.items()))),
        counters=dict(reversed(list(one.counters.items()))),
    )
    assert render(one, RUNTIME) == render(turned, RUNTIME)


HOSTILE = [
    'a"b',
    "a\nb",
    "a\\b",
    "\0",
    "\u202eevil",
    "x" * 10_000,
    "x" * 9_999 + "y",
    "\ud800",
    "",
    "a\r\nb 1",
]


@given(st.sampled_from(HOSTILE) | st.text(max_size=300))
def test_a_label_is_bounded_and_cannot_mislead(text: str) -> None:
    """No control or reordering character survives; what was changed is marked; what was harmless stays."""
    safe = label(text)
    assert len(safe) <= MAX_LABEL
    assert not set(safe) & set("\0\n\r\u202e\u2066\u200b\ud800")
    assert label(safe) == safe
    safe.encode()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(HOSTILE) | st.text(max_size=20), unique=True, min_size=1, max_size=8))
def test_hostile_names_stay_apart_and_are_read_back(names: list[str]) -> None:
    """Whatever the world calls its models and segments, each is one series, and the text stays parseable."""
    one = view(
        *(model(name, versions=[version(windows={"24h": window([f"city={name}"], [])})]) for name in names),
        counters={CounterKey("records", (("topic", name),)): i for i, name in enumerate(names)},
    )
    found = samples(render(one, RUNTIME))
    counted = {dict(labels)["topic"]: v for (n, labels), v in found.items() if n == "plumbline_records_total"}
    assert counted == {label(name): i for i, name in enumerate(names)}
    slices = [dict(labels) for n, labels in found if n == "plumbline_accuracy"]
    groups = {(of["model_name"], of["segment"]) for of in slices if of["segment"]}
    assert groups == {(label(name), label(f"city={name}")) for name in names}


def test_a_metric_that_is_no_name_is_left_out() -> None:
    """A metric id that Prometheus cannot spell breaks nothing: it is in /status."""
    odd = replace(window(), metrics={"": {"recall[a b]": MetricValue(0.5, 3), "recall": MetricValue(0.5, 3)}})
    text = render(view(model(versions=[version(windows={"lifetime": odd})])))
    assert value(text, "plumbline_recall") == 0.5
    assert b"recall[" not in text.replace(b'metric="recall[a b]"', b"")


def test_a_class_has_a_series_of_its_own_name() -> None:
    """The metric of one class is not mixed with the average; per group it is left to /status."""
    values = {"precision:to deny": MetricValue(0.5, 30), "precision_macro": MetricValue(0.7, 90)}
    both = replace(window(), metrics={"": values, "sex=f": values})
    text = render(view(model(versions=[version(windows={"lifetime": both})])))
    assert value(text, "plumbline_class_precision", **{"class": "to deny"}) == 0.5
    assert value(text, "plumbline_metric_samples", metric="precision:to deny") == 30
    assert value(text, "plumbline_precision_macro", segment="sex=f") == 0.7


def test_monitors_are_counted_by_what_they_can_say() -> None:
    """A blind monitor shows as such: all other series leave it out."""
    text = render(rich())
    seen = {
        (detector, verdict): value(
            text, "plumbline_monitors", model_name="credit", detector=detector, verdict=verdict
        )
        for detector in ("rate_drop", "group_ratio")
        for verdict in ("ok", "alarm", "not_enough_evidence")
    }
    assert [key for key, count in seen.items() if count == 1] == [
        ("rate_drop", "alarm"),
        ("group_ratio", "not_enough_evidence"),
    ]
    assert sum(count or 0 for count in seen.values()) == 2


def test_due_reviews_are_counted() -> None:
    """Somebody is told when a metric's review is overdue, and zero is said too."""
    due = replace(model(), reviews_due=2)
    assert value(render(view(due)), "plumbline_metric_reviews_due", model_name="credit") == 2
    assert value(render(view()), "plumbline_metric_reviews_due", model_name="credit") == 0


def test_every_outcome_of_a_topic_has_a_series_from_its_first_record_on() -> None:
    """The first dead letter is an increase, not the birth of a series that rate() cannot see."""
    read = CounterKey("records", (("outcome", "merged"), ("topic", "predictions")))
    text = render(view(counters={read: 200}))
    counted = {outcome: value(text, "plumbline_records_total", outcome=outcome) for outcome in OUTCOMES}
    assert counted == dict.fromkeys(OUTCOMES, 0) | {"merged": 200}


def test_an_agent_without_a_first_commit_shows_its_connection() -> None:
    """Before any broker answered there is a gauge that says so."""
    text = render(View({}, {}, {}, 0, 0.0, "0.1.0"), Runtime(connected=False))
    assert value(text, "plumbline_source_connected") == 0
    assert value(text, "plumbline_last_commit_timestamp_seconds") is None
