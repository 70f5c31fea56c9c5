"""What a log needs of a database and a disk: the seam where PostgreSQL and object storage could stand in.

The database is trusted for the order of entries and for payloads; the tree of files is derived from it and trusted
for nothing. The guard is a second copy of the last signed checkpoint's size and root, best on another volume: a log
whose database is behind it has been rolled back.

Every write method returns only after its effect is durable, and any failure in one is the end of the process
(`StorageError`): after a failed fsync nobody can say what is on disk, so a retry is not safe.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


class StorageError(Exception):
    """The storage is not what a writer needs; one line that says what, where and what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """A batch's place in its device's chain; the log holds at most one entry for each."""

    key_id: bytes
    epoch: int
    seq: int


@dataclass(frozen=True, slots=True)
class Submission:
    """An entry to append: a batch has a place and a private payload, other entries have neither.

    A batch without its payload is one that was replayed from the public log: its payload is missing from then on.
    """

    entry: bytes
    place: Place | None = None
    payload: bytes | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """A checkpoint that was signed and recorded; the newest one is what the log stands for.

    `note` has the log's own signatures until it is `published`, and then the cosignatures of a quorum as well.
    """

    size: int
    root: bytes
    note: bytes
    recorded_at_ns: int
    published: bool = False


class Notable(Protocol):
    """Whoever can list the few entries that are about the log itself: keys, key states, evidence, its end."""

    def of_type(self, kind: int) -> Iterator[tuple[int, bytes]]:
        """Index and bytes of every entry of a type that is neither batch nor commitment, in log order."""
        ...


class Storage(Notable, Protocol):
    """One log's durable state."""

    def append(self, group: Sequence[Submission]) -> int:
        """Commits `group` in order, all or nothing, and returns the index of its first entry."""
        ...

    def size(self) -> int:
        """How many entries are committed."""
        ...

    def entries(self, start: int, end: int) -> Iterator[bytes]:
        """The committed entries [start, end) in order."""
        ...

    def payload(self, index: int) -> bytes | None:
        """The private payload of entry `index`, or None where it has none."""
        ...

    def missing_payload_count(self) -> int:
        """How many batches are on the log whose payload is not here; costs next to nothing while it is 0."""
        ...

    def missing_payloads(self, key_id: bytes, limit: int) -> list[Place]:
        """At most `limit` batches of this device's chain whose payload is missing, newest first.

        A device drops what it keeps oldest first, so what is asked for in this order comes before what is gone. Those
        of which something was erased are not among them: the device was told to delete them.
        """
        ...

    def lacks(self, place: Place) -> bool:
        """Whether the payload of the batch at `place` is missing, or a part of it."""
        ...

    def put_payload(self, index: int, payload: bytes) -> bool:
        """Durably puts back the payload of entry `index`; False, and nothing changed, if it was not missing.

        Of leaves that an entry calls erased only the hashes are written.

        Raises:
            LedgerError: its leaves do not lead to the root in the batch's header.
        """
        ...

    def erasures(self, index: int) -> list[int]:
        """The entries (`ledger.entry.Erased`) that say that leaves of the batch `index` were erased, in order."""
        ...

    def to_erase(self, limit: int) -> list[int]:
        """At most `limit` batches of which leaves that such an entry names may still be in a file, in order.

        From the moment when the entry is committed until `erase` has returned True.
        """
        ...

    def erase(self, batches: Sequence[int]) -> bool:
        """No byte of the leaves of `batches` that entries call erased is in any file; their hashes are.

        False if somebody reads an older state meanwhile, which may hold them: it is to be called again. Of a payload
        that is not its batch's, nothing is left.
        """
        ...

    def find(self, place: Place) -> tuple[int, bytes] | None:
        """Index and bytes of the entry at `place`."""
        ...

    def following(self, place: Place, limit: int) -> list[tuple[int, Place]]:
        """Index and place of the next `limit` batches of this device's chain after `place`, in order."""
        ...

    def head_place(self, key_id: bytes) -> Place | None:
        """The last place of a device's chain that is taken."""
        ...

    def head(self, key_id: bytes) -> tuple[int, bytes] | None:
        """Index and bytes of the last entry of this device's chain."""
        ...

    def checkpoint_root(self, size: int) -> bytes | None:
        """The root of the checkpoint that was recorded for `size`, None if none was.

        In a stretch that a restore replayed, nobody knows any more for which sizes there was one: every size counts.
        """
        ...

    def recorded(self) -> Recorded | None:
        """The newest recorded checkpoint."""
        ...

    def published(self) -> Recorded | None:
        """The newest published checkpoint."""
        ...

    def first_covering(self, index: int) -> Recorded | None:
        """The first published checkpoint that covers entry `index`: the one that proves the earliest time."""
        ...

    def guard(self) -> bytes:
        """The text of the checkpoint that the guard holds; raises StorageError if there is no guard."""
        ...

    def record(self, checkpoint: Recorded, text: str) -> None:
        """Records `checkpoint` as the newest, then puts its `text` into the guard.

        Raises:
            StorageError: one of its size or larger is there.
        """
        ...

    def publish(self, checkpoint: Recorded) -> None:
        """The newest recorded checkpoint is published as `checkpoint.note`; its public file follows."""
        ...

    def read(self, path: str) -> bytes | None:
        """The public file at `path` (a `tiles.Fetch`)."""
        ...

    def write(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Puts public files in place, each whole or not at all, all durable on return."""
        ...

    def remove_partials(self, paths: Iterable[str]) -> None:
        """Removes directories of partial tiles, where they exist."""
        ...
