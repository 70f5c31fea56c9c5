"""Following a log entry by entry: its tree, its keys, its devices' chains; what `fsck` and `monitor` have in common.

A `Follower` is fed every entry in order. It holds the right edge of the tree, one record for each key and one head for
each chain, so its size grows with the number of devices and not with that of entries; it can be written down and taken
up again. What does not follow from the entries before is a *fault* of the log; what is properly on the log and still
somebody's business - a declared gap, an outbox lost, a cloned key, readings erased - is a *notice*.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ledger import merkle
from ledger.batch import Anchor, Header, NoticeKind, check_header_signature, check_succession, header_hash
from ledger.entry import (
    BatchEntry,
    Closing,
    Commitment,
    Entry,
    Equivocation,
    Erased,
    KeyStateEntry,
    Opening,
    UnknownEntry,
    parse_entry,
)
from ledger.errors import MalformedError, VerificationError
from ledger.events import REASONS, Enrolment, KeyEvent, Revocation, Rotation
from ledger.findings import Finding, closing_faults, erasure, notice_of
from ledger.keystate import KeyStates, parse_record
from ledger.right_edge import OnTile, RightEdge
from ledger.tiles import TileReader

STATE_VERSION = 1
MAX_REMEMBERED_ANCHORS = 4096  # devices of one log are anchored to its last few checkpoints


@dataclass(slots=True)
class Chain:
    """Where a device's chain stands after the entries seen so far."""

    epoch: int
    seq: int
    hash: bytes


NAMES: dict[type[Entry], str] = {
    BatchEntry: "batches",
    Enrolment: "enrolments",
    Rotation: "rotations",
    Revocation: "revocations",
    KeyStateEntry: "key states",
    Equivocation: "equivocations",
    Erased: "erasures",
    Commitment: "commitments",
    Closing: "closings",
    Opening: "openings",
    UnknownEntry: "entries of other versions",
}


class Follower(RightEdge):
    """The truth about a log's first `size` entries, as far as the entries themselves tell it."""

    def __init__(self, origin: str, registrars: frozenset[bytes] | None = None) -> None:
        """`registrars`: the public keys whose key events count; None: anyone's."""
        super().__init__()
        self.origin = origin
        self.entries: Counter[str] = Counter()
        self.bytes = 0
        self.readings = 0
        self.erased = 0  # leaves; one that is named by two entries counts twice
        self.keys = KeyStates(origin)
        self.chains: dict[bytes, Chain] = {}
        self.closed: Closing | None = None
        self._registrars = registrars
        # Anchors that were not held against the tree yet, each with the first entry that carries it.
        self._anchors: dict[Anchor, int] = {}
        self._checked: dict[Anchor, None] = {}
        # Erasures whose batch was not looked up in the tree yet, by index.
        self._erasures: dict[int, Erased] = {}

    def add(self, data: bytes, on_tile: OnTile | None = None) -> list[Finding]:
        """Takes in the next entry; what is wrong or worth telling about it.

        `on_tile` is called for every tile that it completes, lowest level first.
        """
        index = self.size
        findings: list[Finding] = []
        try:
            findings = list(self._examine(index, data))
        except MalformedError as error:
            findings = [Finding(index, "malformed", str(error), fault=True, malformed=True)]
        self.grow(data, on_tile)
        self.bytes += len(data)
        return findings

    def look_back(self, tree: TileReader) -> Iterator[Finding]:
        """What points back into the log does so rightly, by the entries of `tree`, or a finding says not.

        That is every checkpoint that a device had verified when it sealed, and every batch of which readings were
        erased. Each waits until the finding after its own is asked for: who breaks off is told the last one again.

        Raises:
            VerificationError: the tiles of `tree` do not lead to its root, so they tell nothing.
        """
        for anchor, index in list(self._anchors.items()):
            tree.prove_consistency(anchor.size)
            if merkle.root_at(anchor.size, tree.hash_at) != anchor.root:
                message = (
                    f"its anchor, which the device had verified, has another root for size {anchor.size}: a split view"
                )
                yield Finding(index, "split-view", message, fault=True)
            del self._anchors[anchor]
            self._checked[anchor] = None
            if len(self._checked) > MAX_REMEMBERED_ANCHORS:
                del self._checked[next(iter(self._checked))]
        for index, erased in list(self._erasures.items()):
            tree.prove_inclusion(erased.log_index)
            yield erasure(index, erased, tree.entry(erased.log_index))
            del self._erasures[index]

    def dump(self) -> str:
        """Everything, as text for `load`; to be called when nothing waits for `look_back`."""
        state = {
            "version": STATE_VERSION,
            "origin": self.origin,
            "size": self.size,
            "bytes": self.bytes,
            "readings": self.readings,
            "erased": self.erased,
            "entries": dict(self.entries),
            "levels": [[item.hex() for item in level] for level in self._levels],
            "keys": [[record.encode().hex(), algorithm, key.hex()] for record, algorithm, key in self.keys.dump()],
            "last_event": self.keys.last_event,
            "chains": [[key.hex(), chain.epoch, chain.seq, chain.hash.hex()] for key, chain in self.chains.items()],
            "closed": self.closed and self.closed.encode().hex(),
        }
        return json.dumps(state)

    @classmethod
    def load(cls, text: str, registrars: frozenset[bytes] | None = None) -> "Follower":
        """The follower that `dump` wrote, from a place that its owner trusts; raises MalformedError."""
        try:
            return cls._loaded(json.loads(text), registrars)
        except (
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            OverflowError,
            RecursionError,
            MalformedError,
        ) as error:
            raise MalformedError(f"saved state: cannot be read: {error}") from None

    @classmethod
    def _loaded(cls, state: dict[str, Any], registrars: frozenset[bytes] | None) -> "Follower":
        if state["version"] != STATE_VERSION:
            raise MalformedError(f"version {state['version']} is not this program's {STATE_VERSION}")
        follower = cls(state["origin"], registrars)
        follower._resume(_int(state["size"]), [[bytes.fromhex(item) for item in level] for level in state["levels"]])
        follower.bytes, follower.readings = _int(state["bytes"]), _int(state["readings"])
        follower.erased = _int(state.get("erased", 0))  # what was written before there were erasures has none
        follower.entries.update({name: _int(count) for name, count in state["entries"].items()})
        records = [
            (parse_record(bytes.fromhex(record)), algorithm, bytes.fromhex(key))
            for record, algorithm, key in state["keys"]
        ]
        follower.keys.load(records, _int(state["last_event"], -1))
        follower.chains = {
            bytes.fromhex(key): Chain(_int(epoch), _int(seq), bytes.fromhex(hashed))
            for key, epoch, seq, hashed in state["chains"]
        }
        closed = state["closed"] and parse_entry(bytes.fromhex(state["closed"]))
        follower.closed = closed if isinstance(closed, Closing) else None
        return follower

    def _examine(self, index: int, data: bytes) -> Iterator[Finding]:
        entry = parse_entry(data)
        self.entries[NAMES[type(entry)]] += 1
        if self.closed is not None:
            yield Finding(index, "closed", f"comes after the log was closed for {self.closed.successor}", fault=True)
        match entry:
            case BatchEntry():
                yield from self._batch(index, entry)
            case Enrolment() | Rotation() | Revocation():
                yield from self._key_event(index, entry)
            case KeyStateEntry():
                yield from self._key_state(index, entry)
            case Equivocation():
                yield self._equivocation(index, entry)
            case Erased():
                yield from self._erased(index, entry)
            case Closing():
                self.closed = entry
                yield from closing_faults(index, entry)
                yield Finding(index, "closed", f"the log ends; {entry.successor} goes on", fault=False)
            case Opening() if index:
                yield Finding(index, "opening", "an opening that is not the first entry", fault=True)
            case Opening() | Commitment() | UnknownEntry():
                pass

    def _key_event(self, index: int, event: KeyEvent) -> Iterator[Finding]:
        key = event.old_key_id if isinstance(event, Rotation) else event.key_id
        try:
            self.keys.check(event)
        except VerificationError as error:
            yield Finding(index, "key-event", str(error), fault=True, key_id=key)
            return
        if self._registrars is not None and event.registrar_key not in self._registrars:
            name = NAMES[type(event)].removesuffix("s")
            yield Finding(index, "registrar", f"{name} by a registrar that is not trusted", fault=True, key_id=key)
        chain = self.chains.get(key)
        if isinstance(event, Rotation) and chain is not None and event.until <= (chain.epoch, chain.seq):
            message = f"key {key.hex()} is rotated away from a place in its chain that is logged already"
            yield Finding(index, "key-event", message, fault=True, key_id=key)
        self.keys.apply(index, event)
        if isinstance(event, Revocation):
            reason = REASONS.get(event.reason, f"reason {event.reason}")
            where = f"from epoch {event.until[0]} seq {event.until[1]} on"
            yield Finding(index, "revoked", f"key {key.hex()} is revoked {where}: {reason}", fault=False, key_id=key)

    def _key_state(self, index: int, entry: KeyStateEntry) -> Iterator[Finding]:
        try:
            self.keys.check_entry(index, entry)
        except VerificationError as error:
            yield Finding(index, "key-state", str(error), fault=True)

    def _erased(self, index: int, entry: Erased) -> Iterator[Finding]:
        self.erased += len(entry.leaves)
        if entry.log_index < index:
            self._erasures[index] = entry
        else:
            message = f"erases from entry {entry.log_index}, which is not before it"
            yield Finding(index, "erased", message, fault=True)

    def _equivocation(self, index: int, entry: Equivocation) -> Finding:
        header = entry.header
        try:
            entry.check(*self._public_key(header))
        except VerificationError as error:
            return Finding(index, "equivocation", str(error), fault=True, key_id=header.key_id)
        message = (
            f"key {header.key_id.hex()} signed two headers for epoch {header.epoch} seq {header.seq}: "
            "it was cloned, or its outbox was restored from an old copy"
        )
        return Finding(index, "equivocation", message, fault=False, key_id=header.key_id)

    def _public_key(self, header: Header) -> tuple[int, bytes]:
        """Algorithm and key of a header's device; raises VerificationError if it can have no place on this log."""
        if header.origin != self.origin:
            raise VerificationError(f"batch for the log {header.origin!a}")
        if (public := self.keys.public_key(header.key_id)) is None:
            raise VerificationError(f"batch by key {header.key_id.hex()}, which is not enrolled before it")
        return public

    def _batch(self, index: int, entry: BatchEntry) -> Iterator[Finding]:
        header = Header.decode(entry.header)
        key, place = header.key_id, (header.epoch, header.seq)
        try:
            check_header_signature(entry.header, entry.signature, *self._public_key(header))
        except VerificationError as error:
            yield Finding(index, "signature", str(error), fault=True, key_id=key)
            return
        try:
            self.keys[key].check_good(place, index)
        except VerificationError as error:
            yield Finding(index, "ended-key", f"batch by key {key.hex()}: {error}", fault=True, key_id=key)
        last = self.chains.get(key)
        try:
            check_succession(header, None if last is None else (last.epoch, last.seq, last.hash))
        except VerificationError as error:
            yield Finding(index, "chain", f"batch by key {key.hex()}: {error}", fault=True, key_id=key)
        self.chains[key] = Chain(*place, header_hash(entry.header))
        self.readings += header.count
        if (anchor := header.anchor) is not None:
            if anchor.size > index:
                message = f"anchored to size {anchor.size}, which came after it"
                yield Finding(index, "anchor", message, fault=True, key_id=key)
            elif anchor not in self._checked:
                self._anchors.setdefault(anchor, index)
        if (notice := header.notice) is not None and notice.kind != NoticeKind.HEARTBEAT:
            yield notice_of(index, header)


def _int(value: object, least: int = 0) -> int:
    if type(value) is not int or value < least:
        raise MalformedError(f"not a number from {least}: {value!a:.40}")
    return value
