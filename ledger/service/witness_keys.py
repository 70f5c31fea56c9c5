"""A witness's directory: keys that are its own, a database, and the lines that log operators paste.

<data>/keys/*.key     private keys, skey text, one a file, any number; each signs
<data>/witness.db     what was cosigned (`ledger.service.witness_store`)
<data>/witness.txt    a tlog-policy `witness` line for each key
"""

import os
import re
from pathlib import Path

from ledger.errors import MalformedError
from ledger.note import ED25519_COSIGNATURE, ML_DSA_44, SEED_SIZE, NoteSigner, VerifierKey
from ledger.service.witness import MAX_KEYS
from ledger.service.witness_store import WitnessReader, WitnessStore, create_store
from ledger.strict import check_name
from ledger.writer.create import load_signer
from ledger.writer.files import sync_directory
from ledger.writer.storage import StorageError

KEYS = "keys"
LINES = "witness.txt"
TYPES = {"ed25519": ED25519_COSIGNATURE, "ml-dsa-44": ML_DSA_44}
MAX_NAME = 255  # bytes: its length is one byte in what ML-DSA-44 signs

_URL = re.compile(r"https?://[!-~]+", re.ASCII)


def create_witness(data: Path, name: str, url: str | None) -> list[str]:
    """Makes `data` a witness called `name`, with a key of each type; returns its lines. Overwrites nothing.

    Raises:
        MalformedError: the name or URL cannot stand in a policy.
        StorageError: there is something already, or the directory cannot be written.
    """
    check_name(name, "name")
    if len(name.encode()) > MAX_NAME:
        raise MalformedError(f"name: longer than {MAX_NAME} bytes")
    if url is not None and not _URL.fullmatch(url):
        raise MalformedError(f"url: {url!a} is not of the form https://host/prefix")
    signers = {stem: NoteSigner(name, os.urandom(SEED_SIZE), type_) for stem, type_ in TYPES.items()}
    lines = [policy_line(signer.verifier, stem, url) for stem, signer in signers.items()]
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        (data / KEYS).mkdir(mode=0o700)
        for stem, signer in signers.items():
            _write(data / KEYS / f"{stem}.key", f"{signer.skey()}\n", 0o600)
        sync_directory(data / KEYS)
        _write(data / LINES, "".join(lines), 0o644)
        # Last, and at once: a database is what makes the directory a witness, and keys without one never sign.
        create_store(data, name, url, [signer.verifier for signer in signers.values()])
    except FileExistsError as error:
        raise StorageError(f"{error.filename}: is there already; nothing was overwritten, name another DIR") from None
    except OSError as error:
        raise StorageError(f"{error.filename or data}: {error.strerror or error}") from None
    return lines


def add_key(data: Path, type_name: str) -> str:
    """The witness in `data`, which must not run, has one key more; returns its line."""
    with WitnessStore(data) as store:
        if len(load_signers(data, store)) == MAX_KEYS:
            raise StorageError(f"{data / KEYS}: has {MAX_KEYS} keys, as many as may sign; remove an old one first")
        signer = NoteSigner(store.name, os.urandom(SEED_SIZE), TYPES[type_name])
        stem = f"{type_name}-{signer.verifier.id.hex()}"
        line = policy_line(signer.verifier, stem, store.url)
        # Known to the database first: a key that was never written signs nothing, one that is not known stops `run`.
        store.register(signer.verifier)
        try:
            _write(data / KEYS / f"{stem}.key", f"{signer.skey()}\n", 0o600)
            sync_directory(data / KEYS)
            with (data / LINES).open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise StorageError(f"{error.filename or data}: {error.strerror or error}") from None
    return line


def load_signers(data: Path, store: WitnessReader) -> list[NoteSigner]:
    """Every key of the witness in `data`; raises StorageError if there is none, or one is not `store`'s."""
    paths = sorted((data / KEYS).glob("*.key"))
    if not 0 < len(paths) <= MAX_KEYS:
        raise StorageError(f"{data / KEYS}: has {len(paths)} files *.key, where 1 to {MAX_KEYS} are needed")
    registered = store.vkeys()
    signers = [load_signer(path) for path in paths]
    for path, signer in zip(paths, signers, strict=True):
        if str(signer.verifier) not in registered:
            raise StorageError(
                f"{path}: was not made with the database of {store.name}; beside it it must not sign: move it away"
            )
    if len({signer.verifier for signer in signers}) != len(signers):
        raise StorageError(f"{data / KEYS}: holds the same key twice; remove the copy")
    return signers


def policy_line(key: VerifierKey, stem: str, url: str | None) -> str:
    """The tlog-policy line of `key`, called by the last part of the witness's name and its file's stem."""
    short = key.name.rstrip("/").rpartition("/")[2] or key.name
    return f"witness {short}-{stem} {key}{f' {url}' if url else ''}\n"


def _write(path: Path, text: str, mode: int) -> None:
    """A new file, durable but for its name."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
