"""What became of everything: labels, retraining requests, versions, all numbers, and every record read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from agent.measure.catalogue import definition
from agent.respond.page import tell
from agent.respond.page.html import NOTHING, Html, join, name, table, tag, text, words
from agent.respond.page.numbers import GAP, duration, moment, number, unit_of
from agent.respond.page.vital import span, windows
from agent.respond.view import OVERALL, ModelView, VersionView, View

MAX_REQUESTS = 10
MAX_VERSIONS = 10
OUTCOMES = ("merged", "late", "duplicate", "dead_lettered", "ignored")


def requests(model: ModelView) -> Html:
    """Retraining requests, the newest first, and why others were not sent."""
    rows = [_request(event) for event in reversed(model.triggers[-MAX_REQUESTS:])]
    parts = []
    if rows:
        heads = ("When", "Why", "Labels to learn from", "Next one not before", "Did it pay?")
        parts.append(table(words("The newest first"), heads, rows))
    else:
        parts.append(tag("p", words("No retraining has been requested."), class_="faint"))
    if model.suppressed:
        told = [f"{tell.reason(r)}: {n:,}" for r, n in sorted(model.suppressed.items())]
        parts.append(tag("p", words(f"Not requested ({'; '.join(told)})."), class_="faint"))
    return join(parts)


def _request(event: Mapping[str, object]) -> list[Html]:
    data = event.get("data")
    told: Mapping[str, Any] = data if isinstance(data, Mapping) else {}
    why = tell.sentence(tell.reason(str(told.get("reason", "unknown"))))
    labels = told.get("labels")
    version = told.get("model_version")
    details = [f"version {name(str(version))}"] if version is not None else []
    details += ["dry run"] if told.get("dry_run") else []
    return [
        moment(time_ms(event.get("time"))),
        join([words(why), tag("small", words(", ".join(details)))]),
        words(f"{labels:,}" if isinstance(labels, int) else "unknown"),
        moment(time_ms(told["cooldown_until"])) if told.get("cooldown_until") else words("–"),
        _paid(event.get("verdict")),
    ]


def _paid(verdict: object) -> Html:
    """What the new version brought, once its own labels tell."""
    if not isinstance(verdict, Mapping):
        return words("not known yet")
    metric = str(verdict.get("metric", ""))
    rates = [verdict.get(which) for which in ("previous", "current")]
    values = [rate.get("value") if isinstance(rate, Mapping) else None for rate in rates]
    change = " → ".join(number(value, unit_of(metric)) for value in values)
    said = tell.sentence(tell.plain(str(verdict.get("verdict", "unknown"))))
    return join([words(said), tag("small", words(f"{tell.plain(metric)} {change}"))])


def time_ms(value: object) -> int | None:
    """An RFC 3339 time in milliseconds; None if it is none."""
    try:
        return round(datetime.fromisoformat(str(value)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def labels(model: ModelView, version: VersionView) -> Html:
    """How much of what was predicted is known to be right or wrong, and how old that knowledge is."""
    rows = []
    for window in windows(version):
        found = version.windows[window].metrics.get(OVERALL, {}).get("label_coverage")
        told = f"{number(found.value, 'share')} of {found.n:,}" if found else "not enough evidence"
        rows.append((f"Labelled, {span(window)}", words(told)))
    joint, now = model.joint_watermark_ms, model.watermark_ms
    behind = (
        f" ({duration(now - joint)} behind the predictions)" if joint is not None and now is not None else ""
    )
    rows.append(("Labels complete up to", join([moment(joint), words(behind)])))
    states = {
        "joined": "Predictions with their label",
        "pending": "Waiting for their label",
        "expired": "Given up: no label in time",
        "unknown_class": "Labels of a class that is not configured",
        "feedback": "Labels received",
    }
    rows += [(told, words(f"{model.join[state]:,}")) for state, told in states.items() if state in model.join]
    return tag(
        "dl", *(join([tag("dt", words(term)), tag("dd", shown)]) for term, shown in rows), class_="facts"
    )


def versions(model: ModelView, main: VersionView) -> Html:
    """The versions at work, the newest first."""
    newest = sorted(model.versions.values(), key=lambda v: (-v.first_seen_ms, v.version))
    rows = []
    for version in newest[:MAX_VERSIONS]:
        badge = tag("span", words("learning"), class_="badge unknown") if version.learning else words("known")
        shown = " (shown above)" if version is main and len(newest) > 1 else ""
        n = next((version.windows[w].counts.get(OVERALL, 0) for w in reversed(windows(version))), None)
        rows.append(
            [
                join([text(version.version), words(shown)]),
                moment(version.first_seen_ms),
                moment(version.last_seen_ms),
                words("unknown" if n is None else f"{n:,}"),
                badge,
            ]
        )
    rest = len(newest) - len(rows)
    caption = words("At work now" + (f"; {rest} more in /status" if rest else ""))
    shown = table(caption, ("Version", "First seen", "Last seen", "Predictions", "Baseline"), rows)
    return join([shown, _changes(model)])


def _changes(model: ModelView) -> Html:
    """What the newest version changed, in one row a metric; nothing where there was none before."""
    if not model.changes:
        return NOTHING
    rows = []
    for one in model.changes:
        unit = unit_of(one.metric)
        known = {True: "better", False: "worse", None: "nobody can tell yet"}[one.better]
        bar = {True: "allowed", False: "beyond its red line", None: ""}[one.allowed]
        told = f"{number(one.previous_value.value, unit)} → {number(one.value.value, unit)}"
        rows.append([words(tell.plain(one.metric)), words(told), words(known), words(bar)])
    caption = words(f"Against version {name(model.changes[0].previous)}, over the lifetime of both")
    return table(caption, ("Metric", "Before → now", "Is it?", "Red line"), rows)


def numbers(version: VersionView) -> Html:
    """Every overall number with its definition, folded away."""
    names = windows(version)
    metrics = sorted({m for w in names for m in version.windows[w].metrics.get(OVERALL, {})})
    rows = [[join(_defined(metric)), *_values(version, names, metric)] for metric in metrics]
    if not rows:
        return tag("p", words("Not enough evidence for any number yet."), class_="faint")
    shown = table(words("With what each one means"), ("Metric", *map(span, names)), rows)
    return tag("details", tag("summary", words(f"All {len(rows)} numbers, with their definitions")), shown)


def _defined(metric: str) -> Iterator[Html]:
    base, _, of_class = metric.partition(":")
    yield words(tell.sentence(tell.plain(base)) + (f", class {name(of_class)}" if of_class else ""))
    if meaning := definition(base):
        yield tag("small", words(meaning))


def _values(version: VersionView, names: list[str], metric: str) -> Iterator[Html]:
    for window in names:
        found = version.windows[window].metrics.get(OVERALL, {}).get(metric)
        if found is None:
            yield tag("small", words("not enough evidence"))
        else:
            told = number(found.value, unit_of(metric.partition(":")[0]))
            yield join([words(told), tag("small", words(f"n{GAP}={GAP}{found.n:,}"))])


def records(view: View) -> Html:
    """Every record read, and what became of it: the sum must be right."""
    read: dict[str, int] = {}
    became: dict[str, dict[str, int]] = {}
    reasons: dict[str, int] = {}
    for key, count in view.counters.items():
        labels = dict(key.labels)
        topic = labels.get("topic", "")
        if key.name == "records_read":
            read[topic] = read.get(topic, 0) + count
        elif key.name == "records":
            outcome = labels.get("outcome", "")
            became.setdefault(topic, {})[outcome] = became.get(topic, {}).get(outcome, 0) + count
        elif key.name == "dead_letters":
            reasons[labels.get("reason", "")] = reasons.get(labels.get("reason", ""), 0) + count
    if not read and not became:
        return tag("p", words("No record has been read yet."), class_="faint")
    rows = [_topic(topic, read.get(topic), became.get(topic, {})) for topic in sorted({*read, *became})]
    why = NOTHING
    if reasons:
        told = "; ".join(f"{tell.plain(reason)}: {n:,}" for reason, n in sorted(reasons.items()))
        why = tag("p", words(f"Dead-lettered, by reason: {told}."))
    caption = words("Read = merged + late + duplicate + dead-lettered + ignored, exactly")
    heads = ("Topic", "Read", "Merged", "Late", "Duplicate", "Dead-lettered", "Ignored", "Adds up")
    return join([table(caption, heads, rows), why])


def _topic(topic: str, read: int | None, became: Mapping[str, int]) -> list[Html]:
    missing = None if read is None else read - sum(became.values())
    if missing is None:
        sums = tag("span", words("unknown"), class_="badge unknown")
    elif missing:
        sums = tag(
            "span",
            words(f"no: {abs(missing):,} {'missing' if missing > 0 else 'too many'}"),
            class_="badge broken",
        )
    else:
        sums = tag("span", words("yes"), class_="badge ok")
    counts = [words(f"{became.get(outcome, 0):,}") for outcome in OUTCOMES]
    return [text(topic), words("unknown" if read is None else f"{read:,}"), *counts, sums]
