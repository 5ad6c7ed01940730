"""What the agent remembers: one SQLite file, one write transaction per commit.

Positions, clocks, changed panes, join runs, documents (detectors, alarms, policies), counters, dead letters
and triggers on their way out go in together or not at all, so a crash at any instruction loses nothing and
counts nothing twice: what was not committed is read again. The directory is locked for as long as the agent
lives.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from agent.errors import StateError
from agent.events import Partition
from agent.failpoint import failpoint
from agent.respond.delivery import PREFIX, Tried
from agent.respond.outbox import OutboxMessage

FORMAT = 1

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS positions (topic TEXT, partition INTEGER, next INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS panes (model TEXT, version TEXT, tier INTEGER, start INTEGER, age INTEGER,
    segment TEXT, vector BLOB NOT NULL,
    PRIMARY KEY (model, tier, start, version, age, segment)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS runs (owner TEXT, id INTEGER, bucket INTEGER NOT NULL, rows BLOB NOT NULL,
    PRIMARY KEY (owner, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS overlays (owner TEXT, run INTEGER, seq INTEGER PRIMARY KEY AUTOINCREMENT,
    rows BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS overlays_of ON overlays (owner, run);
CREATE TABLE IF NOT EXISTS documents (owner TEXT, name TEXT, text TEXT NOT NULL,
    PRIMARY KEY (owner, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL,
    key BLOB NOT NULL, headers TEXT NOT NULL, value BLOB);
CREATE TABLE IF NOT EXISTS deliveries (id INTEGER PRIMARY KEY, attempts INTEGER NOT NULL, first REAL NOT NULL,
    next REAL NOT NULL);
"""


class PaneRow(NamedTuple):
    """A pane as it is stored."""

    model: str
    version: str
    tier: int
    start: int
    age: int
    segment: str


@dataclass
class Changes:
    """Everything one commit writes."""

    positions: dict[Partition, int] = field(default_factory=dict)
    panes: list[tuple[PaneRow, bytes]] = field(default_factory=list)
    dropped_panes: list[PaneRow] = field(default_factory=list)
    removed_runs: list[tuple[str, int]] = field(default_factory=list)
    runs: list[tuple[str, int, int, bytes]] = field(default_factory=list)
    overlays: list[tuple[str, int, bytes]] = field(default_factory=list)
    documents: dict[tuple[str, str], str] = field(default_factory=dict)
    outbox: list[tuple[str, bytes, tuple[tuple[str, bytes], ...], bytes | None]] = field(default_factory=list)
    acknowledged: list[int] = field(default_factory=list)
    tried: dict[int, Tried] = field(default_factory=dict)
    """Of outbox rows for webhooks: how far their delivery has come."""


class Store:
    """The state directory, held by one agent. Raises StateError where it cannot be used safely."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StateError(
                f"state.dir {directory} cannot be written ({error.strerror}); "
                f"choose another directory or give this user write access"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise StateError(
                f"state.dir {directory} is in use by another agent; "
                f"stop that agent, or give this one its own state.dir"
            ) from error
        path = directory / "state.db"
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_TABLES)
            found = self._db.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
        except sqlite3.DatabaseError as error:
            raise StateError(
                f"{self.directory}/state.db is damaged ({error}); restore it from a copy, "
                f"or move it away to start again from the group's offsets"
            ) from error
        if found is None:
            self._db.execute("INSERT INTO meta VALUES ('format', ?)", (str(FORMAT),))
        elif int(found[0]) != FORMAT:
            raise StateError(
                f"{self.directory}/state.db has format {found[0]}, this agent reads {FORMAT}; "
                f"run the version of Plumbline that wrote it, or choose another state.dir"
            )

    def commit(self, changes: Changes) -> None:
        """Write everything in one transaction."""
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            db.executemany(
                "INSERT INTO positions VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET next = excluded.next",
                [(p.topic, p.partition, at) for p, at in changes.positions.items()],
            )
            db.executemany(
                "DELETE FROM panes "
                "WHERE model=? AND version=? AND tier=? AND start=? AND age=? AND segment=?",
                changes.dropped_panes,
            )
            db.executemany(
                "INSERT OR REPLACE INTO panes (model, version, tier, start, age, segment, vector) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(*row, vector) for row, vector in changes.panes],
            )
            db.executemany("DELETE FROM runs WHERE owner = ? AND id = ?", changes.removed_runs)
            db.executemany("DELETE FROM overlays WHERE owner = ? AND run = ?", changes.removed_runs)
            db.executemany("INSERT INTO runs VALUES (?, ?, ?, ?)", changes.runs)
            db.executemany("INSERT INTO overlays (owner, run, rows) VALUES (?, ?, ?)", changes.overlays)
            db.executemany(
                "INSERT OR REPLACE INTO documents VALUES (?, ?, ?)",
                [(owner, name, text) for (owner, name), text in changes.documents.items()],
            )
            db.executemany(
                "INSERT OR REPLACE INTO deliveries VALUES (?, ?, ?, ?)",
                [(i, tried.attempts, tried.first_s, tried.next_s) for i, tried in changes.tried.items()],
            )
            for table in ("outbox", "deliveries"):
                db.executemany(f"DELETE FROM {table} WHERE id = ?", [(i,) for i in changes.acknowledged])
            db.executemany(
                "INSERT INTO outbox (topic, key, headers, value) VALUES (?, ?, ?, ?)",
                [
                    (topic, key, _headers_text(headers), value)
                    for topic, key, headers, value in changes.outbox
                ],
            )
            failpoint("in_transaction")
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise

    def positions(self) -> dict[Partition, int]:
        """Next record to read of each partition."""
        rows = self._db.execute("SELECT topic, partition, next FROM positions ORDER BY topic, partition")
        return {Partition(topic, number): at for topic, number, at in rows}

    def panes(self, model: str) -> Iterator[tuple[PaneRow, bytes]]:
        """All panes of a model."""
        rows = self._db.execute(
            "SELECT model, version, tier, start, age, segment, vector FROM panes WHERE model = ?", (model,)
        )
        for *key, vector in rows:
            yield PaneRow(*key), vector

    def runs(self, owner: str) -> Iterator[tuple[int, int, bytes, Iterator[bytes]]]:
        """(id, bucket, rows, overlays in order) of an index."""
        for id_, bucket, rows in self._db.execute(
            "SELECT id, bucket, rows FROM runs WHERE owner = ? ORDER BY id", (owner,)
        ).fetchall():
            overlays = self._db.execute(
                "SELECT rows FROM overlays WHERE owner = ? AND run = ? ORDER BY seq", (owner, id_)
            )
            yield id_, bucket, rows, (row[0] for row in overlays)

    def documents(self, owner: str) -> Mapping[str, str]:
        """Documents by name."""
        rows = self._db.execute("SELECT name, text FROM documents WHERE owner = ? ORDER BY name", (owner,))
        return dict(rows.fetchall())

    def outbox(self, limit: int, after: int = 0) -> list[OutboxMessage]:
        """Committed messages to topics that no sink has acknowledged, oldest first."""
        rows = self._db.execute(
            "SELECT id, topic, key, headers, value FROM outbox "
            "WHERE id > ? AND substr(topic, 1, ?) <> ? ORDER BY id LIMIT ?",
            (after, len(PREFIX), PREFIX, limit),
        )
        return [OutboxMessage(i, topic, key, _headers(text), value) for i, topic, key, text, value in rows]

    def deliveries(self, limit: int) -> list[tuple[OutboxMessage, Tried]]:
        """Committed messages to webhooks that are neither delivered nor given up, oldest first."""
        rows = self._db.execute(
            "SELECT outbox.id, topic, key, headers, value, attempts, first, next "
            "FROM outbox LEFT JOIN deliveries ON deliveries.id = outbox.id "
            "WHERE substr(topic, 1, ?) = ? ORDER BY outbox.id LIMIT ?",
            (len(PREFIX), PREFIX, limit),
        )
        return [
            (OutboxMessage(i, topic, key, _headers(text), value), Tried(*tried) if tried[0] else Tried())
            for i, topic, key, text, value, *tried in rows
        ]

    def close(self) -> None:
        """Let go of the directory."""
        self._db.close()
        os.close(self._lock)


def _headers_text(headers: Iterable[tuple[str, bytes]]) -> str:
    return json.dumps([[name, value.decode("latin-1")] for name, value in headers])


def _headers(text: str) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, value.encode("latin-1")) for name, value in json.loads(text))
