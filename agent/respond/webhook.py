"""One webhook request: what its body says, how it is signed, whom it may reach, and what the answer means.

Signed by the Standard Webhooks specification: `webhook-id` is the event's id on every attempt, so that a
receiver which remembers it acts once; `webhook-signature` holds one signature per secret. Redirects are never
followed. The host is resolved once per attempt, every address it has is checked, and the connection goes to a
checked one: a name that points into the private network, or changes between check and use, reaches nothing.
Proxies of the environment are not used.

Airflow refuses a second run of the same id (409: success) and Prefect returns the first one; GitHub and Argo
start a run per request, so there the workflow itself must look at the id.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import json
import os
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from agent.config import WebhookConfig
from agent.respond.request import encode

MAX_BODY = 20_000
MAX_RETRY_AFTER_S = 86_400.0

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_METADATA = {ipaddress.ip_address(a) for a in ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Outcome(StrEnum):
    """What became of one attempt; the first two are success, GONE and TOO_LARGE final, the rest retried."""

    DELIVERED = "delivered"
    ALREADY_THERE = "already_there"
    """Airflow has a run of this id: an earlier attempt arrived and its answer was lost."""
    GONE = "gone"
    """410: the receiver wants nothing any more."""
    TOO_LARGE = "too_large"
    REDIRECTED = "redirected"
    THROTTLED = "throttled"
    REFUSED = "refused"
    """Another 4xx."""
    SERVER_ERROR = "server_error"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    ADDRESS_REFUSED = "address_refused"
    """The host is, or also is, in a network that may not be reached."""
    SECRET_MISSING = "secret_missing"
    """A file of a secret or header cannot be read, or does not hold one."""


SUCCESS = frozenset({Outcome.DELIVERED, Outcome.ALREADY_THERE})
FINAL = frozenset({Outcome.GONE, Outcome.TOO_LARGE})


class Answer(NamedTuple):
    """One attempt's outcome, and how long the receiver asked to be left alone."""

    outcome: Outcome
    retry_after_s: float = 0.0


class Unusable(Exception):
    """An attempt that cannot be made; `outcome` says why."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.value)
        self.outcome = outcome


def body(preset: str, event: Mapping[str, Any]) -> bytes:
    """The event as the receiver's own API takes it."""
    return encode(_TEMPLATES[preset](event))


def _airflow(event: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"dag_run_id": event["id"], "logical_date": None, "conf": event}


def _prefect(event: Mapping[str, Any]) -> Mapping[str, Any]:
    tags = ["plumbline", str(event["subject"])]
    return {"parameters": {"event": event}, "idempotency_key": event["id"], "tags": tags}


def _github(event: Mapping[str, Any]) -> Mapping[str, Any]:
    kind = str(event["type"]).rsplit(".", 2)[-2]
    payload = {name: event[name] for name in ("id", "type", "subject", "time")}
    return {"event_type": f"plumbline-retraining-{kind}", "client_payload": {**payload, "event": event}}


_TEMPLATES: dict[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
    "generic": lambda event: event,
    "argo": lambda event: event,
    "airflow": _airflow,
    "prefect": _prefect,
    "github": _github,
}


def signature(secrets: list[bytes], identity: str, timestamp: int, content: bytes) -> str:
    """One `v1,…` for each secret."""
    signed = f"{identity}.{timestamp}.".encode() + content
    digests = (hmac.new(secret, signed, hashlib.sha256).digest() for secret in secrets)
    return " ".join("v1," + base64.b64encode(digest).decode() for digest in digests)


def secrets(config: WebhookConfig, environ: Mapping[str, str]) -> list[bytes]:
    """The signing secrets as they lie there now, so that they can be rotated without a restart."""
    texts = [_file(path) for path in config.secret_files]
    if config.secret_env is not None:
        if not (held := environ.get(config.secret_env, "").split()):
            raise Unusable(Outcome.SECRET_MISSING)
        texts += held
    try:
        found = [base64.b64decode(text.removeprefix("whsec_"), validate=True) for text in texts]
    except binascii.Error:
        raise Unusable(Outcome.SECRET_MISSING) from None
    if any(len(secret) < 16 for secret in found):
        raise Unusable(Outcome.SECRET_MISSING)
    return found


def headers(config: WebhookConfig, identity: str, now_s: float, content: bytes) -> dict[str, str]:
    """Everything but the length; raises Unusable where a secret is missing."""
    kind = "application/cloudevents+json; charset=utf-8" if config.preset == "generic" else "application/json"
    found = {"content-type": kind, "user-agent": "plumbline", "webhook-id": identity}
    found["webhook-timestamp"] = str(int(now_s))
    if keys := secrets(config, os.environ):
        found["webhook-signature"] = signature(keys, identity, int(now_s), content)
    for name, path in config.header_files.items():
        found[name.lower()] = _file(path)
    return found


def _file(path: Path) -> str:
    """A secret of one line; its text is in no error."""
    try:
        text = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise Unusable(Outcome.SECRET_MISSING) from None
    if not text or not text.isprintable():
        raise Unusable(Outcome.SECRET_MISSING)
    return text


def allowed(address: Address, *, private: bool) -> bool:
    """May a webhook connect there? Link-local and metadata addresses never; private ones only if told so.

    An IPv6 address that stands for an IPv4 one is judged as that one.
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return allowed(inner, private=private)
    never = address.is_link_local or address.is_multicast or address.is_unspecified or address in _METADATA
    if never or (address.version == 4 and address.is_reserved):
        return False
    return private or address.is_global


def resolve(host: str, port: int, *, private: bool) -> str:
    """The address to connect to. One refused address refuses the host: such a name is up to something."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise Unusable(Outcome.UNREACHABLE) from None
    addresses = [str(item[4][0]).partition("%")[0] for item in found]
    if not all(allowed(ipaddress.ip_address(address), private=private) for address in addresses):
        raise Unusable(Outcome.ADDRESS_REFUSED)
    return addresses[0]


def post(config: WebhookConfig, event_json: bytes, now_s: float) -> Answer:
    """One attempt, bounded by the configured time-out; never raises for what the other end does."""
    try:
        event = json.loads(event_json)
        content = body(config.preset, event)
        if len(content) > MAX_BODY:
            return Answer(Outcome.TOO_LARGE)
        named = headers(config, str(event["id"]), now_s, content)
        code, after = _exchange(config, content, named)
    except Unusable as error:
        return Answer(error.outcome)
    except TimeoutError:
        return Answer(Outcome.TIMEOUT)
    except (HTTPError, HTTPException, OSError, ValueError) as error:
        timed_out = "timeout" in type(error).__name__.lower()
        return Answer(Outcome.TIMEOUT if timed_out else Outcome.UNREACHABLE)
    return Answer(_meaning(config.preset, code), _seconds(after, now_s))


def _exchange(config: WebhookConfig, content: bytes, named: Mapping[str, str]) -> tuple[int, str]:
    """(status, Retry-After) of one POST to a checked address."""
    url = urlsplit(config.url)
    host, timeout = url.hostname or "", config.timeout.total_seconds()
    port = url.port or (443 if url.scheme == "https" else 80)
    address = resolve(host, port, private=config.allow_private)
    connection: HTTPConnection
    if url.scheme == "https":
        context = ssl.create_default_context(cafile=str(config.ca_file) if config.ca_file else None)
        connection = HTTPSConnection(
            address,
            port,
            timeout=timeout,
            ssl_context=context,
            cert_reqs="CERT_REQUIRED",
            server_hostname=host,
            assert_hostname=host,
        )
    else:
        connection = HTTPConnection(address, port, timeout=timeout)
    # A time-out of the socket is for each read; who sends a byte now and then is cut off by this.
    late = threading.Event()
    timer = threading.Timer(timeout, _cut, (connection, late))
    timer.daemon = True
    timer.start()
    try:
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        connection.request(
            "POST", path, body=content, headers={"host": url.netloc, **named}, preload_content=False
        )
        answer = connection.getresponse()
        return answer.status, answer.headers.get("retry-after", "")
    finally:
        timer.cancel()
        connection.close()
        if late.is_set():
            raise Unusable(Outcome.TIMEOUT)


def _cut(connection: HTTPConnection, late: threading.Event) -> None:
    late.set()
    if connection.sock is not None:
        with suppress(OSError):
            socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)


def _meaning(preset: str, code: int) -> Outcome:
    if 200 <= code < 300:
        return Outcome.DELIVERED
    if code == 409 and preset == "airflow":
        return Outcome.ALREADY_THERE
    if code == 410:
        return Outcome.GONE
    if code in (408, 429, 503):
        return Outcome.THROTTLED
    if code < 400:
        return Outcome.REDIRECTED
    return Outcome.REFUSED if code < 500 else Outcome.SERVER_ERROR


def _seconds(after: str, now_s: float) -> float:
    """Retry-After in seconds or as a date; 0 where there is none or nonsense."""
    try:
        if after.strip().isdecimal():
            seconds = float(after)
        else:
            at = parsedate_to_datetime(after)
            seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now_s
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


__all__ = [
    "FINAL",
    "SUCCESS",
    "Answer",
    "Outcome",
    "allowed",
    "body",
    "post",
    "resolve",
    "secrets",
    "signature",
]
