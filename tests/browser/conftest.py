"""The real browser of these tests: without one they are skipped loudly, and in CI they fail."""

import os
from collections.abc import Iterator

import pytest

from tests.browser.chromium import Tab, find, running

IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}
NONE = "no Chromium on PATH (Debian: apt-get install chromium)"

missing = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def tab(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Tab]:
    """One page of a browser with an empty profile."""
    path = find()
    if path is None:
        pytestconfig.stash[missing] = True
        if IN_CI:
            pytest.fail(f"CI needs a real browser: {NONE}", pytrace=False)
        pytest.skip(NONE)
    with running(path, tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says loudly what was not tested, and why."""
    if config.stash.get(missing, False):
        terminalreporter.section("THE STATUS PAGE WAS NOT TESTED IN A BROWSER", red=True, bold=True)
        terminalreporter.write_line(NONE)
