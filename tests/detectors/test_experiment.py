"""Experiments: intervals that hold at all looks, verdicts, the sharing of units, synthetic controls."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import gammaln, lambertw
from scipy.stats import norm

from detectors.experiment.lift import PLANNED, Arm, Lift, Said, _rho_squared, mean_lift, rate_lift
from detectors.experiment.mismatch import ALPHA, log_evidence, mismatched
from detectors.experiment.synthetic import _simplex, synthetic_control

LOOKS = np.unique(np.geomspace(10, 40_000, 40).astype(int))


def lift(low: float, high: float) -> Lift:
    """A lift with this interval."""
    return Lift(0.5, 0.5, (low + high) / 2, low, high, "exact")


@pytest.mark.parametrize(("rate", "true"), [(0.45, 0.0), (0.02, 0.0), (0.3, 0.05)])
def test_the_interval_of_rates_covers_the_difference_at_all_looks_at_once(rate: float, true: float) -> None:
    """Of 200 experiments looked at 40 times each, at most 5 % ever leave the truth out; a t-test's would."""
    rng = np.random.default_rng(7)
    runs, missed, naive = 200, 0, 0
    for _ in range(runs):
        a = np.cumsum(rng.random(LOOKS[-1]) < rate)[LOOKS - 1]
        b = np.cumsum(rng.random(LOOKS[-1]) < rate + true)[LOOKS - 1]
        out = repeatedly = False
        for n, s, t in zip(LOOKS.tolist(), a.tolist(), b.tolist(), strict=True):
            found = rate_lift(Arm.of_rate(s, n), Arm.of_rate(t, n))
            assert found is not None
            out |= not found.low <= true <= found.high
            error = math.sqrt((s / n * (1 - s / n) + t / n * (1 - t / n)) / n)
            repeatedly |= error > 0 and abs(found.difference - true) > norm.ppf(0.975) * error
        missed, naive = missed + out, naive + repeatedly
    assert missed / runs <= 0.05
    assert naive / runs > 0.15


def test_the_interval_of_means_covers_the_difference_once_the_centre_holds() -> None:
    """Skewed values (lognormal), looked at from 500 units on: the asymptotic interval misses at most 5 %."""
    rng = np.random.default_rng(8)
    looks = LOOKS[LOOKS >= 500]
    runs, missed = 200, 0
    for _ in range(runs):
        sums = []
        for shift in (0.0, 0.3):
            values = rng.lognormal(0.0, 0.8, looks[-1]) + shift
            sums.append((np.cumsum(values)[looks - 1], np.cumsum(values**2)[looks - 1]))
        found = [
            mean_lift(Arm(n, sums[0][0][i], sums[0][1][i]), Arm(n, sums[1][0][i], sums[1][1][i]))
            for i, n in enumerate(looks.tolist())
        ]
        missed += any(one is None or not one.low <= 0.3 <= one.high for one in found)
    assert missed / runs <= 0.05


def test_the_scale_of_the_mixture_is_lamberts() -> None:
    """The fixed point equals SciPy's Lambert W, and no other scale gives a narrower interval at PLANNED."""
    for alpha in (0.05, 0.025, 0.001):
        exact = (-lambertw(-(alpha**2) / math.e, -1).real - 1) / PLANNED
        assert _rho_squared(alpha) == pytest.approx(exact, rel=1e-9)

    def width(rho2: float) -> float:
        t = PLANNED * rho2
        return (1 + 1 / t) * (0.5 * math.log1p(t) - math.log(0.05))

    best = _rho_squared(0.05)
    assert width(best) < min(width(0.9 * best), width(1.1 * best))


def test_rates_and_means_agree_where_both_are_asymptotic() -> None:
    """A rate is the mean of zeros and ones: the same interval, at half of the error."""
    a, b = Arm.of_rate(4000, 10_000), Arm.of_rate(4500, 11_000)
    assert rate_lift(a, b, alpha=0.1) == mean_lift(a, b, alpha=0.05)
    assert rate_lift(Arm(0, 0, 0), b) is None


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.05, Said.BETTER),
        (-0.05, -0.01, Said.WORSE),
        (-0.004, 0.004, Said.EQUIVALENT),
        (0.001, 0.004, Said.EQUIVALENT),
        (-0.01, 0.05, Said.NOT_ENOUGH),
    ],
)
def test_the_verdict_follows_from_the_interval(low: float, high: float, said: Said) -> None:
    """Within the margin is equivalent, beyond zero better or worse; and the mirror where lower is better."""
    assert lift(low, high).said(margin=0.005, higher_is_better=True) is said
    mirrored = {Said.BETTER: Said.WORSE, Said.WORSE: Said.BETTER}.get(said, said)
    assert lift(low, high).said(margin=0.005, higher_is_better=False) is mirrored


def test_a_guardrail_breaks_only_when_it_is_sure() -> None:
    """More harm than is tolerated with the whole interval breaks it; less with all of it clears it."""
    assert lift(-0.05, -0.02).harm(tolerated=0.01, higher_is_better=True) is Said.WORSE
    assert lift(-0.05, 0.02).harm(tolerated=0.01, higher_is_better=True) is Said.NOT_ENOUGH
    assert lift(-0.005, 0.02).harm(tolerated=0.01, higher_is_better=True) is Said.EQUIVALENT
    assert lift(0.02, 0.05).harm(tolerated=0.01, higher_is_better=False) is Said.WORSE


def test_the_evidence_of_a_mismatch_has_mean_one_under_the_plan() -> None:
    """Over all outcomes of six units in three arms the expectation of the e-value is one."""
    shares, total = (0.5, 0.3, 0.2), 0.0
    for counts in product(range(7), repeat=3):
        if sum(counts) == 6:
            chance = gammaln(7) - sum(gammaln(n + 1) for n in counts)
            chance += sum(n * math.log(p) for n, p in zip(counts, shares, strict=True))
            total += math.exp(chance + log_evidence(counts, shares))
    assert total == pytest.approx(1.0, abs=1e-9)


def test_a_mismatch_is_found_and_a_fair_split_never_called_one() -> None:
    """200 fair splits of 50,000 units, each looked at 60 times, hardly alarm; 52 to 48 is found by 20,000."""
    rng, looks = np.random.default_rng(3), np.unique(np.geomspace(10, 50_000, 60).astype(int))
    false = 0
    for _ in range(200):
        heads = np.cumsum(rng.random(looks[-1]) < 0.5)[looks - 1]
        false += any(mismatched([h, n - h], [0.5, 0.5]) for h, n in zip(heads, looks, strict=True))
    assert false / 200 <= 0.01
    assert ALPHA <= 0.01
    assert mismatched([10_400, 9_600], [0.5, 0.5])
    with pytest.raises(ValueError, match="sum to 1"):
        mismatched([1, 2], [0.5, 0.6])


def world(seed: int, effect: float, steps: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """A series made of .7 and .3 of two of five others that share a season; it gains `effect` at step 40."""
    rng = np.random.default_rng(seed)
    season = np.sin(np.arange(steps) / 4)
    others = 10 + np.outer(season, [1.0, -0.5, 2.0, 0.3, 1.5]) + np.arange(5) + rng.normal(0, 0.5, (steps, 5))
    treated = others @ [0.7, 0.3, 0.0, 0.0, 0.0] + rng.normal(0, 0.2, steps)
    treated[40:] += effect
    return treated, others


def test_the_weights_are_those_of_a_general_optimiser() -> None:
    """The convex combination equals SciPy's constrained least squares."""
    treated, others = world(1, 0.0)
    found = _simplex(treated, others)
    sum_to_one = {"type": "eq", "fun": lambda w: w.sum() - 1}
    oracle = minimize(
        lambda w: float(np.sum((treated - others @ w) ** 2)),
        np.full(5, 0.2),
        bounds=[(0, 1)] * 5,
        constraints=[sum_to_one],
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert found == pytest.approx(oracle.x, abs=1e-4)
    assert found.sum() == pytest.approx(1.0)


def test_a_synthetic_control_finds_the_effect_and_mostly_covers_it() -> None:
    """Of 20 worlds the 90 % interval covers the effect in 15 at least; none is hardly ever called one."""
    covered = rejected = 0
    for seed in range(20):
        found = synthetic_control(*world(seed, 0.8), begin=40)
        assert found.effect == pytest.approx(0.8, abs=0.3)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.8 <= found.high
        rejected += synthetic_control(*world(100 + seed, 0.0), begin=40).p_value <= 0.05
    assert covered >= 15
    assert rejected <= 3
