"""Retraining events on their way to a webhook, while the agent is killed and the receiver loses answers."""

import json
import math
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from agent import runner
from agent.config import Config, WebhookConfig
from agent.demo import demo_config, learn_baseline
from agent.ingest.demo import DemoSource
from agent.store import Store
from tests.respond.test_webhook import NEW, Receiver, answers, keys, loses_the_answer, receiver

__all__ = ["keys", "receiver"]  # fixtures

ROOT = Path(__file__).parents[2]
LIFE = "import sys; from tests.integration.test_webhook_kill import live; live(sys.argv[1], int(sys.argv[2]))"


def config(folder: Path, port: int) -> Config:
    """The demo's config with a webhook."""
    hook = WebhookConfig(
        name="hook",
        url=f"http://localhost:{port}/",
        secret_files=[folder / "new"],
        allow_private=True,
    )
    return demo_config(folder / "state", 0, folder / "baseline.json").model_copy(update={"webhooks": [hook]})


def live(folder: str, port: int) -> None:
    """One life of an agent: it reads what is left of the story, and ends."""
    runner.run(config(Path(folder), port), DemoSource(1, math.inf), stop=threading.Event(), serve=False)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("keys")
def test_each_event_has_one_effect_though_the_agent_is_killed(receiver: Receiver, tmp_path: Path) -> None:
    """Killed between a delivery and its commit, with answers lost: each event of the topic has one effect.

    The receiver that de-duplicates by webhook-id acts on exactly the events that went to the topic's file.
    """
    learn_baseline(demo_config(tmp_path, 0), 1).save(tmp_path / "baseline.json")
    receiver.script = [loses_the_answer, answers(503), loses_the_answer]
    command = [sys.executable, "-c", LIFE, str(tmp_path), str(receiver.port)]
    killed = False
    for _ in range(12):
        with subprocess.Popen(command, cwd=ROOT) as life:
            deadline = time.monotonic() + 200
            while life.poll() is None and time.monotonic() < deadline:
                if receiver.seen and not killed:
                    killed = True
                    life.kill()
                time.sleep(0.005)
            life.kill()
        store = Store(tmp_path / "state")
        left = store.deliveries(100)
        store.close()
        assert life.returncode in (0, -9)
        if not left and life.returncode == 0:
            break
        time.sleep(1.0)
    assert killed
    assert left == []
    lines = (tmp_path / "state" / "retraining.jsonl").read_text().splitlines()
    sent = {json.loads(line)["value"]["id"] for line in lines}
    kinds = {json.loads(line)["value"]["type"].rsplit(".", 2)[-2] for line in lines}
    assert {"requested", "resolved"} <= kinds
    assert sorted(receiver.effects) == sorted(sent)
    assert len(receiver.seen) > len(sent), "something was repeated, or nothing was tested"
    for seen in receiver.seen:
        Webhook(NEW).verify(seen.body, seen.headers)
