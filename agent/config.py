"""The configuration: one YAML file, validated whole, unknown keys refused, every default stated here.

Environment variables override the file (`PLUMBLINE_KAFKA__BOOTSTRAP_SERVERS=…`); secrets come from the environment
or from files only (`password_file`), never from the YAML itself.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_duration(value: object) -> object:
    """Read "10m", "1h30m", "35d"; anything else is left to pydantic to refuse or accept."""
    if not isinstance(value, str):
        return value
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", value)
    if not parts or "".join(n + u for n, u in parts) != value.replace(" ", ""):
        return value
    return timedelta(seconds=sum(float(n) * _UNITS[u] for n, u in parts))


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]


class Section(BaseModel):
    """A part of the file: unknown keys are refused, values cannot change after the start."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaConfig(Section):
    """How to reach the broker."""

    bootstrap_servers: str = "localhost:9092"
    group_id: str = "plumbline"
    client_id: str = "plumbline"
    start: Literal["earliest", "latest", "fail"] = "earliest"
    """Where to begin on a partition that neither the state nor the group knows."""
    max_poll_records: Annotated[int, Field(gt=0)] = 5000
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    sasl_password_file: Path | None = None
    """A file that holds the password; or set PLUMBLINE_KAFKA_PASSWORD."""
    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None


class SourceConfig(Section):
    """Topics (or, for files, paths) that share one event format."""

    topics: Annotated[list[str], Field(min_length=1)]
    kind: Literal["prediction", "feedback", "auto"] = "auto"
    """auto: told by the CloudEvents type of each record."""
    preset: Literal["native", "flat"] = "native"
    fields: dict[str, str] = {}
    """Mapping expressions by native field; each overrides the preset: `value.id | header.x-id`."""


class DeadLetterConfig(Section):
    """What becomes of records that cannot be used."""

    topic: str | None = "plumbline.dead-letters"
    """null, or a source that is not Kafka: `path` is written instead."""
    path: Path | None = None
    """JSON lines; default dead-letters.jsonl in the state directory."""
    payload: Literal["keep", "hash", "drop"] = "hash"
    """hash by default: a copy of the payload would copy personal data."""


class FairnessConfig(Section):
    """Which group disparities alarm, and how large they must be."""

    metrics: list[Literal["false_positive_rate", "true_positive_rate", "selection_rate"]] = [
        "false_positive_rate",
        "true_positive_rate",
        "selection_rate",
    ]
    tolerance: Annotated[float, Field(gt=1)] = 1.25
    """A ratio within [1/tolerance, tolerance] is accepted; 1.25 is the four-fifths rule."""
    reference: dict[str, str] = {}
    """Reference group by attribute; otherwise each group is compared with everyone else."""


class PerformanceConfig(Section):
    """Which metrics must not fall, and by how much."""

    metrics: list[Literal["accuracy", "precision", "recall", "specificity", "false_positive_rate"]] = ["accuracy"]
    relative_drop: Annotated[float, Field(gt=0, lt=1)] = 0.05
    min_baseline_labels: Annotated[int, Field(gt=0)] = 500
    """A version without a baseline learns its own from its first so many mature labels."""


class DriftConfig(Section):
    """How large a change of distribution is tolerated."""

    epsilon: Annotated[float, Field(gt=0)] = 0.05
    """Tolerated Kullback–Leibler divergence from the baseline in nats; 0.05 is a PSI of about 0.1."""


class SilenceConfig(Section):
    """When quiet, empty or monotonous predictions alarm."""

    tolerated_volume_drop: Annotated[float, Field(gt=0, lt=1)] = 0.5
    tolerated_missing_rise: Annotated[float, Field(gt=0, lt=1)] = 0.05


class RetrainingConfig(Section):
    """When a retraining request is sent."""

    cooldown: Duration = timedelta(hours=24)
    min_labels: Annotated[int, Field(ge=0)] = 500
    """Fewer labels in the last 30 days: the request is suppressed, and the suppression counted."""
    dry_run: bool = False


class BudgetConfig(Section):
    """At most so many false pages (and tickets) per model in a period."""

    pages: Annotated[float, Field(gt=0)] = 1.0
    tickets: Annotated[float, Field(gt=0)] = 1.0
    period: Duration = timedelta(days=30)


class ModelConfig(Section):
    """One model: its task, what is known of its events, and what must hold."""

    task: Literal["binary", "multiclass"] = "binary"
    classes: list[str] | None = None
    """Multiclass: every class, in order. Binary: [negative, positive]; default ["0", "1"]."""
    positive: str | None = None
    """Binary: the label that counts as positive; every other label is negative. Default: the last of `classes`."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """A score at or above it is a positive prediction where the event names no class."""
    segments: list[str] = []
    """Attributes, from `tags` or `features`, by which everything is broken down."""
    intersections: list[Annotated[list[str], Field(min_length=2)]] = []
    features: dict[str, Literal["numeric", "categorical"]] = {}
    """Monitored features; a baseline brings its own."""
    baseline: Path | None = None
    """Written by `plumbline profile`."""
    windows: list[Literal["5m", "1h", "24h", "7d", "30d", "lifetime"]] = ["1h", "24h", "lifetime"]
    step: Duration = timedelta(minutes=5)
    """How often detectors look."""
    allowed_lateness: Duration = timedelta(minutes=10)
    label_horizon: Duration = timedelta(days=30)
    """A label later than this after its prediction no longer counts."""
    label_maturity: Duration = timedelta(days=7)
    """Detectors bet on an hour of predictions once 95 % are labelled, or at this age."""
    min_samples: Annotated[int, Field(gt=0)] = 30
    """A value with a smaller denominator is left out."""
    max_segment_values: Annotated[int, Field(gt=0)] = 50
    max_series: Annotated[int, Field(gt=0)] = 2000
    budget: BudgetConfig = BudgetConfig()
    fairness: FairnessConfig = FairnessConfig()
    performance: PerformanceConfig = PerformanceConfig()
    drift: DriftConfig = DriftConfig()
    silence: SilenceConfig = SilenceConfig()
    retraining: RetrainingConfig = RetrainingConfig()


class StateConfig(Section):
    """Where the agent remembers, and how often it commits."""

    dir: Path = Path("plumbline-state")
    commit_interval: Duration = timedelta(seconds=5)


class HttpConfig(Section):
    """The one port: /metrics, /status, /livez, /readyz."""

    host: str = "0.0.0.0"
    port: Annotated[int, Field(ge=0, le=65535)] = 9464


class Config(Section):
    """The whole file."""

    kafka: KafkaConfig = KafkaConfig()
    sources: Annotated[list[SourceConfig], Field(min_length=1)] = [
        SourceConfig(topics=["predictions"], kind="prediction"),
        SourceConfig(topics=["feedback"], kind="feedback"),
    ]
    models: Annotated[dict[str, ModelConfig], Field(min_length=1)]
    state: StateConfig = StateConfig()
    http: HttpConfig = HttpConfig()
    dead_letters: DeadLetterConfig = DeadLetterConfig()
    retraining_topic: str | None = "plumbline.retraining"
    """null, or a source that is not Kafka: retraining.jsonl in the state directory."""
    on_start_failure: Literal["exit", "wait"] = "wait"
    max_message_bytes: Annotated[int, Field(gt=0)] = 1_048_576
    idle_timeout: Duration = timedelta(seconds=60)
    """A partition that is read to its end for so long no longer holds the clocks back."""
    future_skew: Duration = timedelta(minutes=5)
    """An event dated further ahead of its broker's append time is dead-lettered."""
