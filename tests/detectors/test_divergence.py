"""The gauges against SciPy and simulation."""

import math

import numpy as np
import pytest
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


def test_an_empty_window_shows_nothing() -> None:
    """No events are no drift, not an infinite one."""
    assert divergence.psi([0, 0, 0], [10, 10, 10]) == 0.0
    assert divergence.js([0, 0, 0], [10, 10, 10]) == 0.0


def test_histograms_that_do_not_match_are_refused() -> None:
    """Bins are compared with the same bins only, and counts are never negative."""
    with pytest.raises(ValueError, match="bins"):
        divergence.psi([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="zero or more"):
        divergence.kl([1, -2], [1, 2])
    assert math.isfinite(divergence.psi([10, 0], [0, 10]))
