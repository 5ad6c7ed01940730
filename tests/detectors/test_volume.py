"""Volume: what is learned, and what must not alarm."""

import math

import numpy as np
import pytest

from detectors import VolumeDrop

LOG_C = math.log(1e4)


def test_the_expectation_is_learned_before_anything_is_judged() -> None:
    """Warm-up lasts for at least 24 steps and 100 events; only then is there a reference."""
    detector = VolumeDrop(None, log_threshold=LOG_C)
    for _ in range(49):
        detector.update(np.array([2]))
        assert detector.evidence.warming_up
        assert detector.evidence.reference is None
    for _ in range(10):
        detector.update(np.array([2]))
    assert not detector.evidence.warming_up
    assert detector.evidence.reference == pytest.approx(2.0)


@pytest.mark.parametrize("mean", [3, 30, 3000])
@pytest.mark.parametrize("phase", [0.0, 0.25, 0.5, 0.75])
def test_a_gentle_season_does_not_alarm(mean: int, phase: float) -> None:
    """Days that swing by 30 % around their mean stay silent, wherever learning began."""
    rng = np.random.default_rng(mean)
    detector = VolumeDrop(None, log_threshold=LOG_C)
    for step in range(900):
        detector.update(rng.poisson(mean * (1 + 0.3 * math.cos(2 * math.pi * (step / 288 + phase))), 1))
        assert not detector.fired


def test_a_bursty_stream_does_not_alarm() -> None:
    """Counts ten times as restless as Poisson around a steady mean stay silent."""
    rng = np.random.default_rng(6)
    detector = VolumeDrop(None, log_threshold=LOG_C)
    for _ in range(2000):
        detector.update(rng.poisson(rng.gamma(50 / 9, 9.0), 1))
        assert not detector.fired


def test_a_rise_does_not_alarm_and_is_learned() -> None:
    """Ten times the traffic is no drop, and becomes the expectation in time."""
    rng = np.random.default_rng(6)
    detector = VolumeDrop(None, log_threshold=LOG_C)
    for step in range(1500):
        detector.update(rng.poisson(20 if step < 100 else 200, 1))
        assert not detector.fired
    assert detector.evidence.reference == pytest.approx(200, rel=0.1)


@pytest.mark.parametrize("left", [0.0, 0.3])
def test_a_lasting_outage_is_not_learned(left: float) -> None:
    """While the alarm stands, the expectation stands still; with the traffic back, all is well again."""
    rng = np.random.default_rng(6)
    detector = VolumeDrop(None, log_threshold=LOG_C)
    for _ in range(100):
        detector.update(rng.poisson(15, 1))
    while not detector.fired:
        detector.update(rng.poisson(15 * left, 1))
    before = detector.evidence.reference
    for _ in range(500):
        detector.update(rng.poisson(15 * left, 1))
        assert not detector.recovered
    assert detector.evidence.reference == before
    for _ in range(100):
        detector.update(rng.poisson(15, 1))
    assert detector.recovered


def test_a_strong_season_that_is_told_does_not_alarm_and_hides_no_drop() -> None:
    """With each hour's expectation told, nights at a tenth of the day are silent and a dead night is seen."""
    rng = np.random.default_rng(6)
    detector = VolumeDrop(100, log_threshold=LOG_C)
    fired = []
    for step in range(24 * 20):
        expected = 200 if 8 <= step % 24 < 20 else 20
        detector.expect(expected)
        detector.update(rng.poisson(expected if step < 24 * 19 + 2 else 0, 1))
        if detector.fired:
            fired.append(step)
    assert 24 * 19 + 2 <= fired[0] <= 24 * 19 + 3
