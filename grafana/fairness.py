"""Are groups of people treated alike?"""

from __future__ import annotations

from typing import Any

from grafana.frame import build_dashboard
from grafana.parts import (
    FOUR_FIFTHS,
    GROUPS,
    NONE_IS_WELL,
    VERSION,
    VERSIONS,
    Column,
    Panel,
    Query,
    Steps,
    by,
    course,
    number,
    of,
    rows,
    states,
    total,
    worst,
)

DETECTOR = (*VERSION, 'segment=~"$segment"', 'detector="group_ratio"')
GROUP = f"{VERSIONS}, segment"
EACH = f"{GROUP}, metric"
ALARM = worst(GROUP, of("plumbline_alarm_active", DETECTOR))
VALUE, LOW, HIGH = (f"plumbline_detector_value{end}" for end in ("", "_low", "_high"))
RATIO = worst(EACH, of(VALUE, DETECTOR))
LINES: Steps = ((None, "green"), (0.8, "red"), (1.25, "red"))


def dashboard() -> dict[str, Any]:
    return build_dashboard(
        "plumbline-fairness",
        "Whether the groups that the config names are treated like their reference group, and how sure that "
        "is.",
        ("model_name", "model_version", "group_window", "segment"),
        (
            ("Red lines", _red_lines()),
            ("Groups side by side", _groups()),
            ("How it came to this", _courses()),
        ),
    )


def _red_lines() -> list[Panel]:
    return [
        number(
            "Groups out of proportion",
            "Groups with an alarm: the evidence is that some rate of theirs, over that of the reference "
            "group, is outside what the config tolerates.",
            total("", ALARM),
            steps=NONE_IS_WELL,
            width=6,
        ),
        number(
            "Lowest ratio",
            "The lowest rate of a group over that of its reference group, as the detector estimates it. The "
            "usual four-fifths rule asks for 0.8; the config decides what alarms.",
            by("min", "", of(VALUE, DETECTOR)),
            steps=FOUR_FIFTHS,
            decimals=2,
            width=6,
        ),
        number(
            "Highest ratio",
            "The highest rate of a group over that of its reference group. 1.25 is the four-fifths rule the "
            "other way round.",
            worst("", of(VALUE, DETECTOR)),
            steps=FOUR_FIFTHS,
            decimals=2,
            width=6,
        ),
        number(
            "Smallest group",
            "Predictions of the smallest group in the window of groups. Small groups are judged late, or "
            "not at all: no alarm is then no proof.",
            by("min", "", of("plumbline_window_predictions", GROUPS)),
            unit="short",
            width=6,
        ),
        rows(
            "Ratios to the reference group",
            "One row per group and rate: the group's rate over the reference group's since the detector "
            "last started counting, and the interval that holds at every look. 1 is alike. Times apart is "
            "the ratio or its inverse, whichever is larger; the largest is on top.",
            {
                "A": RATIO,
                "B": by("min", EACH, of(LOW, DETECTOR)),
                "C": worst(EACH, of(HIGH, DETECTOR)),
                "D": f"{RATIO} >= 1 or 1 / {RATIO}",
            },
            [
                Column("segment", "Group"),
                Column("metric", "Rate"),
                Column("model_name", "Model"),
                Column("model_version", "Version"),
                Column("Value #A", "Ratio", decimals=2, steps=FOUR_FIFTHS),
                Column("Value #B", "At least", decimals=2),
                Column("Value #C", "At most", decimals=2),
                Column("Value #D", "Times apart", decimals=2, steps=((None, "green"), (1.25, "red"))),
            ],
            worst_by=["Times apart"],
            width=14,
        ),
        course(
            "Nearest to an alarm",
            "The fairness detector's evidence over its threshold, by group. At 1 an alarm is raised, and "
            "the counting starts again.",
            Query(
                worst(GROUP, of("plumbline_detector_threshold_ratio", DETECTOR)),
                "{{model_version}}: {{segment}}",
            ),
            unit="none",
            low=0,
            high=1.2,
            steps=((None, "green"), (1, "red")),
            width=10,
        ),
        states(
            "Fairness alarms",
            "One bar per group: red while an alarm is active.",
            Query(ALARM, "{{model_name}} {{model_version}}: {{segment}}"),
            texts={"0": ("well", "green"), "1": ("alarm", "red")},
            none="No group is judged yet",
            height=5,
        ),
    ]


def _groups() -> list[Panel]:
    metrics = {
        "A": ("plumbline_window_predictions", "Predictions", "short"),
        "B": ("plumbline_selection_rate", "Positive", "percentunit"),
        "C": ("plumbline_false_positive_rate", "False positive rate", "percentunit"),
        "D": ("plumbline_false_negative_rate", "False negative rate", "percentunit"),
        "E": ("plumbline_accuracy", "Accuracy", "percentunit"),
        "F": ("plumbline_label_coverage", "Labels that have come", "percentunit"),
    }
    return [
        rows(
            "Groups",
            "One row per group in the window of groups: how many predictions, the share that is positive, "
            "the share of its negatives that were called positive and of its positives that were missed, "
            "and of what share the label is known. The last columns are about labelled predictions only.",
            {ref: worst(GROUP, of(metric, GROUPS)) for ref, (metric, _, _) in metrics.items()},
            [
                Column("segment", "Group"),
                Column("model_name", "Model"),
                Column("model_version", "Version"),
                *(
                    Column(f"Value #{ref}", title, unit, decimals=1 if unit == "percentunit" else 0)
                    for ref, (_, title, unit) in metrics.items()
                ),
            ],
            worst_by=["False positive rate"],
        )
    ]


def _courses() -> list[Panel]:
    legend = "{{model_version}}: {{segment}}"

    def rate_of(title: str, says: str, metric: str) -> Panel:
        return course(title, says, Query(worst(GROUP, of(metric, GROUPS)), legend), unit="percentunit")

    return [
        course(
            "Ratio to the reference group",
            "A group's rate over the reference group's, as the detector estimates it, with its interval "
            "(dashed). The lines at 0.8 and 1.25 are the four-fifths rule; the config decides what alarms.",
            Query(RATIO, f"{legend} {{{{metric}}}}"),
            Query(by("min", EACH, of(LOW, DETECTOR)), f"{legend} {{{{metric}}}} at least"),
            Query(worst(EACH, of(HIGH, DETECTOR)), f"{legend} {{{{metric}}}} at most"),
            unit="none",
            width=24,
            height=9,
            steps=LINES,
            low=0.5,
            high=1.5,
            bounds=("B", "C"),
        ),
        rate_of(
            "Positive predictions",
            "Share of each group's predictions that are positive (demographic parity compares these).",
            "plumbline_selection_rate",
        ),
        rate_of(
            "False positive rate",
            "Share of each group's real negatives that were predicted positive: who is wrongly flagged.",
            "plumbline_false_positive_rate",
        ),
        rate_of(
            "Recall",
            "Share of each group's real positives that were found (equal opportunity compares these).",
            "plumbline_recall",
        ),
        rate_of("Accuracy", "Share of right predictions of each group.", "plumbline_accuracy"),
    ]
