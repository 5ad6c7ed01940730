"""Counting: a batch of coded rows becomes additions to panes. The only place where cells are incremented.

One tally over all cells of the batch (a bincount where it is dense, a sort where it is not), then one
addition per pane it touches; no loop over events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.events import Int64s
from agent.measure.bins import SCORE_BINS, Floats, score_bin
from agent.measure.layout import FIXED, LOSS_CLIP, Layout
from agent.measure.pane import (
    HOUR,
    HOUR_MS,
    LIFETIME,
    MINUTE,
    MINUTE_MS,
    PREDICTIONS,
    PaneKey,
    Panes,
    age_index,
)
from agent.measure.rows import Slices

OVERALL = ""
_DENSE = 1 << 22


@dataclass(frozen=True, slots=True)
class PredictionRows:
    """Predictions of one version that count."""

    time_ms: Int64s
    combo: Int64s
    predicted: Int64s
    score: Int64s
    """Bin of the positive's score (binary) or of the largest probability (multiclass); -1: none."""
    error: Int64s
    """1 where the inference failed."""
    latency: Int64s
    latency_us: Int64s
    features: Sequence[Int64s]
    """A bin per event, for each feature of the layout."""


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """Labelled predictions of one version; `sign` -1 takes an earlier label back."""

    time_ms: Int64s
    """Of the prediction."""
    effective_ms: Int64s
    """Of the label, never before its partition's watermark."""
    combo: Int64s
    predicted: Int64s
    label: Int64s
    scores: Floats
    sign: int


def fold_predictions(
    panes: Panes, layout: Layout, version: str, slices: Slices, rows: PredictionRows
) -> None:
    """Add predictions to their minutes, hours and the lifetime; features of a slice from the hour up."""
    part = layout.prediction
    cells: Cells = [
        (np.zeros(len(rows.time_ms), dtype=np.int64), None),
        (np.where(rows.error > 0, part.start("errors"), -1), None),
        (np.where(rows.latency >= 0, part.start("latency_us"), -1), rows.latency_us),
        (_at(part.start("predicted"), rows.predicted), None),
        (_at(part.start("score"), rows.score), None),
        (_at(part.start("latency"), rows.latency), None),
    ]
    at = [where.start for where in layout.feature_slices.values()]
    cells += [(_at(start, bins), None) for start, bins in zip(at, rows.features, strict=True)]
    units = Units.of(rows.time_ms, np.full(len(rows.time_ms), PREDICTIONS), rows.combo, slices)
    tally = _tally(units, cells, part.width)
    plain = tally.below(part.start("features"))
    for group in units.groups:
        whole = group.names == [OVERALL]
        _add(panes, version, MINUTE, units, group, tally if whole else plain)
        _add(panes, version, HOUR, units, group, tally)
        _add(panes, version, LIFETIME, units, group, tally)


def fold_labels(
    panes: Panes, layout: Layout, version: str, slices: Slices, rows: LabelledRows, *, minutes_from_ms: int
) -> None:
    """Add labelled predictions to the panes of the predictions' times; minutes already forgotten stay so."""
    hour = rows.time_ms // HOUR_MS
    age = age_index(rows.effective_ms - (hour + 1) * HOUR_MS)
    units = Units.of(rows.time_ms, age, rows.combo, slices)
    tally = _tally(units, _performance_cells(layout, rows), layout.performance.width, rows.sign)
    for group in units.groups:
        _add(panes, version, MINUTE, units, group, tally, minutes_from_ms)
        _add(panes, version, HOUR, units, group, tally)
        _add(panes, version, LIFETIME, units, group, tally)


@dataclass(frozen=True, slots=True)
class Group:
    """Slices that exclude each other: the whole, or the groups of one attribute or intersection."""

    names: list[str]
    of_unit: Int64s
    """Which of them each unit belongs to; -1: none."""


@dataclass(frozen=True, slots=True)
class Units:
    """The finest stretches of a batch: (minute, label age, set of slices). Panes are sums of them."""

    of_row: Int64s
    minute: Int64s
    age: Int64s
    groups: list[Group]

    @classmethod
    def of(cls, time_ms: Int64s, age: Int64s, combo: Int64s, slices: Slices) -> Units:
        used, row_combo = distinct(combo)
        key = ((time_ms // MINUTE_MS) * _MOST_AGES + age + 1) * len(used) + row_combo
        keys, of_row = distinct(key)
        rest, unit_combo = np.divmod(keys, len(used))
        minute, aged = np.divmod(rest, _MOST_AGES)
        combos = [slices.combos[c] for c in used]
        names = sorted({slices.names.names[code] for codes in combos for code in codes})
        number = {name: i for i, name in enumerate(names)}
        groups = [Group([OVERALL], np.zeros(len(keys), dtype=np.int64))]
        for depth in range(max((len(codes) for codes in combos), default=0)):
            found = [number[slices.names.names[c[depth]]] if depth < len(c) else -1 for c in combos]
            groups.append(Group(names, np.array(found, dtype=np.int64)[unit_combo]))
        return cls(of_row, minute, aged - 1, groups)


_MOST_AGES = 64


Cells = list[tuple[Int64s, Int64s | None]]
"""Per counted thing: the cell of each row (-1: none), and what to add there (None: one)."""


def _performance_cells(layout: Layout, rows: LabelledRows) -> Cells:
    part, k = layout.performance, len(layout.classes)
    judged = rows.predicted >= 0
    answered = judged | ~np.isnan(rows.scores).all(axis=1)  # the label of a failed inference measures nothing
    cells: Cells = [
        (np.where(answered, part.start("labelled"), -1), None),
        (np.where(judged, part.start("confusion") + rows.label * k + rows.predicted, -1), None),
    ]
    scored_classes = np.array([k - 1]) if layout.task == "binary" else np.arange(k)
    truth: NDArray[np.bool_] = np.equal.outer(rows.label, scored_classes)
    bins = score_bin(rows.scores)
    for column in range(layout.score_columns):
        at = part.start("by_label") + (column * 2 + truth[:, column]) * SCORE_BINS + bins[:, column]
        cells.append((np.where(bins[:, column] >= 0, at, -1), None))
    scored: NDArray[np.bool_] = np.logical_and.reduce((rows.scores >= 0) & (rows.scores <= 1), axis=1)
    safe = np.where(scored[:, None], rows.scores, 0.5)
    right = np.where(truth, safe, 1 - safe) if layout.task == "binary" else np.where(truth, safe, 0)
    loss = -np.log(np.clip(right.sum(axis=1), LOSS_CLIP, 1 - LOSS_CLIP))
    brier = ((safe - truth) ** 2).sum(axis=1)
    cells.append((np.where(scored, part.start("scored"), -1), None))
    cells.append((np.where(scored, part.start("log_loss"), -1), np.rint(loss * FIXED).astype(np.int64)))
    cells.append((np.where(scored, part.start("brier"), -1), np.rint(brier * FIXED).astype(np.int64)))
    return cells


def _at(start: int, bins: Int64s) -> Int64s:
    return np.where(bins >= 0, start + bins, -1)


@dataclass(frozen=True, slots=True)
class Tally:
    """What a batch adds, by unit and cell."""

    unit: Int64s
    cell: Int64s
    count: Int64s
    width: int

    def below(self, cell: int) -> Tally:
        """The same without the cells from one on."""
        kept = self.cell < cell
        return Tally(self.unit[kept], self.cell[kept], self.count[kept], self.width)


def _tally(units: Units, cells: Cells, width: int, sign: int = 1) -> Tally:
    """One pass over the batch; a cell of -1 is counted beside the vector and thrown away."""
    row = units.of_row * (width + 1) + 1
    size = len(units.minute) * (width + 1)
    ones = [row + cell for cell, weight in cells if weight is None]
    sums = [(row + cell, weight) for cell, weight in cells if weight is not None]
    if size <= _DENSE:
        total = np.bincount(np.concatenate(ones), minlength=size)
        for at, weight in sums:
            # float64 sums of integers below 2**53 are exact: 50,000 losses of 37 * 2**24 are below 2**46.
            total += np.rint(np.bincount(at, weights=weight, minlength=size)).astype(np.int64)
        keys = np.flatnonzero(total)
        counts = total[keys]
    else:
        every = np.concatenate([*ones, *(at for at, _ in sums)])
        n_ones = sum(len(at) for at in ones)
        amounts = np.concatenate([np.ones(n_ones, dtype=np.int64), *(w for _, w in sums)])
        keys, counts = _summed(every, amounts)
    unit, cell = np.divmod(keys, width + 1)
    kept = cell > 0
    return Tally(unit[kept], cell[kept] - 1, counts[kept] * sign, width)


def _summed(keys: Int64s, amounts: Int64s) -> tuple[Int64s, Int64s]:
    """Distinct keys in order, and the sum of the amounts of each."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return ordered[first], np.add.reduceat(amounts[order], first)


def distinct(values: Int64s) -> tuple[Int64s, Int64s]:
    """Distinct values in order, and which of them each is; without sorting where they lie close together."""
    if len(values) == 0:
        return values, values
    low = int(values.min())
    span = int(values.max()) - low + 1
    if span > 4 * len(values) + 1024:
        found, inverse = np.unique(values, return_inverse=True)
        return found, inverse
    shifted = values - low
    seen = np.bincount(shifted, minlength=span) > 0
    return np.flatnonzero(seen) + low, (np.cumsum(seen) - 1)[shifted]


def _add(
    panes: Panes, version: str, tier: int, units: Units, group: Group, tally: Tally, minutes_from_ms: int = 0
) -> None:
    """Add a tally to the panes of one tier and of mutually exclusive slices."""
    unit_ms = {MINUTE: MINUTE_MS, HOUR: HOUR_MS}.get(tier)
    start = units.minute * MINUTE_MS
    start = start // unit_ms * unit_ms if unit_ms else np.zeros_like(start)
    age = units.age if tier == HOUR else np.minimum(units.age, 0)
    wanted = group.of_unit >= 0
    if tier == MINUTE and minutes_from_ms:
        wanted &= start >= minutes_from_ms
    if not wanted.any():
        return
    # Panes as numbers: (start, age, slice), of which only those that occur are kept.
    code = ((start // MINUTE_MS) * _MOST_AGES + age + 1) * len(group.names) + group.of_unit
    targets, target = distinct(code[wanted])
    of_unit = np.full(len(wanted), -1, dtype=np.int64)
    of_unit[wanted] = target
    here = of_unit[tally.unit]
    kept = here >= 0
    if not kept.any():
        return
    keys, counts = _summed(here[kept] * tally.width + tally.cell[kept], tally.count[kept])
    rows, cells = np.divmod(keys, tally.width)
    bounds = np.searchsorted(rows, np.arange(len(targets) + 1))
    for i, number in enumerate(targets.tolist()):
        if bounds[i] == bounds[i + 1]:
            continue  # nothing to count: whether such a pane exists must not depend on its batch
        rest, name = divmod(number, len(group.names))
        minute, aged = divmod(rest, _MOST_AGES)
        key = PaneKey(version, tier, minute * MINUTE_MS, aged - 1, group.names[name])
        at = slice(bounds[i], bounds[i + 1])
        panes.create(key, tally.width)[cells[at]] += counts[at]
