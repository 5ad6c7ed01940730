"""Which inputs are under suspicion: ranked by the evidence of drift or of missing values."""

from __future__ import annotations

from agent.respond.page import draw, tell
from agent.respond.page.groups import VERDICTS
from agent.respond.page.html import Html, join, name, table, tag, words
from agent.respond.page.numbers import UNKNOWN, known, number
from agent.respond.page.vital import span, windows
from agent.respond.view import ModelView, MonitorView, VersionView

MAX_ROWS = 12
_OUTPUTS = {"score": "score (the model's output)", "prediction": "prediction (the model's output)"}


def suspects(model: ModelView, version: VersionView) -> Html:
    """Inputs and the output of one version, the most suspicious first."""
    by_feature: dict[str, dict[str, MonitorView]] = {}
    for monitor in model.monitors:
        watched = monitor.key.detector in ("histogram_drift", "missing_surge")
        if watched and monitor.key.model_version == version.version:
            by_feature.setdefault(monitor.key.feature, {})[monitor.key.detector] = monitor
    if not by_feature:
        return tag("p", words("No input is compared with a baseline yet."), class_="faint")
    ranked = sorted(by_feature, key=lambda feature: (*_rank(version, feature, by_feature[feature]), feature))
    rows = [_row(version, feature, by_feature[feature]) for feature in ranked[:MAX_ROWS]]
    rest = len(ranked) - len(rows)
    caption = (
        "The most suspicious first. Distance: divergence from the baseline (KL, in nats) against what is"
        " tolerated; PSI is the classic index. Drift alone opens a ticket, never a page."
    )
    caption += f" {rest} more are in /status." if rest else ""
    shown = table(words(caption), ("Input", "Distance", "Missing", "Evidence"), rows)
    if any(_suspicious(monitor) for monitors in by_feature.values() for monitor in monitors.values()):
        return shown
    calm = tag("p", words(f"No input is under suspicion: none of {len(ranked)} drifts or goes missing."))
    return join([calm, tag("details", tag("summary", words("Show them all the same")), shown)])


def _suspicious(monitor: MonitorView) -> bool:
    """An alarm, half the evidence for one, or nothing known."""
    return monitor.active or monitor.evidence.warming_up or not monitor.evidence.ratio < 0.5


def _rank(version: VersionView, feature: str, monitors: dict[str, MonitorView]) -> tuple[int, float, float]:
    """Active first, then by evidence, then by PSI."""
    ratios = [m.evidence.ratio for m in monitors.values() if known(m.evidence.ratio)]
    active = any(m.active for m in monitors.values())
    return -int(active), -max(ratios, default=0.0), -_psi(version, feature)[0]


def _row(version: VersionView, feature: str, monitors: dict[str, MonitorView]) -> list[Html]:
    verdicts = {tell.verdict(monitor) for monitor in monitors.values()}
    verdict = next(one for one in ("broken", "unknown", "ok") if one in verdicts)
    strongest = max(
        monitors.values(), key=lambda m: (m.active, m.evidence.ratio if known(m.evidence.ratio) else 0.0)
    )
    psi, where = _psi(version, feature)
    drift, missing = monitors.get("histogram_drift"), monitors.get("missing_surge")
    distance = [
        words(_value(drift)),
        tag("small", words(f"PSI {psi:.3f}, {where}" if where else "PSI unknown")),
    ]
    said = (
        "drifts" if verdict == "broken" and strongest.key.detector == "histogram_drift" else VERDICTS[verdict]
    )
    if verdict == "broken" and strongest.key.detector == "missing_surge":
        said = "goes missing"
    badge = tag("span", words(said), class_=f"badge {verdict if verdict != 'broken' else _colour(strongest)}")
    evidence = join([draw.strength(strongest.evidence.ratio, strongest.active), Html(" "), badge])
    return [
        words(_OUTPUTS.get(feature, name(feature))),
        join(distance),
        words(_value(missing, "–")),
        evidence,
    ]


def _colour(monitor: MonitorView) -> str:
    return "broken" if monitor.severity == "page" else "warn"


def _value(monitor: MonitorView | None, none: str = UNKNOWN) -> str:
    if monitor is None:
        return none
    if monitor.evidence.warming_up:
        return tell.lacking(monitor)
    unit = tell.unit(monitor.key)
    high = monitor.evidence.tolerance[1]
    return number(monitor.evidence.value, unit) + (f" of {number(high, unit)}" if high is not None else "")


def _psi(version: VersionView, feature: str) -> tuple[float, str]:
    for window in windows(version):
        found = version.windows[window].drift.get(feature)
        if found is not None and known(found.psi):
            return found.psi, span(window)
    return 0.0, ""
