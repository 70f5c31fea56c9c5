"""The room of the outbox that deletes, but for what the log calls erased (`erasing`).

What it may delete, in this order:

    purge      batches whose verified receipt is older than `keep_days`
    relieve    over the disk budget, or on a full disk: batches with a verified receipt, the oldest first, however young
               over the disk budget only: then the oldest readings that are not sealed, and the chain will say so

A sealed batch without a verified receipt never goes: its place in the chain is taken, so nobody could tell its loss
from a lie. If all is sealed (witnesses away for weeks), what arrives is what goes.

Room is made in portions, down to 1 % below the budget, so that a full outbox does not pay for every reading that
arrives; and a portion is one transaction, so that accepting never waits long for it.
"""

import sqlite3
from dataclasses import dataclass

from edge.database import RECEIPTED, DiskFullError, explained, unless_locked
from edge.intake import GapReason
from edge.store import Store

_PURGED_AT_ONCE = 64  # batches
_DROPPED_AT_ONCE = 10_000  # readings
_ROW_OVERHEAD = 24  # bytes: ids, times and lengths beside a body
# Below this share of the budget, or where receipted batches suffice to make room, dropping is over.
_OVER_BELOW = 0.95


@dataclass(frozen=True, slots=True)
class Relief:
    """What making room took: batches purged early, readings dropped; `over`: readings are being dropped these days."""

    purged: int
    dropped: int
    over: bool


class Overflow(Store):
    """What deletes."""

    def used(self) -> int:
        """Bytes of the outbox's file that hold something; the rest of it is used again before the file grows."""
        (page,), (pages,), (free,) = (
            self._row("PRAGMA page_size"),
            self._row("PRAGMA page_count"),
            self._row("PRAGMA freelist_count"),
        )
        return int(page * (pages - free))

    def purge(self, keep_s: float) -> int:
        """Some batches whose verified receipt is more than `keep_s` of running time old are deleted; how many.

        Only the first ones in order are looked at. Receipts come in about that order, so those behind are hardly ever
        older, and what is kept for a week is not read every minute.
        """
        with self._transaction() as db:
            return self._purge(
                db,
                "SELECT chain, seq, first_id, last_id, size FROM (SELECT * FROM batches WHERE state = ? "
                "ORDER BY chain, seq LIMIT ?) WHERE settled_s <= (SELECT lived_s FROM state) - ?",
                (RECEIPTED, _PURGED_AT_ONCE, keep_s),
            )

    def relieve(self, budget: int) -> Relief:
        """The outbox uses at most `budget` bytes again, or has nothing left that may go."""
        (was_over,) = self._row("SELECT over_budget FROM state")
        used = self.used()
        if used <= budget and not (was_over and used < budget * _OVER_BELOW):
            return Relief(0, 0, bool(was_over))
        target = budget - budget // 100
        purged = dropped = 0
        while (wanted := self.used() - target) > 0 and (count := self._purge_early(wanted)):
            purged += count
        while (wanted := self.used() - target) > 0 and (count := self._drop(wanted)):
            dropped += count
        over = bool(dropped) or self.used() > budget
        if over != was_over:
            with self._transaction() as db:
                db.execute("UPDATE state SET over_budget = ?", (int(over),))
        return Relief(purged, dropped, over)

    def make_room(self) -> int:
        """On a full disk: some receipted batches are gone if there is room enough to say so; how many."""
        try:
            # What is in the write-ahead log goes to where it belongs, so that the log begins again without growing. A
            # statement that failed and is still open somewhere keeps it from that until the next time.
            with explained(self._path), unless_locked():
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            return self._purge_early(1)
        except DiskFullError:
            return 0

    def _purge_early(self, wanted: int) -> int:
        """Some of the oldest receipted batches, of about `wanted` bytes, are deleted; how many."""
        with self._transaction() as db:
            count = self._purge(
                db,
                "SELECT chain, seq, first_id, last_id, size FROM batches WHERE state = ? ORDER BY chain, seq LIMIT ?",
                (RECEIPTED, _PURGED_AT_ONCE),
                wanted,
            )
            if count:
                db.execute("UPDATE state SET purged_early = purged_early + ?", (count,))
            return count

    def _purge(self, db: sqlite3.Connection, query: str, values: tuple[object, ...], wanted: int | None = None) -> int:
        batches = readings = freed = 0
        for chain, seq, first, last, size in self._rows(query, *values):
            if wanted is not None and freed >= wanted:
                break
            self._delete(db, (chain, seq), first, last)
            batches += 1
            readings += last - first + 1
            freed += size
        if batches:  # a minute without any, or a budget that nothing of this kind eases, writes nothing
            self._delete_secrets(db)
            db.execute(
                "UPDATE state SET purged_readings = purged_readings + ?, purged_batches = purged_batches + ?",
                (readings, batches),
            )
        return batches

    def _drop(self, wanted: int) -> int:
        """Some of the oldest unsealed readings, of about `wanted` bytes, are gone, and a gap is to be declared."""
        with self._transaction() as db:
            (live_from,) = self._row("SELECT live_from FROM state")
            waiting = self._one("SELECT first_id, last_id FROM waiting ORDER BY first_id LIMIT 1")
            first, end = waiting or (live_from, self._last_id())
            times, last = [], first - 1
            for at, sensor_time_ns, size in db.execute(
                "SELECT id, sensor_time_ns, length(body) FROM readings WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?",
                (first, end, _DROPPED_AT_ONCE),
            ):
                if wanted <= 0:
                    break
                last = at
                times.append(sensor_time_ns)
                wanted -= size + _ROW_OVERHEAD
            if not times:
                return 0
            db.execute("DELETE FROM readings WHERE id BETWEEN ? AND ?", (first, last))
            if waiting:
                self._shorten(db, first, last + 1)
            else:
                db.execute("UPDATE state SET live_from = ?", (last + 1,))
            self._lose(db, GapReason.DISK_BUDGET, len(times), (min(times), max(times)))
            db.execute("UPDATE state SET dropped = dropped + ?, over_budget = 1", (len(times),))
            return len(times)
