"""What the projection asks of a time-series store, and what a store gives back.

A reading's `ref` is log_index x 4096 + leaf_index: its place in the log and in its batch, unique for ever. With the
batch record of its log_index a stored reading is a complete proof (`prove`), with nothing else at hand.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ledger import merkle
from ledger.batch import LEAVES_PER_BATCH
from ledger.note import parse_note
from ledger.proof import LeafProof, ReadingProof


@dataclass(frozen=True, slots=True)
class StoredReading:
    """One reading as stored: the exact bytes that were hashed, and their salt."""

    ref: int
    device: str
    body: bytes
    salt: bytes

    @property
    def log_index(self) -> int:
        """The entry that commits to this reading."""
        return self.ref // LEAVES_PER_BATCH

    @property
    def leaf_index(self) -> int:
        """The reading's leaf in its batch."""
        return self.ref % LEAVES_PER_BATCH


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """One batch's proof material: everything between a leaf hash and the checkpoint."""

    log_index: int
    device: str
    algorithm: int
    public_key: bytes
    header: bytes
    signature: bytes
    leaf_hashes: tuple[bytes, ...]
    inclusion: tuple[bytes, ...]
    checkpoint: bytes


class ReadingStore(Protocol):
    """A time-series store; writing the same batch again changes nothing."""

    def cursor(self) -> int:
        """How many log entries are in the store, in order from 0."""
        ...

    def write(self, batches: Sequence[StoredBatch], readings: Sequence[StoredReading], cursor: int) -> None:
        """Stores all of it durably, then moves the cursor."""
        ...

    def readings(self) -> Iterator[StoredReading]:
        """Every reading, by `ref`."""
        ...

    def reading(self, ref: int) -> StoredReading | None:
        """The reading at `ref`."""
        ...

    def batch(self, log_index: int) -> StoredBatch | None:
        """The batch record of a log entry."""
        ...


def prove(reading: StoredReading, batch: StoredBatch) -> ReadingProof:
    """The proof of `reading` from what the store holds; whether it holds is the verifier's question."""
    path = merkle.level_path(merkle.tree_levels(batch.leaf_hashes), reading.leaf_index)
    leaf = LeafProof(
        batch.algorithm,
        batch.public_key,
        batch.header,
        batch.signature,
        reading.leaf_index,
        reading.salt,
        tuple(path),
        reading.body,
    )
    return ReadingProof(leaf, batch.log_index, batch.inclusion, parse_note(batch.checkpoint, "checkpoint"))
