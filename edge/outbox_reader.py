"""The outbox as seen from beside the writer: status, the demo's accounts, the crash tests. It cannot write."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from edge.database import RECEIPTED, SEALED, STORED, assemble, explained, open_read_only
from ledger.batch import Anchor, SealedBatch
from ledger.reading import Reading
from ledger.receipt import Reason


@dataclass(frozen=True, slots=True)
class Counts:
    """Readings by how far they have come: accepted = unsealed + sealed + stored + receipted.

    `receipted` includes those that were deleted since; `batches_*` count batches.
    """

    accepted: int
    unsealed: int
    sealed: int
    stored: int
    receipted: int
    batches_sealed: int
    batches_stored: int
    batches_receipted: int


@dataclass(frozen=True, slots=True)
class LastReject:
    """The last reject: its batch, if it named one, the reason's number and the aggregator's words."""

    epoch: int | None
    seq: int | None
    reason: int
    detail: str


class OutboxReader:
    """A read-only connection; a context manager. Each method sees one moment."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = open_read_only(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held any more."""
        self._db.close()

    def counts(self) -> Counts:
        """How many readings and batches are where."""
        # One statement, so one moment: a batch that moves on meanwhile is not counted twice.
        totals = ", ".join(
            f"(SELECT {what} FROM batches WHERE state = {state})"  # noqa: S608 - constants only
            for state in (SEALED, STORED, RECEIPTED)
            for what in ("coalesce(sum(last_id - first_id + 1), 0)", "count(*)")
        )
        accepted = "coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'readings'), 0)"
        row = self._row(
            f"SELECT {accepted}, sealed_to, purged_readings, purged_batches, {totals} FROM state"  # noqa: S608
        )
        total, sealed_to, gone, gone_batches, sealed, sealed_n, stored, stored_n, done, done_n = row
        return Counts(total, total - sealed_to, sealed, stored, done + gone, sealed_n, stored_n, done_n + gone_batches)

    def bodies(self) -> Iterator[bytes]:
        """The canonical bytes of every accepted reading that is still kept, in the order of acceptance."""
        with explained(self._path):
            for (body,) in self._db.execute("SELECT body FROM readings ORDER BY id"):
                yield body

    def receipted(self) -> Iterator[tuple[int, int, int]]:
        """(epoch, seq, log index) of every batch with a verified receipt that is still kept, in order."""
        with explained(self._path):
            yield from self._db.execute(
                "SELECT epoch, seq, log_index FROM batches WHERE state = ? ORDER BY epoch, seq", (RECEIPTED,)
            )

    def batch(self, epoch: int, seq: int) -> SealedBatch | None:
        """The batch as it was sealed, or None when it is not kept."""
        with explained(self._path):
            return assemble(self._db, epoch, seq)

    def anchor(self) -> Anchor | None:
        """Size and root of the largest verified checkpoint."""
        size, root = self._row("SELECT anchor_size, anchor_root FROM state")
        return None if root is None else Anchor(size, root)

    def connected(self) -> bool:
        """The agent last said that it had a connection; true of now only while it runs (see `database.locked`)."""
        return bool(self._row("SELECT connected FROM state")[0])

    def last_reject(self) -> LastReject | None:
        """The last reject that any batch met."""
        row = self._row("SELECT reject_epoch, reject_seq, reject_reason, reject_detail FROM state")
        return None if row[2] is None else LastReject(*row)

    def outdated(self) -> LastReject | None:
        """The last reject, if it shows that the log knows another continuation of this key's chain than this outbox.

        That is an older copy of the outbox (a restored image), or a second agent with the same key.
        """
        reject = self.last_reject()
        if reject is None or reject.reason not in (Reason.EQUIVOCATION, Reason.BROKEN_CHAIN):
            return None
        (waits,) = self._row(
            "SELECT count(*) FROM batches WHERE epoch = ? AND seq = ? AND state = ?", reject.epoch, reject.seq, SEALED
        )
        return reject if waits else None

    def refused(self) -> dict[str, int]:
        """By source name, pieces of input that made no reading."""
        with explained(self._path):
            return dict(self._db.execute("SELECT name, refused FROM cursors ORDER BY name"))

    def oldest_unstored_ns(self) -> int | None:
        """Gateway wall-clock time at which the oldest reading that the aggregator lacks was received."""
        row = self._row(
            "SELECT (SELECT body FROM readings WHERE id >= coalesce((SELECT min(first_id) FROM batches "
            "WHERE state = ?), (SELECT sealed_to + 1 FROM state)) ORDER BY id LIMIT 1)",
            SEALED,
        )
        if row[0] is None:
            return None
        reading = Reading.decode(row[0])
        return reading.sensor_time_ns + reading.gateway_offset_ns

    def _row(self, query: str, *values: object) -> tuple[Any, ...]:
        with explained(self._path):
            row: tuple[Any, ...] = self._db.execute(query, values).fetchone()
            return row
