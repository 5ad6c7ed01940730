"""The command line: parse, turn signals into a stop flag, call what does the work, put errors into words.

Exit codes: 0 done, 1 failed, 2 wrong usage, configuration or state, 3 the input cannot be used.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from agent import config as configuration
from agent.config import Config, format_duration
from agent.errors import PlumblineError

app = typer.Typer(
    name="plumbline",
    help="A streaming monitor for machine-learning models: Kafka in, Prometheus metrics and alarms out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback with local variables would print secrets
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigOption = Annotated[
    Path, typer.Option("-c", "--config", metavar="CONFIG", help="The config file (YAML).")
]
InputOption = Annotated[
    list[Path],
    typer.Option(
        "-i",
        "--input",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="Events: JSON lines (also gzipped), Parquet or CSV; several files may follow.",
    ),
]


class Level(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class SchemaName(StrEnum):
    """What `plumbline schema` knows."""

    CONFIG = "config"
    PREDICTION = "prediction"
    FEEDBACK = "feedback"
    METRICS = "metrics"


def main() -> None:
    """Run the command `plumbline` with the process's arguments, and exit with its code."""
    try:
        app(spread_inputs(sys.argv[1:]))
    except PlumblineError as error:
        typer.echo(f"plumbline: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # or the last flush would complain again
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        typer.echo(f"plumbline: {where}{error.strerror or error}", err=True)
        sys.exit(1)


@app.command(epilog="Example: plumbline run -c plumbline.yaml")
def run(
    config: ConfigOption,
    log_level: Annotated[Level, typer.Option(help="Least severity that is logged.")] = Level.INFO,
) -> None:
    """Monitor: read events from Kafka until SIGTERM or Ctrl-C, serve metrics, raise alarms.

    SIGHUP reads the config again: it takes effect at the next commit, or is refused and the old one stays.
    """
    settings = load(config)
    from agent import logs, runner
    from agent.reload import Reload

    logs.configure(log_level.value)
    reload = Reload(lambda: load(config))
    with stopped_by_signals() as stop, asked_by_hangup(reload.ask):
        runner.run_kafka(settings, stop=stop, reload=reload)


@app.command(epilog="Example: plumbline check -c plumbline.yaml")
def check(
    config: ConfigOption,
    show: Annotated[bool, typer.Option("--show", help="Print the whole config, defaults included.")] = False,
) -> None:
    """Check a config, environment included, without reading an event."""
    settings = load(config)
    if show:
        typer.echo(settings.model_dump_json(indent=2))
        return
    typer.echo(f"{config} is fine.")
    for source in settings.sources:
        typer.echo(f"  reads {', '.join(source.topics)} ({source.kind}, {source.preset})")
    for name, model in settings.models.items():
        by = f" by {', '.join(model.segments)}" if model.segments else ""
        horizon = format_duration(model.label_horizon)
        typer.echo(f"  monitors {name}: {model.task}{by}; labels count for {horizon}")
    typer.echo(f"  serves http://{settings.http.host}:{settings.http.port}/metrics")
    typer.echo(f"  remembers in {settings.state.dir}")


@app.command(epilog="Example: plumbline schema config > plumbline.schema.json")
def schema(name: Annotated[SchemaName, typer.Argument(help="Which of them.")]) -> None:
    """Print a JSON Schema, of the config or of the events a producer sends, or the catalogue of metrics."""
    from agent import schemas
    from agent.measure import catalogue

    found: dict[SchemaName, Callable[[], dict[str, Any]]] = {
        SchemaName.CONFIG: configuration.config_schema,
        SchemaName.PREDICTION: lambda: schemas.PREDICTION,
        SchemaName.FEEDBACK: lambda: schemas.FEEDBACK,
        SchemaName.METRICS: catalogue.document,
    }
    typer.echo(json.dumps(found[name](), indent=2, ensure_ascii=False))


@app.command(
    epilog="Example: plumbline profile -c plumbline.yaml --model credit -i january.parquet -o credit.json"
)
def profile(
    config: ConfigOption,
    model: Annotated[str, typer.Option(metavar="NAME", help="A model of the config.")],
    inputs: InputOption,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where the baseline goes.")],
) -> None:
    """Make a baseline from reference data: what later data are compared with."""
    settings = load(config, need_baselines=False)
    known_model(settings, config, model)
    writable(output, "--output")
    from agent.measure import baseline

    with progress("profiling") as tell:
        made = baseline.profile(settings, model, inputs, tell)
    made.save(output)
    typer.echo(f"wrote {output}; name it in {config} as models.{model}.baseline", err=True)


@app.command(epilog="Example: plumbline backtest -c plumbline.yaml --input 2025.parquet --json report.json")
def backtest(
    config: ConfigOption,
    inputs: InputOption,
    json_out: Annotated[
        Path, typer.Option("--json", metavar="OUT", help="The report; - is standard output.")
    ],
    html_out: Annotated[
        Path | None, typer.Option("--html", metavar="OUT", help="The report as a page, too.")
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(metavar="rows:N", help="Cut windows by predictions instead of time: rows:5000."),
    ] = None,
) -> None:
    """Replay files through the live pipeline: which alarms would there have been?"""
    rows = window_rows(window)
    settings = load(config)
    for path, option in ((json_out, "--json"), (html_out, "--html")):
        if path is not None:
            writable(path, option)
    from agent import logs
    from agent.backtest import backtest as replay
    from agent.respond.report import to_html, to_json

    logs.configure("warning")
    with progress("replaying") as tell:
        report = replay(settings, inputs, window_rows=rows, progress=tell, now=time.perf_counter)
    text = json.dumps(to_json(report), indent=2, ensure_ascii=False, allow_nan=False)
    if str(json_out) == "-":
        typer.echo(text)
    else:
        json_out.write_text(text + "\n", "utf-8")
    if html_out is not None:
        html_out.write_text(to_html(report), "utf-8")


@app.command(epilog="Example: plumbline demo --speed 400 --port 9464")
def demo(
    seed: Annotated[int, typer.Option(help="Another seed, another stream; the same story.")] = 1,
    speed: Annotated[
        float | None,
        typer.Option(min=0.0, help="Event time per real time; 0: unpaced. Default: the story in a minute."),
    ] = None,
    duration: Annotated[
        float | None, typer.Option(min=0.0, help="Stop after so many seconds. Default: at Ctrl-C.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where /metrics is served.")] = 9464,
) -> None:
    """Watch a simulated model go wrong and heal; needs no broker."""
    from agent.demo import SPEED, run_demo

    with stopped_by_signals() as stop:
        run_demo(seed=seed, speed=SPEED if speed is None else speed, duration=duration, port=port, stop=stop)


@app.command(epilog="Example: plumbline retrain -c plumbline.yaml --model credit")
def retrain(
    config: ConfigOption,
    model: Annotated[str, typer.Option(metavar="NAME", help="A model of the config.")],
    force: Annotated[
        bool, typer.Option("--force", help="Skip cool-down, maximum and the least number of labels.")
    ] = False,
) -> None:
    """Ask for retraining by hand: the agent of the same state.dir decides with its next commit."""
    settings = load(config, need_baselines=False)
    known_model(settings, config, model)
    from agent.respond import manual

    manual.put(settings.state.dir, model, uuid.uuid4().hex, force=force)
    typer.echo(f"asked in {settings.state.dir}; the agent's log tells its decision")


@app.command(epilog="Example: plumbline doctor -c plumbline.yaml")
def doctor(config: ConfigOption) -> None:
    """Look at all that `run` needs: broker, topics, rights, webhooks, clock, disk. Exit 1 if one fails."""
    settings = load(config)
    from agent import doctor as surgery
    from agent import logs

    logs.configure("error")
    without_the_clients_log()
    failed = False
    for finding in surgery.examine(settings, time.time()):
        failed = failed or finding.level is surgery.Level.FAIL
        typer.echo(f"{finding.level.value:<5} {finding.about}: {finding.text}")
        if finding.remedy:
            typer.echo(f"      → {finding.remedy}")
    if failed:
        raise typer.Exit(1)


@app.command(epilog="Example: plumbline sample -c plumbline.yaml --topic predictions -n 5")
def sample(
    config: ConfigOption,
    topic: Annotated[str, typer.Option("-t", "--topic", metavar="TOPIC", help="Where to look.")],
    count: Annotated[int, typer.Option("-n", min=1, max=1000, help="How many records.")] = 20,
    show_values: Annotated[
        bool, typer.Option("--show-values", help="Print values, too: they may be personal data.")
    ] = False,
) -> None:
    """Show a topic's last records, raw and as the config reads them; suggest a mapping where it cannot."""
    settings = load(config, need_baselines=False)
    from agent import logs
    from agent import sample as sampling

    logs.configure("error")
    without_the_clients_log()
    batches = sampling.read(settings, topic, count)
    for line in sampling.describe(settings, batches, show_values=show_values):
        typer.echo(line)


def without_the_clients_log() -> None:
    """What goes wrong with the broker is said in the answer, not by the client library as well."""
    client = logging.getLogger("kafka")
    client.addHandler(logging.NullHandler())
    client.propagate = False


def spread_inputs(arguments: Sequence[str]) -> list[str]:
    """Let one --input take all files that follow it: `--input day-*.jsonl --json OUT`."""
    spread: list[str] = []
    taking, first = False, False
    for argument in arguments:
        if argument.startswith("-"):
            taking = first = argument in {"-i", "--input"}
        elif taking:
            spread += [] if first else ["--input"]
            first = False
        spread.append(argument)
    return spread


def load(path: Path, *, need_baselines: bool = True) -> Config:
    """Load a config under the environment of this process."""
    return configuration.load(path, os.environ, need_baselines=need_baselines)


def known_model(settings: Config, path: Path, model: str) -> None:
    """Refuse a model that the config does not have."""
    if model not in settings.models:
        raise typer.BadParameter(
            f"{path} has no model {model!r}; it has {', '.join(settings.models)}.", param_hint="--model"
        )


def window_rows(text: str | None) -> int | None:
    """Read `rows:5000`; None where nothing is given."""
    if text is None:
        return None
    kind, _, count = text.partition(":")
    if kind != "rows" or not count.isdecimal() or int(count) == 0:
        raise typer.BadParameter(f"{text!r} is no window; write rows:5000 for windows of 5000 predictions.")
    return int(count)


def writable(path: Path, option: str) -> None:
    """Refuse an output that cannot be written before the long work, not after it."""
    if str(path) == "-":
        return
    if (
        path.is_dir()
        or not os.access(path.parent, os.W_OK)
        or (path.exists() and not os.access(path, os.W_OK))
    ):
        raise typer.BadParameter(
            f"{path} cannot be written; name a file in a folder that exists.", param_hint=option
        )


@contextmanager
def progress(title: str) -> Iterator[Callable[[float], None]]:
    """Show a bar on a terminal's stderr; yields what is told the fraction done, between 0 and 1."""
    console = Console(stderr=True)
    columns = (TextColumn(title), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """Turn SIGTERM and SIGINT into a stop flag; a second one does what it would without us.

    The old handlers are back in place afterwards. Only the main thread may enter.
    """
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, ask_to_stop)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def asked_by_hangup(ask: Callable[[], None]) -> Iterator[None]:
    """Call `ask` at each SIGHUP. Only the main thread may enter."""
    before = signal.signal(signal.SIGHUP, lambda number, frame: ask())
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
