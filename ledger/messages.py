"""What the aggregator tells a device, and a device of itself (FORMAT.md section 9).

stored   the batch is committed; stop resending, send the next. Never a reason to delete.
receipt  index, inclusion proof, checkpoint: the batch is on the log. A device that has verified it may delete.
reject   the batch was not taken, and why.
wanted   the log has these batches and lost what was in them; a device that keeps them still sends them again.
erased   readings of these batches were erased: the device that has verified it deletes what it still keeps of them.
status   the device is there (or, as its last will, is not), and the largest checkpoint that it has verified,
         so that receipts can carry a consistency proof from exactly there.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from ledger import canonical
from ledger.batch import MAX_UINT32, MAX_UINT64
from ledger.canonical import Value
from ledger.entry import MAX_ENTRY, Erased, parse_entry
from ledger.errors import MalformedError
from ledger.merkle import MAX_PROOF, join_path, split_path

MESSAGE_VERSION = 1
MAX_MESSAGE = 64 * 1024
MAX_PLACED = 1024  # more than the 256 batches that a device keeps in flight
MAX_WANTED = 256  # as many as a device may have in flight
MAX_ERASED = 256  # more than fit into a message with their proofs
MAX_DETAIL = 200
MAX_STATUS = 16  # its three small integers take at most 12


class Reason(IntEnum):
    """Why a batch was rejected."""

    MALFORMED = 1
    TOO_LARGE = 2
    WRONG_ORIGIN = 3
    UNKNOWN_KEY = 4
    WRONG_DEVICE = 5
    BAD_SIGNATURE = 6
    BAD_ROOT = 7
    OUT_OF_ORDER = 8
    BROKEN_CHAIN = 9
    EQUIVOCATION = 10
    WRONG_ANCHOR = 11
    ENDED_KEY = 12
    OVER_QUOTA = 13


@dataclass(frozen=True, slots=True)
class Stored:
    """The batch (epoch, seq) is durably in the log's order at `index`."""

    epoch: int
    seq: int
    index: int

    def encode(self) -> bytes:
        """The message's bytes."""
        return canonical.encode((MESSAGE_VERSION, 1, self.epoch, self.seq, self.index))


@dataclass(frozen=True, slots=True)
class Placed:
    """One batch in a receipt: where its entry is, and the inclusion proof."""

    epoch: int
    seq: int
    index: int
    inclusion: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Receipt:
    """A checkpoint, its consistency with the one that the device had, and the batches of the device in it."""

    checkpoint: bytes
    old_size: int
    consistency: tuple[bytes, ...]
    placed: tuple[Placed, ...]

    def encode(self) -> bytes:
        """The message's bytes."""
        placed = tuple((item.epoch, item.seq, item.index, join_path(item.inclusion)) for item in self.placed)
        return canonical.encode(
            (MESSAGE_VERSION, 2, self.checkpoint, self.old_size, join_path(self.consistency), placed)
        )


@dataclass(frozen=True, slots=True)
class Reject:
    """The batch (epoch, seq), or a message that showed none, was not taken; `detail` is for people."""

    epoch: int | None
    seq: int | None
    reason: int
    detail: str

    def encode(self) -> bytes:
        """The message's bytes."""
        return canonical.encode((MESSAGE_VERSION, 3, self.epoch, self.seq, int(self.reason), self.detail))


@dataclass(frozen=True, slots=True)
class Wanted:
    """The log has the batches at these (epoch, seq) and not what was in them: please send them again, at ease."""

    places: tuple[tuple[int, int], ...]

    def encode(self) -> bytes:
        """The message's bytes."""
        return canonical.encode((MESSAGE_VERSION, 4, self.places))


@dataclass(frozen=True, slots=True)
class ErasedBatch:
    """Of the batch (epoch, seq) the log's entry `index` says which leaves were erased; the inclusion proof of that."""

    epoch: int
    seq: int
    index: int
    entry: Erased
    inclusion: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ErasedNotice:
    """A checkpoint, its consistency with the one that the device had, and the device's batches that were erased from.

    The log index of each batch is in its entry. A device that keeps a batch deletes all of it: the batch secret would
    bring the erased salts back.
    """

    checkpoint: bytes
    old_size: int
    consistency: tuple[bytes, ...]
    batches: tuple[ErasedBatch, ...]

    def encode(self) -> bytes:
        """The message's bytes."""
        batches = tuple(
            (item.epoch, item.seq, item.index, item.entry.encode(), join_path(item.inclusion)) for item in self.batches
        )
        return canonical.encode(
            (MESSAGE_VERSION, 5, self.checkpoint, self.old_size, join_path(self.consistency), batches)
        )


@dataclass(frozen=True, slots=True)
class Status:
    """A device is connected or gone; `size` is that of its largest verified checkpoint."""

    online: bool
    size: int

    def encode(self) -> bytes:
        """The message's bytes."""
        return canonical.encode((MESSAGE_VERSION, int(self.online), self.size))


Message: TypeAlias = Stored | Receipt | Reject | Wanted | ErasedNotice


def parse_message(data: bytes) -> Message:
    """The message from the aggregator in `data`; raises MalformedError."""
    if len(data) > MAX_MESSAGE:
        raise MalformedError(f"message: {len(data)} bytes, more than the {MAX_MESSAGE} allowed")
    match canonical.decode(data, "message"):
        case (1, 1, epoch, seq, index):
            return Stored(*_place(epoch, seq), canonical.uint(index, "stored: index", MAX_UINT64))
        case (1, 2, checkpoint, old_size, consistency, tuple(placed)) if len(placed) <= MAX_PLACED:
            return Receipt(*_extended(checkpoint, old_size, consistency, "receipt"), tuple(map(_placed, placed)))
        case (1, 3, epoch, seq, reason, detail):
            place = (None, None) if epoch is None and seq is None else _place(epoch, seq)
            return Reject(
                place[0],
                place[1],
                canonical.integer(reason, "reject: reason", 1, 0xFF),
                canonical.text(detail, "reject: detail", MAX_DETAIL),
            )
        case (1, 4, tuple(places)) if 1 <= len(places) <= MAX_WANTED:
            return Wanted(tuple(_place(*canonical.fields(place, 2, "wanted: batch")) for place in places))
        case (1, 5, checkpoint, old_size, consistency, tuple(batches)) if 1 <= len(batches) <= MAX_ERASED:
            return ErasedNotice(*_extended(checkpoint, old_size, consistency, "erased"), tuple(map(_erased, batches)))
        case _:
            raise MalformedError("message: neither stored, receipt, reject, wanted nor erased of version 1")


def parse_status(data: bytes) -> Status:
    """The device's status in `data`; raises MalformedError."""
    if len(data) > MAX_STATUS:
        raise MalformedError(f"status: {len(data)} bytes, more than the {MAX_STATUS} allowed")
    version, online, size = canonical.fields(canonical.decode(data, "status"), 3, "status")
    if version != MESSAGE_VERSION or type(version) is not int:
        raise MalformedError("status: not version 1")
    return Status(canonical.uint(online, "status: online", 1) == 1, canonical.uint(size, "status: size", MAX_UINT64))


def _place(epoch: Value, seq: Value) -> tuple[int, int]:
    return canonical.uint(epoch, "message: epoch", MAX_UINT32), canonical.uint(seq, "message: seq", MAX_UINT64)


def _path(value: Value, what: str) -> tuple[bytes, ...]:
    return tuple(split_path(canonical.binary(value, what, 0, 32 * (MAX_PROOF + 1)), what))


def _extended(
    checkpoint: Value, old_size: Value, consistency: Value, what: str
) -> tuple[bytes, int, tuple[bytes, ...]]:
    return (
        canonical.binary(checkpoint, f"{what}: checkpoint", 1, MAX_MESSAGE),
        canonical.uint(old_size, f"{what}: old size", MAX_UINT64),
        _path(consistency, f"{what}: consistency proof"),
    )


def _erased(item: Value) -> ErasedBatch:
    epoch, seq, index, entry, inclusion = canonical.fields(item, 5, "erased: batch")
    erased = parse_entry(canonical.binary(entry, "erased: entry", 1, MAX_ENTRY))
    if not isinstance(erased, Erased):
        raise MalformedError("erased: the entry is of another type")
    return ErasedBatch(
        *_place(epoch, seq),
        canonical.uint(index, "erased: index", MAX_UINT64),
        erased,
        _path(inclusion, "erased: inclusion proof"),
    )


def _placed(item: Value) -> Placed:
    epoch, seq, index, inclusion = canonical.fields(item, 4, "receipt: batch")
    return Placed(
        *_place(epoch, seq),
        canonical.uint(index, "receipt: index", MAX_UINT64),
        _path(inclusion, "receipt: inclusion proof"),
    )
