"""The list of suspects names few innocents, and more of the guilty than each alone would show."""

import math

import numpy as np
import pytest

from detectors import MissingSurge, suspects


def test_together_they_are_named_sooner_than_each_alone() -> None:
    """Ten that stir at once pass a bar that none of them passes alone."""
    stirring = {f"f{k}": math.log(20 * 1000 / 10) + 0.01 for k in range(10)}
    calm = {f"g{k}": 0.0 for k in range(10)}
    assert suspects({**stirring, **calm}, looks=1000) == sorted(stirring)
    assert suspects({"f0": stirring["f0"], **calm}, looks=1000) == []


def test_the_share_of_innocents_keeps_to_its_bound() -> None:
    """Streams on the edge of their tolerance, listed after 50 steps of 500: at most a tenth wrong."""
    rng = np.random.default_rng(6)
    wrong = 0.0
    for _ in range(20):
        detectors = {f"d{k}": MissingSurge(0.05, log_threshold=1e3) for k in range(10)}
        for _ in range(50):
            for name, detector in detectors.items():
                missing = rng.binomial(50, 0.25 if name in ("d0", "d1") else 0.1)
                detector.update(np.array([missing, 50 - missing]))
        named = suspects({n: d.evidence.statistic for n, d in detectors.items()}, looks=500)
        assert {"d0", "d1"} <= set(named)
        wrong += len(set(named) - {"d0", "d1"}) / len(named)
    assert wrong / 20 <= 50 / 500


def test_nothing_is_named_among_none() -> None:
    """No monitors, no suspects; no patience is a mistake."""
    assert suspects({}, looks=10) == []
    with pytest.raises(ValueError, match="positive"):
        suspects({"a": 1.0}, looks=0)
