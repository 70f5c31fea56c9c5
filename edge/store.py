"""What the outbox's rooms share: one connection, its transactions, and the small tables that several of them touch."""

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.clock import Segment
from edge.database import MAX_SQLITE, explained
from edge.window import Place
from ledger.info import Clock


@dataclass(frozen=True, slots=True)
class Standing:
    """What waits to be sealed.

    Attributes:
        live: readings that are sealed as they arrive, before everything else.
        backlog: readings that wait behind them.
        held: readings that wait for a clock (see `clock`).
        gap: something was lost, and the chain does not say so yet.
    """

    live: int
    backlog: int
    held: int
    gap: bool


class Store:
    """The connection. Every public method of the rooms is one transaction, or reads only."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self._path = path

    def standing(self) -> Standing:
        """What waits to be sealed; a few rows are read, however much it is."""
        (live_from,) = self._row("SELECT live_from FROM state")
        backlog, held = self._row(
            "SELECT coalesce(sum((last_id - first_id + 1) * (NOT held)), 0),"
            " coalesce(sum((last_id - first_id + 1) * held), 0) FROM waiting"
        )
        (gap,) = self._row("SELECT EXISTS (SELECT 1 FROM gaps)")
        return Standing(self._last_id() - live_from + 1, backlog, held, bool(gap))

    # What rooms do inside a transaction.

    def _defer(self, db: sqlite3.Connection) -> None:
        """What was live waits behind from now on."""
        (live_from,) = self._row("SELECT live_from FROM state")
        last = self._last_id()
        self._wait(db, live_from, last)
        db.execute("UPDATE state SET live_from = ?", (last + 1,))

    def _wait(self, db: sqlite3.Connection, first: int, last: int, *, held: bool = False) -> None:
        """The readings `first` to `last` wait; ranges that touch become one, so there are only ever a few."""
        if first > last:
            return
        touching = "FROM waiting WHERE held = ? AND (last_id = ? OR first_id = ?)"
        among = (int(held), first - 1, last + 1)
        low, high = self._row(f"SELECT min(first_id), max(last_id) {touching}", *among)
        db.execute(f"DELETE {touching}", among)
        whole = (first if low is None else min(first, low), last if high is None else max(last, high))
        db.execute("INSERT INTO waiting (first_id, last_id, held) VALUES (?, ?, ?)", (*whole, int(held)))

    def _shorten(self, db: sqlite3.Connection, first: int, new_first: int) -> None:
        """The range that began at `first` begins at `new_first`, or is gone if nothing of it is left."""
        db.execute("UPDATE waiting SET first_id = ? WHERE first_id = ? AND last_id >= ?", (new_first, first, new_first))
        db.execute("DELETE FROM waiting WHERE first_id = ?", (first,))

    def _lose(
        self, db: sqlite3.Connection, reason: int, lost: int | None, window_ns: tuple[int, int] | None = None
    ) -> None:
        """The next gap header of `reason` tells of `lost` more readings (None: nobody knows), in the window if any."""
        first, last = window_ns or (None, None)
        db.execute(
            "INSERT INTO gaps (reason, lost, first_ns, last_ns) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (reason) DO UPDATE "
            "SET lost = lost + ?2, first_ns = min(first_ns, ?3), last_ns = max(last_ns, ?4)",  # NULL with NULL is NULL
            (reason, lost, first, last),
        )

    def _segment(self, at: int) -> Segment | None:
        """The clock under which reading `at` was received; None from before that was noted."""
        row = self._one(
            "SELECT boot_id, delta_ns, clock, error_ns, held FROM segments WHERE first_id <= ? "
            "ORDER BY first_id DESC LIMIT 1",
            at,
        )
        return None if row is None else Segment(row[0], row[1], Clock(row[2]), row[3], bool(row[4]))

    def _segment_end(self, at: int, last: int) -> int:
        """The highest id up to `last` that was received under the same clock as reading `at`."""
        (border,) = self._row("SELECT min(first_id) FROM segments WHERE first_id > ?", at)
        return last if border is None else min(last, border - 1)

    def _chain(self) -> tuple[int, int, int]:
        """Number, epoch and next sequence number of the chain in use."""
        chain, epoch, seq = self._row("SELECT chain, epoch, next_seq FROM chains ORDER BY chain DESC LIMIT 1")
        return chain, epoch, seq

    def _last_id(self) -> int:
        """The highest id that a reading has ever had."""
        row = self._one("SELECT seq FROM sqlite_sequence WHERE name = 'readings'")
        return 0 if row is None else int(row[0])

    def _delete(self, db: sqlite3.Connection, place: Place, first: int, last: int) -> None:
        """The batch with the readings `first` to `last` is gone, but for its secret."""
        db.execute("DELETE FROM readings WHERE id BETWEEN ? AND ?", (first, last))
        db.execute("DELETE FROM batches WHERE chain = ? AND seq = ?", place)

    def _delete_secrets(self, db: sqlite3.Connection) -> None:
        """Those older than every batch that is kept are gone; no other one has to move for it."""
        db.execute(
            "DELETE FROM secrets WHERE number < coalesce((SELECT number FROM secrets WHERE EXISTS "
            "(SELECT 1 FROM batches WHERE (chain, seq) = (secrets.chain, secrets.seq)) ORDER BY number LIMIT 1), ?)",
            (MAX_SQLITE,),
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside is one synced commit, or nothing of it happened.

        A failed commit is not tried again, save for want of room (`DiskFullError`), which is found out before anything
        is synced: after a failed sync nobody knows what the disk holds, so the error leaves the agent, and the next
        start reads what is really there.
        """
        with explained(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _one(self, query: str, *values: object) -> tuple[Any, ...] | None:
        with explained(self._path):
            row: tuple[Any, ...] | None = self._db.execute(query, values).fetchone()
            return row

    def _row(self, query: str, *values: object) -> Any:
        row = self._one(query, *values)
        if row is None:
            raise LookupError(query)
        return row

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with explained(self._path):
            return self._db.execute(query, values).fetchall()
