"""Entries of the public log (FORMAT.md section 7): an array that begins with type and version.

    1  batch        header and device signature
    2  key event    a registrar signs a device key in (enrol)
    6  commitment   the salted hash of a statement that stays private (who wears which sensor)

A type or version that this code does not know is carried and proven like any other; it is `UnknownEntry`, not
an error. What no version may put into an entry: a health value, an identity, a hash that can be guessed.
"""

import hashlib
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from ledger import canonical
from ledger.batch import Header, check_origin
from ledger.canonical import Value
from ledger.errors import MalformedError
from ledger.keys import ED25519, Signer, check_public_key, check_signature, key_id

MAX_ENTRY = 65_535  # tlog-tiles counts an entry's bytes in 16 bits
MAX_HEADER = 1024 - 128  # so that a batch entry with its signature stays under 1 KB
BATCH, KEY_EVENT, COMMITMENT = 1, 2, 6
ENTRY_VERSION = 1
ENROL = 1

_DEVICE_LABEL = b"vitalseal/v1/enrol/device\n"
_REGISTRAR_LABEL = b"vitalseal/v1/enrol/registrar\n"
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
class Enrolment:
    """A key event: from here on `public_key` may seal for `origin`, because a registrar says so.

    The device signs the statement too, so nobody can enrol a key that he does not hold.
    """

    type: ClassVar[int] = KEY_EVENT
    origin: str
    algorithm: int
    public_key: bytes
    registrar_key: bytes
    device_signature: bytes
    registrar_signature: bytes

    @property
    def key_id(self) -> bytes:
        """The id of the enrolled key."""
        return key_id(self.algorithm, self.public_key)

    def statement(self) -> bytes:
        """What both parties sign."""
        return canonical.encode((ENROL, self.origin, self.algorithm, self.public_key, self.registrar_key))

    def encode(self) -> bytes:
        """The entry's bytes."""
        return canonical.encode(
            (KEY_EVENT, ENTRY_VERSION, self.statement(), self.device_signature, self.registrar_signature)
        )

    def check(self) -> None:
        """The device holds the key and the named registrar signed it in.

        Whether to trust that registrar is the caller's question.

        Raises:
            VerificationError: one of the two signatures does not verify.
            MalformedError: one of the two keys is unusable.
        """
        statement = self.statement()
        check_signature(self.algorithm, self.public_key, self.device_signature, _DEVICE_LABEL + statement)
        check_signature(ED25519, self.registrar_key, self.registrar_signature, _REGISTRAR_LABEL + statement)


@dataclass(frozen=True, slots=True)
class Commitment:
    """SHA-256(label || salt || statement) of something that must not be rewritten and must not be public."""

    type: ClassVar[int] = COMMITMENT
    digest: bytes

    def encode(self) -> bytes:
        """The entry's bytes."""
        return canonical.encode((COMMITMENT, ENTRY_VERSION, self.digest))


@dataclass(frozen=True, slots=True)
class UnknownEntry:
    """An entry of a type or version from another time: carried, proven, not interpreted."""

    type: int
    version: int


Entry: TypeAlias = BatchEntry | Enrolment | Commitment | UnknownEntry


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
    match (kind, version):
        case (1, 1):
            return _batch(value)
        case (2, 1):
            return _key_event(value)
        case (6, 1):
            return Commitment(canonical.binary(canonical.fields(value, 3, "entry")[2], "entry: digest", 32))
        case _:
            return UnknownEntry(kind, version)


def enrol(device: Signer, registrar: Signer, origin: str) -> Enrolment:
    """An enrolment of `device`'s key for `origin`, signed by both."""
    registrar_key = registrar.public_key
    unsigned = Enrolment(origin, device.algorithm, device.public_key, registrar_key, b"", b"")
    statement = unsigned.statement()
    return Enrolment(
        origin,
        device.algorithm,
        device.public_key,
        registrar_key,
        device.sign(_DEVICE_LABEL + statement),
        registrar.sign(_REGISTRAR_LABEL + statement),
    )


def commit_assignment(salt: bytes, statement: bytes) -> Commitment:
    """The commitment to an assignment statement under a fresh 16-byte salt."""
    return Commitment(hashlib.sha256(_ASSIGNMENT_LABEL + salt + statement).digest())


def _batch(value: Value) -> BatchEntry:
    _, _, header, signature = canonical.fields(value, 4, "entry")
    entry = BatchEntry(
        canonical.binary(header, "entry: header", 1, MAX_HEADER),
        canonical.binary(signature, "entry: signature", 64),
    )
    Header.decode(entry.header)
    return entry


def _key_event(value: Value) -> Entry:
    _, _, statement, device_signature, registrar_signature = canonical.fields(value, 5, "entry")
    data = canonical.binary(statement, "entry: key event", 1, MAX_ENTRY)
    event = canonical.decode(data, "key event")
    if type(event) is tuple and event and type(event[0]) is int and event[0] != ENROL:
        return UnknownEntry(KEY_EVENT, ENTRY_VERSION)
    _, origin, algorithm, public_key, registrar_key = canonical.fields(event, 5, "key event")
    enrolment = Enrolment(
        check_origin(origin),
        canonical.uint(algorithm, "key event: algorithm", 255),
        canonical.binary(public_key, "key event: public key", 1, 128),
        canonical.binary(registrar_key, "key event: registrar key", 32),
        canonical.binary(device_signature, "key event: device signature", 64),
        canonical.binary(registrar_signature, "key event: registrar signature", 64),
    )
    check_public_key(enrolment.algorithm, enrolment.public_key)
    check_public_key(ED25519, enrolment.registrar_key)
    return enrolment
