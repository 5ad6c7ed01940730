"""The detectors at work for one model: made from references, sharing one budget, fed by key."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np

from agent.config import ModelConfig
from agent.events import Int64s
from agent.measure.arrivals import Arrivals
from agent.measure.baseline import Baseline
from agent.measure.catalogue import LOWER_IS_BETTER
from agent.measure.layout import Layout
from agent.measure.lifecycle import Lifecycle
from agent.measure.reference import Reference, rate
from agent.measure.shares import LABEL, SURGES, confidence, output, truths
from detectors import (
    ConfidenceCollapse,
    ConstantPredictions,
    DeadSegment,
    Detector,
    Evidence,
    GroupRatio,
    HistogramDrift,
    LabelsLate,
    RateDrop,
    VersionDrop,
    VolumeDrop,
    VolumeSurge,
    log_threshold,
    split,
)
from detectors.silence.volume import VolumeDetector

ALL_VERSIONS = ""

Make = Callable[[float], Detector]


class Key(NamedTuple):
    """What a monitor watches; "" where a part does not apply."""

    version: str
    detector: str
    feature: str = ""
    segment: str = ""
    metric: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """The answer of a rule that is no detector."""

    family: str
    severity: str
    fired: bool
    recovered: bool
    evidence: Evidence

    @property
    def warming_up(self) -> bool:
        """Is it too early to judge?"""
        return self.evidence.warming_up


@dataclass(frozen=True, slots=True)
class Observation:
    """What was said after one look; a detector's intervals are worked out only where they are asked for."""

    at_ms: int
    key: Key
    said: Detector | Said
    """To be read before the detector's next look."""


@dataclass
class Monitor:
    """A detector at work."""

    detector: Detector
    log_threshold: float
    labelled: bool
    """It bets on matured hours, not on steps: the two advance apart, so each has half of the page budget."""


class Watch:
    """All monitors of one model and the references they compare with."""

    def __init__(
        self,
        config: ModelConfig,
        layout: Layout,
        baseline: Baseline | None,
        versions: Lifecycle,
        arrivals: Arrivals,
    ) -> None:
        self.config = config
        self.layout = layout
        self.baseline = baseline
        self.versions = versions
        self.arrivals = arrivals
        self.monitors: dict[Key, Monitor] = {}
        self.references: dict[str, Reference] = {}
        self._saved: dict[str, str] = {}

    def reference(self, version: str) -> Reference:
        """The version's reference; the configured baseline belongs to the first version at work."""
        found = self.references.get(version)
        if found is None:
            baseline = self.baseline if version == self.versions.first_version else None
            found = self.references[version] = Reference.of(self.layout, baseline)
        return found

    def segments(self, version: str, metric: str) -> list[str]:
        """Groups of a version whose ratio is watched."""
        return [
            k.segment for k in self.monitors if k[:2] == (version, GroupRatio.name) and k.metric == metric
        ]

    def look(
        self, at_ms: int, key: Key, counts: Int64s, *, labelled: bool = False, expected: float | None = None
    ) -> Observation:
        """Give counts to the monitor of this key, starting it if need be."""
        found = self.monitors.get(key)
        if found is None:
            found = self._start(at_ms, key, labelled)
        seen = found.detector
        if expected is not None and isinstance(seen, VolumeDetector):
            seen.expect(expected)
        seen.update(counts)
        return Observation(at_ms, key, seen)

    def _start(self, at_ms: int, key: Key, labelled: bool) -> Monitor:
        """A new monitor takes its share of the budget; the others' thresholds may rise, never fall."""
        make = self._maker(key)
        probe = make(1.0)
        sharing = {
            other: monitor
            for other, monitor in self.monitors.items()
            if monitor.detector.severity == probe.severity
            and monitor.labelled == labelled
            and not self.versions.is_replaced(other.version, at_ms)
        }
        families = {str(other): _part(other, monitor.detector) for other, monitor in sharing.items()}
        weights = split({**families, str(key): _part(key, probe)})
        for other, monitor in sharing.items():
            log_c = self._log_threshold(probe.severity, labelled, weights[str(other)])
            if log_c > monitor.log_threshold:
                state = monitor.detector.state()
                monitor.detector, monitor.log_threshold = self._maker(other)(log_c), log_c
                monitor.detector.load(state)
        log_c = self._log_threshold(probe.severity, labelled, weights[str(key)])
        started = self.monitors[key] = Monitor(make(log_c), log_c, labelled)
        return started

    def _log_threshold(self, severity: str, labelled: bool, weight: float) -> float:
        """A monitor looks at every step, or every matured hour; each look may cost its share."""
        budget = self.config.budget
        allowed = budget.pages / 2 if severity == "page" else budget.tickets
        looks = budget.period / (timedelta(hours=1) if labelled else self.config.step)
        return log_threshold(allowed, max(1.0, looks), weight)

    def _maker(self, key: Key) -> Make:
        """How the detector of a key is made, given its threshold."""
        config, silence = self.config, self.config.silence
        if key.detector == VolumeDrop.name:
            drop = silence.tolerated_volume_drop
            return lambda log_c: VolumeDrop(None, tolerated_drop=drop, log_threshold=log_c)
        if key.detector == VolumeSurge.name:
            surge = silence.tolerated_volume_surge
            return lambda log_c: VolumeSurge(None, tolerated_surge=surge, log_threshold=log_c)
        if key.detector == DeadSegment.name:
            return lambda log_c: DeadSegment(None, log_threshold=log_c)
        if key.detector == GroupRatio.name:
            return lambda log_c: GroupRatio(tolerance=config.fairness.tolerance, log_threshold=log_c)
        if key.detector == LabelsLate.name:
            came, absent = self.arrivals.reference
            return lambda log_c: LabelsLate(
                came / (came + absent), reference_samples=came + absent, log_threshold=log_c
            )
        reference = self.reference(key.version)
        if key.detector in SURGES:
            surge_of = SURGES[key.detector]
            rise = getattr(silence, surge_of.tolerated)
            hits, others = surge_of.counts(reference, key.feature, reference.prediction).tolist()
            return lambda log_c: surge_of.detector(
                hits / max(1, hits + others),
                tolerated_rise=rise,
                reference_samples=hits + others,
                log_threshold=log_c,
            )
        if key.detector == HistogramDrift.name:
            epsilon = config.drift.epsilon
            if key.feature == LABEL:
                base = truths(reference.performance[self.layout.performance["confusion"]])
            else:
                base = output(reference, key.feature, reference.prediction)
            return lambda log_c: HistogramDrift(base, epsilon=epsilon, log_threshold=log_c)
        if key.detector == ConfidenceCollapse.name:
            sure, unsure = confidence(reference, reference.prediction)
            share, n = float(sure / (sure + unsure)), int(sure + unsure)
            return lambda log_c: ConfidenceCollapse(share, reference_samples=n, log_threshold=log_c)
        if key.detector == ConstantPredictions.name:
            base = reference.part(key.feature)
            return lambda log_c: ConstantPredictions(base, log_threshold=log_c)
        confusion = reference.performance[self.layout.performance["confusion"]]
        drop_of: type[RateDrop] = RateDrop
        if key.detector == VersionDrop.name and reference.predecessor is not None:
            confusion, drop_of = reference.predecessor, VersionDrop
        good, bad = rate(confusion, key.metric)
        better, worse = key.metric not in LOWER_IS_BETTER, config.performance.relative_drop
        return lambda log_c: drop_of(
            good / (good + bad),
            relative_drop=worse,
            higher_is_better=better,
            reference_samples=good + bad,
            log_threshold=log_c,
        )

    def state(self) -> dict[str, str]:
        """Documents by name."""
        documents = {}
        for version, reference in self.references.items():
            held = {
                "prediction": _sparse(reference.prediction),
                "performance": _sparse(reference.performance),
                "ready": [reference.prediction_ready, reference.performance_ready],
            }
            if reference.predecessor is not None:
                held["predecessor"] = _sparse(reference.predecessor)
            documents[f"reference:{version}"] = json.dumps(held)
        for key, monitor in self.monitors.items():
            held_by = [monitor.log_threshold, monitor.labelled, monitor.detector.state()]
            documents[f"monitor:{json.dumps(key)}"] = json.dumps(held_by)
        return documents

    def load(self, documents: Mapping[str, str]) -> None:
        """Go on from saved documents; detectors are made anew from their references."""
        for rest, held in _parsed(documents, "reference"):
            parts = (_dense(held["prediction"]), _dense(held["performance"]))
            found = self.references[rest] = Reference(self.layout, *parts, *held["ready"])
            found.predecessor = _dense(held["predecessor"]) if "predecessor" in held else None
        for rest, (log_c, labelled, state) in _parsed(documents, "monitor"):
            key = Key(*json.loads(rest))
            self.monitors[key] = Monitor(self._maker(key)(log_c), log_c, labelled)
            self.monitors[key].detector.load(state)


def _part(key: Key, detector: Detector) -> str:
    """The part of the budget a monitor lives on: many small intersections must not blind the few groups."""
    return f"{detector.family}/intersection" if "," in key.segment else detector.family


def _parsed(documents: Mapping[str, str], wanted: str) -> Iterator[tuple[str, Any]]:
    for name, text in documents.items():
        kind, _, rest = name.partition(":")
        if kind == wanted:
            yield rest, json.loads(text)


def _sparse(vector: Int64s) -> list[Any]:
    cells = np.flatnonzero(vector)
    return [len(vector), cells.tolist(), vector[cells].tolist()]


def _dense(held: list[Any]) -> Int64s:
    vector = np.zeros(held[0], dtype=np.int64)
    vector[np.asarray(held[1], dtype=np.int64)] = held[2]
    return vector
