"""What metrics are for, and what that does to their alarms: a pure function of the config and event time.

A constraint pages; of several that break, the first in the configured order, with the others attached. An
objective waits while a constraint of the model is broken. A diagnostic never pages: its pages become tickets.
A retired metric raises nothing, and what it raised ends. Data of a maintenance window or of a backfill call
nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import StrEnum

from agent.config import ModelConfig
from agent.measure.redlines import PAIR, RED_LINE, bar_at, ms
from agent.respond.decide import Reason
from agent.respond.view import AlarmView, ConstraintView, MetricLife, MonitorKey, Related, Severity
from detectors import Evidence, GroupRatio


class Role(StrEnum):
    """What a metric is for."""

    CONSTRAINT = "constraint"
    OBJECTIVE = "objective"
    DIAGNOSTIC = "diagnostic"


def metric_of(key: MonitorKey) -> str:
    """The id by which the config names what a monitor watches."""
    if key.detector == GroupRatio.name:
        return f"{key.metric}_ratio"
    return key.metric or key.detector


class Roles:
    """The roles of one model's metrics."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self._silences = [(ms(m.begin), ms(m.to)) for m in config.maintenance]
        self._until = None if config.backfill.until is None else ms(config.backfill.until)
        self._retire = {n: ms(life.retire) for n, life in config.life.items() if life.retire is not None}

    def order(self, key: MonitorKey) -> int | None:
        """The place of a monitor among the constraints, from 1; None where it is none."""
        ratio = key.detector == GroupRatio.name
        if not ratio and key.detector != RED_LINE:
            return None
        for place, line in enumerate(self.config.roles.constraints, start=1):
            group = line.segment in (None, key.segment) if ratio else (line.segment or "") == key.segment
            if line.metric == metric_of(key) and group:
                return place
        return None

    def role(self, key: MonitorKey) -> Role | None:
        """What the alarm of a monitor counts as; None where the config says nothing."""
        if self.order(key) is not None:
            return Role.CONSTRAINT
        if metric_of(key) in self.config.roles.objectives:
            return Role.OBJECTIVE
        return Role.DIAGNOSTIC if metric_of(key) in self.config.roles.diagnostics else None

    def severity(self, key: MonitorKey, severity: Severity) -> Severity:
        """What an alarm of this monitor asks for."""
        return Severity.TICKET if self.role(key) is Role.DIAGNOSTIC else severity

    def why(self, key: MonitorKey) -> Reason:
        """The reason that a new alarm is given."""
        return {RED_LINE: Reason.RED_LINE, PAIR: Reason.GUARD_FELL}.get(key.detector, Reason.FIRED)

    def hold(
        self, key: MonitorKey, start_ms: int, end_ms: int, at_ms: int, firing: Collection[MonitorKey]
    ) -> Reason | None:
        """What holds back an alarm about the data of [start, end), decided at a time while others fire."""
        if self.retired(metric_of(key), at_ms):
            return Reason.RETIRED
        silence = self.silence(start_ms, end_ms)
        if silence is not None:
            return silence
        role = self.role(key)
        if role not in (Role.CONSTRAINT, Role.OBJECTIVE):
            return None
        broken = [place for other in firing if other != key and (place := self.order(other)) is not None]
        if role is Role.OBJECTIVE:
            return Reason.CONSTRAINT_BROKEN if broken else None
        mine = self.order(key) or 0
        return Reason.CONSTRAINT_ORDER if any(place < mine for place in broken) else None

    def silence(self, start_ms: int, end_ms: int) -> Reason | None:
        """Why data of [start, end) call nobody; one moment of silence silences the whole stretch."""
        if self.maintained(start_ms, end_ms):
            return Reason.MAINTENANCE
        return Reason.BACKFILL if self._until is not None and start_ms < self._until else None

    def maintained(self, start_ms: int, end_ms: int) -> bool:
        """Does a maintenance window touch [start, end)?"""
        return any(start_ms < to and begin < end_ms for begin, to in self._silences)

    def retired(self, metric: str, at_ms: int) -> bool:
        """Is the metric no longer shown and watched? A pair ends with either of its two."""
        return any(at_ms >= self._retire[name] for name in metric.split("/") if name in self._retire)

    def life(self, at_ms: int) -> dict[str, MetricLife]:
        """What is configured of each metric, as of an event time."""
        config = self.config.life
        roles: dict[str, str] = {}
        for role, names in (
            (Role.CONSTRAINT, [line.metric for line in self.config.roles.constraints]),
            (Role.OBJECTIVE, self.config.roles.objectives),
            (Role.DIAGNOSTIC, self.config.roles.diagnostics),
        ):
            roles |= {str(name): role.value for name in names}
        found = {}
        for name in sorted({*roles, *config}):
            life = config.get(name)
            review = ms(life.review) if life and life.review else None
            retire, retired = self._retire.get(name), self.retired(name, at_ms)
            due = review is not None and at_ms >= review and not retired
            owner = life.owner if life else None
            found[name] = MetricLife(roles.get(name), owner, review, retire, due, retired)
        return found

    def constraint(self, key: MonitorKey, evidence: Evidence, broken: bool, at_ms: int) -> ConstraintView:
        """What is shown of a constraint."""
        place = self.order(key) or 0
        line = self.config.roles.constraints[place - 1]
        bar, _ = bar_at(line, at_ms)
        return ConstraintView(key, place, bar.low, bar.high, line.window, evidence, broken)


def ranked(drift: Collection[AlarmView], model_version: str) -> Sequence[Related]:
    """Drift of a version as suspects, the strongest first."""
    mine = [alarm for alarm in drift if alarm.key.model_version == model_version]
    strongest = sorted(mine, key=lambda alarm: (-alarm.evidence.ratio, alarm.key))
    return [Related(alarm.key, "suspect", alarm.evidence.ratio) for alarm in strongest]
