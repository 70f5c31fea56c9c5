"""ML-DSA-44 keys whose signatures stay what they are.

The library signs at random (FIPS 204, hedged), and vectors are to be the same on every run. So every signature that was
ever made for them is kept in `mldsa.json`, by key and message; a new one is made only where none that verifies is kept.
"""

import hashlib
import json
from functools import cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from ledger.note import Signature, VerifierKey
from tests.ledger import builders as b

KEPT = Path(__file__).with_suffix(".json")

used: dict[str, str] = {}  # what this run asked for


@cache
def _kept() -> dict[str, str]:
    return json.loads(KEPT.read_text()) if KEPT.exists() else {}


@cache
def _private(name: str) -> MLDSA44PrivateKey:
    return MLDSA44PrivateKey.from_seed_bytes(b.seed(name))


def public_key(name: str) -> bytes:
    """The public key of everyone called `name`."""
    return _private(name).public_key().public_bytes_raw()


def sign(name: str, message: bytes) -> bytes:
    """The one signature of `name` over `message`."""
    at = hashlib.sha256(public_key(name) + message).hexdigest()
    kept = used.get(at) or _kept().get(at)
    if kept is not None:
        signature = b.unbase64(kept)
        try:
            _private(name).public_key().verify(signature, message)
        except InvalidSignature:
            kept = None
    if kept is None:
        signature = _private(name).sign(message)
    used[at] = b.base64(signature)
    return signature


def message(name: str, text: str, time: int) -> bytes:
    """What a cosigner called `name` signs of a checkpoint's text, as FORMAT.md section 8.3 has it."""
    origin, size, root = text.split("\n")[:3]
    counted = [bytes([len(item.encode())]) + item.encode() for item in (name, origin)]
    stamp = time.to_bytes(8, "big")
    span = bytes(8) + int(size).to_bytes(8, "big")
    return b"subtree/v1\n\0" + counted[0] + stamp + counted[1] + span + b.unbase64(root)


class PostQuantum:
    """A log or a witness with a key of type 0x06; `key` names the private key, the name itself if not given."""

    def __init__(self, name: str, key: str | None = None) -> None:
        self.name = name
        self.key = key or name
        self.vkey = VerifierKey(name, 6, public_key(self.key))

    @property
    def short(self) -> str:
        """The name in a policy."""
        return f"{self.name.rpartition('/')[2]}-pq"

    def cosign(self, text: str, time: int) -> Signature:
        """The line over a checkpoint's text."""
        signature = sign(self.key, message(self.name, text, time))
        return Signature(self.name, self.vkey.id, time.to_bytes(8, "big") + signature)


def kept() -> bytes:
    """The file with every signature that was asked for."""
    lines = ",\n".join(f' "{at}": "{used[at]}"' for at in sorted(used))
    return f"{{\n{lines}\n}}\n".encode()
