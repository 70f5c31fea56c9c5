"""A new log: its own key under a fresh origin, an empty database, and the files that outsiders need."""

import os
from pathlib import Path

from ledger.batch import check_origin
from ledger.errors import MalformedError
from ledger.note import NoteSigner
from ledger.writer.files import sync_directory
from ledger.writer.local import DATABASE, PUBLIC, create_database
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
        if (data / DATABASE).exists():
            raise StorageError(f"{data / DATABASE}: there is a log already; nothing was changed")
        log = NoteSigner(origin, os.urandom(32))
        registrar = NoteSigner(f"{origin}/registrar", os.urandom(32))
        _write(data / LOG_KEY, log.skey(), 0o600)
        _write(data / REGISTRAR_KEY, registrar.skey(), 0o600)
        sync_directory(data / "keys")
        _write(data / POLICY, f"log {log.verifier}\nquorum none", 0o644)
        _write(data / TRUST, f"{registrar.verifier}", 0o644)
        # Last, and at once: a database is what makes the directory a log, and no log is without its key.
        create_database(data)
    except FileExistsError as error:
        raise StorageError(
            f"{error.filename}: is there, but no log is; remove {data} if nothing in it is needed"
        ) from None
    except OSError as error:
        raise StorageError(f"{error.filename or data}: {error.strerror or error}") from None


def load_signer(path: Path) -> NoteSigner:
    """The note key in `path`; raises StorageError if it cannot be read, is not one, or others may read it."""
    try:
        if path.stat().st_mode & 0o077:
            raise StorageError(f"{path}: others may read this private key; run  chmod 600 {path}")
        return NoteSigner.parse(path.read_text(encoding="utf-8").rstrip("\n"))
    except MalformedError as error:
        raise StorageError(f"{path}: {error}") from None
    except UnicodeDecodeError:
        raise StorageError(f"{path}: not a key file") from None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from None


def _write(path: Path, text: str, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
