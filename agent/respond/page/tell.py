"""What an alarm and a verdict mean, in words for people who never saw the code."""

from __future__ import annotations

from typing import NamedTuple

from agent.measure.launch import NAME as SINCE_LAUNCH
from agent.measure.redlines import ALPHA as LINE_ALPHA
from agent.measure.redlines import PAIR, RED_LINE
from agent.respond.page.html import name
from agent.respond.page.numbers import Unit, between, number, unit_of
from agent.respond.view import MonitorKey, MonitorView
from detectors import REGISTRY, Evidence, Verdict
from detectors.edetector import ALPHA
from detectors.fairness.ratio import MIN_GROUP
from detectors.rate import RateDetector

RATE_EVENTS = 30
"""Events that a detector of one rate must have seen before it has a verdict."""


class _Words(NamedTuple):
    title: str
    what: str
    """What its value is."""
    unit: Unit


_WORDS = {
    "rate_drop": _Words("{metric} is worse than tolerated", "{metric}", "share"),
    "group_ratio": _Words("{metric} of {segment} is out of proportion", "{metric} of {segment}", "times"),
    "histogram_drift": _Words(
        "{feature} no longer looks as in the baseline", "distance of {feature} from the baseline", "plain"
    ),
    "missing_surge": _Words("{feature} goes missing", "share of {feature} missing", "share"),
    "confidence_collapse": _Words(
        "The model is no longer confident", "share of confident predictions", "share"
    ),
    "constant_predictions": _Words(
        "Predictions hardly vary", "share of the most frequent prediction", "share"
    ),
    "volume_drop": _Words("Predictions have stopped coming", "predictions per step", "plain"),
    "volume_surge": _Words("Far too many predictions come", "predictions per step", "plain"),
    "dead_segment": _Words("{segment} has fallen silent", "predictions of {segment} per step", "plain"),
    "error_surge": _Words("The model answers with errors", "share of errors", "share"),
    "invalid_surge": _Words("{feature} has values of the wrong type", "share invalid", "share"),
    "unseen_surge": _Words("{feature} has new categories", "share of unseen categories", "share"),
    "overconfidence": _Words("The model is sure of everything", "share of nearly sure predictions", "share"),
    "labels_late": _Words("Labels are late", "share labelled by their usual age", "share"),
    "version_drop": _Words("{metric} is worse than the last version's", "{metric}", "share"),
    "slow_answers": _Words("Answers take longer", "share of slow answers", "share"),
}
_SAID = {
    "labels_late": "{value} of the predictions have their label by the age at which {was} used to.",
    "version_drop": "The {metric} of this version is {value}; that of the one before was {was}.",
    "error_surge": "{value} of the requests are answered with an error; on the baseline {was}.",
    "missing_surge": "{feature} is missing from {value} of the requests; on the baseline from {was}.",
    "invalid_surge": "{value} of the values of {feature} are of the wrong type; on the baseline {was}.",
    "unseen_surge": "{value} of the values of {feature} are categories that the baseline has not.",
    "overconfidence": "{value} of the predictions are as sure as only {was} used to be.",
    "slow_answers": "{value} of the answers take as long as only {was} used to.",
    "volume_surge": "{value} predictions arrive in a step; {was} were expected.",
    "volume_drop": "{value} predictions arrive in a step; {was} were expected.",
    "dead_segment": "{value} predictions of {segment} arrive in a step; {was} were expected.",
}
_OTHERS = {
    RED_LINE: "{metric}{of} is beyond its red line",
    PAIR: "{metric} gets better while what guards it gets worse",
    SINCE_LAUNCH: "{metric} is worse than at launch",
}
"""Those whose value is the metric itself, in its own unit."""
_RATIOS = {
    "selection_rate": "{segment} is predicted positive {value} as often as those it is compared with.",
    "false_positive_rate": (
        "{segment} is wrongly predicted positive {value} as often as those it is compared with."
    ),
    "true_positive_rate": "Positives of {segment} are found {value} as often as those of the others.",
    "precision": "Of {segment}, positive predictions are right {value} as often as those of the others.",
}
REASONS = {
    "constraint_broken": "a red line is broken",
    "drift_confirmed": "drift, and the model has become worse with it",
    "performance_drop": "the model has become worse",
    "already_requested": "already requested for this incident",
    "cooldown": "too soon after the last request",
    "not_enough_labels": "too few labels to learn from",
    "dry_run": "dry run: nothing is sent",
    "version_replaced": "the version was replaced",
    "recovered": "recovered",
    "fired": "active",
    "escalated": "a ticket that became a page",
    "auc_drop": "the ROC AUC has dropped since launch",
    "false_positives": "too many false positives against launch",
    "stale": "the model is old",
    "manual": "somebody asked for it",
    "max_requests": "enough requests in this period",
    "constraint_order": "a red line that comes before it is broken and pages",
    "maintenance": "maintenance",
    "backfill": "old data is being filled in",
    "retired": "the metric is retired",
    "not_enough_evidence": "not enough evidence",
}


def plain(identifier: str) -> str:
    """An id in words: false_positive_rate → false positive rate."""
    return name(identifier).replace("_", " ")


def reason(identifier: str) -> str:
    """Why something was decided."""
    return REASONS.get(identifier, plain(identifier))


def title(key: MonitorKey) -> str:
    """What happened."""
    if key.detector in _OTHERS:
        of = f" of {name(key.segment)}" if key.segment else ""
        return sentence(_OTHERS[key.detector].format(**_names(key), of=of))
    found = _WORDS.get(key.detector)
    if found is None:
        told = " ".join(part for part in (key.metric, key.feature, key.segment) if part)
        return sentence(f"{plain(key.detector)} {name(told)}".strip())
    told = found.title.format(**_names(key))
    return sentence(told) if key.metric or told.startswith("the ") else told


def what(key: MonitorKey) -> str:
    """What the detector's value is."""
    found = _WORDS.get(key.detector)
    return "value" if found is None else found.what.format(**_names(key))


def unit(key: MonitorKey) -> Unit:
    """The unit of the detector's value."""
    found = _WORDS.get(key.detector)
    if found is None:
        return unit_of(key.metric) if key.detector in _OTHERS else "plain"
    return found.unit


def meaning(key: MonitorKey, evidence: Evidence) -> str:
    """One sentence that a product manager can repeat."""
    value, was = number(evidence.value, unit(key)), number(evidence.reference, unit(key))
    names = {**_names(key), "value": value.replace("×", "times"), "was": was}
    if key.detector in _SAID:
        return _SAID[key.detector].format(**names)
    match key.detector:
        case "group_ratio":
            return _RATIOS.get(key.metric, "{metric} of {segment} is {value} that of the others.").format(
                **names
            )
        case "rate_drop":
            return f"{sentence(plain(key.metric))} is {value}; on the baseline it was {was}."
        case "confidence_collapse":
            return f"{value} of the predictions are as sure as half of them ({was}) used to be."
        case "constant_predictions":
            return f"{value} of all predictions are nearly the same; on the baseline {was}."
        case "histogram_drift":
            return f"The distribution of {_names(key)['feature']} has changed. That alone is no harm yet."
    if key.detector in _OTHERS:
        of = f" of {name(key.segment)}" if key.segment else ""
        return f"{sentence(plain(key.metric))}{of} is {value}."
    return ""


def tolerated(key: MonitorKey, evidence: Evidence) -> str:
    """The band in which nobody is called."""
    return between(*evidence.tolerance, unit(key)) or "no bar"


def seen(key: MonitorKey, evidence: Evidence) -> str:
    """The value, its interval, and on how many events it stands."""
    interval = between(evidence.low, evidence.high, unit(key))
    kind = f"{100 * (1 - ALPHA):.0f} % interval" if key.detector in _WORDS else "interval"
    interval = f" ({kind} {interval})" if interval else ""
    return f"{number(evidence.value, unit(key))}{interval}, from {evidence.samples:,} events"


def certainty(key: MonitorKey, evidence: Evidence) -> str:
    """How far the evidence is from its bar, and what that bar promises."""
    ratio = number(evidence.ratio, "times")
    if key.detector in (RED_LINE, PAIR):
        return (
            f"It alarms when the whole interval is beyond the bar, and the interval holds at every look:"
            f" at most {100 * LINE_ALPHA:.0f} % wrong in the life of a version."
        )
    if key.detector in _WORDS:
        budget = f"The evidence is {ratio} the bar that keeps false alarms within their budget."
        return f"{budget} Intervals hold at every look."
    return f"The evidence is {ratio} its bar."


def verdict(monitor: MonitorView) -> str:
    """Broken (latched), ok or unknown: never a guess."""
    if monitor.active:
        return "broken"
    return "unknown" if monitor.evidence.verdict is Verdict.NOT_ENOUGH else "ok"


def lacking(monitor: MonitorView, group_events: int | None = None) -> str:
    """What is missing for a verdict. `group_events`: of the smaller group, where it is known."""
    detector, evidence = monitor.key.detector, monitor.evidence
    if detector == "group_ratio":
        if group_events is not None and group_events < MIN_GROUP:
            return f"not enough evidence: {group_events} of {MIN_GROUP} in the group"
        return f"not enough evidence: each group needs {MIN_GROUP} events"
    if issubclass(REGISTRY.get(detector, object), RateDetector):
        return f"not enough evidence: {min(evidence.samples, RATE_EVENTS)} of {RATE_EVENTS} events"
    if detector in ("volume_drop", "volume_surge", "dead_segment"):
        return "not enough evidence: what is usual is still being learned"
    return f"not enough evidence: {evidence.samples:,} events"


def sentence(told: str) -> str:
    """With a capital, unless it begins with a name as it is spelled elsewhere."""
    first = told.split(" ", 1)[0]
    return told if "_" in first or "=" in first else told[:1].upper() + told[1:]


def _names(key: MonitorKey) -> dict[str, str]:
    feature = {"score": "the score", "predicted": "the prediction", "prediction": "the prediction"}
    return {
        "metric": plain(key.metric),
        "segment": name(key.segment),
        "feature": feature.get(key.feature, name(key.feature)),
    }
