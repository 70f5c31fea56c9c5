"""The sequencer database into a backup and back: every row as it is, but the payloads, which are encrypted there.

It is copied row by row. Pages would bring what was deleted from them, and the payloads in clear.

In a backup the table of the payloads has another name, and everything else is as it was: a program that takes the file
for a log's database, because somebody put it in that place by hand, is told that it is none.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aggregator.backup_keys import Keyring
from aggregator.sealed_payloads import Keys, open_payload, seal_payload, source_of, split_payload, subjects_of
from ledger import canonical
from ledger.batch import Header
from ledger.entry import ERASED, BatchEntry, Erased, parse_entry
from ledger.errors import LedgerError, MalformedError
from ledger.leaves import Leaf, check_leaves, leaves_value
from ledger.writer.files import make_private, sync_file
from ledger.writer.payload import parse_payload
from ledger.writer.storage import StorageError

_PAYLOADS, _LATER, _SEALED = "payloads", "later", "sealed_payloads"
# Of each batch the payload that counts, see `ledger.writer.database`; and the sealed one in a backup.
_IN_CLEAR = """
WITH held (idx) AS (
    SELECT idx FROM old.payloads WHERE idx > ?1 UNION SELECT idx FROM old.later WHERE idx > ?1 ORDER BY idx LIMIT ?2
)
SELECT idx, coalesce(
    (SELECT payload FROM old.later AS newer WHERE newer.idx = held.idx ORDER BY number DESC LIMIT 1),
    (SELECT payload FROM old.payloads AS first WHERE first.idx = held.idx)
) AS payload FROM held
"""
_IN_BACKUP = f"SELECT idx, payload FROM old.{_SEALED} WHERE idx > ?1 ORDER BY idx LIMIT ?2"  # noqa: S608 - a constant
_PORTION = 64  # payloads in memory; the largest have 256 KB

# How far it is in the log, and how long that is.
Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Tally:
    """Payloads that were opened, and the leaves that stay hashes: their key was destroyed, or is not among the keys.

    `reopened` has, by batch, the sources of readings that were erased and whose keys are there all the same.
    """

    opened: int = 0
    destroyed: int = 0
    unknown: int = 0
    reopened: defaultdict[int, set[bytes]] = field(default_factory=lambda: defaultdict(set))


def seal_database(source: Path, target: Path, keys: Keyring, progress: Progress) -> None:
    """`target`, new and private, durably holds what the database `source` held at one moment, its payloads sealed.

    `source` may be written meanwhile; its write-ahead log grows until the copy is done. Raises StorageError.
    """
    with _copying(source, target, _PAYLOADS, _SEALED) as db:
        for rows in _portions(db, _IN_CLEAR, progress):
            splits = []
            for index, payload, *place, _ in rows:
                with _named(source, index):
                    splits.append(split_payload((place[0], place[1], place[2]), parse_payload(payload)))
            at_hand = keys.of(subjects_of(splits))
            # Without leaves: what an erasure left of a payload that was damaged.
            sealed = [
                (row[0], seal_payload(split, at_hand)) for row, split in zip(rows, splits, strict=True) if split.hashes
            ]
            db.executemany(f"INSERT INTO {_SEALED} VALUES (?, ?)", sealed)  # noqa: S608 - a constant
    with _explained(source, target):
        sync_file(target)


def copy_unsealed(source: Path, target: Path) -> None:
    """`target`, new and private, holds what the sealed copy `source` does, but no payload; raises StorageError."""
    with _copying(source, target, _SEALED, _PAYLOADS):
        pass


def fill_payloads(source: Path, target: Path, keys: Keys, progress: Progress) -> Tally:
    """The database `target` has the payloads of the sealed copy `source`, as far as there are `keys`; not synced.

    What its log calls erased stays so, whatever the keys are. Where another leaf is a hash, the batch counts as
    missing: its device may still have it.

    Raises StorageError, or LedgerError for a payload that is not its batch's.
    """
    with _explained(source, target), _opened(target) as db:
        # Nothing but a part of a restore that is begun anew if it is broken off.
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        _attach(db, source)
        erased = _erased(db)
        tally = Tally()
        for rows in _portions(db, _IN_BACKUP, progress):
            db.execute("BEGIN")
            for index, sealed, *_, entry in rows:
                leaves, hashes = _open(source, index, sealed, entry, keys, tally)
                for at in erased[index]:
                    if at < len(leaves) and isinstance(leaf := leaves[at], Leaf):
                        tally.reopened[index] |= {source_of(leaf.body)} if at else set()
                kept = tuple(hashes[at] if at in erased[index] else leaf for at, leaf in enumerate(leaves))
                lost = any(isinstance(leaf, bytes) and at not in erased[index] for at, leaf in enumerate(kept))
                if lost:
                    query = "INSERT OR IGNORE INTO missing SELECT chain, epoch, seq FROM entries WHERE idx = ?"
                    db.execute(query, (index,))
                if not lost or any(isinstance(leaf, Leaf) for leaf in kept):
                    row = (index, canonical.encode(leaves_value(kept)))
                    db.execute(f"INSERT INTO {_PAYLOADS} VALUES (?, ?)", row)  # noqa: S608 - a constant
            db.execute("COMMIT")
        return tally


def check_payloads(source: Path, keys: Keys, progress: Progress) -> Tally:
    """Every payload of the sealed copy `source` is its batch's, and opens, as far as there are `keys`.

    Raises StorageError, LedgerError.
    """
    tally = Tally()
    with _explained(source, source), _opened(":memory:") as db:
        _attach(db, source)
        for rows in _portions(db, _IN_BACKUP, progress):
            for index, sealed, *_, entry in rows:
                _open(source, index, sealed, entry, keys, tally)
    return tally


@contextmanager
def _copying(source: Path, target: Path, table: str, name: str) -> Iterator[sqlite3.Connection]:
    """A connection to the new `target`, which has all that `source` has at one moment, but no payload.

    Their `table` is there, empty and called `name`, and `source` is attached as `old`; all in one transaction.
    """
    make_private(target)
    with _explained(source, target), _opened(target) as db:
        # Synced once, when all of it is there: until then nobody takes it for a database.
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        _attach(db, source)
        # `old` is read in one transaction: what others commit meanwhile is not in it.
        db.execute("BEGIN")
        objects = (
            "SELECT type, name, sql FROM old.sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite%'"
            " ORDER BY type != 'table'"
        )
        for kind, called, sql in db.execute(objects).fetchall():
            db.execute(sql)
            if kind == "table" and called == table:
                db.execute(f"ALTER TABLE {table} RENAME TO {name}")
            elif kind == "table" and called != _LATER:
                db.execute(f"INSERT INTO main.{called} SELECT * FROM old.{called}")  # noqa: S608 - a name in our schema
        yield db
        (version,) = db.execute("PRAGMA old.user_version").fetchone()
        db.execute(f"PRAGMA main.user_version = {version}")
        db.execute("COMMIT")


def _portions(db: sqlite3.Connection, payloads: str, progress: Progress) -> Iterator[list[tuple[Any, ...]]]:
    """What the query `payloads` finds: index, payload, key id, epoch, sequence number, entry; a portion at a time."""
    query = (
        f"SELECT idx, payload, key_id, epoch, seq, entry FROM ({payloads}) LEFT JOIN old.entries USING (idx)"  # noqa: S608 - constants
        " LEFT JOIN old.chains ON chain = number ORDER BY idx"
    )
    (size,) = db.execute("SELECT coalesce(max(idx) + 1, 0) FROM old.entries").fetchone()
    last = -1
    while rows := db.execute(query, (last, _PORTION)).fetchall():
        for index, _, key_id, *_ in rows:
            if key_id is None:
                raise StorageError(f"the payload {index} belongs to no batch; the database is damaged")
        yield rows
        last = rows[-1][0]
        progress(last + 1, size)
    progress(size, size)


def _open(
    source: Path, index: int, sealed: bytes, entry: bytes, keys: Keys, tally: Tally
) -> tuple[tuple[Leaf | bytes, ...], list[bytes]]:
    """The leaves of a payload, which are those of its batch, and the hash of each."""
    with _named(source, index):
        batch = parse_entry(entry)
        if not isinstance(batch, BatchEntry):
            raise MalformedError("it is no batch")
        opened = open_payload(sealed, keys)
        hashes = check_leaves(Header.decode(batch.header), opened.leaves)
    tally.opened += 1
    tally.destroyed += opened.destroyed
    tally.unknown += opened.unknown
    return opened.leaves, hashes


def _erased(db: sqlite3.Connection) -> defaultdict[int, set[int]]:
    """By batch, the leaves that the log of the main database calls erased."""
    erased: defaultdict[int, set[int]] = defaultdict(set)
    query = "SELECT entry FROM main.notable JOIN main.entries USING (kind, idx) WHERE kind = ?"
    for (data,) in db.execute(query, (ERASED,)):
        entry = parse_entry(data)
        if isinstance(entry, Erased):
            erased[entry.log_index] |= set(entry.leaves)
    return erased


def _opened(path: Path | str) -> closing[sqlite3.Connection]:
    db = sqlite3.connect(path, uri=True, isolation_level=None)
    # A portion of payloads is sorted: in a temporary file it would be on the disk in clear, outside of what is erased.
    db.execute("PRAGMA temp_store = MEMORY")
    return closing(db)


def _attach(db: sqlite3.Connection, source: Path) -> None:
    db.execute("ATTACH ? AS old", (f"{source.absolute().as_uri()}?mode=ro",))


@contextmanager
def _explained(source: Path, target: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        what = "cannot be read" if source == target else f"cannot be copied to {target}"
        raise StorageError(f"{source}: {what}: {error}") from None


@contextmanager
def _named(source: Path, index: int) -> Iterator[None]:
    """A payload that is not what it should be is told with its place."""
    try:
        yield
    except LedgerError as error:
        raise type(error)(f"{source}: payload of entry {index}: {error}") from None
