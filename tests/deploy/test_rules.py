import os
import re
import shutil
import subprocess
import threading
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent import runner
from agent.demo import demo_config, learn_baseline
from agent.ingest.demo import DemoSource
from agent.reload import Reload
from agent.respond import families
from agent.respond.view import View
from deploy.prometheus.cases import CASES
from deploy.prometheus.generate import RULES, TESTS, main, outputs, rules
from deploy.prometheus.settings import Settings
from tests.kafka_node import _free_ports

ROOT = Path(__file__).parents[2]
RUNBOOKS = ROOT / "deploy" / "runbooks"
HEADINGS = ["What it means", "Is it real?", "First actions", "How to silence it", "When it resolves"]

ON_A_BROKER = {families.LAG.name}
"""What the demo has not: tests/integration/test_reload.py has a real agent expose it."""

promtool = pytest.mark.skipif(
    os.environ.get("CI") != "true" and not shutil.which("promtool"),
    reason="promtool is not here (Debian: apt-get install prometheus)",
)


def alerts() -> list[dict[str, Any]]:
    return [rule for group in rules()["groups"] for rule in group["rules"] if "alert" in rule]


NAMES = sorted({rule["alert"] for rule in alerts()})


def run(*command: str) -> str:
    """The output of a command; the test fails with it."""
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@pytest.mark.parametrize("path", outputs(), ids=lambda path: path.name)
def test_the_committed_files_are_what_the_generator_writes(path: Path) -> None:
    """Nobody has edited them, and nobody has forgotten to make them anew."""
    assert path.read_text() == outputs()[path]


def test_an_installation_writes_rules_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Settings go into another file, never into the committed one, and a misspelt one is refused."""
    own = tmp_path / "own.yaml"
    assert main(["--out", str(own), "no_predictions=6h", "latency_objective=0.95"]) == 0
    assert "[6h])) == 0" in own.read_text()
    assert "14.4 * 0.05" in own.read_text()
    for wrong in (["no_predictions=6h"], ["--out", str(own), "no_prediction=6h"]):
        with pytest.raises(SystemExit):
            main(wrong)
    assert "no_prediction=6h: not NAME=VALUE" in capsys.readouterr().err
    assert main(["--check"]) == 0


@promtool
def test_prometheus_takes_the_rules_and_its_example_configuration() -> None:
    """Names, expressions and templates are as Debian's Prometheus wants them, without a duplicate."""
    assert "SUCCESS" in run("promtool", "check", "rules", "--lint-fatal", str(RULES))
    assert "SUCCESS" in run("promtool", "check", "config", str(RULES.parent / "prometheus.yaml"))


@promtool
@pytest.mark.slow
@pytest.mark.parametrize("interval", TESTS)
def test_alerts_fire_and_resolve_as_their_cases_say(interval: str) -> None:
    """Promtool's own engine agrees with each case, labels, annotations and all."""
    run("promtool", "test", "rules", str(TESTS[interval]))


@pytest.mark.parametrize("name", NAMES)
def test_every_alert_has_cases_in_which_it_fires_stays_quiet_and_resolves(name: str) -> None:
    """The dead man's switch alone never resolves."""
    stories = [[bool(firing) for firing in case.at.values()] for case in CASES if case.alert == name]
    assert any(True in story for story in stories)
    if name != "PlumblineWatchdog":
        assert any(re.search("F+T+F+", _letters(story)) for story in stories)


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_every_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    """Severity, signal, a static summary, a description of its own, a runbook that exists and a dashboard."""
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["labels"]["signal"]
    notes = rule["annotations"]
    assert re.fullmatch(r"[A-Z][^{}]*\.", notes["summary"])
    assert notes["description"] != notes["summary"]
    assert notes["runbook_url"].endswith(f"/{rule['alert']}.md")
    assert re.search(r"/d/plumbline-(model|agent)\?", notes["dashboard_url"])


@pytest.mark.parametrize("name", NAMES)
def test_every_alert_has_a_runbook_with_all_that_is_needed_at_night(name: str) -> None:
    """What it means, is it real, what to do, how to silence it, when it ends: in this order, none empty."""
    text = (RUNBOOKS / f"{name}.md").read_text()
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    assert parts[0].startswith(f"# {name}\n")
    assert parts[1::2] == HEADINGS
    assert all(len(part.strip()) > 15 for part in parts[2::2])
    assert f"[{name}]({name}.md)" in (RUNBOOKS / "README.md").read_text()


def test_no_runbook_is_left_over() -> None:
    """An alert that is gone takes its page with it."""
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {*NAMES, "README"}


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the series that a real agent has served while it told the first eight hours of the story."""
    folder = tmp_path_factory.mktemp("demo")
    (port,) = _free_ports(1)
    baseline = folder / "baseline.json"
    learn_baseline(demo_config(folder, port), 1).save(baseline)
    config = demo_config(folder / "state", port, baseline, commit_seconds=0.2)
    names: set[str] = set()
    stop = threading.Event()

    def scrape(view: View) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            names.update(re.findall(r"^(\w+)", answer.read().decode(), re.MULTILINE))
        if view.models and all(model.triggers for model in view.models.values()):
            stop.set()

    source = DemoSource(1, 10_000.0)
    runner.run(config, source, stop=stop, on_commit=scrape, reload=Reload(lambda: config))
    return names | ON_A_BROKER


@pytest.mark.slow
def test_every_metric_of_the_rules_is_exposed_by_a_real_agent(exposed: set[str]) -> None:
    """No rule waits for a series that nobody ever writes."""
    text = yaml.safe_dump([rule["expr"] for group in rules()["groups"] for rule in group["rules"]])
    named = set(re.findall(r"(?<!model:)\bplumbline_\w+", text))
    assert len(named) > 15
    assert named <= exposed


@pytest.mark.slow
def test_every_metric_of_the_runbooks_is_exposed_by_a_real_agent(exposed: set[str]) -> None:
    """What an engineer is told to look at is there; counters of what the demo does not do are believed."""
    recorded = {rule["record"] for group in rules()["groups"] for rule in group["rules"] if "record" in rule}
    counters = {f"plumbline_{name}_total" for name in families.COUNTERS} | {
        f"{families.SUPPRESSED.name}_total"
    }
    known = exposed | recorded | counters
    for path in RUNBOOKS.glob("*.md"):
        named = set(re.findall(r"(?:model:)?\bplumbline_\w+(?::\w+)?", path.read_text()))
        assert named <= known, path.name


def test_scaled_rules_are_the_same_rules() -> None:
    """Another pace changes durations and nothing else, down to its floors."""
    fast = Settings(scale=1 / 900, shortest_hold_s=20, shortest_range_s=5)
    plain, scaled = (
        [rule for group in rules(s)["groups"] for rule in group["rules"]] for s in (Settings(), fast)
    )
    assert [r.get("alert") for r in plain] == [r.get("alert") for r in scaled]
    assert [r.get("labels") for r in plain] == [r.get("labels") for r in scaled]
    holds = Counter(rule.get("for") for rule in scaled)
    assert holds.keys() == {None, "20000ms", "96000ms"}  # 1d is the only one above the floor


def _letters(story: list[bool]) -> str:
    return "".join("T" if fires else "F" for fires in story)
