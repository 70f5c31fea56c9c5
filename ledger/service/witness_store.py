"""What a witness must never forget: the last checkpoint that it cosigned of each log.

    <data>/witness.db     WAL, synchronous=FULL, readable by its owner only; one writing process, under a lock

A cosignature leaves the witness only after the state that it implies was committed and synced (`replace`), by
compare-and-set on the state that it was checked against. After the first failed write nothing is written or read any
more: what a failed fsync left on the disk nobody can say, so the process ends. The next one rewrites the whole file
before it trusts it (`VACUUM`), because pages that were never written may sit in the kernel's cache as if they were.

The database also knows which keys are its own. A key beside another database, or beside none, would sign a second
history of every log that it ever cosigned.
"""

import hashlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Self

from ledger.checkpoint import Checkpoint, parse_checkpoint
from ledger.errors import MalformedError
from ledger.note import VerifierKey, parse_note
from ledger.service.witness import NOTHING, State
from ledger.writer.files import fatal, lock, make_private, sync_directory, sync_file
from ledger.writer.storage import StorageError

DATABASE = "witness.db"
LOCK = "witness.lock"
_VERSION = 1

_SCHEMA = """
CREATE TABLE witness (name TEXT NOT NULL, url TEXT) STRICT;
CREATE TABLE keys (vkey TEXT PRIMARY KEY) STRICT;
CREATE TABLE logs (
    id TEXT PRIMARY KEY, origin TEXT NOT NULL,
    size INTEGER NOT NULL, root BLOB NOT NULL, time INTEGER NOT NULL, note BLOB NOT NULL
) STRICT;
"""


class WitnessReader:
    """The reading half, safe beside a running witness; use as a context manager."""

    def __init__(self, data: Path) -> None:
        """Raises StorageError if `data` has no witness's database of this version."""
        self._path = data / DATABASE
        self._lock = threading.Lock()
        self.failed = False
        if not self._path.exists():
            raise StorageError(
                f"{self._path}: there is no witness's database; a key without its database must not sign again: "
                "make a new witness with its own keys (init)"
            )
        with ExitStack() as opened:
            self._connection = opened.enter_context(closing(self._open()))
            with fatal(self._path):
                version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version != _VERSION:
                raise StorageError(f"{self._path}: is of version {version}, not of this program's version {_VERSION}")
            self.name, self.url = self._rows("SELECT name, url FROM witness")[0]
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases the database."""
        self._opened.close()

    def vkeys(self) -> set[str]:
        """The keys, as vkeys, that belong to this database."""
        return {vkey for (vkey,) in self._rows("SELECT vkey FROM keys")}

    def load(self, origin: str) -> State:
        """The state of the log `origin`, `NOTHING` if it was never cosigned."""
        rows = self._rows("SELECT size, root, time, note FROM logs WHERE id = ?", log_id(origin))
        return State(*rows[0]) if rows else NOTHING

    def note(self, identity: str) -> bytes | None:
        """The note last cosigned of the log whose `log_id` this is."""
        rows = self._rows("SELECT note FROM logs WHERE id = ?", identity)
        return rows[0][0] if rows else None

    def states(self) -> dict[str, State]:
        """The state of every log that was ever cosigned, by origin."""
        rows = self._rows("SELECT origin, size, root, time, note FROM logs ORDER BY origin")
        return {origin: State(*values) for origin, *values in rows}

    def _open(self) -> sqlite3.Connection:
        with fatal(self._path):
            return sqlite3.connect(
                f"{self._path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
            )

    def _rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        with self._lock:
            self._check_sound()
            with fatal(self._path):
                return self._connection.execute(query, values).fetchall()

    def _check_sound(self) -> None:
        if self.failed:
            raise StorageError(f"{self._path}: not used any more, because a write failed")


class WitnessStore(WitnessReader):
    """The writing half: one process at a time."""

    def __init__(self, data: Path) -> None:
        """Raises StorageError if another process has it, or what is in it does not fit together."""
        with ExitStack() as locked:
            if data.is_dir():
                locked.enter_context(lock(data / LOCK))
            super().__init__(data)
            locked.push(self._opened)
            self._check_notes()
            self._opened = locked.pop_all()

    def replace(self, origin: str, before: State, after: State) -> bool:
        """The state of `origin` is durably `after`, if it was `before`; if it was another one, nothing changes.

        Raises StorageError if that cannot be known; from then on every method does.
        """
        identity = log_id(origin)
        with self._durable():
            if before == NOTHING:
                query = "INSERT INTO logs VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
                values: tuple[Any, ...] = (identity, origin, after.size, after.root, after.time, after.note)
            else:
                query = (
                    "UPDATE logs SET size = ?, root = ?, time = ?, note = ? "
                    "WHERE id = ? AND size = ? AND root = ? AND time = ?"
                )
                values = (after.size, after.root, after.time, after.note)
                values += (identity, before.size, before.root, before.time)
            return self._connection.execute(query, values).rowcount == 1

    def register(self, key: VerifierKey) -> None:
        """`key` belongs to this database from here on."""
        with self._durable():
            self._connection.execute("INSERT INTO keys VALUES (?)", (str(key),))

    @contextmanager
    def _durable(self) -> Iterator[None]:
        """One transaction, committed and synced at the end; the first that fails is the last."""
        with self._lock:
            self._check_sound()
            try:
                with fatal(self._path), self._connection:
                    self._connection.execute("BEGIN IMMEDIATE")
                    yield
            except BaseException:
                self.failed = True
                raise

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            with fatal(self._path):
                if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                    raise StorageError(f"{self._path}: this file system does not let SQLite keep a write-ahead log")  # noqa: TRY301 - raised here, closed below
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except StorageError:
            connection.close()
            raise
        return connection

    def _check_notes(self) -> None:
        for origin, state in self.states().items():
            try:
                checkpoint = parse_checkpoint(parse_note(state.note).text)
            except MalformedError:
                checkpoint = None
            if checkpoint != Checkpoint(origin, state.size, state.root):
                raise StorageError(f"{self._path}: the state of {origin} is not that of the note in it; it was changed")


def create_store(data: Path, name: str, url: str | None, keys: Iterable[VerifierKey]) -> None:
    """An empty database of the witness `name` with `keys` in `data`, there whole or not at all."""
    path = data / DATABASE
    if path.exists():
        raise StorageError(f"{path}: there is a witness already; nothing was changed")
    with fatal(path):
        unfinished = data / f"{DATABASE}.new"
        unfinished.unlink(missing_ok=True)
        make_private(unfinished)
        with closing(sqlite3.connect(unfinished, isolation_level=None)) as connection:
            connection.executescript(f"{_SCHEMA} PRAGMA user_version = {_VERSION};")
            connection.execute("INSERT INTO witness VALUES (?, ?)", (name, url))
            connection.executemany("INSERT INTO keys VALUES (?)", [(str(key),) for key in keys])
        sync_file(unfinished)
        unfinished.rename(path)
        sync_directory(data)


def log_id(origin: str) -> str:
    """What names a log in the path of its cosigned checkpoint: SHA-256 of the origin, in hex."""
    return hashlib.sha256(origin.encode()).hexdigest()
