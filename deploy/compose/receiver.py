"""Stands for pager, ticket system and dead man's switch: prints what Alertmanager sends, line by line.

docker compose -f deploy/compose.yaml logs -f receiver
"""

from __future__ import annotations

import json
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver(BaseHTTPRequestHandler):
    """Takes Alertmanager's webhook (version 4) and any retraining webhook."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        said = describe(json.loads(body))
        if said:
            print(f"{(self.headers.get('Host') or '').partition('.')[0]:8} {said}", flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """The lines above are the log."""


def describe(event: Any) -> str:  # noqa: ANN401 - any JSON document
    """A notification in words; nothing for the switch that only has to keep coming."""
    if not isinstance(event, dict) or "alerts" not in event:
        return json.dumps(event)
    alerts = [a for a in event["alerts"] if a["labels"].get("alertname") != "PlumblineWatchdog"]
    if not alerts:
        return ""
    told = "; ".join(f"[{a['status']}] {a['annotations'].get('summary', a['labels'])}" for a in alerts)
    return f"{event['status'].upper()} {told}"


def main() -> None:
    """Serve until SIGTERM."""
    server = ThreadingHTTPServer(("", 80), Receiver)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()


if __name__ == "__main__":
    main()
