"""Device keys: algorithms, key ids, signatures (FORMAT.md section 3).

A key's id binds its algorithm, so a signature can never be checked by another algorithm than the one the key
was made for. Ed25519 is algorithm 1; ECDSA over P-256 is algorithm 2, for secure elements that have nothing else.
Signatures of both have 64 bytes, and exactly one spelling: S below the order, and r || s with the lower s.
"""

import hashlib
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledger.errors import MalformedError, VerificationError

ED25519 = 1
ECDSA_P256 = 2
ALGORITHM_NAMES = {ED25519: "Ed25519", ECDSA_P256: "ECDSA P-256"}
SIGNATURE_SIZE = 64

_KEY_LABEL = b"vitalseal/v1/key\n"

_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # SEC 2, secp256r1
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


class EcdsaP256Signer:
    """An ECDSA P-256 private key in memory, from its scalar as 32 big-endian bytes (1 to the order - 1)."""

    algorithm = ECDSA_P256

    def __init__(self, scalar: bytes) -> None:
        self._key = ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP256R1())
        self.public_key = self._key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature over `message`: r || s, s the lower of the two that verify."""
        return raw_signature(self._key.sign(message, ec.ECDSA(SHA256())))


def raw_signature(der: bytes) -> bytes:
    """An ECDSA P-256 signature as secure elements and OpenSSL give it (DER), in our 64 bytes with the lower s."""
    r, s = decode_dss_signature(der)
    return r.to_bytes(32, "big") + min(s, _P256_ORDER - s).to_bytes(32, "big")


def key_id(algorithm: int, public_key: bytes) -> bytes:
    """SHA-256(label || algorithm || public key): 32 bytes that name the key everywhere."""
    return hashlib.sha256(_KEY_LABEL + bytes([algorithm]) + public_key).digest()


def check_public_key(algorithm: int, public_key: bytes) -> None:
    """`public_key` is usable: a known algorithm, the one encoding of its point, not of small order.

    Raises:
        MalformedError: it is not.
    """
    if algorithm == ED25519:
        _check_ed25519(public_key)
    elif algorithm == ECDSA_P256:
        _p256_point(public_key)
    else:
        raise MalformedError(
            f"key algorithm {algorithm} is not one that this version knows (1 = Ed25519, 2 = ECDSA P-256)"
        )


def check_signature(algorithm: int, public_key: bytes, signature: bytes, message: bytes) -> None:
    """`signature` over `message` was made with the private half of `public_key`.

    Raises:
        MalformedError: the public key is unusable (see `check_public_key`).
        VerificationError: the signature does not verify.
    """
    check_public_key(algorithm, public_key)
    try:
        if algorithm == ED25519:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
        else:
            _p256_point(public_key).verify(_der(signature), message, ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        raise VerificationError("signature does not verify") from None


def _check_ed25519(public_key: bytes) -> None:
    if len(public_key) != 32:
        raise MalformedError(f"Ed25519 public key has {len(public_key)} bytes where 32 are due")
    y = int.from_bytes(public_key, "little") & (2**255 - 1)
    if y >= _P:
        raise MalformedError("Ed25519 public key is not the canonical encoding of its point")
    if y in _SMALL_ORDER_Y:
        raise MalformedError("Ed25519 public key is a point of small order")


def _p256_point(public_key: bytes) -> ec.EllipticCurvePublicKey:
    """The key that the 33 bytes encode (SEC 1 section 2.3.3, compressed); raises MalformedError."""
    if len(public_key) != 33 or public_key[0] not in (2, 3):
        raise MalformedError("ECDSA P-256 public key is not a compressed point of 33 bytes")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public_key)
    except ValueError:
        raise MalformedError("ECDSA P-256 public key is not a point of the curve") from None


def _der(signature: bytes) -> bytes:
    """The DER form of r || s; raises ValueError for another length, or an s above half the order.

    Both s and order - s verify, so without this rule anyone could make a second entry of one batch.
    """
    if len(signature) != SIGNATURE_SIZE:
        raise ValueError
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if not (0 < r < _P256_ORDER and 0 < s <= _P256_ORDER // 2):
        raise ValueError
    return encode_dss_signature(r, s)
