"""A log's storage on one machine: SQLite for order and payloads, a directory for the public tree.

    <data>/sequencer.db     trusted: entries, payloads, recorded checkpoints
    <data>/log/             derived: checkpoint, tile/...   (what the world may copy)
    <data>/staging/         files being written; emptied at every start
    <data>/guard            origin, size and root of the last signed checkpoint; may be placed on another volume

There is one writing connection, under a lock; everyone else opens the database read-only. (Before SQLite 3.51.3
two writers on one WAL can corrupt it.)
"""

import os
import shutil
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Self

from ledger.entry import BATCH, COMMITMENT, parse_entry
from ledger.writer.files import (
    fatal,
    lock,
    make_parents,
    make_private,
    read_file,
    replace_file,
    sync_directory,
    sync_file,
)
from ledger.writer.storage import Place, Recorded, StorageError, Submission

DATABASE = "sequencer.db"
DATABASE_VERSION = 2
PUBLIC = "log"
GUARD = "guard"
_STAGING = "staging"
MAX_SQLITE = 2**63 - 1  # a larger number is in no column, so nothing is found for it
_CHUNK = 1024  # entries fetched at a time: bounds memory, not meaning
# 16 MB. What many commits change is copied into the database once. At SQLite's own 1000, five commits of 256 batches by
# 100 devices, the copying is a fifth of the time that appending takes.
_WAL_PAGES = 4000

_SCHEMA = """
CREATE TABLE chains (number INTEGER PRIMARY KEY, key_id BLOB NOT NULL UNIQUE) STRICT;
CREATE TABLE entries (
    idx INTEGER PRIMARY KEY, kind INTEGER NOT NULL, entry BLOB NOT NULL,
    chain INTEGER REFERENCES chains, epoch INTEGER, seq INTEGER
) STRICT;
CREATE UNIQUE INDEX place ON entries (chain, epoch, seq) WHERE chain IS NOT NULL;
CREATE TABLE notable (kind INTEGER, idx INTEGER, PRIMARY KEY (kind, idx)) STRICT, WITHOUT ROWID;
CREATE TABLE payloads (idx INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT;
CREATE TABLE checkpoints (
    size INTEGER PRIMARY KEY, root BLOB NOT NULL, note BLOB NOT NULL, recorded_at_ns INTEGER NOT NULL,
    published INTEGER NOT NULL
) STRICT;
PRAGMA user_version = 2;
"""  # DATABASE_VERSION
# A chain by the id of its key; 32 bytes in every row of the index would be most of it.
_CHAIN = "chain = (SELECT number FROM chains WHERE key_id = ?)"
_LAST, _LAST_OF_MANY = "ORDER BY epoch DESC, seq DESC LIMIT 1", "ORDER BY epoch DESC, seq DESC LIMIT ?"
_RECORDED = "SELECT size, root, note, recorded_at_ns, published FROM checkpoints"
_IN_BULK = (BATCH, COMMITMENT)  # types that are never listed, so that they cost no second index


class LocalReader:
    """The reading half: entries and payloads from the database, opened read-only, and the public files.

    Safe beside the writer, in any process. Use as a context manager.
    """

    def __init__(self, data: Path) -> None:
        self._data = data
        self._public = data / PUBLIC
        self._reading = open_database(data)
        # Apart from the writer's lock, so that the publisher's reads never wait for an fsync of the hot path.
        self._read_lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases the database."""
        self._reading.close()

    def entries(self, start: int, end: int) -> Iterator[bytes]:
        """The entries [start, end), a bounded number in memory at a time."""
        for low in range(start, end, _CHUNK):
            query = "SELECT entry FROM entries WHERE idx >= ? AND idx < ? ORDER BY idx"
            with self._read_lock, fatal(self._data / DATABASE):
                rows = self._reading.execute(query, (low, min(low + _CHUNK, end))).fetchall()
            for (entry,) in rows:
                yield entry

    def payload(self, index: int) -> bytes | None:
        """The payload of entry `index`."""
        row = self._row("SELECT payload FROM payloads WHERE idx = ?", index)
        return row[0] if row else None

    def find(self, place: Place) -> tuple[int, bytes] | None:
        """The entry at `place`."""
        query = f"SELECT idx, entry FROM entries WHERE {_CHAIN} AND epoch = ? AND seq = ?"  # noqa: S608 - a constant
        return self._row(query, place.key_id, place.epoch, place.seq)

    def head(self, key_id: bytes) -> tuple[int, bytes] | None:
        """The last entry of a device's chain."""
        query = f"SELECT idx, entry FROM entries WHERE {_CHAIN} {_LAST}"  # noqa: S608 - constants
        return self._row(query, key_id)

    def head_place(self, key_id: bytes) -> Place | None:
        """The last place of a device's chain that is taken."""
        query = f"SELECT epoch, seq FROM entries WHERE {_CHAIN} {_LAST}"  # noqa: S608 - constants
        row = self._row(query, key_id)
        return Place(key_id, *row) if row else None

    def batches_since(self, key_id: bytes, index: int, limit: int) -> list[tuple[int, int, int]]:
        """A device's last batches at or after `index`."""
        # Of one device the order of the chain is that of the log.
        query = f"SELECT idx, epoch, seq FROM entries WHERE {_CHAIN} AND idx >= ? {_LAST_OF_MANY}"  # noqa: S608 - constants
        if index > MAX_SQLITE:
            return []
        with self._read_lock, fatal(self._data / DATABASE):
            rows = self._reading.execute(query, (key_id, index, limit)).fetchall()
        return rows[::-1]

    def of_type(self, kind: int) -> Iterator[tuple[int, bytes]]:
        """Every entry of a type that is neither batch nor commitment."""
        query = "SELECT idx, entry FROM notable JOIN entries USING (kind, idx) WHERE kind = ? ORDER BY idx"
        with self._read_lock, fatal(self._data / DATABASE):
            rows = self._reading.execute(query, (kind,)).fetchall()
        yield from rows

    def recorded(self) -> Recorded | None:
        """The newest recorded checkpoint."""
        return _recorded(self._row(f"{_RECORDED} ORDER BY size DESC LIMIT 1"))

    def published(self) -> Recorded | None:
        """The newest published checkpoint."""
        return _recorded(self._row(f"{_RECORDED} WHERE published ORDER BY size DESC LIMIT 1"))

    def first_covering(self, index: int) -> Recorded | None:
        """The first published checkpoint that covers entry `index`."""
        return _recorded(self._row(f"{_RECORDED} WHERE published AND size > ? ORDER BY size LIMIT 1", index))

    def read(self, path: str) -> bytes | None:
        """The public file at `path`."""
        return read_file(self._public, path)

    def checkpoint_root(self, size: int) -> bytes | None:
        """The root of the checkpoint that was recorded for `size`."""
        row = self._row("SELECT root FROM checkpoints WHERE size = ?", size)
        return row[0] if row else None

    def _row(self, query: str, *values: bytes | int) -> tuple[Any, ...] | None:
        if any(isinstance(value, int) and value > MAX_SQLITE for value in values):
            return None
        with self._read_lock, fatal(self._data / DATABASE):
            row: tuple[Any, ...] | None = self._reading.execute(query, values).fetchone()
        return row


class LocalStorage(LocalReader):
    """`Storage` on SQLite and a directory; use as a context manager."""

    def __init__(self, data: Path, guard: Path | None = None) -> None:
        """`guard`: where the second copy of the last checkpoint's size and root is, if not in `data`."""
        path = data / DATABASE
        if not path.exists():
            # A key that signs without its database would start a second history under the same name.
            raise StorageError(
                f"{path}: there is no sequencer database; restore it, or make a new log with its own key"
            )
        self._guard = guard or data / GUARD
        self._write_lock = threading.Lock()
        self._failed = False
        # Directories whose own name this process has made durable.
        self._named: set[Path] = set()
        with ExitStack() as opened:
            opened.enter_context(lock(data / "writer.lock"))
            _sync_wal(data)
            self._writing = opened.enter_context(closing(_connect(path)))
            super().__init__(data)
            opened.callback(super().close)
            with fatal(data):
                query = "SELECT coalesce(max(idx) + 1, 0) FROM entries"
                self._size: int = self._writing.execute(query).fetchone()[0]
                chains = self._writing.execute("SELECT key_id, number FROM chains").fetchall()
                self._chains: dict[bytes, int] = dict(chains)
                shutil.rmtree(data / _STAGING, ignore_errors=True)
                (data / _STAGING).mkdir()
                self._public.mkdir(exist_ok=True)
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Releases the databases and the lock."""
        self._opened.close()

    def append(self, group: Sequence[Submission]) -> int:
        """Commits `group` as one transaction; see `Storage.append`."""
        with self._write_lock:
            first = self._size
            known = len(self._chains)
            rows = []
            for index, item in enumerate(group, first):
                place: tuple[int | None, ...] = (None, None, None)
                if item.place:
                    chain = self._chains.setdefault(item.place.key_id, len(self._chains))
                    place = (chain, item.place.epoch, item.place.seq)
                rows.append((index, _kind(item), item.entry, *place))
            chains = [(number, key_id) for key_id, number in islice(self._chains.items(), known, None)]
            payloads = [(at, item.payload) for at, item in enumerate(group, first) if item.payload is not None]
            notable = [(row[1], row[0]) for row in rows if row[1] not in _IN_BULK]
            with self._durable(self._data / DATABASE), self._writing:
                self._writing.execute("BEGIN")
                self._writing.executemany("INSERT INTO chains VALUES (?, ?)", chains)
                self._writing.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", rows)
                self._writing.executemany("INSERT INTO payloads VALUES (?, ?)", payloads)
                self._writing.executemany("INSERT INTO notable VALUES (?, ?)", notable)
            self._size = first + len(group)
            return first

    def size(self) -> int:
        """How many entries are committed."""
        return self._size

    def guard(self) -> bytes:
        """The text in the guard."""
        try:
            return self._guard.read_bytes()
        except OSError as error:
            raise StorageError(
                f"{self._guard}: {error.strerror or error}; the guard is what shows that this database is no old copy: "
                "mount its volume, or, if it is lost for good and the newest checkpoint is in this database, write "
                "that checkpoint's first three lines into it"
            ) from None

    def record(self, checkpoint: Recorded, text: str) -> None:
        """Compare-and-swap: only a checkpoint larger than every recorded one goes in; the guard follows."""
        values = (checkpoint.size, checkpoint.root, checkpoint.note, checkpoint.recorded_at_ns, False)
        with self._write_lock, self._durable(self._data / DATABASE), self._writing:
            self._writing.execute("BEGIN IMMEDIATE")
            done = self._writing.execute(
                "INSERT INTO checkpoints SELECT ?, ?, ?, ?, ?"
                " WHERE ? > (SELECT coalesce(max(size), -1) FROM checkpoints)",
                (*values, checkpoint.size),
            )
            if done.rowcount != 1:
                raise StorageError(f"a checkpoint of size {checkpoint.size} or more is recorded already")
        with self._durable(self._guard):
            replace_file(self._guard, text.encode())

    def publish(self, checkpoint: Recorded) -> None:
        """The cosigned note takes the place of the one that was recorded."""
        with self._write_lock, self._durable(self._data / DATABASE), self._writing:
            self._writing.execute("BEGIN IMMEDIATE")
            done = self._writing.execute(
                "UPDATE checkpoints SET note = ?, published = TRUE WHERE size = ? AND root = ? AND NOT published",
                (checkpoint.note, checkpoint.size, checkpoint.root),
            )
            if done.rowcount != 1:
                raise StorageError(f"no checkpoint of size {checkpoint.size} waits to be published")

    def write(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Stages, syncs, renames into place, then syncs each directory that changed, once."""
        with self._durable(self._public):
            staged = [(self._stage(number, data), path) for number, (path, data) in enumerate(files)]
            changed: set[Path] = set()
            for temporary, path in staged:
                target = self._public / path
                changed.update(make_parents(target.parent, self._data, self._named))
                temporary.rename(target)
            for directory in changed:
                sync_directory(directory)
            self._named |= changed

    def remove_partials(self, paths: Iterable[str]) -> None:
        """Removes `<path>.p` directories; a crash in between leaves files that are right and in nobody's way."""
        for path in paths:
            with self._durable(self._public), suppress(FileNotFoundError):
                shutil.rmtree(self._public / path)
            self._named.discard(self._public / path)  # one directory in 256 entries: they would fill the memory

    @contextmanager
    def _durable(self, where: Path) -> Iterator[None]:
        """One write; after the first that failed nothing is written any more, by any thread.

        What a failed fsync left on the disk nobody can say, so going on would build on it.
        """
        if self._failed:
            raise StorageError(f"{where}: not written, because a write before it failed")
        try:
            with fatal(where):
                yield
        except BaseException:
            self._failed = True
            raise

    def _stage(self, number: int, data: bytes) -> Path:
        path = self._data / _STAGING / str(number)
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return path


def create_database(data: Path) -> None:
    """An empty sequencer database in `data`, there whole or not at all; raises StorageError if one is there."""
    path = data / DATABASE
    if path.exists():
        raise StorageError(f"{path}: there is a log already; nothing was changed")
    with fatal(path):
        unfinished = data / f"{DATABASE}.new"
        unfinished.unlink(missing_ok=True)
        make_private(unfinished)
        connection = sqlite3.connect(unfinished, isolation_level=None)
        connection.executescript(_SCHEMA)
        connection.close()
        sync_file(unfinished)
        unfinished.rename(path)
        sync_directory(data)


def open_database(data: Path) -> sqlite3.Connection:
    """The sequencer database of `data`, read-only; raises StorageError."""
    path = data / DATABASE
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise StorageError(f"{path}: cannot be read: {error}") from None
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error as error:
        connection.close()
        raise StorageError(f"{path}: cannot be read: {error}") from None
    if version != DATABASE_VERSION:
        connection.close()
        raise StorageError(f"{path}: is of version {version}, not of this program's version {DATABASE_VERSION}")
    return connection


def _sync_wal(data: Path) -> None:
    """What a killed writer committed without having synced it is durable before anything is built on it.

    SQLite reads such a commit back at its recovery, but syncs it only with the next one.
    """
    with fatal(data / DATABASE), suppress(FileNotFoundError):
        sync_file(data / f"{DATABASE}-wal")
        sync_directory(data)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        with fatal(path):
            if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                raise StorageError(f"{path}: this file system does not let SQLite keep a write-ahead log")  # noqa: TRY301 - raised here, closed below
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
    except StorageError:
        connection.close()
        raise
    return connection


def _recorded(row: tuple[Any, ...] | None) -> Recorded | None:
    if row is None:
        return None
    size, root, note, recorded_at_ns, published = row
    return Recorded(size, root, note, recorded_at_ns, bool(published))


def _kind(item: Submission) -> int:
    """The entry's type; that of a batch is known from its place, without parsing it again on the hot path."""
    return BATCH if item.place else parse_entry(item.entry).type
