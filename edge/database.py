"""The outbox's SQLite file: connection, lock, and what its faults are called."""

import contextlib
import errno
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge import schema
from edge.files import sync_directory
from ledger.batch import SealedBatch
from ledger.messages import Reason
from vitalseal.errors import UserError

SEALED, STORED, RECEIPTED = 0, 1, 2  # batches.state; it only rises
PASSING = (Reason.OUT_OF_ORDER, Reason.OVER_QUOTA)  # rejects that mend themselves
MAX_SQLITE = 2**63 - 1  # the formats' 64-bit numbers have no sign, SQLite's have

_DAMAGED = (
    "the file is damaged; keep it for a repair, with its -wal beside it, but move both away and start again: the"
    " device's chain then goes on in a new epoch, whose first batch says that an outbox was lost"
)
# What a person can do, by SQLite's primary error code.
_ADVICE = {
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}
_PAGE_CACHE_KB = 2048  # the agent's memory does not grow with the outbox
# What the write-ahead log shrinks to when a reader that kept it from beginning again has gone; twice its usual size.
_MAX_WAL = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose outbox it is: a device, the log it seals for, its key, and the file beside which that key's epochs are."""

    device: str
    origin: str
    key_id: bytes
    key_file: Path


class OutboxError(UserError):
    """The outbox cannot be used or kept; says which file, and what to do where that is known."""


class DiskFullError(OutboxError):
    """The disk has no room for a transaction, which did not happen; the one fault after which trying again is safe."""


def open_database(path: Path, owner: Owner) -> sqlite3.Connection:
    """A connection to the outbox of `owner` in `path`, made if it is not there, brought to this version's format."""
    with explained(path), contextlib.ExitStack() as stack:
        db = stack.enter_context(contextlib.closing(sqlite3.connect(path, isolation_level=None)))
        path.chmod(0o600)  # readings and secrets: nobody else's business
        db.execute(f"PRAGMA cache_size = -{_PAGE_CACHE_KB}")
        db.execute(f"PRAGMA journal_size_limit = {_MAX_WAL}")
        # Asked for, not given: SQLite goes on in another mode where the file system cannot do this one.
        (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise OutboxError(
                f"outbox {path}: its file system allows no write-ahead log (journal mode {mode});"
                " put `data` on a local disk"
            )
        # What was deleted is overwritten, so that what was erased, or purged before that, is not found in the file.
        # Accepting and sealing delete nothing, and pay nothing for it.
        db.execute("PRAGMA secure_delete = ON")
        # WAL's default of NORMAL syncs at checkpoints only: a power cut would take accepted readings back.
        db.execute("PRAGMA synchronous = FULL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            schema.make(db, owner.device, owner.origin)
        elif 0 < version < schema.FORMAT:
            schema.migrate(db, version, owner.device, owner.origin, owner.key_id)
        else:
            _check_format(path, version)
        sync_directory(path.parent)
        _check_owner(path, db, owner)
        stack.pop_all()  # all is well: the connection is the caller's to close
        return db


def _check_owner(path: Path, db: sqlite3.Connection, owner: Owner) -> None:
    device, origin = db.execute("SELECT device, origin FROM state").fetchone()
    if (device, origin) != (owner.device, owner.origin):
        raise OutboxError(
            f"outbox {path}: it is that of device {device!r} for log {origin}, and the configuration says device"
            f" {owner.device!r} for log {owner.origin}; give each its own `data` directory"
        )


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
        extended = getattr(error, "sqlite_errorcode", 0)
        code = extended & 0xFF
        # The second: the file beside the write-ahead log that is made at opening, before anything is written.
        if code == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE:
            raise DiskFullError(f"outbox {path}: {error}; make room") from error
        raise OutboxError("; ".join(filter(None, (f"outbox {path}: {error}", _ADVICE.get(code))))) from error
    except OSError as error:
        kind = DiskFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else OutboxError
        raise kind(f"outbox {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def unless_locked() -> Iterator[None]:
    """What a statement of this connection that is still open somewhere holds up is left for the next time."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_LOCKED:
            raise


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


def assemble(db: sqlite3.Connection, chain: int, seq: int) -> SealedBatch | None:
    """The batch as it was sealed, or None when it is not kept."""
    row = db.execute(
        "SELECT header, signature, secret, info, first_id, last_id FROM batches JOIN secrets USING (chain, seq) "
        "WHERE chain = ? AND seq = ?",
        (chain, seq),
    ).fetchone()
    if row is None:
        return None
    header, signature, secret, info, first, last = row
    bodies = db.execute("SELECT body FROM readings WHERE id BETWEEN ? AND ? ORDER BY id", (first, last))
    return SealedBatch(header, signature, secret, info, tuple(body for (body,) in bodies))


def _check_format(path: Path, version: int) -> None:
    if not version:
        raise OutboxError(f"outbox {path}: an agent is just making it; ask again")
    if 0 < version < schema.FORMAT:
        raise OutboxError(f"outbox {path}: format {version}, of an earlier version; start the agent once")
    if version != schema.FORMAT:
        raise OutboxError(f"outbox {path}: format {version}, and this version knows {schema.FORMAT} only")


def _lock_file(path: Path) -> Path:
    return path.with_suffix(".lock")
