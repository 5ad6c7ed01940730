"""A scraper that outlives the agents it scrapes, and notes each counter that went down."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException

from tests.integration.agent_process import AgentProcess, Series, parse_metrics


@dataclass
class Scraper:
    """Scrapes every 50 ms through all lives of an agent, and notes each counter that went down."""

    scrapes: int = 0
    last: dict[Series, float] = field(default_factory=dict)
    """What may only grow, as last seen."""
    shown: dict[Series, float] = field(default_factory=dict)
    """Everything, as last seen."""
    fell: list[str] = field(default_factory=list)
    running: AgentProcess | None = None

    @contextmanager
    def scraping(self) -> Iterator[None]:
        """Scrape in the background for as long as the block."""
        stop = threading.Event()
        thread = threading.Thread(target=self._loop, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _loop(self, stop: threading.Event) -> None:
        while not stop.wait(0.05):
            if self.running is not None:
                self.scrape(self.running)

    def scrape(self, running: AgentProcess) -> None:
        """Once; a process that is being killed may not answer, or not to the end."""
        try:
            text = running.get("/metrics")[1]
        except (OSError, HTTPException):
            return
        self.shown, growing = parse_metrics(text)
        self.scrapes += 1
        for key in growing:
            if self.shown[key] < self.last.get(key, 0.0):
                self.fell.append(f"{key}: {self.last[key]} → {self.shown[key]}")
        for key in self.last.keys() - self.shown.keys():
            self.fell.append(f"{key}: {self.last[key]} → gone")
        self.last = {key: self.shown[key] for key in growing}
