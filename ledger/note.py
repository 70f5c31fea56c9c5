"""Signed notes (C2SP signed-note v1.0.0): text, an empty line, signature lines; and the keys that check them.

    This is an example message.
    <empty line>
    — example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=

A signature by a (name, id) pair that the caller does not know is ignored; one by a pair that he knows must
verify, or the whole note is refused. `parse_note` and `Note.encode` mirror each other.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from ledger.errors import MalformedError, VerificationError
from ledger.keys import ED25519, Ed25519Signer, check_public_key
from ledger.strict import check_name, decode_base64, decode_text, encode_base64

ED25519_NOTE = 0x01  # a signature over the text itself: logs, registrars
ED25519_COSIGNATURE = 0x04  # a timestamped cosignature: witnesses
ML_DSA_44 = 0x06  # a timestamped signature over a checkpoint, post-quantum: logs and witnesses
TYPE_NAMES = {
    ED25519_NOTE: "Ed25519",
    ED25519_COSIGNATURE: "Ed25519 cosignature",
    ML_DSA_44: "ML-DSA-44 cosignature",
}
ML_DSA_44_KEY_SIZE = 1312  # FIPS 204
SEED_SIZE = 32  # RFC 8032 and FIPS 204 alike

MAX_NOTE = 256 * 1024
MAX_SIGNATURES = 80  # 32 witnesses with two keys each, and room for the log's own and strangers'

_SIGNATURE_LINE = re.compile("\u2014 ([^ ]+) ([^ ]+)")
_HEX8 = re.compile(r"[0-9a-f]{8}", re.ASCII)


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key as a vkey names it: `name+hex(id)+base64(type || key)`."""

    name: str
    type: int
    public_key: bytes

    @property
    def id(self) -> bytes:
        """SHA-256(name || newline || type || key), its first 4 bytes."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.type]) + self.public_key).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{encode_base64(bytes([self.type]) + self.public_key)}"

    def check(self, signature: bytes, message: bytes) -> None:
        """The holder of this key signed `message`; raises VerificationError."""
        try:
            if self.type == ML_DSA_44:
                MLDSA44PublicKey.from_public_bytes(self.public_key).verify(signature, message)
            else:
                Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, message)
        except (InvalidSignature, ValueError):
            raise VerificationError(f"signature of {self.name} ({self.id.hex()}) does not verify") from None
        except UnsupportedAlgorithm:
            # A `cryptography` that was built on an older OpenSSL than its wheels are.
            raise VerificationError(
                f"signature of {self.name} ({self.id.hex()}) cannot be checked: this installation has no ML-DSA-44"
            ) from None


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: who says he signed, and the bytes after the 4-byte key id."""

    name: str
    key_id: bytes
    signature: bytes

    def __str__(self) -> str:
        return f"\u2014 {self.name} {encode_base64(self.key_id + self.signature)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text, which ends in a newline, and the signature lines below it. Nothing is verified yet."""

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """The note's bytes."""
        return (self.text + "\n" + "".join(map(str, self.signatures))).encode()

    def classical(self) -> "Note":
        """The note without its post-quantum lines, which are most of its bytes; told by their length."""
        short = tuple(line for line in self.signatures if len(line.signature) <= 72)
        return Note(self.text, short)

    def by(self, key: VerifierKey) -> list[Signature]:
        """The lines that name `key`."""
        return [line for line in self.signatures if line.name == key.name and line.key_id == key.id]


class NoteSigner:
    """A private key with a name and a type, from its 32-byte seed: a log's, a witness's or a registrar's."""

    def __init__(self, name: str, seed: bytes, type_: int = ED25519_NOTE) -> None:
        key = (MLDSA44PrivateKey.from_seed_bytes if type_ == ML_DSA_44 else Ed25519PrivateKey.from_private_bytes)(seed)
        self._key = key
        self._seed = seed
        self.verifier = VerifierKey(check_name(name, "key name"), type_, key.public_key().public_bytes_raw())

    @property
    def key(self) -> Ed25519Signer:
        """The same key as a `keys.Signer`, for what a registrar signs; of type 0x01 only."""
        if self.verifier.type != ED25519_NOTE:
            raise ValueError("only a key of type 0x01 signs anything but checkpoints")
        return Ed25519Signer(self._seed)

    def sign_bytes(self, message: bytes) -> bytes:
        """The signature over `message` alone, as it stands."""
        return self._key.sign(message)

    def line(self, signature: bytes) -> Signature:
        """`signature` as a line of this key."""
        return Signature(self.verifier.name, self.verifier.id, signature)

    def sign(self, text: str) -> Signature:
        """The signature line over `text`; of a key of type 0x01, as others sign checkpoints (`ledger.checkpoint`)."""
        if self.verifier.type != ED25519_NOTE:
            raise ValueError("only a key of type 0x01 signs a text")
        return self.line(self.sign_bytes(text.encode()))

    def skey(self) -> str:
        """The private key as text, as Go's `note` package writes it: PRIVATE+KEY+name+id+base64(type || seed)."""
        encoded = encode_base64(bytes([self.verifier.type]) + self._seed)
        return f"PRIVATE+KEY+{self.verifier.name}+{self.verifier.id.hex()}+{encoded}"

    @classmethod
    def parse(cls, skey: str) -> "NoteSigner":
        """The signer that `skey()` wrote; raises MalformedError."""
        prefix, _, rest = skey.partition("PRIVATE+KEY+")
        parts = rest.split("+", 2)
        if prefix or len(parts) != 3:
            raise MalformedError("private key: not of the form PRIVATE+KEY+name+id+base64")
        data = decode_base64(parts[2], "private key")
        if len(data) != 1 + SEED_SIZE or data[0] not in TYPE_NAMES:
            raise MalformedError("private key: not an Ed25519 or ML-DSA-44 note key")
        signer = cls(parts[0], data[1:], data[0])
        if signer.verifier.id.hex() != parts[1]:
            raise MalformedError("private key: its id is not that of its key")
        return signer


def parse_note(data: bytes, what: str = "note") -> Note:
    """The note in `data`, split at the last empty line; raises MalformedError."""
    text = decode_text(data, what, limit=MAX_NOTE)
    head, separator, tail = text.rpartition("\n\n")
    if not separator:
        raise MalformedError(f"{what}: no empty line between text and signatures")
    if not tail.endswith("\n"):
        raise MalformedError(f"{what}: the last signature line has no newline, or there is none")
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise MalformedError(f"{what}: {len(lines)} signature lines, more than the {MAX_SIGNATURES} allowed")
    first = head.count("\n") + 3
    note = Note(head + "\n", tuple(_signature(line, f"{what}: line {first + at}") for at, line in enumerate(lines)))
    if note.encode() != data:
        raise MalformedError(f"{what}: not in the one spelling of its content")
    return note


def verify_note(note: Note, keys: Iterable[VerifierKey]) -> tuple[VerifierKey, ...]:
    """The keys among `keys` that signed `note`'s text, at least one.

    Raises:
        VerificationError: a line by one of the keys does not verify, or there is none by any.
    """
    message = note.text.encode()
    signed = []
    for key in keys:
        lines = note.by(key)
        for line in lines:
            key.check(line.signature, message)
        if lines:
            signed.append(key)
    if not signed:
        raise VerificationError("no signature by a known key")
    return tuple(signed)


def sign_note(text: str, signers: Sequence[NoteSigner]) -> Note:
    """`text` signed by each of `signers`, in order."""
    if not text.endswith("\n"):
        raise ValueError("a note's text ends in a newline")
    return Note(text, tuple(signer.sign(text) for signer in signers))


def parse_vkey(text: str, what: str = "vkey") -> VerifierKey:
    """The key that `text` names, its id recomputed.

    Raises:
        MalformedError: not of the form, an unknown key type, an unusable key, or another id than its key's.
    """
    parts = text.split("+", 2)  # the base64 may hold a plus sign
    if len(parts) != 3:
        raise MalformedError(f"{what}: not of the form name+id+base64")
    name, hex_id, encoded = parts
    if not _HEX8.fullmatch(hex_id):
        raise MalformedError(f"{what}: the id is not 8 lower-case hex digits")
    data = decode_base64(encoded, what)
    if not data or data[0] not in TYPE_NAMES:
        kind = f"0x{data[0]:02x}" if data else "none"
        raise MalformedError(f"{what}: key type {kind} is not one that this version knows (0x01, 0x04, 0x06)")
    key = VerifierKey(check_name(name, what), data[0], data[1:])
    _check_usable(key, what)
    if key.id.hex() != hex_id:
        raise MalformedError(f"{what}: the id {hex_id} is not that of its key ({key.id.hex()})")
    return key


def _check_usable(key: VerifierKey, what: str) -> None:
    if key.type == ML_DSA_44:
        if len(key.public_key) != ML_DSA_44_KEY_SIZE:
            raise MalformedError(f"{what}: {len(key.public_key)} bytes where an ML-DSA-44 key has {ML_DSA_44_KEY_SIZE}")
        return
    try:
        check_public_key(ED25519, key.public_key)
    except MalformedError as error:
        raise MalformedError(f"{what}: {error}") from None


def _signature(line: str, what: str) -> Signature:
    match = _SIGNATURE_LINE.fullmatch(line)
    if not match:
        raise MalformedError(f"{what}: not a signature line")
    name = check_name(match[1], what)
    blob = decode_base64(match[2], what)
    if len(blob) < 5:
        raise MalformedError(f"{what}: a signature is longer than its 4-byte key id")
    return Signature(name, blob[:4], blob[4:])
