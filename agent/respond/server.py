"""One HTTP port: the status page /, /metrics, /status, and the probes /livez and /readyz.

Every answer is made from one immutable content object that `publish` swaps in, so that a scrape never waits
for the processing and never sees half a commit. Readiness never depends on Kafka: in a sidecar it would take
the model itself out of traffic. Read-only (GET and HEAD) but for POST /-/reload, which is there only where a
token is configured. No body is ever read. With a certificate it speaks TLS and nothing else; with a gate for
readers, only the probes answer whoever asks.
"""

from __future__ import annotations

import gzip
import io
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import BoundedSemaphore, Thread
from typing import Any
from urllib.parse import parse_qs

import structlog

from agent.errors import StartError
from agent.respond import page, status
from agent.respond.certificate import Certificate
from agent.respond.expose import Runtime, render
from agent.respond.gate import Gate
from agent.respond.view import View

_log = structlog.get_logger()

MAX_HEAD = 16_384
"""Bytes of a request's line and headers together."""

MAX_CONNECTIONS = 32
"""Served at once; one more is closed at once."""

REQUEST_S = 5.0
"""For the whole request to arrive, and again for the answer to be taken."""

LIVE_S = 60.0
"""A processing loop that has not beaten for so long is taken for dead."""

_TEXT = "text/plain; charset=utf-8"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"
_JSON = "application/json"
_HTML = "text/html; charset=utf-8"

_GUARDED = ("/", "/metrics", "/status")
_READ = (*_GUARDED, "/livez", "/readyz")


class _Page:
    def __init__(
        self,
        body: bytes,
        content_type: str,
        code: HTTPStatus = HTTPStatus.OK,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.body, self.content_type, self.code = body, content_type, code
        self.headers = headers or {}

    @cached_property
    def gzipped(self) -> bytes:
        return gzip.compress(self.body, compresslevel=5, mtime=0)


class _Content:
    """What one commit shows. /status and / are written when asked for: most commits are never looked at."""

    def __init__(self, view: View, runtime: Runtime | None, history: page.History) -> None:
        self._view, self._runtime, self.history = view, runtime, history
        self._pages: dict[tuple[str | None, bool], _Page] = {}
        self.metrics = _Page(render(view, runtime), _METRICS)

    @cached_property
    def status(self) -> _Page:
        return _Page(status.to_json(self._view), _JSON)

    def page(self, query: str, stalled_s: float | None) -> _Page:
        """The status page: `model=NAME` for one model, `paused` without refresh; kept, unless it is stale."""
        asked = parse_qs(query, keep_blank_values=True, errors="replace")
        name, paused = asked.get("model", [None])[0], "paused" in asked
        if name is not None and name not in self._view.models:
            return _Page(b"not found: no such model\n", _TEXT, HTTPStatus.NOT_FOUND)
        found = self._pages.get((name, paused))
        if found is None or stalled_s is not None:
            body = page.render(
                self._view, self.history, self._runtime, model_name=name, paused=paused, stalled_s=stalled_s
            )
            found = _Page(body, _HTML, headers=page.HEADERS)
            if stalled_s is None:
                self._pages[name, paused] = found
        return found


class Server:
    """Serves the last published view; `now` is a monotonic clock in seconds."""

    def __init__(
        self,
        host: str,
        port: int,
        now: Callable[[], float],
        live_s: float = LIVE_S,
        reload: tuple[Gate, Callable[[], None]] | None = None,
        readers: Gate | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        self._address = (host, port)
        self._reload = reload
        self._readers = readers
        self.certificate = certificate
        self.now = now
        self._live_s = live_s
        self._last_beat = now()
        self._started = False
        self._content = _Content(View({}, {}, {}, 0, 0.0), None, {})
        self._http: _Http | None = None
        self._thread: Thread | None = None

    def start(self) -> None:
        """Listen. Raises StartError when the port cannot be had."""
        host, port = self._address
        try:
            self._http = _Http(self, self._address)
        except (OSError, OverflowError) as error:
            raise StartError(
                f"cannot listen on {host}:{port}: {error}; set http.host and http.port, or free the port"
            ) from error
        self._thread = Thread(
            target=self._http.serve_forever, args=(0.1,), name="plumbline-http", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port in use, also where the configuration says 0."""
        return int(self._http.server_address[1]) if self._http else self._address[1]

    def publish(self, view: View, runtime: Runtime | None = None) -> None:
        """Show this view from now on; called after a commit, or when the live gauges have changed."""
        self._content = _Content(view, runtime, page.noted(self._content.history, view))

    def beat(self) -> None:
        """The processing loop is alive; the first beat makes the agent ready."""
        self._last_beat = self.now()
        self._started = True

    def close(self) -> None:
        """Stop listening; answers under way have REQUEST_S to be taken."""
        http, thread, self._http, self._thread = self._http, self._thread, None, None
        if http is not None and thread is not None:
            http.shutdown()
            thread.join(REQUEST_S)
            http.server_close()

    def get(self, path: str, query: str, authorization: str) -> _Page:
        """The answer to a GET."""
        if path in _GUARDED and self._readers and not self._readers.allows(authorization):
            return _unauthorized(self._readers)
        return self._page(path, query)

    def _page(self, path: str, query: str = "") -> _Page:
        match path:
            case "/":
                return self._content.page(query, self._stalled_s())
            case "/metrics":
                return self._content.metrics
            case "/status":
                return self._content.status
            case "/livez":
                return _probe(self._stalled_s() is None, "ok", "processing stands still")
            case "/readyz":
                return _probe(self._started, "ok", "starting")
        return _Page(b"not found: try /, /metrics, /status, /livez or /readyz\n", _TEXT, HTTPStatus.NOT_FOUND)

    def post(self, path: str, authorization: str) -> _Page | None:
        """The answer to a POST; None where only reading is allowed.

        A reload waits for the next commit, and the answer not for it: gauges and log tell how it ended.
        """
        if path in _READ:
            return None
        if path != "/-/reload" or self._reload is None:
            return self._page("/-/")
        gate, ask = self._reload
        if not gate.allows(authorization):
            return _unauthorized(gate)
        ask()
        told = b"asked; plumbline_config_last_reload_successful and the log tell how it ended\n"
        return _Page(told, _TEXT, HTTPStatus.ACCEPTED)

    def _stalled_s(self) -> float | None:
        """Seconds since the loop last beat, once they are too many."""
        silent = self.now() - self._last_beat
        return silent if silent > self._live_s else None


def _unauthorized(gate: Gate) -> _Page:
    asks = {"WWW-Authenticate": gate.challenge}
    return _Page(b"a token or password is needed\n", _TEXT, HTTPStatus.UNAUTHORIZED, asks)


def _probe(good: bool, yes: str, no: str) -> _Page:
    code = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
    return _Page(f"{yes if good else no}\n".encode(), _TEXT, code)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a slow reader must not hold up the shutdown
    request_queue_size = 64

    def __init__(self, owner: Server, address: tuple[str, int]) -> None:
        self.owner = owner
        self.slots = BoundedSemaphore(MAX_CONNECTIONS)
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as socketserver has it
        if not self.slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self.slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.slots.release()

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """In the connection's own thread: a handshake that drags on holds up nobody else."""
        if self.owner.certificate is None:
            super().finish_request(request, client_address)
            return
        with self.owner.certificate.wrap(request, REQUEST_S) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """A client that goes away is no error; anything else is ours, and is logged."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            _log.error("http_request_failed", exc_info=error)


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    server_version = "plumbline"
    sys_version = ""
    error_message_format = "%(code)d %(message)s\n"
    error_content_type = _TEXT

    def setup(self) -> None:
        """The whole head is read first, against one deadline: a client cannot hold a thread by trickling."""
        super().setup()
        head = self._read_head()
        self.rfile.close()
        self.rfile = io.BytesIO(head)
        self.connection.settimeout(REQUEST_S)

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self._answer(self.server.owner.get(path, query, self.headers.get("Authorization", "")))

    def do_POST(self) -> None:
        path = self.path.partition("?")[0]
        found = self.server.owner.post(path, self.headers.get("Authorization", ""))
        if found is None:
            self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)
        else:
            self._answer(found)

    def _answer(self, found: _Page) -> None:
        zipped = _accepts_gzip(self.headers.get("Accept-Encoding", ""))
        body = found.gzipped if zipped else found.body
        self.send_response(found.code)
        self.send_header("Content-Type", found.content_type)
        for header, value in found.headers.items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Vary", "Accept-Encoding")
        if zipped:
            self.send_header("Content-Encoding", "gzip")
        self._end(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Errors in plain text; what a client sent is not repeated to it."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            code = HTTPStatus.METHOD_NOT_ALLOWED
        body = f"{code} {HTTPStatus(code).phrase}\n".encode()
        self.send_response(code, HTTPStatus(code).phrase)
        if code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Type", _TEXT)
        self.send_header("Content-Length", str(len(body)))
        self._end(body)

    def log_message(self, format: str, *args: object) -> None:
        """Probes and scrapes are not worth a line each."""

    def _end(self, body: bytes) -> None:
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _read_head(self) -> bytes:
        now = self.server.owner.now
        deadline = now() + REQUEST_S
        head = b""
        with suppress(TimeoutError):
            while b"\r\n\r\n" not in head and len(head) <= MAX_HEAD:
                self.connection.settimeout(max(deadline - now(), 0.001))
                chunk = self.connection.recv(4096)
                if not chunk:
                    break
                head += chunk
        if len(head) > MAX_HEAD or b"\r\n\r\n" not in head:
            return b""
        return head


def _accepts_gzip(header: str) -> bool:
    for part in header.split(","):
        coding, _, weight = part.partition(";")
        if coding.strip().lower() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
