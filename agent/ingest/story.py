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
    alarms: tuple[Expected, ...] = ()
    """Raised in [start, seen_by), and no other."""
    resolved_by: int | None = None
    """When the last of this row's alarms is resolved, at the latest; None: it stays until the new version."""
    trigger: bool = False
    """A retraining request is sent in [start, seen_by)."""


STORY: tuple[Incident, ...] = (
    Incident(
        "quiet",
        "Quiet",
        "The model does what it did on its reference data.",
        start=at(0),
        end=at(3),
        seen_by=at(3),
    ),
    Incident(
        "harmless",
        "Harmless drift",
        "A campaign brings applicants by the mobile channel; the model is right as often as before.",
        start=at(3),
        end=at(4, 30),
        seen_by=at(4, 30),
        alarms=(Expected("ticket", "drift", feature="channel"),),
        resolved_by=at(7),
    ),
    Incident(
        "silent",
        "Silent failure",
        "The bureau's feed is down: bureau_score goes missing and the model answers on, sure of nothing.",
        start=at(7, 40),
        end=at(8, 20),
        seen_by=at(8, 20),
        alarms=(
            Expected("page", "missing", feature="bureau_score"),
            Expected("page", "confidence"),
            Expected("ticket", "drift", feature="bureau_score"),
            Expected("ticket", "drift", feature="prediction_score"),
        ),
        resolved_by=at(10, 30),
    ),
    Incident(
        "unfair",
        "Fairness break",
        "A new rule flags women from a score of 0.2 on instead of 0.5; accuracy stays within its tolerance.",
        start=at(11),
        end=at(14),
        seen_by=at(15, 30),
        alarms=(
            Expected("page", "fairness", segment="sex=female", metric="false_positive_rate"),
            Expected("page", "fairness", segment="sex=female", metric="selection_rate"),
        ),
        resolved_by=at(21),
    ),
    Incident(
        "harmful",
        "Harmful drift",
        "debt_ratio comes from another person's file: it shifts, and the model decides wrongly on it.",
        start=at(22),
        end=at(27),
        seen_by=at(25, 30),
        alarms=(
            Expected("ticket", "drift", feature="debt_ratio"),
            Expected("ticket", "drift", feature="prediction_score"),
            Expected("page", "performance", metric="accuracy"),
        ),
    ),
    Incident(
        "request",
        "Retraining request",
        "The accuracy that was lost asks for a new version.",
        start=at(22),
        end=at(27),
        seen_by=at(25, 30),
        trigger=True,
    ),
    Incident(
        "healed",
        "New version",
        "Version 2 reads the right file again: it heals what was wrong, and every alarm is resolved.",
        start=at(27),
        end=at(32),
        seen_by=at(30),
    ),
)
BY_NAME = {incident.name: incident for incident in STORY}
END = STORY[-1].end
