"""Small, valid pieces of a view, to be varied by the tests."""

from collections.abc import Mapping, Sequence

from agent.respond.view import (
    AlarmView,
    CounterKey,
    Drift,
    MetricValue,
    ModelView,
    MonitorKey,
    MonitorView,
    Severity,
    VersionView,
    View,
    WindowView,
)
from detectors import Evidence

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR

ACCURACY = MonitorKey("credit", "v1", "rate_drop", metric="accuracy")
DRIFT = MonitorKey("credit", "v1", "histogram_drift", feature="age")
FAIRNESS = MonitorKey("credit", "v1", "group_ratio", segment="sex=f", metric="false_positive_rate")


def evidence(ratio: float = 0.5, *, warming_up: bool = False, value: float | None = 0.8) -> Evidence:
    """Evidence whose statistic is `ratio` times its threshold."""
    return Evidence(
        statistic=10 * ratio,
        threshold=10.0,
        samples=1000,
        warming_up=warming_up,
        value=value,
        low=0.75,
        high=0.85,
        reference=0.9,
        tolerance=(0.855, None),
        smallest_change=0.02,
        details={"expected": 0.1},
    )


def monitor(
    key: MonitorKey = ACCURACY,
    family: str = "performance",
    severity: Severity = Severity.PAGE,
    found: Evidence | None = None,
    active: bool = False,
) -> MonitorView:
    """A monitor that is well."""
    return MonitorView(key, family, severity, found or evidence(), active)


def window(
    segments: Sequence[str] = ("sex=f", "sex=m"), features: Sequence[str] = ("age", "income")
) -> WindowView:
    """An hour with two metrics in every slice, and the drift of some features."""
    slices = ["", *segments]
    values = {"accuracy": MetricValue(0.8125, 160, 0.75, 0.87), "true_negatives": MetricValue(70.0, 160)}
    return WindowView(
        start_ms=0,
        end_ms=HOUR,
        metrics=dict.fromkeys(slices, values),
        counts=dict.fromkeys(slices, 200),
        drift={name: Drift(0.1, 0.05, 0.02, 200) for name in features},
    )


def version(name: str = "v1", windows: Mapping[str, WindowView] | None = None) -> VersionView:
    """A version with three windows."""
    return VersionView(
        version=name,
        first_seen_ms=0,
        last_seen_ms=5 * HOUR,
        learning=False,
        windows=windows or {"1h": window(), "24h": window(), "lifetime": window()},
        missing={"age": 3, "income": 0},
        invalid={"age": 1, "income": 0},
        values={"age": 200, "income": 200},
        latency=[(0.01, 5), (0.1, 9), (float("inf"), 10)],
        latency_sum=0.7,
    )


def model(
    name: str = "credit",
    versions: Sequence[VersionView] | None = None,
    monitors: Sequence[MonitorView] = (),
    alarms: Sequence[AlarmView] = (),
    max_series: int = 2000,
) -> ModelView:
    """A model that is well."""
    return ModelView(
        name=name,
        task="binary",
        watermark_ms=5 * HOUR,
        joint_watermark_ms=4 * HOUR,
        versions={v.version: v for v in (versions if versions is not None else [version()])},
        monitors=monitors or [monitor(), monitor(DRIFT, "drift", Severity.TICKET)],
        alarms=alarms,
        triggers=[{"id": "1", "time": "2026-08-01T12:00:00.000Z"}],
        suppressed={"cooldown": 2},
        join={"pending": 12, "joined": 100},
        max_series=max_series,
    )


def view(*models: ModelView, counters: Mapping[CounterKey, int] | None = None) -> View:
    """A committed view."""
    return View(
        models={one.name: one for one in models or (model(),)},
        counters=counters
        if counters is not None
        else {
            CounterKey("records", (("outcome", "merged"), ("topic", "predictions"))): 200,
            CounterKey("records", (("outcome", "dead_lettered"), ("topic", "predictions"))): 2,
            CounterKey("dead_letters", (("reason", "malformed_json"), ("topic", "predictions"))): 2,
            CounterKey("predictions", (("model_name", "credit"), ("model_version", "v1"))): 198,
        },
        positions={("predictions", 0): 200},
        commits=7,
        committed_at_s=1_790_000_000.25,
        agent_version="0.1.0",
    )
