"""Admission: whether an envelope is the next of an enrolled device's chain (architecture section 2, step 6).

Sans-I/O but for look-ups in the log's storage. `admit` decides; nothing is remembered until `committed` says that
the decision is durable, except within one group: a device's next batch may follow in the same group commit.

Order of checks, cheap before dear: size, header, origin, key, device, signature, whether the place is taken or too
early to keep; then the readings' form, the root, the place in the chain. A wrong batch of one device changes nothing
for another.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from aggregator.decisions import Admitted, Candidate, Decision, Parked, Rejected, Repeated, Returned
from aggregator.parking import Parking
from ledger.batch import Anchor, Header, check_header_signature, check_succession, header_hash
from ledger.entry import MAX_HEADER, BatchEntry, equivocation, parse_entry
from ledger.envelope import MAX_ENVELOPE, parse_envelope, split_head
from ledger.errors import LedgerError, MalformedError, VerificationError
from ledger.keystate import KeyRecord
from ledger.messages import MAX_DETAIL, Reason
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
class Head:
    """The last batch of a chain."""

    epoch: int
    seq: int
    hash: bytes

    @property
    def place(self) -> tuple[int, int]:
        """Where it is."""
        return self.epoch, self.seq


class Admission:
    """Decides over envelopes; used from one thread.

    `find_key` looks an enrolled key up by its id, `find_record` what the log says of it. `counts` counts decisions by
    name, rejects by reason. `now_s` is a monotonic clock.
    """

    def __init__(
        self,
        origin: str,
        storage: Storage,
        find_key: Callable[[bytes], Key | None],
        find_record: Callable[[bytes], KeyRecord],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._origin = origin
        self._storage = storage
        self._find_key = find_key
        self._find_record = find_record
        self._anchors: dict[Anchor, None] = {}
        self._heads: dict[bytes, Head | None] = {}
        # Batches of the group that is being made up: not in the storage yet, but next in their chains.
        self._pending: dict[Place, BatchEntry] = {}
        self._moved: dict[bytes, str] = {}  # keys, and their devices, whose parked batches may be next
        self.parking = Parking(now_s)
        self.counts: Counter[str] = Counter()

    def admit(self, device: str, data: bytes) -> Decision:
        """What becomes of `data`, received on `device`'s topic; `followers` then has what it brings with it."""
        return self._counted(self._decide(device, data))

    def followers(self) -> Iterator[tuple[str, Decision]]:
        """Device and decision, in order, for parked batches whose predecessor was admitted since the last call."""
        while self._moved:
            key_id, device = self._moved.popitem()
            head = self._head(key_id)
            if head is not None and (batch := self.parking.remove(Place(key_id, head.epoch, head.seq + 1))):
                yield device, self._counted(self._ended(batch.header) or self._next(device, batch, head))

    def late(self) -> list[tuple[str, Rejected]]:
        """Each device of which something is parked and the predecessor does not come is told, once, what is next.

        The batch that this names stays parked.
        """
        return [
            (device, Rejected(Reason.OUT_OF_ORDER, _is_next(self._head(place.key_id)), place.epoch, place.seq))
            for device, place in self.parking.tire()
        ]

    def committed(self) -> None:
        """The group is durable: what was pending is now found in the storage."""
        self._pending.clear()

    def _counted(self, decision: Decision) -> Decision:
        name = decision.reason.name if isinstance(decision, Rejected) else type(decision).__name__
        self.counts[name.lower()] += 1
        return decision

    def _decide(self, device: str, data: bytes) -> Decision:
        if len(data) > MAX_ENVELOPE:
            return Rejected(Reason.TOO_LARGE, f"envelope: more than the {MAX_ENVELOPE} bytes allowed")
        try:
            entry = BatchEntry(*split_head(data))
            header = Header.decode(entry.header)
        except MalformedError as error:
            return Rejected(Reason.MALFORMED, _short(error))
        if refusal := self._check_key(device, header, entry):
            return Rejected(*refusal, header.epoch, header.seq)
        return self._decide_place(device, header, entry, data)

    def _decide_place(self, device: str, header: Header, entry: BatchEntry, data: bytes) -> Decision:
        """The header is the device's; whether it is time for it, and whether the rest of `data` is what it says."""
        place = Place(header.key_id, header.epoch, header.seq)
        head = self._head(header.key_id)
        if head is not None and (header.epoch, header.seq) <= head.place:
            return self._again(place, entry, data)
        if parked := self.parking.find(place):
            return self._parked_again(place, parked.entry, entry)
        if ended := self._ended(header):
            return ended
        early = _is_early(header, head)
        if early and not self.parking.has_room(header.key_id, len(data)):
            return Rejected(Reason.OUT_OF_ORDER, _is_next(head), header.epoch, header.seq)
        batch = _open(data, header, entry)
        if isinstance(batch, Rejected):
            return batch
        return self._park(device, place, batch) if early else self._next(device, batch, head)

    def _check_key(self, device: str, header: Header, entry: BatchEntry) -> tuple[Reason, str] | None:
        if header.origin != self._origin:
            return Reason.WRONG_ORIGIN, f"sealed for {header.origin[:80]}, this is another log"
        if len(entry.header) > MAX_HEADER:
            return Reason.MALFORMED, "header: too large for a log entry"
        key = self._find_key(header.key_id)
        if key is None:
            return Reason.UNKNOWN_KEY, f"key {header.key_id.hex()} is not enrolled"
        if key.device != device:
            return Reason.WRONG_DEVICE, f"key {header.key_id.hex()} is not that of {device}"
        try:
            check_header_signature(entry.header, entry.signature, key.algorithm, key.public_key)
        except LedgerError as error:
            return Reason.BAD_SIGNATURE, _short(error)
        return None

    def _again(self, place: Place, entry: BatchEntry, data: bytes) -> Decision:
        """A place that is taken: by the same header, which is answered again, or by another, which is evidence."""
        held, index = self._pending.get(place), None
        if held is None:
            found = self._storage.find(place)
            if found is None:
                return Rejected(Reason.BROKEN_CHAIN, "this epoch is over", place.epoch, place.seq)
            index, held = found[0], _batch_of(found[1])
        if held.header != entry.header:
            detail = "another header holds this place" if index is None else f"entry {index} holds another header"
            return _equivocation(place, held, entry, detail)
        if index is not None and self._storage.missing_payload_count() and self._storage.lacks(place):
            batch = _open(data, Header.decode(entry.header), entry)
            if isinstance(batch, Rejected):
                return batch
            return Returned(place, index, batch.payload)
        return Repeated(place, index)

    def _parked_again(self, place: Place, held: BatchEntry, entry: BatchEntry) -> Decision:
        if held.header != entry.header:
            return _equivocation(place, held, entry, "another header is parked for this place")
        return Repeated(place, None)

    def _park(self, device: str, place: Place, batch: Candidate) -> Decision:
        if not self.parking.has_room(place.key_id, batch.size):
            return Rejected(Reason.OUT_OF_ORDER, _is_next(self._head(place.key_id)), place.epoch, place.seq)
        self.parking.put(device, place, batch)
        return Parked(place)

    def _ended(self, header: Header) -> Rejected | None:
        try:
            self._find_record(header.key_id).check_good((header.epoch, header.seq), self._storage.size())
        except VerificationError as error:
            return Rejected(Reason.ENDED_KEY, _short(error), header.epoch, header.seq)
        return None

    def _next(self, device: str, batch: Candidate, head: Head | None) -> Decision:
        header = batch.header
        try:
            check_succession(header, (head.epoch, head.seq, head.hash) if head else None)
        except VerificationError as error:
            return Rejected(Reason.BROKEN_CHAIN, _short(error), header.epoch, header.seq)
        if header.anchor is not None and not self._is_ours(header.anchor):
            # Either the device invents it, or this log has forgotten a checkpoint that it signed: see the warning.
            detail = f"its checkpoint of size {header.anchor.size} is not one of this log"
            return Rejected(Reason.WRONG_ANCHOR, detail, header.epoch, header.seq)
        place = Place(header.key_id, header.epoch, header.seq)
        self._heads[header.key_id] = Head(header.epoch, header.seq, header_hash(batch.entry.header))
        self._pending[place] = batch.entry
        self._moved[header.key_id] = device
        self.parking.moved(place)
        return Admitted(Submission(batch.entry.encode(), place, batch.payload), header, batch.info)

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
            self._heads[key_id] = found and _head_of(_batch_of(found[1]))
        return self._heads[key_id]


def _open(data: bytes, header: Header, entry: BatchEntry) -> Candidate | Rejected:
    """The whole envelope, of which the head is known to be its device's."""
    try:
        envelope = parse_envelope(data)
    except MalformedError as error:
        return Rejected(Reason.MALFORMED, _short(error), header.epoch, header.seq)
    try:
        envelope.check_root()
    except VerificationError as error:
        return Rejected(Reason.BAD_ROOT, _short(error), header.epoch, header.seq)
    return Candidate(header, entry, format_payload(envelope.salts, envelope.bodies), envelope.info)


def _is_early(header: Header, head: Head | None) -> bool:
    """Whether other batches of the chain come before it; the first of a new epoch may come whenever it comes."""
    return header.seq > 0 and (header.epoch, header.seq) != ((head.epoch, head.seq + 1) if head else (0, 0))


def _is_next(head: Head | None) -> str:
    epoch, seq = (head.epoch, head.seq + 1) if head else (0, 0)
    return f"epoch {epoch} seq {seq} is next"


def _equivocation(place: Place, held: BatchEntry, entry: BatchEntry, detail: str) -> Rejected:
    return Rejected(Reason.EQUIVOCATION, detail, place.epoch, place.seq, equivocation(held, entry))


def _head_of(entry: BatchEntry) -> Head:
    header = Header.decode(entry.header)
    return Head(header.epoch, header.seq, header_hash(entry.header))


def _batch_of(data: bytes) -> BatchEntry:
    entry = parse_entry(data)
    if not isinstance(entry, BatchEntry):
        raise TypeError("only batches have a place in a chain")
    return entry


def _short(error: Exception) -> str:
    """The error's message as it fits a reject."""
    return str(error).encode("ascii", "replace").decode()[:MAX_DETAIL]
