"""The gauges against SciPy and simulation."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import spatial, stats

from detectors.drift import divergence

BIG, OTHER = np.array([1e9, 2e9, 3e9, 4e9]), np.array([2e9, 2e9, 3e9, 3e9])


def test_indices_equal_scipy_where_sampling_does_not_matter() -> None:
    """On huge counts PSI, KL and JS are their textbook values."""
    p, q = BIG / BIG.sum(), OTHER / OTHER.sum()
    assert divergence.kl(BIG, OTHER) == pytest.approx(stats.entropy(p, q), abs=1e-8)
    assert divergence.psi(BIG, OTHER) == pytest.approx(stats.entropy(p, q) + stats.entropy(q, p), abs=1e-8)
    distance = spatial.distance.jensenshannon(p, q, base=2)
    assert divergence.js_distance(BIG, OTHER) == pytest.approx(distance, abs=1e-7)
    assert divergence.js(BIG, OTHER) == pytest.approx(distance**2, abs=1e-7)


@pytest.mark.parametrize(("bins", "n", "m"), [(10, 1000, 1000), (10, 300, 100_000), (20, 500, 500)])
def test_the_correction_is_what_sampling_shows(bins: int, n: int, m: int) -> None:
    """With no drift, the raw indices average to the correction that is taken off, within a tenth."""
    rng = np.random.default_rng(4)
    q = np.full(bins, 1 / bins)
    raw = {"psi": 0.0, "kl": 0.0, "js": 0.0}
    for _ in range(600):
        a = divergence.frequencies(rng.multinomial(n, q))
        b = divergence.frequencies(rng.multinomial(m, q))
        raw["psi"] += float((a - b) @ np.log(a / b)) / 600
        raw["kl"] += float(stats.entropy(a, b)) / 600
        raw["js"] += float(spatial.distance.jensenshannon(a, b)) ** 2 / 600
    noise = (bins - 1) * (1 / n + 1 / m)
    assert raw["psi"] == pytest.approx(noise, rel=0.1)
    assert raw["kl"] == pytest.approx(noise / 2, rel=0.1)
    assert raw["js"] == pytest.approx(noise / 8, rel=0.1)


def test_distances_equal_scipy_where_sampling_does_not_matter() -> None:
    """On huge counts KS and Wasserstein are SciPy's, and chi-square is its contingency table's statistic."""
    p, q, at = BIG / BIG.sum(), OTHER / OTHER.sum(), np.array([0.0, 1.0, 3.0, 10.0])
    assert divergence.ks(BIG, OTHER) == pytest.approx(np.abs(np.cumsum(p - q)).max(), abs=1e-4)
    a, b = np.repeat(at, [1, 2, 3, 4]), np.repeat(at, [2, 2, 3, 3])
    assert divergence.ks(BIG, OTHER) == pytest.approx(stats.ks_2samp(a, b).statistic, abs=1e-4)
    distance = stats.wasserstein_distance(at, at, p, q)
    assert divergence.wasserstein(BIG, OTHER, at) == pytest.approx(distance, abs=1e-3)
    small, other = np.array([40, 70, 120, 30, 0]), np.array([300, 500, 900, 400, 0])
    table = np.array([small, other])[:, :4]
    found = stats.chi2_contingency(table, correction=False)
    n, m = small.sum(), other.sum()
    statistic = (divergence.chi_square(small, other) + found.dof * (1 / n + 1 / m)) * n * m / (n + m)
    assert statistic == pytest.approx(found.statistic)


@pytest.mark.parametrize("q", [np.full(12, 1 / 12), np.array([0.7, 0.2, 0.06, 0.04])], ids=["even", "steep"])
def test_distances_are_about_zero_where_nothing_changed(q: NDArray[np.float64]) -> None:
    """What is taken off is the mean of the raw distance over samples of one distribution, within a tenth."""
    rng = np.random.default_rng(5)
    places = np.cumsum(q) - q / 2
    raw, corrected = np.zeros(3), np.zeros(3)
    times = 600
    for _ in range(times):
        a, b = rng.multinomial(400, q), rng.multinomial(3000, q)
        x, y = divergence.frequencies(a), divergence.frequencies(b)
        gap = np.abs(np.cumsum(x - y))
        chi = float(((a / 400 - b / 3000) ** 2 / np.maximum((a + b) / 3400, 1e-9)).sum())
        raw += np.array([gap.max(), gap[:-1] @ np.diff(places), chi]) / times
        corrected += (
            np.array([divergence.ks(a, b), divergence.wasserstein(a, b), divergence.chi_square(a, b)]) / times
        )
    scale = 1 / 400 + 1 / 3000
    below = np.cumsum(q)[:-1]
    expected = float(np.sqrt(2 / np.pi * scale * below * (1 - below)) @ np.diff(places))
    assert raw[1] == pytest.approx(expected, rel=0.1)
    assert raw[2] == pytest.approx((len(q) - 1) * scale, rel=0.1)
    assert (corrected < 0.5 * raw).all(), "what is left is the floor at 0"


def test_an_empty_window_shows_nothing() -> None:
    """No events are no drift, not an infinite one."""
    assert divergence.psi([0, 0, 0], [10, 10, 10]) == 0.0
    assert divergence.js([0, 0, 0], [10, 10, 10]) == 0.0
    for distance in (divergence.ks, divergence.wasserstein, divergence.chi_square):
        assert distance([0, 0, 0], [10, 10, 10]) == 0.0


def test_histograms_that_do_not_match_are_refused() -> None:
    """Bins are compared with the same bins only, and counts are never negative."""
    with pytest.raises(ValueError, match="bins"):
        divergence.psi([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="zero or more"):
        divergence.kl([1, -2], [1, 2])
    assert math.isfinite(divergence.psi([10, 0], [0, 10]))
