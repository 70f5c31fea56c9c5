"""The outbox's room for what the log calls erased: the whole batch goes, because its secret would bring the salts back.

SQLite leaves bytes behind where it moves rows, so secrets are where none is moved (`schema`), a row is overwritten
where it lies before it is deleted, the database is one with `secure_delete`, and in the end the write-ahead log, which
has both what was written and what it was overwritten with, is emptied. A status that is being read may keep it from
that; `scrub` is called again then, and after a crash: the outbox remembers that it is due.
"""

import sqlite3
from collections.abc import Sequence

from edge.database import MAX_SQLITE, RECEIPTED, SEALED, explained, unless_locked
from edge.store import Store
from edge.window import Place
from ledger.events import ChainPlace

# How long the outbox's thread waits for others to have read the write-ahead log; what arrives meanwhile waits too.
_WAIT_MS = 200
_PATIENCE_MS = 5000  # what a connection of Python's begins with


class Erasing(Store):
    """What overwrites."""

    def erase(self, batches: Sequence[tuple[ChainPlace, int]]) -> list[Place]:
        """The batches at these places whose verified receipts have the log index given are gone; those that were here.

        Nothing is left of them but that they were in the chain. What has no receipt stays, and so does what lies behind
        a batch that is not known to be stored: `new_epoch` goes by what follows it. Both are told again.
        """
        with self._transaction() as db:
            gone = [place for at, index in batches for place in self._overwrite(db, at, index)]
            if gone:
                db.execute("UPDATE state SET erased_batches = erased_batches + ?, to_scrub = 1", (len(gone),))
        self.scrub()
        return gone

    def scrub(self) -> bool:
        """What was erased is not in the write-ahead log either; False if somebody reads from it, and it may be."""
        (due,) = self._row("SELECT to_scrub FROM state")
        if not due:
            return True
        busy = 1
        with explained(self._path), unless_locked():
            self._db.execute(f"PRAGMA busy_timeout = {_WAIT_MS}")
            try:
                (busy, *_) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                self._db.execute(f"PRAGMA busy_timeout = {_PATIENCE_MS}")
        if not busy:
            with self._transaction() as db:
                db.execute("UPDATE state SET to_scrub = 0")
        return not busy

    def _overwrite(self, db: sqlite3.Connection, at: ChainPlace, index: int) -> list[Place]:
        """At most one: two keys' batches may have one epoch and number, and not one place on the log."""
        rows = self._rows(
            "SELECT number, chain, seq, first_id, last_id FROM chains CROSS JOIN batches USING (chain) "
            "CROSS JOIN secrets USING (chain, seq) "
            "WHERE epoch = ?1 AND seq = ?2 AND state = ?3 AND log_index = ?4 AND NOT EXISTS "
            "(SELECT 1 FROM batches AS before WHERE before.chain = batches.chain AND before.seq < ?2 AND state = ?5)",
            at[0],
            min(at[1], MAX_SQLITE),
            RECEIPTED,
            min(index, MAX_SQLITE),
            SEALED,
        )
        for row, chain, seq, first, last in rows:
            self._zero(db, "secrets", "secret", row)
            self._zero(db, "secrets", "info", row)
            for (reading,) in self._rows("SELECT id FROM readings WHERE id BETWEEN ? AND ?", first, last):
                self._zero(db, "readings", "body", reading)
            self._delete(db, (chain, seq), first, last)
        return [(chain, seq) for _, chain, seq, _, _ in rows]

    @staticmethod
    def _zero(db: sqlite3.Connection, table: str, column: str, row: int) -> None:
        with db.blobopen(table, column, row) as blob:
            blob.write(bytes(len(blob)))
