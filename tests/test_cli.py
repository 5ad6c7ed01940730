import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
import structlog
from jsonschema import Draft202012Validator

from agent import logs, schemas
from agent.cli import asked_by_hangup, main, spread_inputs, stopped_by_signals
from agent.errors import ConfigError, PlumblineError, PoisonError, StartError, StateError
from agent.events import FEEDBACK_COLUMNS, PREDICTION_COLUMNS

ROOT = Path(__file__).parent.parent
BINARY = ROOT / "deploy" / "examples" / "binary.yaml"
COMMANDS = ("run", "check", "schema", "profile", "backtest", "demo")
INTERNAL = {"offset", "timestamp_ms"}
"""Columns that are no fields of an event under that name."""

Plumbline = Callable[..., tuple[int, str, str]]


@pytest.fixture
def plumbline(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Plumbline:
    """The command, run in this process: its exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["plumbline", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            main()
        out, err = capsys.readouterr()
        return int(exited.value.code or 0), out, err

    return run


@pytest.fixture
def events(tmp_path: Path) -> tuple[Path, Path]:
    """Forty predictions of binary.yaml's model, every tenth wrong, and their labels."""
    predictions, labels = tmp_path / "predictions.jsonl", tmp_path / "labels.jsonl"
    with predictions.open("w") as ours, labels.open("w") as theirs:
        for i in range(40):
            at = f"2026-01-05T00:{i:02d}:00Z"
            event = {
                "prediction_id": f"p{i}",
                "timestamp": at,
                "model_name": "credit-risk",
                "prediction": i % 2,
            }
            truth = (i % 2) ^ (i % 10 == 0)
            ours.write(json.dumps(event | {"tags": {"sex": "fm"[i % 4 // 2]}, "features": {"age": i}}) + "\n")
            theirs.write(json.dumps({"prediction_id": f"p{i}", "timestamp": at, "label": truth}) + "\n")
    return predictions, labels


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(plumbline: Plumbline, command: str) -> None:
    """Each command's help ends with a line that can be copied."""
    code, out, _ = plumbline(command, "--help")
    assert code == 0
    assert f"Example: plumbline {command}" in out


def test_the_installed_command_and_the_module_are_the_same() -> None:
    """`python -m agent` works without anything on PATH, and knows every command."""
    command = [sys.executable, "-m", "agent", "--help"]
    out = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert all(name in out for name in COMMANDS)


def test_check_says_what_will_happen(plumbline: Plumbline) -> None:
    """A good config: exit 0, and what is read, monitored and served on standard output."""
    code, out, err = plumbline("check", "-c", BINARY)
    assert (code, err) == (0, "")
    assert "reads predictions" in out
    assert "monitors credit-risk: binary by sex, region" in out
    assert "http://0.0.0.0:9464/metrics" in out


def test_check_shows_the_defaults(plumbline: Plumbline, monkeypatch: pytest.MonkeyPatch) -> None:
    """--show prints every default, and the environment's overrides with them."""
    monkeypatch.setenv("PLUMBLINE_HTTP__PORT", "9999")
    code, out, _ = plumbline("check", "-c", BINARY, "--show")
    assert code == 0
    assert json.loads(out)["http"]["port"] == 9999
    assert json.loads(out)["models"]["credit-risk"]["step"] == "5m"


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_wrong_config_ends_with_2(plumbline: Plumbline, tmp_path: Path, command: str) -> None:
    """Key, value and remedy on standard error; no traceback, nothing on standard output."""
    path = tmp_path / "bad.yaml"
    path.write_text("models: {a: {task: binery}}\n")
    code, out, err = plumbline(command, "-c", path)
    assert (code, out) == (2, "")
    assert 'models.a.task: "binery"' in err
    assert "did you mean binary?" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("prune",),
        ("check",),
        ("run", "-c", "missing.yaml"),
        ("schema", "events"),
        ("profile", "-c", BINARY, "--model", "other", "--input", __file__, "-o", "x.json"),
        (
            "profile",
            "-c",
            BINARY,
            "--model",
            "credit-risk",
            "--input",
            __file__,
            "-o",
            "no/such/folder/x.json",
        ),
        ("backtest", "-c", BINARY, "--input", "missing.jsonl", "--json", "-"),
        ("backtest", "-c", BINARY, "--input", __file__, "--json", "/"),
        ("backtest", "-c", BINARY, "--input", __file__, "--json", "-", "--window", "days:3"),
        ("backtest", "-c", BINARY, "--input", __file__, "--json", "-", "--window", "rows:0"),
        ("demo", "--port", "70000"),
    ],
)
def test_wrong_usage_ends_with_2(plumbline: Plumbline, arguments: tuple[object, ...]) -> None:
    """What was called wrongly is told on standard error before any work."""
    code, out, err = plumbline(*arguments)
    assert code == 2
    assert "Traceback" not in out + err
    if arguments:
        assert err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("a"), 2),
        (StartError("b"), 1),
        (StateError("c"), 2),
        (PoisonError("d"), 3),
        (OSError(28, "No space left", "out"), 1),
    ],
)
def test_errors_become_exit_codes(
    plumbline: Plumbline, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    """What the agent raises for a person ends in one line and the code for who must act."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("agent.config.load", fail)
    got, _, err = plumbline("check", "-c", BINARY)
    text = str(error) if isinstance(error, PlumblineError) else "out: No space left"
    assert (got, err) == (code, f"plumbline: {text}\n")


@pytest.mark.parametrize("name", ["config", "prediction", "feedback"])
def test_schemas_are_schemas(plumbline: Plumbline, name: str) -> None:
    """`plumbline schema` prints a valid JSON Schema, whose own examples follow it."""
    code, out, _ = plumbline("schema", name)
    assert code == 0
    schema = json.loads(out)
    Draft202012Validator.check_schema(schema)
    for example in schema.get("examples", []):
        Draft202012Validator(schema).validate(example)


@pytest.mark.parametrize(
    ("schema", "columns"), [(schemas.PREDICTION, PREDICTION_COLUMNS), (schemas.FEEDBACK, FEEDBACK_COLUMNS)]
)
def test_every_column_is_a_field_of_the_schema(schema: schemas.Schema, columns: dict[str, object]) -> None:
    """What the agent reads from native events is what producers are told to send."""
    assert set(columns) - INTERNAL <= set(schema["properties"])


TIMES = {"timestamp": "2026-01-05T00:00:00Z"}
PREDICTED = TIMES | {"prediction_id": "a", "model_name": "m"}


@pytest.mark.parametrize(
    ("schema", "event", "valid"),
    [
        (schemas.PREDICTION, PREDICTED | {"prediction": 1}, True),
        (schemas.PREDICTION, PREDICTED | {"prediction": None, "prediction_score": 0.3}, True),
        (schemas.PREDICTION, PREDICTED | {"ranking": ["a", "b"]}, True),
        (schemas.PREDICTION, PREDICTED | {"error": "timeout", "prediction": None}, True),
        (schemas.PREDICTION, PREDICTED | {"prediction": 1, "unheard_of": {}}, True),
        (schemas.PREDICTION, PREDICTED, False),
        (schemas.PREDICTION, PREDICTED | {"prediction": None}, False),
        (schemas.PREDICTION, TIMES | {"model_name": "m", "prediction": 1}, False),
        (schemas.PREDICTION, PREDICTED | {"prediction": 1, "latency_seconds": -1}, False),
        (schemas.FEEDBACK, TIMES | {"prediction_id": "a", "label": 1}, True),
        (schemas.FEEDBACK, TIMES | {"prediction_id": "a", "label": None, "revision": 2}, True),
        (schemas.FEEDBACK, TIMES | {"model_name": "m", "outcomes": {"support_ticket": "billing"}}, True),
        (schemas.FEEDBACK, TIMES | {"label": 1}, False),
        (schemas.FEEDBACK, TIMES | {"prediction_id": "a"}, False),
        (schemas.FEEDBACK, {"prediction_id": "a", "label": 1}, False),
    ],
)
def test_event_schemas_ask_for_what_the_design_asks(
    schema: schemas.Schema, event: dict[str, object], valid: bool
) -> None:
    """Required fields and their alternatives are told apart; fields that are not known are no mistake."""
    assert Draft202012Validator(schema).is_valid(event) is valid


def test_one_input_takes_many_files() -> None:
    """What a shell expands behind --input belongs to it; other options end the list."""
    given = ["backtest", "--input", "a", "b", "c", "--json", "o", "-i", "d", "e"]
    meant = [
        "backtest",
        "--input",
        "a",
        "--input",
        "b",
        "--input",
        "c",
        "--json",
        "o",
        "-i",
        "d",
        "--input",
        "e",
    ]
    assert spread_inputs(given) == meant


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_to_stop(number: signal.Signals) -> None:
    """The first signal sets the flag and nothing else; afterwards the handlers are the old ones."""
    before = signal.getsignal(number)
    with stopped_by_signals() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.wait(5)
        assert signal.getsignal(number) is before
    assert signal.getsignal(number) is before


def test_a_hangup_asks_each_time() -> None:
    """Every SIGHUP asks once; afterwards the handler is the old one."""
    before = signal.getsignal(signal.SIGHUP)
    asked: list[bool] = []
    with asked_by_hangup(lambda: asked.append(True)):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
    assert asked == [True, True]
    assert signal.getsignal(signal.SIGHUP) is before


def test_handlers_are_restored_after_an_error() -> None:
    """Whoever calls the entry point gets its signal handlers back, whatever happened."""
    before = signal.getsignal(signal.SIGTERM)
    with contextlib.suppress(StartError), stopped_by_signals():
        raise StartError("no broker")
    assert signal.getsignal(signal.SIGTERM) is before
    assert threading.current_thread() is threading.main_thread()


@pytest.fixture
def log() -> Iterator[StringIO]:
    """Where this test's logs go, at DEBUG; afterwards logging is as it was."""
    root, stream = logging.getLogger(), StringIO()
    handlers, level = root.handlers[:], root.level
    libraries = {name: logging.getLogger(name).level for name in ("kafka", "urllib3")}
    logs.configure("debug", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, was in libraries.items():
        logging.getLogger(name).setLevel(was)
    structlog.reset_defaults()


def test_logs_are_json_off_a_terminal(log: StringIO) -> None:
    """Each line, the libraries' too, is one JSON object with level, time and the bound values."""
    structlog.get_logger("agent.x").info("batch rejected", topic="a", count=3)
    logging.getLogger("some.library").warning("lost %s", "it")
    ours, theirs = (json.loads(line) for line in log.getvalue().splitlines())
    assert (ours["event"], ours["topic"], ours["count"], ours["level"]) == ("batch rejected", "a", 3, "info")
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("lost it", "warning", "some.library")
    assert ours["timestamp"].endswith("Z")


def test_logs_print_no_secret(log: StringIO) -> None:
    """Not under a secret's name, and not in the requests that Kafka's client logs at DEBUG."""
    structlog.get_logger().warning("auth", sasl_password="correct-horse", password="correct-horse")
    logging.getLogger("kafka.conn").debug("SaslAuthenticate correct-horse")
    assert "correct-horse" not in log.getvalue()
    assert "(not shown)" in log.getvalue()


def test_an_exception_is_one_line(log: StringIO) -> None:
    """A traceback stays inside its JSON line."""
    try:
        raise ValueError("odd")
    except ValueError:
        structlog.get_logger().exception("a stage failed")
    (line,) = log.getvalue().splitlines()
    assert "ValueError: odd" in json.loads(line)["exception"]


def test_backtest_writes_the_report(plumbline: Plumbline, tmp_path: Path, events: tuple[Path, Path]) -> None:
    """Files in, the documented JSON and a page out: every label finds its prediction, four are wrong."""
    pytest.importorskip("agent.runner", exc_type=ImportError)
    out, page = tmp_path / "out.json", tmp_path / "out.html"
    code, _, err = plumbline("backtest", "-c", BINARY, "--input", *events, "--json", out, "--html", page)
    assert (code, err) == (0, "")
    model = json.loads(out.read_text())["models"]["credit-risk"]
    assert (model["predictions"], model["feedback"], model["joined"]) == (40, 40, 40)
    assert model["metrics"]["accuracy"]["value"] == pytest.approx(0.9, abs=1e-12)
    assert model["metrics"]["accuracy"]["n"] == 40
    assert "credit-risk" in page.read_text()
