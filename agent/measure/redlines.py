"""Red lines and guarded pairs: windows of closed counts against bars, with intervals that hold at all times.

The confidence sequence of a window that begins at the s-th step (or matured hour) of a version has the error
alpha(s), and these sum to ALPHA over all beginnings: the chance that a line ever pages in the life of a
version, although the rate was within its bar, is at most ALPHA, however often one looks.

    red line   broken:  the interval of the window's rate lies beyond the bar
    pair       gamed:   the metric's interval lies beyond its reference on the better side,
                        and its guard's beyond its own on the worse
    over       the value itself (of a pair: either value) is back within: ending takes less than beginning

An hour counts once, with the labels it had when it matured. Each side of a pair has a band around its
reference: `tolerance` of the reference (or of its distance to 1, where that is less) and two standard errors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from agent.config import ConstraintConfig, PairConfig
from agent.events import Int64s
from agent.measure.catalogue import LOWER_IS_BETTER
from agent.measure.monitors import Monitors
from agent.measure.pane import HOUR_MS
from agent.measure.reference import rate
from agent.measure.trail import Trail
from agent.measure.watch import Key, Observation, Said
from agent.measure.window import SPANS
from detectors import Evidence
from detectors.sequential import EDGE, level, rate_interval

ALPHA = 0.01
RED_LINE, PAIR = "red_line", "guarded_pair"
"""Names of the detectors, as they stand in keys."""
UNLABELLED = ("error_rate", "selection_rate")
"""Rates of predictions alone: they are judged by the step, the others by the matured hour."""


class Bar(NamedTuple):
    """What a rate must not leave."""

    low: float | None
    high: float | None

    def holds(self, value: float) -> bool:
        """Is the value within?"""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


class RedLines:
    """All red lines and pairs of one model."""

    def __init__(self, monitors: Monitors) -> None:
        self.monitors = monitors
        config = monitors.config
        self.enough = config.min_samples
        self.lines = [line for line in config.roles.constraints if not line.metric.endswith("_ratio")]
        self.pairs = config.pairs
        self._trails: dict[tuple[Key, str], Trail] = {}
        """(key, metric): a pair has two."""

    def step(self, start: int, end: int) -> Iterator[Observation]:
        """Judge a closed step."""
        for line in (line for line in self.lines if line.metric in UNLABELLED):
            for version in sorted(self.monitors.model.versions.names):
                counts = self.monitors.answered(version, start, end, line.segment or "")
                if counts is not None and counts[0] > 0:
                    yield self._line(end, line, version, start, end - start, self._unlabelled(line, counts))

    def hour(self, when: int, version: str, start: int, age: int) -> Iterator[Observation]:
        """Judge a matured hour; one without labels only moves the windows on."""
        for line in (line for line in self.lines if line.metric not in UNLABELLED):
            counts = self.monitors.labelled(version, start, age, line.segment or "")
            yield self._line(when, line, version, start, HOUR_MS, self._labelled(line.metric, counts))
        reference = self.monitors.watch.reference(version)
        counts = self.monitors.labelled(version, start, age)
        for pair in self.pairs if reference.performance_ready else ():
            yield self._pair(when, pair, version, start, counts, reference.performance)

    def _line(
        self, at_ms: int, line: ConstraintConfig, version: str, start: int, unit: int, seen: tuple[int, int]
    ) -> Observation:
        key = Key(version, RED_LINE, "", line.segment or "", line.metric)
        trail = self._trail(key, line.metric, unit, line.window)
        trail.add(at_ms, start, *seen)
        evidence = self._against(trail, line)
        bar, _ = bar_at(line, at_ms)
        return _answer(at_ms, key, "constraint", "page", evidence, bar.holds(evidence.value or 0.0))

    def _against(self, trail: Trail, line: ConstraintConfig) -> Evidence:
        """What the window says of the line; hours from before the bar in force do not count."""
        bar, since = bar_at(line, trail.at_ms)
        return compared(trail, bar, since, self.enough)

    def _pair(
        self, at_ms: int, pair: PairConfig, version: str, start: int, counts: Int64s | None, base: Int64s
    ) -> Observation:
        key = Key(version, PAIR, "", "", f"{pair.metric}/{pair.guard}")
        for metric in (pair.metric, pair.guard):
            trail = self._trail(key, metric, HOUR_MS, pair.window)
            trail.add(at_ms, start, *self._labelled(metric, counts))
        evidence, within = self._gamed(key, pair, base)
        return _answer(at_ms, key, "gaming", "ticket", evidence, within)

    def _gamed(self, key: Key, pair: PairConfig, base: Int64s) -> tuple[Evidence, bool]:
        """The guard's evidence, as strong as the weaker of the two; and whether either is within its band."""
        up, guard = (
            self._beyond(self._trails[key, metric], metric, base, pair.tolerance, better)
            for metric, better in ((pair.metric, True), (pair.guard, False))
        )
        weaker = min(up[0].ratio, guard[0].ratio)
        rose = {f"metric_{name}": value for name in ("value", "low", "high", "reference")
                if (value := getattr(up[0], name)) is not None}  # fmt: skip
        evidence = Evidence(
            statistic=weaker * guard[0].threshold,
            threshold=guard[0].threshold,
            samples=min(up[0].samples, guard[0].samples),
            warming_up=up[0].warming_up or guard[0].warming_up,
            value=guard[0].value,
            low=guard[0].low,
            high=guard[0].high,
            reference=guard[0].reference,
            tolerance=guard[0].tolerance,
            details=rose,
        )
        return evidence, up[1] or guard[1]

    def _beyond(
        self, trail: Trail, metric: str, base: Int64s, tolerance: float, better: bool
    ) -> tuple[Evidence, bool]:
        good, bad = self._labelled(metric, base)
        if not good + bad:
            return compared(trail, Bar(0.0, 1.0), None, self.enough), True
        reference, n = good / (good + bad), good + bad
        error = math.sqrt((good + 1) * (bad + 1) / (n + 2) ** 2 / n)
        band = tolerance * min(reference, 1 - reference) + 2 * error
        rises = better != (metric in LOWER_IS_BETTER)
        bar = Bar(None, min(1.0, reference + band)) if rises else Bar(max(0.0, reference - band), None)
        evidence = compared(trail, bar, None, self.enough, reference)
        return evidence, evidence.value is None or bar.holds(evidence.value)

    def _labelled(self, metric: str, counts: Int64s | None) -> tuple[int, int]:
        if counts is None:
            return 0, 0
        confusion = counts[self.monitors.model.layout.performance["confusion"]]
        if metric == "false_negative_rate":
            return rate(confusion, "recall")[::-1]
        return rate(confusion, metric)

    def _unlabelled(self, line: ConstraintConfig, counts: Int64s) -> tuple[int, int]:
        if line.metric == "error_rate":
            return int(counts[1]), int(counts[0] - counts[1])
        predicted = counts[self.monitors.model.layout.prediction["predicted"]]
        return int(predicted[-1]), int(predicted[:-1].sum())

    def _trail(self, key: Key, metric: str, unit: int, window: str) -> Trail:
        trail = self._trails.setdefault((key, metric), Trail(unit))
        trail.window_ms = SPANS[window][1]
        return trail

    def judged(self) -> Iterator[tuple[Key, Evidence]]:
        """Each red line and pair with what was last known of it."""
        for line in self.lines:
            for key, metric in sorted(self._trails):
                if key[1:] == (RED_LINE, "", line.segment or "", line.metric):
                    yield key, self._against(self._trails[key, metric], line)
        for pair in self.pairs:
            for key, metric in sorted(self._trails):
                if key[1:] == (PAIR, "", "", f"{pair.metric}/{pair.guard}") and metric == pair.metric:
                    base = self.monitors.watch.reference(key.version).performance
                    yield key, self._gamed(key, pair, base)[0]

    def forget(self, version: str, *, labelled: bool) -> None:
        """Forget a version that was replaced, on one of the two clocks."""
        for key, metric in [k for k in self._trails if k[0].version == version]:
            if (metric not in UNLABELLED) == labelled:
                del self._trails[key, metric]

    def state(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {json.dumps([*key, metric]): t.state() for (key, metric), t in sorted(self._trails.items())}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self._trails = {}
        for name, held in state.items():
            *key, metric = json.loads(name)
            self._trails[Key(*key), metric] = Trail.of(held)


def bar_at(line: ConstraintConfig, at_ms: int) -> tuple[Bar, int | None]:
    """The bar in force and since when; no bar before the first of dated ones."""
    if not line.bars:
        return Bar(line.min, line.max), None
    for bar in reversed(line.bars):
        if ms(bar.begin) < at_ms:
            return Bar(bar.min, bar.max), ms(bar.begin)
    return Bar(None, None), None


def ms(moment: datetime) -> int:
    """A configured point of time in milliseconds."""
    return round(moment.timestamp() * 1000)


def compared(
    trail: Trail, bar: Bar, since_ms: int | None, enough: int, reference: float | None = None
) -> Evidence:
    """A window against a bar: the statistic reaches its threshold just where the interval leaves the bar."""
    good, bad, begin = trail.window(since_ms)
    alpha, n = level(ALPHA, begin), good + bad
    low, high = rate_interval(good, bad, alpha)
    beyond = next((b for b in bar if b is not None and n and not bar.holds(good / n)), None)
    nats = 0.0
    if beyond is not None:
        p = min(max(beyond, EDGE), 1 - EDGE)
        mixture = math.lgamma(good + 0.5) + math.lgamma(bad + 0.5) - math.lgamma(n + 1) - math.log(math.pi)
        nats = max(0.0, mixture - good * math.log(p) - bad * math.log(1 - p))
    return Evidence(
        statistic=nats,
        threshold=-math.log(alpha),
        samples=n,
        warming_up=n < enough,
        value=good / n if n else None,
        low=low,
        high=high,
        reference=reference,
        tolerance=(bar.low, bar.high),
    )


def _answer(
    at_ms: int, key: Key, family: str, severity: str, evidence: Evidence, within: bool
) -> Observation:
    fired = not evidence.warming_up and evidence.ratio >= 1.0
    recovered = not fired and not evidence.warming_up and within
    return Observation(at_ms, key, Said(family, severity, fired, recovered, evidence))
