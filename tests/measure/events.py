"""Events as producers write them: JSON bytes, through the real decoder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.config import Config, ModelConfig
from agent.events import NO_TIME, Decoded, Partition, RawBatch
from agent.ingest.decode import Decoder
from agent.ingest.mapping import Schema
from agent.measure.baseline import Baseline
from agent.measure.models import Applied, Models
from agent.store import Store

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
T0 = 1_767_225_600_000
"""2026-01-01T00:00:00Z"""

PREDICTIONS = Partition("predictions", 0)
FEEDBACK = Partition("feedback", 0)

Event = dict[str, Any]


def config_of(folder: Path | None = None, **models: ModelConfig) -> Config:
    """A config of these models with the default topics."""
    return Config.model_validate(
        {"models": models, "state": {"dir": folder or Path("unused")}, "future_skew": "1s"}
    )


def prediction(id_: object, at_ms: int, model: str = "m", **fields: object) -> Event:
    """A native prediction event."""
    return {"prediction_id": str(id_), "timestamp": at_ms, "model_name": model, **fields}


def label(id_: object, at_ms: int, value: object, **fields: object) -> Event:
    """A native feedback event."""
    return {"prediction_id": str(id_), "timestamp": at_ms, "label": value, **fields}


def raw(partition: Partition, events: Sequence[Event | bytes], start: int = 0) -> RawBatch:
    """Events as one poll would bring them."""
    values = [e if isinstance(e, bytes) else json.dumps(e).encode() for e in events]
    n = len(values)
    offsets = np.arange(start, start + n, dtype=np.int64)
    return RawBatch(partition, offsets, np.full(n, NO_TIME, dtype=np.int64), start + n, values)


def decoded(config: Config, partition: Partition, events: Sequence[Event | bytes], start: int = 0) -> Decoded:
    """Events as columns."""
    return Decoder.of(config, Schema.of(config.models)).decode(raw(partition, events, start))


def folded(
    config: Config,
    predictions: Sequence[Event],
    feedback: Sequence[Event] = (),
    *,
    batch: int = 100_000,
    baselines: dict[str, Baseline] | None = None,
) -> Models:
    """Models after all predictions, then all feedback, in batches of a size."""
    models = Models(config.models, baselines or {})
    for partition, events in ((PREDICTIONS, predictions), (FEEDBACK, feedback)):
        for start in range(0, len(events), batch):
            apply(models, config, partition, events[start : start + batch], start)
    return models


def apply(
    models: Models, config: Config, partition: Partition, events: Sequence[Event], start: int = 0
) -> Applied:
    """Fold one batch."""
    return models.apply(decoded(config, partition, events, start))


def cuts(total: int, sizes: Iterable[int]) -> list[tuple[int, int]]:
    """[from, to) of consecutive batches with these sizes; the last takes the rest."""
    found, at = [], 0
    for size in sizes:
        if at < total:
            found.append((at, min(total, at + size)))
            at += size
    if at < total:
        found.append((at, total))
    return found


def store(folder: Path) -> Store:
    """A store in an empty folder."""
    return Store(folder)
