"""The fairness table: each group's rates, its ratio to those it is compared with, a three-valued verdict."""

from __future__ import annotations

from collections.abc import Iterator

from agent.respond.page import draw, tell
from agent.respond.page.html import NOTHING, Html, join, name, table, tag, text, words
from agent.respond.page.numbers import GAP, between, number
from agent.respond.page.vital import span, windows
from agent.respond.view import MetricValue, ModelView, MonitorView, VersionView
from detectors.fairness.ratio import MIN_GROUP

MAX_ROWS = 40
_ORDER = {"broken": 0, "unknown": 1, "ok": 2}
_RATES = {"true_positive_rate": "recall"}
"""Where the metric of a ratio has another id among the rates."""
VERDICTS = {"broken": "broken", "ok": "ok", "unknown": "not enough evidence"}


def fairness(model: ModelView, version: VersionView) -> Html:
    """One version's groups, the broken ones first."""
    monitors = [
        m
        for m in model.monitors
        if m.key.detector == "group_ratio" and m.key.model_version == version.version
    ]
    if not monitors:
        return tag("p", words(_no_groups(version)), class_="faint")
    monitors.sort(key=lambda m: (_ORDER[tell.verdict(m)], -m.evidence.ratio, m.key))
    rows = [_row(version, monitor) for monitor in monitors[:MAX_ROWS]]
    rows += _references(version, {m.key.segment for m in monitors}, sorted({m.key.metric for m in monitors}))
    rest = len(monitors) - min(len(monitors), MAX_ROWS)
    caption = words(
        "Each group against those it is compared with (everyone else, or the configured reference group)."
        " The shaded band is tolerated; the line is the 95 % interval, which holds at every look."
        + (f" {rest} more rows are in /status." if rest else "")
    )
    return table(caption, ("Group", "Its rate", "Ratio", "Verdict"), rows)


def _row(version: VersionView, monitor: MonitorView) -> list[Html]:
    key, evidence, verdict = monitor.key, monitor.evidence, tell.verdict(monitor)
    rate, where = _rate(version, key.segment, key.metric)
    if verdict == "unknown":
        ratio = tag("small", words(tell.lacking(monitor, _events(version, monitor))))
    else:
        told = f"{number(evidence.value, 'times')} ({between(evidence.low, evidence.high, 'times')})"
        told += f", n{GAP}={GAP}{evidence.samples:,}"
        tolerated = tag("small", words(f"tolerated {tell.tolerated(key, evidence)}"))
        drawn = draw.interval(evidence.value, evidence.low, evidence.high, evidence.tolerance)
        ratio = join([drawn, tag("span", words(told)), tolerated])
    badge = tag("span", words(VERDICTS[verdict]), class_=f"badge {verdict}")
    group = join([text(key.segment), tag("small", words(tell.plain(key.metric)))])
    return [group, _shown(rate, where), ratio, badge]


def _references(version: VersionView, judged: set[str], metrics: list[str]) -> Iterator[list[Html]]:
    """Groups that are only compared with: their rates, so that the others' can be seen beside them."""
    attributes = {_attributes(segment) for segment in judged}
    for segment in sorted({s for w in version.windows.values() for s in w.counts if s} - judged)[:MAX_ROWS]:
        if _attributes(segment) not in attributes:
            continue
        for metric in metrics:
            rate, where = _rate(version, segment, metric)
            group = join([text(segment), tag("small", words(tell.plain(metric)))])
            yield [group, _shown(rate, where), words("compared with"), NOTHING]


def _attributes(segment: str) -> tuple[str, ...]:
    return tuple(part.partition("=")[0] for part in segment.split(","))


def _rate(version: VersionView, segment: str, metric: str) -> tuple[MetricValue | None, str]:
    for window in windows(version):
        found = version.windows[window].metrics.get(segment, {}).get(_RATES.get(metric, metric))
        if found is not None:
            return found, span(window)
    return None, ""


def _shown(rate: MetricValue | None, where: str) -> Html:
    if rate is None:
        return tag("small", words("not enough evidence"))
    return join([words(number(rate.value, "share")), tag("small", words(f"n{GAP}={GAP}{rate.n:,}, {where}"))])


def _events(version: VersionView, monitor: MonitorView) -> int | None:
    """Events of the group behind its ratio, where the view tells: those of all predictions."""
    if monitor.key.metric != "selection_rate" or "lifetime" not in version.windows:
        return None
    return min(version.windows["lifetime"].counts.get(monitor.key.segment, 0), MIN_GROUP)


def _no_groups(version: VersionView) -> str:
    segments = sorted({s for w in version.windows.values() for s in w.counts if s})
    if segments:
        return f"Groups are counted ({', '.join(map(name, segments[:8]))}), but no ratio has been judged yet."
    return "No groups are configured: name attributes under `segments` to see them."
