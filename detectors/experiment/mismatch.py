"""Were units shared out among the arms as planned? A bug in the sharing makes every comparison worthless."""

import math
from collections.abc import Sequence

ALPHA = 0.001
"""Error of the check over the whole life of an experiment, however often one looks."""
STRENGTH = 1000.0
"""Units of prior belief in the plan: bets on deviations of about 1 / sqrt(STRENGTH) of a share."""


def log_evidence(counts: Sequence[float], shares: Sequence[float]) -> float:
    """Log e-value against "a unit goes to arm i with probability shares[i]"; above log(1 / ALPHA) it fails.

    The Dirichlet(STRENGTH shares) mixture over the plan's own likelihood, from counts alone:

        log B(STRENGTH p + n) - log B(STRENGTH p) - sum n log p

    An e-process: exact at every n at once. Units are what was shared out: where a user is assigned once and
    predicted for many times, divide the counts by the predictions of a user.

    Reference: Lindon and Malek (2022), Anytime-valid inference for multinomial count data.
    """
    if len(counts) != len(shares) or min(shares) <= 0.0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        raise ValueError(f"shares must be above 0, sum to 1 and be as many as the counts, not {shares!r}")
    prior = [STRENGTH * share for share in shares]
    found = math.lgamma(STRENGTH) - math.lgamma(STRENGTH + sum(counts))
    for n, share, before in zip(counts, shares, prior, strict=True):
        found += math.lgamma(before + n) - math.lgamma(before) - n * math.log(share)
    return found


def mismatched(counts: Sequence[float], shares: Sequence[float]) -> bool:
    """Is it all but sure that units are not shared out as planned?"""
    return log_evidence(counts, shares) > -math.log(ALPHA)
