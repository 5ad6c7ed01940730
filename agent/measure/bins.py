"""Bins that are fixed in advance and do not depend on the data, so that panes of all times can be added.

Scores: a .005 grid on [0, 1], logarithmically refined below .01 and above .99 (at 0.13 % prevalence a plain
grid of 200 bins gives AUC .766 where .898 is right), and signed logarithmic bins outside [0, 1].
Latencies: geometric bins of growth 1.04, so that a quantile read at a bin's middle is within 2 %.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.events import Int64s

Floats = NDArray[np.float64]

_TAIL = np.power(10.0, np.arange(-160, -40) / 20)  # 1e-8 … just below 1e-2, 20 bins a decade
_GRID = np.arange(2, 199) * 0.005  # .01 … .99
_OUTSIDE = np.power(10.0, np.arange(0, 73) / 8)  # 1 … 1e9, 8 bins a decade

SCORE_EDGES: Floats = np.concatenate(
    [-_OUTSIDE[::-1], [0.0], _TAIL, _GRID, 1.0 - _TAIL[::-1], [np.nextafter(1.0, 2.0)], 1.0 + _OUTSIDE]
)
"""Bin i holds edges[i-1] <= score < edges[i]; a score of exactly 1 belongs to the last bin of [0, 1]."""
SCORE_BINS = len(SCORE_EDGES) + 1

LATENCY_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Bounds that are exact, for cumulative histograms in seconds."""
LATENCY_EDGES: Floats = np.unique(np.concatenate([np.power(1.04, np.arange(-352, 295)), LATENCY_BOUNDS]))
LATENCY_BINS = len(LATENCY_EDGES) + 1


def score_bin(scores: Floats) -> Int64s:
    """Bin of each score; -1 for NaN."""
    found = np.searchsorted(SCORE_EDGES, scores, side="right")
    return np.where(np.isnan(scores), -1, found)


def latency_bin(seconds: Floats) -> Int64s:
    """Bin of each latency; -1 for NaN and for negative values."""
    found = np.searchsorted(LATENCY_EDGES, seconds, side="right")
    return np.where(np.isnan(seconds) | (seconds < 0), -1, found)


def middles(edges: Floats) -> Floats:
    """A representative value of each bin: the middle, and the edge itself for the two open ends."""
    return np.concatenate([edges[:1], (edges[1:] + edges[:-1]) / 2, edges[-1:]])


SCORE_MIDDLES = middles(SCORE_EDGES)


def quantile_edges(values: Floats, bins: int) -> Floats:
    """Inner edges of at most `bins` bins of about equal mass, plus the reference's minimum and maximum.

    The first and last bin lie outside [minimum, maximum], so that "out of range" is a bin of its own. A value
    that is repeated so often that it fills several bins gets a bin of its own.
    """
    if len(values) == 0:
        return np.empty(0)
    inner = np.quantile(values, np.linspace(0, 1, bins + 1), method="inverted_cdf")
    atoms, counts = np.unique(inner, return_counts=True)
    heavy = atoms[counts > 1]
    top = np.nextafter(values.max(), np.inf)
    return np.unique(np.concatenate([inner[:-1], np.nextafter(heavy, np.inf), [top]]))


def group_bins(counts: Int64s, groups: int) -> Int64s:
    """Map fine bins to about `groups` neighbouring groups of similar mass in `counts` (a drift reference)."""
    total = counts.sum()
    if total == 0:
        return np.zeros(len(counts), dtype=np.int64)
    before = np.cumsum(counts) - counts
    grouped: Int64s = np.minimum((before * groups) // total, groups - 1)
    return grouped
