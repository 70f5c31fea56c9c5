"""The device key: a file with one line of text, readable by its owner only, which holds the key or says where it is.

    vitalseal-key-v1:ed25519:<base64 of the 32-byte seed, RFC 8032>
    pkcs11:token=gateway;object=vitalseal?module-path=/usr/lib/...&pin-source=file:/etc/...     (RFC 7512)

Whoever copies the first kind can seal as this device; that is what "the holder of this key" means in every proof. The
second kind names a key in a token, a secure element or a TPM (`pkcs11`), which never leaves it. Either way the file is
what a key is exchanged by, in one rename:

    edge.key.next        a key that will take over, once the log says so
    edge.key             the device's key
    edge.key.<8 hex>     one that was given up when the device was enrolled again
"""

import os
import secrets
import stat
from pathlib import Path

from edge import files
from ledger.errors import MalformedError
from ledger.keys import Ed25519Signer, Signer, key_id
from ledger.strict import decode_base64, encode_base64
from vitalseal.errors import UserError

PREFIX = "vitalseal-key-v1:ed25519:"
TOKEN_PREFIX = "pkcs11:"  # noqa: S105 - not a password
SEED_SIZE = 32
OWNER_ONLY = 0o600
MAX_KEY_FILE = 1024


def create_key(path: Path) -> Ed25519Signer:
    """A fresh key, durably in `path`, which was not there before; raises UserError."""
    seed = secrets.token_bytes(SEED_SIZE)
    files.write_new(path, f"{PREFIX}{encode_base64(seed)}\n".encode(), mode=OWNER_ONLY)
    return Ed25519Signer(seed)


def create_token_key(path: Path, uri: str) -> Signer:
    """The key that `uri` names in a token, made there unless it is there, and `path` says so; raises UserError."""
    from edge import pkcs11

    signer = pkcs11.open_key(uri, create=True)
    files.write_new(path, f"{uri}\n".encode(), mode=OWNER_ONLY)
    return signer


def load_key(path: Path) -> Signer:
    """The key in `path`; raises UserError, also when others than the owner may read the file."""
    text = read_secret(path, "key")
    if text.startswith(TOKEN_PREFIX):
        from edge import pkcs11

        return pkcs11.open_key(text)
    return Ed25519Signer(_seed(text))


def prepare_successor(path: Path, uri: str | None = None) -> Signer:
    """The key that will take over from the one in `path`; made unless it waits there already.

    Whatever happens to a request that names it, the next one names the same key. It is of the same kind as the one in
    `path`, or in the token that `uri` names. Raises UserError.
    """
    waiting = successor(path)
    if waiting.exists():
        return load_key(waiting)
    if uri is not None:
        return create_token_key(waiting, uri)
    text = read_secret(path, "key")
    if text.startswith(TOKEN_PREFIX):
        from edge import pkcs11

        return create_token_key(waiting, pkcs11.beside(text))
    return create_key(waiting)


def promote_successor(path: Path, *, keep: bool) -> None:
    """The key that waited is the device's from here on; with `keep` the old one's file stays, under the key's id."""
    if keep:
        old = load_key(path)
        name = f"{path.name}.{key_id(old.algorithm, old.public_key).hex()[:8]}"
        # After a crash between the two steps it is there already, and the same.
        path.with_name(name).unlink(missing_ok=True)
        path.with_name(name).hardlink_to(path)
    files.move(successor(path), path)


def successor(path: Path) -> Path:
    """Where the key is that will take over from the one in `path`."""
    return path.with_name(f"{path.name}.next")


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
        raise UserError(f"key: the file begins with neither {PREFIX} nor {TOKEN_PREFIX}; is it another kind of key?")
    try:
        seed = decode_base64(text.removeprefix(PREFIX), "key")
    except MalformedError:
        seed = b""
    # Never quote what was found: it is, or nearly is, a secret.
    if len(seed) != SEED_SIZE:
        raise UserError(f"key: what follows {PREFIX} is not {SEED_SIZE} bytes in base64")
    return seed
