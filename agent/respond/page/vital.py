"""The few numbers that stand for a model on the first screen, and which version they are of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from agent.measure.catalogue import definition
from agent.respond.page import tell
from agent.respond.page.html import name as name_
from agent.respond.page.numbers import Unit, unit_of
from agent.respond.view import OVERALL, MetricValue, ModelView, MonitorView, Severity, VersionView

LENGTHS = ("5m", "1h", "24h", "7d", "30d", "lifetime")
MAX_QUALITY = 3
"""Quality metrics among the vital numbers; what comes last makes room for them."""
MAX_VITALS = 5


@dataclass(frozen=True, slots=True)
class Vital:
    """One vital number, with the bar it is held against."""

    id: str
    """Its sparkline goes on under this id."""
    name: str
    meaning: str
    unit: Unit
    value: float | None
    n: int | None
    scope: str
    """Where and since when it was measured."""
    verdict: str = ""
    """broken (a page), warn (a ticket), unproven (outside its bar, which chance may do too), unknown, ok;
    empty: it has no bar."""
    low: float | None = None
    high: float | None = None
    reference: float | None = None
    tolerance: tuple[float | None, float | None] = (None, None)
    lacking: str = ""
    owner: str = ""
    """Who answers for it, and whether its review is due."""
    monitors: tuple[MonitorView, ...] = ()
    """Whose alarms are its own."""


def main_version(model: ModelView) -> VersionView | None:
    """The version with most predictions in the shortest window, of equal ones the newest."""

    def weight(version: VersionView) -> tuple[int, int, str]:
        name = shortest(version)
        n = version.windows[name].counts.get(OVERALL, 0) if name else 0
        return n, version.last_seen_ms, version.version

    return max(model.versions.values(), key=weight, default=None)


def shortest(version: VersionView) -> str | None:
    """The shortest window's name."""
    return next(iter(windows(version)), None)


def windows(version: VersionView) -> list[str]:
    """Names of the windows, the shortest first."""
    return sorted(version.windows, key=lambda w: (LENGTHS.index(w) if w in LENGTHS else len(LENGTHS), w))


def vitals(model: ModelView) -> list[Vital]:
    """Three to five numbers: quality, fairness, drift, missing inputs, volume; those that apply."""
    version = main_version(model)
    if version is None:
        return []
    own = [m for m in model.monitors if m.key.model_version in (version.version, "")]
    by_detector: dict[str, list[MonitorView]] = {}
    for monitor in own:
        by_detector.setdefault(monitor.key.detector, []).append(monitor)
    found = [
        *_quality(model, version, by_detector.get("rate_drop", [])),
        *_fairness(by_detector.get("group_ratio", [])),
        *_drift(by_detector.get("histogram_drift", [])),
        *_missing(by_detector.get("missing_surge", [])),
        *_volume(version, by_detector.get("volume_drop", [])),
    ]
    return found[:MAX_VITALS]


def _quality(model: ModelView, version: VersionView, monitors: Sequence[MonitorView]) -> Iterator[Vital]:
    """The objectives where there are any; otherwise what is watched, or accuracy."""
    watched = {monitor.key.metric: monitor for monitor in monitors}
    objectives = [metric for metric in model.objectives if not metric.endswith("_ratio")]  # shown as such
    names = objectives or sorted(watched, key=lambda m: (not watched[m].active, m)) or ["accuracy"]
    for metric in names[:MAX_QUALITY]:
        monitor = watched.get(metric)
        value, scope = _newest(version, "recall" if metric == "true_positive_rate" else metric)
        learning = version.learning and monitor is None
        yield Vital(
            id=f"quality:{metric}",
            name=tell.sentence(tell.plain(metric)),
            meaning=definition(metric),
            unit=unit_of(metric),
            value=value.value if value else None,
            n=value.n if value else None,
            scope=f"{scope}; no bar yet: the baseline is being learned" if learning else scope,
            verdict=_standing(value, monitor),
            low=value.low if value else None,
            high=value.high if value else None,
            reference=monitor.evidence.reference if monitor else None,
            tolerance=monitor.evidence.tolerance if monitor else (None, None),
            lacking=f"not enough evidence: {_labels(version)}",
            owner=_owner(model, metric),
            monitors=(monitor,) if monitor else (),
        )


def _standing(value: MetricValue | None, monitor: MonitorView | None) -> str:
    """The monitor's verdict, held against the number that is shown beside it."""
    if monitor is not None and monitor.active:
        return _verdict([monitor])
    if value is None:
        return "unknown"
    if monitor is None:
        return ""
    low, high = monitor.evidence.tolerance
    outside = (low is not None and value.value < low) or (high is not None and value.value > high)
    verdict = _verdict([monitor])
    return "unproven" if verdict == "ok" and outside else verdict


def _owner(model: ModelView, metric: str) -> str:
    life = model.life.get(metric)
    if life is None:
        return ""
    told = [f"owner: {name_(life.owner)}"] if life.owner else []
    return ", ".join([*told, "review is due"] if life.review_due else told)


def _fairness(monitors: Sequence[MonitorView]) -> Iterator[Vital]:
    if not monitors:
        return
    worst = max(monitors, key=_by(_disproportion))
    yield _of_worst(
        worst,
        monitors,
        "fairness",
        "Fairness",
        "The worst ratio of a group's rate to that of those it is compared with.",
    )


def _drift(monitors: Sequence[MonitorView]) -> Iterator[Vital]:
    if not monitors:
        return
    worst = max(monitors, key=_by(_of_tolerance))
    share = _of_tolerance(worst) if not worst.evidence.warming_up else None
    yield Vital(
        id="drift",
        name="Largest drift",
        meaning="Distance from the baseline over what is tolerated; the input or output that is worst.",
        unit="times",
        value=share,
        n=worst.evidence.samples,
        scope=name_(worst.key.feature),
        verdict=_verdict(monitors),
        tolerance=(None, 1.0),
        lacking=tell.lacking(worst),
        monitors=tuple(monitors),
    )


def _missing(monitors: Sequence[MonitorView]) -> Iterator[Vital]:
    if not monitors:
        return
    worst = max(monitors, key=_by(_of_tolerance))
    yield _of_worst(
        worst,
        monitors,
        "missing",
        "Missing inputs",
        "Share of requests without the input that is missing most.",
    )


def _volume(version: VersionView, monitors: Sequence[MonitorView]) -> Iterator[Vital]:
    name = shortest(version)
    shown = version.windows[name] if name else None
    usual = next((m for m in monitors if not m.evidence.warming_up), None)
    arrive = f"; {100 * usual.evidence.value:.0f} % of the usual" if usual and usual.evidence.value else ""
    yield Vital(
        id="volume",
        name="Predictions",
        meaning="Predictions of this version, by the time of the request.",
        unit="count",
        value=float(shown.counts.get(OVERALL, 0)) if shown else None,
        n=None,
        scope=_span(name) + arrive,
        verdict=_verdict(monitors) if monitors else "",
        monitors=tuple(monitors),
    )


def _of_worst(
    worst: MonitorView, monitors: Sequence[MonitorView], id_: str, name: str, meaning: str
) -> Vital:
    evidence, key = worst.evidence, worst.key
    silent = evidence.warming_up
    return Vital(
        id=id_,
        name=name,
        meaning=meaning,
        unit=tell.unit(key),
        value=None if silent else evidence.value,
        n=evidence.samples,
        scope=f"{tell.plain(key.metric)}, {name_(key.segment)}" if key.segment else name_(key.feature),
        verdict=_verdict(monitors),
        low=None if silent else evidence.low,
        high=None if silent else evidence.high,
        reference=None if key.detector == "group_ratio" else evidence.reference,
        tolerance=evidence.tolerance,
        lacking=tell.lacking(worst),
        monitors=tuple(monitors),
    )


def _verdict(monitors: Sequence[MonitorView]) -> str:
    """The worst of several: a page before a ticket before unknown before ok."""
    found = {tell.verdict(m) if not m.active or m.severity is Severity.PAGE else "warn" for m in monitors}
    return next((one for one in ("broken", "warn", "unknown", "ok") if one in found), "")


def _by(size: Callable[[MonitorView], float]) -> Callable[[MonitorView], tuple[bool, bool, float]]:
    """Order: active before the rest, known before unknown, then by size."""

    def order(monitor: MonitorView) -> tuple[bool, bool, float]:
        found = size(monitor)
        return monitor.active, not monitor.evidence.warming_up, found if math.isfinite(found) else -1.0

    return order


def _disproportion(monitor: MonitorView) -> float:
    """A third and three times are equally far from one."""
    value = monitor.evidence.value
    return abs(math.log(value)) if value is not None and value > 0 else 0.0


def _of_tolerance(monitor: MonitorView) -> float:
    value, high = monitor.evidence.value, monitor.evidence.tolerance[1]
    return value / high if value is not None and high else 0.0


def _newest(version: VersionView, metric: str) -> tuple[MetricValue | None, str]:
    """A metric's value in the shortest window that has it."""
    for name in windows(version):
        value = version.windows[name].metrics.get(OVERALL, {}).get(metric)
        if value is not None:
            return value, _span(name)
    return None, _span(shortest(version))


def _labels(version: VersionView) -> str:
    name = shortest(version)
    if name is None:
        return "no window yet"
    shown = version.windows[name]
    return f"too few labels for {shown.counts.get(OVERALL, 0):,} predictions, {_span(name)}"


def _span(name: str | None) -> str:
    spans = {
        "5m": "last 5 min",
        "1h": "last hour",
        "24h": "last 24 h",
        "7d": "last 7 days",
        "30d": "last 30 days",
    }
    return "" if name is None else spans.get(name, "since its start")


span = _span
