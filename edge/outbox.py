"""The outbox: one SQLite file, the only thing at the edge that is trusted to remember. Its writer is here.

*Accepted* means that `accept` returned: SQLite in WAL mode with `synchronous=FULL` has synced the commit. Every
method of its rooms is one transaction, so a process killed at any point leaves the state between two of them:

    intake     readings, the cursors of the sources that gave them, counts of refused input: together or not
    chain      a batch's header, signature and secret, and the chain's new end: together or not
    here       `stored` is a hint: losing it costs one resend. Verified receipts and the largest verified checkpoint:
               together or not; losing them costs one ask
    overflow   deletes what has a verified receipt, and what there is no room for
    erasing    deletes what the log calls erased, so that no byte of it is left

Ages count the seconds that the agent has run (`lived_s`), not the wall clock: a gateway that boots in 1970 and
then learns the date must not throw away everything at once.

One connection, used from one thread (SQLite checks). A lock file keeps a second agent away: two writers would fork
the device's chain.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from edge.chain import Chain
from edge.database import (
    MAX_SQLITE,
    PASSING,
    RECEIPTED,
    SEALED,
    STORED,
    Owner,
    assemble,
    explained,
    lock,
    open_database,
)
from edge.erasing import Erasing
from edge.intake import Intake
from edge.overflow import Overflow
from edge.window import Place
from ledger.batch import Anchor
from ledger.envelope import format_envelope
from ledger.events import ChainPlace


class Outbox(Intake, Chain, Overflow, Erasing):
    """The writer; see the module. Make it, use it and close it in one thread."""

    def __init__(self, path: Path, owner: Owner) -> None:
        """The outbox of `owner` in `path`, made if it is not there.

        Its chain in use is one of the owner's key, unless it is `in_doubt`.

        Raises:
            UserError: another agent has it, it is another device's, or it cannot be opened.
        """
        self._lock = lock(path)
        try:
            super().__init__(open_database(path, owner), path)
            try:
                if not self.in_doubt(owner):
                    self.begin_chain(owner)
            except BaseException:
                self._db.close()
                raise
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """The file may be opened by others again."""
        self._db.close()
        os.close(self._lock)

    def envelope(self, place: Place) -> bytes | None:
        """The batch as it goes over the wire, the same bytes every time; None when it is not kept."""
        with explained(self._path):
            batch = assemble(self._db, *place)
            return None if batch is None else format_envelope(batch)

    def kept_at(self, at: ChainPlace) -> list[Place]:
        """The batches with this epoch and sequence number that the aggregator has stored, of any chain."""
        # CROSS JOIN: a look-up for each of the few chains, and not a walk through all that is kept.
        return self._rows(
            "SELECT chain, seq FROM chains CROSS JOIN batches USING (chain) WHERE epoch = ? AND seq = ? AND state > ? "
            "ORDER BY chain",
            *_clamped(at),
            SEALED,
        )

    def unstored(self) -> list[tuple[Place, int]]:
        """Place and envelope size of every batch that the aggregator has not stored, in order."""
        rows = self._rows("SELECT chain, seq, size FROM batches WHERE state = ? ORDER BY chain, seq", SEALED)
        return [((chain, seq), size) for chain, seq, size in rows]

    def unreceipted(self, limit: int) -> tuple[list[Place], bool]:
        """The first `limit` batches that are stored and have no receipt, in order; and whether there are more."""
        rows = self._rows(
            "SELECT chain, seq FROM batches WHERE state = ? ORDER BY chain, seq LIMIT ?", STORED, limit + 1
        )
        return [(chain, seq) for chain, seq in rows[:limit]], len(rows) > limit

    def open_batches(self) -> int:
        """How many sealed batches have no verified receipt."""
        (count,) = self._row("SELECT count(*) FROM batches WHERE state < ?", RECEIPTED)
        return int(count)

    def mark_stored(self, answers: Iterable[tuple[ChainPlace, int]]) -> list[Place]:
        """The batches of `answers` that were only sealed are stored, at the log index given; they are returned.

        An answer names no chain. It is of the one in use, for in the others all is stored; unless it repeats what was
        said of another one's batch with the same epoch and sequence number, index included.
        """
        with self._transaction() as db:
            chain, epoch, _ = self._chain()
            marked = []
            for at, index in answers:
                # The index is a claim until a receipt shows it. It may be any 64-bit number; SQLite's are signed.
                claimed = min(index, MAX_SQLITE)
                done = db.execute(
                    "UPDATE batches SET state = ?1, log_index = ?2 WHERE chain = ?3 AND seq = ?4 AND state = ?5 "
                    "AND ?6 = ?7 AND NOT EXISTS (SELECT 1 FROM chains CROSS JOIN batches USING (chain) "
                    "WHERE chain != ?3 AND epoch = ?6 AND seq = ?4 AND log_index = ?2)",
                    (STORED, claimed, chain, min(at[1], MAX_SQLITE), SEALED, at[0], epoch),
                )
                if done.rowcount:
                    marked.append((chain, at[1]))
            return marked

    def unreceipted_at(self, at: ChainPlace) -> list[tuple[Place, bytes, bytes]]:
        """Place, header and signature of the batches with this epoch and sequence number that have no receipt yet.

        There may be one for each key that the device has had.
        """
        rows = self._rows(
            "SELECT chain, seq, header, signature FROM chains CROSS JOIN batches USING (chain) "
            "WHERE epoch = ? AND seq = ? AND state < ? ORDER BY chain DESC",
            *_clamped(at),
            RECEIPTED,
        )
        return [((chain, seq), header, signature) for chain, seq, header, signature in rows]

    def anchor(self) -> Anchor | None:
        """Size and root of the largest verified checkpoint."""
        size, root = self._row("SELECT anchor_size, anchor_root FROM state")
        return None if root is None else Anchor(size, root)

    def checkpoint(self) -> bytes | None:
        """The largest verified checkpoint as it was signed."""
        (checkpoint,) = self._row("SELECT checkpoint FROM state")
        return None if checkpoint is None else bytes(checkpoint)

    def settle(
        self, anchor: Anchor, checkpoint: bytes, places: Sequence[tuple[Place, int]], witnessed_s: int = 0
    ) -> None:
        """`places` have verified receipts at the log index given, under the verified checkpoint `anchor`.

        `witnessed_s` is the checkpoint's time by its witnesses, 0 without any. Only `receipts` calls this, with what
        it has verified.
        """
        with self._transaction() as db:
            db.execute(
                "UPDATE state SET anchor_size = ?1, anchor_root = ?2, checkpoint = ?3, "
                "witnessed_s = max(witnessed_s, ?4) WHERE anchor_root IS NULL OR anchor_size < ?1",
                (anchor.size, anchor.root, checkpoint, min(witnessed_s, MAX_SQLITE)),
            )
            db.executemany(
                "UPDATE batches SET state = ?, log_index = ?, settled_s = (SELECT lived_s FROM state) "
                "WHERE chain = ? AND seq = ?",
                [(RECEIPTED, index, *place) for place, index in places],
            )

    def record_reject(self, at: ChainPlace | None, reason: int, detail: str, now_ns: int | None = None) -> Place | None:
        """The last reject, at wall time `now_ns`, for status; the place in the chain in use that it may speak of.

        One that mends itself does not hide one for good whose batch still waits: those behind it come out of order.
        """
        epoch, seq = at or (None, None)
        with self._transaction() as db:
            overdue = self._one(
                "SELECT reject_reason FROM state WHERE EXISTS (SELECT 1 FROM batches JOIN chains USING (chain)"
                " WHERE epoch = reject_epoch AND seq = reject_seq AND batches.state = ?)",
                SEALED,
            )
            if reason not in PASSING or overdue is None or overdue[0] in PASSING:
                db.execute(
                    "UPDATE state SET reject_epoch = ?, reject_seq = ?, reject_reason = ?, reject_detail = ?,"
                    " reject_ns = ?",
                    (epoch, None if seq is None else min(seq, MAX_SQLITE), reason, detail, now_ns),
                )
            chain, in_use, _ = self._chain()
            return (chain, seq) if seq is not None and epoch == in_use else None

    def record_connection(self, state: str, why: str = "") -> None:
        """How it stands with the broker (see `mqtt.Uplink`), for status."""
        with self._transaction() as db:
            db.execute("UPDATE state SET broker = ?, broker_why = ?", (state, why))

    def record_troubles(self, troubles: Mapping[str, str]) -> None:
        """The sources, by name, that give nothing just now, and why; of the others nothing is noted."""
        with self._transaction() as db:
            db.execute("DELETE FROM troubles")
            db.executemany("INSERT INTO troubles (name, why) VALUES (?, ?)", troubles.items())

    def record_life(self, seconds: float) -> None:
        """The agent has run for `seconds` more."""
        with self._transaction() as db:
            db.execute("UPDATE state SET lived_s = lived_s + ?", (seconds,))


def _clamped(at: ChainPlace) -> ChainPlace:
    """A place that anyone may name, as SQLite can look it up."""
    return at[0], min(at[1], MAX_SQLITE)
