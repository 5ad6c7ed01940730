"""The catalogue of metrics against what is computed, shown and documented; shards against the whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from agent.cli import app
from agent.config import Config
from agent.measure.catalogue import CATALOGUE, markdown, row_of
from agent.measure.window import window
from agent.respond.expose import render
from agent.respond.publish import metrics
from agent.runner import end_input
from tests.measure.events import FEEDBACK, PREDICTIONS, Event, config_of, folded
from tests.measure.running import Run
from tests.measure.test_metrics import (
    BINARY,
    MANY,
    binary_events,
    binary_stream,
    expected_binary,
    expected_many,
    many_events,
    many_stream,
)

ROOT = Path(__file__).parent.parent.parent
BINARY_STREAM, MANY_STREAM = binary_stream(1, 3000), many_stream(1, 3000)
TASKS: dict[str, tuple[Config, tuple[list[Event], list[Event]]]] = {
    "binary": (BINARY, binary_events(BINARY_STREAM)),
    "multiclass": (MANY, many_events(MANY_STREAM)),
}
for _events in TASKS.values():
    for _event in _events[1][0]:
        _event["latency_seconds"] = 0.25


def rows(task: str) -> set[str]:
    """Ids of the catalogue that a task has."""
    return {row.id for row in CATALOGUE.values() if task in row.tasks}


@pytest.mark.parametrize("task", TASKS)
def test_what_the_catalogue_says_is_computed_is_exactly_what_is_on_metrics(task: str, tmp_path: Path) -> None:
    """Each row of a task has its series with its definition as HELP, and no metric is shown without a row."""
    config, (predictions, feedback) = TASKS[task]
    pipeline = Run(config, {PREDICTIONS: [*predictions], FEEDBACK: [*feedback]}, tmp_path).finish()
    end_input(pipeline)
    view = pipeline.view(0.0)
    shown = {m for w in view.models["m"].versions["unknown"].windows.values() for m in w.metrics[""]}
    assert {metric.partition(":")[0] for metric in shown} == rows(task)
    text = render(view).decode()
    for metric in shown:
        row, of_class = row_of(metric), ":" in metric
        assert row is not None
        assert not of_class or row.per_class
        name = f"plumbline_class_{row.id}" if of_class else f"plumbline_{row.id}"
        assert f"\n{name}{{" in text
        assert f"# HELP {name} {row.definition}" in text


def test_every_row_has_an_oracle() -> None:
    """The rows are what scikit-learn or a hand computation is compared with in every window, and no more."""
    elsewhere = {"label_coverage", "mean_latency_seconds"}  # below
    for task, found in (
        ("binary", expected_binary(BINARY_STREAM)),
        ("multiclass", expected_many(MANY_STREAM)),
    ):
        assert {name.partition(":")[0] for name in found} | elsewhere == rows(task)


@pytest.mark.parametrize("task", TASKS)
def test_three_shards_sum_to_one(task: str) -> None:
    """The panes of three agents that share the partitions add up to those of one, cell by cell."""
    config, (predictions, feedback) = TASKS[task]

    def panes(share: int | None) -> dict[object, np.ndarray[tuple[int], np.dtype[np.int64]]]:
        mine = [i for i in range(len(predictions)) if share is None or i % 3 == share]
        models = folded(config, [predictions[i] for i in mine], [feedback[i] for i in mine])
        held = models.models["m"].panes
        return {key: vector for key in held.keys() if (vector := held.get(key)) is not None}  # noqa: SIM118

    whole, shards = panes(None), [panes(share) for share in range(3)]
    assert set(whole) == set().union(*shards)
    for key, vector in whole.items():
        total = np.zeros_like(vector)
        for shard in shards:
            if key in shard:
                total[: len(shard[key])] += shard[key]
        assert np.array_equal(total, vector)


def test_the_document_and_the_page_are_the_catalogue() -> None:
    """`plumbline schema metrics` prints every row, and docs/metrics.md is what `make metrics` writes."""
    printed = CliRunner().invoke(app, ["schema", "metrics"])
    assert printed.exit_code == 0
    metrics = {row["id"]: row for row in json.loads(printed.stdout)["metrics"]}
    assert set(metrics) == set(CATALOGUE)
    assert metrics["recall"]["pages"] is True
    assert metrics["brier"]["pages"] is False
    assert all(row["definition"].endswith(".") and row["fields"] for row in metrics.values())
    assert (ROOT / "docs/metrics.md").read_text() == markdown()


def test_latency_and_coverage_equal_the_events() -> None:
    """The two rows that scikit-learn does not know: the mean of the latencies, and labelled over answered."""
    rng = np.random.default_rng(3)
    config, (predictions, feedback) = config_of(m=BINARY.models["m"]), binary_events(BINARY_STREAM)
    latencies = rng.gamma(2.0, 0.1, len(predictions))
    timed = [{**e, "latency_seconds": float(s)} for e, s in zip(predictions, latencies, strict=True)]
    held = folded(config, timed, feedback[::3]).models["m"]
    found = metrics(held, window(held, "unknown", "lifetime", 0), "")
    assert found["mean_latency_seconds"].value == pytest.approx(latencies.mean(), abs=0.5e-6)
    assert found["label_coverage"].value == len(feedback[::3]) / len(predictions)
