"""The outbox's SQLite file: schema, connection, lock, and what its faults are called.

A batch owns the readings from its first to its last id; ids are never used twice, and what lies above the last
batch is unsealed. So sealing touches no reading, and nothing is rewritten in place.
"""

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ledger.batch import SealedBatch
from vitalseal.errors import UserError

SEALED, STORED, RECEIPTED = 0, 1, 2  # batches.state; it only rises
MAX_SQLITE = 2**63 - 1  # the formats' 64-bit numbers have no sign, SQLite's have

_FORMAT = 1
_DAMAGED = (
    "the file is damaged; keep it for a repair, with its -wal beside it, but move both away and start again: the"
    " device's chain then goes on in a new epoch, whose first batch says that an outbox was lost"
)
# What a person can do, by SQLite's primary error code.
_ADVICE = {
    sqlite3.SQLITE_FULL: "make room; until then nothing more is accepted",
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}
_PAGE_CACHE_KB = 2048  # the agent's memory does not grow with the outbox

_SCHEMA = """
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL, next_seq INTEGER NOT NULL DEFAULT 0, previous BLOB, -- the end of the device's chain
    sealed_to INTEGER NOT NULL DEFAULT 0,                           -- last reading id in a sealed batch
    anchor_size INTEGER NOT NULL DEFAULT 0, anchor_root BLOB,       -- largest verified checkpoint
    checkpoint BLOB,                                                -- the same, as signed
    lived_s REAL NOT NULL DEFAULT 0,                                -- how long agents have run on this file
    connected INTEGER NOT NULL DEFAULT 0,                           -- means nothing while no agent runs
    purged_readings INTEGER NOT NULL DEFAULT 0, purged_batches INTEGER NOT NULL DEFAULT 0,
    reject_epoch INTEGER, reject_seq INTEGER, reject_reason INTEGER, reject_detail TEXT
);
CREATE TABLE sensors (id INTEGER PRIMARY KEY, source BLOB NOT NULL UNIQUE, description TEXT NOT NULL);
CREATE TABLE cursors (name TEXT PRIMARY KEY, cursor BLOB, refused INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE readings (
    id INTEGER PRIMARY KEY AUTOINCREMENT,                           -- AUTOINCREMENT: never used twice
    sensor INTEGER NOT NULL, sensor_time_ns INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE TABLE batches (
    epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    first_id INTEGER NOT NULL, last_id INTEGER NOT NULL,            -- last_id < first_id: no readings
    header BLOB NOT NULL, signature BLOB NOT NULL, secret BLOB NOT NULL, info BLOB NOT NULL,
    size INTEGER NOT NULL,                                          -- of the envelope, bytes
    state INTEGER NOT NULL DEFAULT 0, log_index INTEGER,
    settled_s REAL,                                                 -- lived_s when the receipt was verified
    PRIMARY KEY (epoch, seq)
);
CREATE INDEX batches_by_state ON batches (state, epoch, seq);
"""


class OutboxError(UserError):
    """The outbox cannot be used or kept; says which file, and what to do where that is known."""


def open_database(path: Path, first_epoch: Callable[[], int]) -> sqlite3.Connection:
    """A connection to the outbox in `path`, made with epoch `first_epoch()` if it is not there yet."""
    with explained(path), contextlib.ExitStack() as stack:
        db = stack.enter_context(contextlib.closing(sqlite3.connect(path, isolation_level=None)))
        path.chmod(0o600)  # readings and secrets: nobody else's business
        db.execute(f"PRAGMA cache_size = -{_PAGE_CACHE_KB}")
        # Asked for, not given: SQLite goes on in another mode where the file system cannot do this one.
        (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise OutboxError(
                f"outbox {path}: its file system allows no write-ahead log (journal mode {mode});"
                " put `data` on a local disk"
            )
        # WAL's default of NORMAL syncs at checkpoints only: a power cut would take accepted readings back.
        db.execute("PRAGMA synchronous = FULL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            # All in one transaction: a crash leaves a file without tables, and this branch is taken again.
            epoch = first_epoch()
            state = f"INSERT INTO state (one, epoch) VALUES (1, {epoch:d});"  # noqa: S608 - an int of ours
            db.executescript(f"BEGIN; {_SCHEMA} {state} PRAGMA user_version = {_FORMAT}; COMMIT;")
        else:
            _check_format(path, version)
        stack.pop_all()  # all is well: the connection is the caller's to close
        return db


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, beside the writer's."""
    if not path.exists():
        raise OutboxError(f"outbox {path}: not there; has `vitalseal edge run` been started?")
    with explained(path), contextlib.ExitStack() as stack:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        db = stack.enter_context(contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)))
        (version,) = db.execute("PRAGMA user_version").fetchone()
        _check_format(path, version)
        stack.pop_all()
        return db


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Errors of SQLite and of the file system inside are OutboxErrors that say which file."""
    try:
        yield
    except sqlite3.Error as error:
        # The low byte is the primary code; an error of Python's own module has none.
        advice = _ADVICE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
        raise OutboxError("; ".join(filter(None, (f"outbox {path}: {error}", advice)))) from error
    except OSError as error:
        raise OutboxError(f"outbox {path}: {error.strerror or error}") from error


def lock(path: Path) -> int:
    """A descriptor that holds the outbox's lock until it is closed, or its process dies; raises UserError."""
    try:
        descriptor = os.open(_lock_file(path), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise OutboxError(f"{_lock_file(path)}: {error.strerror or error}") from None
    # `locked` holds the lock for a moment when someone asks for the status; that must not fail a start.
    for wait_s in (0.02, 0.05, 0.1, None):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if wait_s is not None:
                time.sleep(wait_s)
        else:
            return descriptor
    os.close(descriptor)
    raise OutboxError(f"outbox {path}: another agent is using it; stop that one first")


def locked(path: Path) -> bool:
    """An agent is using the outbox in `path`."""
    try:
        os.close(lock(path))
    except OutboxError:
        return True
    return False


def assemble(db: sqlite3.Connection, epoch: int, seq: int) -> SealedBatch | None:
    """The batch as it was sealed, or None when it is not kept."""
    row = db.execute(
        "SELECT header, signature, secret, info, first_id, last_id FROM batches WHERE epoch = ? AND seq = ?",
        (epoch, seq),
    ).fetchone()
    if row is None:
        return None
    header, signature, secret, info, first, last = row
    bodies = db.execute("SELECT body FROM readings WHERE id BETWEEN ? AND ? ORDER BY id", (first, last))
    return SealedBatch(header, signature, secret, info, tuple(body for (body,) in bodies))


def _check_format(path: Path, version: int) -> None:
    if version != _FORMAT:
        raise OutboxError(f"outbox {path}: format {version}, and this version knows {_FORMAT} only")


def _lock_file(path: Path) -> Path:
    return path.with_suffix(".lock")
