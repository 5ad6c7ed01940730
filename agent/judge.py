"""From what was measured to what is decided, for one model: detectors look, alarms latch, retraining is due.

Two clocks advance apart: steps close with the predictions, hours mature when labels are complete too. Each
has its own alarms, fed in the order of its own event times; retraining follows the slower clock. So the
outcome does not depend on how far predictions are read ahead of labels, nor on where batches are cut. For
the same reason the alarms of labels know those of steps as they were at their own time (`_mirror`), while
those of steps wait for no label: an alarm about predictions is not held back by a red line about labels.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from agent.events import NO_TIME, Int64s
from agent.measure.launch import SinceLaunch
from agent.measure.model import Model
from agent.measure.monitors import LABELS_WINDOW_MS, Monitors
from agent.measure.pane import HOUR_MS
from agent.measure.redlines import RedLines
from agent.measure.reference import rate
from agent.measure.watch import Observation
from agent.respond.decide import (
    ActiveAlarm,
    Alarms,
    Reason,
    Transition,
    transition_from,
    transition_state,
)
from agent.respond.relate import Mirror, relate
from agent.respond.request import CloudEvent
from agent.respond.roles import Roles
from agent.respond.trigger import Decision, JointStep, Retraining
from agent.respond.verdict import Handovers, Hour
from agent.respond.view import AlarmView, AuditView, MonitorKey, Severity


@dataclass
class Verdicts:
    """What one advance of the clocks brought."""

    transitions: list[Transition] = field(default_factory=list)
    events: list[CloudEvent] = field(default_factory=list)


class Judge:
    """The judging half of one model."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.monitors = Monitors(model)
        self.roles = Roles(model.config)
        self.redlines = RedLines(self.monitors)
        self.step_alarms = Alarms()
        self.label_alarms = Alarms()
        self.since_launch = SinceLaunch(model.config.retraining, model.layout)
        self.launch_alarms = Alarms()
        """Of `since_launch`: they are told to the retraining policy and to nobody else."""
        self.retraining = Retraining(model.name, model.config.retraining, model.offsets.spans)
        self.handovers = Handovers(model.name, model.config)
        self._replaced: list[tuple[int, str]] = []
        """(when, version): replacements that the alarms of labelled rates have not reached."""
        self._mirror = Mirror(self.roles)
        self._fresh: list[tuple[int, Transition]] = []
        """(from when on the retraining policy may know it, transition), until both clocks are there."""
        self._decided_ms: int | None = None

    def advance(self, watermark_ms: int, joint_ms: int) -> Verdicts:
        """Judge what is complete: predictions up to the watermark, labels up to the joint watermark."""
        news = Verdicts()
        for end, observations, replaced in self._steps(watermark_ms):
            begin, changes = end - self.monitors.step_ms, len(news.transitions)
            for seen in self._ordered(observations):
                self._apply(self.step_alarms, seen, news, begin, end)
            for version in replaced:
                news.transitions += self.step_alarms.resolve_version(version, end)
                self.redlines.forget(version, labelled=False)
                self._replaced.append((end, version))
            relate(self.roles, self.step_alarms, (), news.transitions, changes)
        stepped = len(news.transitions)
        self._mirror.note(news.transitions)
        self._labels(joint_ms, news)
        # An hour that matures at the very joint watermark is judged later: its alarms wait for a step.
        self._fresh += [(change.at_ms, change) for change in news.transitions[:stepped]]
        self._fresh += [(change.at_ms + 1, change) for change in news.transitions[stepped:]]
        self._retrain(joint_ms, news)
        return news

    def _labels(self, joint_ms: int, news: Verdicts) -> None:
        if joint_ms == NO_TIME:
            return
        due: list[tuple[int, int, str, int, int]] = [
            (w, 1, v, h, a) for w, v, h, a in self.monitors.matured(joint_ms)
        ]
        due += [(when, 0, version, 0, 0) for when, version in self._replaced if when <= joint_ms]
        self._replaced = [(when, version) for when, version in self._replaced if when > joint_ms]
        for when, is_hour, version, hour, age in sorted(due):
            self._arrive(when, news)
            self._reach(when, news)
            changes = len(news.transitions)
            if is_hour:
                self._hour(when, version, hour, age, news)
            else:
                news.transitions += self.label_alarms.resolve_version(version, when)
                self.redlines.forget(version, labelled=True)
                gone = self.launch_alarms.resolve_version(version, when)
                self._fresh += [(change.at_ms + 1, change) for change in gone]
            relate(self.roles, self.label_alarms, self._mirror.firing, news.transitions, changes)
        self._arrive(joint_ms, news)
        self._reach(joint_ms, news)

    def _arrive(self, until_ms: int, news: Verdicts) -> None:
        """Judge the hours that by now should have their labels."""
        for hour, seen in self.monitors.arrived(until_ms):
            self._reach(seen.at_ms, news)
            self._apply(self.label_alarms, seen, news, hour, hour + HOUR_MS)

    def _hour(self, when: int, version: str, hour: int, age: int, news: Verdicts) -> None:
        """Judge one matured hour; one of a maintenance window teaches nobody anything."""
        until = hour + HOUR_MS
        if self.roles.maintained(hour, until):
            known = self.monitors.known()
            found = [*self.monitors.judge(when, version, hour, age)]
            self.monitors.forget_since(known)
        else:
            learned = self.monitors.watch.reference(version).performance_ready
            gone = self.monitors.versions.is_replaced(version, when)
            found = [] if gone else [*self.redlines.hour(when, version, hour, age)]
            found += self.monitors.judge(when, version, hour, age)
            counts = self.monitors.labelled(version, hour, age)
            self._since_launch(when, version, hour, counts, learned)
        for seen in self._ordered(found):
            self._apply(self.label_alarms, seen, news, hour, until)

    def _steps(self, watermark_ms: int) -> Iterator[tuple[int, list[Observation], list[str]]]:
        """Steps as they close, with what red lines say of them; what maintenance taught is forgotten."""
        step, last = self.monitors.step_ms, self.monitors.next_step_ms
        steps = self.monitors.steps(watermark_ms)
        while True:
            if last is None:
                quiet = bool(self.model.config.maintenance)
            else:
                quiet = last + step <= watermark_ms and self.roles.maintained(last, last + step)
            known = self.monitors.known() if quiet else {}
            found = next(steps, None)
            if found is None:
                return
            last, observations, replaced = found
            if self.roles.maintained(last - step, last):
                self.monitors.forget_since(known)
            else:
                observations += self.redlines.step(last - step, last)
            yield last, observations, replaced

    def _ordered(self, seen: Iterable[Observation]) -> list[Observation]:
        """Red lines first, in the order that was decided for them: who comes first pages."""
        found = [(self.roles.order(MonitorKey(self.model.name, *one.key)), one) for one in seen]
        return [one for place, one in sorted(found, key=lambda f: (f[0] is None, f[0] or 0))]

    def _reach(self, until_ms: int, news: Verdicts) -> None:
        """Let the alarms of labels know what those of steps did up to a time."""
        for _ in self._mirror.reach(until_ms):
            changes = news.transitions
            relate(self.roles, self.label_alarms, self._mirror.firing, changes, len(changes))

    def _since_launch(self, when: int, version: str, hour: int, counts: Int64s | None, learned: bool) -> None:
        """Matured labels are also held against the version's launch, and against its successor's."""
        if counts is None or counts[0] <= 0 or self.monitors.versions.is_replaced(version, when):
            return
        good, bad = rate(counts[self.model.layout.performance["confusion"]], self.handovers.metric)
        self.handovers.note(Hour(when, version, good, bad))
        if not learned:
            return  # this hour is itself what the launch is judged by
        told = Verdicts()
        launch = self.monitors.watch.reference(version).performance
        for seen in self.since_launch.note(when, version, counts, launch):
            self._apply(self.launch_alarms, seen, told, hour, hour + HOUR_MS)
        self._fresh += [(change.at_ms + 1, change) for change in told.transitions]

    def _apply(self, alarms: Alarms, seen: Observation, news: Verdicts, begin: int, end: int) -> None:
        """Decide on what a detector said of the data of [begin, end)."""
        key, said = MonitorKey(self.model.name, *seen.key), seen.said
        if alarms is self.launch_alarms:  # these call nobody: they wait for no red line, only for silence
            hold = self.roles.silence(begin, end)
        else:
            known = self._mirror.firing if alarms is self.label_alarms else ()
            firing = [change.alarm.key for change in known] + [alarm.view.key for alarm in alarms.active]
            hold = self.roles.hold(key, begin, end, seen.at_ms, firing)
        if hold is None and not said.fired and alarms.passes(key, said.warming_up):
            return
        changed = alarms.apply(
            key,
            self.roles.severity(key, Severity(said.severity)),
            said.family,
            said.fired,
            said.recovered,
            said.evidence,
            seen.at_ms,
            hold=hold,
            why=self.roles.why(key),
        )
        if changed is not None:
            news.transitions.append(changed)

    def _retrain(self, joint_ms: int, news: Verdicts) -> None:
        """Ask the policy at the end of every step both clocks have passed."""
        last = self.monitors.next_step_ms
        if last is None or joint_ms == NO_TIME:
            return
        step = self.monitors.step_ms
        until = min(joint_ms, last) // step * step
        if self._decided_ms is None:
            self._decided_ms = min(first for first, _ in self.model.seen.values()) // step * step
        if self.retraining.idle and self.handovers.idle and not any(when <= until for when, _ in self._fresh):
            self._decided_ms = max(self._decided_ms, until)
        at = self._decided_ms + step
        while at <= until:
            if self.roles.silence(at - step, at):  # whatever is due is decided after it
                self._decided_ms, at = at, at + step
                continue
            version = self.monitors.versions.serving_at(at)
            joint = JointStep(
                at_ms=at,
                model_version=version,
                labels=self.monitors.labels_before(at),
                data_from_ms=at - LABELS_WINDOW_MS,
                transitions=[change for when, change in self._fresh if when <= at],
                version_since_ms=self.monitors.versions.since(version),
            )
            self._fresh = [(when, change) for when, change in self._fresh if when > at]
            decisions = self.retraining.step(joint)
            news.events += self.handovers.step(at, version)
            for decision in decisions:
                if decision.event is not None:
                    news.events.append(decision.event)
                    self.handovers.asked(decision.event, at)
            self._decided_ms = at
            at += step
        self.handovers.forget(self._decided_ms)

    def ask(self, token: str, *, force: bool) -> Decision | None:
        """An operator asks for retraining, as of the last joint step; None: there is no step yet."""
        at = self._decided_ms
        if at is None:
            return None
        step = JointStep(
            at_ms=at,
            model_version=self.monitors.versions.serving_at(at),
            labels=self.monitors.labels_before(at),
            data_from_ms=at - LABELS_WINDOW_MS,
        )
        decision = self.retraining.ask(step, token, force=force)
        if decision.event is not None:
            self.handovers.asked(decision.event, at)
        return decision

    @property
    def alarms(self) -> list[AlarmView]:
        """Active and remembered alarms, the newest last."""
        both = [*self.step_alarms.history, *self.label_alarms.history]
        return sorted(both, key=lambda alarm: (alarm.raised_ms, alarm.key))

    @property
    def active(self) -> list[ActiveAlarm]:
        return [*self.step_alarms.active, *self.label_alarms.active]

    @property
    def held(self) -> list[AlarmView]:
        """Alarms that something holds back, the newest last."""
        both = [*self.step_alarms.pending, *self.label_alarms.pending]
        return sorted((alarm.view for alarm in both), key=lambda alarm: (alarm.raised_ms, alarm.key))

    @property
    def audit(self) -> list[AuditView]:
        """The last changes of alarms, the newest last."""
        return sorted([*self.step_alarms.audit, *self.label_alarms.audit], key=lambda entry: entry.at_ms)

    @property
    def reasons(self) -> Counter[str]:
        """How often each decision reason was given; 0 for those that never were."""
        total: Counter[str] = Counter({reason.value: 0 for reason in Reason})
        for alarms in (self.step_alarms, self.label_alarms):
            total.update({str(reason): n for reason, n in alarms.counts.items()})
        return total

    def state(self) -> dict[str, str]:
        """Documents by name."""
        fresh = sorted(
            self._fresh, key=lambda told: (told[0], told[1].at_ms, told[1].alarm.key, told[1].change)
        )
        own = {
            "replaced": self._replaced,
            "decided_ms": self._decided_ms,
            "fresh": [[when, transition_state(change)] for when, change in fresh],
            "mirror": self._mirror.state(),
        }
        return {
            **self.monitors.state(),
            "judge": json.dumps(own),
            "step_alarms": json.dumps(self.step_alarms.state()),
            "label_alarms": json.dumps(self.label_alarms.state()),
            "launch_alarms": json.dumps(self.launch_alarms.state()),
            "since_launch": json.dumps(self.since_launch.state()),
            "redlines": json.dumps(self.redlines.state()),
            "retraining": json.dumps(self.retraining.state()),
            "handovers": json.dumps(self.handovers.state()),
        }

    def load(self, documents: Mapping[str, str]) -> None:
        """Go on from saved documents."""
        self.monitors.load(documents)
        own = json.loads(documents["judge"])
        self._replaced = [(when, version) for when, version in own["replaced"]]
        self._decided_ms = own["decided_ms"]
        self._fresh = [(when, transition_from(change)) for when, change in own["fresh"]]
        self._mirror.load(own["mirror"])
        self.redlines.load(json.loads(documents["redlines"]))
        self.step_alarms.load(json.loads(documents["step_alarms"]))
        self.label_alarms.load(json.loads(documents["label_alarms"]))
        self.launch_alarms.load(json.loads(documents["launch_alarms"]))
        self.since_launch.load(json.loads(documents["since_launch"]))
        self.retraining.load(json.loads(documents["retraining"]))
        self.handovers.load(json.loads(documents["handovers"]))
