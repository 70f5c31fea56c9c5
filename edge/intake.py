"""The outbox's way in: what sources hand over, under which clock they did, and what was lost before it got here."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from edge.clock import HOLD_NS, Moment, Segment, on_timeline
from edge.source import check_description
from edge.store import Store
from ledger.info import Clock
from ledger.reading import MAX_INT64, MIN_INT64, Reading

# Receipt times put right in one transaction, so that accepting never waits long for it.
_RELEASED_AT_ONCE = 2000


class GapReason(IntEnum):
    """Why readings are missing (FORMAT.md section 5.4)."""

    DISK_BUDGET = 1
    UNCLEAN_STOP = 2
    SOURCE_OVERRUN = 3


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one source handed over: (source id, sensor time in ns, canonical bytes) each, and where it goes on.

    `refused` pieces of input made no reading; `lost` readings the source itself says it had to let go; `moment` is
    when the readings were received.
    """

    name: str
    readings: tuple[tuple[bytes, int, bytes], ...]
    cursor: bytes | None
    refused: int
    moment: Moment
    lost: int = 0

    @property
    def size(self) -> int:
        """Bytes of the readings."""
        return sum(len(body) for _, _, body in self.readings)


class Intake(Store):
    """What sources do, and clocks."""

    def resume(self, moment: Moment, sources: Iterable[str]) -> bool:
        """An agent with `sources` (names) works on the outbox from `moment` on; whether it says that readings may lack.

        An outbox that was not closed in good order may have cost readings that were read and not committed yet. A
        source that has a cursor replays them, so if all have one, nothing is lost. `sources` leaves out those that
        replay from the beginning while they have none.
        """
        with self._transaction() as db:
            closed, committed_ns = self._row("SELECT closed, committed_ns FROM state")
            replaying = {name for (name,) in self._rows("SELECT name FROM cursors WHERE cursor IS NOT NULL")}
            lacking = not closed and not replaying.issuperset(sources)
            if lacking:
                sensible = committed_ns is not None and self._on_timeline(moment) and committed_ns <= moment.wall_ns
                self._lose(db, GapReason.UNCLEAN_STOP, None, (committed_ns, moment.wall_ns) if sensible else None)
            db.execute("UPDATE state SET closed = 0")
            self._give_up_other_boots(db, moment.boot_id)
            return lacking

    def close_in_order(self, lived_s: float = 0.0) -> None:
        """The next start finds nothing amiss; the agent has run for `lived_s` more."""
        with self._transaction() as db:
            db.execute("UPDATE state SET closed = 1, lived_s = lived_s + ?", (lived_s,))

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
                held = self._received(db, delivery.moment)
                first = self._last_id() + 1 if held else 0
                # A plain INSERT of an unregistered source fails here: it would be undescribed in its batch.
                db.executemany(
                    "INSERT INTO readings (sensor, sensor_time_ns, body) "
                    "VALUES ((SELECT id FROM sensors WHERE source = ?), ?, ?)",
                    delivery.readings,
                )
                if held:
                    last = self._last_id()
                    self._wait(db, first, last, held=True)
                    db.execute("UPDATE state SET live_from = ?", (last + 1,))
                db.execute(
                    "INSERT INTO cursors (name, cursor, refused, refused_ns) VALUES (?1, ?2, ?3, ?4) "
                    "ON CONFLICT (name) DO UPDATE SET cursor = coalesce(?2, cursor), refused = refused + ?3,"
                    " refused_ns = coalesce(?4, refused_ns)",
                    (
                        delivery.name,
                        delivery.cursor,
                        delivery.refused,
                        delivery.moment.wall_ns if delivery.refused else None,
                    ),
                )
                if delivery.lost:
                    self._lose(db, GapReason.SOURCE_OVERRUN, delivery.lost)

    def release(self, moment: Moment) -> int:
        """Some of the readings that are held for this clock are not any more, now that it is set; how many.

        What the gateway's clock said of their receipt was wrong by as much as the wall clock has moved against the
        monotonic one since. Sensor times are never rewritten. If it is not set, those that have waited for a day go.
        """
        with self._transaction() as db:
            is_set = moment.clock == Clock.SYNCHRONISED and self._on_timeline(moment)
            for first, range_last in self._held():
                segment = self._segment(first)
                if segment is None or segment.boot_id != moment.boot_id:
                    continue
                end = self._segment_end(first, range_last)
                if not is_set:
                    if moment.monotonic_ns - self._received_at(first, segment) < HOLD_NS:
                        continue
                    self._give_up_clock(db, first, end, segment)
                    self._forget_commits_ahead(db, moment)
                    return end - first + 1
                last = min(end, first + _RELEASED_AT_ONCE - 1)
                self._map(db, first, last, moment.delta_ns - segment.delta_ns)
                if last < end:
                    self._insert_segment(db, last + 1, segment)
                self._insert_segment(db, first, Segment.begin(moment, held=False))
                self._unhold(db, first, last)
                return last - first + 1
            return 0

    def _received(self, db: sqlite3.Connection, moment: Moment) -> bool:
        """What follows in this transaction was received at `moment`; whether it has to be held."""
        held = not self._on_timeline(moment)
        segment = self._one(
            "SELECT boot_id, delta_ns, clock, error_ns, held FROM segments ORDER BY first_id DESC LIMIT 1"
        )
        goes_on = segment is not None and Segment(*segment).goes_on(moment, held=held)
        if not goes_on:
            next_id = self._last_id() + 1
            self._insert_segment(db, next_id, Segment.begin(moment, held=held))
            self._forget_segments(db)
            if held:
                self._defer(db)  # live is what comes last, and that is held now
        if not held:
            synchronised = moment.clock == Clock.SYNCHRONISED
            last = "?1" if synchronised else "max(coalesce(committed_ns, ?1), ?1)"
            db.execute(f"UPDATE state SET committed_ns = {last}", (moment.wall_ns,))  # noqa: S608 - constants
        return held

    def _on_timeline(self, moment: Moment) -> bool:
        committed_ns, witnessed_s = self._row("SELECT committed_ns, witnessed_s FROM state")
        return on_timeline(moment, committed_ns=committed_ns, witnessed_s=witnessed_s)

    def _give_up_other_boots(self, db: sqlite3.Connection, boot_id: bytes) -> None:
        """Readings held in a boot that is over go as they stand: nothing can tell their times any more."""
        for first, range_last in self._held():
            at = first
            while at <= range_last:
                last = self._segment_end(at, range_last)
                segment = self._segment(at)
                if segment is not None and segment.boot_id != boot_id:
                    self._give_up_clock(db, at, last, segment)
                at = last + 1

    def _give_up_clock(self, db: sqlite3.Connection, first: int, last: int, segment: Segment) -> None:
        """The held readings `first` to `last`, all of `segment`, go as they stand."""
        self._insert_segment(db, first, replace(segment, clock=Clock.UNSYNCHRONISED, error_ns=None, held=False))
        self._unhold(db, first, last)

    def _forget_commits_ahead(self, db: sqlite3.Connection, moment: Moment) -> None:
        """If nothing but our own word says that the clock of `moment` is behind, that is not believed any more."""
        (witnessed_s,) = self._row("SELECT witnessed_s FROM state")
        if on_timeline(moment, committed_ns=None, witnessed_s=witnessed_s):
            db.execute("UPDATE state SET committed_ns = min(committed_ns, ?)", (moment.wall_ns,))

    def _received_at(self, at: int, segment: Segment) -> int:
        """Monotonic time, ns, at which reading `at` was received, within a second."""
        reading = Reading.decode(self._row("SELECT body FROM readings WHERE id = ?", at)[0])
        return reading.sensor_time_ns + reading.gateway_offset_ns - segment.delta_ns

    def _held(self) -> Sequence[tuple[int, int]]:
        return self._rows("SELECT first_id, last_id FROM waiting WHERE held ORDER BY first_id")

    def _unhold(self, db: sqlite3.Connection, first: int, last: int) -> None:
        """The readings `first` to `last`, within one held range, wait behind as a backlog."""
        start, end = self._row(
            "SELECT first_id, last_id FROM waiting WHERE held AND ? BETWEEN first_id AND last_id", first
        )
        db.execute("DELETE FROM waiting WHERE first_id = ?", (start,))
        self._wait(db, start, first - 1, held=True)
        self._wait(db, last + 1, end, held=True)
        self._wait(db, first, last)

    def _map(self, db: sqlite3.Connection, first: int, last: int, moved_ns: int) -> None:
        rows = db.execute("SELECT id, body FROM readings WHERE id BETWEEN ? AND ?", (first, last)).fetchall()
        mapped = []
        for at, body in rows:
            reading = Reading.decode(body)
            offset = min(max(reading.gateway_offset_ns + moved_ns, MIN_INT64), MAX_INT64)
            mapped.append((replace(reading, gateway_offset_ns=offset).encode(), at))
        db.executemany("UPDATE readings SET body = ? WHERE id = ?", mapped)

    def _insert_segment(self, db: sqlite3.Connection, first: int, segment: Segment) -> None:
        """The readings from `first` on were received under `segment`."""
        db.execute(
            "INSERT OR REPLACE INTO segments (first_id, boot_id, delta_ns, clock, error_ns, held) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (first, segment.boot_id, segment.delta_ns, int(segment.clock), segment.error_ns, int(segment.held)),
        )

    def _forget_segments(self, db: sqlite3.Connection) -> None:
        """Of what is sealed, nobody asks by which clock it was received."""
        (lowest,) = self._row(
            "SELECT min(live_from, coalesce((SELECT min(first_id) FROM waiting), live_from)) FROM state"
        )
        db.execute(
            "DELETE FROM segments WHERE first_id < (SELECT max(first_id) FROM segments WHERE first_id <= ?)", (lowest,)
        )
