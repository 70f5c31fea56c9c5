"""A log put together entry by entry, which keeps by the words of FORMAT.md section 7 what it says of its keys.

Nothing here calls `ledger.events`, `ledger.keystate`, `ledger.status` or `ledger.completeness`: key events, key states
and the two kinds of proofs are made by the naive code below.
"""

import hashlib
from collections.abc import Collection, Sequence
from typing import TypeAlias

from ledger.batch import Header, SealedBatch, header_hash
from ledger.proof import ProofFile, ReadingProof
from ledger.reading import Reading

from . import builders as b

LABELS = {
    1: ("enrol/device", "enrol/registrar"),
    2: ("rotate/new", "rotate/old", "rotate/registrar"),
    3: ("revoke/registrar",),
}
WITNESSES = (b.HOSPITAL, b.REGULATOR, b.PATIENTS)
SEEN = tuple(zip(WITNESSES, (b.NOW + 20, b.NOW + 10, b.NOW + 30), strict=True))

Place: TypeAlias = tuple[int, int]


def registrar(name: str = "registrar") -> b.Ed25519Signer:
    """A registrar's key."""
    return b.Ed25519Signer(b.seed(name))


def id_of(device: b.Device) -> bytes:
    """The key id of a device."""
    return b.key_id(device.algorithm, device.public_key)


def key_event(fields: Sequence, *signers: b.Device) -> bytes:
    """The entry of a key event, signed in the order of its kind."""
    statement = b.pack(fields)
    labels = [f"vitalseal/v1/{label}\n".encode() for label in LABELS[fields[0]]]
    return b.pack([2, 1, statement, [who.sign(label + statement) for who, label in zip(signers, labels, strict=True)]])


def enrolment(device: b.Device, by: b.Device | None = None, origin: str = b.ORIGIN) -> bytes:
    """The entry that enrols `device`."""
    by = by or registrar()
    return key_event([1, origin, device.algorithm, device.public_key, by.public_key], device, by)


def rotation(old: b.Device, new: b.Device, until: Place, by: b.Device | None = None, origin: str = b.ORIGIN) -> bytes:
    """The entry that rotates from `old` to `new`."""
    by = by or registrar()
    keys = [old.algorithm, old.public_key, *until, new.algorithm, new.public_key, by.public_key]
    return key_event([2, origin, *keys], new, old, by)


def revocation(key: bytes, until: Place, reason: int = 1, by: b.Device | None = None, origin: str = b.ORIGIN) -> bytes:
    """The entry that revokes the key with the id `key`."""
    by = by or registrar()
    return key_event([3, origin, key, *until, reason, by.public_key], by)


def state_entry(size: int, records: Sequence[bytes]) -> bytes:
    """The key-state entry of `records` in their order."""
    return b.pack([3, 1, size, len(records), b.naive_root([record_hash(record) for record in records])])


def record_hash(record: bytes) -> bytes:
    """The leaf hash of a record."""
    return hashlib.sha256(b"\0vitalseal/v1/key-state\n" + record).digest()


def signed_pair(batch: SealedBatch) -> list[bytes]:
    """Header and signature."""
    return [batch.header, batch.signature]


def equivocation(*batches: SealedBatch) -> bytes:
    """The entry with two batches for one place."""
    one, two = sorted(map(signed_pair, batches))
    return b.pack([4, 1, *one, *two])


class Past:
    """Entries so far, and what they say of every key."""

    def __init__(self, origin: str = b.ORIGIN) -> None:
        self.origin = origin
        self.entries: list[bytes] = []
        self.records: dict[bytes, list] = {}  # key id -> enrolled, until, revoked
        self.events: dict[bytes, int] = {}  # key id -> index of the event that enrolled it
        self.states: dict[int, tuple[int, list[bytes]]] = {}  # index -> size and records of a key state
        self.chains: dict[bytes, list[tuple[int, SealedBatch]]] = {}  # key id -> index and batch

    def add(self, entry: bytes) -> int:
        """Appends `entry`; its index."""
        self.entries.append(entry)
        return len(self.entries) - 1

    def fill(self, count: int) -> None:
        """Appends commitments."""
        for _ in range(count):
            self.add(b.pack([6, 1, b.seed(f"commitment {len(self.entries)}")]))

    def enrol(self, device: b.Device, by: b.Device | None = None) -> int:
        """Enrols `device`."""
        index = self.add(enrolment(device, by, self.origin))
        self.records[id_of(device)] = [index, None, None]
        self.events[id_of(device)] = index
        return index

    def rotate(self, old: b.Device, new: b.Device, until: Place, by: b.Device | None = None) -> int:
        """Rotates from `old` to `new`."""
        index = self.add(rotation(old, new, until, by, self.origin))
        self.records[id_of(new)] = [index, None, None]
        self.events[id_of(new)] = index
        self._end(id_of(old), until)
        return index

    def revoke(self, device: b.Device, until: Place, reason: int = 1, by: b.Device | None = None) -> int:
        """Revokes `device`."""
        index = self.add(revocation(id_of(device), until, reason, by, self.origin))
        self._end(id_of(device), until)
        self.records[id_of(device)][2] = index
        return index

    def seal(self, *readings: Reading, signer: b.Device, **fields: object) -> int:
        """Appends the next batch of `signer`; its index."""
        chain = self.chains.setdefault(id_of(signer), [])
        place: dict[str, object] = {}
        if chain and "epoch" not in fields:
            last = Header.decode(chain[-1][1].header)
            place = {"epoch": last.epoch, "seq": last.seq + 1, "previous": header_hash(chain[-1][1].header)}
        batch = b.sealed(readings, signer=signer, origin=self.origin, **(place | fields))
        index = self.add(b.entry_of(batch))
        chain.append((index, batch))
        return index

    def state(self) -> int:
        """Appends the key state as of now; its index."""
        records = self.sorted_records()
        index = self.add(state_entry(len(self.entries), records))
        self.states[index] = (index, records)
        return index

    def sorted_records(self) -> list[bytes]:
        """All records in the order of key ids."""
        return [b.pack([key, *self.records[key]]) for key in sorted(self.records)]

    def path(self, index: int) -> list[bytes]:
        """The inclusion proof of an entry in the log as it is."""
        return b.naive_path(index, [b.hash_entry(entry) for entry in self.entries])

    def note(self, cosigned: Sequence = SEEN) -> b.Note:
        """The checkpoint of the log as it is."""
        root = b.naive_root([b.hash_entry(entry) for entry in self.entries])
        return b.checkpoint_note(len(self.entries), root, origin=self.origin, cosigned=cosigned)

    def status_fields(self, device: b.Device, at: int | None = None) -> list:
        """The extra of the key-status proof of `device` by the key state at index `at`, the last if not given."""
        size, records = self.states[max(self.states) if at is None else at]
        key = id_of(device)
        position = next(place for place, record in enumerate(records) if b.unpack(record)[0] == key)
        hashes = [record_hash(record) for record in records]
        enrolled = self.events[key]
        found = [records[position], position, b"".join(b.naive_path(position, hashes))]
        event = [enrolled, self.entries[enrolled], b"".join(self.path(enrolled))]
        return [2, *found, size, len(records), b.naive_root(hashes), *event]

    def status(self, device: b.Device, at: int | None = None, cosigned: Sequence = SEEN) -> ProofFile:
        """The key-status proof of `device`."""
        index = max(self.states) if at is None else at
        return self.file(b.pack(self.status_fields(device, index)), index, cosigned)

    def file(self, extra: bytes, index: int, cosigned: Sequence = SEEN) -> ProofFile:
        """A proof file about entry `index`."""
        return ProofFile(extra, index, tuple(self.path(index)), self.note(cosigned))

    def reading(self, signer: b.Device, number: int, leaf: int = 1, cosigned: Sequence = SEEN) -> ReadingProof:
        """The proof of a leaf of the batch `number` of a device's chain."""
        index, batch = self.chains[id_of(signer)][number]
        return ReadingProof(
            b.leaf_proof(batch, leaf, signer=signer), index, tuple(self.path(index)), self.note(cosigned)
        )

    def range_fields(
        self, signer: b.Device, numbers: Sequence[int], disclosed: Collection[Place] | None = None
    ) -> list:
        """The extra of a completeness proof; `disclosed` are (batch number, leaf), all if not given."""
        chain = self.chains[id_of(signer)]
        batches = [
            [*signed_pair(chain[number][1]), range_leaves(chain[number][1], number, disclosed)] for number in numbers
        ]
        return [3, signer.algorithm, signer.public_key, batches]

    def range(
        self,
        signer: b.Device,
        numbers: Sequence[int],
        disclosed: Collection[Place] | None = None,
        cosigned: Sequence = SEEN,
    ) -> ProofFile:
        """The completeness proof of the batches `numbers` of a device's chain."""
        index = self.chains[id_of(signer)][numbers[-1]][0]
        return self.file(b.pack(self.range_fields(signer, numbers, disclosed)), index, cosigned)

    def _end(self, key: bytes, until: Place) -> None:
        record = self.records[key]
        record[1] = list(min(tuple(record[1] or until), until))


def range_leaves(batch: SealedBatch, number: int, disclosed: Collection[Place] | None) -> list:
    """The leaves of a batch: those disclosed with salt and body, the others as hashes."""
    bodies = (batch.info, *batch.readings)
    return [
        [salt, body] if disclosed is None or (number, at) in disclosed else hashed
        for at, (salt, body, hashed) in enumerate(zip(b.salts_of(batch), bodies, b.leaves_of(batch), strict=True))
    ]
