"""The vocabulary that travels between the stages: what a record is before and after decoding.

Positions mean "next to read" everywhere. Times are integer milliseconds since the epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

Int64s = NDArray[np.int64]
Headers = Sequence[tuple[str, bytes]]

NO_TIME = -(2**63)
"""An append time or a clock that is not known."""


class Partition(NamedTuple):
    """One ordered log: a Kafka topic-partition, or a file (its path, 0)."""

    topic: str
    partition: int


class Mark(NamedTuple):
    """How far the durable state is in a partition, and where whoever has lost it begins again."""

    next: int
    safe: int
    """The lowest offset of an open hour: read from here, every hour from `open_ms` on is counted whole."""
    open_ms: int = NO_TIME
    config: str = ""
    """The digest of the config in force."""


class Kind(StrEnum):
    """What a record claims to be."""

    PREDICTION = "prediction"
    FEEDBACK = "feedback"


class Reason(StrEnum):
    """Why a record was dead-lettered: bounded, so that it can be a metric label."""

    NULL_VALUE = "null_value"
    TOO_LARGE = "too_large"
    MALFORMED_JSON = "malformed_json"
    NOT_AN_OBJECT = "not_an_object"
    WRONG_TYPE = "wrong_type"
    UNEXPECTED_EVENT_TYPE = "unexpected_event_type"
    MISSING_PREDICTION_ID = "missing_prediction_id"
    MISSING_MODEL_NAME = "missing_model_name"
    MISSING_TIMESTAMP = "missing_timestamp"
    BAD_TIMESTAMP = "bad_timestamp"
    FUTURE_TIMESTAMP = "future_timestamp"
    MISSING_PREDICTION = "missing_prediction"
    MISSING_LABEL = "missing_label"
    BAD_SCORE = "bad_score"
    UNKNOWN_CLASS = "unknown_class"
    BAD_NUMBER = "bad_number"
    POISON_BATCH = "poison_batch"
    NOT_RETAINED = "not_retained"
    STATE_LOST = "state_lost"


@dataclass(frozen=True, slots=True)
class RawBatch:
    """Undecoded records of one partition in offset order, as parallel sequences.

    Either `values` holds the record values as bytes (Kafka, JSON lines), or `frame` holds them as columns
    already (Parquet, CSV). `next_position` is where reading goes on after this batch; it can lie past the
    last offset + 1 (compaction, transaction markers).
    """

    partition: Partition
    offsets: Int64s
    append_ms: Int64s
    """Broker append time of each record, or NO_TIME."""
    next_position: int
    values: Sequence[bytes | None] = ()
    keys: Sequence[bytes | None] | None = None
    headers: Sequence[Headers] | None = None
    """None when no record of the batch has headers."""
    frame: pl.DataFrame | None = None
    floor_ms: int = NO_TIME
    """Predictions of an earlier time no longer count: the state that counted their fellows is lost."""

    def __len__(self) -> int:
        return len(self.offsets)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that could not be used, to be dead-lettered; `last_offset` closes a skipped range."""

    partition: Partition
    offset: int
    reason: Reason
    value: bytes | None
    last_offset: int | None = None


@dataclass(frozen=True, slots=True)
class Decoded:
    """One batch as columns: what could be read, by kind, and what could not.

    Both frames are in offset order and have exactly the columns of PREDICTION_COLUMNS / FEEDBACK_COLUMNS;
    offsets of `predictions`, `feedback` (unless `labelled`) and `rejected` are those of the batch, each once.
    """

    partition: Partition
    predictions: pl.DataFrame
    feedback: pl.DataFrame
    rejected: Sequence[Rejected] = field(default=())
    next_position: int = 0
    labelled: bool = False
    """The feedback is of the predictions' own records, which count once."""


PREDICTION_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "offset": pl.Int64,
    "prediction_id": pl.String,
    "timestamp_ms": pl.Int64,
    "model_name": pl.String,
    "model_version": pl.String,  # never null: "unknown" where the event names none
    "prediction": pl.String,  # null when the event carries only a score or an error
    "prediction_score": pl.Float64,  # finite or null
    "prediction_probabilities": pl.Struct,  # of Float64, one field per class any configured model knows
    "features": pl.Struct,  # of String, one field per feature any configured model knows; null is missing
    "tags": pl.Struct,  # of String, one field per segment attribute any configured model knows
    "latency_seconds": pl.Float64,
    "error": pl.String,  # not null: the inference failed
}

FEEDBACK_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "offset": pl.Int64,
    "prediction_id": pl.String,
    "timestamp_ms": pl.Int64,
    "model_name": pl.String,  # null: the feedback labels every model that has this id
    "label": pl.String,  # null retracts
    "revision": pl.Int64,  # 0 where the event has none
}
