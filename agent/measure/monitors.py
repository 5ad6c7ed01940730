"""What is judged when: closed steps and matured hours go to the detectors of one model, each once.

Predictions are judged at every step whose panes have closed. Labels are judged by the hour of their
predictions, once, when the hour matures: at the first label age at which 95 % are labelled, or at
`label_maturity`. Both are functions of event times alone, so it does not matter in which order topics were
read, nor in what batches.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from agent.events import NO_TIME, Int64s
from agent.measure.arrivals import Arrivals, labels_by_age
from agent.measure.lifecycle import Lifecycle
from agent.measure.model import Model, to_ms
from agent.measure.pane import AGE_EDGES_MS, DAY_MS, HOUR, HOUR_MS, MINUTE, MINUTE_MS, PREDICTIONS, PaneKey
from agent.measure.reference import Reference, rate
from agent.measure.rows import OTHER
from agent.measure.season import Season
from agent.measure.shares import LABEL, PREDICTION, SCORE, SURGES, confidence, output, truths, watched
from agent.measure.watch import (
    ALL_VERSIONS,
    Key,
    Observation,
    Said,
    Watch,
)
from detectors import (
    ConfidenceCollapse,
    ConstantPredictions,
    DeadSegment,
    GroupRatio,
    HistogramDrift,
    LabelsLate,
    RateDrop,
    VersionDrop,
    VolumeDrop,
    VolumeSurge,
)

_DROP, _SURGE = Key(ALL_VERSIONS, VolumeDrop.name), Key(ALL_VERSIONS, VolumeSurge.name)
MATURE_COVERAGE = 0.95
LABELS_WINDOW_MS = 30 * DAY_MS
WEEK_MS = 7 * DAY_MS

Hour = tuple[str, int]
"""(version, start)"""


class Monitors:
    """The judging of one model."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.config = model.config
        self.step_ms = to_ms(model.config.step)
        self.versions = Lifecycle()
        self.arrivals = Arrivals()
        self.watch = Watch(model.config, model.layout, model.baseline, self.versions, self.arrivals)
        self.season = Season()
        self.seasons: dict[str, Season] = {}
        """By segment."""
        self.next_step_ms: int | None = None
        self.input_ended = False
        """A file has an end; a topic that falls silent is an outage."""
        self.judged: dict[Hour, tuple[int, int]] = {}
        """Hours that matured → (when, labels)."""
        self._next_age: dict[Hour, int] = {}

    # predictions, step by step

    def steps(self, watermark_ms: int) -> Iterator[tuple[int, list[Observation], list[str]]]:
        """Judge every step that closed: (its end, what detectors said, versions replaced from here on)."""
        if self.next_step_ms is None:
            first = min((start for start, _ in self.model.seen.values()), default=NO_TIME)
            if first == NO_TIME or watermark_ms < first:
                return  # an event with an earlier time may still come
            self.next_step_ms = first // self.step_ms * self.step_ms
        while self.next_step_ms + self.step_ms <= watermark_ms:
            start, end = self.next_step_ms, self.next_step_ms + self.step_ms
            yield end, list(self._step(start, end)), self.versions.replaced(end)
            self.next_step_ms = end

    def _step(self, start: int, end: int) -> Iterator[Observation]:
        active = {}
        for version in sorted(self.model.versions.names):
            counts = self._prediction_counts(version, "", start, end)
            if counts is not None and counts[0] > 0:
                active[version] = counts
        self.versions.note(active, {v: first for v, (first, _) in self.model.seen.items()}, end)
        total = np.array([sum(int(counts[0]) for counts in active.values())], dtype=np.int64)
        yield from self._volume(start, end, total)
        groups = {version: self._groups(version, start, end) for version in active}
        by_segment: Counter[str] = Counter()
        for group in groups.values():
            by_segment.update({name: int(held[0]) for name, held in group.items() if _is_part(name)})
        yield from self._dead(start, end, int(total[0]), by_segment)
        for version, counts in active.items():
            reference = self.watch.reference(version)
            if not reference.prediction_ready:
                reference.learn_prediction(counts)
                continue
            for key, seen in self._predictions(version, reference, counts, groups[version]):
                if int(seen.sum()):
                    yield self.watch.look(end, key, seen)

    def _volume(self, start: int, end: int, total: Int64s) -> Iterator[Observation]:
        """Volume is judged per model: a deploy starves the old version and must not page."""
        last = max(last for _, last in self.model.seen.values())
        if self.input_ended and end > last:
            return
        expected = self.season.expected(start, end)
        self.season.note(start, end, int(total[0]))
        if expected:
            for key, bound in zip((_DROP, _SURGE), expected, strict=True):
                if bound:
                    yield self.watch.look(end, key, total, expected=bound)

    def _dead(
        self, start: int, end: int, events: int, by_segment: Mapping[str, int]
    ) -> Iterator[Observation]:
        """A segment is judged by its share of what came: an outage of everything is not its own."""
        for segment in sorted({*self.seasons, *by_segment}):
            season = self.seasons.setdefault(segment, Season())
            share, key = (
                season.share(self.season, start, end),
                Key(ALL_VERSIONS, DeadSegment.name, "", segment),
            )
            season.note(start, end, by_segment.get(segment, 0))
            if season.silent:  # gone for so long that it is a fact and no alarm
                del self.seasons[segment]
                held = self.watch.monitors.pop(key, None)
                if held is not None:
                    said = Said(DeadSegment.family, DeadSegment.severity, False, True, held.detector.evidence)
                    yield Observation(end, key, said)
            elif share and events:
                seen = np.array([by_segment.get(segment, 0)], dtype=np.int64)
                yield self.watch.look(end, key, seen, expected=share * events)

    def _predictions(
        self, version: str, reference: Reference, counts: Int64s, groups: Mapping[str, Int64s]
    ) -> Iterator[tuple[Key, Int64s]]:
        for detector, name in watched(reference):
            yield Key(version, detector, name), SURGES[detector].counts(reference, name, counts)
        for feature in self.model.layout.features:
            base = output(reference, feature.name, reference.prediction)
            if len(base) > 2 and base.sum() > 0:
                yield Key(version, HistogramDrift.name, feature.name), output(reference, feature.name, counts)
        if reference.part("score").sum() > 0:
            yield Key(version, HistogramDrift.name, SCORE), output(reference, SCORE, counts)
            yield Key(version, ConfidenceCollapse.name), confidence(reference, counts)
            yield Key(version, ConstantPredictions.name, SCORE), reference.part("score", counts)
        elif reference.part("predicted").sum() > 0:
            yield Key(version, HistogramDrift.name, PREDICTION), output(reference, PREDICTION, counts)
            yield Key(version, ConstantPredictions.name, "predicted"), reference.part("predicted", counts)
        if "selection_rate" in self.config.fairness.metrics and self.config.task == "binary":
            where = self.model.layout.prediction["predicted"]
            chosen = {segment: held[where][::-1] for segment, held in groups.items()}
            yield from self._pairs(version, "selection_rate", chosen, counts[where][::-1])

    def _groups(self, version: str, start: int, end: int) -> dict[str, Int64s]:
        """What each segment of a version counted in a step."""
        found = {}
        for segment in self._segments(version, self._tier, start, end):
            held = self._prediction_counts(version, segment, start, end)
            if held is not None:
                found[segment] = held
        return found

    # labels, hour by hour

    def matured(self, joint_ms: int) -> list[tuple[int, str, int, int]]:
        """Matured hours that were not judged: (when, version, hour, label age index), in order of `when`."""
        if self.next_step_ms is None:
            return []
        joint_ms = min(joint_ms, self.next_step_ms)  # steps come first, whatever their length
        found = []
        limit = int(np.searchsorted(AGE_EDGES_MS, to_ms(self.config.label_maturity), side="left"))
        limit = min(limit, len(AGE_EDGES_MS) - 1)
        for start in self.model.panes.starts(HOUR):
            if start + HOUR_MS > joint_ms:
                break
            for version in sorted(
                {k.version for k in self.model.panes.at(HOUR, start) if k.age == PREDICTIONS}
            ):
                if (version, start) not in self.judged:
                    age = self._mature_age(version, start, limit, joint_ms)
                    if age is not None:
                        found.append((start + HOUR_MS + int(AGE_EDGES_MS[age]), version, start, age))
        return sorted(found)

    def _mature_age(self, version: str, start: int, limit: int, joint_ms: int) -> int | None:
        """The first label age, complete by now, at which an hour is mature; None while it is not."""
        complete = int(np.searchsorted(AGE_EDGES_MS, joint_ms - start - HOUR_MS, side="left")) - 1
        if complete < self._next_age.get((version, start), 0):
            return None  # nothing new since the last look
        self._next_age[version, start] = complete + 1
        covered = self._covered_at(version, start)
        if covered <= min(complete, limit):
            return covered
        return limit if complete >= limit else None

    def _covered_at(self, version: str, start: int) -> int:
        """The first label age at which enough of an hour is labelled, as far as labels were read."""
        predictions, by_age = labels_by_age(self.model.panes, version, start, len(AGE_EDGES_MS))
        if predictions is None:
            return len(AGE_EDGES_MS)
        labelled, expected = 0, MATURE_COVERAGE * int(predictions[0] - predictions[1])
        for age in sorted(by_age):
            labelled += by_age[age]
            if labelled >= expected:
                return age
        return len(AGE_EDGES_MS)

    def arrived(self, until_ms: int) -> Iterator[tuple[int, Observation]]:
        """Hours that reached the age by which labels used to be there: (start, what is said of them)."""
        if self.next_step_ms is not None:
            due = self.arrivals.due(self.model.panes, min(until_ms, self.next_step_ms))
            for when, start, seen in due:
                yield start, self.watch.look(when, Key(ALL_VERSIONS, LabelsLate.name), seen, labelled=True)

    def judge(self, when: int, version: str, start: int, age: int) -> Iterator[Observation]:
        """Give one matured hour to the detectors of labelled rates."""
        self._next_age.pop((version, start), None)
        counts = self._performance_counts(version, "", start, age)
        self.judged[version, start] = (when, 0 if counts is None else int(counts[0]))
        self.arrivals.learn(when, *labels_by_age(self.model.panes, version, start, age))
        if counts is None or counts[0] <= 0 or self.versions.is_replaced(version, when):
            return
        reference = self.watch.reference(version)
        confusion = self.model.layout.performance["confusion"]
        if reference.performance_ready:
            for metric in self._rates:
                seen = np.array(rate(counts[confusion], metric), dtype=np.int64)
                if sum(rate(reference.performance[confusion], metric)) and seen.sum():
                    yield self.watch.look(
                        when, Key(version, RateDrop.name, "", "", metric), seen, labelled=True
                    )
        else:
            reference.learn_performance(counts, self.config.performance.min_baseline_labels)
        yield from self._labelled_beside(when, version, reference, counts[confusion])
        if self.config.task == "binary":
            yield from self._fairness(when, version, start, age, counts[confusion])

    def _labelled_beside(
        self, when: int, version: str, reference: Reference, confusion: Int64s
    ) -> Iterator[Observation]:
        """The same labels against the version before, and their distribution against the reference's."""
        if reference.predecessor is None:
            reference.predecessor = self._predecessor(when, version)
        before = reference.predecessor
        for metric in self._rates if before.sum() >= self.config.performance.min_baseline_labels else ():
            seen = np.array(rate(confusion, metric), dtype=np.int64)
            if seen.sum() and sum(rate(before, metric)):
                yield self.watch.look(
                    when, Key(version, VersionDrop.name, "", "", metric), seen, labelled=True
                )
        if reference.performance_ready:
            key, seen = Key(version, HistogramDrift.name, LABEL), truths(confusion)
            if seen.sum():
                yield self.watch.look(when, key, seen, labelled=True)

    @property
    def _rates(self) -> list[str]:
        return [*self.config.performance.metrics] if self.config.task == "binary" else ["accuracy"]

    def _predecessor(self, when: int, version: str) -> Int64s:
        """What the labels of the version before had said in its last week, as far as they matured."""
        layout, before = self.model.layout, self.versions.predecessor(version)
        total = layout.empty_performance()[layout.performance["confusion"]]
        for (name, start), (at, labels) in self.judged.items():
            if name == before and labels and at < when and start >= when - WEEK_MS:
                known = self._performance_counts(name, "", start, self._ages(at, start))
                if known is not None:
                    total += known[layout.performance["confusion"]]
        return total

    @staticmethod
    def _ages(at: int, start: int) -> int:
        """Index of the label age at which an hour was judged."""
        return int(np.searchsorted(AGE_EDGES_MS, at - start - HOUR_MS, side="left"))

    def _fairness(
        self, when: int, version: str, start: int, age: int, everyone: Int64s
    ) -> Iterator[Observation]:
        confusion = self.model.layout.performance["confusion"]
        held = {
            segment: counts[confusion]
            for segment in self._segments(version, HOUR, start, start + HOUR_MS)
            if (counts := self._performance_counts(version, segment, start, age)) is not None
        }
        for metric in self.config.fairness.metrics:
            if metric == "selection_rate":
                continue
            groups = {segment: np.array(rate(c, metric), dtype=np.int64) for segment, c in held.items()}
            total = np.array(rate(everyone, metric), dtype=np.int64)
            for key, seen in self._pairs(version, metric, groups, total):
                yield self.watch.look(when, key, seen, labelled=True)

    def labels_before(self, at_ms: int) -> int:
        """Mature labels of the 30 days before a time."""
        return sum(n for when, n in self.judged.values() if at_ms - LABELS_WINDOW_MS <= when < at_ms)

    def labelled(self, version: str, start: int, age: int, segment: str = "") -> Int64s | None:
        """What the labels of a matured hour say; None without labels."""
        return self._performance_counts(version, segment, start, age)

    def answered(self, version: str, start: int, end: int, segment: str = "") -> Int64s | None:
        """The predictions of a closed step; None where there were none."""
        return self._prediction_counts(version, segment, start, end)

    def forget(self) -> None:
        """Forget the judging of hours whose panes are gone."""
        kept = set(self.model.panes.starts(HOUR))
        for hour in [hour for hour in self.judged if hour[1] not in kept]:
            del self.judged[hour]

    def _pairs(
        self, version: str, metric: str, groups: Mapping[str, Int64s], everyone: Int64s
    ) -> Iterator[tuple[Key, Int64s]]:
        """Each group with those it is compared with: its attribute's reference group, or everyone else.

        A group that was seen before is compared also when it is absent: the others' events count.
        """
        known = self.watch.segments(version, metric)
        zero = np.zeros(2, dtype=np.int64)
        for segment in sorted({*groups, *known}):
            mine = groups.get(segment, zero)
            attribute = segment.partition("=")[0]
            chosen = self.config.fairness.reference.get(attribute) if "," not in segment else None
            if chosen is None:
                pair = np.concatenate([mine, everyone - mine])
            elif segment != f"{attribute}={chosen}":
                pair = np.concatenate([mine, groups.get(f"{attribute}={chosen}", zero)])
            else:
                continue
            if pair.sum():
                yield Key(version, GroupRatio.name, "", segment, metric), pair

    # counts

    @property
    def _tier(self) -> int:
        return HOUR if self.step_ms % HOUR_MS == 0 else MINUTE

    def _segments(self, version: str, tier: int, start: int, end: int) -> list[str]:
        unit = MINUTE_MS if tier == MINUTE else HOUR_MS
        keys = (k for at in range(start, end, unit) for k in self.model.panes.at(tier, at))
        found = {k.segment for k in keys if k.version == version and k.segment}
        arms = tuple(f"{experiment.attribute}=" for experiment in self.config.experiments)
        return sorted(segment for segment in found if not segment.startswith(arms))

    def _prediction_counts(self, version: str, segment: str, start: int, end: int) -> Int64s | None:
        unit = MINUTE_MS if self._tier == MINUTE else HOUR_MS
        keys = [PaneKey(version, self._tier, at, PREDICTIONS, segment) for at in range(start, end, unit)]
        return self.model.panes.total(keys)

    def _performance_counts(self, version: str, segment: str, start: int, age: int) -> Int64s | None:
        """What was known of an hour at a label age."""
        keys = self.model.panes.at(HOUR, start)
        return self.model.panes.total(
            k for k in keys if k.version == version and k.segment == segment and PREDICTIONS < k.age <= age
        )

    # state

    def known(self) -> dict[str, str]:
        """What detectors, references and seasons have learned."""
        own = {"season": json.dumps(self._seasons()), "arrivals": json.dumps(self.arrivals.state())}
        return {**own, **self.watch.state()}

    def forget_since(self, known: Mapping[str, str]) -> None:
        """Go back to what was known before."""
        self.watch.monitors.clear()
        self.watch.references.clear()
        self.arrivals.load(json.loads(known["arrivals"]))
        self.watch.load(known)
        self._load_seasons(json.loads(known["season"]))

    def _seasons(self) -> dict[str, Any]:
        parts = {segment: season.state() for segment, season in sorted(self.seasons.items())}
        return {"all": self.season.state(), "segments": parts}

    def _load_seasons(self, state: Mapping[str, Any]) -> None:
        self.season.load(state["all"])
        self.seasons = {segment: Season() for segment in state["segments"]}
        for segment, held in state["segments"].items():
            self.seasons[segment].load(held)

    def state(self) -> dict[str, str]:
        """Everything as JSON documents by name."""
        own = {
            "next_step_ms": self.next_step_ms,
            "season": self._seasons(),
            "arrivals": self.arrivals.state(),
            "versions": self.versions.state(),
            "judged": sorted([*hour, *value] for hour, value in self.judged.items()),
        }
        return {"own": json.dumps(own), **self.watch.state()}

    def load(self, documents: Mapping[str, str]) -> None:
        """Go on from saved documents."""
        own = json.loads(documents["own"])
        self.next_step_ms = own["next_step_ms"]
        self._load_seasons(own["season"])
        self.arrivals.load(own["arrivals"])
        self.versions.load(own["versions"])
        self.judged = {(version, hour): (when, labels) for version, hour, when, labels in own["judged"]}
        self.watch.load(documents)


def _is_part(segment: str) -> bool:
    """Is this one group of one attribute, and not the rest beyond the cap?"""
    return "," not in segment and segment.partition("=")[2] != OTHER
