"""How far apart two histograms are, corrected for what sampling alone would show.

Each index is computed on frequencies with half a pseudo-count per bin, then lowered by its expectation
under "no difference" and floored at 0, so that it does not depend on how many events happened to fall into
the window.

References: Yurdakul (2018), Statistical properties of the population stability index; Lin (1991) for the
Jensen-Shannon divergence; Doob (1949) for the Brownian bridge behind Kolmogorov-Smirnov.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from detectors.sequential import Floats


def frequencies(counts: ArrayLike) -> Floats:
    """Shares of the bins with half a pseudo-count each: never zero."""
    array = np.asarray(counts, dtype=np.float64)
    if array.ndim != 1 or array.size < 2 or (array < 0).any():
        raise ValueError("a histogram is at least two counts of zero or more")
    return np.asarray((array + 0.5) / (array.sum() + 0.5 * array.size))


def psi(counts: ArrayLike, reference: ArrayLike) -> float:
    """Population stability index: sum (p - q) ln(p / q), in nats; 0.1 and 0.25 are folklore, not thresholds.

    >>> round(psi([400, 350, 250], [250, 350, 400]), 3)
    0.137
    >>> psi([26, 34, 40], [2500, 3500, 4000])
    0.0
    """
    p, q = _pair(counts, reference)
    return max(0.0, float((p - q) @ np.log(p / q)) - 2.0 * _noise(counts, reference))


def kl(counts: ArrayLike, reference: ArrayLike) -> float:
    """Kullback-Leibler divergence of the window from the reference: sum p ln(p / q), in nats."""
    p, q = _pair(counts, reference)
    return max(0.0, float(p @ np.log(p / q)) - _noise(counts, reference))


def js(counts: ArrayLike, reference: ArrayLike) -> float:
    """Jensen-Shannon divergence, base 2: from 0, equal, to 1, nothing in common."""
    p, q = _pair(counts, reference)
    middle = 0.5 * (p + q)
    nats = 0.5 * float(p @ np.log(p / middle)) + 0.5 * float(q @ np.log(q / middle))
    return max(0.0, nats - 0.25 * _noise(counts, reference)) / math.log(2.0)


def js_distance(counts: ArrayLike, reference: ArrayLike) -> float:
    """Jensen-Shannon distance: the root of the divergence, a metric."""
    return math.sqrt(js(counts, reference))


def ks(counts: ArrayLike, reference: ArrayLike) -> float:
    """Kolmogorov-Smirnov distance of ordered bins: the largest |F - G|, 0 to 1.

    Lowered by the mean of the largest |Brownian bridge| at the reference's bin edges (fixed random paths).
    """
    p, q = _pair(counts, reference)
    distance = float(np.abs(np.cumsum(p - q)).max())
    noise = math.sqrt(2.0 * _noise(counts, reference) / (p.size - 1))
    steps = _paths(p.size) * np.sqrt(q)
    bridges = np.cumsum(steps, axis=1) - np.outer(steps.sum(axis=1), np.cumsum(q))
    return max(0.0, distance - noise * float(np.abs(bridges).max(axis=1).mean()))


def wasserstein(counts: ArrayLike, reference: ArrayLike, at: ArrayLike | None = None) -> float:
    """Wasserstein-1 distance: how far the mass moved, sum |F - G| dx, in units of `at`.

    `at` are the values the ordered bins stand for; by default their mid-ranks in the reference, so that 0.1
    is a shift by a tenth of the reference's quantiles. Lowered by sum sqrt(2 F (1 - F) / pi (1/n + 1/m)) dx.

    >>> round(wasserstein([0, 10000, 0], [10000, 0, 0], [0.0, 2.0, 5.0]), 2)
    2.0
    """
    p, q = _pair(counts, reference)
    places = np.cumsum(q) - 0.5 * q if at is None else np.asarray(at, dtype=np.float64)
    below = np.cumsum(q)[:-1]
    spread = np.sqrt(np.clip(below * (1.0 - below), 0.0, None))
    noise = math.sqrt(2.0 / math.pi * 2.0 * _noise(counts, reference) / (p.size - 1))
    gaps = np.diff(places)
    return max(0.0, float((np.abs(np.cumsum(p - q)[:-1]) - noise * spread) @ gaps))


def chi_square(counts: ArrayLike, reference: ArrayLike) -> float:
    """Chi-square distance: sum (p - q)^2 / pooled share, 0 to 4.

    Pearson's two-sample statistic is n m / (n + m) times it. Lowered by its degrees of freedom; bins that
    neither sample has do not count.
    """
    a, b = np.asarray(counts, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    _pair(a, b)
    n, m = float(a.sum()), float(b.sum())
    if n <= 0.0 or m <= 0.0:
        return 0.0
    held = a + b > 0.0
    pooled = (a + b)[held] / (n + m)
    freedom = int(held.sum()) - 1
    return max(0.0, float(((a / n - b / m)[held] ** 2 / pooled).sum()) - freedom * (1.0 / n + 1.0 / m))


@lru_cache(maxsize=32)
def _paths(bins: int) -> Floats:
    """Steps of 400 random walks, the same every time."""
    return np.random.default_rng(0).standard_normal((400, bins))


def _pair(counts: ArrayLike, reference: ArrayLike) -> tuple[Floats, Floats]:
    p, q = frequencies(counts), frequencies(reference)
    if p.size != q.size:
        raise ValueError(f"histograms of {p.size} and {q.size} bins cannot be compared")
    return p, q


def _noise(counts: ArrayLike, reference: ArrayLike) -> float:
    """Expected KL of two samples of one distribution; PSI expects twice, JS a quarter of it."""
    n, m = float(np.sum(counts)), float(np.sum(reference))
    if n <= 0.0 or m <= 0.0:
        return math.inf
    return 0.5 * (np.size(counts) - 1) * (1.0 / n + 1.0 / m)
