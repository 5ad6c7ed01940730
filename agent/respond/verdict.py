"""Did the retraining pay? The new version's matured labels against those of the version it replaced.

A **trial** begins with a request and is opened when another version serves. It holds the old version's rate,
from its last matured hours (all since the request's episode began, and at least `min_labels` labels), against
the new version's, hour by hour as they mature. With the interval of the difference (95 %, valid at every hour
at which it is looked at):

    the interval lies within ± relative_drop × old rate     → equivalent
    all of it on the good side of 0                         → better
    all of it on the bad side                               → worse

The first that holds is the verdict, told once. `verdict_within` after the new version came, or when that
version is replaced itself, it is: not enough evidence. Pure: matured hours and event time in, events out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from agent.config import ModelConfig
from agent.measure.catalogue import LOWER_IS_BETTER
from agent.measure.model import to_ms
from agent.measure.pane import DAY_MS
from agent.respond import request
from agent.respond.request import CloudEvent
from detectors.sequential import rate_interval

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ALPHA = 0.05
KEPT_MS = 7 * DAY_MS
"""Matured hours are remembered for so long, in case their version is replaced."""
MAX_VERDICTS = 50
"""Verdicts that are remembered for /status."""


class Paid(StrEnum):
    """What a retraining brought."""

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    NOT_ENOUGH_EVIDENCE = "not_enough_evidence"


class Reason(StrEnum):
    """Why the verdict was told now."""

    DECIDED = "decided"
    TOO_LATE = "too_late"
    """`verdict_within` has gone by."""
    VERSION_REPLACED = "version_replaced"


class Hour(NamedTuple):
    """One matured hour of one version: when it matured, and its rate's successes and failures."""

    when_ms: int
    version: str
    good: int
    bad: int


@dataclass(slots=True)
class _Trial:
    request_id: str
    asked_for: str
    old: str
    asked_ms: int
    episode_ms: int
    new: str = ""
    """"" until another version serves."""
    since_ms: int = 0
    old_good: int = 0
    old_bad: int = 0
    good: int = 0
    bad: int = 0


class Handovers:
    """The trials of one model."""

    def __init__(self, model_name: str, config: ModelConfig) -> None:
        self.model_name = model_name
        self.config = config
        self.metric = config.performance.metrics[0] if config.task == "binary" else "accuracy"
        """The metric the verdict is about: the first of performance.metrics."""
        self._hours: list[Hour] = []
        self._trials: list[_Trial] = []
        self._at_ms: int | None = None
        self._verdicts: list[CloudEvent] = []

    def note(self, hour: Hour) -> None:
        """Take in a matured hour, in order of `when_ms`; it counts from the first step after that."""
        self._hours.append(hour)

    def asked(self, event: CloudEvent, at_ms: int) -> None:
        """A retraining event was sent; only requests begin a trial."""
        if event["type"] == request.REQUESTED:
            data = event["data"]
            began = datetime.fromisoformat(data["episode_started_at"])
            began_ms = (began - _EPOCH) // timedelta(milliseconds=1)
            self._trials.append(_Trial(event["id"], data["reason"], data["model_version"], at_ms, began_ms))

    def step(self, at_ms: int, serving: str) -> Sequence[CloudEvent]:
        """Verdicts that are due at a joint step."""
        since = self._at_ms
        news = [h for h in self._hours if h.when_ms < at_ms and (since is None or h.when_ms >= since)]
        events = []
        for trial in list(self._trials):
            if not trial.new and serving not in ("", trial.old):
                self._open(trial, serving, at_ms)
            if trial.new and (event := self._look(trial, news, serving, at_ms)):
                events.append(event)
                self._trials.remove(trial)
        self._at_ms = at_ms
        self._trials = [t for t in self._trials if t.new or at_ms - t.asked_ms < self._patience_ms]
        self._verdicts = [*self._verdicts, *events][-MAX_VERDICTS:]
        return events

    def forget(self, decided_ms: int) -> None:
        """Steps up to here were decided: hours long before it are not looked at again."""
        self._at_ms = decided_ms if self._at_ms is None else max(self._at_ms, decided_ms)
        self._hours = [hour for hour in self._hours if hour.when_ms >= decided_ms - KEPT_MS]

    @property
    def idle(self) -> bool:
        """No request waits for its verdict."""
        return not self._trials

    @property
    def verdicts(self) -> Mapping[str, Mapping[str, Any]]:
        """Request id → the data of its verdict, for the last requests that have one."""
        return {event["data"]["request_id"]: event["data"] for event in self._verdicts}

    @property
    def _patience_ms(self) -> int:
        return to_ms(self.config.retraining.verdict_within)

    def _open(self, trial: _Trial, serving: str, at_ms: int) -> None:
        trial.new, trial.since_ms = serving, at_ms
        enough = max(1, self.config.retraining.min_labels)
        for hour in reversed([h for h in self._hours if h.version == trial.old and h.when_ms < at_ms]):
            if hour.when_ms < trial.episode_ms and trial.old_good + trial.old_bad >= enough:
                break
            trial.old_good += hour.good
            trial.old_bad += hour.bad
        # What the new version did before it took over counts as well.
        for hour in self._hours:
            if hour.version == trial.new and self._at_ms is not None and hour.when_ms < self._at_ms:
                trial.good += hour.good
                trial.bad += hour.bad

    def _look(self, trial: _Trial, news: Sequence[Hour], serving: str, at_ms: int) -> CloudEvent | None:
        mine = [hour for hour in news if hour.version == trial.new]
        trial.good += sum(hour.good for hour in mine)
        trial.bad += sum(hour.bad for hour in mine)
        found = self._compare(trial)
        if found["verdict"] is not Paid.NOT_ENOUGH_EVIDENCE:
            return self._event(trial, found, Reason.DECIDED, at_ms)
        if serving not in ("", trial.new):
            return self._event(trial, found, Reason.VERSION_REPLACED, at_ms)
        if at_ms - trial.since_ms >= self._patience_ms:
            return self._event(trial, found, Reason.TOO_LATE, at_ms)
        return None

    def _compare(self, trial: _Trial) -> dict[str, Any]:
        """The rule of the module's docstring; difference = new rate - old rate."""
        old_n, n = trial.old_good + trial.old_bad, trial.good + trial.bad
        margin = self.config.performance.relative_drop * trial.old_good / old_n if old_n else None
        found: dict[str, Any] = {
            "verdict": Paid.NOT_ENOUGH_EVIDENCE,
            "previous": {"value": trial.old_good / old_n if old_n else None, "labels": old_n},
            "current": {"value": trial.good / n if n else None, "labels": n},
            "difference": None,
        }
        if margin is None or n == 0:
            return found
        old_low, old_high = rate_interval(trial.old_good, trial.old_bad, ALPHA / 2)
        new_low, new_high = rate_interval(trial.good, trial.bad, ALPHA / 2)
        low, high = new_low - old_high, new_high - old_low
        value = trial.good / n - trial.old_good / old_n
        found["difference"] = {"value": value, "low": low, "high": high, "margin": margin}
        sign = -1.0 if self.metric in LOWER_IS_BETTER else 1.0
        if -margin <= low and high <= margin:
            found["verdict"] = Paid.EQUIVALENT
        elif min(sign * low, sign * high) > 0:
            found["verdict"] = Paid.BETTER
        elif max(sign * low, sign * high) < 0:
            found["verdict"] = Paid.WORSE
        return found

    def _event(self, trial: _Trial, found: Mapping[str, Any], reason: Reason, at_ms: int) -> CloudEvent:
        identity = request.event_id(self.model_name, trial.request_id, "verdict")
        event = request.cloud_event(request.VERDICT, identity, trial.request_id, self.model_name, at_ms)
        event["data"] = {
            "model_name": self.model_name,
            "model_version": trial.new,
            "previous_version": trial.old,
            "decision": "verdict",
            "verdict": str(found["verdict"]),
            "reason": reason.value,
            "request_id": trial.request_id,
            "asked_for": trial.asked_for,
            "requested_at": request.rfc3339(trial.asked_ms),
            "serving_since": request.rfc3339(trial.since_ms),
            "metric": self.metric,
            "higher_is_better": self.metric not in LOWER_IS_BETTER,
            "confidence": 1 - ALPHA,
            **{name: found[name] for name in ("previous", "current", "difference")},
        }
        return event

    def state(self) -> dict[str, Any]:
        """Everything, safe and exact in JSON."""
        return {
            "hours": [list(hour) for hour in self._hours],
            "trials": [asdict(trial) for trial in self._trials],
            "at_ms": self._at_ms,
            "verdicts": list(self._verdicts),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; what was there before is forgotten."""
        self._hours = [Hour(*hour) for hour in state["hours"]]
        self._trials = [_Trial(**trial) for trial in state["trials"]]
        self._at_ms = state["at_ms"]
        self._verdicts = list(state["verdicts"])
