"""The state of every device key on a log, and the tree over them (FORMAT.md section 7.3).

    record    key id, algorithm, index of its enrolment, where it ends in its chain, index of its revocation
    leaf      SHA-256(0x00 || label || record), in the order of key ids
    root      what a `key-state` entry carries, "as of the first n entries"

An inclusion proof shows that something is there; that nothing else is there it can not show. So absence of a
revocation is shown by the *presence* of the key's whole record under the newest root. Writer, `fsck` and monitor
compute the root by `KeyStates` from the same entries; witnesses do not.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ledger import canonical, merkle
from ledger.batch import MAX_UINT32, MAX_UINT64
from ledger.canonical import Value
from ledger.entry import KeyStateEntry
from ledger.errors import MalformedError, VerificationError
from ledger.events import ChainPlace, Enrolment, KeyEvent, Revocation, Rotation

_LEAF_LABEL = b"vitalseal/v1/key-state\n"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What the log says of one key.

    Attributes:
        enrolled: index of the entry that enrolled it, or rotated to it.
        until: first place (epoch, seq) of its chain for which it is not good; None: it has not ended.
        revoked: index of its revocation, from which on nothing of it is good; None: it was not revoked. A key that was
            only rotated away has an `until` and no `revoked`: what it sealed before may still arrive.
    """

    key_id: bytes
    enrolled: int
    until: ChainPlace | None = None
    revoked: int | None = None

    def encode(self) -> bytes:
        """The canonical bytes."""
        return canonical.encode((self.key_id, self.enrolled, self.until, self.revoked))

    def leaf_hash(self) -> bytes:
        """The record's leaf in the tree over all keys."""
        return hashlib.sha256(b"\x00" + _LEAF_LABEL + self.encode()).digest()

    def check_good(self, place: ChainPlace, index: int) -> None:
        """The key was good for the batch at `place` of its chain and `index` of the log; raises VerificationError."""
        if index <= self.enrolled:
            raise VerificationError(f"the key was enrolled at index {self.enrolled}, not before index {index}")
        if self.until is not None and place >= self.until:
            raise VerificationError(f"the key ended at epoch {self.until[0]} seq {self.until[1]} of its chain")
        if self.revoked is not None and index > self.revoked:
            raise VerificationError(f"the key was revoked at index {self.revoked}, before index {index}")


def parse_record(data: bytes) -> KeyRecord:
    """The record in `data`; raises MalformedError."""
    key, enrolled, until, revoked = canonical.fields(canonical.decode(data, "key record"), 4, "key record")
    record = KeyRecord(
        canonical.binary(key, "key record: key id", 32),
        canonical.uint(enrolled, "key record: enrolled", MAX_UINT64),
        None if until is None else _place(until),
        None if revoked is None else canonical.uint(revoked, "key record: revoked", MAX_UINT64),
    )
    if record.revoked is not None and (record.until is None or record.revoked <= record.enrolled):
        raise MalformedError("key record: a revocation without a place, or not after the enrolment")
    return record


class KeyStates:
    """All keys of one log after the entries that were applied, in log order."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.last_event = -1  # index of the last event, -1 before the first
        self._records: dict[bytes, KeyRecord] = {}
        self._keys: dict[bytes, tuple[int, bytes]] = {}
        self._root: bytes | None = None  # of the records as they are; computed when asked for

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[KeyRecord]:
        return iter(list(self._records.values()))

    def __getitem__(self, key_id: bytes) -> KeyRecord:
        return self._records[key_id]

    def get(self, key_id: bytes) -> KeyRecord | None:
        """The record of a key, None if it was never enrolled."""
        return self._records.get(key_id)

    def public_key(self, key_id: bytes) -> tuple[int, bytes] | None:
        """Algorithm and public key, None if it was never enrolled."""
        return self._keys.get(key_id)

    def check(self, event: KeyEvent) -> None:
        """`event` can come next: its signatures verify, and it fits what was before.

        Raises:
            VerificationError: it is for another log, a signature fails, the key is enrolled already, or is not.
            MalformedError: one of its keys is unusable.
        """
        if event.origin != self.origin:
            raise VerificationError(f"a key event for the log {event.origin!a}")
        event.check()
        if isinstance(event, (Enrolment, Rotation)) and event.key_id in self._records:
            raise VerificationError(f"key {event.key_id.hex()} is enrolled already")
        if isinstance(event, (Rotation, Revocation)):
            ended = event.old_key_id if isinstance(event, Rotation) else event.key_id
            record = self._records.get(ended)
            if record is None:
                raise VerificationError(f"key {ended.hex()} is not enrolled")
            if record.revoked is not None:
                raise VerificationError(f"key {ended.hex()} is revoked already")
            if isinstance(event, Rotation) and record.until is not None:
                raise VerificationError(f"key {ended.hex()} was rotated away already")

    def apply(self, index: int, event: KeyEvent) -> None:
        """Takes in `event`, which `check` passed, as entry `index`."""
        if isinstance(event, (Enrolment, Rotation)):
            self._records[event.key_id] = KeyRecord(event.key_id, index)
            self._keys[event.key_id] = (event.algorithm, event.public_key)
        if isinstance(event, Rotation):
            self._end(event.old_key_id, event.until)
        if isinstance(event, Revocation):
            self._end(event.key_id, event.until)
            self._records[event.key_id] = replace(self._records[event.key_id], revoked=index)
        self.last_event = index
        self._root = None

    def entry(self, size: int) -> KeyStateEntry:
        """The `key-state` entry of these states as of the first `size` entries."""
        if self._root is None:
            self._root = merkle.tree_root(self._hashes())
        return KeyStateEntry(size, len(self._records), self._root)

    def check_entry(self, index: int, entry: KeyStateEntry) -> None:
        """`entry`, found at `index`, states what the entries before it give; raises VerificationError."""
        if not self.last_event < entry.size <= index:
            raise VerificationError(f"key state as of size {entry.size}, which leaves out a key event before it")
        if entry != self.entry(entry.size):
            raise VerificationError("key state is not the one that the entries before it give")

    def prove(self, key_id: bytes) -> tuple[KeyRecord, int, list[bytes]]:
        """A key's record, its position in the tree and its inclusion proof there; raises KeyError."""
        position = sorted(self._records).index(key_id) if key_id in self._records else -1
        return self._records[key_id], position, merkle.level_path(merkle.tree_levels(self._hashes()), position)

    def dump(self) -> list[tuple[KeyRecord, int, bytes]]:
        """Everything, for `load`."""
        return [(record, *self._keys[record.key_id]) for record in self._records.values()]

    def load(self, records: list[tuple[KeyRecord, int, bytes]], last_event: int) -> None:
        """What `dump` gave, and the index of the last event."""
        self._records = {record.key_id: record for record, _, _ in records}
        self._keys = {record.key_id: (algorithm, key) for record, algorithm, key in records}
        self.last_event = last_event
        self._root = None

    def _hashes(self) -> list[bytes]:
        return [self._records[key].leaf_hash() for key in sorted(self._records)]

    def _end(self, key: bytes, until: ChainPlace) -> None:
        record = self._records[key]
        self._records[key] = replace(record, until=min(until, record.until or until))


def _place(value: Value) -> ChainPlace:
    epoch, seq = canonical.fields(value, 2, "key record: until")
    return canonical.uint(epoch, "key record: epoch", MAX_UINT32), canonical.uint(seq, "key record: seq", MAX_UINT64)
