"""Each example config on data with a planted incident: nothing pages before it, and what it is about does."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agent.backtest import backtest
from agent.config import load
from agent.respond.report import to_json
from deploy.examples.incidents import INCIDENTS, write

EXAMPLES = Path(__file__).parent.parent.parent / "deploy" / "examples"


class Found(NamedTuple):
    """What is to be found of an incident."""

    detector: str
    metric: str | None
    within: timedelta


EXPECTED = {
    "wake-word": Found("red_line", "false_positive_rate", timedelta(days=1)),
    "fraud": Found("rate_drop", "recall", timedelta(days=3)),
}


def ran(name: str, folder: Path) -> tuple[datetime, dict[str, Any]]:
    """When the incident begins, and the report on the model."""
    begins = write(name, folder)
    config = load(EXAMPLES / f"{name}.yaml", {})
    inputs = [folder / "predictions.jsonl", folder / "feedback.jsonl"]
    report = backtest(config, inputs, window_rows=None, progress=lambda share: None, now=lambda: 0.0)
    model: dict[str, Any] = to_json(report)["models"][name]
    assert not report.rejected
    assert model["predictions"] == model["joined"] > 5000
    return begins, model


def test_every_example_with_data_is_expected_here() -> None:
    """A generator has its config and its line in the table above."""
    assert set(INCIDENTS) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_planted_incident_is_found_and_nothing_before_it(name: str, tmp_path: Path) -> None:
    """No page before the incident begins; the expected alarm within the expected time after it."""
    begins, model = ran(name, tmp_path)
    wanted = EXPECTED[name]
    at = {i: datetime.fromisoformat(alarm["time"]) for i, alarm in enumerate(model["alarms"])}
    pages = [i for i, alarm in enumerate(model["alarms"]) if alarm["severity"] == "page"]
    assert min(at[i] for i in pages) >= begins
    (first, *_) = [
        i
        for i in sorted(at, key=lambda i: at[i])
        if model["alarms"][i]["detector"] == wanted.detector
        and model["alarms"][i]["evidence"]["metric"] == wanted.metric
    ]
    assert begins <= at[first] <= begins + wanted.within


def test_both_red_lines_of_the_wake_word_hold_until_the_incident(tmp_path: Path) -> None:
    """False accepts stay under 1 % up to the incident and not after it; false rejects always under 5 %."""
    begins, model = ran("wake-word", tmp_path)
    days = [w for w in model["windows"] if w["window"] == "24h"]
    for day in days:
        after = datetime.fromisoformat(day["start"]) >= begins
        assert (day["metrics"]["false_positive_rate"]["value"] > 0.01) == after
        assert day["metrics"]["false_negative_rate"]["value"] < 0.05
