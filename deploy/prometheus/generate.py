"""Writes the rules and their tests, or rules of one's own: `python -m deploy.prometheus.generate --help`.

Metric names come from agent.respond.families, detectors from their registry: rules and metrics cannot part.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
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


def overridden(pairs: Iterable[str]) -> Settings:
    """Settings from NAME=VALUE; ValueError names what is no setting."""
    known = {name: type(value) for name, value in asdict(Settings()).items()}
    chosen: dict[str, Any] = {}
    for pair in pairs:
        name, found, value = pair.partition("=")
        if not found or name not in known:
            raise ValueError(f"{pair}: not NAME=VALUE with a NAME of {', '.join(known)}")
        chosen[name] = known[name](value)
    return Settings(**chosen)


def main(arguments: Sequence[str]) -> int:
    """Write the committed files, or check them, or write rules of one's own to another file."""
    parser = argparse.ArgumentParser(prog="python -m deploy.prometheus.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say which committed files differ")
    parser.add_argument("--out", type=Path, help="write the rules here, with the settings that follow")
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="see settings.py")
    options = parser.parse_args(arguments)
    if bool(options.settings) > bool(options.out):
        parser.error("the committed rules have the default settings: name another file with --out")
    if options.out:
        try:
            options.out.write_text(dump(rules(overridden(options.settings))))
        except ValueError as error:
            parser.error(str(error))
        return 0
    differing = {
        path: text for path, text in outputs().items() if not path.exists() or path.read_text() != text
    }
    for path, text in differing.items():
        if options.check:
            print(f"{path.name} is not what the generator writes")
        else:
            path.write_text(text)
            print(f"wrote {path.name}")
    return 1 if differing and options.check else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
