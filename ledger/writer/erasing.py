"""Erasing in the sequencer database, so that no byte of what was erased is left in its files.

SQLite leaves bytes behind wherever it moves a row: in the gaps of pages, on pages that became free; now and then with
`secure_delete` too (measured: one payload in some thousand). So a payload is never moved, shortened or deleted. What is
written is appended, to `payloads` in the log's order, to `later` in the order of time; what is erased is overwritten
with zeros where it lies, and what is left of it is appended to `later`. The space is not given back.
"""

import sqlite3
from collections.abc import Collection

from ledger import canonical
from ledger.batch import Header
from ledger.entry import BatchEntry
from ledger.leaves import check_leaves, leaves_value
from ledger.writer.payload import parse_payload

# How long a commit may have to wait for those who read an older state of the database, until it is tried again later.
_WAIT_MS = 200
_PATIENCE_MS = 5000  # what `sqlite3.connect` begins with

NO_LEAVES = canonical.encode(())  # a payload of no batch


def without(entry: BatchEntry, payload: bytes, leaves: Collection[int]) -> bytes:
    """The payload of `entry` with nothing but the hashes of `leaves`.

    Raises:
        LedgerError: it is not the payload of `entry`.
    """
    whole = parse_payload(payload)
    hashes = check_leaves(Header.decode(entry.header), whole)
    kept = [hashes[at] if at in leaves else leaf for at, leaf in enumerate(whole)]
    return canonical.encode(leaves_value(kept))


def overwrite(db: sqlite3.Connection, index: int, payload: bytes) -> None:
    """Inside a transaction: `payload` is that of entry `index`, and every copy that was there before is zeros."""
    copies = [("payloads", row[0]) for row in db.execute("SELECT idx FROM payloads WHERE idx = ?", (index,))]
    copies += [("later", row[0]) for row in db.execute("SELECT number FROM later WHERE idx = ?", (index,))]
    for table, row in copies:
        with db.blobopen(table, "payload", row) as blob:
            blob.write(bytes(len(blob)))
    db.execute("INSERT INTO later (idx, payload) VALUES (?, ?)", (index, payload))


def empty_wal(db: sqlite3.Connection) -> bool:
    """The write-ahead log is copied into the database and has no byte any more; False if somebody reads from it now."""
    db.execute(f"PRAGMA busy_timeout = {_WAIT_MS}")
    try:
        busy, *_ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        db.execute(f"PRAGMA busy_timeout = {_PATIENCE_MS}")
    return not busy
