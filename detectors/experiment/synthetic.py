"""What did a change bring where there was no control arm? A synthetic control from other series."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ALPHA = 0.1
_ROUNDS = 500
_REACH = 60


@dataclass(frozen=True, slots=True)
class Effect:
    """What the series gained from the change on, on average per step."""

    effect: float
    low: float | None
    high: float | None
    """Where there are too few steps before the change for any interval, None."""
    p_value: float
    """Of no effect; never below 1 / steps."""
    weights: tuple[float, ...]
    """Of the other series; they sum to 1."""
    error_before: float
    """Root mean squared error of the imitation before the change: if it is large, believe nothing."""


def synthetic_control(treated: Floats, others: Floats, begin: int, *, alpha: float = ALPHA) -> Effect:
    """By how much does a series depart, from step `begin` on, from the best imitation by others?

    treated is (steps,), others (steps, series), all without gaps. The imitation is the convex combination of
    the others nearest to the series (least squares). The p-value of an effect e is that of a conformal test:
    fit on all steps after taking e off the later ones, and see in how many of the cyclic shifts of the
    residuals the later steps are as large in the mean; the interval is what it does not reject. Valid if
    residuals are stationary; two changes at one time cannot be told apart.

    References: Abadie, Diamond and Hainmueller (2010), Synthetic control methods; Chernozhukov, Wuethrich and
    Zhu (2021), An exact and robust conformal inference method for counterfactual and synthetic controls.
    """
    steps = len(treated)
    if others.shape[0] != steps or others.shape[1] < 1 or not 2 <= begin < steps:
        raise ValueError("synthetic_control takes two steps before the change, one after, and another series")
    weights = _simplex(treated[:begin], others[:begin])
    gap = treated - others @ weights
    effect = float(gap[begin:].mean())
    before = float(np.sqrt(np.mean(gap[:begin] ** 2)))
    low, high = _interval(treated, others, begin, effect, alpha)
    p = _p_value(treated, others, begin, 0.0)
    return Effect(effect, low, high, p, tuple(float(w) for w in weights), before)


def _interval(
    treated: Floats, others: Floats, begin: int, effect: float, alpha: float
) -> tuple[float | None, float | None]:
    if 1.0 / len(treated) > alpha:
        return None, None
    scale = float(np.std(np.diff(treated))) + abs(effect) + 1e-12
    ends: list[float | None] = []
    for side in (-1.0, 1.0):
        inside, outside = 0.0, 1.0
        while _p_value(treated, others, begin, effect + side * outside * scale) > alpha:
            inside, outside = outside, 2.0 * outside
            if outside > _REACH:
                break
        if outside > _REACH:
            ends.append(None)
            continue
        for _ in range(12):
            middle = 0.5 * (inside + outside)
            rejected = _p_value(treated, others, begin, effect + side * middle * scale) <= alpha
            inside, outside = (inside, middle) if rejected else (middle, outside)
        ends.append(effect + side * outside * scale)
    return ends[0], ends[1]


def _p_value(treated: Floats, others: Floats, begin: int, effect: float) -> float:
    """Share of cyclic shifts of the residuals whose later part is at least as large as the true one."""
    adjusted = treated.copy()
    adjusted[begin:] -= effect
    residuals = adjusted - others @ _simplex(adjusted, others)
    later = len(treated) - begin
    twice = np.concatenate([residuals, residuals])
    sums = np.abs(np.convolve(twice, np.ones(later), "valid")[: len(treated)])
    return float(np.mean(sums >= sums[begin] - 1e-12))


def _simplex(y: Floats, x: Floats) -> Floats:
    """Weights of at least 0 that sum to 1 and minimise |y - x w|^2: accelerated projected gradient."""
    count = x.shape[1]
    middle = x.mean(axis=1)  # weights that sum to 1 do not see what all series share, but the descent does
    x, y = x - middle[:, None], y - middle
    gram, target = x.T @ x, x.T @ y
    step = 1.0 / max(float(np.linalg.norm(gram, 2)), 1e-300)
    w = ahead = np.full(count, 1.0 / count)
    momentum = 1.0
    for _ in range(_ROUNDS):
        new = _project(ahead - step * (gram @ ahead - target))
        following = 0.5 * (1.0 + float(np.sqrt(1.0 + 4.0 * momentum * momentum)))
        ahead = new + (momentum - 1.0) / following * (new - w)
        if float(np.abs(new - w).max()) < 1e-9:
            return new
        w, momentum = new, following
    return w


def _project(w: Floats) -> Floats:
    """The nearest point of the simplex (Held, Wolfe and Crowder, 1974)."""
    ordered = np.sort(w)[::-1]
    excess = (np.cumsum(ordered) - 1.0) / np.arange(1, len(w) + 1)
    last = int(np.flatnonzero(ordered > excess)[-1])
    projected: Floats = np.maximum(w - excess[last], 0.0)
    return projected
