"""The device key in a file: one line of text, readable by its owner only.

    vitalseal-key-v1:ed25519:<base64 of the 32-byte seed, RFC 8032>

Whoever copies this file can seal as this device; that is what "the holder of this key" means in every proof. A
key in a token or secure element is another `ledger.keys.Signer`; nothing else in the agent would change.
"""

import os
import secrets
import stat
from pathlib import Path

from edge.files import write_new
from ledger.errors import MalformedError
from ledger.keys import Ed25519Signer
from ledger.strict import decode_base64, encode_base64
from vitalseal.errors import UserError

PREFIX = "vitalseal-key-v1:ed25519:"
SEED_SIZE = 32
OWNER_ONLY = 0o600
MAX_KEY_FILE = 1024


def create_key(path: Path) -> Ed25519Signer:
    """A fresh key, durably in `path`, which was not there before; raises UserError."""
    seed = secrets.token_bytes(SEED_SIZE)
    write_new(path, f"{PREFIX}{encode_base64(seed)}\n".encode(), mode=OWNER_ONLY)
    return Ed25519Signer(seed)


def load_key(path: Path) -> Ed25519Signer:
    """The key in `path`; raises UserError, also when others than the owner may read the file."""
    return Ed25519Signer(_seed(read_secret(path, "key")))


def read_secret(path: Path, what: str) -> str:
    """The text of a small file that only its owner may read, without the last newline; raises UserError."""
    try:
        # The mode is that of the opened file, not of whatever the name points to a moment later.
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_KEY_FILE + 1)
    except OSError as error:
        raise UserError(f"{what} {path}: {error.strerror or error}") from None
    if not stat.S_ISREG(mode) or mode & 0o077:
        raise UserError(f"{what} {path}: others may read it (mode {stat.S_IMODE(mode):04o}); run  chmod 600 {path}")
    if len(data) > MAX_KEY_FILE or not data.isascii():
        raise UserError(f"{what} {path}: not a key file")
    return data.decode("ascii").removesuffix("\n")


def _seed(text: str) -> bytes:
    if not text.startswith(PREFIX):
        raise UserError(f"key: the file does not begin with {PREFIX}; is it another kind of key?")
    try:
        seed = decode_base64(text.removeprefix(PREFIX), "key")
    except MalformedError:
        seed = b""
    # Never quote what was found: it is, or nearly is, a secret.
    if len(seed) != SEED_SIZE:
        raise UserError(f"key: what follows {PREFIX} is not {SEED_SIZE} bytes in base64")
    return seed
