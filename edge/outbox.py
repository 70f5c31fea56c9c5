"""The outbox: one SQLite file, the only thing at the edge that is trusted to remember. Its writer is here.

*Accepted* means that `accept` returned: SQLite in WAL mode with `synchronous=FULL` has synced the commit. Every
method below is one transaction, so a process killed at any point leaves the state between two of them:

    accept        readings, the cursors of the sources that gave them, counts of refused input: together or not
    seal_next     the batch's header, signature and secret, and the chain's new end: together or not. A batch that
                  is not committed was shown to nobody, so sealing anew after a crash is no second batch
    mark_stored   a hint: losing it costs one resend
    settle        verified receipts and the largest verified checkpoint: together or not; losing it costs one ask
    purge         the only place that deletes: batches whose verified receipt is older than `keep_days`

Ages count the seconds that the agent has run (`lived_s`), not the wall clock: a gateway that boots in 1970 and
then learns the date must not throw away everything at once.

One connection, used from one thread (SQLite checks). A lock file keeps a second agent away: two writers would fork
the device's chain.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.batcher import Limits
from edge.database import MAX_SQLITE, RECEIPTED, SEALED, STORED, assemble, explained, lock, open_database
from edge.epoch import start_epoch
from edge.seal import Link, Sealer
from edge.source import check_description
from edge.window import Place
from ledger.batch import Anchor, Notice, NoticeKind, SealedBatch, header_hash
from ledger.envelope import format_envelope
from ledger.info import MAX_DESCRIPTION, MAX_SOURCES, Source

_PURGE_BATCHES = 64  # batches deleted in one transaction, so that accepting never waits long for it


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one source handed over: (source id, sensor time in ns, canonical bytes) each, and where it goes on."""

    name: str
    readings: tuple[tuple[bytes, int, bytes], ...]
    cursor: bytes | None
    refused: int

    @property
    def size(self) -> int:
        """Bytes of the readings."""
        return sum(len(body) for _, _, body in self.readings)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A batch that is committed: readings in it, their bytes, the envelope's bytes."""

    place: Place
    readings: int
    reading_bytes: int
    size: int


class Outbox:
    """The writer; see the module. Make it, use it and close it in one thread."""

    def __init__(self, path: Path, key_file: Path) -> None:
        """The outbox in `path`, made if it is not there; `key_file` tells whether one was lost (see `epoch`).

        Raises:
            UserError: another agent has it, or it cannot be opened.
        """
        self._path = path
        self._lock = lock(path)
        try:
            self._db = open_database(path, lambda: start_epoch(key_file))
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """The file may be opened by others again."""
        self._db.close()
        os.close(self._lock)

    # What sources do.

    def register(self, source_id: bytes, description: str) -> None:
        """Batches sealed from here on describe the source by `description`.

        Raises:
            UserError: no batch could hold that, so no reading is to be accepted under it.
        """
        check_description(description, f"source {source_id.hex()}: description")
        with self._transaction() as db:
            db.execute(
                "INSERT INTO sensors (source, description) VALUES (?, ?) "
                "ON CONFLICT (source) DO UPDATE SET description = excluded.description",
                (source_id, description),
            )

    def cursor(self, name: str) -> bytes | None:
        """Where the source `name` goes on: the cursor committed with its last readings."""
        row = self._one("SELECT cursor FROM cursors WHERE name = ?", name)
        return None if row is None else row[0]

    def accept(self, deliveries: Iterable[Delivery]) -> None:
        """All readings of `deliveries` are accepted, and each source's cursor moved, in one synced commit."""
        with self._transaction() as db:
            for delivery in deliveries:
                # A plain INSERT of an unregistered source fails here: it would be undescribed in its batch.
                db.executemany(
                    "INSERT INTO readings (sensor, sensor_time_ns, body) "
                    "VALUES ((SELECT id FROM sensors WHERE source = ?), ?, ?)",
                    delivery.readings,
                )
                db.execute(
                    "INSERT INTO cursors (name, cursor, refused) VALUES (?1, ?2, ?3) ON CONFLICT (name) "
                    "DO UPDATE SET cursor = coalesce(?2, cursor), refused = refused + ?3",
                    (delivery.name, delivery.cursor, delivery.refused),
                )

    # What the chain does.

    def open_readings(self) -> tuple[int, int]:
        """Count and bytes of the readings that no batch has."""
        count, size = self._row(
            "SELECT count(*), coalesce(sum(length(body)), 0) FROM readings WHERE id > (SELECT sealed_to FROM state)"
        )
        return count, size

    def seal_next(self, limits: Limits, sealer: Sealer) -> Sealed | None:
        """The oldest open readings, as many as `limits` allow, are a sealed batch; None if there are none."""
        with self._transaction() as db:
            (sealed_to,) = self._row("SELECT sealed_to FROM state")
            ids, sensors, times, bodies = self._open_batch(sealed_to, limits)
            if not ids:
                return None
            batch = sealer.seal(
                self._link(),
                readings=bodies,
                sensor_times_ns=times,
                sources=[self._described(sensor) for sensor in sensors],
            )
            return self._append(db, batch, ids[0], ids[-1], sum(map(len, bodies)))

    def announce_loss(self, sealer: Sealer) -> Sealed | None:
        """A chain that starts in a later epoch begins by saying that an outbox was lost; None if that is said."""
        with self._transaction() as db:
            epoch, next_seq, sealed_to = self._row("SELECT epoch, next_seq, sealed_to FROM state")
            if not epoch or next_seq:
                return None
            notice = Notice(NoticeKind.OUTBOX_LOST)
            batch = sealer.seal(self._link(), readings=(), sensor_times_ns=(), sources=(), notice=notice)
            return self._append(db, batch, sealed_to + 1, sealed_to, 0)

    def envelope(self, place: Place) -> bytes | None:
        """The batch as it goes over the wire, the same bytes every time; None when it is not kept."""
        with explained(self._path):
            batch = assemble(self._db, *place)
            return None if batch is None else format_envelope(batch)

    # What answers do.

    def unstored(self) -> list[tuple[Place, int]]:
        """Place and envelope size of every batch that the aggregator has not stored, in order."""
        rows = self._rows("SELECT epoch, seq, size FROM batches WHERE state = ? ORDER BY epoch, seq", SEALED)
        return [((epoch, seq), size) for epoch, seq, size in rows]

    def unreceipted(self, limit: int) -> tuple[list[Place], bool]:
        """The first `limit` batches that are stored and have no receipt, in order; and whether there are more."""
        rows = self._rows(
            "SELECT epoch, seq FROM batches WHERE state = ? ORDER BY epoch, seq LIMIT ?", STORED, limit + 1
        )
        return [(epoch, seq) for epoch, seq in rows[:limit]], len(rows) > limit

    def open_batches(self) -> int:
        """How many sealed batches have no verified receipt."""
        (count,) = self._row("SELECT count(*) FROM batches WHERE state < ?", RECEIPTED)
        return int(count)

    def mark_stored(self, places: Iterable[tuple[Place, int]]) -> list[Place]:
        """Those of `places` that were only sealed are stored, at the log index given; they are returned."""
        with self._transaction() as db:
            marked = []
            for (epoch, seq), index in places:
                # The index is a claim until a receipt shows it. It may be any 64-bit number; SQLite's are signed.
                done = db.execute(
                    "UPDATE batches SET state = ?, log_index = ? WHERE epoch = ? AND seq = ? AND state = ?",
                    (STORED, min(index, MAX_SQLITE), epoch, min(seq, MAX_SQLITE), SEALED),
                )
                if done.rowcount:
                    marked.append((epoch, seq))
            return marked

    def signed_header(self, place: Place) -> tuple[bytes, bytes] | None:
        """Header and signature of a batch that has no receipt yet; None for any other place."""
        row = self._one(
            "SELECT header, signature FROM batches WHERE epoch = ? AND seq = ? AND state < ?",
            place[0],
            min(place[1], MAX_SQLITE),
            RECEIPTED,
        )
        return None if row is None else (row[0], row[1])

    def anchor(self) -> Anchor | None:
        """Size and root of the largest verified checkpoint."""
        size, root = self._row("SELECT anchor_size, anchor_root FROM state")
        return None if root is None else Anchor(size, root)

    def checkpoint(self) -> bytes | None:
        """The largest verified checkpoint as it was signed."""
        (checkpoint,) = self._row("SELECT checkpoint FROM state")
        return None if checkpoint is None else bytes(checkpoint)

    def settle(self, anchor: Anchor, checkpoint: bytes, places: Sequence[tuple[Place, int]]) -> None:
        """`places` have verified receipts at the log index given, under the verified checkpoint `anchor`.

        Only `receipts` calls this, with what it has verified.
        """
        with self._transaction() as db:
            db.execute(
                "UPDATE state SET anchor_size = ?1, anchor_root = ?2, checkpoint = ?3 "
                "WHERE anchor_root IS NULL OR anchor_size < ?1",
                (anchor.size, anchor.root, checkpoint),
            )
            db.executemany(
                "UPDATE batches SET state = ?, log_index = ?, settled_s = (SELECT lived_s FROM state) "
                "WHERE epoch = ? AND seq = ?",
                [(RECEIPTED, index, *place) for place, index in places],
            )

    def record_reject(self, place: Place | None, reason: int, detail: str) -> None:
        """The last reject, for status."""
        epoch, seq = place or (None, None)
        with self._transaction() as db:
            db.execute(
                "UPDATE state SET reject_epoch = ?, reject_seq = ?, reject_reason = ?, reject_detail = ?",
                (epoch, None if seq is None else min(seq, MAX_SQLITE), reason, detail),
            )

    def record_connection(self, *, connected: bool) -> None:
        """Whether there is a connection to the broker, for status."""
        with self._transaction() as db:
            db.execute("UPDATE state SET connected = ?", (int(connected),))

    def record_life(self, seconds: float) -> None:
        """The agent has run for `seconds` more."""
        with self._transaction() as db:
            db.execute("UPDATE state SET lived_s = lived_s + ?", (seconds,))

    def purge(self, keep_s: float) -> int:
        """Some batches whose verified receipt is more than `keep_s` of running time old are deleted; how many."""
        with self._transaction() as db:
            old = db.execute(
                "SELECT epoch, seq, first_id, last_id FROM batches WHERE state = ? AND settled_s <= "
                "(SELECT lived_s FROM state) - ? ORDER BY epoch, seq LIMIT ?",
                (RECEIPTED, keep_s, _PURGE_BATCHES),
            ).fetchall()
            for epoch, seq, first, last in old:
                db.execute("DELETE FROM readings WHERE id BETWEEN ? AND ?", (first, last))
                db.execute("DELETE FROM batches WHERE epoch = ? AND seq = ?", (epoch, seq))
            readings = sum(last - first + 1 for _, _, first, last in old)
            db.execute(
                "UPDATE state SET purged_readings = purged_readings + ?, purged_batches = purged_batches + ?",
                (readings, len(old)),
            )
            return len(old)

    def _link(self) -> Link:
        epoch, seq, previous, size, root = self._row(
            "SELECT epoch, next_seq, previous, anchor_size, anchor_root FROM state"
        )
        return Link(epoch, seq, previous, None if root is None else Anchor(size, root))

    def _open_batch(self, above: int, limits: Limits) -> tuple[list[int], set[int], list[int], list[bytes]]:
        """Ids, distinct sensors, sensor times and bodies of the oldest readings above id `above`; at least one."""
        ids: list[int] = []
        sensors: set[int] = set()
        times: list[int] = []
        bodies: list[bytes] = []
        room = limits.max_bytes
        for at, sensor, sensor_time_ns, body in self._db.execute(
            "SELECT id, sensor, sensor_time_ns, body FROM readings WHERE id > ? ORDER BY id LIMIT ?",
            (above, limits.max_readings),
        ):
            room -= len(body)
            if ids and (room < 0 or len(sensors | {sensor}) > MAX_SOURCES):
                break
            ids.append(at)
            sensors.add(sensor)
            times.append(sensor_time_ns)
            bodies.append(body)
        return ids, sensors, times, bodies

    def _described(self, sensor: int) -> Source:
        """The sensor as a batch info can hold it.

        `register` lets nothing else in, but a file may have been written by a version that did. Its readings are
        accepted, so they are sealed: question marks in a description cost less than a chain that stands still.
        """
        source, description = self._row("SELECT source, description FROM sensors WHERE id = ?", sensor)
        printable = "".join(char if " " <= char <= "~" else "?" for char in description)
        return Source(source, printable[:MAX_DESCRIPTION])

    def _append(self, db: sqlite3.Connection, batch: SealedBatch, first: int, last: int, reading_bytes: int) -> Sealed:
        """`batch`, with the readings `first` to `last`, is the chain's new end (inside a transaction)."""
        epoch, seq = self._row("SELECT epoch, next_seq FROM state")
        size = len(format_envelope(batch))
        db.execute(
            "INSERT INTO batches (epoch, seq, first_id, last_id, header, signature, secret, info, size) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (epoch, seq, first, last, batch.header, batch.signature, batch.secret, batch.info, size),
        )
        db.execute(
            "UPDATE state SET next_seq = next_seq + 1, previous = ?, sealed_to = ?",
            (header_hash(batch.header), last),
        )
        return Sealed((epoch, seq), last - first + 1, reading_bytes, size)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside is one synced commit, or nothing of it happened.

        A failed commit is not tried again: after a failed sync nobody knows what the disk holds, so the error
        leaves the agent, and the next start reads what is really there.
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
