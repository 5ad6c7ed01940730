"""The life of an alarm: latched when a detector fires, resolved when it has recovered and stayed quiet.

Pure: detectors' answers and event time in, transitions out. Every answer has a reason, also "no", and all
are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from agent.respond.view import AlarmView, MonitorKey, Severity
from detectors import Evidence, Verdict

MIN_HOLD_MS = 15 * 60_000
"""An alarm stays at least so long after it last fired: one that comes and goes in minutes helps nobody."""

MAX_RESOLVED = 200
"""Resolved alarms that are remembered, per model; the earliest resolved is forgotten first."""


class Reason(StrEnum):
    """Why an alarm changed, or why it did not."""

    FIRED = "fired"
    ESCALATED = "escalated"
    """It was a ticket, and fired again as a page."""
    RECOVERED = "recovered"
    VERSION_REPLACED = "version_replaced"
    QUIET = "quiet"
    NOT_ENOUGH_EVIDENCE = "not_enough_evidence"
    ALREADY_ACTIVE = "already_active"
    NOT_RECOVERED = "not_recovered"
    HELD = "held"
    """Recovered, but it fired less than MIN_HOLD_MS ago."""


class Change(StrEnum):
    """What a transition does to the alarm."""

    RAISED = "raised"
    ESCALATED = "escalated"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of one alarm, at an event time."""

    change: Change
    reason: Reason
    at_ms: int
    alarm: AlarmView
    """After the change."""
    family: str


@dataclass(frozen=True, slots=True)
class ActiveAlarm:
    """An alarm that is latched now."""

    view: AlarmView
    family: str
    last_fired_ms: int


class Alarms:
    """The alarms of one model.

    Rule: an inactive monitor that fires is raised; an active one that fires starts its hold again (and rises
    from ticket to page if it fires as a page); an active one that has recovered is resolved once MIN_HOLD_MS
    of event time have gone by since it last fired. Firing beats recovering.
    """

    def __init__(self) -> None:
        self._active: dict[MonitorKey, ActiveAlarm] = {}
        self._resolved: list[AlarmView] = []  # in the order of resolution
        self._counts: Counter[Reason] = Counter()

    def apply(
        self,
        key: MonitorKey,
        severity: Severity,
        family: str,
        fired: bool,
        recovered: bool,
        evidence: Evidence,
        at_ms: int,
    ) -> Transition | None:
        """Take in what a detector says after one step; the reason, also of None, is counted in `counts`."""
        active = self._active.get(key)
        if active is None:
            if fired:
                return self._raise(key, severity, family, evidence, at_ms)
            not_enough = evidence.verdict is Verdict.NOT_ENOUGH
            return self._unchanged(Reason.NOT_ENOUGH_EVIDENCE if not_enough else Reason.QUIET)
        if fired:
            return self._fire_again(active, severity, evidence, at_ms)
        if not recovered:
            return self._unchanged(Reason.NOT_RECOVERED)
        if at_ms - active.last_fired_ms < MIN_HOLD_MS:
            return self._unchanged(Reason.HELD)
        return self._resolve(key, Reason.RECOVERED, at_ms)

    def resolve_version(self, model_version: str, at_ms: int) -> Sequence[Transition]:
        """Resolve every alarm of a version that was replaced, whatever its hold; in the order of the keys."""
        gone = sorted(key for key in self._active if key.model_version == model_version)
        return [self._resolve(key, Reason.VERSION_REPLACED, at_ms) for key in gone]

    def is_active(self, key: MonitorKey) -> bool:
        """Is the alarm of this monitor latched?"""
        return key in self._active

    @property
    def active(self) -> Sequence[ActiveAlarm]:
        """The latched alarms, the newest last."""
        return sorted(self._active.values(), key=lambda alarm: _age(alarm.view))

    @property
    def history(self) -> Sequence[AlarmView]:
        """Every active alarm and the last MAX_RESOLVED resolved ones, the newest raised last."""
        return sorted([*self._resolved, *(a.view for a in self._active.values())], key=_age)

    @property
    def counts(self) -> Mapping[Reason, int]:
        """How often each reason was given; never goes down."""
        return dict(sorted(self._counts.items()))

    def state(self) -> dict[str, Any]:
        """Everything, safe and exact in JSON."""
        return {
            "active": [
                {"alarm": _alarm_state(a.view), "family": a.family, "last_fired_ms": a.last_fired_ms}
                for _, a in sorted(self._active.items())
            ],
            "resolved": [_alarm_state(alarm) for alarm in self._resolved],
            "counts": {reason.value: n for reason, n in self.counts.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; what was there before is forgotten."""
        alarms = [ActiveAlarm(_alarm(s["alarm"]), s["family"], s["last_fired_ms"]) for s in state["active"]]
        self._active = {alarm.view.key: alarm for alarm in alarms}
        self._resolved = [_alarm(s) for s in state["resolved"]]
        self._counts = Counter({Reason(reason): n for reason, n in state["counts"].items()})

    def _unchanged(self, reason: Reason) -> Transition | None:
        self._counts[reason] += 1
        return None

    def _raise(
        self, key: MonitorKey, severity: Severity, family: str, evidence: Evidence, at_ms: int
    ) -> Transition:
        alarm = AlarmView(key, severity, at_ms, None, evidence, Reason.FIRED)
        self._active[key] = ActiveAlarm(alarm, family, at_ms)
        self._counts[Reason.FIRED] += 1
        return Transition(Change.RAISED, Reason.FIRED, at_ms, alarm, family)

    def _fire_again(
        self, active: ActiveAlarm, severity: Severity, evidence: Evidence, at_ms: int
    ) -> Transition | None:
        alarm = active.view
        escalates = severity is Severity.PAGE and alarm.severity is Severity.TICKET
        if escalates:
            alarm = replace(alarm, severity=severity, evidence=evidence, reason=Reason.ESCALATED)
        self._active[alarm.key] = ActiveAlarm(alarm, active.family, max(active.last_fired_ms, at_ms))
        if not escalates:
            return self._unchanged(Reason.ALREADY_ACTIVE)
        self._counts[Reason.ESCALATED] += 1
        return Transition(Change.ESCALATED, Reason.ESCALATED, at_ms, alarm, active.family)

    def _resolve(self, key: MonitorKey, reason: Reason, at_ms: int) -> Transition:
        active = self._active.pop(key)
        # A version may be replaced "before" its alarm: event times come from different clocks.
        ended_ms = max(at_ms, active.view.raised_ms)
        alarm = replace(active.view, resolved_ms=ended_ms, reason=reason)
        self._resolved = [*self._resolved, alarm][-MAX_RESOLVED:]
        self._counts[reason] += 1
        return Transition(Change.RESOLVED, reason, ended_ms, alarm, active.family)


def _age(alarm: AlarmView) -> tuple[int, MonitorKey]:
    return alarm.raised_ms, alarm.key


def transition_state(transition: Transition) -> dict[str, Any]:
    """A transition, safe and exact in JSON."""
    return {
        "change": transition.change.value,
        "reason": transition.reason.value,
        "at_ms": transition.at_ms,
        "alarm": _alarm_state(transition.alarm),
        "family": transition.family,
    }


def transition_from(state: Mapping[str, Any]) -> Transition:
    """The inverse of `transition_state`."""
    return Transition(
        change=Change(state["change"]),
        reason=Reason(state["reason"]),
        at_ms=state["at_ms"],
        alarm=_alarm(state["alarm"]),
        family=state["family"],
    )


def _alarm_state(alarm: AlarmView) -> dict[str, Any]:
    fields = asdict(alarm.evidence)
    return {
        "key": list(alarm.key),
        "severity": alarm.severity.value,
        "raised_ms": alarm.raised_ms,
        "resolved_ms": alarm.resolved_ms,
        "reason": str(alarm.reason),
        "evidence": {name: _pack(value) for name, value in fields.items()},
    }


def _alarm(state: Mapping[str, Any]) -> AlarmView:
    evidence = {name: _unpack(value) for name, value in state["evidence"].items()}
    evidence["tolerance"] = tuple(evidence["tolerance"])
    return AlarmView(
        key=MonitorKey(*state["key"]),
        severity=Severity(state["severity"]),
        raised_ms=state["raised_ms"],
        resolved_ms=state["resolved_ms"],
        evidence=Evidence(**evidence),
        reason=Reason(state["reason"]),
    )


def _pack(value: object) -> object:
    """JSON has no infinities: they are written as text, which no field of Evidence is otherwise."""
    if isinstance(value, float):
        return value if value - value == 0 else repr(value)
    if isinstance(value, dict):
        return {name: _pack(item) for name, item in value.items()}
    return [_pack(item) for item in value] if isinstance(value, (tuple, list)) else value


def _unpack(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    if isinstance(value, str):
        return float(value)
    if isinstance(value, dict):
        return {name: _unpack(item) for name, item in value.items()}
    return [_unpack(item) for item in value] if isinstance(value, list) else value
