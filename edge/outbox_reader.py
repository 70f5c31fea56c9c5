"""The outbox as seen from beside the writer: status, the demo's accounts, the crash tests. It cannot write."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from edge.database import RECEIPTED, SEALED, STORED, assemble, explained, open_read_only
from ledger.batch import Anchor, SealedBatch
from ledger.messages import Reason
from ledger.reading import Reading


@dataclass(frozen=True, slots=True)
class Counts:
    """Readings by how far they have come: accepted = unsealed + sealed + stored + receipted + dropped.

    Of the unsealed, `backlog` wait behind others and `held` for a clock. `receipted` includes those that were deleted
    since, `dropped` those for which the disk budget had no room; `batches_*` count batches.
    """

    accepted: int
    unsealed: int
    backlog: int
    held: int
    sealed: int
    stored: int
    receipted: int
    dropped: int
    batches_sealed: int
    batches_stored: int
    batches_receipted: int


@dataclass(frozen=True, slots=True)
class LastReject:
    """The last reject: its batch, if it named one, the reason's number, the aggregator's words, wall time if noted."""

    epoch: int | None
    seq: int | None
    reason: int
    detail: str
    at_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the agent noted: how it stood with the broker and why, gaps said and still to be said, and so on.

    `erased_batches` were deleted because the log's operator erased readings of them.
    """

    broker: str
    broker_why: str
    over_budget: int
    gaps_declared: int
    gaps_pending: int
    purged_early: int
    erased_batches: int
    epoch: int


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
        # One statement, so one moment: a batch that moves on meanwhile is not counted twice. What is receipted may be
        # a million batches: it is what is left of all, and not counted.
        open_batches = ", ".join(
            f"(SELECT {what} FROM batches WHERE state = {state})"  # noqa: S608 - constants only
            for state in (SEALED, STORED)
            for what in ("coalesce(sum(last_id - first_id + 1), 0)", "count(*)")
        )
        waiting = "(SELECT coalesce(sum((last_id - first_id + 1) * {}), 0) FROM waiting)"
        accepted = "coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'readings'), 0)"
        row = self._row(
            f"SELECT {accepted}, live_from, {waiting.format('(NOT held)')}, {waiting.format('held')}, dropped,"  # noqa: S608
            f" (SELECT coalesce(sum(next_seq), 0) FROM chains), {open_batches} FROM state"
        )
        total, live_from, backlog, held, dropped, batches, sealed, sealed_n, stored, stored_n = row
        unsealed = total - live_from + 1 + backlog + held
        receipted = total - unsealed - sealed - stored - dropped
        receipted_n = batches - sealed_n - stored_n
        return Counts(
            total, unsealed, backlog, held, sealed, stored, receipted, dropped, sealed_n, stored_n, receipted_n
        )

    def bodies(self) -> Iterator[bytes]:
        """The canonical bytes of every accepted reading that is still kept, in the order of acceptance."""
        with explained(self._path):
            for (body,) in self._db.execute("SELECT body FROM readings ORDER BY id"):
                yield body

    def receipted(self) -> Iterator[tuple[int, int, int]]:
        """(epoch, seq, log index) of every batch with a verified receipt that is still kept, in order."""
        with explained(self._path):
            yield from self._db.execute(
                "SELECT epoch, seq, log_index FROM batches JOIN chains USING (chain) WHERE state = ? "
                "ORDER BY chain, seq",
                (RECEIPTED,),
            )

    def batch(self, chain: int, seq: int) -> SealedBatch | None:
        """The batch as it was sealed, or None when it is not kept; an outbox's first chain has its epoch's number."""
        with explained(self._path):
            return assemble(self._db, chain, seq)

    def facts(self) -> Facts:
        """What the writer last noted of itself."""
        return Facts(
            *self._row(
                "SELECT broker, broker_why, over_budget, declared_gaps, (SELECT count(*) FROM gaps), purged_early,"
                " erased_batches,"
                " (SELECT epoch FROM chains ORDER BY chain DESC LIMIT 1) FROM state"
            )
        )

    def used(self) -> int:
        """Bytes of the file that hold something."""
        (page,), (pages,), (free,) = (
            self._row(f"PRAGMA {name}") for name in ("page_size", "page_count", "freelist_count")
        )
        return int(page * (pages - free))

    def anchor(self) -> Anchor | None:
        """Size and root of the largest verified checkpoint."""
        size, root = self._row("SELECT anchor_size, anchor_root FROM state")
        return None if root is None else Anchor(size, root)

    def last_reject(self) -> LastReject | None:
        """The last reject that any batch met."""
        row = self._row("SELECT reject_epoch, reject_seq, reject_reason, reject_detail, reject_ns FROM state")
        return None if row[2] is None else LastReject(*row)

    def waiting_reject(self) -> LastReject | None:
        """The last reject, if the batch that it names still waits to be stored."""
        reject = self.last_reject()
        if reject is None:
            return None
        (waits,) = self._row(
            "SELECT EXISTS (SELECT 1 FROM batches JOIN chains USING (chain) WHERE epoch = ? AND seq = ? AND state = ?)",
            reject.epoch,
            reject.seq,
            SEALED,
        )
        return reject if waits else None

    def unnamed_reject(self) -> LastReject | None:
        """The last reject, if it names no batch."""
        reject = self.last_reject()
        return reject if reject is not None and reject.seq is None else None

    def outdated(self) -> LastReject | None:
        """The last reject, if it shows that the log knows another continuation of this key's chain than this outbox.

        That is an older copy of the outbox (a restored image), or a second agent with the same key.
        """
        reject = self.waiting_reject()
        return reject if reject and reject.reason in (Reason.EQUIVOCATION, Reason.BROKEN_CHAIN) else None

    def refused(self) -> dict[str, int]:
        """By source name, pieces of input that made no reading."""
        with explained(self._path):
            return dict(self._db.execute("SELECT name, refused FROM cursors ORDER BY name"))

    def last_refused_ns(self) -> dict[str, int]:
        """By source name, the wall time at which a piece of its input was last refused."""
        with explained(self._path):
            return dict(
                self._db.execute("SELECT name, refused_ns FROM cursors WHERE refused_ns IS NOT NULL ORDER BY name")
            )

    def troubles(self) -> dict[str, str]:
        """The sources, by name, that gave nothing when the agent last looked, and why."""
        with explained(self._path):
            return dict(self._db.execute("SELECT name, why FROM troubles ORDER BY name"))

    def key_id(self) -> bytes:
        """The id of the key whose chain is in use."""
        return bytes(self._row("SELECT key_id FROM chains ORDER BY chain DESC LIMIT 1")[0])

    def oldest_unstored_ns(self, *, above: int = 0) -> int | None:
        """Gateway wall-clock time at which the oldest reading that the aggregator lacks was received.

        `above`: of those accepted after the first so many.
        """
        row = self._row(
            "SELECT (SELECT body FROM readings WHERE id > ?1 AND id >= min(live_from,"
            " coalesce((SELECT min(first_id) FROM waiting WHERE last_id > ?1), live_from),"
            " coalesce((SELECT min(first_id) FROM batches WHERE state = ?2 AND last_id > ?1), live_from))"
            " ORDER BY id LIMIT 1) FROM state",
            above,
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
