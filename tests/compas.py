"""COMPAS as a stream: predictions by screening date, labels two years later, with the dirt of real topics."""

from __future__ import annotations

import csv
import json
import os
import random
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILE = ROOT.parent / "shared" / "data" / "compas" / "compas-scores-two-years.csv"
CONFIG = ROOT / "deploy" / "examples" / "compas.yaml"

PUBLISHED = {
    "": {"true_negatives": 2681, "false_positives": 1282, "false_negatives": 1216, "true_positives": 2035},
    "race=African-American": {
        "true_negatives": 990,
        "false_positives": 805,
        "false_negatives": 532,
        "true_positives": 1369,
    },
    "race=Caucasian": {
        "true_negatives": 1139,
        "false_positives": 349,
        "false_negatives": 461,
        "true_positives": 505,
    },
}
"""ProPublica's table (notebook of Larson, Mattu, Kirchner and Angwin, 2016)."""

RATES = {
    "race=African-American": {"false_positive_rate": 0.4485, "false_negative_rate": 0.2799},
    "race=Caucasian": {"false_positive_rate": 0.2345, "false_negative_rate": 0.4772},
}


@dataclass(frozen=True)
class Topic:
    """Keyed records, and what of them is dirt."""

    records: list[tuple[bytes, bytes]]
    broken: frozenset[bytes]
    """Values of the malformed ones."""
    malformed: int
    duplicates: int


def compas_or_skip() -> None:
    """Skip where the data are absent, which in CI is a failure."""
    data_or_skip(FILE)


def data_or_skip(file: Path) -> None:
    """Skip where a file of the real data is absent, which in CI is a failure."""
    if file.exists():
        return
    reason = f"the published data are not here: {file}"
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(f"CI needs real data: {reason}", pytrace=False)
    pytest.skip(reason)


def streams(seed: int, *, duplicates: float = 0.05, malformed: float = 0.01) -> tuple[Topic, Topic]:
    """(predictions, feedback), each record displaced by up to a day."""
    random_ = random.Random(seed)
    with FILE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    predictions, feedback = [], []
    for row in rows:
        at = datetime.fromisoformat(row["compas_screening_date"]).replace(tzinfo=UTC) + timedelta(
            seconds=random_.randrange(86400)
        )
        later = at + timedelta(days=730)
        prediction = {
            "prediction_id": row["id"],
            "timestamp": at.isoformat(),
            "model_name": "compas",
            "model_version": "1",
            "prediction": "1" if row["score_text"] in ("Medium", "High") else "0",
            "prediction_score": int(row["decile_score"]) / 10,
            "tags": {"race": row["race"], "sex": row["sex"], "age_cat": row["age_cat"]},
            "features": {"age": int(row["age"]), "priors_count": int(row["priors_count"])},
        }
        label = {"prediction_id": row["id"], "timestamp": later.isoformat(), "label": row["two_year_recid"]}
        predictions.append((at.timestamp(), row["id"].encode(), json.dumps(prediction).encode()))
        feedback.append((later.timestamp(), row["id"].encode(), json.dumps(label).encode()))
    return _dirty(random_, predictions, duplicates, malformed), _dirty(
        random_, feedback, duplicates, malformed
    )


_BROKEN = [b"", b"not json", b'{"prediction_id": "x"}', b"\xff\xfe", b"[1, 2]"]


def _dirty(
    random_: random.Random, records: list[tuple[float, bytes, bytes]], duplicates: float, malformed: float
) -> Topic:
    again = random_.sample(records, int(len(records) * duplicates))
    broken = [
        (
            at,
            key,
            random_.choice([value[:-1], b"", b"not json", b'{"prediction_id": "x"}', b"\xff\xfe", b"[1, 2]"]),
        )
        for at, key, value in random_.sample(records, int(len(records) * malformed))
    ]
    mixed = [(at + random_.uniform(0, 86400), key, value) for at, key, value in [*records, *again, *broken]]
    ordered = [(key, value) for _, key, value in sorted(mixed)]
    return Topic(ordered, frozenset(value for _, _, value in broken), len(broken), len(again))


def with_carriers(
    predictions: Topic, feedback: Topic, *, partitions: int
) -> list[tuple[str, int, bytes, bytes]]:
    """Both topics in one order of event time, as (topic, partition, key, value).

    Where labels come, two years later, the model still predicts: one unlabelled carrier per partition and day
    keeps the prediction clock going, so that hours mature while the labels flow and not all at the end.
    """
    merged: list[tuple[float, str, int, bytes, bytes]] = []
    for name, topic in (("predictions", predictions), ("labels", feedback)):
        at = 0.0
        for key, value in topic.records:
            at = max(at, _time(value))
            merged.append((at, name, zlib.crc32(key) % partitions, key, value))
    first, last = (f(at for at, name, *_ in merged if name == "labels" and at) for f in (min, max))
    for day in range(int((last - first) // 86400) + 4):
        for partition in range(partitions):
            at = first + day * 86400
            id_ = f"carrier-{day}-{partition}"
            carrier = {
                "prediction_id": id_,
                "timestamp": datetime.fromtimestamp(at, UTC).isoformat(),
                "model_name": "compas",
                "model_version": "1",
                "prediction": "0",
                "prediction_score": 0.1,
            }
            merged.append((at, "predictions", partition, id_.encode(), json.dumps(carrier).encode()))
    return [row[1:] for row in sorted(merged, key=lambda row: row[0])]


def _time(value: bytes) -> float:
    try:
        return datetime.fromisoformat(json.loads(value)["timestamp"]).timestamp()
    except (ValueError, KeyError, TypeError):
        return 0.0
