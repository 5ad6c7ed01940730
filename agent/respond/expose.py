"""The committed view as Prometheus text: which series there are, and which come first.

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

from agent.measure.catalogue import row_of
from agent.respond import families
from agent.respond.series import Buckets, Exposition, Series
from agent.respond.view import OVERALL, CounterKey, ModelView, MonitorView, Severity, VersionView, View
from detectors import Verdict

MAX_RATIO = 1e6
"""A threshold ratio is cut here, so that an infinite one still alarms."""

_BY_LENGTH = ("5m", "1h", "24h", "7d", "30d")


@dataclass(frozen=True, slots=True)
class Runtime:
    """The few gauges that are live rather than committed."""

    connected: bool
    partitions: int = 0
    lag: Mapping[tuple[str, int], int] = field(default_factory=dict)
    outbox_pending: int = 0
    outbox_refused: int = 0
    state_writable: bool = True
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
        out.add(
            [
                Series(families.SERIES, (model.name,), taken),
                Series(families.SERIES_DROPPED, (model.name,), dropped),
            ]
        )
    return out.render()


def _agent(view: View) -> Iterator[Series]:
    yield Series(families.BUILD, (view.agent_version,), 1)
    yield Series(families.COMMITS, (), view.commits)
    if view.commits:
        yield Series(families.LAST_COMMIT, (), view.committed_at_s)
    for (topic, partition), position in sorted(view.positions.items()):
        yield Series(families.POSITION, (topic, str(partition)), position)
    topics = {
        dict(key.labels).get("topic") for key in view.counters if key.name in ("records", "records_read")
    }
    named = [
        (("outcome", outcome), ("topic", topic)) for topic in topics if topic for outcome in families.OUTCOMES
    ]
    zeros = {CounterKey("records", labels): 0 for labels in named}
    for key, count in sorted((zeros | dict(view.counters)).items()):
        names, values = tuple(name for name, _ in key.labels), tuple(value for _, value in key.labels)
        yield Series(families.counter(key.name, names), values, count)


def _live(runtime: Runtime) -> Iterator[Series]:
    yield Series(families.CONNECTED, (), int(runtime.connected))
    yield Series(families.PARTITIONS, (), runtime.partitions)
    yield Series(families.OUTBOX, (), runtime.outbox_pending)
    yield Series(families.REFUSED, (), runtime.outbox_refused)
    yield Series(families.WRITABLE, (), int(runtime.state_writable))
    if runtime.config_since_s is not None:
        yield Series(families.RELOADED, (), int(runtime.reload_successful))
        yield Series(families.RELOADED_AT, (), runtime.config_since_s)
    for (topic, partition), lag in sorted(runtime.lag.items()):
        yield Series(families.LAG, (topic, str(partition)), lag)


def _counters(model_name: str, versions: Iterable[VersionView]) -> Iterator[Series]:
    for version in versions:
        labels = (model_name, version.version)
        for family, counts in (
            (families.VALUES, version.values),
            (families.MISSING, version.missing),
            (families.INVALID, version.invalid),
        ):
            for feature, count in sorted(counts.items()):
                yield Series(family, (*labels, feature), count)
        if version.latency:
            yield Series(families.LATENCY, labels, Buckets(version.latency, version.latency_sum))


def _by_importance(model: ModelView, versions: list[VersionView]) -> Iterator[Series]:
    yield from _progress(model, versions)
    yield from _alarms(model)
    yield from _roles(model)
    yield from _verdicts(model)
    yield from _experiments(model)
    yield from _history(model, versions)
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
    for family, ms in (
        (families.WATERMARK, model.watermark_ms),
        (families.JOINT_WATERMARK, model.joint_watermark_ms),
    ):
        if ms is not None:
            yield Series(family, (model.name,), ms / 1000)
    yield Series(families.REVIEWS_DUE, (model.name,), model.reviews_due)
    for state, count in sorted(model.join.items()):
        yield Series(families.JOIN, (model.name, state), count)
    for reason, count in sorted(model.suppressed.items()):
        yield Series(families.SUPPRESSED, (model.name, reason), count)
    if model.triggers:
        requested = datetime.fromisoformat(str(model.triggers[-1]["time"]))
        yield Series(families.LAST_REQUEST, (model.name,), requested.timestamp())
    for version in versions:
        labels = (model.name, version.version)
        yield Series(families.FIRST_SEEN, labels, version.first_seen_ms / 1000)
        yield Series(families.LAST_SEEN, labels, version.last_seen_ms / 1000)
        yield Series(families.LEARNING, labels, int(version.learning))


def _alarms(model: ModelView) -> Iterator[Series]:
    """1 for every latched alarm, under the severity it has; 0 for monitors that are well and know enough."""
    states: dict[tuple[str, ...], int] = {}
    latched = {alarm.key: alarm.severity for alarm in model.alarms if alarm.resolved_ms is None}
    for monitor in model.monitors:
        if monitor.active:
            latched.setdefault(monitor.key, monitor.severity)
        elif monitor.key not in latched and not monitor.evidence.warming_up:
            states.setdefault((*monitor.key, monitor.severity.value), 0)
    for key, severity in latched.items():
        states[(*key, severity.value)] = 1
    pages_first = sorted(states.items(), key=lambda item: (-item[1], item[0][-1] != Severity.PAGE, item[0]))
    for labels, active in pages_first:
        yield Series(families.ALARM, labels, active)


def _roles(model: ModelView) -> Iterator[Series]:
    """What the config adds: nothing where it names no roles and no lives, and nothing is held."""
    for one in model.constraints:
        _, version, _, _, segment, metric = one.key
        labels = (model.name, version, segment, metric)
        yield Series(families.CONSTRAINT, (*labels, str(one.order)), int(one.broken))
        for bound, value in (("min", one.minimum), ("max", one.maximum)):
            if value is not None:
                yield Series(families.BAR, (*labels, bound), value)
    for reason, count in sorted(Counter(str(alarm.reason) for alarm in model.held).items()):
        yield Series(families.HELD, (model.name, reason), count)


def _history(model: ModelView, versions: Iterable[VersionView]) -> Iterator[Series]:
    """How the model got here: its age, what the newest version changed, how far it is from the launch."""
    if model.staleness is not None:
        yield Series(families.AGE, (model.name,), model.staleness.age_ms / 1000)
        yield Series(families.NEW_VERSIONS, (model.name,), model.staleness.new_versions_30d)
    for one in model.changes:
        yield Series(families.CHANGE, (model.name, one.version, one.previous, one.metric), one.difference)
    for version in versions:
        lifetime = version.windows.get("lifetime")
        now = lifetime.metrics.get(OVERALL, {}) if lifetime else {}
        for metric, before in sorted(version.launch.items()):
            row = row_of(metric)
            if metric in now and row is not None and row.direction != "neither" and row.unit != "count":
                labels = (model.name, version.version, metric)
                yield Series(families.GAP, labels, now[metric].value - before.value)


def _experiments(model: ModelView) -> Iterator[Series]:
    for one in model.experiments:
        if one.mismatched is not None:
            yield Series(families.MISMATCH, (model.name, one.name), int(one.mismatched))
        for lift in one.lifts:
            labels = (model.name, one.name, lift.variant, lift.metric)
            yield Series(families.LIFT, labels, lift.difference)
            yield Series(families.LIFT_LOW, labels, lift.low)
            yield Series(families.LIFT_HIGH, labels, lift.high)
            yield Series(families.LIFT_VERDICT, (*labels, lift.verdict.replace(" ", "_")), 1)


def _verdicts(model: ModelView) -> Iterator[Series]:
    """How many monitors can see, by detector: one that cannot is left out everywhere else."""
    verdicts = (*(verdict.value for verdict in Verdict), _BLIND)
    counts = {(m.key.detector, verdict): 0 for m in model.monitors for verdict in verdicts}
    for monitor in model.monitors:
        evidence = monitor.evidence
        blind = evidence.blind and evidence.verdict is Verdict.OK
        counts[monitor.key.detector, _BLIND if blind else evidence.verdict.value] += 1
    for (detector, verdict), count in sorted(counts.items()):
        yield Series(families.MONITORS, (model.name, detector, verdict.replace(" ", "_")), count)


_BLIND = "blind"


def _ratios(model: ModelView) -> Iterator[Series]:
    """The highest ratio over the metrics that one detector watches in one place; the highest of all first."""
    highest: dict[tuple[str, ...], float] = {}
    for monitor in _settled(model):
        ratio = monitor.evidence.ratio
        if not math.isnan(ratio):
            labels = tuple(monitor.key[:5])
            highest[labels] = max(highest.get(labels, -MAX_RATIO), min(ratio, MAX_RATIO))
    for labels, ratio in sorted(highest.items(), key=lambda item: (-item[1], item[0])):
        yield Series(families.RATIO, labels, ratio)


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
        yield Series(families.WINDOW_PREDICTIONS, labels, shown.counts[segment])
    for metric, value in sorted(shown.metrics.get(segment, {}).items()):
        name, of_class, label = metric.partition(":")
        if not of_class:
            yield Series(families.metric(name), labels, value.value)
        elif segment == OVERALL:  # classes times groups is too many: those are in /status
            yield Series(families.class_metric(name), (*labels, label), value.value)
        else:
            continue
        yield Series(families.SAMPLES, (*labels, metric), value.n)


def _drift(model_name: str, version: VersionView) -> Iterator[Series]:
    for window, shown in sorted(version.windows.items()):
        for feature, drift in sorted(shown.drift.items()):
            labels = (model_name, version.version, window, feature)
            yield Series(families.PSI, labels, drift.psi)
            yield Series(families.KL, labels, drift.kl)
            yield Series(families.JS, labels, drift.js)
            for family, value in (
                (families.KS, drift.ks),
                (families.WASSERSTEIN, drift.wasserstein),
                (families.CHI_SQUARE, drift.chi_square),
                (families.PSI_BEFORE, drift.psi_before),
                (families.PSI_LAST_WEEK, drift.psi_last_week),
            ):
                if value is not None:
                    yield Series(family, labels, value)
            yield Series(families.DRIFT_SAMPLES, labels, drift.n)


def _detector_values(model: ModelView) -> Iterator[Series]:
    for monitor in sorted(_settled(model), key=lambda monitor: monitor.key):
        evidence = monitor.evidence
        for family, value in (
            (families.DETECTOR_VALUE, evidence.value),
            (families.DETECTOR_LOW, evidence.low),
            (families.DETECTOR_HIGH, evidence.high),
            (families.DETECTOR_SMALLEST, evidence.smallest_change),
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
                    yield Series(families.LOW, labels, value.low)
                if value.high is not None:
                    yield Series(families.HIGH, labels, value.high)


def _settled(model: ModelView) -> Iterator[MonitorView]:
    return (monitor for monitor in model.monitors if not monitor.evidence.warming_up)
