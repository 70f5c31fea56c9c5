"""The outbox's chains: sealing, what a header says in place of readings, and what becomes of it all with a new key.

A batch that is not committed was shown to nobody, so sealing anew after a crash is no second batch. One that is
committed never changes; the one thing that may happen to it is that it is given up, with its key or its epoch, before
the aggregator has stored it: then its readings are as if they had never been sealed.
"""

import sqlite3
from dataclasses import dataclass, field

from edge.batcher import Limits
from edge.database import SEALED, STORED, OutboxError, Owner
from edge.epoch import name_epoch, start_epoch
from edge.seal import Link, Sealer
from edge.store import Store
from edge.window import Place
from ledger.batch import Anchor, Header, Notice, NoticeKind, SealedBatch, header_hash
from ledger.envelope import format_envelope
from ledger.events import ChainPlace
from ledger.info import MAX_DESCRIPTION, MAX_SOURCES, BatchInfo, Source


@dataclass(frozen=True, slots=True)
class Sealed:
    """A batch that is committed: readings in it, their bytes, the envelope; `backlog`: it was not live."""

    place: Place
    readings: int
    reading_bytes: int
    envelope: bytes = field(repr=False)
    backlog: bool = False

    @property
    def size(self) -> int:
        """The envelope's bytes."""
        return len(self.envelope)


@dataclass(slots=True)
class _Open:
    """Readings that are about to be a batch."""

    ids: list[int] = field(default_factory=list)
    sensors: set[int] = field(default_factory=set)
    times_ns: list[int] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)


class Chain(Store):
    """What the chain does."""

    def begin_chain(self, owner: Owner) -> int:
        """The chain in use is one of the owner's key; how many readings were sealed under another, and are not now.

        A key that changed without a rotation (the old one was revoked) takes along what the log does not have. What
        is stored waits on for its receipts: the log has it, under the old key. While that is in doubt, see `in_doubt`,
        it is not to be called: what the log has without our knowing would be sealed twice.
        """
        row = self._one("SELECT key_id, epoch FROM chains ORDER BY chain DESC LIMIT 1")
        if row is not None:
            name_epoch(owner.key_file, row[0], row[1])
            if row[0] == owner.key_id:
                return 0
        return self.new_epoch(owner)

    def in_doubt(self, owner: Owner) -> bool:
        """The chain in use is another key's than the owner's, and nobody has said what the log has of its end."""
        row = self._one("SELECT chain, key_id FROM chains ORDER BY chain DESC LIMIT 1")
        if row is None or row[1] == owner.key_id:
            return False
        (unsaid,) = self._row("SELECT EXISTS (SELECT 1 FROM batches WHERE state = ? AND chain = ?)", SEALED, row[0])
        return bool(unsaid)

    def new_epoch(self, owner: Owner) -> int:
        """A new chain of the owner's key is in use, in an epoch never used before; how many readings were re-opened.

        For a new key, and for an outbox that is older than what the log has of it: none of its places beyond what is
        stored can be delivered any more.
        """
        epoch = start_epoch(owner.key_file, owner.key_id)
        with self._transaction() as db:
            (last,) = self._row("SELECT max(chain) FROM chains")
            readings = 0 if last is None else self._reopen(db, last)
            # The first chain is numbered by its epoch.
            db.execute(
                "INSERT INTO chains (chain, key_id, epoch) VALUES (?, ?, ?)",
                (epoch if last is None else last + 1, owner.key_id, epoch),
            )
            return readings

    def next_place(self) -> ChainPlace:
        """The first place of the chain in use that is empty."""
        _, epoch, seq = self._chain()
        return epoch, seq

    def silent_s(self) -> float:
        """Running time since the chain's last header, seconds: a heartbeat is due by it, however often agents start."""
        (silent_s,) = self._row("SELECT lived_s - sealed_s FROM state")
        return float(silent_s)

    def defer(self) -> None:
        """What was live waits behind what comes from now on."""
        with self._transaction() as db:
            self._defer(db)

    def live_bytes(self) -> int:
        """Bytes of the live readings, which are few: see `defer`."""
        (size,) = self._row(
            "SELECT coalesce(sum(length(body)), 0) FROM readings WHERE id >= (SELECT live_from FROM state)"
        )
        return int(size)

    def seal_next(self, limits: Limits, sealer: Sealer, *, backlog: bool = False) -> Sealed | None:
        """The oldest live readings (or of the backlog), as many as `limits` allow, are a batch; None without any."""
        with self._transaction() as db:
            if backlog:
                row = self._one("SELECT first_id, last_id FROM waiting WHERE NOT held ORDER BY first_id LIMIT 1")
                if row is None:
                    return None
                first, last = row
            else:
                (first,) = self._row("SELECT live_from FROM state")
                last = self._last_id()
            # No batch mixes clocks.
            opened = self._open_batch(first, self._segment_end(first, last), limits)
            if not opened.ids:
                return None
            batch = sealer.seal(
                self._link(sealer),
                readings=opened.bodies,
                sensor_times_ns=opened.times_ns,
                sources=[self._described(sensor) for sensor in opened.sensors],
                segment=self._segment(first),
            )
            if backlog:
                self._shorten(db, first, opened.ids[-1] + 1)
            else:
                db.execute("UPDATE state SET live_from = ?", (opened.ids[-1] + 1,))
            return self._append(db, batch, opened, backlog=backlog)

    def announce_loss(self, sealer: Sealer) -> Sealed | None:
        """A chain that starts in a later epoch begins by saying that an outbox was lost; None if that is said."""
        _, epoch, seq = self._chain()
        return self._seal_notice(sealer, Notice(NoticeKind.OUTBOX_LOST)) if epoch and not seq else None

    def heartbeat(self, sealer: Sealer) -> Sealed:
        """A header that says nothing but that the chain goes on."""
        return self._seal_notice(sealer, Notice(NoticeKind.HEARTBEAT))

    def declare_gap(self, sealer: Sealer) -> Sealed | None:
        """The chain says what was lost, for one reason; None if it has said all."""
        row = self._one("SELECT reason, lost, first_ns, last_ns FROM gaps ORDER BY reason LIMIT 1")
        if row is None:
            return None
        reason, lost, first_ns, last_ns = row
        window_ns = None if first_ns is None else (first_ns, last_ns)
        return self._seal_notice(sealer, Notice(NoticeKind.GAP, reason, lost), window_ns)

    def _seal_notice(self, sealer: Sealer, notice: Notice, window_ns: tuple[int, int] | None = None) -> Sealed:
        with self._transaction() as db:
            batch = sealer.seal(
                self._link(sealer), readings=(), sensor_times_ns=(), sources=(), notice=notice, window_ns=window_ns
            )
            if notice.kind == NoticeKind.GAP:
                db.execute("DELETE FROM gaps WHERE reason = ?", (notice.reason,))
                db.execute("UPDATE state SET declared_gaps = declared_gaps + 1")
            return self._append(db, batch, _Open(), backlog=False)

    def _link(self, sealer: Sealer) -> Link:
        """The next place in the chain in use; raises UserError if that is not one of the sealer's key."""
        key, epoch, seq, previous, size, root = self._row(
            "SELECT key_id, epoch, next_seq, previous, anchor_size, anchor_root FROM chains, state "
            "ORDER BY chain DESC LIMIT 1"
        )
        if key != sealer.key_id:
            # A change of keys that was cut short; two keys in one chain would be nobody's.
            raise OutboxError(f"outbox {self._path}: its chain is another key's; start the agent again")
        return Link(epoch, seq, previous, None if root is None else Anchor(size, root))

    def _open_batch(self, first: int, last: int, limits: Limits) -> _Open:
        """The oldest readings of `first` to `last`; at least one if there are any."""
        opened = _Open()
        room = limits.max_bytes
        for at, sensor, sensor_time_ns, body in self._db.execute(
            "SELECT id, sensor, sensor_time_ns, body FROM readings WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?",
            (first, last, limits.max_readings),
        ):
            room -= len(body)
            full = room < 0 or (len(opened.sensors) == MAX_SOURCES and sensor not in opened.sensors)
            if opened.ids and full:
                break
            opened.sensors.add(sensor)
            opened.ids.append(at)
            opened.times_ns.append(sensor_time_ns)
            opened.bodies.append(body)
        return opened

    def _described(self, sensor: int) -> Source:
        """The sensor as a batch info can hold it.

        `register` lets nothing else in, but a file may have been written by a version that did. Its readings are
        accepted, so they are sealed: question marks in a description cost less than a chain that stands still.
        """
        source, description = self._row("SELECT source, description FROM sensors WHERE id = ?", sensor)
        printable = "".join(char if " " <= char <= "~" else "?" for char in description)
        return Source(source, printable[:MAX_DESCRIPTION])

    def _append(self, db: sqlite3.Connection, batch: SealedBatch, opened: _Open, *, backlog: bool) -> Sealed:
        """`batch`, with the readings `opened`, is the chain's new end (inside a transaction)."""
        chain, _, seq = self._chain()
        first, last = (opened.ids[0], opened.ids[-1]) if opened.ids else (1, 0)
        envelope = format_envelope(batch)
        db.execute(
            "INSERT INTO batches (chain, seq, first_id, last_id, header, signature, size) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (chain, seq, first, last, batch.header, batch.signature, len(envelope)),
        )
        db.execute(
            "INSERT INTO secrets (chain, seq, secret, info) VALUES (?, ?, ?, ?)", (chain, seq, batch.secret, batch.info)
        )
        db.execute(
            "UPDATE chains SET next_seq = next_seq + 1, previous = ? WHERE chain = ?",
            (header_hash(batch.header), chain),
        )
        db.execute("UPDATE state SET sealed_s = lived_s")
        return Sealed((chain, seq), len(opened.ids), sum(map(len, opened.bodies)), envelope, backlog)

    def _reopen(self, db: sqlite3.Connection, chain: int) -> int:
        """What was sealed at the end of `chain` and is not stored is sealed no more; how many readings that frees."""
        # The log takes a chain in order: what lies before a stored batch is stored, though we were not told.
        (end,) = self._row("SELECT coalesce(max(seq) + 1, 0) FROM batches WHERE chain = ? AND state > ?", chain, SEALED)
        db.execute(
            "UPDATE batches SET state = ? WHERE chain = ? AND seq < ? AND state = ?", (STORED, chain, end, SEALED)
        )
        readings = 0
        given_up = self._rows(
            "SELECT seq, first_id, last_id, header, info FROM batches JOIN secrets USING (chain, seq) "
            "WHERE chain = ? AND seq >= ? ORDER BY seq",
            chain,
            end,
        )
        for seq, first, last, header, info in given_up:
            readings += last - first + 1
            self._wait(db, first, last)
            self._retract(db, Header.decode(header).notice, BatchInfo.decode(info))
            db.execute("DELETE FROM batches WHERE chain = ? AND seq = ?", (chain, seq))
            db.execute("DELETE FROM secrets WHERE chain = ? AND seq = ?", (chain, seq))
        if given_up:
            db.execute("UPDATE chains SET next_seq = ? WHERE chain = ?", (given_up[0][0], chain))
        return readings

    def _retract(self, db: sqlite3.Connection, notice: Notice | None, info: BatchInfo) -> None:
        """A gap that nobody was told of is still to be told."""
        if notice is not None and notice.kind == NoticeKind.GAP and notice.reason is not None:
            self._lose(db, notice.reason, notice.lost, info.window_ns)
            db.execute("UPDATE state SET declared_gaps = declared_gaps - 1")
