"""Is a variant better than its control? Sums in, an always-valid interval and a verdict out."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple

from detectors.sequential import rate_interval

ALPHA = 0.05
ENOUGH = 100
"""Successes and failures of each arm from which the normal approximation is used."""
PLANNED = 10_000
"""Units of each arm at which the interval is narrowest; a tenth or tenfold costs a tenth of its width."""

Method = Literal["exact", "asymptotic"]


class Said(StrEnum):
    """What can be said of a variant."""

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    NOT_ENOUGH = "not enough evidence"


class Arm(NamedTuple):
    """One arm as sums: units, their values, the squares of the values."""

    n: float
    total: float
    squares: float

    @classmethod
    def of_rate(cls, successes: float, n: float) -> "Arm":
        """An arm whose values are 0 and 1."""
        return cls(n, successes, successes)

    @property
    def mean(self) -> float:
        """Mean of the values."""
        return self.total / self.n

    @property
    def variance(self) -> float:
        """Variance of a value."""
        return max(0.0, self.squares / self.n - self.mean**2)


@dataclass(frozen=True, slots=True)
class Lift:
    """Variant minus control; `low` and `high` hold at all times at once with probability 1 - alpha."""

    control: float
    variant: float
    difference: float
    low: float
    high: float
    method: Method

    def said(self, *, margin: float, higher_is_better: bool) -> Said:
        """The verdict: beyond 0 on one side, or within `margin` on both."""
        low, high = (self.low, self.high) if higher_is_better else (-self.high, -self.low)
        if -margin < low and high < margin:
            return Said.EQUIVALENT
        if low > 0.0:
            return Said.BETTER
        return Said.WORSE if high < 0.0 else Said.NOT_ENOUGH

    def harm(self, *, tolerated: float, higher_is_better: bool) -> Said:
        """Of a guardrail: WORSE once surely worse by more than is tolerated, EQUIVALENT once surely not."""
        low, high = (self.low, self.high) if higher_is_better else (-self.high, -self.low)
        if high < -tolerated:
            return Said.WORSE
        return Said.EQUIVALENT if low > -tolerated else Said.NOT_ENOUGH


def rate_lift(control: Arm, variant: Arm, *, alpha: float = ALPHA) -> Lift | None:
    """Difference of two rates; None while an arm is empty.

    Question: by how much does the rate of one arm exceed the other's? Up to ENOUGH successes and failures in
    each arm it answers with the pair of beta-binomial confidence sequences, exact at half of half the error
    each; from then on with `mean_lift`, at the other half. The switch depends on sums alone, so the error of
    both phases together is at most alpha (asymptotically).
    """
    if control.n <= 0 or variant.n <= 0:
        return None
    if min(_successes_and_failures(control) + _successes_and_failures(variant)) >= ENOUGH:
        return mean_lift(control, variant, alpha=alpha / 2)
    a, b = _successes_and_failures(control), _successes_and_failures(variant)
    low_a, high_a = rate_interval(*a, alpha / 4)
    low_b, high_b = rate_interval(*b, alpha / 4)
    difference = variant.mean - control.mean
    return Lift(control.mean, variant.mean, difference, low_b - high_a, high_b - low_a, "exact")


def mean_lift(control: Arm, variant: Arm, *, alpha: float = ALPHA) -> Lift | None:
    """Difference of two means by an asymptotic confidence sequence; None while an arm cannot tell.

    With v = var_a / n_a + var_b / n_b, t the harmonic mean of the arms' sizes and rho^2 tuned to PLANNED:

        variant - control  +-  sqrt(2 v (1 + 1 / (t rho^2)) log(sqrt(t rho^2 + 1) / alpha))

    Asymptotic: its error tends to alpha as looking begins later; no finite number of units is exact for means
    of unbounded values. `rate_lift` therefore starts with something else.

    Reference: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024), Time-uniform central limit theory and
    asymptotic confidence sequences.
    """
    if control.n < 2 or variant.n < 2:
        return None
    variance = control.variance / control.n + variant.variance / variant.n
    t = 2.0 / (1.0 / control.n + 1.0 / variant.n)
    squared = t * _rho_squared(alpha)
    radius = math.sqrt(2.0 * variance * (1.0 + 1.0 / squared) * (0.5 * math.log1p(squared) - math.log(alpha)))
    difference = variant.mean - control.mean
    return Lift(
        control.mean, variant.mean, difference, difference - radius, difference + radius, "asymptotic"
    )


def _rho_squared(alpha: float) -> float:
    """The mixture's scale for which the interval is narrowest at PLANNED units.

    Exactly, (-W(-alpha^2 / e) - 1) / PLANNED on the lower branch of Lambert's W, here by its fixed point
    w = 1 - 2 log(alpha) + log(w).
    """
    w = 1.0 - 2.0 * math.log(alpha)
    for _ in range(30):
        w = 1.0 - 2.0 * math.log(alpha) + math.log(w)
    return (w - 1.0) / PLANNED


def _successes_and_failures(arm: Arm) -> tuple[float, float]:
    return arm.total, arm.n - arm.total
