"""The store: one agent, one transaction, and a clear word where it cannot be used."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
from pathlib import Path

import pytest

from agent.errors import StateBusyError, StateError
from agent.events import Partition
from agent.respond.delivery import Tried
from agent.store import FORMAT, Changes, PaneRow, Store

ROW = PaneRow("m", "1", 2, 0, -1, "")
ONE = Changes(
    positions={Partition("t", 0): 7},
    panes=[(ROW, b"pane")],
    runs=[("join:m", 0, 3, b"rows")],
    overlays=[("join:m", 0, b"first"), ("join:m", 0, b"second")],
    documents={("m", "clock"): "[1]", ("", "commits"): "1"},
    outbox=[("dead", b"k", (("h", b"\xff\x00"),), None), ("dead", b"k2", (), b"v")],
)


def contents(store: Store) -> tuple[object, ...]:
    runs = [(id_, bucket, rows, list(overlays)) for id_, bucket, rows, overlays in store.runs("join:m")]
    documents = dict(store.documents("m")), dict(store.documents(""))
    return store.positions(), list(store.panes("m")), runs, documents, store.outbox(100)


def test_what_was_committed_is_there_after_reopening(tmp_path: Path) -> None:
    """Every kind of change is read back as it was written, by a new process too."""
    store = Store(tmp_path)
    store.commit(ONE)
    held = contents(store)
    store.close()
    again = Store(tmp_path)
    assert contents(again) == held
    assert held[0] == {Partition("t", 0): 7}
    assert held[1] == [(ROW, b"pane")]
    assert held[2] == [(0, 3, b"rows", [b"first", b"second"])]
    first, second = again.outbox(100)
    assert (first.topic, first.key, first.headers, first.value) == ("dead", b"k", (("h", b"\xff\x00"),), None)
    assert [m.id for m in again.outbox(1, after=first.id)] == [second.id]
    again.close()


def test_a_second_commit_replaces_removes_and_acknowledges(tmp_path: Path) -> None:
    """Positions, panes and documents are replaced, runs go with their overlays, acknowledged messages go."""
    store = Store(tmp_path)
    store.commit(ONE)
    gone = store.outbox(1)[0].id
    store.commit(
        Changes(
            positions={Partition("t", 0): 9, Partition("t", 1): 1},
            panes=[(ROW._replace(start=1), b"new")],
            dropped_panes=[ROW],
            removed_runs=[("join:m", 0)],
            documents={("m", "clock"): "[2]"},
            dropped_documents=[("", "commits")],
            acknowledged=[gone],
        )
    )
    assert store.positions() == {Partition("t", 0): 9, Partition("t", 1): 1}
    assert list(store.panes("m")) == [(ROW._replace(start=1), b"new")]
    assert list(store.runs("join:m")) == []
    assert dict(store.documents("m")) == {"clock": "[2]"}
    assert dict(store.documents("")) == {}
    assert [m.key for m in store.outbox(10)] == [b"k2"]
    store.commit(Changes(runs=[("join:m", 0, 1, b"again")]))
    assert [list(overlays) for *_, overlays in store.runs("join:m")] == [[]]
    store.close()


def test_a_commit_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    """An error in the middle of a commit rolls all of it back, and the next commit goes through."""
    store = Store(tmp_path)
    store.commit(ONE)
    before = contents(store)
    broken = Changes(
        positions={Partition("t", 0): 99},
        panes=[(ROW, b"other")],
        acknowledged=[1],
        runs=[("join:m", 5, 3, b"x"), ("join:m", 5, 3, b"the same id twice")],
    )
    with pytest.raises(sqlite3.IntegrityError):
        store.commit(broken)
    assert contents(store) == before
    store.commit(Changes(positions={Partition("t", 0): 8}))
    assert store.positions() == {Partition("t", 0): 8}
    store.close()


def test_a_second_agent_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    """The directory belongs to one agent at a time, and the refusal names directory and remedy."""
    first = Store(tmp_path)
    with pytest.raises(StateError, match=r"in use by another agent.*its own state\.dir") as refused:
        Store(tmp_path)
    assert str(tmp_path) in str(refused.value)
    first.close()
    Store(tmp_path).close()


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """A directory that a later version wrote is left alone, and both formats are named."""
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "state.db") as db:
        db.execute("UPDATE meta SET value = ? WHERE name = 'format'", (str(FORMAT + 1),))
    db.close()
    with pytest.raises(StateError, match=f"has format {FORMAT + 1}, this agent reads {FORMAT}"):
        Store(tmp_path)
    with pytest.raises(StateError, match="has format"):
        Store(tmp_path)  # a refusal lets go of the lock


def test_a_damaged_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    """What is no database is not overwritten."""
    (tmp_path / "state.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StateError, match=r"is damaged.*restore it from a copy"):
        Store(tmp_path)
    with pytest.raises(StateError, match="is damaged"):
        Store(tmp_path)
    assert (tmp_path / "state.db").read_bytes().startswith(b"no database")


def test_no_flipped_bit_goes_unnoticed(tmp_path: Path) -> None:
    """After any one bit of the file is flipped, what is read is refused as damaged or is what was written."""
    store = Store(tmp_path / "whole")
    rng = random.Random(7)
    for i in range(40):
        store.commit(
            Changes(
                positions={Partition("t", i): i * 1000},
                panes=[(ROW._replace(start=i * 60_000 + j), rng.randbytes(60)) for j in range(20)],
                runs=[("join:m", i, 3, rng.randbytes(500))],
                overlays=[("join:m", i, rng.randbytes(100))],
                documents={("m", f"judge:{i}"): "[0.25, 1767225600000]" * 20},
                outbox=[("dead", b"t/0/%d" % i, (("plumbline-reason", b"bad_score"),), None)],
                tried={i: Tried(1, 1.5, 2.5)},
            )
        )
    held = (*contents(store), store.deliveries(10))
    store.close()
    whole = (tmp_path / "whole" / "state.db").read_bytes()
    noticed = 0
    for n in range(250):
        at, bit = rng.randrange(len(whole)), 1 << rng.randrange(8)
        directory = tmp_path / str(n)
        directory.mkdir(mode=0o700)
        (directory / "state.db").write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        try:
            again = Store(directory)
            try:
                assert (*contents(again), again.deliveries(10)) == held, (at, bit)
            finally:
                again.close()
        except StateError:
            noticed += 1
    assert noticed > 150  # the others hit free space


def test_a_full_disk_takes_nothing_and_loses_nothing(tmp_path: Path) -> None:
    """A commit beyond the bound of the file is refused whole, however often; a smaller one goes in."""
    store = Store(tmp_path, max_bytes=400_000)
    store.commit(ONE)
    before = contents(store)
    large = Changes(positions={Partition("t", 0): 99}, runs=[("join:m", 1, 3, bytes(1_000_000))])
    for _ in range(2):
        with pytest.raises(StateBusyError, match=r"state\.db cannot be written or read now: .*full"):
            store.commit(large)
        assert contents(store) == before
    store.commit(Changes(positions={Partition("t", 0): 8}))
    assert store.positions() == {Partition("t", 0): 8}
    store.close()


def test_only_the_owner_may_read_the_state(tmp_path: Path) -> None:
    """The directory is 0700 and every file in it 0600, whatever the umask, also while it is written."""
    before = os.umask(0)
    try:
        store = Store(tmp_path / "new" / "state")
        store.commit(ONE)
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in store.directory.iterdir()}
        assert {"state.db", "lock"} <= set(modes)
        assert set(modes.values()) == {0o600}
        assert stat.S_IMODE(store.directory.stat().st_mode) == 0o700
        store.close()
    finally:
        os.umask(before)


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """Where a file stands in the way the message says what state.dir cannot do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"state\.dir .* cannot be written"):
        Store(tmp_path / "file" / "state")
