import base64
import ipaddress
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from agent.config import WebhookConfig
from agent.respond import request, webhook
from agent.respond.delivery import PREFIX, Deliveries, Report, Tried, wanted
from agent.respond.outbox import OutboxMessage, event_message
from agent.respond.webhook import Answer, Outcome, allowed, body, post
from agent.store import Changes, Store

OLD = "whsec_" + base64.b64encode(b"o" * 32).decode()
NEW = "whsec_" + base64.b64encode(b"n" * 32).decode()
Reply = Callable[["_Handler"], None]


@dataclass
class Seen:
    """One request as the receiver saw it."""

    path: str
    headers: dict[str, str]
    body: bytes
    answered: bool = False


@dataclass
class Receiver:
    """A real HTTP receiver that behaves as scripted, and de-duplicates by webhook-id."""

    port: int
    script: list[Reply] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    effects: list[str] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)

    def act(self, request: Seen) -> None:
        """The receiver's effect, once per id."""
        if request.headers["webhook-id"] not in self.effects:
            self.effects.append(request.headers["webhook-id"])


class _Handler(BaseHTTPRequestHandler):
    receiver: ClassVar[Receiver]

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        self.seen = Seen(self.path, {k.lower(): v for k, v in self.headers.items()}, content)
        self.receiver.seen.append(self.seen)
        reply = self.receiver.script.pop(0) if self.receiver.script else takes()
        reply(self)

    def do_GET(self) -> None:
        self.receiver.effects.append("followed a redirect")
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def answers(code: int, **headers: str) -> Reply:
    """Refuses with a status."""

    def reply(handler: _Handler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return reply


def takes(code: int = 204) -> Reply:
    """Acts, and says so."""

    def reply(handler: _Handler) -> None:
        handler.receiver.act(handler.seen)
        handler.send_response(code)
        handler.end_headers()

    return reply


def loses_the_answer(handler: _Handler) -> None:
    """Acts, and is gone before it could say so."""
    handler.receiver.act(handler.seen)
    handler.connection.shutdown(socket.SHUT_RDWR)


def hangs(handler: _Handler) -> None:
    """Neither acts nor answers."""
    handler.receiver.release.wait(20)


def drips(handler: _Handler) -> None:
    """Answers a byte at a time, each within any time-out of a single read."""
    try:
        for byte in b"HTTP/1.1 200 OK\r\nx: " + b"y" * 1000:
            handler.wfile.write(bytes([byte]))
            if handler.receiver.release.wait(0.1):
                return
    except OSError:
        return


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A running receiver."""

    class Handler(_Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Handler.receiver = Receiver(server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield Handler.receiver
    Handler.receiver.release.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def keys(tmp_path: Path) -> list[Path]:
    """Two secrets in files."""
    paths = [tmp_path / "new", tmp_path / "old"]
    for path, text in zip(paths, (NEW, OLD), strict=True):
        path.write_text(text + "\n")
    return paths


def config(receiver: Receiver, keys: Sequence[Path], **changes: object) -> WebhookConfig:
    """A webhook to the receiver."""
    values = {
        "name": "hook",
        "url": f"http://localhost:{receiver.port}/retrain?x=1",
        "secret_files": list(keys),
        "allow_private": True,
        "timeout": timedelta(seconds=0.5),
    }
    return WebhookConfig.model_validate(values | changes)


def event(identity: str = "id-1", kind: str = request.REQUESTED) -> dict[str, Any]:
    """A small event."""
    made = request.cloud_event(kind, identity, identity, "credit", 1_785_585_600_000)
    return made | {"data": {"model_name": "credit", "reason": "performance_drop"}}


def row(number: int, kind: str = request.REQUESTED) -> tuple[OutboxMessage, Tried]:
    """An outbox row for the webhook."""
    message = event_message(event(f"id-{number}", kind))
    return OutboxMessage(number, PREFIX + "hook", *message), Tried()


@contextmanager
def deliveries(*configs: WebhookConfig, **options: Any) -> Iterator[Deliveries]:  # noqa: ANN401 - of Deliveries
    """Deliveries that retry in no time."""
    made = Deliveries(configs, time.time, **{"first_retry_s": 0.02, **options})
    try:
        yield made
    finally:
        made.close()


def collected(running: Deliveries, rows: Sequence[tuple[OutboxMessage, Tried]], n: int) -> Report:
    """Offer as the loop does until so many rows are done with."""
    total, left = Report(), list(rows)
    deadline = time.monotonic() + 15
    while len(total.done) < n:
        assert time.monotonic() < deadline, total
        running.offer(left)
        time.sleep(0.01)
        report = running.take()
        total.done += report.done
        total.attempts += report.attempts
        total.given_up += report.given_up
        total.tried |= report.tried
        left = [(m, report.tried.get(m.id, t)) for m, t in left if m.id not in total.done]
    return total


def test_a_signature_verifies_with_an_independent_library(receiver: Receiver, keys: list[Path]) -> None:
    """Old and new secret both verify; a changed body, id or secret does not."""
    assert post(config(receiver, keys), request.encode(event()), time.time()) == Answer(Outcome.DELIVERED)
    [seen] = receiver.seen
    assert seen.path == "/retrain?x=1"
    assert seen.headers["host"] == f"localhost:{receiver.port}"
    assert seen.headers["webhook-id"] == "id-1"
    for secret in (OLD, NEW):
        assert Webhook(secret).verify(seen.body, seen.headers) == event()
    changed = (
        (OLD, seen.body + b" ", seen.headers),
        (OLD, seen.body, seen.headers | {"webhook-id": "id-2"}),
        ("whsec_" + base64.b64encode(b"x" * 32).decode(), seen.body, seen.headers),
    )
    for secret, content, headers in changed:
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(content, headers)


def test_each_attempt_signs_its_own_time(receiver: Receiver, keys: list[Path]) -> None:
    """A repetition has the same id and body, but the time of the attempt, and verifies."""
    hook = config(receiver, keys)
    for seconds in (0, 100):
        post(hook, request.encode(event()), time.time() + seconds)
    first, second = receiver.seen
    assert first.body == second.body
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) in (
        99,
        100,
        101,
    )
    Webhook(NEW).verify(second.body, second.headers)


def test_rotation_needs_no_restart(receiver: Receiver, keys: list[Path]) -> None:
    """A secret is read at each attempt: replaced in its file, the next attempt is signed with the new one."""
    hook = config(receiver, keys[:1])
    post(hook, request.encode(event()), time.time())
    keys[0].write_text(OLD)
    post(hook, request.encode(event()), time.time())
    Webhook(NEW).verify(receiver.seen[0].body, receiver.seen[0].headers)
    Webhook(OLD).verify(receiver.seen[1].body, receiver.seen[1].headers)


def test_secrets_come_from_the_environment_too(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """One variable may hold several; without it nothing is sent unsigned."""
    hook = config(receiver, [], secret_env="HOOK_SECRETS")
    assert post(hook, request.encode(event()), time.time()).outcome is Outcome.SECRET_MISSING
    assert receiver.seen == []
    monkeypatch.setenv("HOOK_SECRETS", f"{NEW} {OLD}")
    post(hook, request.encode(event()), time.time())
    Webhook(OLD).verify(receiver.seen[0].body, receiver.seen[0].headers)


@pytest.mark.parametrize("text", ["", "whsec_!", "whsec_c2hvcnQ=", "a\nb"])
def test_what_is_no_secret_sends_nothing(receiver: Receiver, tmp_path: Path, text: str) -> None:
    """An empty, broken or short secret is told, never used."""
    (tmp_path / "bad").write_text(text)
    hook = config(receiver, [tmp_path / "bad"])
    assert post(hook, request.encode(event()), time.time()).outcome is Outcome.SECRET_MISSING
    assert receiver.seen == []


def test_a_header_comes_from_its_file(receiver: Receiver, keys: list[Path], tmp_path: Path) -> None:
    """An Authorization header is sent as its file has it, and a file of two lines is refused."""
    (tmp_path / "token").write_text("Bearer abc\n")
    hook = config(receiver, keys, header_files={"Authorization": tmp_path / "token"})
    post(hook, request.encode(event()), time.time())
    assert receiver.seen[0].headers["authorization"] == "Bearer abc"
    (tmp_path / "token").write_text("Bearer abc\r\nx-injected: 1")
    assert post(hook, request.encode(event()), time.time()).outcome is Outcome.SECRET_MISSING


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (takes(200), Outcome.DELIVERED),
        (answers(301, location="/elsewhere"), Outcome.REDIRECTED),
        (answers(307, location="/elsewhere"), Outcome.REDIRECTED),
        (answers(400), Outcome.REFUSED),
        (answers(409), Outcome.REFUSED),
        (answers(410), Outcome.GONE),
        (answers(429), Outcome.THROTTLED),
        (answers(500), Outcome.SERVER_ERROR),
        (hangs, Outcome.TIMEOUT),
        (drips, Outcome.TIMEOUT),
        (loses_the_answer, Outcome.UNREACHABLE),
    ],
)
def test_what_an_answer_means(receiver: Receiver, keys: list[Path], reply: Reply, outcome: Outcome) -> None:
    """Only 2xx is success; a redirect is a failure and is not followed; nothing outlasts the time-out."""
    receiver.script = [reply]
    began = time.monotonic()
    assert post(config(receiver, keys), request.encode(event()), time.time()).outcome is outcome
    assert time.monotonic() - began < 2
    assert len(receiver.seen) == 1
    assert "followed a redirect" not in receiver.effects


def test_nobody_listening_is_told(receiver: Receiver, keys: list[Path]) -> None:
    """A closed port and a name that does not exist are unreachable, not an exception."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = config(receiver, keys, url=f"http://127.0.0.1:{free.getsockname()[1]}/")
        assert post(closed, request.encode(event()), time.time()).outcome is Outcome.UNREACHABLE
    nowhere = config(receiver, keys, url="http://no-such-host.invalid/")
    assert post(nowhere, request.encode(event()), time.time()).outcome is Outcome.UNREACHABLE


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_tls_is_checked_against_the_name_not_the_address(tmp_path: Path, keys: list[Path]) -> None:
    """The connection goes to an address, the certificate must still be of the configured host and trusted."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    )
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    class Handler(_Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # handshakes that fail are the test
    server.socket = context.wrap_socket(server.socket, server_side=True)
    Handler.receiver = Receiver(server.server_port)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        for host, ca, outcome in (
            ("localhost", cert, Outcome.DELIVERED),
            ("localhost", None, Outcome.UNREACHABLE),
            ("127.0.0.1", cert, Outcome.UNREACHABLE),
        ):
            url = f"https://{host}:{server.server_port}/"
            hook = config(Handler.receiver, keys, url=url, ca_file=ca, timeout=timedelta(seconds=5))
            assert post(hook, request.encode(event()), time.time()).outcome is outcome, (host, ca)
    finally:
        server.shutdown()
        server.server_close()
    assert Handler.receiver.effects == ["id-1"]
    assert len(Handler.receiver.seen) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        ("Sat, 01 Aug 2026 12:02:00 GMT", 120),
        ("999999999", webhook.MAX_RETRY_AFTER_S),
        ("-5", 0),
        ("soon", 0),
        ("Sat, 01 Aug 2020 12:02:00 GMT", 0),
    ],
)
def test_retry_after_is_read(receiver: Receiver, keys: list[Path], header: str, seconds: float) -> None:
    """Seconds and dates are understood, nonsense is none, and a day is the most."""
    receiver.script = [answers(429, retry_after=header)]
    now = datetime(2026, 8, 1, 12, tzinfo=UTC).timestamp()
    answer = post(config(receiver, keys), request.encode(event()), now)
    assert answer == Answer(Outcome.THROTTLED, seconds)


@pytest.mark.parametrize(
    ("address", "public_only", "with_private"),
    [
        ("93.184.215.14", True, True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True, True),
        ("127.0.0.1", False, True),
        ("10.1.2.3", False, True),
        ("192.168.1.1", False, True),
        ("100.64.0.1", False, True),
        ("::1", False, True),
        ("fd00::1", False, True),
        ("::ffff:10.0.0.1", False, True),
        ("64:ff9b::a00:1", False, True),
        ("2002:a00:1::", False, True),
        ("169.254.169.254", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("64:ff9b::a9fe:a9fe", False, False),
        ("fe80::1", False, False),
        ("fd00:ec2::254", False, False),
        ("100.100.100.200", False, False),
        ("0.0.0.0", False, False),
        ("224.0.0.1", False, False),
        ("255.255.255.255", False, False),
    ],
)
def test_whom_a_webhook_may_reach(address: str, public_only: bool, with_private: bool) -> None:
    """Private networks only where allowed; link-local, metadata and multicast never, in no disguise."""
    parsed = ipaddress.ip_address(address)
    assert allowed(parsed, private=False) is public_only
    assert allowed(parsed, private=True) is with_private


def test_a_private_address_is_not_connected_to(receiver: Receiver, keys: list[Path]) -> None:
    """Without allow_private the receiver on loopback gets nothing, however its address is written."""
    for host in ("localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"):
        hook = config(receiver, keys, url=f"https://{host}:{receiver.port}/", allow_private=False)
        assert post(hook, request.encode(event()), time.time()).outcome is Outcome.ADDRESS_REFUSED
    assert receiver.seen == []


def test_the_checked_address_is_the_one_connected_to(
    receiver: Receiver, keys: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is resolved once: what it resolves to afterwards (DNS rebinding) is never asked."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def once(host: str, *rest: Any, **named: Any) -> Any:  # noqa: ANN401 - as socket has it
        asked.append(host)
        return real("127.0.0.1" if host == "rebind.example" else host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", once)
    hook = config(receiver, keys, url=f"http://rebind.example:{receiver.port}/")
    assert post(hook, request.encode(event()), time.time()).outcome is Outcome.DELIVERED
    assert asked.count("rebind.example") == 1
    assert receiver.seen[0].headers["host"] == f"rebind.example:{receiver.port}"


def test_bodies_are_what_each_system_takes() -> None:
    """Each preset's body has that API's own keys, with the event's id where it de-duplicates."""
    made = event()
    assert json.loads(body("generic", made)) == json.loads(body("argo", made)) == made
    assert json.loads(body("airflow", made)) == {"dag_run_id": "id-1", "logical_date": None, "conf": made}
    prefect = json.loads(body("prefect", made))
    assert prefect["idempotency_key"] == "id-1"
    assert prefect["parameters"] == {"event": made}
    github = json.loads(body("github", made))
    assert github["event_type"] == "plumbline-retraining-requested"
    assert len(github["event_type"]) <= 100
    assert len(github["client_payload"]) <= 10
    assert github["client_payload"]["id"] == "id-1"
    assert github["client_payload"]["event"] == made


def test_a_run_that_is_there_already_is_success_for_airflow(receiver: Receiver, keys: list[Path]) -> None:
    """409 is Airflow's word for having acted on an earlier attempt."""
    receiver.script = [answers(409)]
    hook = config(receiver, keys, preset="airflow")
    assert post(hook, request.encode(event()), time.time()).outcome is Outcome.ALREADY_THERE


def test_too_large_a_body_is_never_sent(receiver: Receiver, keys: list[Path]) -> None:
    """Over 20 kB an event is given up rather than refused again and again."""
    large = event() | {"data": {"x": "y" * 20_000}}
    assert post(config(receiver, keys), request.encode(large), time.time()).outcome is Outcome.TOO_LARGE
    assert receiver.seen == []


def test_one_effect_from_a_receiver_that_does_everything_wrong(receiver: Receiver, keys: list[Path]) -> None:
    """It fails, hangs, redirects, throttles and loses answers: each event has one effect."""
    receiver.script = [
        answers(500),
        hangs,
        answers(302, location="/elsewhere"),
        answers(429, retry_after="1"),
        loses_the_answer,
        loses_the_answer,
        answers(503),
        drips,
    ]
    rows = [row(1), row(2), row(3)]
    with deliveries(config(receiver, keys)) as running:
        report = collected(running, rows, 3)
    assert sorted(receiver.effects) == ["id-1", "id-2", "id-3"]
    assert sorted(report.done) == [1, 2, 3]
    assert report.given_up == {}
    assert report.attempts["hook", "delivered"] == 3
    assert sum(report.attempts.values()) == len(receiver.seen) == 8 + 3
    for seen in receiver.seen:
        Webhook(NEW).verify(seen.body, seen.headers)


def test_gone_stops_the_webhook(receiver: Receiver, keys: list[Path]) -> None:
    """After 410 nothing more is sent: the events are given up and counted."""
    receiver.script = [answers(410)]
    with deliveries(config(receiver, keys)) as running:
        report = collected(running, [row(1), row(2), row(3)], 3)
    assert len(receiver.seen) == 1
    assert report.given_up == {("hook", "gone"): 3}


def test_retry_after_is_honoured(receiver: Receiver, keys: list[Path]) -> None:
    """Nothing comes before the receiver's Retry-After is over, though the back-off is shorter."""
    receiver.script = [answers(429, retry_after="1")]
    began = time.monotonic()
    with deliveries(config(receiver, keys)) as running:
        collected(running, [row(1)], 1)
    assert len(receiver.seen) == 2
    assert time.monotonic() - began >= 1


def fails(config: WebhookConfig, content: bytes, now_s: float) -> Answer:
    """A receiver that is down."""
    return Answer(Outcome.SERVER_ERROR)


@given(attempts=st.integers(1, 40), asked=st.floats(0, 86_400))
def test_pauses_grow_are_varied_and_never_too_short(attempts: int, asked: float) -> None:
    """The pause is between the back-off (or Retry-After, if longer) and half as much again."""
    with _stopped(asked) as running:
        running.offer([(row(1)[0], Tried(attempts, 900.0, 0.0))])
        running.settle(5.0)
        tried = running.take().tried[1]
    least = max(min(5.0 * 3.0**attempts, 3600.0), asked)
    assert least <= tried.next_s - 1000.0 <= 1.5 * least
    assert (tried.attempts, tried.first_s) == (attempts + 1, 900.0)


@contextmanager
def _stopped(asked: float) -> Iterator[Deliveries]:
    """Deliveries whose clock stands still, to a receiver that wants to be left alone so long."""
    hook = WebhookConfig(name="hook", url="https://example.org/")
    made = Deliveries([hook], lambda: 1000.0, send=lambda *_: Answer(Outcome.THROTTLED, asked))
    try:
        yield made
    finally:
        made.close()


def test_an_event_is_given_up_in_the_end_restarts_included() -> None:
    """`give_up_after` runs from the first attempt of all lives, not of this one."""
    hook = WebhookConfig(name="hook", url="https://example.org/", give_up_after=timedelta(hours=1))
    clock = [1000.0]
    first = Deliveries([hook], lambda: clock[0], send=fails)
    first.offer([row(1)])
    first.settle(5.0)
    tried = first.take().tried[1]
    first.close()
    clock[0] += 3600
    second = Deliveries([hook], lambda: clock[0], send=fails)
    second.offer([(row(1)[0], tried)])
    second.settle(5.0)
    report = second.take()
    second.close()
    assert report.done == [1]
    assert report.given_up == {("hook", "expired"): 1}


def test_a_webhook_that_hangs_holds_up_nobody(receiver: Receiver, keys: list[Path]) -> None:
    """Offering takes no time while a receiver hangs, and the other webhook's event arrives meanwhile."""
    receiver.script = [hangs]
    slow = config(receiver, keys, name="slow", timeout=timedelta(seconds=10))
    other = OutboxMessage(2, PREFIX + "hook", *event_message(event("id-2")))
    with deliveries(slow, config(receiver, keys)) as running:
        began = time.monotonic()
        running.offer([(OutboxMessage(1, PREFIX + "slow", *event_message(event("id-1"))), Tried())])
        while not receiver.seen:
            time.sleep(0.01)
        report = collected(running, [(other, Tried())], 1)
        assert time.monotonic() - began < 5
    assert report.done == [2]
    assert receiver.effects == ["id-2"]


def test_rows_of_a_webhook_that_is_no_longer_configured_are_counted_out() -> None:
    """They would lie in the outbox for ever; instead they are given up under a reason."""
    with deliveries() as running:
        running.offer([row(1)])
        report = running.take()
    assert (report.done, report.given_up) == ([1], {("hook", "not_configured"): 1})


def test_webhooks_change_while_their_events_wait(receiver: Receiver, keys: list[Path]) -> None:
    """A changed address gets the event under its old id; one that is taken out of the config gets no more."""
    elsewhere = config(receiver, keys, url="https://example.invalid/")
    with deliveries(elsewhere, send=fails) as running:
        running.offer([row(1)])
        running.settle(5.0)
        tried = running.take().tried[1]
        running.configure([elsewhere])
        assert tried.attempts >= 1
    with deliveries(elsewhere, first_retry_s=0.02) as running:
        running.configure([config(receiver, keys)])
        assert collected(running, [row(1)], 1).done == [1]
        running.configure([])
        running.offer([row(2)])
        assert running.take().given_up == {("hook", "not_configured"): 1}


def test_a_crash_repeats_the_attempt_under_the_same_id(
    receiver: Receiver, keys: list[Path], tmp_path: Path
) -> None:
    """Delivered but not committed: the next life sends it again, and the receiver acts once."""
    store = Store(tmp_path / "state")
    topic = OutboxMessage(0, PREFIX + "hook", *event_message(event()))
    store.commit(Changes(outbox=[(topic.topic, topic.key, topic.headers, topic.value)]))
    for _ in range(2):  # the first life ends before its commit
        with deliveries(config(receiver, keys)) as running:
            report = collected(running, store.deliveries(10), 1)
        store.close()
        store = Store(tmp_path / "state")
    assert [seen.headers["webhook-id"] for seen in receiver.seen] == ["id-1", "id-1"]
    assert receiver.effects == ["id-1"]
    store.commit(Changes(acknowledged=report.done))
    assert store.deliveries(10) == []
    store.close()


def test_how_far_a_delivery_has_come_is_stored(tmp_path: Path) -> None:
    """Attempts survive a restart, leave with their row, and topics do not see rows of webhooks."""
    store = Store(tmp_path)
    value = event_message(event())
    rows = [(topic, value.key, value.headers, value.value) for topic in ("retraining", PREFIX + "hook")]
    store.commit(Changes(outbox=rows))
    assert [message.topic for message in store.outbox(10)] == ["retraining"]
    [(message, tried)] = store.deliveries(10)
    assert tried == Tried()
    store.commit(Changes(tried={message.id: Tried(3, 100.5, 200.25)}))
    store.close()
    store = Store(tmp_path)
    assert store.deliveries(10) == [(message, Tried(3, 100.5, 200.25))]
    store.commit(Changes(acknowledged=[message.id]))
    assert store.deliveries(10) == []
    assert [m.topic for m in store.outbox(10)] == ["retraining"]
    store.close()


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, {"requested", "resolved", "verdict"}),
        ({"preset": "airflow"}, {"requested"}),
        ({"preset": "airflow", "events": ["verdict"]}, {"verdict"}),
        ({"models": ["other"]}, set()),
        ({"models": ["credit"]}, {"requested", "resolved", "verdict"}),
    ],
)
def test_who_gets_what(changes: dict[str, object], kinds: set[str]) -> None:
    """Where each event starts a run only requests are sent; events and models narrow further."""
    hook = WebhookConfig.model_validate({"name": "hook", "url": "https://example.org/"} | changes)
    every = {"requested": request.REQUESTED, "resolved": request.RESOLVED, "verdict": request.VERDICT}
    assert {name for name, kind in every.items() if wanted(hook, event(kind=kind))} == kinds
