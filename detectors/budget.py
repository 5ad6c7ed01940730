"""The false-page budget: "at most X false pages per model per period", kept over all its monitors.

A monitor with share w of the budget pages at c = T / (X w), with T its steps per period. It then pages
falsely at most T / c = X w times a period on average, and all together at most X times, whatever ties the
monitors to one another. Twice as many monitors cost each of them log 2 = 0.69 nats of evidence, and no page.

Reference: Dandapanthula and Ramdas (2025), Multiple testing in multi-stream sequential change detection.
"""

import math
from collections import Counter
from collections.abc import Mapping

FAMILY_SHARES: dict[str, float] = {"performance": 0.3, "silence": 0.3, "fairness": 0.3, "drift": 0.1}
"""What harms gets most; drift is diagnosis."""
LOWEST = math.log(2.0)
"""No budget is so generous that a monitor alarms without evidence."""


def split(monitors: Mapping[str, str], shares: Mapping[str, float] = FAMILY_SHARES) -> dict[str, float]:
    """Weights, summing to one, of monitors given as id -> family; equal within a family.

    A family may have parts, "fairness" and "fairness/intersection": these share it equally, so that hundreds
    of small groups do not make the few large ones blind.

    >>> split({"missing age": "silence", "missing income": "silence", "recall": "performance"})
    {'missing age': 0.25, 'missing income': 0.25, 'recall': 0.5}
    >>> split({"sex": "fairness", "both 1": "fairness/intersection", "both 2": "fairness/intersection"})
    {'sex': 0.5, 'both 1': 0.25, 'both 2': 0.25}
    """
    members = Counter(monitors.values())
    parts = Counter(part.partition("/")[0] for part in members)
    total = sum(shares[family] for family in sorted(parts))
    weight = {
        part: shares[family] / total / parts[family] / count
        for part, count in members.items()
        for family in [part.partition("/")[0]]
    }
    return {name: weight[part] for name, part in monitors.items()}


def log_threshold(
    false_pages: float, steps_per_period: float, weight: float, previous: float | None = None
) -> float:
    """Log c of a monitor with this weight; never below `previous`, the threshold it already lives under.

    >>> round(log_threshold(false_pages=0.02, steps_per_period=2016, weight=1 / 5000), 1)
    20.0
    """
    if not (false_pages > 0.0 and steps_per_period > 0.0 and 0.0 < weight <= 1.0):
        raise ValueError("false pages, steps and weight must be positive, and weight at most 1")
    log_c = max(LOWEST, math.log(steps_per_period / (false_pages * weight)))
    return log_c if previous is None else max(log_c, previous)
