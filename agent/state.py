"""All that outlives a process: what each commit saves, what a start restores, and a digest of it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agent.errors import StateError
from agent.events import Partition
from agent.ingest.budget import DeadLetterBudget
from agent.judge import Judge
from agent.measure.model import Model
from agent.measure.models import Models
from agent.measure.pane import PaneKey
from agent.measure.runs import SortedRuns
from agent.respond.view import CounterKey
from agent.store import Changes, PaneRow, Store

AGENT = ""
"""Owner of documents that belong to no model."""


@dataclass
class State:
    """What a pipeline knows: a function of the records read, and of the configs they were read under."""

    models: Models
    judges: Mapping[str, Judge]
    budget: DeadLetterBudget
    config_sha256: str
    """Of the config in force; stored with each commit."""
    positions: dict[Partition, int] = field(default_factory=dict)
    counters: Counter[CounterKey] = field(default_factory=Counter)
    delivered: Counter[CounterKey] = field(default_factory=Counter)
    """What became of webhooks: the world's doing, thus no part of the fingerprint."""
    commits: int = 0
    _saved: dict[tuple[str, str], str] = field(default_factory=dict)
    """The documents as they are in the store."""

    def changes(self) -> Changes:
        """What the store does not know yet; it counts as known from here on."""
        changes = Changes(positions=dict(self.positions))
        for name, model in self.models.models.items():
            changes.dropped_panes += [_row(name, key) for key in model.panes.dropped]
            model.panes.dropped.clear()
            changes.panes += [(_row(name, key), blob) for key, blob in model.panes.flush()]
            _flush_runs(f"join:{name}", model.join.index, changes)
        _flush_runs("waiting", self.models.waiting, changes)
        documents = self.documents()
        changes.documents = {key: text for key, text in documents.items() if self._saved.get(key) != text}
        # What a detector's end or an old hour took away would come back from the store otherwise.
        changes.dropped_documents = [key for key in self._saved if key not in documents]
        self._saved = documents
        return changes

    def documents(self) -> dict[tuple[str, str], str]:
        """By owner and name: all that is neither position, pane nor run."""
        models = self.models
        found = {
            (AGENT, "clocks"): json.dumps([models.feedback_clock.state(), models.any_clock.state()]),
            (AGENT, "counts"): json.dumps(dict(sorted(models.counts.items()))),
            (AGENT, "counters"): json.dumps(sorted([*k, n] for k, n in self.counters.items())),
            (AGENT, "delivered"): json.dumps(sorted([*k, n] for k, n in self.delivered.items())),
            (AGENT, "commits"): str(self.commits + 1),
            (AGENT, "config"): json.dumps({"sha256": self.config_sha256}),
            (AGENT, "poison"): json.dumps(self.budget.state()),
        }
        found |= {(AGENT, n): text for n, text in models.feedback_offsets.documents()}
        for name, judge in self.judges.items():
            found |= {(name, f"judge:{n}"): text for n, text in judge.state().items()}
            found |= {(name, n): json.dumps(held) for n, held in _model_state(judge.model).items()}
            found |= {(name, n): text for n, text in judge.model.offsets.documents()}
        return found

    def restore(self, store: Store) -> None:
        """Take up what the last commit left; StateError if it was made under other bins."""
        self.positions.update(store.positions())
        agent = store.documents(AGENT)
        if not agent:
            return
        feedback, any_ = json.loads(agent["clocks"])
        self.models.feedback_clock.load(feedback)
        self.models.any_clock.load(any_)
        self.models.counts.update(json.loads(agent["counts"]))
        self.models.feedback_offsets.load(agent.items())
        self.budget.load(json.loads(agent["poison"]))
        self.commits = int(agent["commits"])
        for counter, labels, n in json.loads(agent["counters"]):
            self.counters[CounterKey(counter, tuple((k, v) for k, v in labels))] = n
        for counter, labels, n in json.loads(agent.get("delivered", "[]")):
            self.delivered[CounterKey(counter, tuple((k, v) for k, v in labels))] = n
        _load_runs(store, "waiting", self.models.waiting)
        self._saved = {(AGENT, name): text for name, text in agent.items()}
        for name, judge in self.judges.items():
            documents = store.documents(name)
            if not documents:
                continue
            self._saved |= {(name, n): text for n, text in documents.items()}
            _load_model(judge.model, documents)
            for row, blob in store.panes(name):
                judge.model.panes.load(PaneKey(row.version, row.tier, row.start, row.age, row.segment), blob)
            _load_runs(store, f"join:{name}", judge.model.join.index)
            judge.load({n[6:]: text for n, text in documents.items() if n.startswith("judge:")})

    def fingerprint(self) -> str:
        """SHA-256 of the state, the same for any batch sizes, commit times and restarts (I2)."""
        digest = hashlib.sha256()
        skipped = {(AGENT, name) for name in ("commits", "config", "delivered", "poison")}
        named = {"slices", "versions"}  # codes in order of appearance; what they name is digested instead
        for key, text in sorted(self.documents().items()):
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


def _row(model: str, key: PaneKey) -> PaneRow:
    return PaneRow(model, key.version, key.tier, key.start_ms, key.age, key.segment)


def _flush_runs(owner: str, index: SortedRuns, changes: Changes) -> None:
    removed, new, overlays = index.flush()
    changes.removed_runs += [(owner, id_) for id_ in removed]
    changes.runs += [(owner, id_, bucket, blob) for id_, bucket, blob in new]
    changes.overlays += [(owner, id_, blob) for id_, blob in overlays]


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
