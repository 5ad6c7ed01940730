"""From what was measured to what is decided, for one model: detectors look, alarms latch, retraining is due.

Two clocks advance apart: steps close with the predictions, hours mature when labels are complete too. Each
has its own alarms, fed in the order of its own event times; retraining follows the slower clock. So the
outcome does not depend on how far predictions are read ahead of labels, nor on where batches are cut.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.events import NO_TIME, Int64s
from agent.measure.launch import SinceLaunch
from agent.measure.model import Model
from agent.measure.monitors import LABELS_WINDOW_MS, Monitors
from agent.measure.reference import rate
from agent.measure.watch import Observation
from agent.respond.decide import ActiveAlarm, Alarms, Transition, transition_from, transition_state
from agent.respond.request import CloudEvent
from agent.respond.trigger import JointStep, Retraining
from agent.respond.verdict import Handovers, Hour
from agent.respond.view import AlarmView, MonitorKey, Severity


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
        self.step_alarms = Alarms()
        self.label_alarms = Alarms()
        self.since_launch = SinceLaunch(model.config.retraining, model.layout)
        self.launch_alarms = Alarms()
        """Of `since_launch`: they are told to the retraining policy and to nobody else."""
        self.retraining = Retraining(model.name, model.config.retraining)
        self.handovers = Handovers(model.name, model.config)
        self._replaced: list[tuple[int, str]] = []
        """(when, version): replacements that the alarms of labelled rates have not reached."""
        self._fresh: list[tuple[int, Transition]] = []
        """(from when on the retraining policy may know it, transition), until both clocks are there."""
        self._decided_ms: int | None = None

    def advance(self, watermark_ms: int, joint_ms: int) -> Verdicts:
        """Judge what is complete: predictions up to the watermark, labels up to the joint watermark."""
        news = Verdicts()
        for end, observations, replaced in self.monitors.steps(watermark_ms):
            for seen in observations:
                self._apply(self.step_alarms, seen, news)
            for version in replaced:
                news.transitions += self.step_alarms.resolve_version(version, end)
                self._replaced.append((end, version))
        stepped = len(news.transitions)
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
            if is_hour:
                learned = self.monitors.watch.reference(version).performance_ready
                for seen in self.monitors.judge(when, version, hour, age):
                    self._apply(self.label_alarms, seen, news)
                self._since_launch(when, version, self.monitors.labelled(version, hour, age), learned)
            else:
                news.transitions += self.label_alarms.resolve_version(version, when)
                gone = self.launch_alarms.resolve_version(version, when)
                self._fresh += [(change.at_ms + 1, change) for change in gone]

    def _since_launch(self, when: int, version: str, counts: Int64s | None, learned: bool) -> None:
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
            self._apply(self.launch_alarms, seen, told)
        self._fresh += [(change.at_ms + 1, change) for change in told.transitions]

    def _apply(self, alarms: Alarms, seen: Observation, news: Verdicts) -> None:
        key = MonitorKey(self.model.name, *seen.key)
        severity = Severity(seen.severity)
        changed = alarms.apply(
            key, severity, seen.family, seen.fired, seen.recovered, seen.evidence, seen.at_ms
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

    @property
    def alarms(self) -> list[AlarmView]:
        """Active and remembered alarms, the newest last."""
        both = [*self.step_alarms.history, *self.label_alarms.history]
        return sorted(both, key=lambda alarm: (alarm.raised_ms, alarm.key))

    @property
    def active(self) -> list[ActiveAlarm]:
        return [*self.step_alarms.active, *self.label_alarms.active]

    @property
    def reasons(self) -> Counter[str]:
        """How often each decision reason was given."""
        total: Counter[str] = Counter()
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
        }
        return {
            **self.monitors.state(),
            "judge": json.dumps(own),
            "step_alarms": json.dumps(self.step_alarms.state()),
            "label_alarms": json.dumps(self.label_alarms.state()),
            "launch_alarms": json.dumps(self.launch_alarms.state()),
            "since_launch": json.dumps(self.since_launch.state()),
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
        self.step_alarms.load(json.loads(documents["step_alarms"]))
        self.label_alarms.load(json.loads(documents["label_alarms"]))
        self.launch_alarms.load(json.loads(documents["launch_alarms"]))
        self.since_launch.load(json.loads(documents["since_launch"]))
        self.retraining.load(json.loads(documents["retraining"]))
        self.handovers.load(json.loads(documents["handovers"]))
