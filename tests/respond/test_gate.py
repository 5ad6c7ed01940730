"""The one call that changes something: where it exists, and for whom."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.respond.gate import Gate
from agent.respond.server import Server

TOKEN = "s3cret/=t\u00f6ken"


@contextmanager
def serving(
    gate: Gate | None, ask: Callable[[], object] = lambda: pytest.fail("asked")
) -> Iterator[Callable[..., tuple[int, dict[str, str], bytes]]]:
    """A server with or without a gate; yields one request over a real connection."""
    server = Server("127.0.0.1", 0, time.monotonic, reload=(gate, lambda: (ask(), None)[1]) if gate else None)
    server.start()

    def request(
        authorization: bytes | None, path: str = "/-/reload", method: str = "POST", body: bytes | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        headers = {} if authorization is None else {"Authorization": authorization}
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        found = answer.status, dict(answer.headers), answer.read()
        connection.close()
        return found

    try:
        yield request
    finally:
        server.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A token as an editor or Kubernetes writes it."""
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    return path


def bearer(token: str = TOKEN, scheme: str = "Bearer") -> bytes:
    return f"{scheme} {token}".encode()


def test_without_a_token_file_there_is_no_such_call() -> None:
    """The answer is that of any path that does not exist, whatever is sent along."""
    with serving(None) as request:
        for authorization in (None, bearer(), b"Bearer "):
            code, headers, body = request(authorization)
            assert (code, body) == (404, request(None, "/nowhere", "GET")[2])
            assert "WWW-Authenticate" not in headers


@pytest.mark.parametrize(
    "authorization",
    [
        *(None, b"", b"Bearer", b"Bearer ", b"Bearer wrong", b"\xff \xff", bearer(scheme="Basic")),
        *(TOKEN.encode(), bearer(TOKEN[:-1]), bearer(TOKEN + "x"), bearer(TOKEN.upper())),
    ],
)
def test_without_the_right_token_nothing_is_asked(file: Path, authorization: bytes | None) -> None:
    """401, told that a bearer token is needed, and nothing happens."""
    asked: list[bool] = []
    with serving(Gate(file), lambda: asked.append(True)) as request:
        code, headers, body = request(authorization)
    assert (code, headers["WWW-Authenticate"], asked) == (401, "Bearer", [])
    assert TOKEN.encode() not in body


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
@pytest.mark.parametrize("body", [None, b"{}"])
def test_the_right_token_asks_once(file: Path, scheme: str, body: bytes | None) -> None:
    """202 at once, with or without a body; how it ends is told by gauges and log."""
    asked: list[bool] = []
    with serving(Gate(file), lambda: asked.append(True)) as request:
        code, headers, _ = request(bearer(scheme=scheme), body=body)
    assert (code, asked) == (202, [True])
    assert headers["Cache-Control"] == "no-store"


def test_a_rotated_token_counts_at_once(file: Path) -> None:
    """The old one no longer opens, the new one does, without a restart."""
    with serving(Gate(file), lambda: None) as request:
        assert request(bearer())[0] == 202
        file.write_text("another")
        assert [request(bearer())[0], request(bearer("another"))[0]] == [401, 202]


@pytest.mark.parametrize(
    "spoil", [lambda f: f.unlink(), lambda f: f.write_text(" \n")], ids=["gone", "empty"]
)
def test_a_missing_or_empty_token_opens_to_nobody(file: Path, spoil: Callable[[Path], object]) -> None:
    """Above all no empty token to an empty file; the log says why, and no token."""
    spoil(file)
    with capture_logs() as logs, serving(Gate(file)) as request:
        assert [request(a)[0] for a in (b"Bearer ", b"Bearer", None, bearer())] == [401] * 4
    assert len({line["event"] for line in logs} & {"http_secret_unreadable", "http_secret_empty"}) == 1
    assert TOKEN not in str(logs)


def test_reading_stays_reading(file: Path) -> None:
    """GET asks for no reload, and a POST changes nothing anywhere else, even with the token."""
    with serving(Gate(file)) as request:
        assert request(bearer(), method="GET")[0] == 404
        assert [request(bearer(), path)[0] for path in ("/", "/metrics", "/readyz")] == [405] * 3
        assert [request(bearer(), path)[0] for path in ("/-/reload/", "/-/quit", "/nowhere")] == [404] * 3
