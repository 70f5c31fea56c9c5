"""Key events: who may seal for a log, from when, and until where (FORMAT.md section 7.2).

    enrol     a registrar signs a device's key in; the device signs too, so nobody enrols a key that he does not hold
    rotate    a device goes over to a new key, which old key, new key and registrar sign
    revoke    a registrar ends a key, from a place in its chain on

An event is bound to its log's origin. Whether a registrar is to be trusted is the reader's question, not the log's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias, TypeVar

from ledger import canonical
from ledger.batch import MAX_UINT32, MAX_UINT64, check_origin
from ledger.canonical import Value
from ledger.errors import MalformedError, VerificationError
from ledger.keys import ED25519, SIGNATURE_SIZE, Signer, check_public_key, check_signature, key_id

KEY_EVENT = 2
EVENT_VERSION = 1
ENROL, ROTATE, REVOKE = 1, 2, 3
REASONS = {1: "compromised", 2: "superseded", 3: "out of service", 4: "unspecified"}
MAX_EVENT = 1024

_DEVICE_LABEL = b"vitalseal/v1/enrol/device\n"
_REGISTRAR_LABEL = b"vitalseal/v1/enrol/registrar\n"
_ROTATE_NEW_LABEL = b"vitalseal/v1/rotate/new\n"
_ROTATE_OLD_LABEL = b"vitalseal/v1/rotate/old\n"
_ROTATE_REGISTRAR_LABEL = b"vitalseal/v1/rotate/registrar\n"
_REVOKE_LABEL = b"vitalseal/v1/revoke/registrar\n"

# Epoch and sequence number: where in a key's chain something begins.
ChainPlace: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Enrolment:
    """From here on `public_key` may seal for `origin`, because a registrar says so."""

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
        return _entry(self.statement(), (self.device_signature, self.registrar_signature))

    def check(self) -> None:
        """The device holds the key and the named registrar signed it in.

        Raises:
            VerificationError: one of the signatures does not verify.
            MalformedError: one of the keys is unusable.
        """
        statement = self.statement()
        check_signature(self.algorithm, self.public_key, self.device_signature, _DEVICE_LABEL + statement)
        check_signature(ED25519, self.registrar_key, self.registrar_signature, _REGISTRAR_LABEL + statement)


@dataclass(frozen=True, slots=True)
class Rotation:
    """`public_key` takes over from the key `old_algorithm`, `old_public_key`, which seals nothing from `until` on."""

    type: ClassVar[int] = KEY_EVENT
    origin: str
    old_algorithm: int
    old_public_key: bytes
    until: ChainPlace
    algorithm: int
    public_key: bytes
    registrar_key: bytes
    device_signature: bytes
    old_signature: bytes
    registrar_signature: bytes

    @property
    def key_id(self) -> bytes:
        """The id of the new key."""
        return key_id(self.algorithm, self.public_key)

    @property
    def old_key_id(self) -> bytes:
        """The id of the key that ends."""
        return key_id(self.old_algorithm, self.old_public_key)

    def statement(self) -> bytes:
        """What the three parties sign."""
        old = (self.old_algorithm, self.old_public_key, *self.until)
        return canonical.encode((ROTATE, self.origin, *old, self.algorithm, self.public_key, self.registrar_key))

    def encode(self) -> bytes:
        """The entry's bytes."""
        return _entry(self.statement(), (self.device_signature, self.old_signature, self.registrar_signature))

    def check(self) -> None:
        """Old key, new key and registrar signed it; raises as `Enrolment.check`."""
        statement = self.statement()
        check_signature(self.algorithm, self.public_key, self.device_signature, _ROTATE_NEW_LABEL + statement)
        check_signature(self.old_algorithm, self.old_public_key, self.old_signature, _ROTATE_OLD_LABEL + statement)
        check_signature(ED25519, self.registrar_key, self.registrar_signature, _ROTATE_REGISTRAR_LABEL + statement)


@dataclass(frozen=True, slots=True)
class Revocation:
    """The key `key_id` is good for nothing from `until` on in its chain, nor for anything logged after this entry."""

    type: ClassVar[int] = KEY_EVENT
    origin: str
    key_id: bytes
    until: ChainPlace
    reason: int
    registrar_key: bytes
    registrar_signature: bytes

    def statement(self) -> bytes:
        """What the registrar signs."""
        return canonical.encode((REVOKE, self.origin, self.key_id, *self.until, self.reason, self.registrar_key))

    def encode(self) -> bytes:
        """The entry's bytes."""
        return _entry(self.statement(), (self.registrar_signature,))

    def check(self) -> None:
        """The named registrar signed it; raises as `Enrolment.check`."""
        check_signature(ED25519, self.registrar_key, self.registrar_signature, _REVOKE_LABEL + self.statement())


KeyEvent: TypeAlias = Enrolment | Rotation | Revocation
# What a device asks a registrar for.
Requested = TypeVar("Requested", bound=Enrolment | Rotation)


def request_enrolment(device: Signer, registrar_key: bytes, origin: str) -> Enrolment:
    """The device's half of its enrolment for `origin`; `grant` makes it whole."""
    unsigned = Enrolment(origin, device.algorithm, device.public_key, registrar_key, b"", b"")
    return replace(unsigned, device_signature=device.sign(_DEVICE_LABEL + unsigned.statement()))


def request_rotation(old: Signer, new: Signer, registrar_key: bytes, origin: str, until: ChainPlace) -> Rotation:
    """The device's half of a rotation from `old` to `new`: both keys' signatures; `grant` makes it whole."""
    keys = (old.algorithm, old.public_key, until, new.algorithm, new.public_key, registrar_key)
    unsigned = Rotation(origin, *keys, b"", b"", b"")
    statement = unsigned.statement()
    return replace(
        unsigned,
        device_signature=new.sign(_ROTATE_NEW_LABEL + statement),
        old_signature=old.sign(_ROTATE_OLD_LABEL + statement),
    )


def grant(request: Requested, registrar: Signer) -> Requested:
    """`request`, which the device signed elsewhere, with the signature of the registrar whom it names.

    Raises:
        VerificationError: it names another registrar, or a signature of the device does not verify.
        MalformedError: one of its keys is unusable.
    """
    if request.registrar_key != registrar.public_key:
        raise VerificationError("the request names another registrar")
    label = _REGISTRAR_LABEL if isinstance(request, Enrolment) else _ROTATE_REGISTRAR_LABEL
    granted = replace(request, registrar_signature=registrar.sign(label + request.statement()))
    granted.check()
    return granted


def enrol(device: Signer, registrar: Signer, origin: str) -> Enrolment:
    """An enrolment of `device`'s key for `origin`, signed by both."""
    return grant(request_enrolment(device, registrar.public_key, origin), registrar)


def rotate(old: Signer, new: Signer, registrar: Signer, origin: str, until: ChainPlace) -> Rotation:
    """The rotation from `old` to `new`; `until` is the first place in the old key's chain that stays empty."""
    return grant(request_rotation(old, new, registrar.public_key, origin, until), registrar)


def revoke(key: bytes, registrar: Signer, origin: str, until: ChainPlace, reason: int) -> Revocation:
    """The revocation of the key with the id `key` from `until` on; `reason` is one of `REASONS`."""
    unsigned = Revocation(origin, key, until, reason, registrar.public_key, b"")
    return replace(unsigned, registrar_signature=registrar.sign(_REVOKE_LABEL + unsigned.statement()))


def parse_event(statement: Value, signatures: Value) -> KeyEvent | None:
    """The event that `statement` encodes; None for a kind from another time; raises MalformedError."""
    event = canonical.decode(canonical.binary(statement, "entry: key event", 1, MAX_EVENT), "key event")
    signed = _signatures(signatures)
    match event:
        case (1, origin, algorithm, public_key, registrar_key):
            parties = (*_key(algorithm, public_key), _registrar(registrar_key))
            return Enrolment(check_origin(origin), *parties, *_exactly(signed, 2))
        case (2, origin, old_algorithm, old_key, epoch, seq, algorithm, public_key, registrar_key):
            old = (*_key(old_algorithm, old_key), _place(epoch, seq))
            parties = (*_key(algorithm, public_key), _registrar(registrar_key))
            rotation = Rotation(check_origin(origin), *old, *parties, *_exactly(signed, 3))
            if rotation.key_id == rotation.old_key_id:
                raise MalformedError("key event: a rotation from a key to itself")
            return rotation
        case (3, origin, key, epoch, seq, reason, registrar_key):
            return Revocation(
                check_origin(origin),
                canonical.binary(key, "key event: key id", 32),
                _place(epoch, seq),
                canonical.integer(reason, "key event: reason", 1, 255),
                _registrar(registrar_key),
                *_exactly(signed, 1),
            )
        case (int(kind), *_) if kind not in (ENROL, ROTATE, REVOKE):
            return None
        case _:
            raise MalformedError("key event: not an enrolment, a rotation or a revocation")


def _entry(statement: bytes, signatures: Sequence[bytes]) -> bytes:
    return canonical.encode((KEY_EVENT, EVENT_VERSION, statement, tuple(signatures)))


def _signatures(value: Value) -> tuple[bytes, ...]:
    if type(value) is not tuple or not 1 <= len(value) <= 16:
        raise MalformedError("entry: signatures are not an array of 1 to 16")
    return tuple(canonical.binary(item, "entry: signature", SIGNATURE_SIZE) for item in value)


def _exactly(signatures: tuple[bytes, ...], count: int) -> tuple[bytes, ...]:
    if len(signatures) != count:
        raise MalformedError(f"key event: {len(signatures)} signatures where {count} are due")
    return signatures


def _key(algorithm: Value, public_key: Value) -> tuple[int, bytes]:
    number = canonical.uint(algorithm, "key event: algorithm", 255)
    key = canonical.binary(public_key, "key event: public key", 1, 128)
    check_public_key(number, key)
    return number, key


def _registrar(value: Value) -> bytes:
    key = canonical.binary(value, "key event: registrar key", 32)
    check_public_key(ED25519, key)
    return key


def _place(epoch: Value, seq: Value) -> ChainPlace:
    return canonical.uint(epoch, "key event: epoch", MAX_UINT32), canonical.uint(seq, "key event: seq", MAX_UINT64)
