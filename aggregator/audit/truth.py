"""What ought to be in the database, batch by batch: from the public log, and from payloads where they are at hand.

Of the entries that are looked at, those before `due` have to be there whole. The view may not have come to the rest;
what is there of them all the same has to be right.

Readings are counted by a bit each. What a batch's leaves hash to is looked up again when it is needed, from where it
was shown to lead to the root that its device signed (`Basis`).
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from aggregator.audit.leaves import Batch, check_hashes, sound_leaves
from aggregator.audit.private import Private
from aggregator.audit.public import PublicLog
from aggregator.timeseries.base import ReadingStore
from ledger.batch import LEAVES_PER_BATCH, Header
from ledger.entry import BatchEntry, Erased, parse_entry
from ledger.errors import LedgerError, VerificationError
from ledger.leaves import Leaf, check_leaves
from ledger.writer.payload import parse_payload

# Batches whose leaves are kept at hand: a store that gives rows by series comes back to a batch for each of its series.
KEPT_BATCHES = 256


class Basis(IntEnum):
    """What the leaf hashes of a batch were shown to follow from."""

    NOTHING = 0
    PAYLOAD = 1
    RECORD = 2
    ROWS = 3  # the record's, with those of the rows where these two differ


class Tally(NamedTuple):
    """What became of the readings that have to be there, but for those whose rows were looked at, or looked for.

    `erased` of them were, by `entries` of the log; `unchecked` are those of which nothing can be said.
    """

    erased: int
    entries: int
    unchecked: int


class Truth:
    """The entries [start, until) of a sound log, and what is known of their batches."""

    def __init__(
        self, log: PublicLog, store: ReadingStore, private: Private | None, start: int, due: int, until: int
    ) -> None:
        self.log, self.private = log, private
        self.start, self.due, self.until = start, due, until
        self._store = store
        self._offsets = array("q", [0])  # of each entry's readings among the bits; one more than there are entries
        self._batches = bytearray(until - start)
        self._basis = bytearray(until - start)
        # Of each payload, as it was when it was shown to lead to the log: 64 bits under a key of this process.
        self._marks = array("q", bytes(8 * (until - start)))
        self._hashes: dict[int, tuple[bytes, ...]] = {}  # of the batches whose basis is ROWS
        self._names: dict[bytes, str] = {}
        self._key_ids: set[bytes] = set()
        self._erased: dict[int, int] = {}  # ref: the entry that says so, for those that the view has come to
        self._leaving: set[int] = set()  # refs whose erasure the view has not come to
        self.lost: set[int] = set()  # batches that are not there, and need not be
        for index in range(start, log.size):
            entry = parse_entry(log.tree.entry(index))
            if isinstance(entry, Erased):
                self._erase(entry, index)
            if index < until:
                count = 0
                if isinstance(entry, BatchEntry):
                    self._batches[index - start] = True
                    header = Header.decode(entry.header)
                    self._key_ids.add(header.key_id)
                    count = header.count
                self._offsets.append(self._offsets[-1] + count)
        self.learn_erasures()
        self._seen = bytearray(-(-self._offsets[-1] // 8))
        # Bound here, so that what is kept goes with the object.
        self.batch: Callable[[int], Batch] = lru_cache(KEPT_BATCHES)(self._read_batch)

    @property
    def readings(self) -> int:
        """How many readings the log commits to in the entries that have to be there."""
        return self._offsets[self.due - self.start]

    def indexes(self) -> Iterator[int]:
        """The log index of every batch."""
        return (index for index in range(self.start, self.until) if self.is_batch(index))

    def is_batch(self, index: int) -> bool:
        """Whether that entry is a batch, and one of these."""
        return self.start <= index < self.until and bool(self._batches[index - self.start])

    def is_looked_at(self, index: int) -> bool:
        """Whether this audit can tell what stands under that log index, which may be no entry's."""
        if index < 0 or self.start <= index < self.until:
            return True
        return index >= self.log.size and not self.log.has_grown_past(index)

    def why_none(self, index: int) -> str:
        """Why nothing can stand under that log index, which is not a batch's."""
        if 0 <= index < self.log.size:
            return f"entry {index} is not a batch"
        return f"there is no entry {index}: the log has {self.log.size}"

    def count(self, index: int) -> int:
        """How many readings that entry commits to."""
        at = index - self.start
        return self._offsets[at + 1] - self._offsets[at]

    def entry(self, index: int) -> tuple[BatchEntry, Header]:
        """The batch at `index`, which is one."""
        entry = parse_entry(self.log.tree.entry(index))
        if not isinstance(entry, BatchEntry):
            raise VerificationError(f"entry {index} is not a batch")
        return entry, Header.decode(entry.header)

    def erased_by(self, ref: int) -> int | None:
        """The entry by which a reading was erased, as far as the view has come to that."""
        return self._erased.get(ref)

    def learn_erasures(self) -> None:
        """Erasures that were committed since the log was read are known: nothing that they explain is a finding."""
        for entry in () if self.private is None else self.private.erased_since(self.log.size):
            self._erase(entry, self.log.size)

    def is_leaving(self, ref: int) -> bool:
        """Whether a reading's erasure is on its way to the database."""
        return ref in self._leaving

    def erased(self) -> Iterator[int]:
        """The refs of all readings of these entries that were erased, or are about to be."""
        return (ref for ref in (*self._erased, *self._leaving) if self.is_batch(ref // LEAVES_PER_BATCH))

    def name_devices(self, told: Counter[tuple[bytes, str]]) -> None:
        """Each key's device is what the registry calls it, or else what most of its batch records do."""
        for (key_id, device), _ in sorted(told.items(), key=lambda item: (-item[1], item[0])):
            self._names.setdefault(key_id, device)

    def device(self, key_id: bytes) -> str:
        """The name of a key's holder; the beginning of its id where nobody names it."""
        named = None if self.private is None else self.private.device(key_id)
        return named or self._names.get(key_id, key_id.hex()[:16])

    def key_ids(self) -> dict[str, list[str]]:
        """By device, the beginnings of the ids of its keys that signed these batches."""
        found: dict[str, list[str]] = {}
        for key_id in sorted(self._key_ids):
            found.setdefault(self.device(key_id), []).append(key_id.hex()[:16])
        return found

    def tally(self, unchecked: dict[int, int]) -> Tally:
        """What became of the readings that have to be there; `unchecked` counts rows by log index."""
        erased = {ref: by for ref, by in self._erased.items() if self._has_to_be(ref)}
        left = sum(count for index, count in unchecked.items() if index < self.due and index not in self.lost)
        left += sum(self.count(index) for index in self.lost if index < self.due)
        left -= sum(ref // LEAVES_PER_BATCH in self.lost for ref in erased)
        for ref in self._leaving - erased.keys():
            if self._has_to_be(ref) and ref // LEAVES_PER_BATCH not in self.lost:
                left += not self.is_seen(ref)
        return Tally(len(erased), len(set(erased.values())), left)

    def payload(self, index: int, header: Header) -> tuple[Leaf | bytes, ...] | None:
        """The payload of a batch, shown to lead to the log; None if it is not here. Raises LedgerError."""
        payload = None if self.private is None else self.private.payload(index)
        if payload is None:
            return None
        leaves = parse_payload(payload)
        if (mark := hash(payload)) != self._marks[index - self.start]:
            check_leaves(header, leaves)
            self._marks[index - self.start] = mark
        self._basis[index - self.start] = Basis.PAYLOAD
        return leaves

    def rest_on_record(self, index: int) -> None:
        """What the batch's leaves hash to is what its record says, which was shown to lead to the log."""
        self._basis[index - self.start] = Basis.RECORD

    def rest_on_rows(self, index: int, hashes: tuple[bytes, ...]) -> None:
        """What the batch's leaves hash to are `hashes`, which were shown to lead to the log."""
        self._basis[index - self.start] = Basis.ROWS
        self._hashes[index] = hashes

    def expect_nothing(self, index: int) -> None:
        """The batch is not expected in the database: the view has not come to it, or its payload is lost."""
        self.lost.add(index)

    def basis(self, index: int) -> Basis:
        """What is known of a batch's leaves."""
        return Basis(self._basis[index - self.start])

    def see(self, ref: int) -> bool:
        """The reading's row is accounted for; whether it was before."""
        byte, bit = self._bit(ref)
        was = self._seen[byte] & bit
        self._seen[byte] |= bit
        return bool(was)

    def is_seen(self, ref: int) -> bool:
        """Whether the reading's row is accounted for."""
        byte, bit = self._bit(ref)
        return bool(self._seen[byte] & bit)

    def unseen(self) -> Iterator[int]:
        """The ref of every reading that is not accounted for and that the view has, or may have come to; in order."""
        for index in self.indexes():
            if index in self.lost:
                continue
            first = index * LEAVES_PER_BATCH
            for ref in range(first + 1, first + self.count(index) + 1):
                if not (self.is_seen(ref) or ref in self._erased or ref in self._leaving):
                    yield ref

    def _erase(self, entry: Erased, at: int) -> None:
        for leaf in entry.leaves:
            ref = entry.log_index * LEAVES_PER_BATCH + leaf
            if at < self.due:
                self._erased.setdefault(ref, at)
            else:
                self._leaving.add(ref)

    def _has_to_be(self, ref: int) -> bool:
        """Whether it is a reading of these entries, but for its erasure, and not the batch's info."""
        index, leaf = divmod(ref, LEAVES_PER_BATCH)
        return bool(leaf) and index < self.due and self.is_batch(index)

    def _bit(self, ref: int) -> tuple[int, int]:
        index, leaf = divmod(ref, LEAVES_PER_BATCH)
        at = self._offsets[index - self.start] + leaf - 1
        return at >> 3, 1 << (at & 7)

    def _read_batch(self, index: int) -> Batch:
        _, header = self.entry(index)
        basis, leaves, hashes = self.basis(index), None, None
        if basis is Basis.PAYLOAD:
            leaves = self._payload_again(index, header)
        elif basis is Basis.RECORD:
            hashes = self._record_hashes(index, header)
        elif basis is Basis.ROWS:
            hashes = self._hashes[index]
        if hashes is not None:
            payload = None if self.private is None else self.private.payload(index)
            leaves = None if payload is None else sound_leaves(payload, header, hashes)
        return Batch(index, header, self.device(header.key_id), leaves, hashes)

    def _payload_again(self, index: int, header: Header) -> tuple[Leaf | bytes, ...] | None:
        """The payload, shown once more to lead to the log if it is another one than it was: from who may be audited."""
        try:
            return self.payload(index, header)
        except LedgerError:
            return None

    def _record_hashes(self, index: int, header: Header) -> tuple[bytes, ...] | None:
        """Those of the record, shown once more to lead to the log: it is read again, from a database nobody trusts."""
        try:
            record = self._store.batch(index)
            hashes = () if record is None else record.leaf_hashes
            check_hashes(header, hashes)
        except LedgerError:
            return None  # it was changed since, and its rows cannot be judged any more
        return hashes
