"""Builds the View: what is shown of the committed state. Reads, never changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from agent.events import NO_TIME, Int64s
from agent.judge import Judge
from agent.measure.bins import LATENCY_BOUNDS, LATENCY_EDGES
from agent.measure.metrics import Value, performance_metrics, prediction_metrics
from agent.measure.model import Model
from agent.measure.pane import DAY_MS, HOUR, HOUR_MS, LIFETIME, PREDICTIONS, PaneKey
from agent.measure.redlines import RED_LINE
from agent.measure.reference import Reference
from agent.measure.shares import PREDICTION, SCORE, output
from agent.measure.window import Sums, stretch, window
from agent.respond.compare import experiments
from agent.respond.roles import Roles, metric_of, ranked
from agent.respond.tradeoff import changes, launch, staleness
from agent.respond.view import (
    OVERALL,
    AlarmView,
    ConstraintView,
    Drift,
    MetricValue,
    ModelView,
    MonitorKey,
    MonitorView,
    Related,
    Severity,
    VersionView,
    WindowView,
)
from detectors import chi_square, js, kl, ks, psi, suspects, wasserstein


def model_view(judge: Judge, watermark_ms: int, joint_ms: int) -> ModelView:
    """One model; versions that were replaced are left out."""
    model, now = judge.model, judge.monitors.next_step_ms
    versions = judge.monitors.versions
    at_work = [v for v in sorted(model.seen) if now is None or not versions.is_replaced(v, now)]
    seen_ms = watermark_ms if now is None else now
    life = judge.roles.life(seen_ms)
    monitors = [
        monitor
        for monitor in monitor_views(judge)
        if monitor.key.model_version in ("", *at_work)
        and not judge.roles.retired(metric_of(monitor.key), seen_ms)
    ]
    drift = [alarm.view for alarm in judge.active if alarm.family == "drift"]
    return ModelView(
        name=model.name,
        task=model.config.task,
        watermark_ms=None if watermark_ms == NO_TIME else watermark_ms,
        joint_watermark_ms=None if joint_ms == NO_TIME else joint_ms,
        versions={v: version_view(judge, v, seen_ms) for v in at_work},
        monitors=monitors,
        alarms=judge.alarms,
        triggers=_triggers(judge),
        suppressed=dict(judge.retraining.suppressed),
        join=join_terms(model),
        max_series=model.config.max_series,
        held=judge.held,
        audit=judge.audit,
        constraints=constraint_views(judge, monitors, seen_ms),
        objectives=[name for name in model.config.roles.objectives if not judge.roles.retired(name, seen_ms)],
        suspects={v: found for v in at_work if (found := _suspects(judge, monitors, drift, v))},
        life=life,
        experiments=experiments(model),
        changes=changes(model),
        staleness=staleness(model) if model.seen else None,
        reviews_due=sum(metric.review_due for metric in life.values()),
    )


def _suspects(
    judge: Judge, monitors: Sequence[MonitorView], drift: Sequence[AlarmView], version: str
) -> list[Related]:
    """Active drift of a version, and what stands out beside it though it would not alarm alone."""
    found, budget = [*ranked(drift, version)], judge.model.config.budget
    mine = {m.key: m.evidence for m in monitors if m.family == "drift" and m.key.model_version == version}
    latched = {related.key for related in found}
    by_name = {str(key): key for key, evidence in mine.items() if not evidence.warming_up}
    strength = {n: mine[k].threshold if k in latched else mine[k].statistic for n, k in by_name.items()}
    looks = budget.period / judge.model.config.step / budget.tickets
    named = [by_name[name] for name in suspects(strength, looks) if by_name[name] not in latched]
    return found + [Related(key, "suspect", mine[key].ratio) for key in named]


def monitor_views(judge: Judge) -> Iterator[MonitorView]:
    """What every detector says now, red lines and pairs too."""
    name, roles = judge.model.name, judge.roles
    active = {alarm.view.key for alarm in judge.active}
    for key, monitor in sorted(judge.monitors.watch.monitors.items()):
        named, detector = MonitorKey(name, *key), monitor.detector
        severity = roles.severity(named, Severity(detector.severity))
        yield MonitorView(named, detector.family, severity, detector.evidence, named in active)
    for key, evidence in judge.redlines.judged():
        named, line = MonitorKey(name, *key), key.detector == RED_LINE
        family, severity = ("constraint", Severity.PAGE) if line else ("gaming", Severity.TICKET)
        yield MonitorView(named, family, severity, evidence, named in active)


def constraint_views(judge: Judge, monitors: Sequence[MonitorView], at_ms: int) -> list[ConstraintView]:
    """The constraints that are judged, in their order."""
    latched = {alarm.view.key for alarm in judge.active} | {alarm.key for alarm in judge.held}
    found = [
        judge.roles.constraint(monitor.key, monitor.evidence, monitor.key in latched, at_ms)
        for monitor in monitors
        if judge.roles.order(monitor.key) is not None
    ]
    return sorted(found, key=lambda one: (one.order, one.key))


def _triggers(judge: Judge) -> list[Mapping[str, object]]:
    """Requests, with the verdict on what they brought where there is one."""
    verdicts = judge.handovers.verdicts
    return [
        {**event, "verdict": verdicts[event["id"]]} if event["id"] in verdicts else event
        for event in judge.retraining.requests
    ]


def join_terms(model: Model) -> dict[str, int]:
    """The terms of join conservation (I7) that belong to one model."""
    counts = model.join.counts
    return {
        "predictions": counts["predictions"],
        "joined": counts["joined"],
        "pending": model.join.pending,
        "expired": counts["expired"],
        "unknown_class": counts["unknown_class"],
        "feedback": model.counts["feedback"],
    }


def version_view(judge: Judge, version: str, at_ms: int) -> VersionView:
    """One version: its windows, drift, and lifetime counts of its features and latency."""
    model = judge.model
    reference = judge.monitors.watch.references.get(version)
    end = max(last for _, last in model.seen.values())
    windows: dict[str, WindowView] = {}
    for name in model.config.windows:
        sums = window(model, version, name, end)
        shown = window_view(model, sums, reference)
        if reference is not None and name in _COMPARED:
            shown = replace(shown, drift=_beside(model, version, reference, sums, shown.drift))
        windows[name] = without_retired(judge.roles, shown, at_ms)
    lifetime = model.panes.get(PaneKey(version, LIFETIME, 0, PREDICTIONS, OVERALL))
    counts = model.layout.empty_prediction() if lifetime is None else lifetime
    first, last = model.seen[version]
    missing, invalid, values = {}, {}, {}
    for feature in model.layout.features:
        bins = counts[model.layout.feature_slices[feature.name]]
        missing[feature.name], invalid[feature.name] = int(bins[feature.missing]), int(bins[feature.invalid])
        values[feature.name] = int(bins.sum())
    latency, latency_sum = latency_view(model, counts)
    return VersionView(
        version,
        first,
        last,
        reference is None or reference.learning,
        windows,
        missing,
        invalid,
        values,
        latency,
        latency_sum,
        launch(model.layout, reference.performance, model.config.min_samples)
        if reference is not None and reference.performance_ready
        else {},
    )


def window_view(model: Model, sums: Sums, reference: Reference | None) -> WindowView:
    """Metrics of every slice of a window, and drift of the whole against the reference."""
    counts = {segment: int(vector[0]) for segment, vector in sums.predictions.items()}
    return WindowView(
        start_ms=sums.start_ms,
        end_ms=sums.end_ms,
        metrics={segment: metrics(model, sums, segment) for segment in sorted(counts)},
        counts=counts,
        drift=drift(reference, sums.predictions.get(OVERALL)),
    )


def without_retired(roles: Roles, shown: WindowView, at_ms: int) -> WindowView:
    """A window without the metrics that were retired; those of a class go with their metric."""
    kept = {
        segment: {n: v for n, v in values.items() if not roles.retired(n.partition(":")[0], at_ms)}
        for segment, values in shown.metrics.items()
    }
    return replace(shown, metrics=kept)


def metrics(model: Model, sums: Sums, segment: str) -> Mapping[str, MetricValue]:
    """All metrics of one slice, those with too few samples left out."""
    enough = model.config.min_samples
    predictions = sums.predictions.get(segment)
    performance = sums.performance.get(segment)
    found: dict[str, Value] = {}
    if predictions is not None:
        found |= {n: v for n, v in prediction_metrics(model.layout, predictions).items() if v.n >= enough}
        answered = int(predictions[0] - predictions[1])
        labelled = 0 if performance is None else int(performance[0])
        if answered >= enough:
            found["label_coverage"] = Value(labelled / answered, answered)
    if performance is not None:
        found |= performance_metrics(model.layout, performance, enough)
    return {name: MetricValue(value.value, value.n) for name, value in found.items()}


def drift(reference: Reference | None, counts: Int64s | None) -> dict[str, Drift]:
    """Divergences of each feature and of the model's output from the version's reference."""
    if reference is None or counts is None or not reference.prediction_ready:
        return {}
    names = [feature.name for feature in reference.layout.features]
    names.append(SCORE if reference.part("score").sum() > 0 else PREDICTION)
    found = {}
    for name in names:
        seen, base = output(reference, name, counts), output(reference, name, reference.prediction)
        if len(base) > 2 and seen.sum() >= len(base) and base.sum() > 0:
            found[name] = Drift(
                psi=psi(seen, base),
                kl=kl(seen, base),
                js=js(seen, base),
                n=int(seen.sum()),
                ks=ks(seen, base),
                wasserstein=wasserstein(seen, base),
                chi_square=chi_square(seen, base),
            )
    return found


_COMPARED = ("1h", "24h")
"""Windows that are compared with the one before and with that of a week ago: longer ones have no season."""


def _beside(
    model: Model, version: str, reference: Reference, sums: Sums, drift: Mapping[str, Drift]
) -> dict[str, Drift]:
    """The same drift, also against the full hours before, and those of the same time a week ago."""
    if not drift:
        return {}
    length = (sums.end_ms - sums.start_ms) // HOUR_MS * HOUR_MS
    since = sums.start_ms // HOUR_MS * HOUR_MS
    known = [
        stretch(model, version, HOUR, range(at, at + length, HOUR_MS), at, at + length)
        for at in (since - length, since - 7 * DAY_MS)
    ]
    before, last_week = (held.predictions.get(OVERALL) for held in known)
    now = sums.predictions[OVERALL]

    def against(name: str, counts: Int64s | None) -> float | None:
        if counts is None:
            return None
        seen, base = output(reference, name, now), output(reference, name, counts)
        return psi(seen, base) if base.sum() >= len(base) else None

    return {
        name: replace(found, psi_before=against(name, before), psi_last_week=against(name, last_week))
        for name, found in drift.items()
    }


def latency_view(model: Model, counts: Int64s) -> tuple[list[tuple[float, int]], float]:
    """Cumulative latency histogram and sum in seconds; empty where no event had a latency."""
    part = model.layout.prediction
    bins = counts[part["latency"]]
    if not bins.any():
        return [], 0.0
    below = np.concatenate([[0], np.cumsum(bins)])
    at = np.searchsorted(LATENCY_EDGES, LATENCY_BOUNDS) + 1
    shown = [(bound, int(below[i])) for bound, i in zip(LATENCY_BOUNDS, at, strict=True)]
    return [*shown, (float("inf"), int(bins.sum()))], int(counts[part.start("latency_us")]) / 1e6
