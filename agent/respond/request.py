"""The CloudEvents that ask for retraining, and that say the reason is over: byte-identical on replay."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

from agent.respond.view import AlarmView

REQUESTED = "io.plumbline.retraining.requested.v1"
RESOLVED = "io.plumbline.retraining.resolved.v1"
VERDICT = "io.plumbline.retraining.verdict.v1"

MAX_EVIDENCE = 20
"""Alarms in one request, the strongest first."""

MAX_BYTES = 18_000
"""Of one event as JSON, so that it fits a webhook's 20 kB with what a template lays around it."""

_NAMESPACE = uuid5(NAMESPACE_URL, "io.plumbline.retraining")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 253_402_300_799_999  # the end of the year 9999, the last that RFC 3339 can write

CloudEvent = dict[str, Any]


def event_id(*parts: str | int) -> str:
    """A stable id: the same parts give the same id in every process."""
    return str(uuid5(_NAMESPACE, json.dumps(parts)))


def rfc3339(ms: int) -> str:
    """Milliseconds since the epoch as CloudEvents write a time."""
    at = _EPOCH + timedelta(milliseconds=min(max(ms, 0), _LAST_MS))
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def cloud_event(kind: str, identity: str, episode_id: str, model_name: str, at_ms: int) -> CloudEvent:
    """The envelope, without `data`; `correlationid` ties a resolved event to its request."""
    return {
        "specversion": "1.0",
        "id": identity,
        "source": f"/plumbline/{quote(model_name, safe='')}",
        "type": kind,
        "subject": model_name,
        "time": rfc3339(at_ms),
        "datacontenttype": "application/json",
        "correlationid": episode_id,
        "severitytext": "WARN" if kind == REQUESTED else "INFO",
    }


def encode(event: Mapping[str, Any]) -> bytes:
    """One event as structured JSON: the same event gives the same bytes."""
    return json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(
        "utf-8", "backslashreplace"
    )


def fitted(event: CloudEvent) -> CloudEvent:
    """The event within MAX_BYTES: the weakest evidence goes first, then the offsets, then the impact."""
    data = event["data"]
    while len(encode(event)) > MAX_BYTES and data["evidence"]:
        data["evidence"] = data["evidence"][:-1]
    window = data["data_window"]
    for where, name in ((window, "topics"), (window, "offsets_until"), (data, "impact")):
        if len(encode(event)) > MAX_BYTES or (name == "offsets_until" and "topics" not in window):
            where.pop(name, None)
    return event


def evidence_bundle(alarms: Sequence[AlarmView]) -> list[dict[str, Any]]:
    """What the alarms knew when they were raised, the strongest first."""
    strongest = sorted(alarms, key=lambda alarm: (-finite(alarm.evidence.ratio, 0.0), alarm.key))
    return [_entry(alarm) for alarm in strongest[:MAX_EVIDENCE]]


def impact(alarms: Sequence[AlarmView]) -> dict[str, Any]:
    """Metric (with its slice) → its value when the alarm was raised, and the value it is held against."""
    found: dict[str, Any] = {}
    for alarm in sorted(alarms, key=lambda alarm: alarm.key):
        key, evidence = alarm.key, alarm.evidence
        if evidence.value is None:
            continue
        name = key.metric or key.detector
        found.setdefault(
            f"{name}[{key.segment}]" if key.segment else name,
            {
                "now": number(evidence.value),
                "low": number(evidence.low),
                "high": number(evidence.high),
                "reference": number(evidence.reference),
                "samples": evidence.samples,
            },
        )
    return found


def _entry(alarm: AlarmView) -> dict[str, Any]:
    key, evidence = alarm.key, alarm.evidence
    return {
        "detector": key.detector,
        "feature": key.feature or None,
        "segment": key.segment or None,
        "metric": key.metric or None,
        "severity": alarm.severity.value,
        "first_alarm_at": rfc3339(alarm.raised_ms),
        "statistic": number(evidence.statistic),
        "threshold": number(evidence.threshold),
        "threshold_ratio": number(evidence.ratio),
        "observations": evidence.samples,
        "value": number(evidence.value),
        "low": number(evidence.low),
        "high": number(evidence.high),
        "reference": number(evidence.reference),
        "tolerance": [number(bound) for bound in evidence.tolerance],
        "smallest_change": number(evidence.smallest_change),
        "details": {name: number(value) for name, value in sorted(evidence.details.items())},
    }


def number(value: float | None) -> float | None:
    """JSON has no infinities and no NaN: they are null."""
    return value if value is not None and math.isfinite(value) else None


def finite(value: float, instead: float) -> float:
    """The value, or another in its place where it is not a number."""
    return instead if math.isnan(value) else value
