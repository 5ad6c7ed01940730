"""The life of an alarm: latched when a detector fires, resolved when it has recovered and stayed quiet.

What holds an alarm back makes it pending instead: it is recorded, but nobody is called.

    pending   what held it back is over and it lasts     → firing (released)
    pending   it recovered, or its silence is over       → forgotten, without anybody having been called
    firing    it recovered and MIN_HOLD_MS have gone by  → resolved

Pure: detectors' answers and event time in, transitions out. Every answer has a reason, also "no", and all
are counted; every change of state is logged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from agent.respond.view import AlarmState, AlarmView, AuditView, MonitorKey, Related, Severity
from detectors import Evidence, Verdict

MIN_HOLD_MS = 15 * 60_000
"""An alarm stays at least so long after it last fired: one that comes and goes in minutes helps nobody."""

MAX_RESOLVED = 200
"""Resolved alarms that are remembered, per model; the earliest resolved is forgotten first."""


MAX_AUDIT = 400
"""Changes of state that are remembered, per model; the earliest are forgotten first."""


class Reason(StrEnum):
    """Why an alarm changed, or why it did not."""

    FIRED = "fired"
    RED_LINE = "red_line"
    """It fired: the whole interval of a constraint's value lies beyond the bar."""
    GUARD_FELL = "guard_fell"
    """It fired: a metric got better while its guard got worse."""
    RELEASED = "released"
    """What held it back is over, and it lasts."""
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
    CONSTRAINT_BROKEN = "constraint_broken"
    """An objective waits: a red line of the model is broken, and that one pages."""
    CONSTRAINT_ORDER = "constraint_order"
    """A red line waits behind one that was put before it, and is attached to its page."""
    MAINTENANCE = "maintenance"
    BACKFILL = "backfill"
    RETIRED = "retired"
    """The metric has been retired: its alarms end, and it raises none."""


SILENCES = frozenset({Reason.MAINTENANCE, Reason.BACKFILL})
"""Holds that end an alarm with themselves; after the others an alarm that lasts is released."""


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

    Rule: an inactive monitor that fires is raised, or becomes pending while something holds it back; an
    active one that fires starts its hold again (and rises from ticket to page if it fires as a page); an
    active one that has recovered is resolved once MIN_HOLD_MS of event time have gone by since it last
    fired. Firing beats recovering. In a silence nothing happens to active alarms.
    """

    def __init__(self) -> None:
        self._active: dict[MonitorKey, ActiveAlarm] = {}
        self._pending: dict[MonitorKey, ActiveAlarm] = {}
        self._resolved: list[AlarmView] = []  # in the order of resolution
        self._audit: list[AuditView] = []
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
        *,
        hold: Reason | None = None,
        why: Reason = Reason.FIRED,
    ) -> Transition | None:
        """Take in what a detector says after one step; the reason, also of None, is counted in `counts`.

        `hold` is what keeps an alarm back now; `why` the reason that a new one is given.
        """
        if hold is Reason.RETIRED:
            return self._retire(key, at_ms)
        pending = self._pending.get(key)
        if pending is not None and pending.view.reason in SILENCES and hold is not pending.view.reason:
            self._forget(key, Reason(pending.view.reason), at_ms)
            pending = None
        active = self._active.get(key)
        if hold in SILENCES and (active or pending):
            return self._unchanged(hold)
        if pending is not None:
            return self._wait(pending, fired, recovered, at_ms, hold)
        if active is None:
            if not fired:
                not_enough = evidence.verdict is Verdict.NOT_ENOUGH
                return self._unchanged(Reason.NOT_ENOUGH_EVIDENCE if not_enough else Reason.QUIET)
            alarm = ActiveAlarm(AlarmView(key, severity, at_ms, None, evidence, hold or why), family, at_ms)
            if hold is None:
                return self._raise(alarm)
            self._hold(alarm)
            return None
        if fired:
            return self._fire_again(active, severity, evidence, at_ms)
        if not recovered:
            return self._unchanged(Reason.NOT_RECOVERED)
        if at_ms - active.last_fired_ms < MIN_HOLD_MS:
            return self._unchanged(Reason.HELD)
        return self._resolve(key, Reason.RECOVERED, at_ms)

    def passes(self, key: MonitorKey, warming_up: bool) -> bool:
        """Count a look that did not fire, of a monitor without alarm; False where there is more to decide."""
        if key in self._active or key in self._pending:
            return False
        self._counts[Reason.NOT_ENOUGH_EVIDENCE if warming_up else Reason.QUIET] += 1
        return True

    def resolve_version(self, model_version: str, at_ms: int) -> Sequence[Transition]:
        """Resolve every alarm of a version that was replaced, whatever its hold; in the order of the keys."""
        for key in sorted(key for key in self._pending if key.model_version == model_version):
            self._forget(key, Reason.VERSION_REPLACED, at_ms)
        gone = sorted(key for key in self._active if key.model_version == model_version)
        return [self._resolve(key, Reason.VERSION_REPLACED, at_ms) for key in gone]

    def relate(self, key: MonitorKey, related: Sequence[Related]) -> AlarmView:
        """Attach other alarms to an active one; returns it as it is now."""
        active = self._active[key]
        view = replace(active.view, related=tuple(related))
        self._active[key] = replace(active, view=view)
        return view

    @property
    def active(self) -> Sequence[ActiveAlarm]:
        """The latched alarms, the newest last."""
        return sorted(self._active.values(), key=lambda alarm: _age(alarm.view))

    @property
    def pending(self) -> Sequence[ActiveAlarm]:
        """The alarms that are held back, the newest last; the reason of each is what holds it."""
        return sorted(self._pending.values(), key=lambda alarm: _age(alarm.view))

    @property
    def audit(self) -> Sequence[AuditView]:
        """The last MAX_AUDIT changes of state, in the order in which they were decided."""
        return tuple(self._audit)

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
            "active": [_latched_state(a) for _, a in sorted(self._active.items())],
            "pending": [_latched_state(a) for _, a in sorted(self._pending.items())],
            "audit": [[a.at_ms, list(a.key), a.severity, a.state, a.reason] for a in self._audit],
            "resolved": [_alarm_state(alarm) for alarm in self._resolved],
            "counts": {reason.value: n for reason, n in self.counts.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; what was there before is forgotten."""
        self._active = {a.view.key: a for a in map(_latched, state["active"])}
        self._pending = {a.view.key: a for a in map(_latched, state["pending"])}
        self._audit = [
            AuditView(at_ms, MonitorKey(*key), Severity(severity), AlarmState(held), reason)
            for at_ms, key, severity, held, reason in state["audit"]
        ]
        self._resolved = [_alarm(s) for s in state["resolved"]]
        self._counts = Counter({Reason(reason): n for reason, n in state["counts"].items()})

    def _unchanged(self, reason: Reason) -> Transition | None:
        self._counts[reason] += 1
        return None

    def _log(self, alarm: AlarmView, state: AlarmState, reason: Reason, at_ms: int) -> None:
        """Count a decision that changed a state, and keep it."""
        self._counts[reason] += 1
        entry = AuditView(at_ms, alarm.key, alarm.severity, state, reason.value)
        self._audit = [*self._audit, entry][-MAX_AUDIT:]

    def _raise(self, alarm: ActiveAlarm) -> Transition:
        view, reason = alarm.view, Reason(alarm.view.reason)
        self._active[view.key] = alarm
        self._log(view, AlarmState.FIRING, reason, view.raised_ms)
        return Transition(Change.RAISED, reason, view.raised_ms, view, alarm.family)

    def _hold(self, alarm: ActiveAlarm) -> None:
        view = alarm.view
        self._pending[view.key] = alarm
        self._log(view, AlarmState.PENDING, Reason(view.reason), view.raised_ms)

    def _wait(
        self, pending: ActiveAlarm, fired: bool, recovered: bool, at_ms: int, hold: Reason | None
    ) -> Transition | None:
        """One more step of an alarm that waits for a red line."""
        view = pending.view
        if fired:
            pending = replace(pending, last_fired_ms=max(pending.last_fired_ms, at_ms))
        elif recovered:
            if at_ms - pending.last_fired_ms < MIN_HOLD_MS:
                return self._unchanged(Reason.HELD)
            self._forget(view.key, Reason.RECOVERED, at_ms)
            return None
        if hold is None:
            del self._pending[view.key]
            raised = replace(view, raised_ms=max(at_ms, view.raised_ms), reason=Reason.RELEASED)
            return self._raise(replace(pending, view=raised))
        self._pending[view.key] = replace(pending, view=replace(view, reason=hold))
        return self._unchanged(hold)

    def _forget(self, key: MonitorKey, reason: Reason, at_ms: int) -> None:
        """End a pending alarm: nobody was called, so there is nothing to resolve."""
        self._log(self._pending.pop(key).view, AlarmState.RESOLVED, reason, at_ms)

    def _retire(self, key: MonitorKey, at_ms: int) -> Transition | None:
        if key in self._pending:
            self._forget(key, Reason.RETIRED, at_ms)
            return None
        active = key in self._active
        return self._resolve(key, Reason.RETIRED, at_ms) if active else self._unchanged(Reason.RETIRED)

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
        self._log(alarm, AlarmState.FIRING, Reason.ESCALATED, at_ms)
        return Transition(Change.ESCALATED, Reason.ESCALATED, at_ms, alarm, active.family)

    def _resolve(self, key: MonitorKey, reason: Reason, at_ms: int) -> Transition:
        active = self._active.pop(key)
        # A version may be replaced "before" its alarm: event times come from different clocks.
        ended_ms = max(at_ms, active.view.raised_ms)
        alarm = replace(active.view, resolved_ms=ended_ms, reason=reason)
        self._resolved = [*self._resolved, alarm][-MAX_RESOLVED:]
        self._log(alarm, AlarmState.RESOLVED, reason, ended_ms)
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


def _latched_state(alarm: ActiveAlarm) -> dict[str, Any]:
    return {
        "alarm": _alarm_state(alarm.view),
        "family": alarm.family,
        "last_fired_ms": alarm.last_fired_ms,
    }


def _latched(state: Mapping[str, Any]) -> ActiveAlarm:
    return ActiveAlarm(_alarm(state["alarm"]), state["family"], state["last_fired_ms"])


def _alarm_state(alarm: AlarmView) -> dict[str, Any]:
    fields = asdict(alarm.evidence)
    return {
        "key": list(alarm.key),
        "severity": alarm.severity.value,
        "raised_ms": alarm.raised_ms,
        "resolved_ms": alarm.resolved_ms,
        "reason": str(alarm.reason),
        "evidence": {name: _pack(value) for name, value in fields.items()},
        "related": [[list(r.key), r.relation, _pack(r.ratio)] for r in alarm.related],
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
        related=tuple(Related(MonitorKey(*k), rel, float(r)) for k, rel, r in state["related"]),
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
