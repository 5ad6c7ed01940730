"""The budget's arithmetic."""

import math

import pytest

from detectors import budget


def test_thresholds_keep_the_budget_exactly() -> None:
    """Over all monitors, steps per period over c sums to the pages promised."""
    weights = budget.split({f"m{k}": ("drift", "silence", "fairness")[k % 3] for k in range(10)})
    promised = sum(2016 / math.exp(budget.log_threshold(0.1, 2016, w)) for w in weights.values())
    assert promised == pytest.approx(0.1)


def test_weights_sum_to_one_and_are_equal_within_a_family() -> None:
    """Families present share the whole budget; those absent take nothing with them."""
    weights = budget.split({"a": "drift", "b": "drift", "c": "performance"})
    assert sum(weights.values()) == pytest.approx(1.0)
    assert weights["a"] == weights["b"] < weights["c"]
    assert budget.split({}) == {}


def test_a_threshold_never_falls() -> None:
    """When monitors leave or the budget is raised, a living monitor keeps the threshold it has."""
    first = budget.log_threshold(0.1, 2016, 0.1)
    assert budget.log_threshold(0.1, 2016, 0.5, previous=first) == first
    assert budget.log_threshold(0.1, 2016, 0.05, previous=first) > first


def test_a_generous_budget_still_needs_evidence() -> None:
    """However many pages are allowed, the threshold stays above no evidence."""
    assert budget.log_threshold(1e9, 2016, 1.0) > 0.0


@pytest.mark.parametrize(("pages", "steps", "weight"), [(0, 1, 0.5), (1, 0, 0.5), (1, 1, 0.0), (1, 1, 1.5)])
def test_nonsense_is_refused(pages: float, steps: float, weight: float) -> None:
    """No pages, no steps or no weight is a mistake of the caller."""
    with pytest.raises(ValueError, match="positive"):
        budget.log_threshold(pages, steps, weight)
