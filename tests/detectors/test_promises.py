"""Both promises, simulated: alarms within the budget on the tolerance's edge, and short delays beyond it."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors import (
    CalibrationBreak,
    ConfidenceCollapse,
    ConstantPredictions,
    DeadSegment,
    ErrorSurge,
    EstimatedDrop,
    GroupRatio,
    HistogramDrift,
    MissingSurge,
    RateDrop,
    VolumeDrop,
    VolumeSurge,
    sequential,
)
from detectors.performance.calibration import FIXED

Counts = NDArray[np.int64]
Draw = Callable[[np.random.Generator], Counts]
Q = np.array([5, 8, 10, 12, 15, 15, 12, 10, 8, 5]) / 100
EDGE = sequential.project(np.roll(Q, 3), Q, 0.02)
LOW_C, HIGH_C = math.log(50.0), math.log(5e8)


def binomial(n: int, p: float) -> Draw:
    def draw(rng: np.random.Generator) -> Counts:
        hits = rng.binomial(n, p)
        return np.array([hits, n - hits])

    return draw


def pair(n_a: int, p_a: float, n_b: int, p_b: float) -> Draw:
    return lambda rng: np.concatenate([binomial(n_a, p_a)(rng), binomial(n_b, p_b)(rng)])


def wander(rng: np.random.Generator) -> Counts:
    """A histogram whose distribution moves about inside the tolerated ball."""
    theta = rng.dirichlet(Q * 30)
    p = sequential.project(theta, Q, 0.02)
    return rng.multinomial(300, p / p.sum())


RIGHT = np.array([0.5, 0.7, 0.9, 1.0])
SURE = np.array([1, 2, 3, 4]) / 10


def less_sure(rng: np.random.Generator) -> Counts:
    """A histogram whose mean is .86 (1 - .05), the edge for a reference mean of .86."""
    share = 0.05 * 0.86 / (0.86 - 0.5)
    return rng.multinomial(50, (1 - share) * SURE + share * np.array([1, 0, 0, 0]))


def miscalibrated(rng: np.random.Generator) -> Counts:
    """Three groups at the very edge of their tolerance, two above and one below."""
    hits = rng.binomial(20, [0.15, 0.55, 0.85])
    return np.ravel(np.column_stack([hits, 20 - hits, np.array([2, 10, 18]) * FIXED]))


ON_THE_EDGE: dict[str, tuple[Callable[[], Any], Draw]] = {
    "histogram": (
        lambda: HistogramDrift(Q * 1e6, log_threshold=LOW_C),
        lambda rng: rng.multinomial(200, EDGE),
    ),
    "histogram moving": (lambda: HistogramDrift(Q * 1e6, log_threshold=LOW_C), wander),
    "missing": (lambda: MissingSurge(0.05, log_threshold=LOW_C), binomial(50, 0.10)),
    "confidence": (lambda: ConfidenceCollapse(0.5, log_threshold=LOW_C), binomial(50, 0.25)),
    "constant": (
        lambda: ConstantPredictions([4, 3, 3], tolerance=0.1, log_threshold=LOW_C),
        lambda rng: rng.multinomial(50, [0.5, 0.5, 0.0]),
    ),
    "drop": (lambda: RateDrop(0.9, log_threshold=LOW_C), binomial(50, 0.855)),
    "rise": (lambda: RateDrop(0.2, higher_is_better=False, log_threshold=LOW_C), binomial(50, 0.21)),
    "estimate": (lambda: EstimatedDrop(RIGHT, SURE * 1e8, log_threshold=LOW_C), less_sure),
    "calibration": (lambda: CalibrationBreak(3, log_threshold=LOW_C), miscalibrated),
    "ratio above": (lambda: GroupRatio(log_threshold=LOW_C), pair(20, 0.25, 40, 0.2)),
    "ratio below": (lambda: GroupRatio(log_threshold=LOW_C), pair(20, 0.2, 40, 0.25)),
    "volume": (
        lambda: VolumeDrop(20, overdispersion=1.0, log_threshold=LOW_C),
        lambda rng: rng.poisson(10, 1),
    ),
    "surge": (
        lambda: VolumeSurge(20, overdispersion=1.0, log_threshold=LOW_C),
        lambda rng: rng.poisson(40, 1),
    ),
    "surge bursts": (
        lambda: VolumeSurge(20, overdispersion=5.0, log_threshold=LOW_C),
        lambda rng: rng.poisson(rng.gamma(5.0, 40.0 / 5.0), 1),
    ),
    "dead segment": (
        lambda: DeadSegment(20, overdispersion=1.0, log_threshold=LOW_C),
        lambda rng: rng.poisson(4, 1),
    ),
    "errors": (lambda: ErrorSurge(0.01, log_threshold=LOW_C), binomial(50, 0.03)),
    "volume bursts": (
        lambda: VolumeDrop(20, overdispersion=5.0, log_threshold=LOW_C),
        lambda rng: rng.poisson(rng.gamma(5.0, 10.0 / 5.0), 1),
    ),
}


@pytest.mark.parametrize("name", sorted(ON_THE_EDGE))
def test_false_alarms_keep_to_the_budget_on_the_edge_of_the_tolerance(name: str) -> None:
    """Exactly on the boundary, restarts included, alarms stay below steps / c."""
    make, draw = ON_THE_EDGE[name]
    rng = np.random.default_rng(11)
    alarms = 0
    for _ in range(10):
        detector = make()
        for _ in range(200):
            detector.update(draw(rng))
            alarms += detector.fired
    assert alarms <= 10 * 200 / 50


BEYOND: dict[str, tuple[Callable[[], Any], Draw, Draw, int]] = {
    "histogram": (
        lambda: HistogramDrift(Q * 1e6, log_threshold=HIGH_C),
        lambda rng: rng.multinomial(500, Q),
        lambda rng: rng.multinomial(500, np.sort(Q)),
        4,
    ),
    "missing, ten points": (
        lambda: MissingSurge(0.02, log_threshold=HIGH_C),
        binomial(500, 0.02),
        binomial(500, 0.12),
        6,
    ),
    "missing, all": (
        lambda: MissingSurge(0.0, log_threshold=HIGH_C),
        binomial(50, 0.0),
        binomial(50, 1.0),
        1,
    ),
    "confidence": (
        lambda: ConfidenceCollapse(0.5, log_threshold=HIGH_C),
        binomial(200, 0.5),
        binomial(200, 0.1),
        3,
    ),
    "constant": (
        lambda: ConstantPredictions(Q * 1e4, log_threshold=HIGH_C),
        lambda rng: rng.multinomial(100, Q),
        lambda rng: np.eye(10, dtype=np.int64)[7] * 100,
        2,
    ),
    "constant, of 99 %": (
        lambda: ConstantPredictions([99, 1], log_threshold=HIGH_C),
        binomial(2000, 0.99),
        binomial(2000, 1.0),
        8,
    ),
    "drop": (lambda: RateDrop(0.9, log_threshold=HIGH_C), binomial(300, 0.9), binomial(300, 0.75), 5),
    "ratio": (
        lambda: GroupRatio(log_threshold=HIGH_C),
        pair(200, 0.2, 300, 0.2),
        pair(200, 0.4, 300, 0.2),
        9,
    ),
    "ratio, of few": (
        lambda: GroupRatio(log_threshold=HIGH_C),
        pair(20, 0.2, 300, 0.2),
        pair(20, 0.6, 300, 0.2),
        20,
    ),
    "volume, dead": (
        lambda: VolumeDrop(None, log_threshold=HIGH_C),
        lambda rng: rng.poisson(100, 1),
        lambda rng: np.zeros(1, dtype=np.int64),
        1,
    ),
    "surge, fourfold": (
        lambda: VolumeSurge(None, log_threshold=HIGH_C),
        lambda rng: rng.poisson(100, 1),
        lambda rng: rng.poisson(400, 1),
        3,
    ),
    "segment, dead": (
        lambda: DeadSegment(None, log_threshold=HIGH_C),
        lambda rng: rng.poisson(60, 1),
        lambda rng: np.zeros(1, dtype=np.int64),
        5,
    ),
    "errors": (
        lambda: ErrorSurge(0.001, log_threshold=HIGH_C),
        binomial(300, 0.001),
        binomial(300, 0.1),
        4,
    ),
    "volume, a fifth": (
        lambda: VolumeDrop(None, log_threshold=HIGH_C),
        lambda rng: rng.poisson(100, 1),
        lambda rng: rng.poisson(20, 1),
        5,
    ),
}


@pytest.mark.parametrize("name", sorted(BEYOND))
def test_a_change_is_seen_in_few_steps_at_the_budget_of_thousands(name: str) -> None:
    """At c = 5e8, 50 quiet steps stay quiet and the change is seen within the stated steps, always."""
    make, quiet, changed, within = BEYOND[name]
    for seed in range(10):
        rng = np.random.default_rng(seed)
        detector = make()
        for _ in range(50):
            detector.update(quiet(rng))
            assert not detector.fired
        steps = 0
        while not detector.fired and steps <= within:
            detector.update(changed(rng))
            steps += 1
        assert steps <= within
        evidence = detector.evidence
        assert evidence.value is not None
        outside = [
            (floor is not None and evidence.value < floor)
            or (ceiling is not None and evidence.value > ceiling)
            for floor, ceiling in [evidence.tolerance]
        ]
        assert all(outside), "the estimate at the alarm is that of the change, not of all the past"


@pytest.mark.parametrize("n", [50, 1000])
def test_the_smallest_change_is_found_about_nine_times_in_ten(n: int) -> None:
    """A planted change of exactly the size stated is found within the steps stated, mostly but not always."""
    rng = np.random.default_rng(8)
    found = 0
    for _ in range(80):
        detector = RateDrop(0.8, log_threshold=math.log(1e5))
        for _ in range(20):
            detector.update(binomial(n, 0.8)(rng))
        change = detector.evidence.smallest_change
        assert change is not None
        for _ in range(int(detector.evidence.details["smallest_change_steps"])):
            detector.update(binomial(n, 0.8 - change)(rng))
            if detector.fired:
                found += 1
                break
    assert 0.75 <= found / 80 <= 0.99


def test_a_blind_detector_says_so() -> None:
    """Where even the worst case would not be seen in time, there is no smallest change."""
    detector = GroupRatio(log_threshold=HIGH_C)
    for _ in range(100):
        detector.update(np.array([1, 1, 1, 1]))
    assert detector.evidence.smallest_change is None


def test_a_small_group_gets_no_verdict() -> None:
    """Until each group has 30 events the verdict is not enough evidence, whatever the ratio."""
    detector = GroupRatio(log_threshold=1.0)
    for step in range(1, 15):
        detector.update(np.array([2, 0, 0, 50]))
        assert (detector.evidence.verdict.value == "not enough evidence") == (2 * step < 30)
        assert not detector.fired
    detector.update(np.array([2, 0, 0, 50]))
    assert detector.fired


def test_few_coarse_bins_stand_for_many_fine_ones() -> None:
    """A score histogram of hundreds of bins is merged to a few, so that a shift is seen as soon."""
    rng = np.random.default_rng(9)
    reference, shifted = rng.beta(2, 5, 50_000), rng.beta(3, 5, 400 * 6).reshape(6, 400)
    edges = np.linspace(0, 1, 251)
    detector = HistogramDrift(np.histogram(reference, edges)[0], log_threshold=HIGH_C)
    fired = []
    for scores in shifted:
        detector.update(np.histogram(scores, edges)[0])
        fired.append(detector.fired)
    assert any(fired[:3])


@pytest.mark.parametrize("samples", [100, 1000])
def test_a_reference_that_is_itself_an_estimate_costs_no_false_alarms(samples: int) -> None:
    """With the rate learned from few labels, a true rate keeps to the budget if their number is told."""
    alarms = {True: 0, False: 0}
    for told in alarms:
        rng = np.random.default_rng(12)
        for _ in range(30):
            learned = rng.binomial(samples, 0.7) / samples
            detector = RateDrop(learned, reference_samples=samples if told else None, log_threshold=LOW_C)
            for _ in range(60):
                detector.update(binomial(200, 0.7)(rng))
                alarms[told] += detector.fired
    assert alarms[True] <= 30 * 60 / 50
    assert alarms[True] <= alarms[False]
    assert samples > 100 or alarms[False] > 30 * 60 / 50, "the case is one in which it matters"


def test_clustered_events_keep_to_the_budget_once_their_overdispersion_is_told() -> None:
    """Where each event comes as five copies, tempering keeps the promise that is else broken."""
    alarms = {1.0: 0, 5.0: 0}
    for overdispersion in alarms:
        rng = np.random.default_rng(13)
        for _ in range(10):
            detectors = [
                MissingSurge(0.05, log_threshold=LOW_C, overdispersion=overdispersion),
                GroupRatio(log_threshold=LOW_C, overdispersion=overdispersion),
                HistogramDrift(Q * 1e6, log_threshold=LOW_C, overdispersion=overdispersion),
            ]
            for _ in range(150):
                steps = (binomial(40, 0.1)(rng), pair(20, 0.25, 30, 0.2)(rng), rng.multinomial(40, EDGE))
                for detector, counts in zip(detectors, steps, strict=True):
                    detector.update(5 * counts)
                    alarms[overdispersion] += detector.fired
    assert alarms[5.0] <= 3 * 10 * 150 / 50 < alarms[1.0]


@pytest.mark.parametrize(
    "reference",
    [[5000, 5000, 0], [100_000, 1], [0, 0, 7], [1, 1], [99_990, 5, 3, 2, 0, 0], [10**9] + [0] * 30],
    ids=str,
)
def test_lopsided_references_are_watched_like_any_other(reference: list[int]) -> None:
    """Empty and nearly certain bins break no arithmetic, gather no evidence in peace, and lose no change."""
    detector = HistogramDrift(reference, log_threshold=HIGH_C)
    q = np.array(reference) / sum(reference)
    rng = np.random.default_rng(14)
    for _ in range(300):
        detector.update(rng.multinomial(500, q))
        assert not detector.fired
        assert detector.evidence.ratio < 0.5 or sum(reference) < 10
    if sum(reference) < 10:  # from seven events nothing is known that a change could break
        assert detector.evidence.verdict.value == "not enough evidence"
    else:
        for _ in range(4):
            detector.update(rng.multinomial(500, np.roll(q, 1)))
            if detector.fired:
                break
        assert detector.fired
