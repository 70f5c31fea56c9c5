"""Admission: whether an envelope is the next of an enrolled device's chain (architecture section 2, step 6).

Sans-I/O but for look-ups in the log's storage. `admit` decides; nothing is remembered until `committed` says that
the decision is durable, except within one group: a device's next batch may follow in the same group commit.

Order of checks: size, canonical form, origin, key, device, signature, root, place in the chain. A wrong batch of one
device changes nothing for another.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ledger.batch import Anchor, Header, check_header_signature, check_succession, header_hash
from ledger.entry import MAX_HEADER, BatchEntry, Equivocation, equivocation, parse_entry
from ledger.envelope import MAX_ENVELOPE, Envelope, parse_envelope
from ledger.errors import LedgerError, MalformedError, VerificationError
from ledger.keystate import KeyRecord
from ledger.receipt import MAX_DETAIL, Reason
from ledger.writer.payload import format_payload
from ledger.writer.storage import Place, Storage, Submission

MAX_ANCHORS = 1024  # remembered; devices of one log are anchored to its last few checkpoints


@dataclass(frozen=True, slots=True)
class Key:
    """An enrolled device key and the name of the device that holds it."""

    device: str
    algorithm: int
    public_key: bytes


@dataclass(frozen=True, slots=True)
class Admitted:
    """A batch to append; `sealed_at_ns` is by the gateway's clock."""

    submission: Submission
    header: Header
    sealed_at_ns: int


@dataclass(frozen=True, slots=True)
class Repeated:
    """A batch that the log has already, with this very header: it gets its answer again.

    `index` is None while the first copy is in the group that is being committed; that one will be answered.
    """

    epoch: int
    seq: int
    index: int | None


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


Decision: TypeAlias = Admitted | Repeated | Rejected
Head: TypeAlias = tuple[int, int, bytes]  # epoch, seq, header hash


class Admission:
    """Decides over envelopes; used from one thread.

    `find_key` looks an enrolled key up by its id, `find_record` what the log says of it. `counts` counts decisions by
    name, rejects by reason.
    """

    def __init__(
        self,
        origin: str,
        storage: Storage,
        find_key: Callable[[bytes], Key | None],
        find_record: Callable[[bytes], KeyRecord],
    ) -> None:
        self._origin = origin
        self._storage = storage
        self._find_key = find_key
        self._find_record = find_record
        self._anchors: dict[Anchor, None] = {}
        self._heads: dict[bytes, Head | None] = {}
        # Batches of the group that is being made up: not in the storage yet, but next in their chains.
        self._pending: dict[Place, BatchEntry] = {}
        self.counts: Counter[str] = Counter()

    def admit(self, device: str, data: bytes) -> Decision:
        """What becomes of `data`, received on `device`'s topic."""
        decision = self._decide(device, data)
        name = decision.reason.name.lower() if isinstance(decision, Rejected) else type(decision).__name__.lower()
        self.counts[name] += 1
        return decision

    def committed(self) -> None:
        """The group is durable: what was pending is now found in the storage."""
        self._pending.clear()

    def _decide(self, device: str, data: bytes) -> Decision:
        try:
            envelope = parse_envelope(data)
        except MalformedError as error:
            return Rejected(Reason.TOO_LARGE if len(data) > MAX_ENVELOPE else Reason.MALFORMED, _short(error))
        header = envelope.header
        refusal = self._check_key(device, envelope)
        if refusal:
            return Rejected(*refusal, header.epoch, header.seq)
        place = Place(header.key_id, header.epoch, header.seq)
        head = self._head(header.key_id)
        if head is not None and (header.epoch, header.seq) <= head[:2]:
            return self._again(place, envelope)
        return self._next(place, envelope, head)

    def _check_key(  # noqa: PLR0911 - one line per reason, in the order of the checks
        self, device: str, envelope: Envelope
    ) -> tuple[Reason, str] | None:
        header = envelope.header
        if header.origin != self._origin:
            return Reason.WRONG_ORIGIN, f"sealed for {header.origin[:80]}, this is another log"
        if len(envelope.header_bytes) > MAX_HEADER:
            return Reason.MALFORMED, "header: too large for a log entry"
        key = self._find_key(header.key_id)
        if key is None:
            return Reason.UNKNOWN_KEY, f"key {header.key_id.hex()} is not enrolled"
        if key.device != device:
            return Reason.WRONG_DEVICE, f"key {header.key_id.hex()} is not that of {device}"
        try:
            check_header_signature(envelope.header_bytes, envelope.signature, key.algorithm, key.public_key)
        except LedgerError as error:
            return Reason.BAD_SIGNATURE, _short(error)
        try:
            envelope.check_root()
        except VerificationError as error:
            return Reason.BAD_ROOT, _short(error)
        return None

    def _again(self, place: Place, envelope: Envelope) -> Decision:
        """A place that is taken: by the same header, which is answered again, or by another, which is evidence."""
        held, index = self._pending.get(place), None
        if held is None:
            found = self._storage.find(place)
            if found is None:
                return Rejected(Reason.BROKEN_CHAIN, "this epoch is over", place.epoch, place.seq)
            index, held = found[0], _batch_of(found[1])
        if held.header == envelope.header_bytes:
            return Repeated(place.epoch, place.seq, index)
        evidence = equivocation(held, BatchEntry(envelope.header_bytes, envelope.signature))
        detail = "another header holds this place" if index is None else f"entry {index} holds another header"
        return Rejected(Reason.EQUIVOCATION, detail, place.epoch, place.seq, evidence)

    def _next(self, place: Place, envelope: Envelope, head: Head | None) -> Decision:
        header = envelope.header
        try:
            self._find_record(header.key_id).check_good((header.epoch, header.seq), self._storage.size())
        except VerificationError as error:
            return Rejected(Reason.ENDED_KEY, _short(error), header.epoch, header.seq)
        expected = (head[0], head[1] + 1) if head else (0, 0)
        if header.seq and (header.epoch, header.seq) != expected:
            detail = f"epoch {expected[0]} seq {expected[1]} is next"
            return Rejected(Reason.OUT_OF_ORDER, detail, header.epoch, header.seq)
        try:
            check_succession(header, head)
        except VerificationError as error:
            return Rejected(Reason.BROKEN_CHAIN, _short(error), header.epoch, header.seq)
        if header.anchor is not None and not self._is_ours(header.anchor):
            # Either the device invents it, or this log has forgotten a checkpoint that it signed: see the warning.
            detail = f"its checkpoint of size {header.anchor.size} is not one of this log"
            return Rejected(Reason.WRONG_ANCHOR, detail, header.epoch, header.seq)
        entry = BatchEntry(envelope.header_bytes, envelope.signature)
        payload = format_payload(envelope.salts, envelope.bodies)
        self._heads[header.key_id] = (header.epoch, header.seq, header_hash(envelope.header_bytes))
        self._pending[place] = entry
        return Admitted(Submission(entry.encode(), place, payload), header, envelope.info.sealed_at_ns)

    def _is_ours(self, anchor: Anchor) -> bool:
        """A device can have verified only what was signed and recorded; `fsck` and auditors ask the same."""
        if anchor in self._anchors:
            return True
        if self._storage.checkpoint_root(anchor.size) != anchor.root:
            return False  # not remembered: what is not recorded yet, a device may guess, and others verify tomorrow
        self._anchors[anchor] = None
        if len(self._anchors) > MAX_ANCHORS:
            self._anchors.pop(next(iter(self._anchors)))
        return True

    def _head(self, key_id: bytes) -> Head | None:
        if key_id not in self._heads:
            found = self._storage.head(key_id)
            self._heads[key_id] = found and _head_of(found[1])
        return self._heads[key_id]


def _head_of(data: bytes) -> Head:
    entry = _batch_of(data)
    header = Header.decode(entry.header)
    return header.epoch, header.seq, header_hash(entry.header)


def _batch_of(data: bytes) -> BatchEntry:
    entry = parse_entry(data)
    if not isinstance(entry, BatchEntry):
        raise TypeError("only batches have a place in a chain")
    return entry


def _short(error: Exception) -> str:
    """The error's message as it fits a reject."""
    return str(error).encode("ascii", "replace").decode()[:MAX_DETAIL]
