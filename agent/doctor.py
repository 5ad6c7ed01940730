"""`plumbline doctor`: is everything there that `plumbline run` will need? Looks only; nothing is consumed,
joined, produced or posted.

Each finding is ok, warn or fail, and what is not ok says what to do about it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import AuthorizationError, KafkaError

from agent.config import Config, WebhookConfig
from agent.errors import ConfigError
from agent.ingest.client import client_options, connection_errors
from agent.ingest.refusal import why_not
from agent.respond import webhook

LITTLE_DISK = 1 << 30
NO_DISK = 100 << 20
TIMEOUT_MS = 5000
CONNECT_S = 5.0


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(NamedTuple):
    """One line of the answer."""

    level: Level
    about: str
    text: str
    remedy: str = ""


def examine(config: Config, now_s: float) -> Iterator[Finding]:
    """Every finding, as it is made; `now_s` is the wall clock."""
    yield from _state(config)
    yield _port(config)
    for hook in config.webhooks:
        yield from _webhook(hook)
    yield from _broker(config, now_s)


def _ok(about: str, text: str) -> Finding:
    return Finding(Level.OK, about, text)


def _state(config: Config) -> Iterator[Finding]:
    directory = config.state.dir
    existing = next(p for p in (directory, *directory.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        remedy = "choose another state.dir, or give this user write access"
        yield Finding(Level.FAIL, "state", f"{directory} cannot be written", remedy)
        return
    yield _lock(directory)
    free = shutil.disk_usage(existing).free
    text = f"{free / (1 << 30):.1f} GiB free for {directory}"
    if free < LITTLE_DISK:
        level = Level.FAIL if free < NO_DISK else Level.WARN
        yield Finding(level, "disk", text, "free some space; without any, nothing can be committed")
    else:
        yield _ok("disk", text)


def _lock(directory: Path) -> Finding:
    """The lock is tried and let go at once; a running agent holds it."""
    try:
        held = os.open(directory / "lock", os.O_RDWR)
    except FileNotFoundError:
        return _ok("state", f"{directory} is new")
    except OSError as error:
        remedy = "give this user write access to the files in it"
        return Finding(Level.FAIL, "state", f"{directory}/lock: {error.strerror}", remedy)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        remedy = "fine if that is yours; a second agent needs a state.dir of its own"
        return Finding(Level.WARN, "state", f"an agent is at work in {directory}", remedy)
    finally:
        os.close(held)
    return _ok("state", f"{directory} holds the state of an earlier run")


def _port(config: Config) -> Finding:
    host, port = config.http.host, config.http.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        used = error.errno == errno.EADDRINUSE
        remedy = (
            "fine if a running agent serves there; else set http.port" if used else "set http.host, http.port"
        )
        level = Level.WARN if used else Level.FAIL
        return Finding(level, "http", f"{host}:{port}: {error.strerror}", remedy)
    return _ok("http", f"{host}:{port} is free")


def _webhook(hook: WebhookConfig) -> Iterator[Finding]:
    """Secrets are there, the address may be reached, somebody listens. Nothing is posted."""
    about = f"webhook {hook.name}"
    try:
        webhook.headers(hook, "doctor", 0.0, b"")
    except webhook.Unusable:
        remedy = "check secret_files, secret_env (whsec_… in base64, 16 bytes or more) and header_files"
        yield Finding(Level.FAIL, about, "a secret or header cannot be read", remedy)
    url = urlsplit(hook.url)
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    try:
        address = webhook.resolve(host, port, private=hook.allow_private)
        socket.create_connection((address, port), timeout=CONNECT_S).close()
    except webhook.Unusable as error:
        if error.outcome is webhook.Outcome.ADDRESS_REFUSED:
            remedy = "set allow_private: true if the receiver is on your own network"
            yield Finding(Level.FAIL, about, f"{host} has an address that is not public", remedy)
        else:
            yield Finding(Level.FAIL, about, f"{host} is no known name", "correct webhooks url, or the DNS")
    except OSError as error:
        text = f"{host}:{port} cannot be reached: {error.strerror or type(error).__name__}"
        remedy = "is the receiver up, and may this machine reach it? Events wait until it is"
        yield Finding(Level.WARN, about, text, remedy)
    else:
        yield _ok(about, f"{host}:{port} accepts connections")


def _broker(config: Config, now_s: float) -> Iterator[Finding]:
    where = config.kafka.bootstrap_servers
    try:
        options = client_options(config.kafka) | {"request_timeout_ms": TIMEOUT_MS}
    except ConfigError as error:
        yield Finding(Level.FAIL, "broker", str(error).split(". ")[0], str(error))
        return
    with connection_errors() as causes:
        try:
            admin = KafkaAdminClient(**options, bootstrap_timeout_ms=TIMEOUT_MS)
        except (KafkaError, OSError) as error:
            what, _, remedy = str(why_not(config.kafka, error, causes)).partition(". ")
            yield Finding(Level.FAIL, "broker", what, remedy)
            return
    with closing(admin):
        yield _ok("broker", f"{where} answers")
        try:
            names = sorted({topic for source in config.sources for topic in source.topics})
            own = [t for t in (config.dead_letters.topic, config.retraining_topic) if t]
            found = {topic["name"]: topic for topic in admin.describe_topics([*names, *own])}
            found = {name: topic for name, topic in found.items() if topic["partitions"]}
            yield from _sources(config, names, found)
            yield from _own(own, found)
        except KafkaError as error:
            yield Finding(Level.FAIL, "topics", type(error).__name__, "grant Describe on the topics")
            return
    yield from _reading(config, options, {name: found[name] for name in names if name in found}, now_s)


def _sources(config: Config, names: list[str], found: Mapping[str, Any]) -> Iterator[Finding]:
    for name in names:
        if name not in found:
            remedy = "create it, grant Describe and Read to this user, or correct sources.topics"
            yield Finding(Level.FAIL, "topic", f"{name} is not there", remedy)
        elif not _may(found[name], "READ"):
            yield Finding(Level.FAIL, "topic", f"{name} may not be read", "grant Read on it to this user")
        else:
            yield _ok("topic", f"{name}: {len(found[name]['partitions'])} partitions, may be read")
    kinds: dict[str, set[int]] = {"prediction": set(), "feedback": set()}
    for source in config.sources:
        if source.kind in kinds:
            kinds[source.kind] |= {len(found[t]["partitions"]) for t in source.topics if t in found}
    counts = kinds["prediction"] | kinds["feedback"]
    if all(kinds.values()):
        if len(counts) == 1:
            yield _ok("partitions", "predictions and feedback have equally many")
        else:
            remedy = (
                "with one agent nothing is lost; before running several, give the topics equally many "
                "partitions and key both by prediction_id"
            )
            text = f"predictions and feedback have different numbers of them: {sorted(counts)}"
            yield Finding(Level.WARN, "partitions", text, remedy)


def _own(own: list[str], found: Mapping[str, Any]) -> Iterator[Finding]:
    for name in own:
        if name not in found:
            remedy = "create it, unless the broker creates topics by itself; messages wait until then"
            yield Finding(Level.WARN, "topic", f"{name} is not there", remedy)
        elif not _may(found[name], "WRITE"):
            yield Finding(Level.FAIL, "topic", f"{name} may not be written", "grant Write on it to this user")
        else:
            yield _ok("topic", f"{name} may be written")


def _may(topic: Mapping[str, Any], operation: str) -> bool:
    """Old brokers do not say: then it is not held against them."""
    allowed = {getattr(one, "name", str(one)).upper() for one in topic.get("authorized_operations") or ()}
    return not allowed or bool(allowed & {operation, "ALL"})


def _reading(
    config: Config, options: Mapping[str, Any], topics: Mapping[str, Any], now_s: float
) -> Iterator[Finding]:
    """The group's offsets may be asked for, and the newest records are not of the future."""
    group = config.kafka.group_id
    partitions = [
        TopicPartition(name, part["partition_index"])
        for name, topic in topics.items()
        for part in topic["partitions"]
    ]
    if not partitions:
        return
    consumer = KafkaConsumer(**options, group_id=group, enable_auto_commit=False, auto_offset_reset="none")
    with closing(consumer):
        try:
            consumer.committed(partitions[0], timeout_ms=TIMEOUT_MS)
            yield _ok("group", f"{group} may be used")
        except AuthorizationError:
            yield Finding(
                Level.FAIL, "group", f"{group} may not be used", "grant Read on the group to this user"
            )
        except KafkaError as error:
            yield Finding(Level.WARN, "group", type(error).__name__, "try again; is the cluster healthy?")
        try:
            newest = _newest(consumer, partitions)
        except KafkaError as error:
            yield Finding(
                Level.FAIL, "records", type(error).__name__, "grant Read on the topics to this user"
            )
            return
    if newest is None:
        yield Finding(Level.WARN, "records", "there are none yet", "do the producers write to these topics?")
        return
    ahead = newest / 1000 - now_s
    if ahead > config.future_skew.total_seconds():
        remedy = "set this machine's clock, or the producers' (NTP)"
        yield Finding(Level.FAIL, "clock", f"the newest record is {ahead:.0f} s in the future", remedy)
    elif ahead > 1:
        remedy = f"up to {config.future_skew.total_seconds():.0f} s is tolerated (future_skew)"
        yield Finding(Level.WARN, "clock", f"the newest record is {ahead:.1f} s in the future", remedy)
    else:
        yield _ok("clock", f"the newest record is {-ahead:.0f} s old")


def _newest(consumer: Any, partitions: list[TopicPartition]) -> int | None:  # noqa: ANN401 - untyped client
    """Time stamp of the last record of any partition, in milliseconds."""
    first = consumer.beginning_offsets(partitions, timeout_ms=TIMEOUT_MS)
    end = consumer.end_offsets(partitions, timeout_ms=TIMEOUT_MS)
    wanted = [tp for tp in partitions if end[tp] > first[tp]]
    consumer.assign(wanted)
    for tp in wanted:
        consumer.seek(tp, end[tp] - 1)
    newest: int | None = None
    for _ in range(10 if wanted else 0):
        for records in consumer.poll(timeout_ms=500).values():
            newest = max(newest or 0, *(record.timestamp for record in records))
        if newest is not None:
            break
    return newest
