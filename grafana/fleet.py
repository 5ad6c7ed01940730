"""Which models need somebody now? Red lines on top, then all models with five vital numbers, worst first."""

from __future__ import annotations

from typing import Any

from grafana.frame import build_dashboard, link
from grafana.parts import (
    AGENT,
    FEW_ARE_WELL,
    MODEL,
    MODELS,
    NONE_IS_WELL,
    RATIO,
    Column,
    Panel,
    Query,
    by,
    course,
    number,
    of,
    rate,
    rows,
    total,
    worst,
)

ALARM = "plumbline_alarm_active"
WHERE = "model_name, model_version, detector, feature, segment, metric"
TO_MODEL = link("plumbline-model", model_name="${__data.fields.model_name}")
PAGES = worst(WHERE, of(ALARM, MODEL, 'severity="page"'))
TICKETS = worst(WHERE, of(ALARM, MODEL, 'severity="ticket"'))
NEAREST = worst(MODELS, of("plumbline_detector_threshold_ratio", MODEL))
ACCURACY = by("min", MODELS, of("plumbline_accuracy", (*MODEL, 'segment=""', 'window="$window"')))
TRAFFIC = total(MODELS, rate("plumbline_predictions_total", MODEL))


def dashboard() -> dict[str, Any]:
    return build_dashboard(
        "plumbline-fleet",
        "Which models need somebody now: broken red lines first, then all models, the worst on top.",
        ("model_name", "window"),
        (
            ("Red lines", _red_lines()),
            ("Models, worst first", _models()),
            ("How it came to this", _courses()),
        ),
    )


def _red_lines() -> list[Panel]:
    return [
        number(
            "Pages active",
            "Alarms that call somebody now: each is latched until its cause has been well again for a while. "
            "0 is well.",
            total("", PAGES),
            steps=NONE_IS_WELL,
            width=5,
        ),
        number(
            "Tickets active",
            "Alarms that can wait for working hours: something moved, and no harm is proven.",
            total("", TICKETS),
            steps=FEW_ARE_WELL,
            width=5,
        ),
        number(
            "Models with a page",
            "How many models have at least one page active.",
            f"count({worst(MODELS, PAGES)} == 1) or vector(0)",
            steps=NONE_IS_WELL,
            width=5,
        ),
        number(
            "Models watched",
            "Models from which at least one prediction was read.",
            f"count({by('count', MODELS, of('plumbline_watermark_timestamp_seconds', MODEL))})",
            width=5,
        ),
        number(
            "Agents that do not answer",
            "Agents whose last scrape failed. What they watch is not being watched.",
            f"count({of('up', AGENT)} == 0) or vector(0)",
            steps=NONE_IS_WELL,
        ),
        rows(
            "Pages active now",
            "Every page that is active, and what it is about: the detector, the feature or the group of "
            "people it watches, and the metric. Empty means that nobody needs to do anything now.",
            {"A": f"{PAGES} == 1"},
            [
                Column("model_name", "Model", link=TO_MODEL),
                Column("model_version", "Version"),
                Column("detector", "Detector"),
                Column("feature", "Feature"),
                Column("segment", "Segment"),
                Column("metric", "Metric"),
                Column("Value", "State", texts={"1": ("page", "red")}, steps=NONE_IS_WELL),
            ],
            worst_by=["Model"],
            height=6,
            none="No page is active",
        ),
    ]


def _models() -> list[Panel]:
    return [
        rows(
            "Models",
            "One row per model: pages and tickets that are active, how near its nearest detector is to an "
            "alarm (1 is the alarm), the share of right answers in the chosen window, and predictions per "
            "second. Sorted by pages, then tickets, then nearness. Click a model to look closer.",
            {
                "A": total(MODELS, PAGES),
                "B": total(MODELS, TICKETS),
                "C": NEAREST,
                "D": ACCURACY,
                "E": TRAFFIC,
            },
            [
                Column("model_name", "Model", link=TO_MODEL),
                Column("Value #A", "Pages", steps=NONE_IS_WELL),
                Column("Value #B", "Tickets", steps=FEW_ARE_WELL),
                Column("Value #C", "Nearest to an alarm", decimals=2, steps=RATIO),
                Column("Value #D", "Accuracy", "percentunit", decimals=1),
                Column("Value #E", "Predictions per second", "reqps", decimals=1),
            ],
            worst_by=["Pages", "Tickets", "Nearest to an alarm"],
            height=9,
        )
    ]


def _courses() -> list[Panel]:
    to_model = link("plumbline-model", model_name="${__field.labels.model_name}")
    return [
        course(
            "Nearest to an alarm",
            "Per model, the highest of all detectors' evidence over its threshold. At 1 an alarm is raised; "
            "after that the detector starts counting again, so that the line falls while the alarm stays.",
            Query(NEAREST, "{{model_name}}"),
            unit="none",
            width=8,
            steps=((None, "green"), (1, "red")),
            low=0,
            high=1.2,
            link=to_model,
        ),
        course(
            "Accuracy",
            "Share of predictions that turned out right, of those in the window whose label has come; "
            "the lowest of a model's versions.",
            Query(ACCURACY, "{{model_name}}"),
            unit="percentunit",
            width=8,
            link=to_model,
        ),
        course(
            "Predictions per second",
            "Predictions merged by the agents per second of wall-clock time. A line that ends is a model "
            "that fell silent.",
            Query(TRAFFIC, "{{model_name}}"),
            unit="reqps",
            width=8,
            low=0,
            link=to_model,
        ),
    ]
