import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.prometheus.generate import rules

CONFIG = Path(__file__).parents[2] / "deploy" / "alertmanager" / "alertmanager.yaml"
RECEIVERS = {"critical": "pager", "warning": "tickets", "info": "nobody"}

pytestmark = pytest.mark.skipif(
    os.environ.get("CI") != "true" and not shutil.which("amtool"),
    reason="amtool is not here (Debian: apt-get install prometheus-alertmanager)",
)


def amtool(*arguments: str) -> str:
    found = subprocess.run(["amtool", *arguments], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout.strip()


def alerts() -> list[dict[str, Any]]:
    return [rule for group in rules()["groups"] for rule in group["rules"] if "alert" in rule]


def test_alertmanager_takes_the_example() -> None:
    """It is a configuration as it stands."""
    assert "SUCCESS" in amtool("check-config", str(CONFIG))


@pytest.mark.parametrize("model", ["", "model_name=credit"])
def test_every_alert_goes_where_its_severity_says(model: str) -> None:
    """Pages wake somebody, tickets wait, the rest is told to nobody, and the heartbeat goes to the snitch."""
    for rule in alerts():
        name, severity = rule["alert"], rule["labels"]["severity"]
        labels = [f"alertname={name}", f"severity={severity}", "job=plumbline", *([model] if model else [])]
        expected = "snitch" if name == "PlumblineWatchdog" else RECEIVERS[severity]
        assert amtool("config", "routes", "test", "--config.file", str(CONFIG), *labels) == expected, name


def test_inhibitions_name_alerts_and_signals_that_exist() -> None:
    """A renamed alert does not leave a rule behind that mutes nothing; and nothing mutes a page for harm."""
    names = {rule["alert"] for rule in alerts()}
    muted: set[str] = set()
    for rule in yaml.safe_load(CONFIG.read_text())["inhibit_rules"]:
        for side in ("source_matchers", "target_matchers"):
            for matcher in rule[side]:
                if not matcher.startswith("alertname"):
                    continue
                found = _alternatives(matcher)
                assert found <= names, found - names
                muted |= found if side == "target_matchers" else set()
    assert not muted & {"PlumblineConstraintBroken", "PlumblineDetectorPage", "PlumblineDetectorTicket"}


def test_no_page_of_a_detector_mutes_a_ticket() -> None:
    """The ticket holds the suspects: a page and a ticket of detectors never share a signal."""
    signals = {
        severity: {rule["labels"]["signal"] for rule in alerts() if rule["labels"]["severity"] == severity}
        for severity in ("critical", "warning")
    }
    assert signals["critical"] & signals["warning"] == {"availability", "latency", "dead_letters"}


def _alternatives(matcher: str) -> set[str]:
    value = matcher.split("=", 1)[1].lstrip("~ ").strip('"')
    prefix, _, rest = value.partition("(")
    return {prefix + one for one in rest.rstrip(")").split("|")} if rest else set(value.split("|"))
