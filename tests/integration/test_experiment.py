"""Cookie Cats, a published A/B test, through `plumbline backtest` with the shipped config."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
import yaml

from tests.compas import ROOT, data_or_skip
from tests.integration.test_backtest import Json, backtest

FILE = ROOT.parent / "shared" / "data" / "cookie_cats" / "cookie_cats.csv.gz"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Json:
    """The report on all 90,189 players."""
    folder = tmp_path_factory.mktemp("cookie-cats")
    players = folder / "cookie_cats.csv"
    data_or_skip(FILE)
    players.write_bytes(gzip.decompress(FILE.read_bytes()))
    config = yaml.safe_load((ROOT / "deploy/examples/experiment.yaml").read_text())
    config["state"] = {"dir": str(folder / "state")}
    found: Any = backtest(folder, config, [players])["models"]["cookie-cats"]
    return dict(found)


def test_day_one_retention_is_the_published_one_exactly(report: Json) -> None:
    """gate_30 keeps .448188 of 44,700 players for a day, gate_40 .442283 of 45,489."""
    groups = report["segments"]["variant"]
    for arm, n, retention in (("gate_30", 44_700, 0.448188), ("gate_40", 45_489, 0.442283)):
        found = groups[arm]["metrics"]["prevalence"]
        assert found["n"] == groups[arm]["n"] == n
        assert round(found["value"], 6) == retention


def test_the_interval_covers_the_published_difference_and_is_narrow(report: Json) -> None:
    """The always-valid interval has -0.0059 inside, is at most 0.03 wide, and says what follows from it."""
    (experiment,) = report["experiments"]
    (lift,) = experiment["lifts"]
    assert lift["variant"] == "gate_40"
    assert lift["difference"] == pytest.approx(-0.0059, abs=5e-5)
    assert lift["low"] <= -0.0059 <= lift["high"]
    assert lift["high"] - lift["low"] <= 0.03
    assert lift["verdict"] == "equivalent"
    assert lift["method"] == "asymptotic"


def test_the_sharing_of_the_players_is_checked(report: Json) -> None:
    """44,700 to 45,489 of an even split: at one look p = .009, but looked at for ever it is no mismatch."""
    (experiment,) = report["experiments"]
    assert experiment["counts"] == {"gate_30": 44_700, "gate_40": 45_489}
    assert experiment["mismatched"] is False
