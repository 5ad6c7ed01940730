"""The committed view as Prometheus text. Every metric's name, meaning and labels are in this module.

A series that is warming up, undefined or retired is left out, never frozen and never NaN. Each model's
series are capped at its `max_series`, the important ones first and newer versions before older ones; what is
left out is counted in `plumbline_series_dropped` and still stands in /status.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from agent.respond.series import Buckets, Exposition, Family, Series
from agent.respond.view import OVERALL, CounterKey, ModelView, MonitorView, Severity, VersionView, View
from detectors import Verdict

_MODEL = ("model_name",)
_VERSION = ("model_name", "model_version")
_SLICE = (*_VERSION, "window", "segment")
_MONITOR = (*_VERSION, "detector", "feature", "segment")

MAX_RATIO = 1e6
"""A threshold ratio is cut here, so that an infinite one still alarms."""

BUILD = Family("plumbline_build_info", "gauge", "The running agent; always 1.", ("version",))
CONNECTED = Family("plumbline_source_connected", "gauge", "1 if the last poll reached the source.")
LAG = Family(
    "plumbline_consumer_lag_records",
    "gauge",
    "Records between the position and the end.",
    ("topic", "partition"),
)
PARTITIONS = Family("plumbline_assigned_partitions", "gauge", "Partitions that this agent reads.")
OUTBOX = Family("plumbline_outbox_messages", "gauge", "Committed messages that are not acknowledged yet.")
REFUSED = Family(
    "plumbline_outbox_refused_messages", "gauge", "Messages given up since the start: too large."
)
RELOADED = Family(
    "plumbline_config_last_reload_successful",
    "gauge",
    "0 if the last reload was refused: the old config stays.",
)
RELOADED_AT = Family(
    "plumbline_config_last_reload_success_timestamp_seconds",
    "gauge",
    "Wall-clock time at which the config in force was read.",
)
COMMITS = Family("plumbline_commits", "counter", "Commits of the state.")
LAST_COMMIT = Family(
    "plumbline_last_commit_timestamp_seconds", "gauge", "Wall-clock time of the last commit of the state."
)
POSITION = Family(
    "plumbline_next_offset", "gauge", "Offset that is read next, as committed.", ("topic", "partition")
)

WATERMARK = Family(
    "plumbline_watermark_timestamp_seconds",
    "gauge",
    "Event time up to which predictions are complete.",
    _MODEL,
)
JOINT_WATERMARK = Family(
    "plumbline_joint_watermark_timestamp_seconds",
    "gauge",
    "Event time up to which predictions and labels are complete.",
    _MODEL,
)
FIRST_SEEN = Family(
    "plumbline_version_first_seen_timestamp_seconds", "gauge", "Event time of the first prediction.", _VERSION
)
LAST_SEEN = Family(
    "plumbline_version_last_seen_timestamp_seconds", "gauge", "Event time of the newest prediction.", _VERSION
)
LEARNING = Family(
    "plumbline_version_learning", "gauge", "1 while the version's own baseline is being learned.", _VERSION
)
JOIN = Family(
    "plumbline_join_events", "gauge", "Predictions and labels by state of the join.", (*_MODEL, "state")
)
LAST_REQUEST = Family(
    "plumbline_retraining_last_request_timestamp_seconds",
    "gauge",
    "Event time of the last retraining request.",
    _MODEL,
)
SUPPRESSED = Family(
    "plumbline_retraining_suppressed",
    "counter",
    "Retraining requests that were not sent.",
    (*_MODEL, "reason"),
)
REVIEWS_DUE = Family(
    "plumbline_metric_reviews_due", "gauge", "Metrics whose owner was to review them by now.", _MODEL
)
SERIES = Family("plumbline_series", "gauge", "Capped series that are exposed.", _MODEL)
SERIES_DROPPED = Family(
    "plumbline_series_dropped", "gauge", "Series left out because of max_series; they are in /status.", _MODEL
)

ALARM = Family(
    "plumbline_alarm_active",
    "gauge",
    "1 while the alarm is latched, 0 while its monitor is well.",
    (*_MONITOR, "severity"),
)
RATIO = Family(
    "plumbline_detector_threshold_ratio",
    "gauge",
    "Statistic over its threshold; 1 and more alarms.",
    _MONITOR,
)
CONSTRAINT = Family(
    "plumbline_constraint_broken",
    "gauge",
    "1 while the red line is broken, whether it pages or waits behind another; in the order of the config.",
    (*_VERSION, "segment", "metric", "order"),
)
BAR = Family(
    "plumbline_constraint_bar",
    "gauge",
    "The bar in force of a red line.",
    (*_VERSION, "segment", "metric", "bound"),
)
HELD = Family(
    "plumbline_alarms_held",
    "gauge",
    "Alarms that call nobody now, by what holds them back.",
    (*_MODEL, "reason"),
)
REVIEWS = Family(
    "plumbline_metric_reviews_due", "gauge", "Metrics whose day of review has passed; see /status.", _MODEL
)
MONITORS = Family(
    "plumbline_monitors",
    "gauge",
    "Monitors by what they can say; one without enough evidence is blind.",
    (*_MODEL, "detector", "verdict"),
)
DETECTOR_VALUE = Family(
    "plumbline_detector_value", "gauge", "What the detector watches, estimated.", (*_MONITOR, "metric")
)
DETECTOR_LOW = Family(
    "plumbline_detector_value_low", "gauge", "Lower end of its interval.", (*_MONITOR, "metric")
)
DETECTOR_HIGH = Family(
    "plumbline_detector_value_high", "gauge", "Upper end of its interval.", (*_MONITOR, "metric")
)

WINDOW_PREDICTIONS = Family("plumbline_window_predictions", "gauge", "Predictions in the window.", _SLICE)
SAMPLES = Family(
    "plumbline_metric_samples", "gauge", "A metric's own denominator in the window.", (*_SLICE, "metric")
)
LOW = Family("plumbline_metric_low", "gauge", "Lower end of a metric's interval.", (*_SLICE, "metric"))
HIGH = Family("plumbline_metric_high", "gauge", "Upper end of a metric's interval.", (*_SLICE, "metric"))

_FEATURE = (*_VERSION, "window", "feature")
PSI = Family(
    "plumbline_feature_psi",
    "gauge",
    "Population stability index against the baseline, bias-corrected.",
    _FEATURE,
)
KL = Family(
    "plumbline_feature_kl",
    "gauge",
    "Kullback-Leibler divergence from the baseline in nats, bias-corrected.",
    _FEATURE,
)
JS = Family(
    "plumbline_feature_js",
    "gauge",
    "Jensen-Shannon divergence from the baseline in nats, bias-corrected.",
    _FEATURE,
)
DRIFT_SAMPLES = Family("plumbline_feature_drift_samples", "gauge", "Values behind the divergences.", _FEATURE)

VALUES = Family("plumbline_feature_values", "counter", "Values seen.", (*_VERSION, "feature"))
MISSING = Family("plumbline_feature_missing_values", "counter", "Values missing.", (*_VERSION, "feature"))
INVALID = Family(
    "plumbline_feature_invalid_values", "counter", "Values of the wrong type.", (*_VERSION, "feature")
)
LATENCY = Family("plumbline_latency_seconds", "histogram", "Latency of the model's answers.", _VERSION)

METRICS = {
    "accuracy": "Share of predictions that are right.",
    "balanced_accuracy": "Mean recall of the classes.",
    "precision": "Share of positive predictions that are right.",
    "recall": "Share of positives that are found.",
    "f1": "Harmonic mean of precision and recall.",
    "specificity": "Share of negatives that are found.",
    "false_positive_rate": "Share of negatives that are predicted positive.",
    "false_negative_rate": "Share of positives that are predicted negative.",
    "matthews_correlation": "Matthews correlation coefficient, -1 to 1.",
    "roc_auc": "Area under the ROC curve.",
    "log_loss": "Mean negative log-likelihood of the labels in nats.",
    "brier": "Mean squared error of the predicted probability.",
    "true_positives": "Positives predicted positive, in the window.",
    "true_negatives": "Negatives predicted negative, in the window.",
    "false_positives": "Negatives predicted positive, in the window.",
    "false_negatives": "Positives predicted negative, in the window.",
    "selection_rate": "Share of predictions that are positive.",
    "error_rate": "Share of requests that the model answered with an error.",
    "mean_latency_seconds": "Mean latency of the model's answers.",
    "label_coverage": "Share of predictions that have their label.",
    "majority_class_rate": "Accuracy of always predicting the most frequent class.",
    "precision_macro": "Mean precision of the classes.",
    "precision_weighted": "Mean precision of the classes, weighted by their frequency.",
    "recall_macro": "Mean recall of the classes.",
    "recall_weighted": "Mean recall of the classes, weighted by their frequency.",
    "f1_macro": "Mean F1 of the classes.",
    "f1_weighted": "Mean F1 of the classes, weighted by their frequency.",
}
"""What the metric of each id means; one that is not here is exposed under its id all the same.

The metric of one class, `precision:deny`, is the series `plumbline_class_precision{class="deny"}`: a name of
its own, since its sum with the average would mean nothing.
"""

COUNTERS = {
    "records": "Records read, by what became of them.",
    "dead_letters": "Records that could not be used.",
    "predictions": "Predictions merged.",
    "alarm_decisions": "Answers of detectors, by what was decided and why, 'no' included.",
    "prediction_errors": "Predictions that the model answered with an error.",
    "records_read": "Records read, whatever became of them.",
}
"""What the counters of the view mean."""

OUTCOMES = ("merged", "late", "duplicate", "ignored", "dead_lettered")
"""What can become of a record: each is a series of its topic from the first record on. A counter that is born
with its first bad record would hide just that one from `rate()`."""

_BY_LENGTH = ("5m", "1h", "24h", "7d", "30d")


@dataclass(frozen=True, slots=True)
class Runtime:
    """The few gauges that are live rather than committed."""

    connected: bool
    partitions: int = 0
    lag: Mapping[tuple[str, int], int] = field(default_factory=dict)
    outbox_pending: int = 0
    outbox_refused: int = 0
    reload_successful: bool = True
    config_since_s: float | None = None
    """Wall clock at which the config in force was read; None where it cannot be reloaded."""


def render(view: View, runtime: Runtime | None = None) -> bytes:
    """The whole exposition; the same view and runtime give the same bytes."""
    out = Exposition()
    out.add(_agent(view))
    out.add(_live(runtime) if runtime else ())
    for _, model in sorted(view.models.items()):
        versions = sorted(model.versions.values(), key=lambda v: (-v.last_seen_ms, v.version))
        taken, dropped = out.add_capped(_by_importance(model, versions), model.max_series)
        out.add([Series(SERIES, (model.name,), taken), Series(SERIES_DROPPED, (model.name,), dropped)])
    return out.render()


def _agent(view: View) -> Iterator[Series]:
    yield Series(BUILD, (view.agent_version,), 1)
    yield Series(COMMITS, (), view.commits)
    if view.commits:
        yield Series(LAST_COMMIT, (), view.committed_at_s)
    for (topic, partition), position in sorted(view.positions.items()):
        yield Series(POSITION, (topic, str(partition)), position)
    topics = {
        dict(key.labels).get("topic") for key in view.counters if key.name in ("records", "records_read")
    }
    named = [(("outcome", outcome), ("topic", topic)) for topic in topics if topic for outcome in OUTCOMES]
    zeros = {CounterKey("records", labels): 0 for labels in named}
    for key, count in sorted((zeros | dict(view.counters)).items()):
        names, values = tuple(name for name, _ in key.labels), tuple(value for _, value in key.labels)
        meaning = COUNTERS.get(key.name, f"Total of {key.name.replace('_', ' ')}.")
        yield Series(Family(f"plumbline_{key.name}", "counter", meaning, names), values, count)


def _live(runtime: Runtime) -> Iterator[Series]:
    yield Series(CONNECTED, (), int(runtime.connected))
    yield Series(PARTITIONS, (), runtime.partitions)
    yield Series(OUTBOX, (), runtime.outbox_pending)
    yield Series(REFUSED, (), runtime.outbox_refused)
    if runtime.config_since_s is not None:
        yield Series(RELOADED, (), int(runtime.reload_successful))
        yield Series(RELOADED_AT, (), runtime.config_since_s)
    for (topic, partition), lag in sorted(runtime.lag.items()):
        yield Series(LAG, (topic, str(partition)), lag)


def _counters(model_name: str, versions: Iterable[VersionView]) -> Iterator[Series]:
    for version in versions:
        labels = (model_name, version.version)
        for family, counts in (
            (VALUES, version.values),
            (MISSING, version.missing),
            (INVALID, version.invalid),
        ):
            for feature, count in sorted(counts.items()):
                yield Series(family, (*labels, feature), count)
        if version.latency:
            yield Series(LATENCY, labels, Buckets(version.latency, version.latency_sum))


def _by_importance(model: ModelView, versions: list[VersionView]) -> Iterator[Series]:
    yield from _progress(model, versions)
    yield from _alarms(model)
    yield from _roles(model)
    yield from _verdicts(model)
    yield from _ratios(model)
    for version in versions:
        yield from _overall(model.name, version)
    yield from _counters(model.name, versions)
    for version in versions:
        yield from _segments(model.name, version)
    for version in versions:
        yield from _drift(model.name, version)
    yield from _detector_values(model)
    for version in versions:
        yield from _intervals(model.name, version)


def _progress(model: ModelView, versions: Iterable[VersionView]) -> Iterator[Series]:
    for family, ms in ((WATERMARK, model.watermark_ms), (JOINT_WATERMARK, model.joint_watermark_ms)):
        if ms is not None:
            yield Series(family, (model.name,), ms / 1000)
    yield Series(REVIEWS_DUE, (model.name,), model.reviews_due)
    for state, count in sorted(model.join.items()):
        yield Series(JOIN, (model.name, state), count)
    for reason, count in sorted(model.suppressed.items()):
        yield Series(SUPPRESSED, (model.name, reason), count)
    if model.triggers:
        requested = datetime.fromisoformat(str(model.triggers[-1]["time"]))
        yield Series(LAST_REQUEST, (model.name,), requested.timestamp())
    for version in versions:
        labels = (model.name, version.version)
        yield Series(FIRST_SEEN, labels, version.first_seen_ms / 1000)
        yield Series(LAST_SEEN, labels, version.last_seen_ms / 1000)
        yield Series(LEARNING, labels, int(version.learning))


def _alarms(model: ModelView) -> Iterator[Series]:
    """1 for every latched alarm, under the severity it has; 0 for monitors that are well and know enough."""
    states: dict[tuple[str, ...], int] = {}
    latched = {alarm.key: alarm.severity for alarm in model.alarms if alarm.resolved_ms is None}
    for monitor in model.monitors:
        if monitor.active:
            latched.setdefault(monitor.key, monitor.severity)
        elif monitor.key not in latched and not monitor.evidence.warming_up:
            states.setdefault((*monitor.key[:5], monitor.severity.value), 0)
    for key, severity in latched.items():
        states[(*key[:5], severity.value)] = 1
    pages_first = sorted(states.items(), key=lambda item: (-item[1], item[0][5] != Severity.PAGE, item[0]))
    for labels, active in pages_first:
        yield Series(ALARM, labels, active)


def _roles(model: ModelView) -> Iterator[Series]:
    """What the config adds: nothing where it names no roles and no lives, and nothing is held."""
    for one in model.constraints:
        _, version, _, _, segment, metric = one.key
        labels = (model.name, version, segment, metric)
        yield Series(CONSTRAINT, (*labels, str(one.order)), int(one.broken))
        for bound, value in (("min", one.minimum), ("max", one.maximum)):
            if value is not None:
                yield Series(BAR, (*labels, bound), value)
    for reason, count in sorted(Counter(str(alarm.reason) for alarm in model.held).items()):
        yield Series(HELD, (model.name, reason), count)
    if any(metric.review_ms is not None for metric in model.life.values()):
        yield Series(REVIEWS, (model.name,), model.reviews_due)


def _verdicts(model: ModelView) -> Iterator[Series]:
    """How many monitors can see, by detector: one that cannot is left out everywhere else."""
    counts = {(m.key.detector, verdict): 0 for m in model.monitors for verdict in Verdict}
    for monitor in model.monitors:
        counts[monitor.key.detector, monitor.evidence.verdict] += 1
    for (detector, verdict), count in sorted(counts.items()):
        yield Series(MONITORS, (model.name, detector, verdict.value.replace(" ", "_")), count)


def _ratios(model: ModelView) -> Iterator[Series]:
    """The highest ratio over the metrics that one detector watches in one place; the highest of all first."""
    highest: dict[tuple[str, ...], float] = {}
    for monitor in _settled(model):
        ratio = monitor.evidence.ratio
        if not math.isnan(ratio):
            labels = tuple(monitor.key[:5])
            highest[labels] = max(highest.get(labels, -MAX_RATIO), min(ratio, MAX_RATIO))
    for labels, ratio in sorted(highest.items(), key=lambda item: (-item[1], item[0])):
        yield Series(RATIO, labels, ratio)


def _overall(model_name: str, version: VersionView) -> Iterator[Series]:
    for window in sorted(version.windows):
        yield from _slice(model_name, version, window, OVERALL)


def _segments(model_name: str, version: VersionView) -> Iterator[Series]:
    for window in _segment_windows(version):
        shown = version.windows[window]
        for segment in sorted({*shown.metrics, *shown.counts} - {OVERALL}):
            yield from _slice(model_name, version, window, segment)


def _segment_windows(version: VersionView) -> list[str]:
    """Groups are small: their values are exposed for the lifetime and the longest of the other windows."""
    sliding = [name for name in _BY_LENGTH if name in version.windows]
    return [name for name in ("lifetime", *sliding[-1:]) if name in version.windows]


def _slice(model_name: str, version: VersionView, window: str, segment: str) -> Iterator[Series]:
    labels = (model_name, version.version, window, segment)
    shown = version.windows[window]
    if segment in shown.counts:
        yield Series(WINDOW_PREDICTIONS, labels, shown.counts[segment])
    for metric, value in sorted(shown.metrics.get(segment, {}).items()):
        name, of_class, label = metric.partition(":")
        meaning = METRICS.get(name, f"The metric {name}.")
        if not of_class:
            yield Series(Family(f"plumbline_{name}", "gauge", meaning, _SLICE), labels, value.value)
        elif segment == OVERALL:  # classes times groups is too many: those are in /status
            family = Family(f"plumbline_class_{name}", "gauge", f"{meaning} One class.", (*_SLICE, "class"))
            yield Series(family, (*labels, label), value.value)
        else:
            continue
        yield Series(SAMPLES, (*labels, metric), value.n)


def _drift(model_name: str, version: VersionView) -> Iterator[Series]:
    for window, shown in sorted(version.windows.items()):
        for feature, drift in sorted(shown.drift.items()):
            labels = (model_name, version.version, window, feature)
            yield Series(PSI, labels, drift.psi)
            yield Series(KL, labels, drift.kl)
            yield Series(JS, labels, drift.js)
            yield Series(DRIFT_SAMPLES, labels, drift.n)


def _detector_values(model: ModelView) -> Iterator[Series]:
    for monitor in sorted(_settled(model), key=lambda monitor: monitor.key):
        evidence = monitor.evidence
        for family, value in (
            (DETECTOR_VALUE, evidence.value),
            (DETECTOR_LOW, evidence.low),
            (DETECTOR_HIGH, evidence.high),
        ):
            if value is not None:
                yield Series(family, monitor.key, value)


def _intervals(model_name: str, version: VersionView) -> Iterator[Series]:
    segment_windows = _segment_windows(version)
    for window, shown in sorted(version.windows.items()):
        for segment, metrics in sorted(shown.metrics.items()):
            if segment != OVERALL and window not in segment_windows:
                continue
            for metric, value in sorted(metrics.items()):
                labels = (model_name, version.version, window, segment, metric)
                if value.low is not None:
                    yield Series(LOW, labels, value.low)
                if value.high is not None:
                    yield Series(HIGH, labels, value.high)


def _settled(model: ModelView) -> Iterator[MonitorView]:
    return (monitor for monitor in model.monitors if not monitor.evidence.warming_up)
