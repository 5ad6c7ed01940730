"""The demo's script: what happens to the simulated model, when, and what Plumbline must say about it.

The simulator takes the times from here, the terminal the words, the README its table and the test the alarms,
so that none can tell another story than the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MODEL = "credit-risk"
START_MS = 1_767_571_200_000
"""2026-01-05T00:00Z, a Monday; the story's clock starts at 00:00."""
MINUTE_MS = 60_000


def at(hours: int, minutes: int = 0) -> int:
    """A moment of the story, in minutes."""
    return 60 * hours + minutes


def clock(minutes: float) -> str:
    """How a moment of the story is written: hours and minutes since its start."""
    return f"{int(minutes) // 60:02d}:{int(minutes) % 60:02d}"


@dataclass(frozen=True, slots=True)
class Expected:
    """One alarm that an incident must raise, named as its series is labelled."""

    severity: Literal["page", "ticket"]
    detector: str
    feature: str = ""
    segment: str = ""
    metric: str = ""

    @property
    def series(self) -> str:
        """The series on /metrics that is 1 while this alarm is active."""
        labels = {
            "detector": self.detector,
            "feature": self.feature,
            "segment": self.segment,
            "metric": self.metric,
        }
        shown = ",".join(f'{name}="{value}"' for name, value in labels.items() if value)
        return f"plumbline_alarm_active{{{shown}}}"


@dataclass(frozen=True, slots=True)
class Incident:
    """One row of the story: [start, end) of the cause, in minutes, and by when all of it is seen."""

    name: str
    title: str
    what: str
    start: int
    end: int
    seen_by: int
    """Its alarms and its request come in [start, seen_by)."""
    alarms: tuple[Expected, ...] = ()
    request: str = ""
    """Reason of the retraining request that must be sent; empty: none."""
    resolved_by: int | None = None
    """By when the last of its alarms is resolved; None: it has none."""


STORY: tuple[Incident, ...] = (
    Incident(
        "quiet",
        "Quiet",
        "The model does what it did on its reference data.",
        start=at(0),
        end=at(1, 30),
        seen_by=at(1, 30),
    ),
    Incident(
        "harmless",
        "Harmless drift",
        "A campaign brings applicants by the mobile channel; the model is right as often as before.",
        start=at(1, 30),
        end=at(3, 30),
        seen_by=at(3, 30),
        alarms=(Expected("ticket", "histogram_drift", feature="channel"),),
        resolved_by=at(4, 30),
    ),
    Incident(
        "harmful",
        "Harmful drift",
        "debt_ratio comes from the household's file: it shifts, and the model decides wrongly on it.",
        start=at(5),
        end=at(8),
        seen_by=at(8),
        alarms=(
            Expected("ticket", "histogram_drift", feature="debt_ratio"),
            Expected("ticket", "histogram_drift", feature="score"),
            Expected("page", "rate_drop", metric="accuracy"),
        ),
        request="drift_confirmed",
        resolved_by=at(11),
    ),
    Incident(
        "silent",
        "Silent failure",
        "The bureau's feed is down: bureau_score goes missing and the model answers on, sure of nothing.",
        start=at(11, 30),
        end=at(13),
        seen_by=at(13),
        alarms=(
            Expected("page", "missing_surge", feature="bureau_score"),
            Expected("page", "confidence_collapse"),
            Expected("ticket", "histogram_drift", feature="score"),
        ),
        resolved_by=at(14),
    ),
    Incident(
        "unfair",
        "Fairness break",
        "A new rule flags women from a score of 0.25 on instead of 0.5; accuracy stays within its tolerance.",
        start=at(14),
        end=at(18),
        seen_by=at(18),
        alarms=(
            Expected("page", "group_ratio", segment="sex=female", metric="false_positive_rate"),
            Expected("page", "group_ratio", segment="sex=female", metric="selection_rate"),
        ),
        resolved_by=at(20),
    ),
    Incident(
        "request",
        "Retraining request",
        "A constraint is broken: a new version is asked for, with the evidence attached.",
        start=at(14),
        end=at(18),
        seen_by=at(18),
        request="constraint_broken",
    ),
    Incident(
        "healed",
        "New version",
        "Version 2 takes over with one rule for all: it heals what was broken, every alarm is resolved, and "
        "a verdict says whether the retraining paid.",
        start=at(18),
        end=at(22),
        seen_by=at(20),
    ),
)
BY_NAME = {incident.name: incident for incident in STORY}
END = STORY[-1].end


def table() -> str:
    """The story as a Markdown table."""
    lines = [
        "| When | Incident | What happens | Series on /metrics | Page, ticket, trigger |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in STORY:
        cells = [f"{clock(row.start)} to {clock(row.end)}", row.title, row.what, *_consequences(row)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _consequences(row: Incident) -> tuple[str, str]:
    series = list(dict.fromkeys(f"`{alarm.series}` 1" for alarm in row.alarms))
    answers = []
    for severity in ("page", "ticket"):
        named = [
            alarm.metric or alarm.feature or alarm.detector
            for alarm in row.alarms
            if alarm.severity == severity
        ]
        if named:
            answers.append(f"{severity}: {', '.join(named)}")
    if row.request:
        series.append("`plumbline_retraining_last_request_timestamp_seconds` set")
        answers.append(f"trigger: retraining request, `{row.request}`")
    if row.resolved_by is not None:
        answers.append(f"resolved by {clock(row.resolved_by)}")
    if row.name == "healed":
        series.append('`plumbline_version_first_seen_timestamp_seconds{model_version="2"}` appears')
        answers.append(f"none; by {clock(row.seen_by)} all are resolved")
    if row.name in {"quiet", "healed"}:
        series.append("no `plumbline_alarm_active` is 1")
    return "<br>".join(series), "<br>".join(answers or ["none"])
