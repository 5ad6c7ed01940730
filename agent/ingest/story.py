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
        end=at(2),
        seen_by=at(2),
    ),
    Incident(
        "harmless",
        "Harmless drift",
        "A campaign brings applicants by the mobile channel; the model is right as often as before.",
        start=at(2),
        end=at(3),
        seen_by=at(3),
        alarms=(Expected("ticket", "histogram_drift", feature="channel"),),
        resolved_by=at(4),
    ),
    Incident(
        "harmful",
        "Harmful drift",
        "debt_ratio comes from another person's file: it shifts, and the model decides wrongly on it.",
        start=at(4),
        end=at(7),
        seen_by=at(7),
        alarms=(
            Expected("ticket", "histogram_drift", feature="debt_ratio"),
            Expected("ticket", "histogram_drift", feature="prediction_score"),
            Expected("page", "rate_drop", metric="accuracy"),
        ),
        request="drift_confirmed",
        resolved_by=at(10, 30),
    ),
    Incident(
        "silent",
        "Silent failure",
        "The bureau's feed is down: bureau_score goes missing and the model answers on, sure of nothing.",
        start=at(10, 40),
        end=at(11, 20),
        seen_by=at(11, 20),
        alarms=(
            Expected("page", "missing_surge", feature="bureau_score"),
            Expected("page", "confidence_collapse"),
            Expected("ticket", "histogram_drift", feature="bureau_score"),
            Expected("ticket", "histogram_drift", feature="prediction_score"),
        ),
        resolved_by=at(12, 30),
    ),
    Incident(
        "unfair",
        "Fairness break",
        "A new rule flags women from a score of 0.2 on instead of 0.5; accuracy stays within its tolerance.",
        start=at(13),
        end=at(17),
        seen_by=at(16),
        alarms=(
            Expected("page", "group_ratio", segment="sex=female", metric="false_positive_rate"),
            Expected("page", "group_ratio", segment="sex=female", metric="selection_rate"),
        ),
        resolved_by=at(18),
    ),
    Incident(
        "request",
        "Retraining request",
        "A constraint is broken: a new version is asked for, with the evidence attached.",
        start=at(13),
        end=at(17),
        seen_by=at(16),
        request="constraint_broken",
    ),
    Incident(
        "healed",
        "New version",
        "Version 2 takes over with one rule for all: it heals what was broken, and every alarm is resolved.",
        start=at(17),
        end=at(21),
        seen_by=at(18),
    ),
)
BY_NAME = {incident.name: incident for incident in STORY}
END = STORY[-1].end
