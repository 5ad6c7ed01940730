"""The report of a backtest: one JSON document, and the same as a plain page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from agent.respond.request import rfc3339
from agent.respond.view import OVERALL, AlarmView, MetricValue, ModelView, View, WindowView

LIFETIME = "lifetime"
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """What a backtest found."""

    view: View
    """After the last event."""
    windows: Mapping[str, Sequence[tuple[str, WindowView]]]
    """Model → closed windows in order, each with its name; one named "lifetime" sums up all versions."""
    rejected: Mapping[str, int]
    """Reason → records."""
    seconds: float


def to_json(report: Report) -> Json:
    """The document of `plumbline backtest --json`: plain JSON, no NaN or infinity.

    Lifetime values are those of the window "lifetime" of `windows`; where there is none, those of the version
    seen last.
    """
    return {
        "models": {
            name: _model(model, report.windows.get(name, ())) for name, model in report.view.models.items()
        },
        "rejected": dict(report.rejected),
        "seconds": report.seconds,
    }


def _model(model: ModelView, windows: Sequence[tuple[str, WindowView]]) -> Json:
    whole = _lifetime(model, windows)
    return {
        **{term: model.join.get(term, 0) for term in ("predictions", "feedback", "joined")},
        "metrics": {} if whole is None else _metrics(whole, OVERALL),
        "segments": {} if whole is None else _segments(whole),
        "windows": [_window(name, window) for name, window in windows if name != LIFETIME],
        "version_changes": [asdict(change) for change in model.changes],
        "experiments": [asdict(experiment) for experiment in model.experiments],
        "alarms": [_alarm(alarm) for alarm in model.alarms],
        "triggers": [dict(trigger) for trigger in model.triggers],
    }


def _lifetime(model: ModelView, windows: Sequence[tuple[str, WindowView]]) -> WindowView | None:
    given = [window for name, window in windows if name == LIFETIME]
    if given:
        return given[-1]
    newest = max(model.versions.values(), key=lambda version: version.last_seen_ms, default=None)
    return newest.windows.get(LIFETIME) if newest else None


def _metrics(window: WindowView, where: str) -> Json:
    values = window.metrics.get(where, {})
    return {metric: _value(value) for metric, value in values.items() if math.isfinite(value.value)}


def _value(value: MetricValue) -> Json:
    return {"value": value.value, "n": value.n, "low": _finite(value.low), "high": _finite(value.high)}


def _segments(window: WindowView) -> Json:
    segments: dict[str, Json] = {}
    for where in sorted({*window.counts, *window.metrics} - {OVERALL}):
        attribute, group = split_slice(where)
        metrics = {
            metric: {"value": value.value, "n": value.n}
            for metric, value in window.metrics.get(where, {}).items()
            if math.isfinite(value.value)
        }
        segments.setdefault(attribute, {})[group] = {"n": window.counts.get(where, 0), "metrics": metrics}
    return segments


def split_slice(where: str) -> tuple[str, str]:
    """Split "race=A" into ("race", "A") and the intersection "race=A,sex=M" into ("race,sex", "A,M")."""
    pairs = [part.partition("=") for part in where.split(",")]
    if all(equals for _, equals, _ in pairs):
        return ",".join(name for name, _, _ in pairs), ",".join(group for _, _, group in pairs)
    attribute, _, group = where.partition("=")
    return attribute, group


def _window(name: str, window: WindowView) -> Json:
    return {
        "window": name,
        "start": rfc3339(window.start_ms),
        "end": rfc3339(window.end_ms),
        "n": window.counts.get(OVERALL, 0),
        "metrics": _metrics(window, OVERALL),
        "drift": {
            feature: {"psi": _finite(d.psi), "kl": _finite(d.kl), "js": _finite(d.js)}
            for feature, d in window.drift.items()
        },
    }


def _alarm(alarm: AlarmView) -> Json:
    """Which version and metric it is about stands in the evidence, as does when it was resolved."""
    about = {
        "model_version": alarm.key.model_version,
        "metric": alarm.key.metric or None,
        "reason": alarm.reason,
    }
    resolved = {"resolved": None if alarm.resolved_ms is None else rfc3339(alarm.resolved_ms)}
    return {
        "time": rfc3339(alarm.raised_ms),
        "detector": alarm.key.detector,
        "feature": alarm.key.feature or None,
        "segment": alarm.key.segment or None,
        "severity": alarm.severity.value,
        "evidence": about | resolved | _plain(asdict(alarm.evidence) | {"ratio": alarm.evidence.ratio}),
    }


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _finite(value) if isinstance(value, float) else value


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1c2430}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}caption{text-align:left;font-weight:600}
th,td{padding:.2rem .8rem;border-bottom:1px solid #d7dce3;text-align:left}td.n{text-align:right;
font-variant-numeric:tabular-nums}tr.page td{background:#fde8e6}
"""


def to_html(report: Report) -> str:
    """The report as one page that needs nothing else: no script, no network."""
    document = to_json(report)
    body = [f"<p>{sum(document['rejected'].values()):,} records rejected; {document['seconds']:.1f} s.</p>"]
    body += _table("Rejected records", ("reason", "records"), document["rejected"].items())
    for name, model in document["models"].items():
        body += [f"<h2>{escape(name)}</h2>", *_model_html(model)]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Plumbline backtest</title>'
        f"<style>{_STYLE}</style><h1>Plumbline backtest</h1>{''.join(body)}</html>\n"
    )


def _model_html(model: Json) -> Iterator[str]:
    counts = (f"{model[key]:,} {key}" for key in ("predictions", "feedback", "joined"))
    raised = f"{len(model['alarms'])} alarms, {len(model['triggers'])} retraining requests"
    yield f"<p>{', '.join(counts)}; {raised}.</p>"
    alarms = (
        (a["time"], a["severity"], a["detector"], a["feature"] or a["segment"], a["evidence"]["reason"])
        for a in model["alarms"]
    )
    yield from _table("Alarms", ("time", "asks for", "detector", "where", "reason"), alarms)
    metrics = ((m, v["value"], v["low"], v["high"], v["n"]) for m, v in model["metrics"].items())
    yield from _table("Lifetime", ("metric", "value", "low", "high", "n"), metrics)
    for attribute, groups in model["segments"].items():
        names = sorted({metric for group in groups.values() for metric in group["metrics"]})
        rows = (
            (group, g["n"], *(g["metrics"].get(metric, {}).get("value") for metric in names))
            for group, g in groups.items()
        )
        yield from _table(f"By {attribute}", ("group", "n", *names), rows)
    metrics_shown = list(model["metrics"])[:6]
    windows = (
        (
            w["window"],
            w["start"],
            w["end"],
            w["n"],
            *(w["metrics"].get(m, {}).get("value") for m in metrics_shown),
        )
        for w in model["windows"]
    )
    yield from _table("Windows", ("window", "start", "end", "n", *metrics_shown), windows)


def _table(caption: str, head: Sequence[str], rows: Iterator[Sequence[Any]] | Any) -> Iterator[str]:  # noqa: ANN401
    filled = list(rows)
    if not filled:
        return
    yield f"<table><caption>{escape(caption)}</caption><tr>"
    yield "".join(f"<th>{escape(name)}</th>" for name in head)
    for row in filled:
        yield ('<tr class="page">' if "page" in row[1:2] else "<tr>") + "".join(map(_cell, row))
    yield "</table>"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f'<td class="n">{value:.4g}</td>'
    if isinstance(value, int):
        return f'<td class="n">{value:,}</td>'
    return f"<td>{'' if value is None else escape(str(value))}</td>"
