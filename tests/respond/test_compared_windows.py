from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from agent.config import Config, ModelConfig
from agent.events import Partition
from agent.measure.baseline import Baseline
from tests.measure.events import FEEDBACK, HOUR, PREDICTIONS, T0, Event, config_of, decoded, prediction
from tests.measure.running import running

COLOURS = ["red", "green", "blue"]
USUAL, OF_TODAY = (0.6, 0.3, 0.1), (0.2, 0.3, 0.5)
PER_HOUR = 240


def weights(hour: int) -> tuple[float, ...]:
    """The noon of every day has today's colours; of all other hours only the last has them not."""
    return OF_TODAY if hour % 24 == 12 else USUAL


def events(hours: range) -> list[Event]:
    random_ = random.Random(5)
    made = []
    for hour in hours:
        for i, colour in enumerate(random_.choices(COLOURS, weights(hour), k=PER_HOUR)):
            at = T0 + hour * HOUR + i * HOUR // PER_HOUR
            made.append(prediction(f"{hour}-{i}", at, prediction_score=0.2, features={"colour": colour}))
    return made


def recounted(one: list[Event], other: list[Event]) -> float:
    """The index by its formula, half an event added to each bin, less its mean where nothing changed."""
    p, q = (
        np.array([sum(e["features"]["colour"] == c for e in side) for c in COLOURS], dtype=float)
        for side in (one, other)
    )
    share_p, share_q = (p + 0.5) / (p.sum() + 1.5), (q + 0.5) / (q.sum() + 1.5)
    index = float(((share_p - share_q) * np.log(share_p / share_q)).sum())
    return max(0.0, index - 2 * float(1 / p.sum() + 1 / q.sum()))


def model_with_baseline(folder: Path, *windows: str) -> Config:
    """The usual colours are the baseline's: without one a feature has no bins."""
    plain = ModelConfig.model_validate({"features": {"colour": "categorical"}, "windows": windows})
    config = config_of(m=plain)
    baseline = Baseline.learn("m", plain, [decoded(config, PREDICTIONS, events(range(4)))])
    baseline.save(folder / "baseline.json")
    return config_of(m=plain.model_copy(update={"baseline": folder / "baseline.json"}))


def test_an_hour_is_compared_with_the_one_before_and_with_that_of_a_week_ago(tmp_path: Path) -> None:
    """At noon the colours changed since the hour before and did not since last week's noon."""
    log = events(range(8 * 24 + 13))
    logs: dict[Partition, list[Event | bytes]] = {PREDICTIONS: [*log], FEEDBACK: []}
    with running(logs, model_with_baseline(tmp_path, "1h")) as run:
        (version,) = run.finish().view(0.0).models["m"].versions.values()
    drift = version.windows["1h"].drift["colour"]
    noon = 8 * 24 + 12
    now, before, last_week = (
        [e for e in log if T0 + hour * HOUR <= e["timestamp"] < T0 + (hour + 1) * HOUR]
        for hour in (noon, noon - 1, noon - 7 * 24)
    )
    assert drift.psi_before is not None
    assert drift.psi_last_week is not None
    assert drift.psi_before > 0.5
    assert drift.psi_last_week < 0.05
    assert drift.psi_before == pytest.approx(recounted(now, before), rel=0.05)
    assert drift.psi_last_week == pytest.approx(recounted(now, last_week), abs=0.02)


def test_what_has_no_past_is_compared_with_nothing(tmp_path: Path) -> None:
    """On the first day no window has one before it, nor one of last week."""
    logs: dict[Partition, list[Event | bytes]] = {PREDICTIONS: [*events(range(8))], FEEDBACK: []}
    with running(logs, model_with_baseline(tmp_path, "24h")) as run:
        (version,) = run.finish().view(0.0).models["m"].versions.values()
    drift = version.windows["24h"].drift["colour"]
    assert (drift.psi_before, drift.psi_last_week) == (None, None)
