"""Confidence-based performance estimation: how well does a model do that nobody has labelled yet?

A calibrated probability says how often a prediction is right. So the expected confusion matrix of unlabelled
events, and every metric of it, follows from their scores alone, as long as the calibration of the reference
still holds. It cannot see a change of what the scores mean: `calibration` watches for that once labels come.

All is computed from histograms, which merge. On scores that fall into bins of their own the result is that of
one look at each event.

Reference: Kivimaki et al. (2025), Performance estimation in binary classification using calibrated
confidence; NannyML's documentation of CBPE.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detectors.sequential import Floats

Z = 1.96
"""Half width of the intervals in standard errors: 95 %."""
UNSUPPORTED = 0.05
"""Share of events with scores unlike the reference's from which on an estimate is not to be trusted."""


@dataclass(frozen=True, slots=True)
class Estimated:
    """An estimate, and where the metric of as many labelled events would lie 95 times in 100.

    The interval is asymptotic and knows the sampling of the events and of the reference, not a change of what
    the scores mean.
    """

    value: float
    low: float
    high: float


def isotonic(negative: ArrayLike, positive: ArrayLike, middles: ArrayLike) -> Floats:
    """Share of positives by score bin, never falling: the calibrator of a labelled score histogram.

    Neighbouring bins that fall are pooled until none does (pool adjacent violators); bins without a label are
    interpolated between their neighbours' middles. Without any label every bin is NaN.

    >>> isotonic([9, 5, 0, 6, 1], [1, 5, 0, 4, 9], [0.1, 0.3, 0.5, 0.7, 0.9]).round(2).tolist()
    [0.1, 0.45, 0.45, 0.45, 0.9]
    """
    good = np.asarray(positive, dtype=np.float64)
    total = good + np.asarray(negative, dtype=np.float64)
    held = np.flatnonzero(total)
    if held.size == 0:
        return np.full(total.size, np.nan)
    blocks: list[tuple[float, float, int]] = []  # positives, events, bins
    for hits, events in zip(good[held].tolist(), total[held].tolist(), strict=True):
        block = (hits, events, 1)
        while blocks and blocks[-1][0] * block[1] >= block[0] * blocks[-1][1]:
            before = blocks.pop()
            block = (block[0] + before[0], block[1] + before[1], block[2] + before[2])
        blocks.append(block)
    shares = np.concatenate([np.full(bins, hits / events) for hits, events, bins in blocks])
    where = np.asarray(middles, dtype=np.float64)
    return np.asarray(np.interp(where, where[held], shares), dtype=np.float64)


def expected_confusion(rest: ArrayLike, chosen: ArrayLike, calibrator: Floats) -> Floats:
    """Expected confusion matrix (row: truth, column: prediction) of a binary model.

    `rest` and `chosen` are the score histograms of those predicted negative and positive.
    """
    columns = [np.asarray(counts, dtype=np.float64) for counts in (rest, chosen)]
    return np.array([[c @ (1.0 - calibrator) for c in columns], [c @ calibrator for c in columns]])


def confusion_estimates(matrix: Floats, reference_events: float) -> dict[str, Estimated]:
    """Metrics of an expected confusion matrix, with their intervals.

    Per predicted class the truth is multinomial, so that the variance of a metric f with derivatives d is
    sum_j n_j (sum_k p_kj d_kj^2 - (sum_k p_kj d_kj)^2), enlarged by 1 + n / reference_events for the
    calibrator's own sampling.
    """
    measures = _BINARY if len(matrix) == 2 else _MACRO
    found = {}
    for name, measure in measures.items():
        value = measure(matrix)
        if np.isfinite(value):
            found[name] = _between(value, _variance(matrix, measure), float(matrix.sum()), reference_events)
    return found


def auc_estimate(negatives: Floats, positives: Floats, reference_events: float) -> Estimated | None:
    """Area under the ROC curve of expected negatives and positives by score bin; None without both.

    The interval is DeLong's (1988), from the placements of each class among the other.
    """
    n, p = float(negatives.sum()), float(positives.sum())
    if n <= 0.0 or p <= 0.0:
        return None
    below = (np.cumsum(negatives) - 0.5 * negatives) / n
    above = (p - np.cumsum(positives) + 0.5 * positives) / p
    value = float(positives @ below) / p
    variance = float(positives @ (below - value) ** 2) / p**2 + float(negatives @ (above - value) ** 2) / n**2
    return _between(value, variance, n + p, reference_events)


def macro(parts: list[Estimated]) -> Estimated:
    """Mean of the classes' estimates; they come from the same events, so their errors are added up."""
    value = float(np.mean([part.value for part in parts]))
    half = float(np.mean([max(part.high - part.value, part.value - part.low) for part in parts]))
    return Estimated(value, max(0.0, value - half), min(1.0, value + half))


def unsupported(counts: ArrayLike, reference: ArrayLike) -> float:
    """Share of events in score bins that the reference has not, beyond what chance leaves out.

    Chance leaves out about (bins seen once) / n of the mass (Good and Turing).
    """
    seen, known = np.asarray(counts, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if seen.sum() <= 0.0 or known.sum() <= 0.0:
        return 0.0
    share = float(seen[known == 0].sum() / seen.sum())
    return max(0.0, share - float((known == 1).sum() / known.sum()))


def _between(value: float, variance: float, events: float, reference_events: float) -> Estimated:
    half = Z * float(np.sqrt(variance * (1.0 + events / max(1.0, reference_events))))
    return Estimated(value, max(0.0, value - half), min(1.0, value + half))


def _variance(matrix: Floats, measure: Callable[[Floats], float]) -> float:
    size = matrix.sum(axis=0)
    p = matrix / np.maximum(size, 1e-300)
    d = np.zeros_like(matrix)
    for cell in np.ndindex(*matrix.shape):
        step = 1e-4 * max(1.0, float(matrix.sum()))
        up = matrix.copy()
        up[cell] += step
        d[cell] = (measure(up) - measure(matrix)) / step
    return float((size * ((p * d**2).sum(axis=0) - (p * d).sum(axis=0) ** 2)).sum())


def _share(part: float | Floats, whole: float | Floats) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(part, dtype=np.float64) / whole


def _accuracy(m: Floats) -> float:
    return float(_share(np.trace(m), m.sum()))


def _mean_f1(m: Floats) -> float:
    return float(_share(2.0 * np.diag(m), m.sum(axis=0) + m.sum(axis=1)).mean())


_BINARY: Mapping[str, Callable[[Floats], float]] = {
    "accuracy": _accuracy,
    "precision": lambda m: float(_share(m[1, 1], m[:, 1].sum())),
    "recall": lambda m: float(_share(m[1, 1], m[1].sum())),
    "f1": lambda m: float(_share(2.0 * m[1, 1], m[1].sum() + m[:, 1].sum())),
    "false_positive_rate": lambda m: float(_share(m[0, 1], m[0].sum())),
    "specificity": lambda m: float(_share(m[0, 0], m[0].sum())),
}
_MACRO: Mapping[str, Callable[[Floats], float]] = {
    "accuracy": _accuracy,
    "precision_macro": lambda m: float(_share(np.diag(m), m.sum(axis=0)).mean()),
    "recall_macro": lambda m: float(_share(np.diag(m), m.sum(axis=1)).mean()),
    "f1_macro": _mean_f1,
}
