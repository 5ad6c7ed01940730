"""The HTTP port with TLS and a gate: who reads, who does not, and who cannot hold it up."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from agent.errors import ConfigError
from agent.respond import server as module
from agent.respond.certificate import Certificate
from agent.respond.gate import Gate
from agent.respond.server import Server
from tests import certificates
from tests.certificates import Authority
from tests.kafka_node import _free_ports
from tests.respond.examples import view

TOKEN, USER, PASSWORD = "t0ken/of=prometheus", "on-call", "p\u00e4ssword:with colon"

needs_openssl = pytest.mark.skipif(not certificates.PRESENT, reason="no openssl to make certificates with")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates")


@pytest.fixture
def readers(tmp_path: Path) -> Gate:
    """A token and a user, each with its secret in a file as an editor writes it."""
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "password").write_text(PASSWORD + "\n")
    return Gate(tmp_path / "token", USER, tmp_path / "password")


@pytest.fixture
def server(authority: Authority, readers: Gate) -> Iterator[Server]:
    """TLS and a gate, on a free port."""
    leaf = authority.sign("agent")
    running = Server(
        "127.0.0.1", 0, time.monotonic, readers=readers, certificate=Certificate(leaf.cert, leaf.key)
    )
    running.start()
    running.publish(view())
    running.beat()
    yield running
    running.close()


def get(
    server: Server, authority: Authority, path: str, authorization: str | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    trusting = ssl.create_default_context(cafile=str(authority.cert))
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=10, context=trusting)
    try:
        connection.request("GET", path, headers={"Authorization": authorization} if authorization else {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@needs_openssl
def test_token_and_password_open_and_probes_are_open(server: Server, authority: Authority) -> None:
    """Either secret reads everything; without one only the probes answer, and the answer asks for one."""
    for path in ("/", "/metrics", "/status"):
        assert get(server, authority, path, f"Bearer {TOKEN}")[0] == 200
        assert get(server, authority, path, basic(USER, PASSWORD))[0] == 200
        code, headers, body = get(server, authority, path)
        assert (code, headers["WWW-Authenticate"]) == (401, 'Basic realm="plumbline", Bearer')
        assert b"plumbline_" not in body
    assert [get(server, authority, path)[0] for path in ("/livez", "/readyz", "/nowhere")] == [200, 200, 404]


@needs_openssl
@pytest.mark.parametrize(
    "authorization",
    [
        *(
            "Bearer",
            "Bearer ",
            "Bearer wrong",
            f"Basic {TOKEN}",
            TOKEN,
            f"Bearer {TOKEN}x",
            f"Bearer {PASSWORD}",
        ),
        *(
            basic(USER, ""),
            basic("", PASSWORD),
            basic(USER, TOKEN),
            basic("other", PASSWORD),
            "Basic",
            "Basic !",
        ),
    ],
)
def test_nothing_else_opens(server: Server, authority: Authority, authorization: str) -> None:
    """A wrong, swapped, cut or empty secret reads nothing."""
    code, _, body = get(server, authority, "/metrics", authorization)
    assert code == 401
    assert TOKEN.encode() not in body
    assert PASSWORD.encode() not in body


@needs_openssl
@pytest.mark.parametrize(
    "path", ["/../etc/passwd", "/metrics/../../etc/passwd", "/%2e%2e/etc/passwd", "/metrics%00"]
)
def test_a_path_leads_nowhere_but_to_the_five(server: Server, authority: Authority, path: str) -> None:
    """There is nothing on disk to walk to, with or without the secret."""
    assert get(server, authority, path, f"Bearer {TOKEN}")[0] == 404
    assert get(server, authority, path)[0] == 404


@needs_openssl
def test_a_renewed_certificate_counts_at_once(server: Server, authority: Authority) -> None:
    """The next connection sees the new one; half a pair leaves the last good one in force."""

    def serial() -> object:
        trusting = ssl.create_default_context(cafile=str(authority.cert))
        plain = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        with trusting.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
            return (secured.getpeercert() or {})["serialNumber"]

    first = serial()
    leaf = authority.sign("agent")
    second = serial()
    assert first != second
    leaf.key.write_text("half written")
    assert serial() == second


@needs_openssl
def test_nothing_is_said_in_the_clear(server: Server) -> None:
    """A client without TLS gets no byte of HTTP."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain:
        plain.sendall(f"GET /metrics HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
        heard = b""
        with suppress(ConnectionResetError):
            while chunk := plain.recv(65536):
                heard += chunk
        assert b"HTTP" not in heard


@needs_openssl
def test_a_handshake_that_drags_on_is_cut_off(
    server: Server, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tricklers of a handshake are bounded by one deadline, and a scrape meanwhile is served."""
    monkeypatch.setattr(module, "REQUEST_S", 2.0)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as slow:
        slow.sendall(b"\x16")
        assert get(server, authority, "/livez")[0] == 200
        begin = time.monotonic()
        hello = b"\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(400)
        with pytest.raises(OSError, match=r"."):  # noqa: PT012 - which send fails is the kernel's choice
            for byte in hello:
                slow.sendall(bytes([byte]))
                time.sleep(0.05)
        assert time.monotonic() - begin < 15


@needs_openssl
@pytest.mark.parametrize(
    "spoil",
    [
        lambda leaf, other: leaf.key.unlink(),
        lambda leaf, other: leaf.cert.write_text("no PEM"),
        lambda leaf, other: leaf.key.write_text(other.key.read_text()),
    ],
    ids=["gone", "no PEM", "not a pair"],
)
def test_a_certificate_that_cannot_be_used_is_named(
    authority: Authority, spoil: Callable[..., object]
) -> None:
    """At the start the files and the remedy are told; nothing is served instead."""
    leaf = authority.sign("agent")
    spoil(leaf, authority.sign("other"))
    with pytest.raises(ConfigError, match=r"http\.tls_cert_file: .*agent\.crt with .*agent\.key") as caught:
        Certificate(leaf.cert, leaf.key)
    assert "Name PEM files" in str(caught.value)


@needs_openssl
def test_a_key_with_a_password_is_refused_and_asks_no_terminal(authority: Authority) -> None:
    """The agent starts unattended: a prompt would hang it."""
    leaf = authority.sign("agent", password="of-the-key")
    with pytest.raises(ConfigError, match="a key with a password"):
        Certificate(leaf.cert, leaf.key)


@needs_openssl
@pytest.mark.skipif(not shutil.which("prometheus"), reason="no prometheus on PATH")
@pytest.mark.parametrize("way", ["bearer", "basic", "wrong"])
def test_prometheus_scrapes_through_tls_and_gate(
    server: Server, authority: Authority, readers: Gate, tmp_path: Path, way: str
) -> None:
    """A real Prometheus reads with token or password, and says 401 with a wrong one."""
    (tmp_path / "wrong").write_text("wrong")
    login: dict[str, object] = {"authorization": {"credentials_file": str(readers.token_file)}}
    if way == "basic":
        login = {"basic_auth": {"username": USER, "password_file": str(readers.password_file)}}
    elif way == "wrong":
        login = {"authorization": {"credentials_file": str(tmp_path / "wrong")}}
    job = {
        "job_name": "plumbline",
        "scheme": "https",
        "tls_config": {"ca_file": str(authority.cert)},
        "static_configs": [{"targets": [f"127.0.0.1:{server.port}"]}],
        **login,
    }
    config = tmp_path / "prometheus.yaml"
    config.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}))
    (port,) = _free_ports(1)
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log
        )
    try:
        target = _scraped(f"http://127.0.0.1:{port}/api/v1/targets")
    finally:
        process.kill()
        process.wait()
    if way == "wrong":
        assert "401" in target["lastError"]
    else:
        assert (target["health"], target["lastError"]) == ("up", "")


def _scraped(url: str) -> dict[str, str]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                for target in json.load(answer)["data"]["activeTargets"]:
                    if target["health"] != "unknown":
                        return dict(target)
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError("never scraped")
