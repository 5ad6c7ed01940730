"""The wiring: raw batches in, one consistent set of changes and one View out. No clock, no I/O but the store.

apply      decode → measure (panes, join)                     per batch
advance    close steps, mature hours → detectors → alarms → retraining requests
commit     positions + everything that changed, in one transaction → the View of exactly that
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from agent.config import Config
from agent.errors import StateError
from agent.events import NO_TIME, Decoded, Kind, Partition, RawBatch, Reason, Rejected
from agent.ingest.decode import Decoder
from agent.ingest.mapping import Schema, source_of
from agent.judge import Judge
from agent.measure.baseline import Baseline
from agent.measure.clock import Clock
from agent.measure.model import Model
from agent.measure.models import Models
from agent.measure.pane import PaneKey
from agent.measure.runs import SortedRuns
from agent.respond.delivery import PREFIX, Report, wanted
from agent.respond.outbox import Outgoing, dead_letter_message, event_message
from agent.respond.publish import model_view
from agent.respond.request import CloudEvent
from agent.respond.view import CounterKey, View
from agent.store import Changes, PaneRow, Store

AGENT = ""
"""Owner of documents that belong to no model."""


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
        self.config_sha256 = config.digest()
        """Stored with each commit: state is a function of the input and of the configs it was read under."""
        baselines = {
            name: Baseline.load(model.baseline, name, model)
            for name, model in config.models.items()
            if model.baseline is not None
        }
        self.models = Models(config.models, baselines)
        self.judges = {name: Judge(model) for name, model in self.models.models.items()}
        self.decoder = Decoder.of(config, _schema(config, self.models.models.values()))
        self.positions: dict[Partition, int] = {}
        self.partitions: frozenset[Partition] = frozenset()
        self.counters: Counter[CounterKey] = Counter()
        self.delivered: Counter[CounterKey] = Counter()
        """What became of webhooks: the world's doing, thus no part of the state's fingerprint."""
        self.commits = 0
        self._outbox: list[tuple[str, Outgoing]] = []
        self._saved: dict[tuple[str, str], str] = {}
        self._restore()

    # in

    def assign(self, partitions: Iterable[Partition]) -> None:
        """The partitions this agent reads: nothing closes before each of them has got so far."""
        self.partitions = frozenset(partitions)

    def apply(self, raw: RawBatch, decode: Callable[[Decoder, RawBatch], Decoded] = Decoder.decode) -> None:
        """Fold one batch; records already applied are skipped. A backtest by rows decodes in its own way."""
        at = self.positions.get(raw.partition, 0)
        if len(raw) and int(raw.offsets[0]) < at:
            raw = _after(raw, at)
        decoded = decode(self.decoder, raw)
        applied = self.models.apply(decoded)
        values = raw.values
        rejected = [*decoded.rejected]
        for offset in applied.unknown_class:
            value = values[int(np.searchsorted(raw.offsets, offset))] if values else None
            rejected.append(Rejected(raw.partition, offset, Reason.UNKNOWN_CLASS, value))
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

    def reject(self, rejected: Sequence[Rejected]) -> None:
        """Dead-letter records that could not be used."""
        topic = self.config.dead_letters.topic or "dead-letters"
        for one in rejected:
            self._outbox.append((topic, dead_letter_message(one, self.config.dead_letters.payload)))
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

    def commit(
        self, committed_at_s: float, acknowledged: Sequence[int] = (), delivered: Report | None = None
    ) -> View:
        """Make everything durable in one transaction; returns what may now be shown."""
        report = delivered or Report()
        for (hook, outcome), n in report.attempts.items():
            self.delivered[_counter("webhook_attempts", webhook=hook, outcome=outcome)] += n
        for (hook, reason), n in report.given_up.items():
            self.delivered[_counter("webhook_given_up", webhook=hook, reason=reason)] += n
        changes = self._changes([*acknowledged, *report.done])
        changes.tried = report.tried
        self.store.commit(changes)
        self._outbox.clear()
        self.commits += 1
        return self.view(committed_at_s)

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
        found = Counter(self.counters | self.delivered)
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

    def _changes(self, acknowledged: list[int]) -> Changes:
        changes = Changes(positions=dict(self.positions), acknowledged=acknowledged)
        changes.outbox = [(topic, m.key, m.headers, m.value) for topic, m in self._outbox]
        for name, model in self.models.models.items():
            changes.dropped_panes += [_row(name, key) for key in model.panes.dropped]
            model.panes.dropped.clear()
            changes.panes += [(_row(name, key), blob) for key, blob in model.panes.flush()]
            self._flush_runs(f"join:{name}", model.join.index, changes)
        self._flush_runs("waiting", self.models.waiting, changes)
        for key, text in self._documents().items():
            if self._saved.get(key) != text:
                changes.documents[key] = self._saved[key] = text
        return changes

    def _flush_runs(self, owner: str, index: SortedRuns, changes: Changes) -> None:
        removed, new, overlays = index.flush()
        changes.removed_runs += [(owner, id_) for id_ in removed]
        changes.runs += [(owner, id_, bucket, blob) for id_, bucket, blob in new]
        changes.overlays += [(owner, id_, blob) for id_, blob in overlays]

    def _documents(self) -> dict[tuple[str, str], str]:
        models = self.models
        found = {
            (AGENT, "clocks"): json.dumps([models.feedback_clock.state(), models.any_clock.state()]),
            (AGENT, "counts"): json.dumps(dict(sorted(models.counts.items()))),
            (AGENT, "counters"): json.dumps(sorted([*k, n] for k, n in self.counters.items())),
            (AGENT, "delivered"): json.dumps(sorted([*k, n] for k, n in self.delivered.items())),
            (AGENT, "commits"): str(self.commits + 1),
            (AGENT, "config"): json.dumps({"sha256": self.config_sha256}),
        }
        for name, judge in self.judges.items():
            found |= {(name, f"judge:{n}"): text for n, text in judge.state().items()}
            found |= {(name, n): json.dumps(held) for n, held in _model_state(judge.model).items()}
            found |= {(name, n): text for n, text in judge.model.offsets.documents()}
        return found

    def _restore(self) -> None:
        self.positions = self.store.positions()
        agent = self.store.documents(AGENT)
        if not agent:
            return
        feedback, any_ = json.loads(agent["clocks"])
        self.models.feedback_clock.load(feedback)
        self.models.any_clock.load(any_)
        self.models.counts.update(json.loads(agent["counts"]))
        self.commits = int(agent["commits"])
        for counter, labels, n in json.loads(agent["counters"]):
            self.counters[CounterKey(counter, tuple((k, v) for k, v in labels))] = n
        for counter, labels, n in json.loads(agent.get("delivered", "[]")):
            self.delivered[CounterKey(counter, tuple((k, v) for k, v in labels))] = n
        _load_runs(self.store, "waiting", self.models.waiting)
        self._saved = {(AGENT, name): text for name, text in agent.items()}
        for name, judge in self.judges.items():
            documents = self.store.documents(name)
            if not documents:
                continue
            self._saved |= {(name, n): text for n, text in documents.items()}
            _load_model(judge.model, documents)
            for row, blob in self.store.panes(name):
                judge.model.panes.load(PaneKey(row.version, row.tier, row.start, row.age, row.segment), blob)
            _load_runs(self.store, f"join:{name}", judge.model.join.index)
            judge.load({n[6:]: text for n, text in documents.items() if n.startswith("judge:")})

    def fingerprint(self) -> str:
        """SHA-256 of the state, the same for any batch sizes, commit times and restarts (I2)."""
        digest = hashlib.sha256()
        skipped = {(AGENT, "commits"), (AGENT, "config"), (AGENT, "delivered")}
        named = {"slices", "versions"}  # codes in order of appearance; what they name is digested instead
        for key, text in sorted(self._documents().items()):
            if key not in skipped and key[1] not in named:
                digest.update(repr((key, text)).encode())
        digest.update(repr(sorted(self.positions.items())).encode())
        for name, model in sorted(self.models.models.items()):
            for pane in sorted(model.panes.keys()):
                vector = model.panes.get(pane)
                if vector is not None and vector.any():
                    digest.update(repr((name, pane)).encode() + vector.tobytes())
            digest.update(_join_digest(model))
        for column in self.models.waiting.rows().values():
            digest.update(column.tobytes())
        return digest.hexdigest()


def _counter(name: str, **labels: str) -> CounterKey:
    return CounterKey(name, tuple(sorted(labels.items())))


def _row(model: str, key: PaneKey) -> PaneRow:
    return PaneRow(model, key.version, key.tier, key.start_ms, key.age, key.segment)


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


def _model_state(model: Model) -> dict[str, Any]:
    return {
        "layout": model.layout.version,
        "clock": model.clock.state(),
        "versions": model.versions.names,
        "slices": [model.slices.names.names, model.slices.combos, model.slices.overflowed],
        "seen": dict(sorted(model.seen.items())),
        "counts": [dict(sorted(model.counts.items())), dict(sorted(model.join.counts.items()))],
        "minutes_from_ms": model.minutes_from_ms,
    }


def _load_model(model: Model, documents: Mapping[str, str]) -> None:
    held = {name: json.loads(documents[name]) for name in _model_state(model)}
    if held["layout"] != model.layout.version:
        raise StateError(
            f"models.{model.name}: the state was made with other classes, features or feature bins; "
            f"counts of different bins are never added. Choose another state.dir, or the old configuration"
        )
    model.clock.load(held["clock"])
    for name in held["versions"]:
        model.versions.code(name)
    names, combos, model.slices.overflowed = held["slices"]
    for combo in combos:
        model.slices.combo(tuple(names[code] for code in combo))
    model.seen = {version: (first, last) for version, (first, last) in held["seen"].items()}
    model.counts.update(held["counts"][0])
    model.join.counts.update(held["counts"][1])
    model.minutes_from_ms = held["minutes_from_ms"]
    model.offsets.load(documents.items())


def _load_runs(store: Store, owner: str, index: SortedRuns) -> None:
    for id_, bucket, rows, overlays in store.runs(owner):
        index.load(id_, bucket, rows, overlays)


def _join_digest(model: Model) -> bytes:
    """The join's rows with codes spelt out, in an order that depends on the content only."""
    rows = model.join.index.rows()
    version = np.array(model.versions.names or [""])[rows["version"]]
    spelt = [",".join(model.slices.names.names[c] for c in codes) for codes in model.slices.combos] or [""]
    combo = np.array(spelt)[rows["combo"]]
    order = np.lexsort((version, rows["time_ms"], rows["key"]))
    digest = hashlib.sha256()
    for column in (version, combo, *(c for n, c in rows.items() if n not in ("version", "combo"))):
        digest.update(np.ascontiguousarray(column[order]).tobytes())
    return digest.digest()


__all__ = ["NO_TIME", "Control", "Decoded", "Pipeline"]
