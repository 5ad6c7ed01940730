"""Red lines, tickets, and what was resolved: each with its evidence and a why in plain words."""

from __future__ import annotations

from collections.abc import Mapping

from agent.respond.page import account, tell
from agent.respond.page.html import NOTHING, Html, join, table, tag, text, words
from agent.respond.page.numbers import between, duration, moment
from agent.respond.page.vital import span
from agent.respond.view import AlarmView, ConstraintView, ModelView, MonitorView, Severity

MAX_CARDS = 20
MAX_LINES = 30
MAX_RESOLVED = 12
MAX_RELATED = 5


def active(model: ModelView, severity: Severity) -> list[AlarmView]:
    """The latched alarms of a severity, the newest first."""
    found = [a for a in model.alarms if a.resolved_ms is None and a.severity is severity]
    return sorted(found, key=lambda alarm: (-alarm.raised_ms, alarm.key))


def cards(model: ModelView, severity: Severity) -> Html:
    """What is wrong now; nothing where nothing is."""
    alarms = active(model, severity)
    if not alarms:
        return NOTHING
    page = severity is Severity.PAGE
    now = {monitor.key: monitor for monitor in model.monitors}
    shown = [_card(model, alarm, now.get(alarm.key)) for alarm in alarms[:MAX_CARDS]]
    rest = len(alarms) - len(shown)
    more = tag("p", words(f"… and {rest} more, in /status."), class_="faint") if rest else NOTHING
    head = f"Red lines broken ({len(alarms)})" if page else f"To look at: tickets ({len(alarms)})"
    return tag("section", tag("h3", words(head)), tag("div", *shown, class_="cards"), more)


def _card(model: ModelView, alarm: AlarmView, monitor: MonitorView | None) -> Html:
    key, evidence = alarm.key, alarm.evidence
    rows = [
        ("Tolerated", words(tell.tolerated(key, evidence))),
        ("Seen at the alarm", words(tell.seen(key, evidence))),
    ]
    if monitor is not None:
        rows.append(("Seen now", words(tell.seen(key, monitor.evidence))))
    rows.append(("Since", _since(model, alarm)))
    rows.append(("How sure", words(tell.certainty(key, evidence))))
    if asked := _asked(model, alarm):
        rows.append(("Asked for", join([words("retraining, "), asked])))
    for relation, term in (("suspect", "Suspects"), ("also_broken", "Also broken")):
        if others := [tell.title(one.key) for one in alarm.related if one.relation == relation]:
            rows.append((term, words("; ".join(others[:MAX_RELATED]))))
    if key.model_version:
        rows.append(("Version", text(key.model_version)))
    page = alarm.severity is Severity.PAGE
    badge = tag(
        "span", words("red line" if page else "ticket"), class_="badge broken" if page else "badge warn"
    )
    return tag(
        "article",
        tag("h4", badge, Html(" "), words(tell.title(key))),
        tag("p", words(tell.meaning(key, evidence))),
        tag("dl", *(join([tag("dt", words(term)), tag("dd", told)]) for term, told in rows)),
        class_="card alarm page" if page else "card alarm",
    )


def _since(model: ModelView, alarm: AlarmView) -> Html:
    if model.watermark_ms is None:
        return moment(alarm.raised_ms)
    ago = duration(model.watermark_ms - alarm.raised_ms)
    return join([moment(alarm.raised_ms), words(f" ({ago} ago, in event time)")])


def _asked(model: ModelView, alarm: AlarmView) -> Html | None:
    """When retraining was requested with this alarm in its evidence."""
    key = alarm.key
    parts = {"detector": key.detector, "feature": key.feature, "segment": key.segment, "metric": key.metric}
    for event in reversed(model.triggers):
        at, data = account.time_ms(event.get("time")), event.get("data")
        if at is None or at < alarm.raised_ms or not isinstance(data, Mapping):
            continue
        for entry in data.get("evidence", ()):
            if all((entry.get(part) or "") == value for part, value in parts.items()):
                return moment(at)
    return None


def lines(model: ModelView) -> Html:
    """The constraints in their order, and what is held back; nothing where the configuration has none."""
    parts = []
    if model.constraints:
        rows = [_line(one) for one in model.constraints[:MAX_LINES]]
        rest = len(model.constraints) - len(rows)
        caption = "In the order that was decided for them: of several that break, the first one pages"
        caption += f"; {rest} more in /status" if rest else ""
        parts.append(table(words(caption), ("Red line", "Bar", "Seen", "Verdict"), rows))
    if model.held:
        told = [f"{tell.title(alarm.key)} ({tell.reason(alarm.reason)})" for alarm in model.held[:MAX_LINES]]
        parts.append(tag("p", words("Held back, nobody is called:"), class_="faint"))
        parts.append(tag("ul", *(tag("li", words(one)) for one in told)))
    return tag("section", tag("h3", words("Red lines")), *parts) if parts else NOTHING


def _line(one: ConstraintView) -> list[Html]:
    key, unit = one.key, tell.unit(one.key)
    bar = between(one.minimum, one.maximum, unit) or "none yet"
    named = join(
        [words(tell.sentence(tell.plain(key.metric))), tag("small", text(key.segment or "everyone"))]
    )
    if one.broken:
        state, said = "broken", "broken"
    elif one.evidence.warming_up:
        state, said = "unknown", "not enough evidence"
    else:
        state, said = "ok", "ok"
    seen = tell.seen(key, one.evidence)
    badge = tag("span", words(said), class_=f"badge {state}")
    return [named, join([words(bar), tag("small", words(span(one.window)))]), words(seen), badge]


def resolved(model: ModelView) -> Html:
    """The alarms that are over, the newest first."""
    over = sorted((a for a in model.alarms if a.resolved_ms is not None), key=lambda a: (-a.raised_ms, a.key))
    if not over:
        return tag("p", words("No alarm has been resolved yet."), class_="faint")
    rows = [_over(alarm) for alarm in over[:MAX_RESOLVED]]
    rest = len(over) - len(rows)
    caption = words("The newest first" + (f"; {rest} earlier ones are in /status" if rest else ""))
    return table(caption, ("What", "Seen, and tolerated", "When", "Ended"), rows)


def _over(alarm: AlarmView) -> list[Html]:
    key, page = alarm.key, alarm.severity is Severity.PAGE
    badge = tag("span", words("page" if page else "ticket"), class_="badge was" if page else "badge")
    seen = [
        tag("span", words(tell.seen(key, alarm.evidence))),
        tag("small", words(f"tolerated: {tell.tolerated(key, alarm.evidence)}")),
    ]
    lasted = duration((alarm.resolved_ms or alarm.raised_ms) - alarm.raised_ms)
    when = [moment(alarm.raised_ms), tag("small", words(f"for {lasted}"))]
    return [
        join([badge, Html(" "), words(tell.title(key))]),
        join(seen),
        join(when),
        words(tell.reason(alarm.reason)),
    ]
