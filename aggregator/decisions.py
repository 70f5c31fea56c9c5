"""What admission decides about an envelope, and what it hands on."""

from dataclasses import dataclass
from typing import TypeAlias

from ledger.batch import Header
from ledger.entry import BatchEntry, Equivocation
from ledger.info import BatchInfo
from ledger.messages import Reason
from ledger.writer.storage import Place, Submission

OBJECTS = 1280  # bytes of Python's for a batch in memory; measured, of one reading


@dataclass(frozen=True, slots=True)
class Candidate:
    """A batch that is proven to be its device's, whole and unchanged; its place in the chain is not looked at yet."""

    header: Header
    entry: BatchEntry
    payload: bytes
    info: BatchInfo

    @property
    def size(self) -> int:
        """The bytes that it takes up, nearly."""
        return len(self.payload) + len(self.entry.header) + OBJECTS


@dataclass(frozen=True, slots=True)
class Admitted:
    """A batch to append; the times in `info` are the device's word."""

    submission: Submission
    header: Header
    info: BatchInfo


@dataclass(frozen=True, slots=True)
class Repeated:
    """A batch that is here already, with this very header: it gets its answer again.

    `index` is None while the first copy is in the group that is being committed, or parked; that one will be answered.
    """

    place: Place
    index: int | None


@dataclass(frozen=True, slots=True)
class Returned:
    """A batch whose entry the log has and whose payload was lost: here is the payload; it gets its answer too."""

    place: Place
    index: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Parked:
    """A batch that came before its predecessor and waits for it; it is answered when that has come."""

    place: Place


@dataclass(frozen=True, slots=True)
class Rejected:
    """A batch that is not taken; epoch and seq where the envelope could be read that far.

    `evidence` is there where the device signed two headers for one place, and the log is to show it.
    """

    reason: Reason
    detail: str
    epoch: int | None = None
    seq: int | None = None
    evidence: Equivocation | None = None


Decision: TypeAlias = Admitted | Repeated | Returned | Parked | Rejected
