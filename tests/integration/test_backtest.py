"""`plumbline backtest`: the report's contract, and published figures of a benchmark set recomputed by it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.compas import ROOT, data_or_skip

CAR_LOAN = ROOT.parent / "shared" / "data" / "nannyml_car_loan"
PUBLISHED = CAR_LOAN / "published_realized_analysis.csv"
DAY = datetime(2026, 1, 1, tzinfo=UTC)

Json = dict[str, Any]


def backtest(folder: Path, config: Json, inputs: list[Path], *more: str) -> Json:
    """The report of a real `plumbline backtest` process."""
    file, out = folder / "config.yaml", folder / "report.json"
    file.write_text(yaml.safe_dump(config))
    given = [part for path in inputs for part in ("--input", str(path))]
    command = [sys.executable, "-m", "agent", "backtest", "-c", str(file), *given, "--json", str(out), *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    report: Json = json.loads(out.read_text(), parse_constant=_no_constant)
    return report


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Json:
    """Six days of a model that is unfair to one group from the third day on, its labels an hour later."""
    folder = tmp_path_factory.mktemp("backtest")
    predictions, labels = folder / "predictions.jsonl", folder / "labels.jsonl"
    with predictions.open("w") as p, labels.open("w") as f:
        for i in range(6 * 24 * 40):
            at, group, label = DAY + timedelta(minutes=1.5 * i), "ab"[i % 2], i % 3 == 0
            unfair = group == "b" and i > 2 * 24 * 40 and i % 5 < 3
            event = {
                "prediction_id": str(i),
                "timestamp": at.isoformat(),
                "model_name": "m",
                "model_version": "1",
                "prediction": str(int(label or unfair or i % 7 == 0)),
                "tags": {"group": group},
            }
            print(json.dumps(event), file=p)
            later = (at + timedelta(hours=1)).isoformat()
            print(json.dumps({"prediction_id": str(i), "timestamp": later, "label": int(label)}), file=f)
        print("not json", file=p)
    config = {
        "sources": [
            {"topics": [str(predictions)], "kind": "prediction"},
            {"topics": [str(labels)], "kind": "feedback"},
        ],
        "models": {
            "m": {
                "segments": ["group"],
                "step": "1h",
                "label_maturity": "1d",
                "performance": {
                    "relative_drop": 0.5
                },  # accuracy suffers too, but here fairness is to be seen
            }
        },
        "state": {"dir": str(folder / "state")},
    }
    report = backtest(folder, config, [predictions, labels])
    assert not (folder / "state").exists()
    return report


def test_the_report_has_exactly_the_keys_of_its_contract(story: Json) -> None:
    """Every level of the document has the keys that tools were promised: none more, none less."""
    assert story.keys() == {"models", "rejected", "seconds"}
    model = story["models"]["m"]
    assert model.keys() == {
        *("predictions", "feedback", "joined"),
        *("metrics", "segments", "windows", "alarms", "triggers", "experiments", "version_changes"),
    }
    for value in model["metrics"].values():
        assert value.keys() == {"value", "n", "low", "high"}
    assert model["segments"].keys() == {"group"}
    assert model["segments"]["group"].keys() == {"a", "b"}
    for group in model["segments"]["group"].values():
        assert group.keys() == {"n", "metrics"}
        assert all(value.keys() == {"value", "n"} for value in group["metrics"].values())
    for window in model["windows"]:
        assert window.keys() == {"window", "start", "end", "n", "metrics", "drift"}
        assert all(drift.keys() == {"psi", "kl", "js"} for drift in window["drift"].values())
    for alarm in model["alarms"]:
        assert alarm.keys() == {"time", "detector", "feature", "segment", "severity", "evidence"}
        assert alarm["severity"] in {"page", "ticket"}
    for trigger in model["triggers"]:
        assert {"specversion", "id", "source", "type", "time", "data"} <= trigger.keys()


def test_the_report_counts_what_was_in_the_files(story: Json) -> None:
    """Predictions, feedback, joined, groups and rejected records are the files' own numbers."""
    model, n = story["models"]["m"], 6 * 24 * 40
    assert (model["predictions"], model["feedback"], model["joined"]) == (n, n, n)
    assert {g: held["n"] for g, held in model["segments"]["group"].items()} == {"a": n // 2, "b": n // 2}
    assert story["rejected"] == {"malformed_json": 1}
    assert story["seconds"] > 0
    hours = [w for w in model["windows"] if w["window"] == "1h"]
    assert [w["n"] for w in hours] == [40] * (6 * 24)
    assert datetime.fromisoformat(hours[0]["start"]) == DAY
    assert datetime.fromisoformat(hours[1]["start"]) == datetime.fromisoformat(hours[0]["end"])


def test_the_report_tells_the_alarm_and_the_request(story: Json) -> None:
    """The unfair days page for the group, after they began, and ask for retraining."""
    model = story["models"]["m"]
    pages = [a for a in model["alarms"] if a["severity"] == "page"]
    assert pages
    assert {a["detector"] for a in pages} == {"group_ratio"}
    assert {a["segment"] for a in pages} <= {"group=a", "group=b"}
    assert all(datetime.fromisoformat(a["time"]) > DAY + timedelta(days=2) for a in pages)
    assert model["triggers"][0]["data"]["reason"] == "constraint_broken"


@pytest.fixture(scope="module")
def car_loan(tmp_path_factory: pytest.TempPathFactory) -> Json:
    """NannyML's car loan set in chunks of 5,000 rows: predictions and labels stand in the same rows."""
    monitoring = CAR_LOAN / "monitoring.parquet"
    data_or_skip(monitoring)
    folder = tmp_path_factory.mktemp("car-loan")
    config = {
        "sources": [
            {
                "topics": [str(monitoring)],
                "kind": "labelled",
                "preset": "flat",
                "fields": {
                    "prediction_id": "kafka.offset",
                    "model_name": "=car-loan",
                    "prediction": "value.y_pred",
                    "prediction_score": "value.y_pred_proba",
                    "label": "value.repaid",
                },
            }
        ],
        "models": {"car-loan": {"classes": [0, 1], "features": {"car_value": "numeric"}}},
        "state": {"dir": str(folder / "state")},
    }
    return backtest(folder, config, [monitoring], "--window", "rows:5000")


def published() -> list[dict[str, float]]:
    """The figures of each chunk."""
    with PUBLISHED.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = {"accuracy": "accuracy", "f1": "f1", "precision": "precision", "recall": "recall"}
    names |= {"specificity": "specificity", "roc_auc": "roc_auc"}
    return [{ours: float(row[f"{theirs}__value"]) for ours, theirs in names.items()} for row in rows]


def test_realised_performance_is_the_published_one(car_loan: Json) -> None:
    """Per chunk, accuracy, F1, precision, recall and specificity to 1e-6; AUC, from a histogram, to 0.002."""
    windows = [w for w in car_loan["models"]["car-loan"]["windows"] if w["window"] == "rows:5000"]
    assert [w["n"] for w in windows] == [5000] * 10
    for window, wanted in zip(windows, published(), strict=True):
        found = {name: window["metrics"][name]["value"] for name in wanted}
        area, exact = found.pop("roc_auc"), wanted.pop("roc_auc")
        assert found == pytest.approx(wanted, abs=1e-6)
        assert area == pytest.approx(exact, abs=0.002)


def test_windows_by_rows_keep_their_real_times(car_loan: Json) -> None:
    """A chunk begins and ends where the published one does."""
    with PUBLISHED.open(newline="") as file:
        wanted = [(row["start_date"], row["end_date"]) for row in csv.DictReader(file)]
    windows = car_loan["models"]["car-loan"]["windows"]
    for window, (start, end) in zip(windows, wanted, strict=True):
        assert datetime.fromisoformat(window["start"]) == _utc(start)
        assert abs(datetime.fromisoformat(window["end"]) - _utc(end)) <= timedelta(milliseconds=1)


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
