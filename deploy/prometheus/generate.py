"""Writes the rules: `python -m deploy.prometheus.generate [--check]`.

Metric names come from agent.respond.expose, detectors from their registry: rules and metrics cannot part.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from deploy.prometheus.alerts import LATCHED, Alert, agent_alerts, latched, model_alerts
from deploy.prometheus.settings import Settings
from deploy.prometheus.slo import slo_alerts, slo_records

RULES = Path(__file__).parent / "rules.yaml"
TESTS = {
    "1m": Path(__file__).parent / "rules_test.yaml",
    "5m": Path(__file__).parent / "rules_of_days_test.yaml",
}
"""Unit tests, by interval of evaluation."""
_HEAD = "# Made by `python -m deploy.prometheus.generate`: change the code beside it, not this file.\n"

_DASHBOARDS = {
    "model": "/d/plumbline-model?var-job={{ $labels.job }}&var-model_name={{ $labels.model_name }}",
    "agent": "/d/plumbline-agent?var-job={{ $labels.job }}",
}


class _Dumper(yaml.SafeDumper):
    """Several lines are written as several lines."""


def _text(dumper: _Dumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def rules(settings: Settings | None = None) -> dict[str, Any]:
    """The rule file. What a group's alerts read is recorded in the same group: its rules run in turn."""
    s = settings or Settings()
    groups: dict[str, tuple[Iterable[tuple[str, str]], Iterable[Alert]]] = {
        "plumbline-models": ([(LATCHED, latched())], model_alerts(s)),
        "plumbline-agent": ([], agent_alerts(s)),
        "plumbline-slo": (slo_records(s), slo_alerts(s)),
    }
    written = []
    for name, (records, alerts) in groups.items():
        recorded = [{"record": record, "expr": expr} for record, expr in records]
        written.append({"name": name, "rules": recorded + [_rule(alert, s) for alert in alerts]})
    return {"groups": written}


def _rule(alert: Alert, s: Settings) -> dict[str, Any]:
    rule: dict[str, Any] = {"alert": alert.name, "expr": alert.expr}
    if alert.hold:
        rule["for"] = s.hold(alert.hold)
    rule["labels"] = {"severity": alert.severity, "signal": alert.signal}
    if alert.window:
        rule["labels"]["window"] = alert.window
    rule["annotations"] = {
        "summary": alert.summary,
        "description": alert.description,
        "runbook_url": s.runbook_url.format(alert=alert.name),
        "dashboard_url": s.dashboard_url + _DASHBOARDS[alert.dashboard],
    }
    return rule


def dump(document: object) -> str:
    """YAML with the head that says where it comes from."""
    return _HEAD + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)


def outputs() -> dict[Path, str]:
    """What the committed files must hold."""
    from deploy.prometheus.cases import tests

    return {RULES: dump(rules())} | {path: dump(tests(interval)) for interval, path in TESTS.items()}


def main(arguments: list[str]) -> int:
    """Write the files, or with --check say which differ."""
    differing = [path for path, text in outputs().items() if not path.exists() or path.read_text() != text]
    for path in differing:
        if "--check" in arguments:
            print(f"{path.name} is not what the generator writes")
        else:
            path.write_text(outputs()[path])
            print(f"wrote {path.name}")
    return 1 if differing and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
