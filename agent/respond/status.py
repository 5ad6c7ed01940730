"""The committed view as JSON: everything, also what /metrics leaves out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from agent.respond.view import MonitorKey, View
from detectors import Evidence


def to_json(view: View) -> bytes:
    """/status. No NaN and no infinity: they are null."""
    return json.dumps(status(view), allow_nan=False, separators=(",", ":")).encode()


def status(view: View) -> dict[str, Any]:
    """The view as plain dictionaries and lists."""
    return {
        "agent": {
            "version": view.agent_version,
            "commits": view.commits,
            "committed_at_seconds": view.committed_at_s if view.commits else None,
        },
        "models": {name: plain(model) for name, model in sorted(view.models.items())},
        "counters": [
            {"name": key.name, "labels": dict(key.labels), "value": value}
            for key, value in sorted(view.counters.items())
        ],
        "positions": [
            {"topic": topic, "partition": partition, "next_offset": position}
            for (topic, partition), position in sorted(view.positions.items())
        ],
    }


def plain(value: object) -> Any:  # noqa: ANN401 - whatever JSON can hold
    """Records become objects, Evidence with its ratio and verdict, numbers that are none become null."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, MonitorKey):
        return value._asdict()
    if is_dataclass(value) and not isinstance(value, type):
        record = {f.name: plain(getattr(value, f.name)) for f in fields(value)}
        if isinstance(value, Evidence):
            record |= {"ratio": plain(value.ratio), "verdict": value.verdict.value}
        return record
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [plain(item) for item in value]
    return value
