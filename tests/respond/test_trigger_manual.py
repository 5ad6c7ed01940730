import json
import math
import threading
from pathlib import Path

from typer.testing import CliRunner

from agent import runner
from agent.cli import app
from agent.demo import demo_config
from agent.ingest.demo import DemoSource
from agent.pipeline import Pipeline
from agent.respond import manual
from agent.store import Store


def test_a_request_is_read_as_it_was_put(tmp_path: Path) -> None:
    """Model, force and a token of its own; half-written and foreign files are left alone."""
    manual.put(tmp_path, "credit", "t1", force=False)
    manual.put(tmp_path, "fraud", "t2", force=True)
    (tmp_path / "asked" / "t3.partial").write_text("{")
    (tmp_path / "asked" / "t4.json").write_text("[]")
    found = [(one.model, one.token, one.force) for one in manual.waiting(tmp_path)]
    assert found == [("credit", "t1", False), ("fraud", "t2", True)]


def test_the_command_refuses_a_model_that_is_not_there(tmp_path: Path) -> None:
    """A typing error asks for nothing."""
    path = tmp_path / "c.yaml"
    path.write_text("models: {credit: {task: binary}}\nstate: {dir: s}\n")
    refused = CliRunner().invoke(app, ["retrain", "-c", str(path), "--model", "credti"])
    assert refused.exit_code == 2
    assert not (tmp_path / "s").exists()
    asked = CliRunner().invoke(app, ["retrain", "-c", str(path), "--model", "credit", "--force"])
    assert asked.exit_code == 0, asked.output
    [one] = manual.waiting(tmp_path / "s")
    assert (one.model, one.force) == ("credit", True)


def test_the_loop_answers_once_and_removes_the_request(tmp_path: Path) -> None:
    """Asked before the start: answered, sent to the topic, its file gone; read again it repeats nothing."""
    config = demo_config(tmp_path / "state", 0)
    (name,) = config.models
    quiet = DemoSource(1, math.inf, 180, story=False)
    runner.run(config, quiet, stop=threading.Event(), serve=False)
    manual.put(config.state.dir, name, "token", force=True)
    runner.run(config, DemoSource(1, math.inf, 180, story=False), stop=threading.Event(), serve=False)
    assert list(manual.waiting(config.state.dir)) == []
    [line] = (config.state.dir / "retraining.jsonl").read_text().splitlines()
    data = json.loads(line)["value"]["data"]
    assert (data["reason"], data["model_name"]) == ("manual", name)
    assert data["data_window"]["topics"][0]["topic"] == "predictions"
    store = Store(config.state.dir)
    pipeline = Pipeline(config, store)
    assert pipeline.ask(name, "token", force=True) == "already_requested"
    assert pipeline.ask(name, "another", force=False) == "cooldown"
    assert pipeline.ask("nobody", "third", force=True) == "unknown_model"
    store.close()
