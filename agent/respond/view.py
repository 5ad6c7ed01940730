"""The last committed state, as everything outside sees it: immutable, built once per commit, swapped whole.

/metrics, /status, the terminal and the backtest report read a View and nothing else: what is published
is always what is committed, and a scrape never waits for the processing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from detectors import Evidence

OVERALL = ""
"""The slice of all events."""


class MonitorKey(NamedTuple):
    """Which question a detector answers; `feature` and `segment` are "" where they do not apply."""

    model_name: str
    model_version: str
    detector: str
    feature: str = ""
    segment: str = ""
    """A slice, "attribute=value"."""
    metric: str = ""
    """The metric whose rate is watched (accuracy, …), "" where the detector implies it."""


class Severity(StrEnum):
    """What an alarm asks for."""

    PAGE = "page"
    TICKET = "ticket"


@dataclass(frozen=True, slots=True)
class MetricValue:
    """A metric and its own denominator. What is undefined, or has too few samples, is simply not there."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Drift:
    """Bias-corrected divergences of one feature (or score, prediction) from the baseline in one window."""

    psi: float
    kl: float
    js: float
    n: int
    ks: float | None = None
    wasserstein: float | None = None
    chi_square: float | None = None
    psi_before: float | None = None
    """Against the window before."""
    psi_last_week: float | None = None
    """Against the same window a week ago."""


@dataclass(frozen=True, slots=True)
class MonitorView:
    """What one detector says now."""

    key: MonitorKey
    family: str
    severity: Severity
    evidence: Evidence
    active: bool
    """The latched alarm."""


class AlarmState(StrEnum):
    """Where an alarm is in its life."""

    PENDING = "pending"
    """Its detector fired, but a reason holds it back: nobody is called."""
    FIRING = "firing"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Related:
    """Another alarm that belongs to one."""

    key: MonitorKey
    relation: str
    """suspect: drift that may be the cause. also_broken: a red line behind the one that pages."""
    ratio: float
    """Its statistic over its threshold when it was raised."""


@dataclass(frozen=True, slots=True)
class AlarmView:
    """One alarm from raised to resolved."""

    key: MonitorKey
    severity: Severity
    raised_ms: int
    resolved_ms: int | None
    evidence: Evidence
    """As it was when the alarm was raised."""
    reason: str
    related: Sequence[Related] = ()
    """The strongest suspects first; red lines in the order that was decided for them."""


@dataclass(frozen=True, slots=True)
class AuditView:
    """One line of the alarms' log: a change of state, when and why."""

    at_ms: int
    key: MonitorKey
    severity: Severity
    state: AlarmState
    reason: str


@dataclass(frozen=True, slots=True)
class MetricLife:
    """What a metric is for, who answers for it, and until when. Times that are not configured are None."""

    role: str | None
    owner: str | None
    review_ms: int | None
    retire_ms: int | None
    review_due: bool
    retired: bool


@dataclass(frozen=True, slots=True)
class ConstraintView:
    """A red line of one version, as last judged; in the order that was decided for them."""

    key: MonitorKey
    order: int
    """From 1."""
    minimum: float | None
    maximum: float | None
    """The bar in force; both are None before the first of dated bars."""
    window: str
    evidence: Evidence
    broken: bool


@dataclass(frozen=True, slots=True)
class LiftView:
    """One metric of a variant against its control, from all their events so far."""

    metric: str
    variant: str
    role: str
    """objective or guardrail."""
    verdict: str
    control_value: float
    control_n: int
    variant_value: float
    variant_n: int
    difference: float
    """Variant minus control; `low` and `high` hold at all looks at once."""
    low: float
    high: float
    method: str
    """exact or asymptotic."""


@dataclass(frozen=True, slots=True)
class ExperimentView:
    """One experiment."""

    name: str
    attribute: str
    control: str
    counts: Mapping[str, int]
    """Predictions by arm."""
    shares: Mapping[str, float]
    """The plan."""
    mismatched: bool | None
    """Units were not shared out as planned; None without a plan."""
    lifts: Sequence[LiftView]


@dataclass(frozen=True, slots=True)
class WindowView:
    """One window: metrics by slice, drift by feature."""

    start_ms: int
    end_ms: int
    metrics: Mapping[str, Mapping[str, MetricValue]]
    """slice → metric id → value."""
    counts: Mapping[str, int]
    """slice → predictions."""
    drift: Mapping[str, Drift] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VersionView:
    """One version of a model."""

    version: str
    first_seen_ms: int
    last_seen_ms: int
    learning: bool
    """Its own score and performance baselines are still being learned."""
    windows: Mapping[str, WindowView]
    """By window name: "1h", "24h", "lifetime", …"""
    missing: Mapping[str, int] = field(default_factory=dict)
    """Feature → values missing, lifetime."""
    invalid: Mapping[str, int] = field(default_factory=dict)
    """Feature → values of the wrong type, lifetime."""
    values: Mapping[str, int] = field(default_factory=dict)
    """Feature → values seen (missing and invalid included), lifetime."""
    latency: Sequence[tuple[float, int]] = ()
    """Cumulative latency histogram, lifetime: (upper bound in seconds, events at or below), +inf last."""
    latency_sum: float = 0.0
    launch: Mapping[str, MetricValue] = field(default_factory=dict)
    """What the baseline, or the version's own first labels, say of each metric."""


@dataclass(frozen=True, slots=True)
class ChangeView:
    """One metric of the newest version against the version before, over the lifetime of both."""

    metric: str
    version: str
    previous: str
    value: MetricValue
    previous_value: MetricValue
    difference: float
    low: float | None
    high: float | None
    """An interval that holds at all looks at once, where the metric is a rate."""
    better: bool | None
    """Surely better or worse; None where nobody can tell."""
    allowed: bool | None
    """What the red line on it says; None where there is none."""


@dataclass(frozen=True, slots=True)
class StalenessView:
    """How old the newest version is, in event time."""

    version: str
    age_ms: int
    """Since its first prediction: since the last retraining that was deployed."""
    new_versions_30d: int
    """The first version of all does not count."""


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model."""

    name: str
    task: str
    watermark_ms: int | None
    joint_watermark_ms: int | None
    """Up to where predictions and labels are both complete."""
    versions: Mapping[str, VersionView]
    monitors: Sequence[MonitorView]
    alarms: Sequence[AlarmView]
    """The newest last; active ones always included, resolved ones up to a bound."""
    triggers: Sequence[Mapping[str, object]]
    """Retraining requests as CloudEvents, the newest last; `verdict` is what came of one: the data of its
    verdict event."""
    suppressed: Mapping[str, int]
    """Retraining requests not sent, by reason."""
    join: Mapping[str, int]
    """pending, expired, joined, waiting labels, … (the terms of invariant I7)."""
    max_series: int
    held: Sequence[AlarmView] = ()
    """Alarms that are pending; the reason says what holds each back, and `raised_ms` since when."""
    audit: Sequence[AuditView] = ()
    """The last changes of alarms, pending ones included, the newest last."""
    constraints: Sequence[ConstraintView] = ()
    objectives: Sequence[str] = ()
    suspects: Mapping[str, Sequence[Related]] = field(default_factory=dict)
    """Version → drift that is active, the strongest first."""
    life: Mapping[str, MetricLife] = field(default_factory=dict)
    """By metric."""
    reviews_due: int = 0
    experiments: Sequence[ExperimentView] = ()
    changes: Sequence[ChangeView] = ()
    staleness: StalenessView | None = None


class CounterKey(NamedTuple):
    """A counter's name (without prefix and `_total`) and its labels, sorted."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """Everything that is published. Counters live in the store, so they never go back while it survives."""

    models: Mapping[str, ModelView]
    counters: Mapping[CounterKey, int]
    """Among them records{topic,outcome} and dead_letters{topic,reason}."""
    positions: Mapping[tuple[str, int], int]
    commits: int
    committed_at_s: float
    """Wall clock of the commit; the only time in here that is not event time."""
    agent_version: str = ""
