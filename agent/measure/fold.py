"""Counting: a batch of coded rows becomes additions to panes. The only place where cells are incremented.

One tally over all cells of the batch (a bincount where it is dense, a sort where it is not), then one
addition per pane it touches; no loop over events.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    ones = np.zeros(len(rows.time_ms), dtype=np.int64)
    base: Cells = [
        (ones, None),
        (np.where(rows.error > 0, part.start("errors"), -1), None),
        (np.where(rows.latency >= 0, part.start("latency_us"), -1), rows.latency_us),
        (_at(part.start("predicted"), rows.predicted), None),
        (_at(part.start("score"), rows.score), None),
        (_at(part.start("latency"), rows.latency), None),
    ]
    at = [where.start for where in layout.feature_slices.values()]
    features: Cells = [(_at(start, bins), None) for start, bins in zip(at, rows.features, strict=True)]
    minutes, minute = np.unique(rows.time_ms // MINUTE_MS, return_inverse=True)
    member, names = _members(slices, rows.combo)
    width = part.width
    everything = _tally(minute, len(minutes), base + features, width)
    _add(panes, version, minutes * MINUTE_MS, None, [OVERALL], everything, width, (MINUTE, HOUR, LIFETIME))
    if not names:
        return
    count = len(names)
    for codes in member:
        chosen = codes >= 0
        row = minute[chosen] * count + codes[chosen]
        cells = [(c[chosen], w if w is None else w[chosen]) for c, w in base]
        found = _tally(row, len(minutes) * count, cells, width)
        _add(panes, version, minutes * MINUTE_MS, None, names, found, width, (MINUTE, HOUR, LIFETIME))
        if features:
            hours, hour = np.unique(rows.time_ms[chosen] // HOUR_MS, return_inverse=True)
            cells = [(c[chosen], None) for c, _ in features]
            found = _tally(hour * count + codes[chosen], len(hours) * count, cells, width)
            _add(panes, version, hours * HOUR_MS, None, names, found, width, (HOUR, LIFETIME))


def fold_labels(
    panes: Panes, layout: Layout, version: str, slices: Slices, rows: LabelledRows, *, minutes_from_ms: int
) -> None:
    """Add labelled predictions to the panes of the predictions' times; minutes already forgotten stay so."""
    cells = _performance_cells(layout, rows)
    width = layout.performance.width
    hour = rows.time_ms // HOUR_MS
    age = age_index(rows.effective_ms - (hour + 1) * HOUR_MS)
    member, names = _members(slices, rows.combo)
    groups = [(np.zeros(len(hour), dtype=np.int64), [OVERALL])] + [(codes, names) for codes in member]
    kept = rows.time_ms // MINUTE_MS * MINUTE_MS >= minutes_from_ms
    for codes, slice_names in groups:
        for tier, chosen in ((HOUR, codes >= 0), (MINUTE, (codes >= 0) & kept)):
            start = hour[chosen] if tier == HOUR else rows.time_ms[chosen] // MINUTE_MS
            ages = age[chosen] if tier == HOUR else np.zeros(len(start), dtype=np.int64)
            pairs, row = np.unique(np.stack([start, ages]), axis=1, return_inverse=True)
            count = len(slice_names)
            row = row.reshape(-1) * count + codes[chosen]
            mine = [(c[chosen], w if w is None else w[chosen]) for c, w in cells]
            found = [(r, c, n * rows.sign) for r, c, n in _tally(row, pairs.shape[1] * count, mine, width)]
            starts = pairs[0] * (HOUR_MS if tier == HOUR else MINUTE_MS)
            tiers = (HOUR, LIFETIME) if tier == HOUR else (MINUTE,)
            _add(panes, version, starts, pairs[1], slice_names, found, width, tiers)


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


def _members(slices: Slices, combo: Int64s) -> tuple[list[Int64s], list[str]]:
    """Per dimension (attribute or intersection) each event's local slice number (-1: none), and the names."""
    used, inverse = np.unique(combo, return_inverse=True)
    combos = [slices.combos[c] for c in used]
    names = sorted({slices.names.names[code] for codes in combos for code in codes})
    number = {name: i for i, name in enumerate(names)}
    depth = max((len(codes) for codes in combos), default=0)
    table = np.full((len(combos), depth), -1, dtype=np.int64)
    for i, codes in enumerate(combos):
        table[i, : len(codes)] = [number[slices.names.names[code]] for code in codes]
    return [table[inverse, d] for d in range(depth)], names


def _tally(row: Int64s, n_rows: int, cells: Cells, width: int) -> list[tuple[int, Int64s, Int64s]]:
    """Per row that has any: its cells and what to add to each."""
    ones = [row[c >= 0] * width + c[c >= 0] for c, weight in cells if weight is None]
    sums = [(row[c >= 0] * width + c[c >= 0], w[c >= 0]) for c, w in cells if w is not None]
    flat = np.concatenate(ones) if ones else np.empty(0, dtype=np.int64)
    if n_rows * width <= _DENSE:
        total = np.bincount(flat, minlength=n_rows * width)
        for at, weight in sums:
            # float64 sums of integers below 2**53 are exact: 50,000 losses of 37 * 2**24 are below 2**46.
            summed = np.rint(np.bincount(at, weights=weight, minlength=n_rows * width))
            total = total + summed.astype(np.int64)
        keys = np.flatnonzero(total)
        counts = total[keys]
    else:
        every = np.concatenate([flat, *(at for at, _ in sums)])
        amounts = np.concatenate([np.ones(len(flat), dtype=np.int64), *(w for _, w in sums)])
        order = np.argsort(every, kind="stable")
        keys, first = np.unique(every[order], return_index=True)
        counts = np.add.reduceat(amounts[order], first) if len(keys) else np.empty(0, dtype=np.int64)
    return list(_by_row(keys, counts, width))


def _by_row(keys: Int64s, counts: Int64s, width: int) -> Iterator[tuple[int, Int64s, Int64s]]:
    rows, first = np.unique(keys // width, return_index=True)
    bounds = np.append(first, len(keys))
    for i, row in enumerate(rows):
        at = slice(bounds[i], bounds[i + 1])
        yield int(row), keys[at] - int(row) * width, counts[at]


def _add(
    panes: Panes,
    version: str,
    starts: Int64s,
    ages: Int64s | None,
    names: list[str],
    found: list[tuple[int, Int64s, Int64s]],
    width: int,
    tiers: tuple[int, ...],
) -> None:
    for row, cells, counts in found:
        at, name = divmod(row, len(names))
        start = int(starts[at])
        age = PREDICTIONS if ages is None else int(ages[at])
        for tier in tiers:
            if tier == LIFETIME:
                key = PaneKey(version, LIFETIME, 0, min(age, 0), names[name])
            else:
                unit = MINUTE_MS if tier == MINUTE else HOUR_MS
                key = PaneKey(version, tier, start // unit * unit, age, names[name])
            panes.create(key, width)[cells] += counts
