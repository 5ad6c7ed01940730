"""The outbox's way to webhooks: one thread for each, so that a receiver that hangs holds up nobody else.

The processing loop only hands over and collects; it never waits for a receiver. One attempt per webhook is
under way at a time. What was not taken is tried again after 5 s, 15 s, 45 s, … up to an hour, each lengthened
by up to a half at random, never sooner than the receiver's Retry-After. How often and since when an event was
tried is stored with the next commit, so that giving up (`give_up_after`, 410) does not start anew with every
restart. A crash between an attempt and that commit repeats the attempt under the same `webhook-id`.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from agent.config import WebhookConfig
from agent.respond.outbox import OutboxMessage
from agent.respond.webhook import FINAL, SUCCESS, Answer, Outcome, post

_log = structlog.get_logger()

PREFIX = "webhook:"
"""What the topic of a webhook's outbox row begins with; Kafka allows no colon in a name."""
MAX_PENDING = 200
"""Events that one webhook has in memory; the rest waits in the store."""
FIRST_RETRY_S = 5.0
LAST_RETRY_S = 3600.0

Post = Callable[[WebhookConfig, bytes, float], Answer]


@dataclass(frozen=True, slots=True)
class Tried:
    """How far the delivery of one outbox row has come."""

    attempts: int = 0
    first_s: float = 0.0
    """Wall clock of the first attempt."""
    next_s: float = 0.0
    """Not before."""


@dataclass
class Report:
    """What happened since the last report, to be committed."""

    done: list[int] = field(default_factory=list)
    """Rows to delete: delivered or given up."""
    tried: dict[int, Tried] = field(default_factory=dict)
    attempts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(webhook, outcome) → attempts."""
    given_up: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(webhook, reason) → events."""

    def __bool__(self) -> bool:
        return bool(self.done or self.tried)


class Deliveries:
    """All webhooks. The loop calls `offer` and `take`; `clock` is the wall clock in seconds."""

    def __init__(
        self,
        configs: Sequence[WebhookConfig],
        clock: Callable[[], float],
        *,
        send: Post = post,
        first_retry_s: float = FIRST_RETRY_S,
    ) -> None:
        self._report = Report()
        self._lock = threading.Lock()
        self._make = partial(_Queue, clock=clock, send=send, first_retry_s=first_retry_s, note=self._note)
        self._queues = {config.name: self._make(config) for config in configs}

    def configure(self, configs: Sequence[WebhookConfig]) -> None:
        """Go on with these webhooks. A changed one starts anew: what was under way is repeated."""
        for name, queue in list(self._queues.items()):
            if queue.config not in configs:
                self._queues.pop(name).stop()
        for config in configs:
            if config.name not in self._queues:
                self._queues[config.name] = self._make(config)

    def offer(self, rows: Sequence[tuple[OutboxMessage, Tried]]) -> None:
        """Hand over committed rows, oldest first; those that are under way already are passed over."""
        names = {message.topic.removeprefix(PREFIX) for message, _ in rows}
        for name in names:
            mine = [(m, tried) for m, tried in rows if m.topic == PREFIX + name]
            if queue := self._queues.get(name):
                queue.offer(mine)
            else:
                with self._lock:
                    self._report.done += [message.id for message, _ in mine]
                    self._report.given_up[name, "not_configured"] += len(mine)

    def take(self) -> Report:
        """What happened since the last call."""
        with self._lock:
            report, self._report = self._report, Report()
        return report

    def settle(self, timeout_s: float) -> None:
        """Give attempts that are due or under way this long, all webhooks together."""
        for queue in self._queues.values():
            queue.settle(timeout_s / len(self._queues))

    def close(self) -> None:
        """Stop; an attempt that is under way is left behind, and repeated by the next start."""
        for queue in self._queues.values():
            queue.stop()

    def _note(
        self, name: str, message: OutboxMessage, outcome: Outcome | None, tried: Tried, gone: str
    ) -> None:
        with self._lock:
            if outcome is not None:
                self._report.attempts[name, outcome.value] += 1
            if gone:
                self._report.given_up[name, gone] += 1
            if gone or outcome in SUCCESS:
                self._report.done.append(message.id)
                self._report.tried.pop(message.id, None)
            else:
                self._report.tried[message.id] = tried


Note = Callable[[str, OutboxMessage, Outcome | None, Tried, str], None]


class _Queue:
    """One webhook's thread and what it has to deliver."""

    def __init__(
        self, config: WebhookConfig, clock: Callable[[], float], send: Post, first_retry_s: float, note: Note
    ) -> None:
        self.config = config
        self._clock = clock
        self._send = send
        self._first_retry_s = first_retry_s
        self._note = note
        self._random = random.Random()
        self._pending: dict[int, tuple[OutboxMessage, Tried]] = {}
        self._settled: set[int] = set()  # done with, but perhaps not yet deleted by a commit
        self._gone = False
        self._failing = False
        self._stopped = False
        self._busy = False
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None

    def offer(self, rows: Sequence[tuple[OutboxMessage, Tried]]) -> None:
        with self._wake:
            self._settled &= {message.id for message, _ in rows}
            for message, tried in rows:
                if len(self._pending) >= MAX_PENDING:
                    break
                if message.id not in self._settled:
                    self._pending.setdefault(message.id, (message, tried))
            if self._pending and self._thread is None and not self._stopped:
                name = f"plumbline-webhook-{self.config.name}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()
            self._wake.notify_all()

    def settle(self, timeout_s: float) -> None:
        with self._wake:
            self._wake.wait_for(lambda: not (self._busy or self._due()), timeout_s)

    def stop(self) -> None:
        with self._wake:
            self._stopped = True
            self._wake.notify_all()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (due := self._due()) and not self._stopped:
                    self._wake.wait(1.0)
                if self._stopped or due is None:
                    return
                self._busy = True
            try:
                self._attempt(*due)
            finally:
                with self._wake:
                    self._busy = False
                    self._wake.notify_all()

    def _due(self) -> tuple[OutboxMessage, Tried] | None:
        now = self._clock()
        due = [item for item in self._pending.values() if item[1].next_s <= now]
        return min(due, key=lambda item: (item[1].next_s, item[0].id), default=None)

    def _attempt(self, message: OutboxMessage, tried: Tried) -> None:
        now = self._clock()
        first = tried.first_s or now
        expired = tried.attempts > 0 and now - first >= self.config.give_up_after.total_seconds()
        if self._gone or expired:
            self._finish(message, None, tried, "gone" if self._gone else "expired")
            return
        outcome, retry_after_s = self._send(self.config, message.value or b"", now)
        self._tell(outcome)
        if outcome is Outcome.GONE:
            self._gone = True
        tried = Tried(tried.attempts + 1, first, self._clock() + self._pause(tried.attempts, retry_after_s))
        if outcome in SUCCESS or outcome in FINAL:
            self._finish(message, outcome, tried, outcome.value if outcome in FINAL else "")
            return
        with self._wake:
            self._pending[message.id] = (message, tried)
        self._note(self.config.name, message, outcome, tried, "")

    def _finish(self, message: OutboxMessage, outcome: Outcome | None, tried: Tried, gone: str) -> None:
        if gone:
            _log.error("webhook_event_given_up", webhook=self.config.name, reason=gone)
        with self._wake:
            self._pending.pop(message.id, None)
            self._settled.add(message.id)
        self._note(self.config.name, message, outcome, tried, gone)

    def _pause(self, attempts: int, retry_after_s: float) -> float:
        """The pause is varied upwards only, so that a promise to stay away is kept."""
        pause = min(self._first_retry_s * 3.0 ** min(attempts, 20), LAST_RETRY_S)
        return max(pause, retry_after_s) * (1.0 + 0.5 * self._random.random())

    def _tell(self, outcome: Outcome) -> None:
        """Once per outage, without the address: some hold a token."""
        if outcome in SUCCESS:
            if self._failing:
                _log.info("webhook_recovered", webhook=self.config.name)
            self._failing = False
        elif not self._failing:
            _log.warning("webhook_failed", webhook=self.config.name, outcome=outcome.value)
            self._failing = True


def wanted(config: WebhookConfig, event: Mapping[str, object]) -> bool:
    """Does this webhook get this event?"""
    kind = str(event["type"]).rsplit(".", 2)[-2]
    everything = config.preset in ("generic", "argo")
    kinds = config.events or (["requested", "resolved", "verdict"] if everything else ["requested"])
    return kind in kinds and (not config.models or event["subject"] in config.models)
