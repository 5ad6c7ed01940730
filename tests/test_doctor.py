import base64
import fcntl
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agent.cli import app
from agent.config import Config
from agent.doctor import Finding, Level, _may, _port, _sources, _state, _webhook
from agent.errors import ConfigError

SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()


def config(folder: Path, **sections: object) -> Config:
    """A config whose state lies in a folder."""
    return Config.model_validate({"models": {"credit": {}}, "state": {"dir": folder / "state"}} | sections)


def levels(findings: list[Finding]) -> dict[str, Level]:
    """By subject, how bad it is."""
    return {finding.about: finding.level for finding in findings}


def test_whatever_is_not_well_has_a_remedy(tmp_path: Path) -> None:
    """No finding but ok leaves its reader alone, and the exit code is 1 when one fails."""
    path = tmp_path / "c.yaml"
    path.write_text(
        "models: {credit: {task: binary}}\nkafka: {bootstrap_servers: localhost:1}\n"
        "webhooks: [{name: hook, url: 'https://localhost:1/', secret_env: NO_SUCH_VARIABLE}]\n"
    )
    result = CliRunner().invoke(app, ["doctor", "-c", str(path)])
    assert result.exit_code == 1, result.output
    lines = result.output.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith(("warn", "fail")):
            assert following.startswith("      → "), line
    assert any(line.startswith("fail  broker: Kafka at localhost:1 cannot be reached") for line in lines)
    assert any(line.startswith("fail  webhook hook: a secret") for line in lines)


def test_a_mistake_in_the_config_is_told_as_ever(tmp_path: Path) -> None:
    """A broken config is a ConfigError (exit 2), before anything is looked at."""
    path = tmp_path / "c.yaml"
    path.write_text("models: {credit: {taks: binary}}\n")
    assert isinstance(CliRunner().invoke(app, ["doctor", "-c", str(path)]).exception, ConfigError)


def test_the_state_directory(tmp_path: Path) -> None:
    """A new one is fine, one at work is a warning, and looking takes no lock and makes no file."""
    settings = config(tmp_path)
    assert levels(list(_state(settings))) == {"state": Level.OK, "disk": Level.OK}
    assert list(tmp_path.iterdir()) == []
    settings.state.dir.mkdir()
    held = os.open(settings.state.dir / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert levels(list(_state(settings)))["state"] is Level.WARN
    os.close(held)
    assert levels(list(_state(settings)))["state"] is Level.OK


def test_a_state_directory_below_a_file_fails(tmp_path: Path) -> None:
    """A path that can never be made is told before the start."""
    (tmp_path / "state").write_text("")
    settings = config(tmp_path, state={"dir": tmp_path / "state" / "deeper"})
    assert levels(list(_state(settings))) == {"state": Level.FAIL}


def test_the_port(tmp_path: Path) -> None:
    """A free port is ok, one in use a warning (a running agent may hold it), a foreign address a failure."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert _port(config(tmp_path, http={"host": "127.0.0.1", "port": port})).level is Level.WARN
    assert _port(config(tmp_path, http={"host": "127.0.0.1", "port": 0})).level is Level.OK
    assert _port(config(tmp_path, http={"host": "203.0.113.1", "port": 9464})).level is Level.FAIL


def test_a_webhook_is_looked_at_without_posting(tmp_path: Path) -> None:
    """Listening: ok; not listening: a warning; private without leave: a failure. No byte is sent."""
    (tmp_path / "secret").write_text(SECRET)

    def look(port: int, **changes: object) -> list[Level]:
        hook = {"name": "h", "url": f"https://localhost:{port}/", "secret_files": [str(tmp_path / "secret")]}
        settings = config(tmp_path, webhooks=[hook | {"allow_private": True} | changes])
        return [finding.level for finding in _webhook(settings.webhooks[0])]

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert look(port) == [Level.OK]
        peer, _ = listener.accept()
        assert peer.recv(10) == b""
        peer.close()
        assert look(port, allow_private=False) == [Level.FAIL]
        assert look(port, secret_files=[str(tmp_path / "none")]) == [Level.FAIL, Level.OK]
    assert look(port) == [Level.WARN]
    assert look(port, url="https://no-such-host.invalid/") == [Level.FAIL]


@pytest.mark.parametrize(("feedback", "level"), [(3, Level.OK), (4, Level.WARN)])
def test_predictions_and_feedback_should_be_partitioned_alike(
    tmp_path: Path, feedback: int, level: Level
) -> None:
    """Equal numbers of partitions are ok; different ones are a warning."""
    found: dict[str, Any] = {
        "predictions": {"partitions": [{}] * 3},
        "feedback": {"partitions": [{}] * feedback},
    }
    assert levels(list(_sources(config(tmp_path), list(found), found)))["partitions"] is level


def test_rights_are_what_the_broker_says() -> None:
    """The operation or ALL; a broker that does not say is not held against anyone."""
    assert _may({"authorized_operations": ["READ", "DESCRIBE"]}, "READ")
    assert _may({"authorized_operations": ["ALL"]}, "WRITE")
    assert not _may({"authorized_operations": ["DESCRIBE"]}, "READ")
    assert _may({}, "READ")
