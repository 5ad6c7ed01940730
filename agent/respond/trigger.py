"""When to ask for retraining: a pure function of alarms, labels and event time.

An **episode** begins at the first joint step (predictions and labels complete up to then) at which a cause
holds, and ends at the first at which it no longer does. One episode sends at most one request:

    performance alarm and drift alarm active together            → drift_confirmed
    performance page active                                      → performance_drop
    ROC AUC fell too far since launch                            → auc_drop
    false positives above the cap relative to the baseline       → false_positives
    fairness or red-line page of the serving version active      → constraint_broken
    the serving version is older than `max_age`                  → stale
    an operator asks (not an episode: asks at once)              → manual

unless it is suppressed: already requested, cooling down, as many as a period may have, too few labels, dry
run. The request's id is made from (model, version, cause, begin of the episode), all event time, so a replay
asks again in the same words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from agent.config import RetrainingConfig
from agent.measure.launch import NAME as SINCE_LAUNCH
from agent.measure.model import to_ms
from agent.measure.pane import HOUR_MS
from agent.respond import request
from agent.respond.decide import Change, Transition, transition_from, transition_state
from agent.respond.request import CloudEvent
from agent.respond.view import AlarmView, MonitorKey, Severity

MAX_REQUESTS = 50
"""Requests that are remembered for /status."""

MAX_TOKENS = 100
"""Operators' requests that are remembered, so that none is answered twice."""


class Cause(StrEnum):
    """The class of reasons that share an episode."""

    PERFORMANCE = "performance"
    CONSTRAINT = "constraint"
    STALENESS = "staleness"
    MANUAL = "manual"


class Reason(StrEnum):
    """Why a request was made, was not made, or is over."""

    PERFORMANCE_DROP = "performance_drop"
    DRIFT_CONFIRMED = "drift_confirmed"
    AUC_DROP = "auc_drop"
    FALSE_POSITIVES = "false_positives"
    CONSTRAINT_BROKEN = "constraint_broken"
    STALE = "stale"
    MANUAL = "manual"
    ALREADY_REQUESTED = "already_requested"
    """Counted once for every further alarm of an episode that has its request."""
    COOLDOWN = "cooldown"
    MAX_REQUESTS = "max_requests"
    """The period has had as many requests as it may."""
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
    version_since_ms: int | None = None
    """Since when the version that serves has been at work."""


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


Spans = Callable[[int, int], Sequence[Mapping[str, Any]]]
"""Where the records of an event-time window lie: (from, to) → topics with their offsets."""


def _nowhere(from_ms: int, to_ms: int) -> Sequence[Mapping[str, Any]]:
    return ()


class Retraining:
    """The retraining policy of one model, with its memory."""

    def __init__(self, model_name: str, config: RetrainingConfig, spans: Spans = _nowhere) -> None:
        self.model_name = model_name
        self.config = config
        self._spans = spans
        self._ahead: list[Transition] = []
        self._active: dict[MonitorKey, Transition] = {}  # the transition that raised (or escalated) it last
        self._episodes: dict[Cause, _Episode] = {}
        self._asked_ms: list[int] = []  # the last requests, as many as a period may have
        self._manual: list[str] = []  # tokens of operators' requests that were answered
        self._last_reason: dict[Cause, Reason] = {}
        self._suppressed: Counter[Reason] = Counter()
        self._requests: list[CloudEvent] = []

    def step(self, step: JointStep) -> Sequence[Decision]:
        """Decide on every cause that holds or has just ended; an empty answer: there is no cause."""
        news = self._take(step)
        decisions = (self._decide(cause, step, news) for cause in Cause if cause is not Cause.MANUAL)
        return [decision for decision in decisions if decision is not None]

    def ask(self, step: JointStep, token: str, *, force: bool = False) -> Decision:
        """Decide on an operator's request, which ends with its answer; `force` skips all but a dry run.

        The same token is answered once: a request that is read again after a crash asks for nothing more.
        """
        if token in self._manual:
            return Decision(Cause.MANUAL, Reason.ALREADY_REQUESTED, step.at_ms)
        self._take(step)
        self._manual = [*self._manual, token][-MAX_TOKENS:]
        if not force and (held := self._held_back(step)):
            return self._suppress(Cause.MANUAL, held, step, count=True)
        episode = _Episode(step.model_version, step.at_ms)
        serving = [t.alarm for t in self._serving(step)]
        return self._request(Cause.MANUAL, Reason.MANUAL, episode, step, serving, token)

    @property
    def idle(self) -> bool:
        """Nothing is wrong, open or ageing: steps without transitions would decide nothing."""
        return not (self._ahead or self._active or self._episodes or self.config.max_age)

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
            "asked_ms": self._asked_ms,
            "manual": self._manual,
            "last_reason": {cause.value: reason.value for cause, reason in sorted(self._last_reason.items())},
            "suppressed": dict(self.suppressed),
            "requests": list(self._requests),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; what was there before is forgotten."""
        self._ahead = [transition_from(t) for t in state["ahead"]]
        self._active = {t.alarm.key: t for t in map(transition_from, state["active"])}
        self._episodes = {Cause(cause): _Episode(**e) for cause, e in state["episodes"].items()}
        self._asked_ms = list(state["asked_ms"])
        self._manual = list(state["manual"])
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
        serving = self._serving(step)
        reason = Reason.STALE if self._stale(cause, step) else _reason(cause, serving)
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
            now = {t.alarm.key for t in serving}
            again = any(t.family in _FAMILIES[cause] and t.alarm.key in now for t in news)
            return self._suppress(cause, Reason.ALREADY_REQUESTED, step, count=again)
        if held := self._held_back(step):
            return self._suppress(cause, held, step)
        return self._request(cause, reason, episode, step, [t.alarm for t in serving])

    def _serving(self, step: JointStep) -> list[Transition]:
        """Alarms of the version that serves, and of the model as a whole."""
        return [t for k, t in self._active.items() if k.model_version in ("", step.model_version)]

    def _stale(self, cause: Cause, step: JointStep) -> bool:
        limit, since = self.config.max_age, step.version_since_ms
        if cause is not Cause.STALENESS or limit is None or since is None:
            return False
        return step.at_ms - since >= to_ms(limit)

    def _held_back(self, step: JointStep) -> Reason | None:
        """Why nothing may be asked now."""
        asked, config = self._asked_ms, self.config
        if asked and step.at_ms < asked[-1] + to_ms(config.cooldown):
            return Reason.COOLDOWN
        most = config.max_requests
        if len(asked) >= most and step.at_ms < asked[-most] + to_ms(config.period):
            return Reason.MAX_REQUESTS
        return Reason.NOT_ENOUGH_LABELS if step.labels < config.min_labels else None

    def _suppress(self, cause: Cause, reason: Reason, step: JointStep, count: bool | None = None) -> Decision:
        if self._last_reason.get(cause) is not reason if count is None else count:
            self._suppressed[reason] += 1
        self._last_reason[cause] = reason
        return Decision(cause, reason, step.at_ms)

    def _request(
        self,
        cause: Cause,
        reason: Reason,
        episode: _Episode,
        step: JointStep,
        alarms: Sequence[AlarmView],
        *token: str,
    ) -> Decision:
        parts: tuple[str | int, ...] = (
            self.model_name,
            episode.model_version,
            cause,
            episode.started_ms,
            *token,
        )
        identity = request.event_id(*parts)
        config, dry_run = self.config, self.config.dry_run
        event = request.cloud_event(request.REQUESTED, identity, identity, self.model_name, step.at_ms)
        event["data"] = {
            **self._subject(cause, episode),
            "decision": "request",
            "reason": reason.value,
            "dry_run": dry_run,
            "cooldown_until": request.rfc3339(step.at_ms + to_ms(config.cooldown)),
            "policy": {
                "cooldown_seconds": to_ms(config.cooldown) / 1000,
                "min_labels": config.min_labels,
                "max_requests": config.max_requests,
                "period_seconds": to_ms(config.period) / 1000,
            },
            "labels": step.labels,
            "evidence": request.evidence_bundle(alarms),
            "impact": request.impact([a for a in alarms if self._active[a.key].family in _IMPACT]),
            "data_window": {
                "from": request.rfc3339(step.data_from_ms),
                "to": request.rfc3339(step.at_ms),
            },
        }
        if spans := self._spans(step.data_from_ms, step.at_ms):
            until = step.at_ms // HOUR_MS * HOUR_MS
            event["data"]["data_window"] |= {"topics": list(spans), "offsets_until": request.rfc3339(until)}
        event = request.fitted(event)
        if cause is not Cause.MANUAL:
            self._episodes[cause] = replace(episode, request_id=identity, dry_run=dry_run)
        self._asked_ms = [*self._asked_ms, step.at_ms][-config.max_requests :]
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


_FAMILIES: dict[Cause, tuple[str, ...]] = {
    Cause.PERFORMANCE: ("performance", "drift"),
    Cause.CONSTRAINT: ("fairness", "constraint"),
    Cause.STALENESS: (),
}
_IMPACT = ("performance", "fairness", "constraint")


def _reason(cause: Cause, alarms: Collection[Transition]) -> Reason | None:
    """The rule of the module's docstring."""
    if cause is Cause.STALENESS:
        return None
    families = {t.family for t in alarms}
    fallen = {t.alarm.key.metric for t in alarms if t.alarm.key.detector == SINCE_LAUNCH}
    pages = {t.family for t in alarms if t.alarm.severity is Severity.PAGE}
    if cause is Cause.CONSTRAINT:
        return Reason.CONSTRAINT_BROKEN if any(map(_is_broken_constraint, alarms)) else None
    if {"performance", "drift"} <= families:
        return Reason.DRIFT_CONFIRMED
    if "performance" in pages:
        return Reason.PERFORMANCE_DROP
    if "roc_auc" in fallen:
        return Reason.AUC_DROP
    return Reason.FALSE_POSITIVES if "false_positive_rate" in fallen else None


def _is_broken_constraint(transition: Transition) -> bool:
    """A page of a group disparity or of a red line; no retraining mends a model that fails to answer."""
    alarm = transition.alarm
    paged = alarm.severity is Severity.PAGE and transition.family in _FAMILIES[Cause.CONSTRAINT]
    return paged and alarm.key.metric != "error_rate"
