"""Device keys: algorithms, key ids, signatures (FORMAT.md section 3).

A key's id binds its algorithm, so a signature can never be checked by another algorithm than the one the key
was made for. Ed25519 is algorithm 1.
"""

import hashlib
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ledger.errors import MalformedError, VerificationError

ED25519 = 1
ALGORITHM_NAMES = {ED25519: "Ed25519"}

_KEY_LABEL = b"vitalseal/v1/key\n"

_P = 2**255 - 19
# y coordinates of the eight points whose order divides 8 (Ed25519's cofactor). A key among them "verifies"
# messages that nobody signed.
_SMALL_ORDER_Y = frozenset(
    {
        0,
        1,
        _P - 1,
        int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"),
        int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"),
    }
)


class Signer(Protocol):
    """A private key that signs, wherever it is kept: a file now, a token or a secure element later."""

    algorithm: int
    public_key: bytes

    def sign(self, message: bytes) -> bytes:
        """The signature over `message`."""
        ...


class Ed25519Signer:
    """An Ed25519 private key in memory, from its 32-byte seed (RFC 8032)."""

    algorithm = ED25519

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = self._key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature over `message`."""
        return self._key.sign(message)


def key_id(algorithm: int, public_key: bytes) -> bytes:
    """SHA-256(label || algorithm || public key): 32 bytes that name the key everywhere."""
    return hashlib.sha256(_KEY_LABEL + bytes([algorithm]) + public_key).digest()


def check_public_key(algorithm: int, public_key: bytes) -> None:
    """`public_key` is usable: a known algorithm, the right length, not of small order.

    Raises:
        MalformedError: it is not.
    """
    if algorithm != ED25519:
        raise MalformedError(f"key algorithm {algorithm} is not one that this version knows (1 = Ed25519)")
    if len(public_key) != 32:
        raise MalformedError(f"Ed25519 public key has {len(public_key)} bytes where 32 are due")
    y = int.from_bytes(public_key, "little") & (2**255 - 1)
    if y >= _P:
        raise MalformedError("Ed25519 public key is not the canonical encoding of its point")
    if y in _SMALL_ORDER_Y:
        raise MalformedError("Ed25519 public key is a point of small order")


def check_signature(algorithm: int, public_key: bytes, signature: bytes, message: bytes) -> None:
    """`signature` over `message` was made with the private half of `public_key`.

    Raises:
        MalformedError: the public key is unusable (see `check_public_key`).
        VerificationError: the signature does not verify.
    """
    check_public_key(algorithm, public_key)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise VerificationError("signature does not verify") from None
