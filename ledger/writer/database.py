"""The sequencer database of a log on one machine: its schema, made and opened.

    entries       the order: every committed entry, a batch with its place in its device's chain
    payloads      the private half of each batch, as it was committed; zeros where `later` has it since
    later         the newest is what counts: a payload that came back, or what an erasure left of one (`erasing`)
    erased        each entry that says that leaves of a batch were erased, and whether no byte of them is here any more
    missing       the batches whose payload is not here: replayed from the public log after a restore
    returned      those of them whose payload a device has sent again, in the order in which they came
    checkpoints   every checkpoint that was signed here, and the one up to which a restore replayed
    replayed      from which size up to which: checkpoints in between were signed, and are not known any more

There is one writing connection (`open_for_writing`); everyone else reads.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from ledger.writer.files import fatal, make_private, sync_directory, sync_file
from ledger.writer.storage import StorageError

DATABASE = "sequencer.db"
DATABASE_VERSION = 4
MAX_SQLITE = 2**63 - 1  # a larger number is in no column, so nothing is found for it
# 16 MB. What many commits change is copied into the database once. At SQLite's own 1000, five commits of 256 batches by
# 100 devices, the copying is a fifth of the time that appending takes.
_WAL_PAGES = 4000
_COPY_PAGES = 256  # 1 MB, copied between two reports of progress

# Logs of older versions are out there, and a log has to live: the writer brings them up, and they lack just this.
_SINCE_VERSION_3 = """
CREATE TABLE missing (
    chain INTEGER NOT NULL REFERENCES chains, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (chain, epoch, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE returned (number INTEGER PRIMARY KEY, idx INTEGER NOT NULL) STRICT;
CREATE TABLE replayed (first INTEGER PRIMARY KEY, size INTEGER NOT NULL) STRICT;
"""
_SINCE_VERSION_4 = """
CREATE TABLE later (number INTEGER PRIMARY KEY, idx INTEGER NOT NULL, payload BLOB NOT NULL) STRICT;
CREATE INDEX later_by_idx ON later (idx);
CREATE TABLE erased (
    batch INTEGER NOT NULL, entry INTEGER NOT NULL, done INTEGER NOT NULL, PRIMARY KEY (batch, entry)
) STRICT, WITHOUT ROWID;
CREATE INDEX to_erase ON erased (batch) WHERE NOT done;
"""
_LACKING = {2: _SINCE_VERSION_3 + _SINCE_VERSION_4, 3: _SINCE_VERSION_4}  # by version
_SCHEMA = f"""
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
{_SINCE_VERSION_3}
{_SINCE_VERSION_4}
PRAGMA user_version = {DATABASE_VERSION};
"""


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
        what_to_do = "; start its aggregator once, which brings it up" if version in _LACKING else ""
        raise StorageError(
            f"{path}: is of version {version}, not of this program's version {DATABASE_VERSION}{what_to_do}"
        )
    return connection


def open_for_writing(data: Path) -> sqlite3.Connection:
    """The sequencer database of `data` for its one writer, of this version if it was of one before.

    Raises StorageError.
    """
    path = data / DATABASE
    _sync_wal(path)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        with fatal(path):
            if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                raise StorageError(f"{path}: this file system does not let SQLite keep a write-ahead log")  # noqa: TRY301 - raised here, closed below
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
            if lacking := _LACKING.get(connection.execute("PRAGMA user_version").fetchone()[0]):
                _migrate(connection, lacking)
    except StorageError:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection, lacking: str) -> None:
    """The database of an older version is of this one, or as it was; no entry and no payload is touched."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        for statement in lacking.split(";\n"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {DATABASE_VERSION}")


def copy_database(source: Path, target: Path, progress: Callable[[int, int], None]) -> None:
    """`target`, new and private, durably holds what the SQLite database `source` held at one moment.

    `source` may be written meanwhile; its write-ahead log grows until the copy is done. `progress` hears pages done and
    pages in all. Raises StorageError.
    """
    make_private(target)
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)) as old,
            closing(sqlite3.connect(target, isolation_level=None)) as new,
        ):
            # Synced once, when all of it is there: until then nobody takes it for a database.
            new.execute("PRAGMA synchronous = OFF")
            # A read transaction that lasts as long as the copying. Without it SQLite begins anew whenever somebody
            # writes, which a log under load does every few milliseconds.
            old.execute("BEGIN")
            old.execute("SELECT count(*) FROM sqlite_master").fetchone()
            old.backup(new, pages=_COPY_PAGES, progress=lambda _code, left, pages: progress(pages - left, pages))
            # One file, and readers of it leave nothing beside it; the next writer makes a write-ahead log again.
            new.execute("PRAGMA journal_mode = DELETE")
        sync_file(target)
    except (sqlite3.Error, OSError) as error:
        raise StorageError(f"{source}: cannot be copied to {target}: {error}") from None


def _sync_wal(path: Path) -> None:
    """What a killed writer committed without having synced it is durable before anything is built on it.

    SQLite reads such a commit back at its recovery, but syncs it only with the next one.
    """
    with fatal(path), suppress(FileNotFoundError):
        sync_file(path.with_name(f"{path.name}-wal"))
        sync_directory(path.parent)
