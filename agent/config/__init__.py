"""The configuration: one YAML file, validated whole, unknown keys refused, every default stated here.

Environment variables override the file (`PLUMBLINE_KAFKA__BOOTSTRAP_SERVERS=…`); secrets come from the
environment or from files only (`sasl_password_file`), never from the YAML itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema

_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_DURATION = r"(\d+(?:\.\d+)?(?:ms|s|m|h|d|w) ?)+"
_LONGEST = timedelta(days=36_500)


def parse_duration(value: object) -> timedelta:
    """Read "10m", "1h30m", "35d", to the millisecond. A bare number is refused: nobody knows its unit."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or not re.fullmatch(_DURATION, value.strip()):
        raise ValueError("no duration")
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", value)
    milliseconds = round(sum(float(number) * _UNITS[unit] for number, unit in parts))
    if milliseconds > _LONGEST / timedelta(milliseconds=1):
        raise ValueError("too long")
    return timedelta(milliseconds=milliseconds)


def format_duration(value: timedelta) -> str:
    """Write a duration as the config does: the inverse of parse_duration."""
    rest = value // timedelta(milliseconds=1)
    text = ""
    for unit in ("d", "h", "m", "s", "ms"):
        count, rest = divmod(rest, _UNITS[unit])
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def _duration_schema(expected: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^{_DURATION}$", "x-expected": expected})


_AS_TEXT = PlainSerializer(format_duration, return_type=str, when_used="json")
Duration = Annotated[
    timedelta,
    Field(gt=timedelta(0)),
    BeforeValidator(parse_duration),
    _AS_TEXT,
    _duration_schema("a duration above 0 with its unit, such as 30s, 10m, 24h, 35d or 1h30m"),
]
DurationOrZero = Annotated[
    timedelta,
    Field(ge=timedelta(0)),
    BeforeValidator(parse_duration),
    _AS_TEXT,
    _duration_schema("a duration with its unit, such as 0s, 10m, 24h or 35d"),
]


def parse_moment(value: object) -> datetime:
    """Read "2026-01-01" (its beginning) or "2026-01-01T22:00:00Z". Without an offset it is UTC."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value.strip())
    if not isinstance(value, datetime):
        raise ValueError("no time")
    if value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("too far away") from None


_MOMENT = {
    "type": "string",
    "pattern": r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}.*)?$",
    "x-expected": "a date or time, of UTC by default, such as 2026-01-01 or 2026-01-01T22:00:00Z",
}
Moment = Annotated[
    datetime,
    BeforeValidator(parse_moment),
    PlainSerializer(datetime.isoformat, return_type=str, when_used="json"),
    WithJsonSchema(_MOMENT),
]
"""A point of event time."""


def _as_text(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


_NAME_SCHEMA = {"type": ["string", "number", "boolean"], "minLength": 1, "x-expected": "text"}
Name = Annotated[str, BeforeValidator(_as_text), Field(min_length=1), WithJsonSchema(_NAME_SCHEMA)]
"""A class, group, attribute or topic; 0, 1, true and false may be written without quotes."""


class Section(BaseModel):
    """A part of the file: unknown keys are refused, values cannot change after the start."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


_SERVERS = Field(
    pattern=r"^[^\s,/@]+:\d+(\s*,\s*[^\s,/@]+:\d+)*$",
    json_schema_extra={"x-expected": "host:port, several with commas between"},
)


class KafkaConfig(Section):
    """How to reach the broker."""

    bootstrap_servers: Annotated[str, _SERVERS] = "localhost:9092"
    group_id: str = "plumbline"
    client_id: str = "plumbline"
    client: Literal["kafka-python", "confluent-kafka"] = "kafka-python"
    """Who fetches the records; confluent-kafka is faster and needs the extra `fast`."""
    start: Literal["earliest", "latest", "fail"] = "earliest"
    """Where to begin on a partition that neither the state nor the group knows."""
    max_poll_records: Annotated[int, Field(gt=0)] = 5000
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    sasl_password_file: Path | None = None
    """A file that holds the password; or set PLUMBLINE_KAFKA_PASSWORD."""
    ssl_cafile: Path | None = None
    """PEM of the authorities to trust instead of the system's."""
    ssl_certfile: Path | None = None
    """PEM of our own certificate, where the broker asks for one (mTLS); read anew for each connection."""
    ssl_keyfile: Path | None = None
    """PEM of its key, unless ssl_certfile holds both."""
    ssl_key_password_file: Path | None = None
    """A file that holds the key's password; or set PLUMBLINE_KAFKA_KEY_PASSWORD."""


class SourceConfig(Section):
    """Topics (or, for files, paths) that share one event format."""

    topics: Annotated[list[Name], Field(min_length=1)]
    kind: Literal["prediction", "feedback", "labelled", "auto"] = "auto"
    """auto: told by the CloudEvents type of each record. labelled: predictions carry their own labels."""
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
    max_consecutive: Annotated[int, Field(gt=0)] | None = 10_000
    """After so many of a topic in a row the agent stops with exit code 3; null: it diverts them all."""
    max_ratio: Annotated[float, Field(gt=0, le=1)] | None = 0.9
    """The same for a larger share of 10,000 records of a topic."""


class FairnessConfig(Section):
    """Which group disparities alarm, and how large they must be."""

    metrics: list[Literal["false_positive_rate", "true_positive_rate", "selection_rate", "precision"]] = [
        "false_positive_rate",
        "true_positive_rate",
        "selection_rate",
    ]
    tolerance: Annotated[float, Field(gt=1)] = 1.25
    """A ratio within [1/tolerance, tolerance] is accepted; 1.25 is the four-fifths rule."""
    reference: dict[str, Name] = {}
    """Reference group by attribute; otherwise each group is compared with everyone else."""


class PerformanceConfig(Section):
    """Which metrics must not fall, and by how much."""

    metrics: list[Literal["accuracy", "precision", "recall", "specificity", "false_positive_rate"]] = [
        "accuracy"
    ]
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
    tolerated_volume_surge: Annotated[float, Field(gt=0)] = 2.0
    """Events on top of the expected, as a share of them: 2 is three times as many."""
    tolerated_error_rise: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Of the share of errors, as the other rises: two points above the baseline's."""
    tolerated_missing_rise: Annotated[float, Field(gt=0, lt=1)] = 0.05
    tolerated_invalid_rise: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Of values of the wrong type."""
    tolerated_unseen_rise: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Of categories the baseline has not."""
    tolerated_certain_rise: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Of predictions as sure as only the baseline's surest 5 % were."""
    tolerated_slow_rise: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Of answers as slow as only the baseline's slowest 5 % were."""


class RetrainingConfig(Section):
    """When a retraining request is sent."""

    cooldown: DurationOrZero = timedelta(hours=24)
    min_labels: Annotated[int, Field(ge=0)] = 500
    """Fewer labels in the last 30 days: the request is suppressed, and the suppression counted."""
    auc_drop: Annotated[float, Field(gt=0, lt=1)] | None = 0.05
    """Ask when ROC AUC has fallen by more than this share since launch; null: never for that reason."""
    false_positive_cap: Annotated[float, Field(gt=1)] | None = 1.5
    """Ask when the false positive rate is above so many times the baseline's; null: never for that reason."""
    max_age: Duration | None = None
    """Ask when the version that serves is older; null: age alone asks for nothing."""
    max_requests: Annotated[int, Field(gt=0)] = 4
    """At most so many requests per `period`, whatever happens."""
    period: Duration = timedelta(days=30)
    verdict_within: Duration = timedelta(days=30)
    """How long a new version's labels are waited for to say whether the retraining paid."""
    dry_run: bool = False


_URL = Field(
    pattern=r"^https?://[^\s/@?#]+(/[^\s@#]*)?$",
    json_schema_extra={"x-expected": "an https:// address without user, password and fragment"},
)
Template = Literal["generic", "airflow", "argo", "prefect", "github"]
EventName = Literal["requested", "resolved", "verdict"]


class WebhookConfig(Section):
    """An HTTP endpoint that gets retraining events, beside the topic."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """Of metrics, logs and deliveries under way: small letters, digits, hyphens."""
    url: Annotated[str, _URL]
    """http:// only together with allow_private."""
    preset: Template = "generic"
    """The body: generic is the CloudEvent itself; the others are what that system's own API takes."""
    events: list[EventName] | None = None
    """Default: all with generic and argo; requested alone with the others, where each event starts a run."""
    models: list[Name] = []
    """Only events of these models; default: of all."""
    secret_files: list[Path] = []
    """Files with a signing secret each (whsec_…): every one signs, so that secrets can be rotated."""
    secret_env: str | None = None
    """Or an environment variable that holds secrets, with spaces between."""
    header_files: dict[str, Path] = {}
    """Header → file that holds its value: {Authorization: /run/secrets/airflow}."""
    ca_file: Path | None = None
    """Certificates to trust instead of the system's."""
    allow_private: bool = False
    """Private and loopback addresses are refused, and http:// with them, unless this is true."""
    timeout: Duration = timedelta(seconds=15)
    give_up_after: Duration = timedelta(days=3)
    """An event that was not taken for so long is given up, and counted."""


class BudgetConfig(Section):
    """At most so many false pages (and tickets) per model in a period."""

    pages: Annotated[float, Field(gt=0)] = 1.0
    tickets: Annotated[float, Field(gt=0)] = 1.0
    period: Duration = timedelta(days=30)


Rate = Literal[
    "accuracy",
    "precision",
    "recall",
    "true_positive_rate",
    "specificity",
    "false_positive_rate",
    "false_negative_rate",
]
"""A share of labelled predictions, of which exact intervals are known."""
Disparity = Literal[
    "false_positive_rate_ratio", "true_positive_rate_ratio", "selection_rate_ratio", "precision_ratio"
]
Share = Annotated[float, Field(ge=0, le=1)]


class Dated(Section):
    """A section with a `from`, which Python has as a word of its own."""

    model_config = ConfigDict(serialize_by_alias=True)


class BarConfig(Dated):
    """A bar from a day on."""

    begin: Moment = Field(alias="from")
    max: Share | None = None
    min: Share | None = None


class ConstraintConfig(Section):
    """A red line: pages when the window's value lies beyond the bar with its whole confidence interval."""

    metric: Literal[Rate, "error_rate", "selection_rate", Disparity]
    """A ratio between groups needs no bar: it is broken while its fairness alarm is latched."""
    max: Share | None = None
    min: Share | None = None
    bars: list[BarConfig] = []
    """Instead of max or min: bars that tighten from day to day, the earliest first."""
    segment: Name | None = None
    """One group, attribute=value; default: everybody, and for a ratio each group."""
    window: Literal["1h", "24h", "7d"] = "24h"
    """Of event time, back from the newest closed step (or, with labels, matured hour)."""


class RolesConfig(Section):
    """What a metric is for. A ratio between groups is METRIC_ratio; a detector without metric, its name."""

    constraints: list[ConstraintConfig] = []
    """In the order that was decided beforehand: when several break, the first of them pages."""
    objectives: Annotated[list[Name], Field(max_length=5)] = []
    """The vital few. Their alarms wait while a constraint is broken."""
    diagnostics: list[Name] = []
    """These never page: their pages become tickets."""


class PairConfig(Section):
    """A ticket when a metric gets better while its guard gets worse: that is how a metric is gamed."""

    metric: Rate
    guard: Rate
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Both must have left their reference by more than this share of it."""
    window: Literal["1h", "24h", "7d"] = "24h"


class ExperimentConfig(Section):
    """Variants against their control: lift, interval and verdict, looked at as often as one likes."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    """Of metrics and /status: small letters, digits, hyphens."""
    attribute: Name = "variant"
    """Which of `segments` says the arm of an event."""
    control: Name
    variants: list[Name] = []
    """Default: all other arms that are seen."""
    metrics: Annotated[list[Name], Field(min_length=1)]
    """What the variant is to improve; where no direction is known, higher is better."""
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Differences within it, either way, are as good as none."""
    guardrails: dict[Name, Annotated[float, Field(ge=0, lt=1)]] = {}
    """Metric → how much worse it may get. No variant is better while it broke one."""
    shares: dict[Name, Annotated[float, Field(gt=0, lt=1)]] = {}
    """Arm → planned share of the units; if they are not shared out so, no verdict is to be trusted."""
    predictions_per_unit: Annotated[float, Field(ge=1)] = 1
    """Where users are assigned, and each is predicted for many times: how often. Counts are divided by it."""


class LifeConfig(Section):
    """Who answers for a metric, and until when."""

    owner: str | None = None
    review: Moment | None = None
    """From then on /status says that the metric is due for review."""
    retire: Moment | None = None
    """From then on the metric is not exposed and does not alarm."""


class MaintenanceConfig(Dated):
    """A stretch of event time in which everything is counted, nothing learned and nobody called."""

    begin: Moment = Field(alias="from")
    to: Moment
    reason: str = ""


class BackfillConfig(Section):
    """History that is read for the first time: counted and learned from, but nobody is called."""

    until: Moment | None = None
    """Event time; null: there is none."""


def _default_maturity(model: dict[str, Any]) -> timedelta:
    horizon: timedelta = model.get("label_horizon", timedelta(days=7))
    return min(timedelta(days=7), horizon)


class ModelConfig(Section):
    """One model: its task, what is known of its events, and what must hold."""

    task: Literal["binary", "multiclass"] = "binary"
    classes: list[Name] | None = None
    """Multiclass: every class, in order. Binary: [negative, positive]; default ["0", "1"]."""
    positive: Name | None = None
    """Binary: the label that counts as positive; every other label is negative.
    Default: the last of `classes`."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """A score at or above it is a positive prediction where the event names no class."""
    segments: list[Name] = []
    """Attributes, from `tags` or `features`, by which everything is broken down."""
    intersections: list[Annotated[list[Name], Field(min_length=2)]] = []
    features: dict[str, Literal["numeric", "categorical"]] = {}
    """Monitored features; a baseline brings its own."""
    baseline: Path | None = None
    """Written by `plumbline profile`."""
    windows: Annotated[list[Literal["5m", "1h", "24h", "7d", "30d", "lifetime"]], Field(min_length=1)] = [
        "1h",
        "24h",
        "lifetime",
    ]
    step: Duration = timedelta(minutes=5)
    """How often detectors look."""
    allowed_lateness: DurationOrZero = timedelta(minutes=10)
    label_horizon: Duration = timedelta(days=30)
    """A label later than this after its prediction no longer counts."""
    label_maturity: Duration = Field(default_factory=_default_maturity)
    """Detectors bet on an hour of predictions once 95 % are labelled, or at this age.
    Default: 7d, or label_horizon where that is shorter."""
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
    roles: RolesConfig = RolesConfig()
    pairs: list[PairConfig] = []
    experiments: list[ExperimentConfig] = []
    life: dict[Name, LifeConfig] = {}
    """By metric."""
    maintenance: list[MaintenanceConfig] = []
    backfill: BackfillConfig = BackfillConfig()


class StateConfig(Section):
    """Where the agent remembers, and how often it commits."""

    dir: Path = Path("plumbline-state")
    max_megabytes: Annotated[int, Field(gt=0)] = 10_240
    """The file's bound. Beyond it nothing new is read, and `plumbline_state_writable` is 0."""
    commit_interval: Duration = timedelta(seconds=5)


class HttpConfig(Section):
    """The one port: /metrics, /status, /livez, /readyz."""

    host: str = "0.0.0.0"
    port: Annotated[int, Field(ge=0, le=65535)] = 9464
    reload_token_file: Path | None = None
    """A file with the bearer token of `POST /-/reload`; without it there is no such call."""
    tls_cert_file: Path | None = None
    """PEM of the certificate to serve with: from then on https:// only, the probes included."""
    tls_key_file: Path | None = None
    """PEM of its key, unless tls_cert_file holds both."""
    read_token_file: Path | None = None
    """A file with a bearer token, without which nobody reads /, /metrics and /status; probes stay open."""
    read_username: str | None = None
    """Or a user (browsers ask for one), whose password is in read_password_file; either opens."""
    read_password_file: Path | None = None


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
    webhooks: Annotated[list[WebhookConfig], Field(max_length=8)] = []
    """Where retraining events go besides the topic."""
    on_start_failure: Literal["exit", "wait"] = "wait"
    max_message_bytes: Annotated[int, Field(gt=0)] = 1_048_576
    idle_timeout: Duration = timedelta(seconds=60)
    """A partition that is read to its end for so long no longer holds the clocks back."""
    future_skew: DurationOrZero = timedelta(minutes=5)
    """An event dated further ahead of its broker's append time is dead-lettered."""

    def digest(self) -> str:
        """SHA-256 of every value in force, defaults and environment included."""
        values = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(values.encode()).hexdigest()


class _Schema(GenerateJsonSchema):
    """Writes defaults as the file would: durations as "10m"."""

    def encode_default(self, dft: Any) -> Any:  # noqa: ANN401 - pydantic's signature
        return format_duration(dft) if isinstance(dft, timedelta) else super().encode_default(dft)


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema of the file."""
    return Config.model_json_schema(schema_generator=_Schema)


def load(path: Path, environ: Mapping[str, str], *, need_baselines: bool = True) -> Config:
    """Read a config file, lay the environment over it, and check all that can be checked without a broker.

    Raises one ConfigError that tells all mistakes. Relative paths start at the folder of the file.
    `need_baselines=False` is for who is about to make them.
    """
    from agent.config.check import checked
    from agent.config.file import read

    return checked(read(path, environ), path.absolute().parent, need_baselines=need_baselines)
