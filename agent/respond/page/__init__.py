"""The status page: the committed view for someone who has no Grafana.

Server-rendered, one document without scripts or further requests, written only when somebody asks for it.

html       the only makers of markup: they escape
numbers    numbers, times and durations as people read them
tell       what alarms and verdicts mean, in plain words
vital      the few numbers of the first screen
history    what the sparklines show
cards      the first screen
draw       sparklines and intervals as SVG
alarms, groups, experiments, inputs, account   the sections
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template
from urllib.parse import quote

from agent.respond.expose import Runtime
from agent.respond.page import account, alarms, cards, experiments, groups, inputs, tell
from agent.respond.page.history import History, noted
from agent.respond.page.html import NOTHING, Html, join, name, table, tag, text, words
from agent.respond.page.numbers import moment, number
from agent.respond.page.vital import main_version, vitals
from agent.respond.view import ModelView, Severity, View

__all__ = ["HEADERS", "REFRESH_S", "History", "noted", "render"]

REFRESH_S = 15
MAX_MODELS = 6
"""Shown in full on the first page, the worst first; the others have a page each."""
MAX_LISTED = 500

_here = files(__name__)
_STYLE = _here.joinpath("page.css").read_text("utf-8")
_SHELL = Template(_here.joinpath("page.html").read_text("utf-8"))
_HASH = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_HASH}'; img-src data:;"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Sent with the page: nothing is loaded, from nowhere; the style sheet is known by its hash."""

_COLOURS = {"broken": "#c4251b", "warn": "#b26a00", "unknown": "#5f6b7a", "ok": "#1a7f4b"}
_ORDER = ("broken", "warn", "unknown", "ok")


def render(
    view: View,
    history: History | None = None,
    runtime: Runtime | None = None,
    *,
    model_name: str | None = None,
    paused: bool = False,
    stalled_s: float | None = None,
) -> bytes:
    """The page of all models, or of one that the view has; `paused`: it does not refresh itself.

    `stalled_s`: the processing has stood still for so long, and the page says that it is old.
    """
    ranked = sorted(view.models.values(), key=lambda m: (_ORDER.index(_state(m)), -_pages(m), m.name))
    chosen = [m for m in ranked if m.name == model_name] if model_name is not None else ranked[:MAX_MODELS]
    state = _state(*chosen) if chosen else "unknown"
    if stalled_s is not None or (runtime is not None and not runtime.connected):
        state = "broken" if state == "broken" else "warn"
    body = join(
        [
            _warnings(runtime, stalled_s),
            _fleet(ranked) if len(ranked) > 1 and model_name is None else NOTHING,
            *(_model(model, history or {}) for model in chosen),
            NOTHING if ranked else _nothing_yet(),
            tag(
                "section",
                tag("h2", words("Every record accounted for")),
                account.records(view),
                class_="model",
            ),
        ]
    )
    pages = sum(_pages(model) for model in chosen)
    whole = _SHELL.substitute(
        title=text(f"{pages} red · Plumbline" if pages else "Plumbline"),
        refresh=NOTHING if paused else Html(f'<meta http-equiv="refresh" content="{REFRESH_S}">'),
        icon=quote(_icon(_COLOURS[state])),
        style=_STYLE,
        headline=_headline(ranked, chosen),
        state=state,
        updated=_updated(view, model_name, paused),
        body=body,
        version=text(view.agent_version or "unknown"),
    )
    return whole.encode()


def _headline(ranked: Sequence[ModelView], chosen: Sequence[ModelView]) -> Html:
    if not ranked:
        return words("No model has been seen yet")
    told = chosen if len(chosen) == 1 else ranked
    pages = sum(_pages(model) for model in told)
    tickets = sum(len(alarms.active(model, Severity.TICKET)) for model in told)
    subject = name(told[0].name) if len(told) == 1 else f"{len(ranked)} models"
    if pages:
        lines = "red line is broken" if pages == 1 else "red lines are broken"
        return words(f"{subject}: {pages} {lines}")
    if tickets:
        return words(f"{subject}: no red line broken, {tickets} to look at")
    if all(_state(model) == "unknown" for model in told):
        return words(f"{subject}: not enough evidence yet")
    return words(f"{subject}: no red line broken")


def _updated(view: View, model_name: str | None, paused: bool) -> Html:
    query = f"model={quote(model_name, safe='', errors='replace')}" if model_name is not None else ""
    other = "&".join(part for part in (query, "" if paused else "paused") if part)
    link = tag("a", words("resume" if paused else "pause"), href=f"/?{other}" if other else "/")
    when = moment(round(view.committed_at_s * 1000)) if view.commits else words("never")
    how = "does not refresh itself" if paused else f"refreshes every {REFRESH_S} s"
    back = (
        join([words(" · "), tag("a", words("all models"), href="/")]) if model_name is not None else NOTHING
    )
    return join([words("Last commit "), when, words(f" · {how}, "), link, back])


def _warnings(runtime: Runtime | None, stalled_s: float | None) -> Html:
    told = []
    if stalled_s is not None:
        told.append(f"Processing has stood still for {stalled_s:.0f} s: everything below is old.")
    if runtime is not None and not runtime.connected:
        told.append(
            "The source of events cannot be reached: nothing new arrives, and what stops is not seen."
        )
    return join(tag("p", words(one), class_="notice", role="alert") for one in told)


def _nothing_yet() -> Html:
    return tag(
        "section",
        tag("h2", words("Nothing to show yet")),
        tag(
            "p",
            words("Models appear with their first prediction; `plumbline doctor` checks what is in the way."),
        ),
        class_="model",
    )


def _fleet(ranked: Sequence[ModelView]) -> Html:
    rows = []
    for model in ranked[:MAX_LISTED]:
        link = tag("a", text(model.name), href=f"/?model={quote(model.name, safe='', errors='replace')}")
        state = _state(model)
        badge = tag("span", words(_told(model)), class_=f"badge {state}")
        quality = next(iter(vitals(model)), None)
        shown = (
            words(f"{quality.name} {number(quality.value, quality.unit)}") if quality else words("unknown")
        )
        rows.append([link, badge, shown, moment(model.watermark_ms)])
    rest = len(ranked) - len(rows)
    caption = words("The worst first" + (f"; {rest} more in /status" if rest else ""))
    heads = ("Model", "State", "First number", "Complete up to")
    return tag("section", tag("h2", words("All models")), table(caption, heads, rows), class_="model")


def _model(model: ModelView, history: History) -> Html:
    version = main_version(model)
    head = [
        tag(
            "h2",
            text(model.name),
            Html(" "),
            tag("span", words(_told(model)), class_=f"badge {_state(model)}"),
        ),
        tag("p", _about(model), class_="faint"),
    ]
    if version is None:
        return tag("section", *head, tag("p", words("No version has been seen yet.")), class_="model")
    return tag(
        "section",
        *head,
        alarms.cards(model, Severity.PAGE),
        _block("Vital numbers", cards.vital_numbers(model, history)),
        alarms.lines(model),
        alarms.cards(model, Severity.TICKET),
        _block("Fairness", groups.fairness(model, version)),
        _block("Experiments", experiments.experiments(model)) if model.experiments else NOTHING,
        _block("Drift suspects", inputs.suspects(model, version)),
        _block("Retraining", account.requests(model)),
        _block("Labels", account.labels(model, version)),
        _block("Resolved alarms", alarms.resolved(model)),
        _block("Versions", account.versions(model, version)),
        _block("All numbers", account.numbers(version)),
        class_="model",
    )


def _block(title: str, *parts: Html) -> Html:
    return tag("section", tag("h3", words(title)), *parts)


def _about(model: ModelView) -> Html:
    version = main_version(model)
    told = [words(f"{tell.plain(model.task)} model")]
    if version is not None:
        told.append(join([words("version "), text(version.version)]))
        if version.learning:
            told.append(tag("span", words("still learning its baseline"), class_="badge unknown"))
    told.append(join([words("events complete up to "), moment(model.watermark_ms)]))
    if model.reviews_due:
        told.append(words(f"metrics due for review: {model.reviews_due}"))
    return join(told, " · ")


def _pages(model: ModelView) -> int:
    return len(alarms.active(model, Severity.PAGE))


def _state(*models: ModelView) -> str:
    """The worst of several models: broken, warn (tickets), unknown, ok."""
    found = {_state_of(model) for model in models}
    return next((one for one in _ORDER if one in found), "unknown")


def _state_of(model: ModelView) -> str:
    if _pages(model):
        return "broken"
    if alarms.active(model, Severity.TICKET):
        return "warn"
    judged = [m for m in model.monitors if not m.evidence.warming_up]
    return "ok" if judged else "unknown"


def _told(model: ModelView) -> str:
    pages, tickets = _pages(model), len(alarms.active(model, Severity.TICKET))
    if pages:
        return f"{pages} red"
    if tickets:
        return f"{tickets} to look at"
    return "no red line broken" if _state_of(model) == "ok" else "not enough evidence"


def _icon(colour: str) -> str:
    circle = f'<circle cx="8" cy="8" r="7" fill="{colour}"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">{circle}</svg>'
