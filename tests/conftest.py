"""What every test may ask for, and the rule that CI is no place to skip the real broker."""

import os
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from tests.broker import Broker, KafkaNode, NoBroker, SecureNode, any_broker, kafka_node, secure_node

IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}
BROKER_FIXTURES = {"broker", "own_broker", "secure_broker"}

passed = pytest.StashKey[int]()  # tests that a real broker took part in
missing = pytest.StashKey[str]()  # why there is no broker

B = TypeVar("B", bound=Broker)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Broker]:
    """The session's Kafka, shared: take new topics from its `create_topic`, and do not stop it."""
    with _or_skip(any_broker(tmp_path_factory.mktemp("kafka")), pytestconfig) as running:
        yield running


@pytest.fixture
def own_broker(tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[KafkaNode]:
    """A Kafka of the test's own, to kill, pause and restart."""
    with _or_skip(kafka_node(tmp_path / "kafka"), pytestconfig) as running:
        yield running


@pytest.fixture(scope="session")
def secure_broker(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[SecureNode]:
    """A Kafka with TLS, SCRAM and ACLs, shared: take your own users, topics, groups; do not stop it."""
    with _or_skip(secure_node(tmp_path_factory.mktemp("secure") / "kafka"), pytestconfig) as running:
        yield running


@contextmanager
def _or_skip(broker: AbstractContextManager[B], config: pytest.Config) -> Iterator[B]:
    with ExitStack() as stack:
        try:
            running = stack.enter_context(broker)
        except NoBroker as reason:
            config.stash[missing] = str(reason)
            if IN_CI:
                pytest.fail(f"CI needs a real broker: {reason}", pytrace=False)
            pytest.skip(f"no real broker: {reason}")
        yield running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks `broker` whatever uses one, so that no test can forget to."""
    for item in items:
        if BROKER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("broker")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Counts the broker tests that ran, and shows the broker's log with those that failed."""
    report = yield
    if item.get_closest_marker("broker") and report.when == "call":
        if report.passed:
            item.config.stash[passed] = item.config.stash.get(passed, 0) + 1
        for fixture in BROKER_FIXTURES & set(funcargs := getattr(item, "funcargs", {})):
            if report.failed and isinstance(node := funcargs[fixture], KafkaNode):
                report.sections.append((f"end of the log of {fixture}", node.log_tail()))
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a session without one passing broker test has not tested the agent."""
    if IN_CI and not session.config.option.collectonly and not session.config.stash.get(passed, 0):
        session.config.stash.setdefault(missing, "no broker test ran")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says loudly what was not tested, and why."""
    if reason := config.stash.get(missing, None):
        terminalreporter.section("THE REAL KAFKA BROKER WAS NOT TESTED", red=True, bold=True)
        terminalreporter.write_line(reason)
