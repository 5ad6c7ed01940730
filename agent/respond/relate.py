"""Which alarms belong together: suspects to a performance page, broken red lines to the one that pages.

The alarms of labels know those of steps as they were at their own time, whatever was read ahead since: that
is the mirror.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent.respond.decide import (
    ActiveAlarm,
    Alarms,
    Change,
    Reason,
    Transition,
    transition_from,
    transition_state,
)
from agent.respond.roles import Roles, ranked
from agent.respond.view import AlarmView, MonitorKey, Related, Severity


class Mirror:
    """Drift and red lines that fire on the step clock, as of the label clock."""

    def __init__(self, roles: Roles) -> None:
        self.roles = roles
        self._ahead: list[Transition] = []
        """Changes that the label clock has not reached."""
        self._firing: dict[MonitorKey, Transition] = {}

    def note(self, changes: Iterable[Transition]) -> None:
        """Take in what step alarms did, in the order of time."""
        self._ahead += [
            c for c in changes if c.family == "drift" or self.roles.order(c.alarm.key) is not None
        ]

    def reach(self, until_ms: int) -> Iterator[Transition]:
        """Let the label clock know of the changes up to a time, one after the other."""
        due = [change for change in self._ahead if change.at_ms <= until_ms]
        self._ahead = [change for change in self._ahead if change.at_ms > until_ms]
        for change in due:
            if change.change is Change.RESOLVED:
                self._firing.pop(change.alarm.key, None)
            else:
                self._firing[change.alarm.key] = change
            yield change

    @property
    def firing(self) -> Collection[Transition]:
        """What raised (or escalated) each alarm that fires."""
        return self._firing.values()

    def state(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {
            "ahead": [transition_state(change) for change in self._ahead],
            "firing": [transition_state(change) for _, change in sorted(self._firing.items())],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self._ahead = [transition_from(change) for change in state["ahead"]]
        self._firing = {change.alarm.key: change for change in map(transition_from, state["firing"])}


def relate(
    roles: Roles, alarms: Alarms, others: Collection[Transition], told: list[Transition], since: int
) -> None:
    """Attach to each active alarm what belongs to it now, `others` of another clock included.

    What was decided just now (`told` from `since` on) tells of it too; what was told before is not changed.
    """
    drift = [change.alarm for change in others if change.family == "drift"]
    drift += [alarm.view for alarm in alarms.active if alarm.family == "drift"]
    waiting = [alarm.view for alarm in alarms.pending if alarm.view.reason is Reason.CONSTRAINT_ORDER]
    broken = [*(change.alarm for change in others), *waiting, *(alarm.view for alarm in alarms.active)]
    for alarm in alarms.active:
        related = _related(roles, alarm, drift, broken)
        if tuple(related) == tuple(alarm.view.related):
            continue
        view = alarms.relate(alarm.view.key, related)
        for i, change in enumerate(told[since:], start=since):
            if change.alarm.key == view.key and change.change is not Change.RESOLVED:
                told[i] = replace(change, alarm=view)


def _related(
    roles: Roles, alarm: ActiveAlarm, drift: Sequence[AlarmView], broken: Sequence[AlarmView]
) -> Sequence[Related]:
    key = alarm.view.key
    if roles.order(key) is not None:
        lines = [(place, b) for b in broken if (place := roles.order(b.key)) and b.key != key]
        lines.sort(key=lambda line: (line[0], line[1].key))
        return [Related(b.key, "also_broken", b.evidence.ratio) for _, b in lines]
    if alarm.family == "performance" and alarm.view.severity is Severity.PAGE:
        return ranked(drift, key.model_version)
    return ()
