"""Data for the example configs, each with an incident at a known time that `plumbline backtest` finds.

python -m deploy.examples.incidents wake-word FOLDER
plumbline backtest -c deploy/examples/wake-word.yaml -i FOLDER/predictions.jsonl FOLDER/feedback.jsonl
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
Event = dict[str, Any]


class Incident(NamedTuple):
    """A stream of (prediction, feedback), and since when something is wrong with it."""

    begins: datetime
    events: Iterator[tuple[Event, Event]]


def _times(days: int, per_day: int) -> Iterator[tuple[float, datetime]]:
    """(day as a real number, time) of evenly spaced events."""
    for i in range(days * per_day):
        yield i / per_day, BEGIN + timedelta(days=i / per_day)


def wake_word() -> Incident:
    """From day 7 on a firmware lets the kitchen speaker be woken by its own music: false accepts of 4 %."""
    rng = np.random.default_rng(11)

    def events() -> Iterator[tuple[Event, Event]]:
        for i, (day, at) in enumerate(_times(12, 1200)):
            device = ("kitchen", "phone", "car")[i % 3]
            spoken = rng.random() < 0.3
            deaf = device == "kitchen" and day >= 7
            accepted = rng.random() > 0.02 if spoken else rng.random() < (0.12 if deaf else 0.004)
            prediction = {
                "prediction_id": f"w{i}",
                "timestamp": at.isoformat(),
                "model_name": "wake-word",
                "prediction": "accept" if accepted else "reject",
                "tags": {"device": device},
                "latency_seconds": round(float(rng.gamma(4.0, 0.02)), 4),
            }
            yield prediction, {"label": "accept" if spoken else "reject", "after": 3600}

    return Incident(BEGIN + timedelta(days=7), events())


def fraud() -> Incident:
    """From day 10 on a gang pays small amounts from one country, unknown to the model: recall falls."""
    rng = np.random.default_rng(12)

    def events() -> Iterator[tuple[Event, Event]]:
        for i, (day, at) in enumerate(_times(16, 1000)):
            bad = rng.random() < 0.08
            gang = bad and day >= 10 and rng.random() < 0.7
            country = "NL" if gang or rng.random() < 0.3 else "DE"
            amount = float(rng.lognormal(2.0 if gang or not bad else 4.0, 0.6))
            score = float(rng.beta(2, 6) if gang or not bad else rng.beta(7, 2))
            prediction = {
                "prediction_id": f"f{i}",
                "timestamp": at.isoformat(),
                "model_name": "fraud",
                "prediction_score": round(score, 4),
                "features": {"amount": round(amount, 2), "country": country},
                "cost": 0.0004,
            }
            yield prediction, {"label": int(bad), "after": 24 * 3600}

    return Incident(BEGIN + timedelta(days=10), events())


INCIDENTS: dict[str, Callable[[], Incident]] = {"wake-word": wake_word, "fraud": fraud}


def write(name: str, folder: Path) -> datetime:
    """Write predictions.jsonl and feedback.jsonl, each in the order of its times; return when it begins."""
    incident = INCIDENTS[name]()
    later = []
    with (folder / "predictions.jsonl").open("w") as predictions:
        for prediction, said in incident.events:
            print(json.dumps(prediction), file=predictions)
            after = timedelta(seconds=said.pop("after"))
            at = (datetime.fromisoformat(prediction["timestamp"]) + after).isoformat()
            later.append({"prediction_id": prediction["prediction_id"], "timestamp": at, **said})
    later.sort(key=lambda event: str(event["timestamp"]))
    with (folder / "feedback.jsonl").open("w") as feedback:
        feedback.writelines(json.dumps(event) + "\n" for event in later)
    return incident.begins


if __name__ == "__main__":
    target = Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"{sys.argv[1]}: wrong from {write(sys.argv[1], target).isoformat()} on\n")
