from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agent import runner
from agent.demo import demo_config, learn_baseline
from agent.ingest.demo import DemoSource
from agent.ingest.story import BY_NAME, MODEL
from agent.respond import page
from agent.respond.expose import Runtime
from agent.respond.server import Server
from agent.respond.teller import Teller
from agent.respond.view import View
from tests.browser.chromium import Tab
from tests.respond.test_page import HOSTILE, everywhere

CONTRAST = Path(__file__).with_name("contrast.js").read_text("utf-8")
SHOWN = BY_NAME["unfair"].end - 30
"""Minute of the story when the page is looked at: both fairness pages are active, version 1 still serves."""


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> list[View]:
    """Every commit of the demo's story up to its fairness break, made by the real agent."""
    folder = tmp_path_factory.mktemp("demo")
    learn_baseline(demo_config(folder, 0), 1).save(folder / "baseline.json")
    config = demo_config(folder / "state", 0, folder / "baseline.json", commit_seconds=0.05)
    views: list[View] = []
    teller, stop = Teller(), threading.Event()

    def hear(view: View) -> None:
        teller.tell(view)
        if teller.minute < SHOWN:
            views.append(view)
        else:
            stop.set()

    runner.run(config, DemoSource(1, math.inf), stop=stop, on_commit=hear, serve=False)
    return views


@pytest.fixture
def server() -> Iterator[Server]:
    """The agent's real server."""
    running = Server("127.0.0.1", 0, time.monotonic)
    running.start()
    running.beat()
    yield running
    running.close()


@pytest.fixture
def told(server: Server, story: list[View]) -> str:
    """Where the story stands at the fairness break, its history behind it."""
    for view in story:
        server.publish(view, Runtime(connected=True))
    return address(server)


def address(server: Server, query: str = "") -> str:
    return f"http://127.0.0.1:{server.port}/{query}"


def text(tab: Tab) -> str:
    return str(tab.evaluate("document.body.innerText"))


@pytest.mark.slow
def test_the_page_tells_the_fairness_break(tab: Tab, told: str) -> None:
    """A reader sees the broken red lines first, then the vital numbers with their lines, and all records."""
    tab.open(told)
    seen = text(tab)
    assert seen.index(f"{MODEL}: 2 red lines are broken") < seen.index("Vital numbers")
    for said in (
        "Selection rate of sex=female is out of proportion",
        "False positive rate of sex=female is out of proportion",
        "Accuracy is worse than tolerated",
        "A red line is broken",
        "Drift, and the model has become worse with it",
    ):
        assert said in seen
    assert tab.evaluate("document.querySelectorAll('.vital svg.spark polyline').length") >= 5
    assert tab.evaluate("document.title") == "2 red · Plumbline"
    assert tab.evaluate("document.querySelectorAll('h1').length") == 1
    assert (
        tab.evaluate("[...document.querySelectorAll('.badge.ok')].filter(b => b.innerText === 'yes').length")
        == 2
    )


@pytest.mark.slow
def test_one_request_and_a_silent_console(tab: Tab, told: str) -> None:
    """The document is all that is asked for, of its own host alone, and the browser has no complaint."""
    for dark in (False, True):
        tab.open(told, dark=dark)
        time.sleep(0.3)  # what is still to come, comes
        asked = [url for url in tab.requests() if urlsplit(url).scheme != "data"]
        assert asked == [told]
        assert tab.complaints() == []


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_text_can_be_read(tab: Tab, told: str, dark: bool, width: int) -> None:
    """WCAG AA contrast of all text (4.5, large 3) and lines (3), by the colours the browser computed."""
    tab.open(told, width, dark=dark, phone=width < 500)
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = tab.evaluate(CONTRAST)
    assert found["texts"] > 200
    assert found["found"] == []
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(18, 23, 29)" if dark else "rgb(244, 245, 247)"
    )


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_scrolls_sideways(tab: Tab, told: str, width: int) -> None:
    """Neither the page nor a part of it is wider than the screen, with everything unfolded."""
    tab.open(told, width, 844, phone=width < 500)
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    shown = "[...document.querySelectorAll('main *')].filter(e => !e.closest('thead'))"
    wide = f"{shown}.filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
    assert tab.evaluate(f"{wide}.map(e => e.outerHTML.slice(0, 80))") == []


@pytest.mark.slow
def test_hostile_names_do_nothing(tab: Tab, server: Server) -> None:
    """With markup for every name, no script, style or image of a stranger comes to life, at no width."""
    server.publish(everywhere(HOSTILE))
    for width in (390, 1280):
        tab.open(address(server), width, phone=width < 500)
        assert tab.evaluate("document.querySelectorAll('script, img, iframe').length") == 0
        assert "<script>alert(1)</script>" in text(tab)
        assert tab.complaints() == []
        assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_the_policy_would_stop_what_got_through(
    tab: Tab, server: Server, story: list[View], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were a script, a style or an image of a stranger ever in the page, the browser would refuse it."""
    real = page.render

    def leaky(*args: object, **how: object) -> bytes:
        body = real(*args, **how)  # type: ignore[arg-type]
        return body + b"<script>document.title='owned'</script><img src=//127.0.0.2/x><p style=color:red>"

    monkeypatch.setattr(page, "render", leaky)
    server.publish(story[-1])
    tab.open(address(server))
    assert tab.evaluate("document.title") != "owned"
    assert len([told for told in tab.complaints() if "Content Security Policy" in told]) == 3
    assert all(urlsplit(url).hostname in (None, "127.0.0.1") or "blocked" for url in tab.requests())


def test_it_refreshes_itself_without_scripts(
    tab: Tab, server: Server, story: list[View], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With JavaScript off the page is whole, and a new commit shows by itself; paused it stays."""
    monkeypatch.setattr(page, "REFRESH_S", 1)
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        server.publish(View({}, {}, {}, 0, 0.0))
        tab.open(address(server))
        assert "No model has been seen yet" in text(tab)
        server.publish(story[-1])
        tab.wait("Page.loadEventFired", times=2)
        assert f"{MODEL}: 2 red lines are broken" in text(tab)
        tab.open(address(server, "?paused"))
        time.sleep(1.5)
        assert len(tab.requests()) == 1
    finally:
        tab.call("Emulation.setScriptExecutionDisabled", value=False)
