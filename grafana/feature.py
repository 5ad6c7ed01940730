"""Which feature, or which segment, is behind it?"""

from __future__ import annotations

from typing import Any

from grafana.frame import build_dashboard, link
from grafana.parts import (
    FEATURE,
    GROUPS,
    PSI,
    RATIO,
    SHARE_MISSING,
    VERSIONS,
    Column,
    Panel,
    Query,
    course,
    of,
    rate,
    rows,
    total,
    worst,
)

WINDOWED = (*FEATURE, 'window="$window"')
EACH = f"{VERSIONS}, feature"
GROUP = f"{VERSIONS}, segment"
LEGEND = "{{model_version}}: {{feature}}"
LEGEND_GROUP = "{{model_version}}: {{segment}}"
VALUES = total(EACH, rate("plumbline_feature_values_total", FEATURE))
MISSING = f"{total(EACH, rate('plumbline_feature_missing_values_total', FEATURE))} / {VALUES}"
INVALID = f"{total(EACH, rate('plumbline_feature_invalid_values_total', FEATURE))} / {VALUES}"
NEAREST = worst(EACH, of("plumbline_detector_threshold_ratio", FEATURE))


def dashboard() -> dict[str, Any]:
    return build_dashboard(
        "plumbline-feature",
        "Which input changed, how, and for whom: drift and damage by feature, traffic and quality by "
        "segment.",
        ("model_name", "model_version", "window", "feature", "group_window", "segment"),
        (
            ("Features, worst first", _table()),
            ("Drift", _drift()),
            ("Damage", _damage()),
            ("Segments", _segments()),
        ),
    )


def _table() -> list[Panel]:
    return [
        rows(
            "Features",
            "One row per feature and version: how far its distribution is from the reference data "
            "(population stability index and Jensen-Shannon divergence, less what chance alone would give), "
            "how many values that rests on, the share missing and the share of the wrong type just now, and "
            "how near its detectors are to an alarm. Click a feature to keep only that one.",
            {
                "A": worst(EACH, of("plumbline_feature_psi", WINDOWED)),
                "B": worst(EACH, of("plumbline_feature_js", WINDOWED)),
                "C": worst(EACH, of("plumbline_feature_drift_samples", WINDOWED)),
                "D": MISSING,
                "E": INVALID,
                "F": NEAREST,
            },
            [
                Column(
                    "feature",
                    "Feature",
                    link=link(
                        "plumbline-feature",
                        model_name="${__data.fields.model_name}",
                        model_version="${__data.fields.model_version}",
                        feature="${__data.fields.feature}",
                    ),
                ),
                Column("model_name", "Model"),
                Column("model_version", "Version"),
                Column("Value #A", "PSI", decimals=3, steps=PSI),
                Column("Value #B", "Jensen-Shannon", decimals=3),
                Column("Value #C", "Values", "short"),
                Column("Value #D", "Missing", "percentunit", decimals=1, steps=SHARE_MISSING),
                Column("Value #E", "Wrong type", "percentunit", decimals=1, steps=SHARE_MISSING),
                Column("Value #F", "Nearest to an alarm", decimals=2, steps=RATIO),
            ],
            worst_by=["PSI", "Missing"],
            height=10,
        )
    ]


def _drift() -> list[Panel]:
    def divergence(name: str) -> Query:
        return Query(worst(EACH, of(f"plumbline_feature_{name}", WINDOWED)), LEGEND)

    detector = (*FEATURE, 'detector="histogram_drift"')
    return [
        course(
            "Population stability index",
            "Distance of the window's distribution from the reference data's, less what chance alone would "
            "give. Rule of thumb: below 0.1 stable, above 0.25 another population.",
            divergence("psi"),
            unit="none",
            low=0,
            steps=((None, "green"), (0.1, "orange"), (0.25, "red")),
        ),
        course(
            "What the drift detector sees",
            "Kullback-Leibler divergence since the detector last started counting, in nats, with the lower "
            "end of its interval (dashed). It alarms on the evidence that more than the tolerated "
            "divergence is there, which may come before the interval shows it.",
            Query(worst(EACH, of("plumbline_detector_value", detector)), LEGEND),
            Query(worst(EACH, of("plumbline_detector_value_low", detector)), f"{LEGEND} at least"),
            unit="none",
            low=0,
            bounds=("B",),
        ),
        course(
            "Jensen-Shannon divergence",
            "Between the window and the reference data: 0 is the same, 1 has nothing in common.",
            divergence("js"),
            unit="none",
            low=0,
            width=8,
        ),
        course(
            "Kullback-Leibler divergence",
            "How much the window would surprise one who expects the reference data, in nats: rises fast "
            "where values come that hardly occurred there.",
            divergence("kl"),
            unit="none",
            low=0,
            width=8,
        ),
        course(
            "Nearest to an alarm",
            "The highest evidence over threshold of the feature's detectors. At 1 an alarm is raised.",
            Query(NEAREST, LEGEND),
            unit="none",
            low=0,
            high=1.2,
            steps=((None, "green"), (1, "red")),
            width=8,
        ),
    ]


def _damage() -> list[Panel]:
    return [
        course(
            "Share missing",
            "Of the values that came per second, the share that is missing. A feed that is down shows here "
            "first.",
            Query(MISSING, LEGEND),
            unit="percentunit",
            low=0,
            width=8,
        ),
        course(
            "Share of the wrong type",
            "Of the values that came per second, the share that could not be read as the feature's type.",
            Query(INVALID, LEGEND),
            unit="percentunit",
            low=0,
            width=8,
        ),
        course(
            "Values per second",
            "Values that came, the missing ones included.",
            Query(VALUES, LEGEND),
            unit="ops",
            low=0,
            width=8,
        ),
    ]


def _segments() -> list[Panel]:
    def metric(title: str, says: str, name: str, unit: str = "percentunit", width: int = 12) -> Panel:
        return course(
            title, says, Query(worst(GROUP, of(name, GROUPS)), LEGEND_GROUP), unit=unit, width=width
        )

    return [
        metric(
            "Predictions by segment",
            "Predictions in the window of groups: who the model decides about, and which group is too small "
            "to judge.",
            "plumbline_window_predictions",
            "short",
        ),
        metric(
            "Accuracy by segment",
            "Share of right predictions of each segment, among those whose label has come.",
            "plumbline_accuracy",
        ),
        metric(
            "Positive predictions by segment",
            "Share of each segment's predictions that are positive.",
            "plumbline_selection_rate",
        ),
        metric(
            "Labels by segment",
            "Share of each segment's predictions that have their label. Labels that come for some groups "
            "only make every comparison above one-sided.",
            "plumbline_label_coverage",
        ),
    ]
