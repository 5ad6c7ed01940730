"""What the agent remembers: one SQLite file, one write transaction per commit.

Positions, clocks, changed panes, join runs, documents (detectors, alarms, policies), counters, dead letters
and triggers on their way out go in together or not at all, so a crash at any instruction loses nothing and
counts nothing twice: what was not committed is read again. The directory is locked for as long as the agent
lives.

Every row carries a checksum of what it says, for SQLite has none; the structure of the file is checked at the
start as well. The write-ahead log has its own: where one is broken the state is that of the commit before.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from agent.errors import StateBusyError, StateError
from agent.events import Partition
from agent.failpoint import failpoint
from agent.respond.delivery import PREFIX, Tried
from agent.respond.outbox import OutboxMessage

FORMAT = 2

OUTBOX_BYTES = 16 << 20
"""Payload that is taken out of the outbox at once."""
CHECKPOINT_BYTES = 64 << 20
"""What the write-ahead log keeps of the disk after a large commit."""

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS positions (topic TEXT, partition INTEGER, next INTEGER NOT NULL,
    crc INTEGER NOT NULL, PRIMARY KEY (topic, partition)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS panes (model TEXT, version TEXT, tier INTEGER, start INTEGER, age INTEGER,
    segment TEXT, vector BLOB NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (model, tier, start, version, age, segment)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS runs (owner TEXT, id INTEGER, bucket INTEGER NOT NULL, rows BLOB NOT NULL,
    crc INTEGER NOT NULL, PRIMARY KEY (owner, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS overlays (owner TEXT, run INTEGER, seq INTEGER PRIMARY KEY AUTOINCREMENT,
    rows BLOB NOT NULL, crc INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS overlays_of ON overlays (owner, run);
CREATE TABLE IF NOT EXISTS documents (owner TEXT, name TEXT, text TEXT NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (owner, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL,
    key BLOB NOT NULL, headers TEXT NOT NULL, value BLOB, crc INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS deliveries (id INTEGER PRIMARY KEY, attempts INTEGER NOT NULL, first REAL NOT NULL,
    next REAL NOT NULL, crc INTEGER NOT NULL);
"""

_SEALED = {
    "positions": "topic, partition, next",
    "panes": "model, version, tier, start, age, segment, vector",
    "runs": "owner, id, bucket, rows",
    "overlays": "owner, run, rows",
    "documents": "owner, name, text",
    "outbox": "topic, key, headers, value",
    "deliveries": "id, attempts, first, next",
}
"""What the checksum of a row is over."""

_PASSING = {
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN),
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PERM),
}
"""Errors of the disk, not of what is on it."""


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
    dropped_documents: list[tuple[str, str]] = field(default_factory=list)
    outbox: list[tuple[str, bytes, tuple[tuple[str, bytes], ...], bytes | None]] = field(default_factory=list)
    acknowledged: list[int] = field(default_factory=list)
    tried: dict[int, Tried] = field(default_factory=dict)
    """Of outbox rows for webhooks: how far their delivery has come."""


class Store:
    """The state directory, held by one agent. Raises StateError where it cannot be used safely.

    The file grows to `max_bytes` at most; beyond it a commit fails as on a full disk.
    """

    def __init__(self, directory: Path, max_bytes: int | None = None) -> None:
        self.directory = directory
        self._max_bytes = max_bytes
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
            self._db.execute(f"PRAGMA journal_size_limit={CHECKPOINT_BYTES}")
            self._check_format()
            self._verify()
            self._limit()
        except sqlite3.DatabaseError as error:
            raise self._trouble(error) from error

    def _check_format(self) -> None:
        """Refuse what another version wrote before anything of it is touched."""
        found = None
        if self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            found = self._db.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
        if found is not None and found[0] != str(FORMAT):
            raise StateError(
                f"{self.directory}/state.db has format {found[0]}, this agent reads {FORMAT}; "
                f"run the version of Plumbline that wrote it, or choose another state.dir"
            )
        if found is None:
            self._db.executescript(_TABLES)
            self._db.execute("INSERT INTO meta VALUES ('format', ?)", (str(FORMAT),))

    def _verify(self) -> None:
        """Every row is there and says what was written; no look-up, for a changed key would not be found."""
        (said,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if said != "ok":
            raise self._damaged(said)
        for table, columns in _SEALED.items():
            for *row, crc in self._db.execute(f"SELECT {columns}, crc FROM {table}"):
                if _checksum(row) != crc:
                    raise self._damaged(f"a row of {table} does not have its checksum")

    def _limit(self) -> None:
        if self._max_bytes is not None:
            (page,) = self._db.execute("PRAGMA page_size").fetchone()
            self._db.execute(f"PRAGMA max_page_count={max(self._max_bytes // page, 64)}")

    def _damaged(self, what: object) -> StateError:
        return StateError(
            f"{self.directory}/state.db is damaged ({what}); restore it from a copy, "
            f"or move it away to start again from the group's offsets"
        )

    def _trouble(self, error: sqlite3.DatabaseError) -> StateError | StateBusyError:
        """What an error of SQLite means: a disk that may recover, or a file that will not."""
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:  # not from SQLite: a text that cannot be decoded, which the error would quote
            return self._damaged("a text is not UTF-8")
        if code & 0xFF in _PASSING:
            return StateBusyError(f"{self.directory}/state.db cannot be written or read now: {error}")
        return self._damaged(error)

    def commit(self, changes: Changes) -> None:
        """Write everything in one transaction, or nothing: StateBusyError if the disk does not take it."""
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            self._write(changes)
            failpoint("in_transaction")
            db.execute("COMMIT")
        except BaseException as error:
            if db.in_transaction:  # a full disk has rolled back by itself
                db.execute("ROLLBACK")
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.IntegrityError):
                raise self._trouble(error) from error
            raise

    def _write(self, changes: Changes) -> None:
        write = self._db.executemany
        write(
            "INSERT INTO positions VALUES (?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET next = excluded.next, crc = excluded.crc",
            [_sealed(p.topic, p.partition, at) for p, at in changes.positions.items()],
        )
        write(
            "DELETE FROM panes WHERE model=? AND version=? AND tier=? AND start=? AND age=? AND segment=?",
            changes.dropped_panes,
        )
        write(
            "INSERT OR REPLACE INTO panes (model, version, tier, start, age, segment, vector, crc) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [_sealed(*row, vector) for row, vector in changes.panes],
        )
        write("DELETE FROM runs WHERE owner = ? AND id = ?", changes.removed_runs)
        write("DELETE FROM overlays WHERE owner = ? AND run = ?", changes.removed_runs)
        write("INSERT INTO runs VALUES (?, ?, ?, ?, ?)", [_sealed(*run) for run in changes.runs])
        write(
            "INSERT INTO overlays (owner, run, rows, crc) VALUES (?, ?, ?, ?)",
            [_sealed(*overlay) for overlay in changes.overlays],
        )
        write("DELETE FROM documents WHERE owner = ? AND name = ?", changes.dropped_documents)
        write(
            "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?)",
            [_sealed(owner, name, text) for (owner, name), text in changes.documents.items()],
        )
        write(
            "INSERT OR REPLACE INTO deliveries VALUES (?, ?, ?, ?, ?)",
            [
                _sealed(i, tried.attempts, float(tried.first_s), float(tried.next_s))
                for i, tried in changes.tried.items()
            ],
        )
        for table in ("outbox", "deliveries"):
            write(f"DELETE FROM {table} WHERE id = ?", [(i,) for i in changes.acknowledged])
        write(
            "INSERT INTO outbox (topic, key, headers, value, crc) VALUES (?, ?, ?, ?, ?)",
            [
                _sealed(topic, key, _headers_text(headers), value)
                for topic, key, headers, value in changes.outbox
            ],
        )

    def _read(self, query: str, parameters: Sequence[object] = ()) -> Iterator[Any]:
        try:
            yield from self._db.execute(query, parameters)
        except sqlite3.DatabaseError as error:
            raise self._trouble(error) from error

    def positions(self) -> dict[Partition, int]:
        """Next record to read of each partition."""
        rows = self._read("SELECT topic, partition, next FROM positions ORDER BY topic, partition")
        return {Partition(topic, number): at for topic, number, at in rows}

    def panes(self, model: str) -> Iterator[tuple[PaneRow, bytes]]:
        """All panes of a model."""
        rows = self._read(
            "SELECT model, version, tier, start, age, segment, vector FROM panes WHERE model = ?",
            (model,),
        )
        for *key, vector in rows:
            yield PaneRow(*key), vector

    def runs(self, owner: str) -> Iterator[tuple[int, int, bytes, Iterator[bytes]]]:
        """(id, bucket, rows, overlays in order) of an index."""
        query = "SELECT id, bucket, rows FROM runs WHERE owner = ? ORDER BY id"
        for id_, bucket, rows in list(self._read(query, (owner,))):
            overlays = self._read(
                "SELECT rows FROM overlays WHERE owner = ? AND run = ? ORDER BY seq",
                (owner, id_),
            )
            yield id_, bucket, rows, (row[0] for row in overlays)

    def documents(self, owner: str) -> Mapping[str, str]:
        """Documents by name."""
        query = "SELECT name, text FROM documents WHERE owner = ? ORDER BY name"
        return dict(self._read(query, (owner,)))

    def outbox(self, limit: int, after: int = 0) -> list[OutboxMessage]:
        """Committed messages to topics that no sink has acknowledged, oldest first, up to a size."""
        rows = self._read(
            "SELECT id, topic, key, headers, value FROM outbox "
            "WHERE id > ? AND substr(topic, 1, ?) <> ? ORDER BY id LIMIT ?",
            (after, len(PREFIX), PREFIX, limit),
        )
        found: list[OutboxMessage] = []
        size = 0
        for i, topic, key, text, value in rows:
            found.append(OutboxMessage(i, topic, key, _headers(text), value))
            size += len(value or b"")
            if size >= OUTBOX_BYTES:
                break
        return found

    def pending(self) -> int:
        """Messages in the outbox."""
        try:
            return int(self._db.execute("SELECT count(*) FROM outbox").fetchone()[0])
        except sqlite3.DatabaseError as error:
            raise self._trouble(error) from error

    def deliveries(self, limit: int) -> list[tuple[OutboxMessage, Tried]]:
        """Committed messages to webhooks that are neither delivered nor given up, oldest first."""
        rows = self._read(
            "SELECT id, topic, key, headers, value FROM outbox "
            "WHERE substr(topic, 1, ?) = ? ORDER BY id LIMIT ?",
            (len(PREFIX), PREFIX, limit),
        )
        tried = {
            i: Tried(*said) for i, *said in self._read("SELECT id, attempts, first, next FROM deliveries")
        }
        return [
            (OutboxMessage(i, topic, key, _headers(text), value), tried.get(i, Tried()))
            for i, topic, key, text, value in rows
        ]

    def close(self) -> None:
        """Let go of the directory."""
        self._db.close()
        os.close(self._lock)


def _sealed(*row: object) -> tuple[object, ...]:
    return (*row, _checksum(row))


def _checksum(row: Sequence[object]) -> int:
    """CRC-32 of a row's values, each with its end."""
    crc = 0
    for value in row:
        crc = zlib.crc32(value if isinstance(value, bytes) else repr(value).encode(), crc)
        crc = zlib.crc32(b"\x1f", crc)
    return crc


def _headers_text(headers: Iterable[tuple[str, bytes]]) -> str:
    return json.dumps([[name, value.decode("latin-1")] for name, value in headers])


def _headers(text: str) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, value.encode("latin-1")) for name, value in json.loads(text))
