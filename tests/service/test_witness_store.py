"""What a witness remembers, when a write fails before or after its effect, and who may use it."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from ledger.service.witness import NOTHING, State
from ledger.service.witness_keys import create_witness
from ledger.service.witness_store import DATABASE, WitnessReader, WitnessStore
from ledger.writer.storage import StorageError
from tests.service.witnessing import NAME, NOW, Desk, Log, cosigned_at, logs_of, own_keys

ORIGIN = "log.example/a"


def state(size: int, fork: str = "") -> State:
    """The state after `size` was cosigned."""
    log = Log(ORIGIN)
    return State(size, log.root(size, fork), NOW + size, log.note(size, fork).encode())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    create_witness(tmp_path / "w", NAME, None)
    return tmp_path / "w"


def test_state_is_replaced_only_if_it_is_the_one_that_was_checked(data):
    """Other size, other root, other time, nothing before: refused, and nothing changes."""
    with WitnessStore(data) as store:
        assert not store.replace(ORIGIN, state(3), state(4))
        assert store.load(ORIGIN) == NOTHING
        assert store.replace(ORIGIN, NOTHING, state(5))
        for before in (NOTHING, state(4), state(5, "fork"), State(5, state(5).root, NOW, b"")):
            assert not store.replace(ORIGIN, before, state(9))
        assert store.load(ORIGIN) == state(5)
        assert store.replace(ORIGIN, state(5), state(9))
    with WitnessReader(data) as reader:
        assert reader.states() == {ORIGIN: state(9)}


def test_of_two_replacements_of_one_state_exactly_one_happens(data):
    """From two threads at once, again and again; no size is ever followed by a smaller one."""
    meet = threading.Barrier(2, timeout=20)
    with WitnessStore(data) as store:
        before = NOTHING
        for _ in range(50):
            done: dict[int, bool] = {}

            def replace(size: int, before: State = before, done: dict[int, bool] = done) -> None:
                meet.wait()
                done[size] = store.replace(ORIGIN, before, state(size))

            threads = [threading.Thread(target=replace, args=(before.size + step,)) for step in (1, 2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(done.values()) == [False, True]
            after = store.load(ORIGIN)
            assert done[after.size]
            before = after


def test_state_survives_a_copy_of_the_files_without_a_close(data, tmp_path):
    """What `replace` returned from is in the files, as a reader finds that sees only them."""
    copy = tmp_path / "copy"
    copy.mkdir()
    with WitnessStore(data) as store:
        store.replace(ORIGIN, NOTHING, state(5))
        for path in data.glob("witness.db*"):
            (copy / path.name).write_bytes(path.read_bytes())
    with WitnessStore(copy) as store:
        assert store.load(ORIGIN) == state(5)


def test_files_are_their_owners_only_also_while_it_runs(data):
    """The write-ahead log has the mode of the database."""
    with WitnessStore(data) as store:
        store.replace(ORIGIN, NOTHING, state(5))
        modes = {path.name: path.stat().st_mode & 0o777 for path in data.glob("witness.db*")}
    assert modes == dict.fromkeys((DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm"), 0o600)


def test_commits_are_synced_to_the_disk(data):
    """WAL with synchronous=FULL: a commit returns after its fsync."""
    with WitnessStore(data) as store:
        assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_second_process_is_refused(data):
    """Two witnesses on one state would be one too many."""
    with WitnessStore(data), pytest.raises(StorageError, match="another process"):
        WitnessStore(data)
    with WitnessStore(data):
        pass


def test_database_of_another_version_or_none_is_refused(data):
    """One line says which file."""
    (data / "keys" / "x").mkdir()
    with pytest.raises(StorageError, match="no witness's database"):
        WitnessStore(data / "keys")
    with closing(sqlite3.connect(data / DATABASE)) as connection:
        connection.execute("PRAGMA user_version = 2")
    for opened in (WitnessReader, WitnessStore):
        with pytest.raises(StorageError, match="version 2"):
            opened(data)
    (data / DATABASE).write_bytes(b"no database" * 1000)
    for opened in (WitnessReader, WitnessStore):
        with pytest.raises(StorageError, match=DATABASE):
            opened(data)


def test_state_that_is_not_its_notes_is_refused(data):
    """A size that was edited does not fit the checkpoint beside it."""
    with WitnessStore(data) as store:
        store.replace(ORIGIN, NOTHING, state(5))
    with closing(sqlite3.connect(data / DATABASE)) as connection, connection:
        connection.execute("UPDATE logs SET size = 4")
    with pytest.raises(StorageError, match=ORIGIN):
        WitnessStore(data)
    with WitnessReader(data) as reader:
        assert reader.load(ORIGIN).size == 4


def test_full_disk_gives_no_cosignature_and_ends_the_witness(tmp_path):
    """A write that SQLite refuses: 500, everything after it too, and after a restart the old state counts."""
    log = Log(ORIGIN)
    with Desk(tmp_path / "w", log) as desk:
        assert desk.ask(log.body(0, 5))[0] == 200
        pages = desk.store._connection.execute("PRAGMA page_count").fetchone()[0]
        desk.store._connection.execute(f"PRAGMA max_page_count = {pages}")
        status, number = 200, 0
        while status == 200:
            number += 1
            other = Log(f"log.example/{number}")
            desk.witness.logs = {**desk.witness.logs, **logs_of(other)}
            status, answer = desk.ask(other.body(0, 5))
        assert status == 500
        assert "\u2014" not in answer
        assert desk.stops == 1
        assert desk.store.failed
        assert desk.ask(log.body(5, 9))[0] == 500
        assert desk.http.request("GET", "healthz")[0] == 500
        desk.restart()
        assert desk.ask(log.body(0, 9)) == (409, "5\n")
        assert desk.ask(log.body(5, 9))[0] == 200


class Failing:
    """A store whose next `replace` fails: before its effect, or after it."""

    def __init__(self, store: WitnessStore, *, after: bool) -> None:
        self._store = store
        self._after = after

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def replace(self, origin: str, before: State, after: State) -> bool:
        if self._after:
            self._store.replace(origin, before, after)
        raise StorageError("the disk is gone")


@pytest.mark.parametrize("after", [False, True], ids=["before commit", "after commit"])
@pytest.mark.parametrize("old", [0, 5], ids=["first", "next"])
def test_failure_at_any_step_never_leads_to_two_trees(tmp_path, after, old):
    """No cosignature leaves; after a restart the witness continues one fork, never both."""
    log = Log(ORIGIN, shared=5)
    with Desk(tmp_path / "w", log) as desk:
        cosigned = []
        if old:
            assert desk.ask(log.body(0, old))[0] == 200
        desk.witness.store = Failing(desk.store, after=after)
        status, answer = desk.ask(log.body(old, 9, "left"))
        assert (status, "\u2014" in answer, desk.stops) == (500, False, 1)
        desk.restart()
        # What the log would do: ask where the witness is, and go on; the other fork first.
        for fork in ("right", "left"):
            at = desk.store.load(log.origin).size
            if desk.ask(log.body(at, 12, fork))[0] == 200:
                cosigned.append(fork)
        assert cosigned == (["left"] if after else ["right"])


def test_clock_of_a_restarted_machine_that_is_behind_is_noticed(tmp_path):
    """The time of the last cosignature is part of the state on disk."""
    log = Log(ORIGIN)
    with Desk(tmp_path / "w", log) as desk:
        assert desk.ask(log.body(0, 5))[0] == 200
        desk.now = NOW - 100_000
        desk.restart()
        assert desk.ask(log.body(5, 9))[0] == 503
        desk.now = NOW + 5
        _, lines = desk.ask(log.body(5, 9))
        assert cosigned_at(lines, own_keys(desk.data), log, 9) == [NOW + 5, NOW + 5]
