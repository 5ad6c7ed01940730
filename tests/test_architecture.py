"""The shape of the code, as tests: which way imports go, who reads the clock, what lies at the top."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

TOP_LEVEL = {
    *("pyproject.toml", "README.md", "Makefile", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"),
    *("agent", "deploy", "detectors", "docs", "grafana", "tests"),
}
STAGES = ["agent.ingest", "agent.measure", "agent.respond"]  # the way of the data
WIRING = [
    "agent.cli",
    "agent.pipeline",
    "agent.reload",
    "agent.runner",
    "agent.state",
    "agent.__main__",
]  # knows the stages, and they not it
CLOCK_READERS = {"agent/runner.py", "agent/cli.py"}

DETECTORS_THIRD_PARTY = {"numpy", "river", "scipy"}
NOT_IN_DETECTORS = {  # of the standard library: clocks, files, network, processes, threads, hidden state
    *("time", "datetime", "sched", "io", "os", "pathlib", "shutil", "tempfile", "glob", "sqlite3", "logging"),
    *("socket", "ssl", "http", "urllib", "select", "selectors", "asyncio", "subprocess", "signal"),
    *("threading", "multiprocessing", "concurrent", "queue", "pickle", "shelve", "random", "secrets"),
}
CLOCKS = {
    *(
        f"time.{name}{ns}"
        for name in ("time", "monotonic", "perf_counter", "process_time")
        for ns in ("", "_ns")
    ),
    *("time.clock_gettime", "time.clock_gettime_ns", "time.localtime", "time.gmtime"),
    *("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today"),
}


def sources(package: str) -> Iterator[tuple[str, str]]:
    """Path, relative to the root, and text of each module of a package."""
    for path in sorted((ROOT / package).rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), path.read_text()


def imports(source: str, path: str) -> dict[str, str]:
    """Each name that an import anywhere in the module binds, with the dotted name that it stands for."""
    package = path.removesuffix(".py").split("/")[:-1]
    bound = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                bound[alias.asname or alias.name] = f"{module}.{alias.name}"
    return bound


def clock_reads(source: str, path: str) -> list[str]:
    """The clocks that a module names, under whatever alias: what is named can be called later."""
    bound = imports(source, path)
    named = {
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute | ast.Name)
    }
    full = {
        name: bound.get(name.split(".")[0], name.split(".")[0]) + name[len(name.split(".")[0]) :]
        for name in named
    }
    return sorted(name for name in full.values() if name in CLOCKS)


def is_within(name: str, module: str) -> bool:
    """Whether a dotted name is the module or lies in it."""
    return name == module or name.startswith(f"{module}.")


def against_the_flow(source: str, path: str) -> list[str]:
    """Imports of a stage that point to a later stage, or back at the wiring."""
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    stage = next((index for index, name in enumerate(STAGES) if is_within(module, name)), None)
    if stage is None:
        return []
    banned = [*STAGES[stage + 1 :], *WIRING]
    return [
        name for name in imports(source, path).values() if any(is_within(name, other) for other in banned)
    ]


def impure(source: str, path: str) -> list[str]:
    """What a detector may not use: the agent, clocks, files, network, hidden state."""
    found = []
    for name in imports(source, path).values():
        root = name.split(".")[0]
        standard = root in sys.stdlib_module_names
        if root in NOT_IN_DETECTORS or not (standard or root in DETECTORS_THIRD_PARTY | {"detectors"}):
            found.append(name)
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return found + [
        call.id for call in calls if isinstance(call, ast.Name) and call.id in {"open", "print", "input"}
    ]


def test_detectors_are_pure() -> None:
    """No detector imports the agent, reads a clock or does I/O: numbers in, evidence out."""
    assert {path: found for path, text in sources("detectors") if (found := impure(text, path))} == {}


def test_only_the_runner_and_the_command_line_read_the_clock() -> None:
    """Time is an argument everywhere but in the loop and the commands that start it."""
    found = {path: clock_reads(text, path) for path, text in sources("agent") if path not in CLOCK_READERS}
    assert {path: clocks for path, clocks in found.items() if clocks} == {}


def test_the_flow_does_not_turn_back() -> None:
    """Ingest knows neither measure nor respond, measure not respond, and no stage the wiring."""
    found = {path: against_the_flow(text, path) for path, text in sources("agent")}
    assert {path: names for path, names in found.items() if names} == {}


def test_the_top_level_holds_only_what_was_agreed() -> None:
    """A newcomer's first listing has the agreed names and dotfiles, nothing else."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {name.split("/")[0] for name in files.splitlines()}
    assert {name for name in names if not name.startswith(".")} - TOP_LEVEL == set()


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from agent import config",
        "import agent.events as e",
        "from ...agent import x",
        "import kafka",
        "def f():\n    from datetime import date",
        "open('x')",
        "from pathlib import Path",
    ],
)
def test_impurity_is_seen(source: str) -> None:
    """The purity rule would notice each way of breaking it."""
    assert impure(source, "detectors/drift/psi.py")


@pytest.mark.parametrize(
    "source",
    [
        "import time as t\nt.time()",
        "from time import monotonic\nmonotonic()",
        "import datetime\ndatetime.date.today()",
        "from datetime import datetime as d\nx = d.now",
        "import time\nf(clock=time.time_ns)",
    ],
)
def test_a_clock_is_seen(source: str) -> None:
    """The clock rule would notice a clock under an alias, and one that is only handed on."""
    assert clock_reads(source, "agent/measure/pane.py")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("agent/ingest/kafka.py", "from agent.measure.pane import Pane"),
        ("agent/ingest/kafka.py", "from agent import respond"),
        ("agent/measure/join.py", "from ..respond import decide"),
        ("agent/measure/__init__.py", "from ..respond.view import View"),
        ("agent/respond/expose.py", "import agent.pipeline"),
    ],
)
def test_an_import_against_the_flow_is_seen(path: str, source: str) -> None:
    """The flow rule would notice an absolute, a relative and a package import that points back."""
    assert against_the_flow(source, path)
