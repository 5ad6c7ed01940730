"""Which of many monitors stand out together: the list of suspects beside an incident.

Each monitor pages at its own share of the budget; when dozens stir at once, that is too strict a bar for
"where to look". The e-detector form of Benjamini and Hochberg lowers it with their number.
"""

import math
from collections.abc import Mapping


def suspects(evidence: Mapping[str, float], looks: float) -> list[str]:
    """Monitors that stand out, the strongest first, given id -> log of the Shiryaev-Roberts statistic M.

    With K monitors and their M sorted downwards, those up to the largest k with M_(k) >= K looks / k are
    named. Whatever ties them together, the expected share of wrongly named ones at any stopping time tau is
    at most E[tau] / looks: after `looks` steps of peace, one list may be wrong.

    Parameters: `evidence`, natural logs. `looks`, steps of patience; more names fewer.

    >>> suspects({"age": 14.0, "income": 9.4, "zip": 1.0, "region": 0.2}, looks=8640)
    ['age']
    >>> suspects({"age": 14.0, "income": 10.0, "zip": 9.8, "region": 0.2}, looks=8640)
    ['age', 'income', 'zip']

    References: Dandapanthula and Ramdas (2025), Multiple testing in multi-stream sequential change detection;
    Wang and Ramdas (2022), False discovery rate control with e-values.
    """
    if not looks > 0.0:
        raise ValueError(f"looks must be positive, not {looks}")
    ordered = sorted(evidence, key=lambda name: (-evidence[name], name))
    bar = math.log(len(ordered) * looks) if ordered else 0.0
    named = [k for k, name in enumerate(ordered, 1) if evidence[name] >= bar - math.log(k)]
    return ordered[: max(named, default=0)]
