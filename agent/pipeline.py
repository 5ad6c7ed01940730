"""The wiring: raw batches in, one consistent set of changes and one View out. No clock, no I/O but the store.

apply      decode → measure (panes, join)                     per batch
advance    close steps, mature hours → detectors → alarms → retraining requests
commit     positions + everything that changed, in one transaction → the View of exactly that
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from agent.config import Config
from agent.events import NO_TIME, Decoded, Kind, Mark, Partition, RawBatch, Reason, Rejected
from agent.ingest.budget import DeadLetterBudget
from agent.ingest.decode import Decoder
from agent.ingest.mapping import Schema, source_of
from agent.judge import Judge
from agent.measure.baseline import Baseline
from agent.measure.clock import Clock
from agent.measure.model import Model
from agent.measure.models import Models
from agent.measure.pane import PaneKey
from agent.respond.delivery import PREFIX, Report, wanted
from agent.respond.outbox import Outgoing, dead_letter_message, event_message
from agent.respond.publish import model_view
from agent.respond.request import CloudEvent
from agent.respond.view import CounterKey, View
from agent.state import State
from agent.store import Changes, Store


@dataclass(frozen=True, slots=True)
class Control:
    """What a clock or an operator decided, stored with the commit it takes effect in."""

    stream: str
    """A model's name: its predictions; "": feedback."""
    partition: Partition
    floor_ms: int
    """The partition's watermark is at least this from here on."""


class Pipeline:
    """All state between a source and what is published."""

    def __init__(self, config: Config, store: Store, *, version: str = "") -> None:
        self.config = config
        self.store = store
        self.version = version
        baselines = {
            name: Baseline.load(model.baseline, name, model)
            for name, model in config.models.items()
            if model.baseline is not None
        }
        self.models = Models(config.models, baselines)
        self.judges = {name: Judge(model) for name, model in self.models.models.items()}
        self.decoder = Decoder.of(config, _schema(config, self.models.models.values()))
        self.partitions: frozenset[Partition] = frozenset()
        self.budget = DeadLetterBudget(config.dead_letters)
        self.state = State(self.models, self.judges, self.budget, config.digest())
        self.state.restore(store)
        self.positions = self.state.positions
        self.counters = self.state.counters
        self._outbox: list[tuple[str, Outgoing]] = []
        self.unsent_bytes = 0
        """Payload of the dead letters that wait for the next commit."""
        self._unwritten: Changes | None = None
        """What the last commit could not write."""

    @property
    def unwritten(self) -> bool:
        """Whether the last commit failed: the next one writes just that, so nothing may be applied before."""
        return self._unwritten is not None

    @property
    def commits(self) -> int:
        """Commits of the state so far, by this process and those before it."""
        return self.state.commits

    # in

    def assign(self, partitions: Iterable[Partition]) -> None:
        """The partitions this agent reads: nothing closes before each of them has got so far."""
        self.partitions = frozenset(partitions)

    def apply(self, raw: RawBatch, decode: Callable[[Decoder, RawBatch], Decoded] = Decoder.decode) -> None:
        """Fold one batch; records already applied are skipped. A backtest by rows decodes in its own way.

        PoisonError if nearly all is unusable: then the state must not be committed any more.
        """
        at = self.positions.get(raw.partition, 0)
        if len(raw) and int(raw.offsets[0]) < at:
            raw = _after(raw, at)
        if raw.floor_ms > NO_TIME:
            for model in self.models.models.values():
                model.clock.raise_floor(raw.partition, raw.floor_ms)
        decoded = decode(self.decoder, raw)
        applied = self.models.apply(decoded)
        values = raw.values
        rejected = [*decoded.rejected]
        for offset in applied.unknown_class:
            value = values[int(np.searchsorted(raw.offsets, offset))] if values else None
            rejected.append(Rejected(raw.partition, offset, Reason.UNKNOWN_CLASS, value))
        if len(raw):
            bad = np.isin(raw.offsets, [one.offset for one in rejected])
            self.budget.spend(raw.partition.topic, bad, [one.reason for one in rejected])
        self.reject(rejected)
        outcomes = {
            "merged": applied.merged,
            "late": applied.late,
            "duplicate": applied.duplicate,
            "ignored": applied.ignored,
        }
        for outcome, n in outcomes.items():
            self._count("records", n, outcome=outcome, topic=raw.partition.topic)
        self._count("records_read", len(raw), topic=raw.partition.topic)
        self.positions[raw.partition] = max(at, raw.next_position)

    def skipped(self, rejected: Sequence[Rejected]) -> None:
        """Take in what the source could not read: each counts as one record, however long its range."""
        for one in rejected:
            topic = one.partition.topic
            self._count("records_read", 1, topic=topic)
            if one.last_offset is not None:
                gap = one.last_offset - one.offset + 1
                self._count("unrecoverable_offsets", gap, topic=topic, reason=one.reason.value)
        self.reject(rejected)

    def reject(self, rejected: Sequence[Rejected]) -> None:
        """Dead-letter records that could not be used."""
        topic = self.config.dead_letters.topic or "dead-letters"
        for one in rejected:
            message = dead_letter_message(one, self.config.dead_letters.payload)
            self._outbox.append((topic, message))
            self.unsent_bytes += len(message.key) + len(message.value or b"")
            self._count("records", 1, outcome="dead_lettered", topic=one.partition.topic)
            self._count("dead_letters", 1, reason=one.reason.value, topic=one.partition.topic)

    def control(self, records: Sequence[Control]) -> None:
        """Apply control records."""
        for record in records:
            self._clock(record.stream).raise_floor(record.partition, record.floor_ms)

    def _clock(self, stream: str) -> Clock:
        return self.models.models[stream].clock if stream else self.models.feedback_clock

    # judge

    def watermarks(self) -> dict[str, tuple[int, int]]:
        """By model: (up to where predictions are complete, up to where labels are too)."""
        feedback = self.read_by(Kind.FEEDBACK)
        labels = self.models.feedback_clock.low(feedback) if feedback else None
        found = {}
        for name, model in self.models.models.items():
            low = model.clock.low(self.read_by(Kind.PREDICTION))
            found[name] = (low, low if labels is None else min(low, labels))
        return found

    def read_by(self, kind: Kind) -> frozenset[Partition]:
        """Assigned partitions that may hold records of a kind."""
        kinds = (kind.value, "auto", "labelled")
        return frozenset(p for p in self.partitions if source_of(p.topic, self.config.sources).kind in kinds)

    def advance(self) -> None:
        """Judge what is complete; forget what nothing can touch any more."""
        watermarks = self.watermarks()
        for name, judge in self.judges.items():
            news = judge.advance(*watermarks[name])
            for event in news.events:
                self._send(name, event)
            for change in news.transitions:
                self._count(
                    "alarm_transitions",
                    1,
                    change=change.change.value,
                    model_name=name,
                    severity=change.alarm.severity.value,
                )
        self.models.forget(watermarks)
        for judge in self.judges.values():
            judge.monitors.forget()

    def ask(self, model_name: str, token: str, *, force: bool) -> str:
        """An operator asks for retraining; the reason why a request is made, or not."""
        judge = self.judges.get(model_name)
        if judge is None:
            return "unknown_model"
        decision = judge.ask(token, force=force)
        if decision is None:
            return "nothing_seen_yet"
        if decision.event is not None:
            self._send(model_name, decision.event)
        return decision.reason.value

    def _send(self, model_name: str, event: CloudEvent) -> None:
        """Put a retraining event on its ways: to the topic, and to each webhook that wants it."""
        topic = self.config.retraining_topic or "retraining"
        message = event_message(event)
        self._outbox.append((topic, message))
        for hook in self.config.webhooks:
            if wanted(hook, event):
                row = message._replace(key=str(event["id"]).encode())
                self._outbox.append((PREFIX + hook.name, row))
        kind = str(event["type"]).rsplit(".", 2)[-2]
        self._count("retraining_events", 1, model_name=model_name, type=kind)

    # out

    def marks(self) -> dict[Partition, Mark]:
        """What the group is told of each partition; right after a commit, for it is of the state as it is."""
        open_ms = self.models.open_from(low for low, _ in self.watermarks().values())
        config = self.state.config_sha256[:12]
        return {
            p: Mark(at, self.models.safe(p, at, open_ms), open_ms, config) for p, at in self.positions.items()
        }

    def commit(
        self, committed_at_s: float, acknowledged: Sequence[int] = (), delivered: Report | None = None
    ) -> View:
        """Make everything durable in one transaction; returns what may now be shown.

        StateBusyError if the disk does not take it. The next call repeats the same transaction.
        """
        if self._unwritten is None:
            self._unwritten = self._changes(acknowledged, delivered or Report())
        self.store.commit(self._unwritten)
        self._unwritten = None
        self.state.commits += 1
        return self.view(committed_at_s)

    def _changes(self, acknowledged: Sequence[int], report: Report) -> Changes:
        for (hook, outcome), n in report.attempts.items():
            self.state.delivered[_counter("webhook_attempts", webhook=hook, outcome=outcome)] += n
        for (hook, reason), n in report.given_up.items():
            self.state.delivered[_counter("webhook_given_up", webhook=hook, reason=reason)] += n
        changes = self.state.changes()
        changes.outbox = [(topic, m.key, m.headers, m.value) for topic, m in self._outbox]
        changes.acknowledged = [*acknowledged, *report.done]
        changes.tried = report.tried
        self._outbox.clear()
        self.unsent_bytes = 0
        return changes

    def view(self, committed_at_s: float) -> View:
        """What is shown of the state as it stands."""
        watermarks = self.watermarks()
        return View(
            models={name: model_view(judge, *watermarks[name]) for name, judge in self.judges.items()},
            counters=self._counters(),
            positions={(p.topic, p.partition): at for p, at in self.positions.items()},
            commits=self.commits,
            committed_at_s=committed_at_s,
            agent_version=self.version,
        )

    def _counters(self) -> dict[CounterKey, int]:
        found = Counter(self.counters | self.state.delivered)
        for name, judge in self.judges.items():
            for version in judge.model.versions.names:
                counts = judge.model.panes.get(PaneKey(version, 2, 0, -1, ""))
                if counts is not None:
                    labels = {"model_name": name, "model_version": version}
                    found[_counter("predictions", **labels)] = int(counts[0])
                    found[_counter("prediction_errors", **labels)] = int(counts[1])
            for reason, n in judge.reasons.items():
                found[_counter("alarm_decisions", model_name=name, reason=reason)] = n
            for reason, n in judge.retraining.suppressed.items():
                found[_counter("retraining_suppressed", model_name=name, reason=reason)] = n
            found[_counter("segment_values_dropped", model_name=name)] = judge.model.slices.overflowed
        for outcome in ("matched", "duplicate", "superseded", "orphan"):
            found[_counter("labels", outcome=outcome)] = self.models.counts[f"labels_{outcome}"]
        return dict(found)

    def _count(self, name: str, n: int, **labels: str) -> None:
        self.counters[_counter(name, **labels)] += n

    def fingerprint(self) -> str:
        """SHA-256 of the state, the same for any batch sizes, commit times and restarts (I2)."""
        return self.state.fingerprint()


def _counter(name: str, **labels: str) -> CounterKey:
    return CounterKey(name, tuple(sorted(labels.items())))


def _after(raw: RawBatch, position: int) -> RawBatch:
    """The records of a batch from a position on."""
    cut = int(np.searchsorted(raw.offsets, position))
    return replace(
        raw,
        offsets=raw.offsets[cut:],
        append_ms=raw.append_ms[cut:],
        values=raw.values[cut:],
        keys=None if raw.keys is None else raw.keys[cut:],
        headers=None if raw.headers is None else raw.headers[cut:],
        frame=None if raw.frame is None else raw.frame[cut:],
    )


def _schema(config: Config, models: Iterable[Model]) -> Schema:
    """What the decoder must read: what the config names and what the baselines brought."""
    schema = Schema.of(config.models)
    features, classes = set(schema.features), set(schema.classes)
    for model in models:
        features |= {feature.name for feature in model.layout.features}
        classes |= set(model.layout.classes)
    return replace(schema, features=tuple(sorted(features)), classes=tuple(sorted(classes)))


__all__ = ["NO_TIME", "Control", "Decoded", "Pipeline"]
