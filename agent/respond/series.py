"""Series on their way to Prometheus: safe labels, no NaN, no series twice, no more than were paid for."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from prometheus_client import Metric, generate_latest
from prometheus_client.utils import floatToGoString

MAX_LABEL = 128
"""Characters of a label's value."""

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_UNSAFE = {
    "Cc",
    "Cf",
    "Cs",
    "Co",
    "Cn",
    "Zl",
    "Zp",
}  # controls, invisible and reordering characters, surrogates


class Family(NamedTuple):
    """One metric: its name (a counter's without `_total`), type, meaning and label names."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


class Buckets(NamedTuple):
    """A cumulative histogram: (upper bound, events at or below), +inf last."""

    bounds: Sequence[tuple[float, int]]
    total: float


class Series(NamedTuple):
    """One series of a family; `labels` in the order of the family's label names."""

    family: Family
    labels: tuple[str, ...]
    value: float | Buckets

    @property
    def cost(self) -> int:
        """How many series Prometheus will store for it."""
        return len(self.value.bounds) + 2 if isinstance(self.value, Buckets) else 1


class Exposition:
    """Collects series and writes them as text. What cannot be shown is left out; the first of two wins."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}
        self._seen: set[tuple[str, tuple[tuple[str, str], ...]]] = set()

    def add(self, series: Iterable[Series]) -> None:
        """Take in series that are not capped."""
        for one in series:
            self._add(one)

    def add_capped(self, series: Iterable[Series], limit: int) -> tuple[int, int]:
        """Take in series, the most important first, up to the limit; return how many (taken, left out)."""
        taken = dropped = 0
        for one in series:
            if taken + one.cost > limit:
                dropped += one.cost
            elif self._add(one):
                taken += one.cost
        return taken, dropped

    def render(self) -> bytes:
        """The Prometheus text format, version 0.0.4."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """The families, by name."""
        return iter([self._metrics[name] for name in sorted(self._metrics)])

    def _add(self, series: Series) -> bool:
        family, value = series.family, series.value
        labels = {name: label(text) for name, text in zip(family.labels, series.labels, strict=True)}
        identity = (family.name, tuple(sorted(labels.items())))
        metric = self._metric(family)
        if metric is None or identity in self._seen:
            return False
        if isinstance(value, Buckets):
            if not value.bounds or not math.isfinite(value.total):
                return False
            _add_buckets(metric, labels, value)
        elif math.isfinite(value):
            suffix = "_total" if family.kind == "counter" else ""
            metric.add_sample(family.name + suffix, labels, value)
        else:
            return False
        self._seen.add(identity)
        self._metrics[family.name] = metric
        return True

    def _metric(self, family: Family) -> Metric | None:
        if not _NAME.match(family.name):
            return None
        known = self._metrics.get(family.name)
        if known is None:
            return Metric(family.name, family.help, family.kind)
        return known if known.type == family.kind else None


def _go(bound: float) -> str:
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]


def _add_buckets(metric: Metric, labels: dict[str, str], value: Buckets) -> None:
    for bound, count in value.bounds:
        metric.add_sample(f"{metric.name}_bucket", {**labels, "le": _go(bound)}, count)
    metric.add_sample(f"{metric.name}_count", labels, value.bounds[-1][1])
    metric.add_sample(f"{metric.name}_sum", labels, value.total)


@lru_cache(maxsize=65_536)
def label(text: str) -> str:
    """A label value that cannot mislead: no control or reordering characters, bounded in length.

    What had to be changed ends in a hash of the original, so that two values never become one.
    """
    safe = "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in _UNSAFE else c for c in text)
    if safe == text and len(text) <= MAX_LABEL:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{safe[: MAX_LABEL - 9]}~{digest}"
