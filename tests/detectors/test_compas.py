"""COMPAS: the shipped fairness detector on the case everybody knows."""

import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors import GroupRatio

DATA = Path(__file__).parents[3] / "shared" / "data" / "compas" / "compas-scores-two-years.csv"
pytestmark = pytest.mark.skipif(
    os.environ.get("CI") != "true" and not DATA.exists(), reason=f"needs ProPublica's COMPAS data at {DATA}"
)


def false_positive_blocks(group: str, reference: str, size: int = 50) -> list[NDArray[np.int64]]:
    """Counts per block of records that did not reoffend, of two groups, by screening date."""
    with DATA.open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: (row["compas_screening_date"], int(row["id"])))
    records = [
        2 * (row["race"] != group) + (row["score_text"] == "Low")
        for row in rows
        if row["race"] in {group, reference} and row["two_year_recid"] == "0"
    ]
    return [np.bincount(records[i : i + size], minlength=4) for i in range(0, len(records), size)]


def test_african_american_false_positives_are_called_within_a_thousand_records() -> None:
    """At tolerance 1.25 and c = 1e4 the alarm comes within 1,000 label-0 records and says about twofold."""
    blocks = false_positive_blocks("African-American", "Caucasian")
    assert np.sum(blocks, axis=0).tolist() == [805, 990, 349, 1139]  # ProPublica's table
    detector = GroupRatio(tolerance=1.25, log_threshold=math.log(1e4))
    for counts in blocks[: 1000 // 50]:
        detector.update(counts)
        if detector.fired:
            break
    assert detector.fired
    evidence = detector.evidence
    assert evidence.value == pytest.approx(1.9, abs=0.3)
    assert evidence.low is not None
    assert evidence.low > 1.0


def test_hispanic_false_positives_are_never_called() -> None:
    """.216 against .235 lies within the tolerance: no alarm in the whole history."""
    detector = GroupRatio(tolerance=1.25, log_threshold=math.log(1e4))
    for counts in false_positive_blocks("Hispanic", "Caucasian"):
        detector.update(counts)
        assert not detector.fired
