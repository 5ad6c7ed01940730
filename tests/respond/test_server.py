import gzip
import http.client
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from agent.errors import StartError
from agent.respond import server as module
from agent.respond.expose import Runtime, render
from agent.respond.server import Server
from agent.respond.view import MetricValue, View
from tests.respond.examples import evidence, model, monitor, version, view, window


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock() -> Clock:
    """The server's clock, to be moved."""
    return Clock()


@pytest.fixture
def server(clock: Clock) -> Iterator[Server]:
    """A server on a free port."""
    running = Server("127.0.0.1", 0, clock, live_s=30)
    running.start()
    yield running
    running.close()


def get(
    server: Server, path: str, method: str = "GET", **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """One request over a real connection."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): v for name, v in headers.items()})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def raw(server: Server, request: bytes) -> bytes:
    """Whatever comes back for these bytes, to the end."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        try:
            connection.sendall(request)
            with suppress(OSError):  # cut off already: not connected, on Linux
                connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))
        except ConnectionError:
            return b""


def test_metrics_are_those_of_the_last_published_view(server: Server) -> None:
    """A scrape sees the last published view, byte for byte, with the text format's content type."""
    for commits in (view(), view(model("other"))):
        server.publish(commits, Runtime(connected=True))
        code, headers, body = get(server, "/metrics?x=1")
        assert (code, body) == (200, render(commits, Runtime(connected=True)))
        assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    ("accepts", "zipped"),
    [("gzip", True), ("deflate, GZIP;q=0.5", True), ("gzip;q=0", False), ("identity", False), ("", False)],
)
def test_gzip_where_it_is_accepted(server: Server, accepts: str, zipped: bool) -> None:
    """The same content, packed for whoever asks for it."""
    server.publish(view())
    _, headers, body = get(server, "/metrics", Accept_Encoding=accepts)
    assert (headers["Content-Encoding"] == "gzip") is zipped
    assert (gzip.decompress(body) if zipped else body) == render(view())


def test_status_is_strict_json_of_everything(server: Server) -> None:
    """/status holds what /metrics leaves out, and no NaN."""
    broken = window()
    values = {"accuracy": MetricValue(math.nan, 3), "recall[a b]": MetricValue(0.5, 3)}
    broken = type(broken)(0, 1, {"": values}, {"": 3})
    found = evidence(math.inf)
    server.publish(
        view(model(versions=[version(windows={"lifetime": broken})], monitors=[monitor(found=found)]))
    )
    code, headers, body = get(server, "/status")
    assert (code, headers["Content-Type"]) == (200, "application/json")
    shown = json.loads(body, parse_constant=pytest.fail)
    credit = shown["models"]["credit"]
    metrics = credit["versions"]["v1"]["windows"]["lifetime"]["metrics"][""]
    assert metrics["accuracy"]["value"] is None
    assert metrics["recall[a b]"]["value"] == 0.5
    assert credit["monitors"][0]["key"]["detector"] == "rate_drop"
    assert credit["monitors"][0]["evidence"]["verdict"] == "alarm"
    assert credit["monitors"][0]["evidence"]["ratio"] is None
    assert shown["positions"] == [{"topic": "predictions", "partition": 0, "next_offset": 200}]
    assert {
        "name": "records",
        "labels": {"outcome": "merged", "topic": "predictions"},
        "value": 200,
    } in shown["counters"]


def test_liveness_follows_the_beats(server: Server, clock: Clock) -> None:
    """Alive while the loop beats, not when it has stood still for too long, and again with the next beat."""
    server.beat()
    clock.ahead = 29
    assert get(server, "/livez")[0] == 200
    clock.ahead = 31
    assert get(server, "/livez")[0] == 503
    server.beat()
    assert get(server, "/livez")[0] == 200


def test_ready_once_started_whatever_kafka_does(server: Server, clock: Clock) -> None:
    """Readiness begins with the first beat and stays, though the source is away and the loop stands still."""
    assert get(server, "/readyz")[0] == 503
    server.beat()
    clock.ahead = 3600
    server.publish(View({}, {}, {}, 0, 0.0), Runtime(connected=False))
    assert get(server, "/readyz")[0] == 200


def test_before_the_first_view_metrics_are_served(server: Server) -> None:
    """A scrape during the start gets an answer, not an error."""
    assert get(server, "/metrics")[0] == 200


def test_head_has_the_headers_and_no_body(server: Server) -> None:
    """HEAD is GET without its body."""
    code, headers, body = get(server, "/metrics", "HEAD")
    assert (code, body) == (200, b"")
    assert headers["Content-Length"] == str(len(get(server, "/metrics")[2]))


@pytest.mark.parametrize("path", ["/index.html", "/metrics/", "/../etc/passwd", "/status.json", "*"])
def test_anything_else_is_not_found(server: Server, path: str) -> None:
    """Only the five paths exist, exactly."""
    assert get(server, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "X"])
def test_nothing_but_reading(server: Server, method: str) -> None:
    """Every other method is refused, and told what is allowed."""
    code, headers, _ = get(server, "/metrics", method)
    assert (code, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "request_",
    [
        b"\x00\xff\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 30_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n" + b"".join(b"X-%d: 1\r\n" % i for i in range(200)) + b"\r\n",
        b"",
    ],
)
def test_broken_requests_hurt_nobody(server: Server, request_: bytes) -> None:
    """Garbage and oversized heads get an error or nothing, and the next scrape is served."""
    assert b" 200 " not in raw(server, request_)
    assert get(server, "/metrics")[0] == 200


def test_tricklers_do_not_keep_scrapes_away(
    server: Server, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """A client that sends its head byte by byte is cut off by one deadline for the whole head."""
    monkeypatch.setattr(module, "REQUEST_S", 0.3)
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as slow:
        begin = time.monotonic()
        with pytest.raises(OSError, match=r"."):  # noqa: PT012 - which send fails is the kernel's choice
            while time.monotonic() - begin < 3:
                slow.sendall(b"G")
                time.sleep(0.05)
        assert time.monotonic() - begin < 2


def test_too_many_connections_are_closed_and_later_ones_served(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Idle connections take all the room there is, and no more; once they time out there is room again."""
    monkeypatch.setattr(module, "REQUEST_S", 0.5)
    idle = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(60)]
    try:
        threads = sum("process_request_thread" in t.name for t in threading.enumerate())
        assert threads <= module.MAX_CONNECTIONS
        time.sleep(0.8)
        assert get(server, "/livez")[0] == 200
    finally:
        for connection in idle:
            connection.close()


def test_a_scrape_never_sees_half_a_commit(server: Server) -> None:
    """While views are swapped as fast as can be, every answer is one of them, whole."""
    views = [view(model("a")), view(model("b"), model("c"))]
    whole = {render(one) for one in views}
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for one in views:
                server.publish(one)

    server.publish(views[0])
    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        assert all(get(server, "/metrics")[2] in whole for _ in range(20))
    finally:
        stop.set()
        swapper.join()


def test_a_taken_port_is_said_plainly(server: Server, clock: Callable[[], float]) -> None:
    """A second agent on the same port is told what to change."""
    with pytest.raises(StartError, match=r"http\.port"):
        Server("127.0.0.1", server.port, clock).start()


def test_close_frees_the_port_and_may_be_called_twice(clock: Callable[[], float]) -> None:
    """After close nothing listens, and another server can take the port."""
    first = Server("127.0.0.1", 0, clock)
    first.start()
    port = first.port
    first.close()
    first.close()
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", port), timeout=1)
    second = Server("127.0.0.1", port, clock)
    second.start()
    second.close()
