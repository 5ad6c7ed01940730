"""The mathematics against generic optimisers, definitions and simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import optimize, special, stats

from detectors import sequential


def test_shiryaev_roberts_is_the_recursion_in_logs() -> None:
    """The log form equals (M + 1) S computed plainly, and survives where the plain form overflows."""
    log_s = np.log([0.5, 2.0, 3.0, 0.1])
    log_m, plain = np.array([sequential.NOTHING]), 0.0
    for step in log_s:
        log_m, plain = sequential.shiryaev_roberts(log_m, step), (plain + 1.0) * math.exp(step)
    assert log_m[0] == pytest.approx(math.log(plain), rel=1e-12)
    assert sequential.shiryaev_roberts(np.array([1e5]), np.array([2.0]))[0] == 1e5 + 2.0


def test_mixture_is_the_weighted_mean() -> None:
    """The log mixture equals SciPy's weighted logsumexp."""
    values, weights = np.array([-5.0, 3.0, 800.0, sequential.NOTHING]), np.array([0.1, 0.2, 0.3, 0.4])
    expected = special.logsumexp(values, b=weights)
    assert sequential.log_mixture(values, np.log(weights)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_projection_equals_a_generic_optimiser(seed: int) -> None:
    """The point on the line from q to theta minimises KL(theta || p) over the whole KL ball around q."""
    rng = np.random.default_rng(seed)
    q, theta = rng.dirichlet(np.full(5, 5.0)), rng.dirichlet(np.full(5, 2.0))
    epsilon = 0.3 * float(q @ np.log(q / theta))
    found = sequential.project(theta, q, epsilon)
    oracle = optimize.minimize(
        lambda p: -theta @ np.log(p),
        q,
        jac=lambda p: -theta / p,
        bounds=[(1e-9, 1.0)] * 5,
        constraints=[
            {"type": "eq", "fun": lambda p: p.sum() - 1.0},
            {"type": "ineq", "fun": lambda p: epsilon - q @ np.log(q / p)},
        ],
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert q @ np.log(q / found) == pytest.approx(epsilon, rel=1e-7)
    assert found == pytest.approx(oracle.x, abs=2e-5)


def test_projection_leaves_what_is_tolerated_alone() -> None:
    """A bet inside the ball is its own projection, so it wins nothing."""
    q = np.array([0.2, 0.3, 0.5])
    theta = np.array([0.21, 0.3, 0.49])
    assert sequential.project(theta, q, 0.02) == pytest.approx(theta, rel=1e-12)
    assert sequential.histogram_ball(np.array([5.0, 6.0, 7.0]), theta, q, 0.02) == pytest.approx(
        0.0, abs=1e-10
    )


@pytest.mark.parametrize("seed", range(4))
def test_histogram_e_value_has_mean_at_most_one_all_over_the_ball(seed: int) -> None:
    """Per event, no distribution on the ball's surface gives a mean above 1; the projection gives just 1."""
    rng = np.random.default_rng(seed)
    q, theta = rng.dirichlet(np.full(6, 5.0)), rng.dirichlet(np.full(6, 2.0))
    null = sequential.project(theta, q, 0.02)
    assert null @ (theta / null) == pytest.approx(1.0, abs=1e-12)
    for _ in range(200):
        tolerated = sequential.project(rng.dirichlet(np.ones(6)) + 1e-6, q, 0.02)
        assert tolerated / tolerated.sum() @ (theta / null) <= 1.0 + 1e-6


def exact_mean(n: int, p: float, theta: float, low: float, high: float) -> float:
    k = np.arange(n + 1)
    log_s = np.array([sequential.rate_band(s, n - s, theta, low, high) for s in k.tolist()])
    return float(stats.binom.pmf(k, n, p) @ np.exp(log_s))


@pytest.mark.parametrize("theta", [0.01, 0.15, 0.25, 0.6])
def test_rate_e_value_has_mean_at_most_one_in_the_band(theta: float) -> None:
    """Summed over all outcomes, the mean is at most 1 for every rate in the band."""
    for p in np.linspace(0.1, 0.2, 11):
        assert exact_mean(20, p, theta, 0.1, 0.2) <= 1.0 + 1e-12
    assert (exact_mean(20, 0.3, theta, 0.1, 0.2) > 1.0) == (theta > 0.2)


@pytest.mark.parametrize("rho", [0.0, 0.2, 0.45])
def test_negative_binomial_e_value_covers_larger_means_and_steadier_counts(rho: float) -> None:
    """The mean is 1 on the boundary, and less for larger means, larger sizes and the Poisson limit."""
    k = np.arange(2000)
    log_s = [sequential.negative_binomial_band(y, 30.0, rho, 0.5, 4.0) for y in k.tolist()]

    def mean(level: float, size: float) -> float:
        return float(stats.nbinom.pmf(k, size, size / (size + 30.0 * level)) @ np.exp(log_s))

    assert mean(0.5, 4.0) == pytest.approx(1.0, abs=1e-6)
    for level, size in itertools.product((0.5, 0.7, 1.0, 2.0), (4.0, 10.0, 1e6)):
        assert mean(level, size) <= 1.0 + 1e-6


def test_two_group_projection_equals_a_generic_optimiser() -> None:
    """The closed form minimises the divergence from the bet over all rates with p_a <= rho p_b."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        n_a, n_b = rng.integers(1, 50, 2).tolist()
        rho = float(rng.uniform(1.0, 2.0))
        theta_b = float(rng.uniform(0.02, 0.45))
        theta_a = min(0.98, rho * theta_b * float(rng.uniform(1.05, 3.0)))
        if theta_a <= rho * theta_b:
            continue

        def divergence(p: float, n_a=n_a, n_b=n_b, a=theta_a, b=theta_b, rho=rho) -> float:  # type: ignore[no-untyped-def]
            return float(
                -n_a * (a * math.log(rho * p) + (1 - a) * math.log(1 - rho * p))
                - n_b * (b * math.log(p) + (1 - b) * math.log(1 - p))
            )

        oracle = optimize.minimize_scalar(
            divergence, bounds=(1e-9, 1 / rho - 1e-9), method="bounded", options={"xatol": 1e-12}
        )
        p_a, p_b = sequential.ratio_null(theta_a, theta_b, n_a, n_b, rho)
        assert p_b == pytest.approx(oracle.x, abs=1e-6)
        assert p_a == pytest.approx(rho * p_b)


def test_group_e_value_has_mean_at_most_one_within_tolerance() -> None:
    """Summed over all outcomes of both groups, the mean is at most 1 wherever p_a <= rho p_b."""
    n_a, n_b, rho = 8, 12, 1.25
    a, b = np.arange(n_a + 1), np.arange(n_b + 1)
    for theta_a, theta_b in ((0.5, 0.2), (0.3, 0.1), (0.9, 0.6)):
        s = np.array(
            [
                [
                    math.exp(sequential.group_ratio(x, n_a - x, y, n_b - y, theta_a, theta_b, rho))
                    for y in b.tolist()
                ]
                for x in a.tolist()
            ]
        )
        for p_b in (0.05, 0.2, 0.5, 0.8):
            for share in (1.0, 0.8, 0.5):
                p_a = rho * p_b * share
                mean = stats.binom.pmf(a, n_a, p_a) @ s @ stats.binom.pmf(b, n_b, p_b)
                assert mean <= 1.0 + 1e-9


def test_an_absent_group_is_no_evidence() -> None:
    """With one group empty the e-value is exactly 1."""
    assert sequential.group_ratio(5, 5, 0, 0, 0.5, 0.1, 1.25) == 0.0


@pytest.mark.parametrize(("successes", "failures"), [(0, 12), (3, 40), (500, 500), (12, 0), (7.5, 2.5)])
def test_rate_interval_meets_its_definition(successes: float, failures: float) -> None:
    """At both ends the Beta(1/2, 1/2) mixture likelihood is 1 / alpha times that of the end."""
    low, high = sequential.rate_interval(successes, failures, 0.05)
    mixture = special.betaln(0.5 + successes, 0.5 + failures) - special.betaln(0.5, 0.5)
    for end in (low, high):
        if 0.0 < end < 1.0:
            ratio = mixture - successes * math.log(end) - failures * math.log1p(-end)
            assert ratio == pytest.approx(math.log(20.0), abs=1e-6)
    assert low <= successes / (successes + failures) <= high


def test_rate_interval_holds_at_all_times_at_once() -> None:
    """Looking after every event, at most 5 % of the sequences ever miss the truth."""
    rng = np.random.default_rng(2)
    misses = 0
    for _ in range(200):
        successes = np.cumsum(rng.random(400) < 0.3)
        n = np.arange(1, 401)
        mixture = special.betaln(0.5 + successes, 0.5 + n - successes) - special.betaln(0.5, 0.5)
        misses += bool(
            (mixture - successes * math.log(0.3) - (n - successes) * math.log(0.7) >= math.log(20)).any()
        )
        low, high = sequential.rate_interval(float(successes[-1]), float(400 - successes[-1]), 0.05)
        assert low < high
    assert misses <= 15


def test_count_interval_meets_its_definition() -> None:
    """At both ends the gamma mixture likelihood is 1 / alpha times the Poisson likelihood of the end."""
    events, expected = 30.0, 50.0
    low, high = sequential.count_interval(events, expected, 0.05)
    mixture = stats.nbinom.logpmf(30, 0.5, 0.5 / (0.5 + expected))
    for end in (low, high):
        assert mixture - stats.poisson.logpmf(30, end * expected) == pytest.approx(math.log(20.0), abs=1e-6)
    assert sequential.count_interval(0.0, 50.0, 0.05)[0] == 0.0


def test_histogram_radius_covers_the_truth() -> None:
    """The divergence of the observed from the true distribution stays below the radius in 95 % of samples."""
    rng = np.random.default_rng(3)
    p = np.array([0.1, 0.2, 0.3, 0.4])
    misses = 0
    for _ in range(300):
        counts = rng.multinomial(100, p).astype(float)
        seen = counts > 0
        divergence = float(counts[seen] / 100 @ np.log(counts[seen] / 100 / p[seen]))
        misses += divergence > sequential.histogram_radius(counts, 0.05)
    assert misses <= 15


def test_levels_share_the_error_over_all_starts() -> None:
    """The shares of alpha given to the starts 1, 2, 3, ... sum to alpha."""
    assert sum(sequential.level(0.05, start) for start in range(1, 20001)) == pytest.approx(0.05, rel=1e-4)
    assert sum(sequential.level(0.05, start) for start in range(1, 20001)) < 0.05


def test_ratio_interval_takes_the_worst_corners() -> None:
    """The ratio's interval is lowest over highest to highest over lowest; over 0 it is unbounded."""
    assert sequential.ratio_interval((0.2, 0.4), (0.1, 0.5)) == (0.4, 4.0)
    assert sequential.ratio_interval((0.2, 0.4), (0.0, 0.5)) == (0.4, None)
