"""The mathematics of anytime-valid detection, in logarithms and free of state.

An **e-value** S of a step has mean at most 1 while the stream is within tolerance. Shiryaev-Roberts
M_t = (M_{t-1} + 1) S_t, with alarm and restart at M >= c, then gives at most T / c false alarms in T steps on
average, whatever else is monitored beside it. Each S below bets a predicted distribution theta against its
projection theta0 on the tolerated set (the reverse information projection), so whatever lies within the set,
moving or not, gains nothing.

References: Shin, Ramdas and Rinaldo (2024), E-detectors; Gruenwald, de Heide and Koolen (2024), Safe testing;
Robbins (1970) for the mixture confidence sequences.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

NOTHING = -1e300
"""Log of no evidence at all: finite, so that states are plain JSON."""
EDGE = 1e-6
"""Rates are kept this far from 0 and 1, so that no single event is infinite evidence."""

Floats = NDArray[np.float64]


# --- accumulating evidence -------------------------------------------------------------------------------


def shiryaev_roberts(log_m: Floats, log_s: Floats) -> Floats:
    """One step of e-detectors: log((M + 1) S)."""
    return np.logaddexp(0.0, log_m) + log_s


def log_mixture(log_values: Floats, log_weights: Floats) -> float:
    """Log of the weighted mean: a mean of e-detectors is an e-detector."""
    terms = log_values + log_weights
    top = float(terms.max())
    return top + math.log(float(np.exp(terms - top).sum()))


def temper(log_s: float, overdispersion: float) -> float:
    """S to the power 1 / overdispersion: exact where each event comes as so many copies; never below 1."""
    return log_s / max(1.0, overdispersion)


# --- e-values of one step against a tolerated set --------------------------------------------------------


def rate_band(successes: float, failures: float, theta: float, low: float, high: float) -> float:
    """Log e-value against "the success rate lies in [low, high]", betting on the rate theta."""
    theta = min(max(theta, EDGE), 1.0 - EDGE)
    null = min(max(theta, low), high)
    return successes * math.log(theta / null) + failures * math.log((1.0 - theta) / (1.0 - null))


def negative_binomial_band(events: float, expected: float, rho: float, edge: float, size: float) -> float:
    """Log e-value against "the mean is on this side of `edge` times the expected", betting on rho beyond it.

    Counts have variance m + m^2 / size. Valid for every mean farther from the bet and for any larger size, as
    it is a monotone convex function of the count. Unlike a tempered Poisson bet it keeps its power on large,
    unsteady volumes.
    """
    rho = max(rho, EDGE)
    scale = math.log((size + edge * expected) / (size + rho * expected))
    return events * (math.log(rho / edge) + scale) + size * scale


def ratio_null(theta_a: float, theta_b: float, n_a: float, n_b: float, rho: float) -> tuple[float, float]:
    """Rates of the two groups nearest to the bet under "rate of a at most rho times rate of b"."""
    if theta_a <= rho * theta_b:
        return theta_a, theta_b
    # The stationarity condition is a quadratic in the rate of b; its smaller root is the feasible one.
    square = rho * (n_a + n_b)
    linear = n_a * (rho + theta_a) + n_b * (1.0 + rho * theta_b)
    constant = n_a * theta_a + n_b * theta_b
    p_b = 2.0 * constant / (linear + math.sqrt(max(0.0, linear * linear - 4.0 * square * constant)))
    return rho * p_b, p_b


def group_ratio(
    s_a: float, f_a: float, s_b: float, f_b: float, theta_a: float, theta_b: float, rho: float
) -> float:
    """Log e-value against "rate of a at most rho times rate of b"; an empty group is no evidence."""
    n_a, n_b = s_a + f_a, s_b + f_b
    if n_a == 0 or n_b == 0 or theta_a <= rho * theta_b:
        return 0.0
    p_a, p_b = ratio_null(theta_a, theta_b, n_a, n_b, rho)
    return (
        s_a * math.log(theta_a / p_a)
        + f_a * math.log((1.0 - theta_a) / (1.0 - p_a))
        + s_b * math.log(theta_b / p_b)
        + f_b * math.log((1.0 - theta_b) / (1.0 - p_b))
    )


def project(theta: Floats, q: Floats, epsilon: float) -> Floats:
    """Point of the ball {p: KL(q || p) <= epsilon} nearest to theta: it lies on the line from q to theta.

    KL(q || q + v (theta - q)) is convex and rising in v, so Newton from v = 1 comes down on the root from
    above; stopping early leaves a slightly wider ball, which is still valid.
    """
    slope = theta / q - 1.0
    v = 1.0
    for _ in range(12):
        mix = 1.0 + v * slope
        excess = -float(q @ np.log(mix)) - epsilon
        if excess <= 0.0:
            break
        step = excess / -float(q @ (slope / mix))
        v -= step
        if step < 1e-10 * v:
            break
    return q + min(1.0, v * (1.0 + 1e-9)) * (theta - q)


def histogram_ball(counts: Floats, theta: Floats, q: Floats, epsilon: float) -> float:
    """Log e-value against "the bins' distribution p has KL(q || p) <= epsilon", betting on theta."""
    return float(counts @ np.log(theta / project(theta, q, epsilon)))


# --- confidence sequences --------------------------------------------------------------------------------


def level(alpha: float, start: int) -> float:
    """Share of alpha for the sequence started at step `start` (from 1): they sum to alpha over all starts."""
    return alpha * 6.0 / (math.pi * start) ** 2


def rate_interval(successes: float, failures: float, alpha: float) -> tuple[float, float]:
    """Beta-binomial confidence sequence of a rate: holds at all times at once with probability 1 - alpha."""
    n = successes + failures
    if n <= 0:
        return 0.0, 1.0
    prior = 2.0 * math.lgamma(0.5)
    mixture = math.lgamma(successes + 0.5) + math.lgamma(failures + 0.5) - math.lgamma(n + 1.0) - prior
    bound = mixture + math.log(alpha)

    def excess(p: float) -> float:
        return bound - successes * math.log(p) - failures * math.log1p(-p)

    mode = successes / n
    low = 0.0 if successes == 0 else _root(excess, min(mode, 1 - 1e-15), 1e-300)
    high = 1.0 if failures == 0 else _root(excess, max(mode, 1e-300), 1.0 - 1e-15)
    return low, high


def count_interval(events: float, expected: float, alpha: float) -> tuple[float, float]:
    """Gamma-Poisson confidence sequence of the ratio of events to those expected."""
    if expected <= 0:
        return 0.0, math.inf
    mixture = math.lgamma(0.5 + events) - (0.5 + events) * math.log(0.5 + expected)
    bound = mixture + 0.5 * math.log(0.5) - math.lgamma(0.5) + math.log(alpha)

    def excess(ratio: float) -> float:
        return bound - events * math.log(ratio) + ratio * expected

    mode = max(events / expected, 1e-300)
    high = 2.0 * mode + 1.0 / expected
    while excess(high) < 0.0:
        high *= 2.0
    low = 0.0 if events == 0 else _root(excess, mode, 1e-300)
    return low, _root(excess, mode, high)


def ratio_interval(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float | None]:
    """Interval of the ratio of two rates, from their intervals at half the error each."""
    return a[0] / b[1], a[1] / b[0] if b[0] > 0.0 else None


def histogram_radius(counts: Floats, alpha: float) -> float:
    """Radius r for which KL(observed || true) <= r holds at all times, from the Dirichlet(1/2) mixture."""
    n = float(counts.sum())
    if n <= 0:
        return math.inf
    full = counts[counts > 0]
    half = math.lgamma(0.5)
    mixture = math.lgamma(0.5 * counts.size) - math.lgamma(n + 0.5 * counts.size)
    mixture += sum(math.lgamma(count + 0.5) - half for count in full.tolist())
    return (float(full @ np.log(full / n)) - mixture - math.log(alpha)) / n


def reach(log_threshold: float, hits: float = 1.2816) -> float:
    """Root of the evidence in nats that crosses the threshold with the normal quantile `hits` (0.9).

    Evidence of expectation D^2 has a standard deviation of about sqrt(2) D; this solves for D.
    """
    return (hits + math.sqrt(hits * hits + 2.0 * log_threshold)) / math.sqrt(2.0)


def _root(excess: Callable[[float], float], inside: float, outside: float) -> float:
    """Bisect between a point inside the sequence (excess < 0) and one outside it; errs outwards."""
    for _ in range(50):
        middle = 0.5 * (inside + outside)
        if excess(middle) < 0.0:
            inside = middle
        else:
            outside = middle
    return outside
