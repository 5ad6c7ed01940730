"""Reload: what takes effect, what is refused, and that neither loses or repeats anything."""

from __future__ import annotations

import http.client
import json
import math
import threading
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from structlog.testing import capture_logs

from agent.config import Config, load
from agent.demo import demo_config
from agent.errors import ConfigError
from agent.ingest.demo import DemoSource
from agent.ingest.story import MODEL
from agent.pipeline import Pipeline
from agent.reload import Reload, refuse
from agent.respond.view import CounterKey, View
from agent.runner import Agent
from agent.store import Store

TOKEN = "long-and-secret"
MINUTES = 240
Document = dict[str, Any]


@dataclass
class Life:
    """One run of an agent over the demo's stream, with what is done to its file on the way."""

    folder: Path
    acts: Mapping[int, Callable[[Life], object]] = field(default_factory=dict)
    """By number of the commit."""
    views: list[View] = field(default_factory=list)
    gauges: list[float | None] = field(default_factory=list)
    """plumbline_config_last_reload_successful as each commit found it."""
    answers: list[int] = field(default_factory=list)
    fingerprint: str = ""

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.path = self.folder / "plumbline.yaml"
        (self.folder / "token").write_text(TOKEN + "\n")
        made = demo_config(self.folder / "state", 0, commit_seconds=0.001).model_dump_json(by_alias=True)
        self.document: Document = json.loads(made)
        self.document["http"]["reload_token_file"] = "token"
        self.write(self.document)

    def write(self, document: Document) -> None:
        self.path.write_text(yaml.safe_dump(document))

    def changed(self, **model: object) -> Document:
        """The file with other values of the model."""
        document = deepcopy(self.document)
        document["models"][MODEL] |= model
        return document

    def live(self) -> Life:
        reload = Reload(lambda: load(self.path, {}))
        store = Store(self.folder / "state")
        source = DemoSource(1, math.inf, MINUTES, story=False)
        agent = Agent(load(self.path, {}), source, store, self._hear, reload=reload)
        agent.serve()
        assert agent.server is not None
        self.port = agent.server.port
        try:
            agent.run(threading.Event())
            self.gauges.append(self.gauge())
            self.fingerprint = agent.pipeline.fingerprint()
            self.recorded = json.loads(store.documents("")["config"])
        finally:
            agent.close()
            store.close()
        return self

    def _hear(self, view: View) -> None:
        self.gauges.append(self.gauge())
        self.views.append(view)
        if act := self.acts.get(len(self.views)):
            act(self)

    def ask(self, token: str = TOKEN) -> None:
        """POST /-/reload, as curl would."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("POST", "/-/reload", headers={"Authorization": f"Bearer {token}"})
        self.answers.append(connection.getresponse().status)
        connection.close()

    def gauge(self) -> float | None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        for line in text.splitlines():
            if line.startswith("plumbline_config_last_reload_successful "):
                return float(line.split()[1])
        return None

    def tolerances(self) -> set[tuple[float | None, float | None]]:
        """What fairness was last judged by."""
        monitors = self.views[-1].models[MODEL].monitors
        return {m.evidence.tolerance for m in monitors if m.key.detector == "group_ratio"}


def counted(view: View, name: str) -> dict[CounterKey, int]:
    return {key: n for key, n in view.counters.items() if key.name == name}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Life:
    """The same stream without any reload."""
    return Life(tmp_path_factory.mktemp("reload") / "plain").live()


def test_a_reload_of_the_same_file_changes_nothing(tmp_path: Path, undisturbed: Life) -> None:
    """However often, the state is byte for byte that of an agent that was left alone."""
    life = Life(tmp_path / "life", dict.fromkeys(range(2, 14, 3), Life.ask)).live()
    assert set(life.answers) == {202}
    assert life.fingerprint == undisturbed.fingerprint
    assert life.views[-1].counters == undisturbed.views[-1].counters


def test_another_tolerance_takes_effect_and_loses_nothing(tmp_path: Path, undisturbed: Life) -> None:
    """Fairness is judged by the new file, each record is counted once, and no counter ever goes back."""

    def act(life: Life) -> None:
        life.write(life.changed(fairness={"tolerance": 2.0}))
        life.ask()

    life = Life(tmp_path / "life", {5: act}).live()
    assert undisturbed.tolerances() == {(0.8, 1.25)}
    assert life.tolerances() == {(0.5, 2.0)}
    for name in ("records", "records_read", "predictions", "labels"):
        assert counted(life.views[-1], name) == counted(undisturbed.views[-1], name) != {}
    for before, after in zip(life.views, life.views[1:], strict=False):
        assert all(after.counters[key] >= n for key, n in before.counters.items())
    assert life.gauges[-1] == 1
    assert life.recorded == {"sha256": load(life.path, {}).digest()} != undisturbed.recorded


def broken(life: Life) -> None:
    life.path.write_text("models: [")


def other_classes(life: Life) -> None:
    life.write(life.changed(classes=["no", "yes"]))


def fewer_segments(life: Life) -> None:
    life.write(life.changed(segments=[], fairness={}))


def other_port(life: Life) -> None:
    life.write({**life.document, "http": {**life.document["http"], "port": 1}})


def gone(life: Life) -> None:
    life.path.unlink()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (broken, "plumbline.yaml:1: not valid YAML"),
        (other_classes, "the state was made with other classes"),
        (fewer_segments, "the state counts by sex"),
        (other_port, "http.port: cannot change while the agent runs"),
        (gone, "plumbline.yaml"),
    ],
)
def test_a_file_that_cannot_be_used_keeps_the_old_one(
    tmp_path: Path, undisturbed: Life, spoil: Callable[[Life], None], says: str
) -> None:
    """The agent goes on as if nothing had happened, but for the gauge and the log; a mended file is taken."""

    def act(life: Life) -> None:
        spoil(life)
        life.ask()

    def mend(life: Life) -> None:
        life.write(life.document)
        life.ask()

    with capture_logs() as logs:
        life = Life(tmp_path / "life", {5: act, 9: mend}).live()
    [refused] = [line for line in logs if line["event"] == "reload_refused"]
    assert says in refused["error"]
    assert life.gauges[1] == 1
    assert 0 in life.gauges
    assert life.gauges[-1] == 1
    assert life.fingerprint == undisturbed.fingerprint
    assert life.views[-1].counters == undisturbed.views[-1].counters
    assert TOKEN not in str(logs)


def test_a_wrong_token_asks_for_nothing(tmp_path: Path) -> None:
    """The file is not even read."""

    def act(life: Life) -> None:
        broken(life)
        life.ask("wrong")

    life = Life(tmp_path / "life", {5: act}).live()
    assert life.answers == [401]
    assert set(life.gauges) == {1}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"kafka": {"group_id": "other"}}, "kafka.group_id"),
        ({"sources": [{"topics": ["other"]}]}, "sources"),
        ({"state": {"dir": "other"}}, "state.dir"),
        ({"http": {"reload_token_file": "other"}}, "http.reload_token_file"),
        ({"dead_letters": {"topic": "other"}}, "dead_letters.topic"),
        ({"retraining_topic": None}, "retraining_topic"),
    ],
)
def test_what_only_a_restart_changes_is_refused_by_name(change: Document, key: str) -> None:
    """Connections, sources, the port and files stay; the rest of the same sections may change."""
    base: Document = {"models": {"m": {}}}
    with pytest.raises(ConfigError, match=f"^{key}: cannot change while the agent runs; restart it"):
        refuse(Config.model_validate(base), Config.model_validate(base | change))
    free = {"state": {"commit_interval": "1s"}, "dead_letters": {"payload": "drop"}, "webhooks": []}
    refuse(Config.model_validate(base), Config.model_validate(base | free))


def test_a_bug_under_the_new_config_keeps_the_old_one(tmp_path: Path) -> None:
    """Whatever goes wrong while the new config is tried, the running pipeline is not touched."""

    def read() -> Config:
        raise KeyError("a bug")

    store = Store(tmp_path)
    reload = Reload(read)
    pipeline = Pipeline(Config.model_validate({"models": {"m": {}}}), store)
    with capture_logs() as logs:
        assert reload.attempt(pipeline) is None
    assert [line["event"] for line in logs] == ["reload_failed"]
    assert not reload.successful
    store.close()
