"""A new log: its own key under a fresh origin, an empty database, and the files that outsiders need."""

import os
from pathlib import Path

from ledger.batch import check_origin
from ledger.note import NoteSigner
from ledger.writer.local import PUBLIC, create_database
from ledger.writer.storage import StorageError

LOG_KEY = "keys/log.key"
REGISTRAR_KEY = "keys/registrar.key"
POLICY = "policy.txt"
TRUST = "trust.txt"


def create_log(data: Path, origin: str) -> None:
    """Makes `data` a log named `origin`: keys, sequencer database, `policy.txt`, `trust.txt`.

    The origin must never have named a log before: two histories under one name are what auditors look for.

    Raises:
        StorageError: there is a log already, or the directory cannot be written.
    """
    check_origin(origin)
    try:
        data.mkdir(parents=True, exist_ok=True)
        (data / "keys").mkdir(mode=0o700, exist_ok=True)
        (data / PUBLIC).mkdir(exist_ok=True)
        create_database(data)
        log = NoteSigner(origin, os.urandom(32))
        registrar = NoteSigner(f"{origin}/registrar", os.urandom(32))
        _write_secret(data / LOG_KEY, log.skey())
        _write_secret(data / REGISTRAR_KEY, registrar.skey())
        (data / POLICY).write_text(f"log {log.verifier}\nquorum none\n", encoding="utf-8")
        (data / TRUST).write_text(f"{registrar.verifier}\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{error.filename or data}: {error.strerror or error}") from None


def load_signer(path: Path) -> NoteSigner:
    """The note key in `path`; raises StorageError if it cannot be read, MalformedError if it is not one."""
    try:
        return NoteSigner.parse(path.read_text(encoding="utf-8").rstrip("\n"))
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from None


def _write_secret(path: Path, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
