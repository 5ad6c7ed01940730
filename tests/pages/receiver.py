"""Where pages and tickets arrive: a webhook, and the incidents that a pager makes of its messages."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Label = frozenset[tuple[str, str]]


@dataclass
class Incident:
    """One group from its first firing notification to its resolution: a pager goes by the group's key."""

    receiver: str
    group: str
    opened_s: float
    resolved_s: float | None = None
    alerts: set[Label] = field(default_factory=set)
    notifications: int = 0
    texts: set[str] = field(default_factory=set)
    history: list[str] = field(default_factory=list)
    """Each message: when it came, its status, and how many of its alerts fire."""


class Receiver:
    """A local HTTP server that takes Alertmanager's webhooks; the path is the receiver's name."""

    def __init__(self) -> None:
        self.incidents: list[Incident] = []
        self.heartbeats = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.port = int(self._server.server_address[1])

    @contextmanager
    def serving(self) -> Iterator[Receiver]:
        """Listen for the length of the block."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def open(self, receiver: str) -> list[Incident]:
        """Incidents of a receiver that are not resolved."""
        with self._lock:
            return [i for i in self.incidents if i.receiver == receiver and i.resolved_s is None]

    def take(self, receiver: str, message: dict[str, Any]) -> None:
        """One notification."""
        now = time.time()
        with self._lock:
            if receiver == "snitch":
                self.heartbeats += 1
                return
            key = str(message["groupKey"])
            held = [
                i for i in self.incidents if (i.receiver, i.group) == (receiver, key) and i.resolved_s is None
            ]
            firing = [alert for alert in message["alerts"] if alert["status"] == "firing"]
            if firing and not held:
                held = [Incident(receiver, key, now)]
                self.incidents += held
            for incident in held:
                incident.notifications += 1
                incident.history.append(
                    f"{now:.1f} {message['status']} {len(firing)} of {len(message['alerts'])}"
                )
                incident.alerts |= {frozenset(alert["labels"].items()) for alert in firing}
                incident.texts |= {text for alert in firing for text in alert["annotations"].values()}
                if message["status"] == "resolved":
                    incident.resolved_s = now


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.take(self.path.strip("/"), json.loads(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """What arrives is remembered, not printed."""

    return Handler
