"""Entries of the public log (FORMAT.md section 7): an array that begins with type and version.

    1  batch          header and device signature
    2  key event      a device's key is enrolled, rotated or revoked (`ledger.events`)
    3  key state      the root over all keys' states, so that "still good" can be shown (`ledger.keystate`)
    4  equivocation   two headers that one key signed for one place: the evidence, whole
    5  erased         the log's operator has erased readings of a batch: which leaves
    6  commitment     the salted hash of a statement that stays private (who wears which sensor)
    7  closing        the last entry of a log: which log goes on
    8  opening        the first entry of a successor: where the log before it ended

A type or version that this code does not know is carried and proven like any other; it is `UnknownEntry`, not
an error. What no version may put into an entry: a health value, an identity, a hash that can be guessed.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, TypeAlias

from ledger import canonical
from ledger.batch import MAX_READINGS, MAX_UINT64, Header, check_header_signature, check_origin
from ledger.canonical import Value
from ledger.errors import MalformedError
from ledger.events import KEY_EVENT, KeyEvent, parse_event
from ledger.keys import SIGNATURE_SIZE

MAX_ENTRY = 65_535  # tlog-tiles counts an entry's bytes in 16 bits
MAX_HEADER = 1024 - 128  # so that a batch entry with its signature stays under 1 KB
BATCH, KEY_STATE, EQUIVOCATION, ERASED, COMMITMENT, CLOSING, OPENING = 1, 3, 4, 5, 6, 7, 8
ENTRY_VERSION = 1
MAX_KEYS = 2**32 - 1  # what a key state counts
MAX_VKEY = 4096  # an origin of 255 bytes and an ML-DSA-44 key in base64 have 2 KB

_ASSIGNMENT_LABEL = b"vitalseal/v1/assignment\n"


@dataclass(frozen=True, slots=True)
class BatchEntry:
    """A device's sealed batch, as the public sees it."""

    type: ClassVar[int] = BATCH
    header: bytes
    signature: bytes

    def encode(self) -> bytes:
        """The entry's bytes, whose hash is the log's leaf."""
        return canonical.encode((BATCH, ENTRY_VERSION, self.header, self.signature))


@dataclass(frozen=True, slots=True)
class Commitment:
    """SHA-256(label || salt || statement) of something that must not be rewritten and must not be public."""

    type: ClassVar[int] = COMMITMENT
    digest: bytes

    def encode(self) -> bytes:
        """The entry's bytes."""
        return canonical.encode((COMMITMENT, ENTRY_VERSION, self.digest))


@dataclass(frozen=True, slots=True)
class KeyStateEntry:
    """The state of all `count` keys that the first `size` entries enrolled, by the root over them."""

    type: ClassVar[int] = KEY_STATE
    size: int
    count: int
    root: bytes

    def encode(self) -> bytes:
        """The entry's bytes."""
        return canonical.encode((KEY_STATE, ENTRY_VERSION, self.size, self.count, self.root))


@dataclass(frozen=True, slots=True)
class Equivocation:
    """Two headers that one key signed for one place in its chain, in the order of their bytes: proof of a clone."""

    type: ClassVar[int] = EQUIVOCATION
    first: BatchEntry
    second: BatchEntry

    def encode(self) -> bytes:
        """The entry's bytes."""
        signed = (self.first.header, self.first.signature, self.second.header, self.second.signature)
        return canonical.encode((EQUIVOCATION, ENTRY_VERSION, *signed))

    @property
    def header(self) -> Header:
        """The first header; the other has the same key id, epoch and sequence number."""
        return Header.decode(self.first.header)

    def check(self, algorithm: int, public_key: bytes) -> None:
        """The holder of the key signed both; raises VerificationError or MalformedError (unusable key)."""
        for signed in (self.first, self.second):
            check_header_signature(signed.header, signed.signature, algorithm, public_key)


@dataclass(frozen=True, slots=True)
class Erased:
    """Salt and bytes of these leaves of the batch at `log_index` were erased by the log's operator.

    `leaves` are in ascending order. Their hashes are still there, so the batch's other leaves can be proven.
    """

    type: ClassVar[int] = ERASED
    log_index: int
    leaves: tuple[int, ...]

    def encode(self) -> bytes:
        """The entry's bytes."""
        return canonical.encode((ERASED, ENTRY_VERSION, self.log_index, self.leaves))


@dataclass(frozen=True, slots=True)
class Closing:
    """Nothing comes after this entry: the log `successor`, signed by `keys` (vkeys), goes on."""

    type: ClassVar[int] = CLOSING
    successor: str
    keys: tuple[str, ...]

    def encode(self) -> bytes:
        """The entry's bytes."""
        return canonical.encode((CLOSING, ENTRY_VERSION, self.successor, self.keys))


@dataclass(frozen=True, slots=True)
class Opening:
    """The log `predecessor` ended at `size` with `root`, and this one goes on from there."""

    type: ClassVar[int] = OPENING
    predecessor: str
    size: int
    root: bytes

    def encode(self) -> bytes:
        """The entry's bytes."""
        return canonical.encode((OPENING, ENTRY_VERSION, self.predecessor, self.size, self.root))


@dataclass(frozen=True, slots=True)
class UnknownEntry:
    """An entry of a type or version from another time: carried, proven, not interpreted."""

    type: int
    version: int


Entry: TypeAlias = (
    BatchEntry | KeyEvent | KeyStateEntry | Equivocation | Erased | Commitment | Closing | Opening | UnknownEntry
)


def parse_entry(data: bytes) -> Entry:
    """The entry in `data`.

    Raises:
        MalformedError: not canonical, or of a known type and version with fields that are not the type's.
    """
    if len(data) > MAX_ENTRY:
        raise MalformedError(f"entry: {len(data)} bytes, more than the {MAX_ENTRY} allowed")
    value = canonical.decode(data, "entry")
    if type(value) is not tuple or len(value) < 2:
        raise MalformedError("entry: not an array that begins with type and version")
    kind = canonical.uint(value[0], "entry: type", 0xFFFF)
    version = canonical.uint(value[1], "entry: version", 0xFFFF)
    parse = _PARSERS.get(kind) if version == ENTRY_VERSION else None
    return UnknownEntry(kind, version) if parse is None else parse(value)


def equivocation(one: BatchEntry, other: BatchEntry) -> Equivocation:
    """The evidence that both were signed, in its one order."""
    first, second = sorted((one, other), key=lambda signed: signed.header)
    return Equivocation(first, second)


def commit_assignment(salt: bytes, statement: bytes) -> Commitment:
    """The commitment to an assignment statement under a fresh 16-byte salt."""
    return Commitment(hashlib.sha256(_ASSIGNMENT_LABEL + salt + statement).digest())


def _batch(value: Value) -> BatchEntry:
    _, _, header, signature = canonical.fields(value, 4, "entry")
    entry = BatchEntry(
        canonical.binary(header, "entry: header", 1, MAX_HEADER),
        canonical.binary(signature, "entry: signature", SIGNATURE_SIZE),
    )
    Header.decode(entry.header)
    return entry


def _key_event(value: Value) -> Entry:
    _, _, statement, signatures = canonical.fields(value, 4, "entry")
    return parse_event(statement, signatures) or UnknownEntry(KEY_EVENT, ENTRY_VERSION)


def _key_state(value: Value) -> Entry:
    _, _, size, count, root = canonical.fields(value, 5, "entry")
    return KeyStateEntry(
        canonical.uint(size, "key state: size", MAX_UINT64),
        canonical.uint(count, "key state: count", MAX_KEYS),
        canonical.binary(root, "key state: root", 32),
    )


def _equivocation(value: Value) -> Entry:
    _, _, *signed = canonical.fields(value, 6, "entry")
    first, second = (_batch((BATCH, ENTRY_VERSION, *pair)) for pair in (signed[:2], signed[2:]))
    one, other = Header.decode(first.header), Header.decode(second.header)
    if (one.origin, one.key_id, one.epoch, one.seq) != (other.origin, other.key_id, other.epoch, other.seq):
        raise MalformedError("equivocation: the headers are not for one place")
    if first.header >= second.header:
        raise MalformedError("equivocation: not two headers in the order of their bytes")
    return Equivocation(first, second)


def _erased(value: Value) -> Erased:
    _, _, index, leaves = canonical.fields(value, 4, "entry")
    if type(leaves) is not tuple or not leaves:
        raise MalformedError("erased: leaves are not an array of at least one")
    numbers = tuple(canonical.uint(leaf, "erased: leaf", MAX_READINGS) for leaf in leaves)
    if any(one >= next_one for one, next_one in pairwise(numbers)):
        raise MalformedError("erased: leaves are not in ascending order")
    return Erased(canonical.uint(index, "erased: log index", MAX_UINT64), numbers)


def _commitment(value: Value) -> Entry:
    return Commitment(canonical.binary(canonical.fields(value, 3, "entry")[2], "entry: digest", 32))


def _closing(value: Value) -> Entry:
    _, _, successor, keys = canonical.fields(value, 4, "entry")
    if type(keys) is not tuple or not 1 <= len(keys) <= 16:
        raise MalformedError("closing: keys are not an array of 1 to 16")
    vkeys = tuple(canonical.text(key, "closing: key", MAX_VKEY) for key in keys)
    return Closing(check_origin(successor), vkeys)


def _opening(value: Value) -> Entry:
    _, _, predecessor, size, root = canonical.fields(value, 5, "entry")
    return Opening(
        check_origin(predecessor),
        canonical.uint(size, "opening: size", MAX_UINT64),
        canonical.binary(root, "opening: root", 32),
    )


_PARSERS: dict[int, Callable[[Value], Entry]] = {
    BATCH: _batch,
    KEY_EVENT: _key_event,
    KEY_STATE: _key_state,
    EQUIVOCATION: _equivocation,
    ERASED: _erased,
    COMMITMENT: _commitment,
    CLOSING: _closing,
    OPENING: _opening,
}
