"""When to ask for retraining: a pure function of alarms, labels and event time.

An **episode** begins at the first joint step (predictions and labels complete up to then) at which a cause
holds, and ends at the first at which it no longer does. One episode sends at most one request:

    fairness page of the serving version active                  → constraint_broken
    performance alarm and drift alarm active together            → drift_confirmed
    performance page active                                      → performance_drop

unless it is suppressed: already requested, cooling down, too few labels, dry run. The request's id is made
from (model, version, cause, begin of the episode), all event time, so a replay asks again in the same words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from agent.config import RetrainingConfig
from agent.respond import request
from agent.respond.decide import Change, Transition, transition_from, transition_state
from agent.respond.request import CloudEvent
from agent.respond.view import AlarmView, MonitorKey, Severity

MAX_REQUESTS = 50
"""Requests that are remembered for /status."""


class Cause(StrEnum):
    """The class of reasons that share an episode."""

    PERFORMANCE = "performance"
    FAIRNESS = "fairness"


class Reason(StrEnum):
    """Why a request was made, was not made, or is over."""

    PERFORMANCE_DROP = "performance_drop"
    DRIFT_CONFIRMED = "drift_confirmed"
    CONSTRAINT_BROKEN = "constraint_broken"
    ALREADY_REQUESTED = "already_requested"
    """Counted once for every further alarm of an episode that has its request."""
    COOLDOWN = "cooldown"
    NOT_ENOUGH_LABELS = "not_enough_labels"
    DRY_RUN = "dry_run"
    VERSION_REPLACED = "version_replaced"
    """The cause is a version that no longer serves; or an episode ended so."""
    RECOVERED = "recovered"


@dataclass(frozen=True, slots=True)
class JointStep:
    """What is known at one joint step."""

    at_ms: int
    """Event time up to which predictions and labels are complete; it never goes back."""
    model_version: str
    """The version that serves at `at_ms`."""
    labels: int
    """Labels of the last 30 days of event time."""
    data_from_ms: int
    """Begin of the event time that a retraining may use; it ends at `at_ms`."""
    transitions: Sequence[Transition] = ()
    """New since the last step. One that lies ahead of `at_ms` waits for its time, so that the decision does
    not depend on how far predictions ran ahead of their labels."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What one joint step decided about one cause."""

    cause: Cause
    reason: Reason
    at_ms: int
    event: CloudEvent | None = None
    """To be sent, request or resolution."""
    rehearsed: CloudEvent | None = None
    """In a dry run: the request that would have been sent; for the log."""


@dataclass(frozen=True, slots=True)
class _Episode:
    model_version: str
    started_ms: int
    request_id: str | None = None
    dry_run: bool = False


class Retraining:
    """The retraining policy of one model, with its memory."""

    def __init__(self, model_name: str, config: RetrainingConfig) -> None:
        self.model_name = model_name
        self.config = config
        self._ahead: list[Transition] = []
        self._active: dict[MonitorKey, Transition] = {}  # the transition that raised (or escalated) it last
        self._episodes: dict[Cause, _Episode] = {}
        self._last_request_ms: int | None = None
        self._last_reason: dict[Cause, Reason] = {}
        self._suppressed: Counter[Reason] = Counter()
        self._requests: list[CloudEvent] = []

    def step(self, step: JointStep) -> Sequence[Decision]:
        """Decide on every cause that holds or has just ended; an empty answer: there is no cause."""
        news = self._take(step)
        decisions = (self._decide(cause, step, news) for cause in Cause)
        return [decision for decision in decisions if decision is not None]

    @property
    def idle(self) -> bool:
        """Nothing is wrong and nothing is open: steps without transitions would decide nothing."""
        return not (self._ahead or self._active or self._episodes)

    @property
    def requests(self) -> Sequence[CloudEvent]:
        """The last requests that were sent, the newest last."""
        return tuple(self._requests)

    @property
    def suppressed(self) -> Mapping[str, int]:
        """Requests not sent, by reason; once per episode and change of reason, not once per step."""
        return {reason.value: n for reason, n in sorted(self._suppressed.items())}

    def state(self) -> dict[str, Any]:
        """Everything, safe and exact in JSON."""
        return {
            "ahead": [transition_state(t) for t in self._ahead],
            "active": [transition_state(t) for _, t in sorted(self._active.items())],
            "episodes": {cause.value: asdict(e) for cause, e in sorted(self._episodes.items())},
            "last_request_ms": self._last_request_ms,
            "last_reason": {cause.value: reason.value for cause, reason in sorted(self._last_reason.items())},
            "suppressed": dict(self.suppressed),
            "requests": list(self._requests),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; what was there before is forgotten."""
        self._ahead = [transition_from(t) for t in state["ahead"]]
        self._active = {t.alarm.key: t for t in map(transition_from, state["active"])}
        self._episodes = {Cause(cause): _Episode(**e) for cause, e in state["episodes"].items()}
        self._last_request_ms = state["last_request_ms"]
        self._last_reason = {Cause(cause): Reason(r) for cause, r in state["last_reason"].items()}
        self._suppressed = Counter({Reason(reason): n for reason, n in state["suppressed"].items()})
        self._requests = list(state["requests"])

    def _take(self, step: JointStep) -> Sequence[Transition]:
        waiting = sorted([*self._ahead, *step.transitions], key=lambda t: (t.at_ms, t.alarm.key, t.change))
        now = [t for t in waiting if t.at_ms <= step.at_ms]
        self._ahead = waiting[len(now) :]
        for transition in now:
            if transition.change is Change.RESOLVED:
                self._active.pop(transition.alarm.key, None)
            else:
                self._active[transition.alarm.key] = transition
        return [t for t in now if t.change is not Change.RESOLVED]

    def _decide(self, cause: Cause, step: JointStep, news: Sequence[Transition]) -> Decision | None:
        serving = {k: t for k, t in self._active.items() if k.model_version in ("", step.model_version)}
        reason = _reason(cause, serving.values())
        episode = self._episodes.get(cause)
        if episode is not None and (reason is None or episode.model_version != step.model_version):
            return self._end(cause, episode, step)
        if reason is None:
            if _reason(cause, self._active.values()) is not None:
                return self._suppress(cause, Reason.VERSION_REPLACED, step)
            self._last_reason.pop(cause, None)
            return None
        if episode is None:
            episode = self._episodes[cause] = _Episode(step.model_version, step.at_ms)
        if episode.request_id is not None:
            again = any(t.family in _FAMILIES[cause] and t.alarm.key in serving for t in news)
            return self._suppress(cause, Reason.ALREADY_REQUESTED, step, count=again)
        if self._cooling_down(step.at_ms):
            return self._suppress(cause, Reason.COOLDOWN, step)
        if step.labels < self.config.min_labels:
            return self._suppress(cause, Reason.NOT_ENOUGH_LABELS, step)
        return self._request(cause, reason, episode, step, [t.alarm for t in serving.values()])

    def _cooling_down(self, at_ms: int) -> bool:
        return self._last_request_ms is not None and at_ms < self._last_request_ms + self._cooldown_ms

    @property
    def _cooldown_ms(self) -> int:
        return round(self.config.cooldown.total_seconds() * 1000)

    def _suppress(self, cause: Cause, reason: Reason, step: JointStep, count: bool | None = None) -> Decision:
        if self._last_reason.get(cause) is not reason if count is None else count:
            self._suppressed[reason] += 1
        self._last_reason[cause] = reason
        return Decision(cause, reason, step.at_ms)

    def _request(
        self, cause: Cause, reason: Reason, episode: _Episode, step: JointStep, alarms: Sequence[AlarmView]
    ) -> Decision:
        identity = request.event_id(self.model_name, episode.model_version, cause, episode.started_ms)
        dry_run = self.config.dry_run
        event = request.cloud_event(request.REQUESTED, identity, identity, self.model_name, step.at_ms)
        event["data"] = {
            **self._subject(cause, episode),
            "decision": "request",
            "reason": reason.value,
            "dry_run": dry_run,
            "cooldown_until": request.rfc3339(step.at_ms + self._cooldown_ms),
            "policy": {"cooldown_seconds": self._cooldown_ms / 1000, "min_labels": self.config.min_labels},
            "labels": step.labels,
            "evidence": request.evidence_bundle(alarms),
            "impact": request.impact([a for a in alarms if self._active[a.key].family in _IMPACT]),
            "data_window": {
                "from": request.rfc3339(step.data_from_ms),
                "to": request.rfc3339(step.at_ms),
            },
        }
        self._episodes[cause] = replace(episode, request_id=identity, dry_run=dry_run)
        self._last_request_ms = step.at_ms
        self._last_reason[cause] = reason
        if dry_run:
            self._suppressed[Reason.DRY_RUN] += 1
            return Decision(cause, Reason.DRY_RUN, step.at_ms, rehearsed=event)
        self._requests = [*self._requests, event][-MAX_REQUESTS:]
        return Decision(cause, reason, step.at_ms, event=event)

    def _end(self, cause: Cause, episode: _Episode, step: JointStep) -> Decision:
        replaced = episode.model_version != step.model_version
        reason = Reason.VERSION_REPLACED if replaced else Reason.RECOVERED
        del self._episodes[cause]
        self._last_reason.pop(cause, None)
        if episode.request_id is None or episode.dry_run:
            return Decision(cause, reason, step.at_ms)
        identity = request.event_id(
            self.model_name, episode.model_version, cause, episode.started_ms, "resolved"
        )
        event = request.cloud_event(
            request.RESOLVED, identity, episode.request_id, self.model_name, step.at_ms
        )
        event["data"] = {**self._subject(cause, episode), "decision": "resolved", "reason": reason.value}
        return Decision(cause, reason, step.at_ms, event=event)

    def _subject(self, cause: Cause, episode: _Episode) -> dict[str, Any]:
        return {
            "model_name": self.model_name,
            "model_version": episode.model_version,
            "dedup_key": f"{self.model_name}/{episode.model_version}/{cause}",
            "episode_started_at": request.rfc3339(episode.started_ms),
        }


_FAMILIES = {Cause.PERFORMANCE: ("performance", "drift"), Cause.FAIRNESS: ("fairness",)}
_IMPACT = ("performance", "fairness")


def _reason(cause: Cause, alarms: Collection[Transition]) -> Reason | None:
    """The rule of the module's docstring."""
    families = {t.family for t in alarms}
    pages = {t.family for t in alarms if t.alarm.severity is Severity.PAGE}
    if cause is Cause.FAIRNESS:
        return Reason.CONSTRAINT_BROKEN if "fairness" in pages else None
    if {"performance", "drift"} <= families:
        return Reason.DRIFT_CONFIRMED
    return Reason.PERFORMANCE_DROP if "performance" in pages else None
