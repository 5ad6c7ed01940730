"""What are the decisions worth, and what does watching them cost?

Only what is exposed today: gains, costs and outcomes of users get their panels when their metrics exist.
"""

from __future__ import annotations

from typing import Any

from grafana.frame import build_dashboard
from grafana.parts import (
    MODEL,
    OVERALL,
    VERSION,
    VERSIONS,
    Panel,
    Query,
    by,
    course,
    increase,
    number,
    of,
    rate,
    total,
    worst,
)

PREDICTIONS = "plumbline_predictions_total"
LEGEND = "{{model_name}} {{model_version}}"
CHANGES = "plumbline_alarm_transitions_total"


def _overall(metric: str) -> str:
    return worst(VERSIONS, of(f"plumbline_{metric}", OVERALL))


GAIN = f"{_overall('accuracy')} - {_overall('majority_class_rate')}"
WRONG = f"{_overall('false_positives')} + {_overall('false_negatives')}"


def dashboard() -> dict[str, Any]:
    return build_dashboard(
        "plumbline-business",
        "What the model adds over the simplest rule, how often it is wrong and which way, and what it costs "
        "people.",
        ("model_name", "model_version", "window"),
        (("Worth", _worth()), ("Decisions", _decisions()), ("Cost to people", _cost())),
    )


def _worth() -> list[Panel]:
    return [
        number(
            "Better than the simplest rule",
            "Accuracy less that of always giving the most frequent answer, in the window. At 0 the model is "
            "worth nothing.",
            by("min", "", GAIN),
            unit="percentunit",
            decimals=1,
            steps=((None, "red"), (0, "orange"), (0.02, "green")),
            width=6,
        ),
        number(
            "Decisions in this time range",
            "Predictions merged in the time range of the dashboard.",
            total("", f"increase({of(PREDICTIONS, VERSION)}[$__range])"),
            unit="short",
            decimals=1,
            width=6,
            trend=False,
        ),
        number(
            "Wrong decisions in the window",
            "Positives that were missed and negatives that were flagged, among the labelled predictions of "
            "the window.",
            by("sum", "", WRONG),
            unit="short",
            width=6,
        ),
        number(
            "Mean wait for an answer",
            "Mean latency of the model's answers in the window, as its events report it.",
            worst("", _overall("mean_latency_seconds")),
            unit="s",
            width=6,
        ),
        course(
            "Better than the simplest rule",
            "Accuracy less that of always giving the most frequent answer. Below 0 the model does harm.",
            Query(GAIN, LEGEND),
            unit="percentunit",
            steps=((None, "green"), (0, "red")),
            low=0,
        ),
        course(
            "Wrong decisions, by kind",
            "Labelled predictions of the window that turned out wrong. The two kinds seldom cost the same.",
            Query(_overall("false_positives"), f"{LEGEND} flagged wrongly"),
            Query(_overall("false_negatives"), f"{LEGEND} missed"),
            unit="short",
            low=0,
            stacked=True,
        ),
    ]


def _decisions() -> list[Panel]:
    return [
        course(
            "Decisions per second",
            "Predictions merged per second of wall-clock time, by version.",
            Query(total(VERSIONS, rate(PREDICTIONS, VERSION)), LEGEND),
            unit="reqps",
            width=8,
            low=0,
            stacked=True,
        ),
        course(
            "Share decided yes",
            "Share of the window's predictions that are positive: approvals, alerts, offers.",
            Query(_overall("selection_rate"), LEGEND),
            unit="percentunit",
            width=8,
        ),
        course(
            "Requests that got an error",
            "Share of the window's requests that the model answered with an error.",
            Query(_overall("error_rate"), LEGEND),
            unit="percentunit",
            width=8,
            low=0,
        ),
    ]


def _cost() -> list[Panel]:
    return [
        course(
            "People called, people asked",
            "Pages and tickets raised between two points of the graph: what watching costs those on call.",
            Query(
                total("model_name, severity", increase(CHANGES, MODEL, 'change="raised"')),
                "{{model_name}} {{severity}}",
            ),
            unit="none",
            width=8,
            low=0,
        ),
        course(
            "Retraining asked for",
            "Retraining requests sent between two points of the graph: each one costs a training run and a "
            "review.",
            Query(
                total("model_name", increase("plumbline_retraining_events_total", MODEL, 'type="requested"')),
                "{{model_name}}",
            ),
            unit="none",
            width=8,
            low=0,
        ),
        course(
            "Labels still missing",
            "Share of the window's predictions whose label has not come: what is decided and not known to "
            "be right.",
            Query(f"1 - {_overall('label_coverage')}", LEGEND),
            unit="percentunit",
            width=8,
            low=0,
        ),
    ]
