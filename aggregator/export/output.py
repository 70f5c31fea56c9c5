"""The exported file: whole under its name, or not there; for its owner only."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ledger.writer.files import sync_directory
from vitalseal.errors import UserError


def check_free(path: Path, *, force: bool) -> None:
    """A file may appear at `path`; raises UserError."""
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: there is no such directory")
    if path.is_dir() or (path.is_symlink() and not path.exists()):
        raise UserError(f"{path}: is no file")
    if path.exists() and not force:
        raise UserError(f"{path}: is there already; --force replaces it")


@contextmanager
def whole_file(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """A file to write to, which is `path` once this is left without an error; an older one is replaced by `force` only.

    Until then it is `.<name>.new` beside it. One that a killed export left there is taken over.

    Raises:
        UserError: there is a file already, or another export is writing it.
        OSError: the disk's, naming the file.
    """
    check_free(path, force=force)
    staged = path.with_name(f".{path.name}.new")
    with os.fdopen(_claim(staged), "wb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            # It took a while: somebody may have put a file there since.
            check_free(path, force=force)
            staged.rename(path)
        except BaseException as error:
            staged.unlink()
            # Closed here, while this error is being told: it would flush, and fail once more.
            with suppress(OSError):
                file.close()
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(path)
            raise
    sync_directory(path.parent)


def _claim(staged: Path) -> int:
    """A handle on `staged`, empty, and locked for as long as it is open."""
    handle = os.open(staged, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with ExitStack() as stack:
        stack.callback(os.close, handle)
        if not _lock(handle, staged):
            raise UserError(f"{staged}: another export is writing this file")
        os.fchmod(handle, 0o600)
        os.ftruncate(handle, 0)
        stack.pop_all()
    return handle


def _lock(handle: int, staged: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    # Whoever had the lock may have finished in between, and what was opened is a finished export now.
    return staged.exists() and staged.stat().st_ino == os.fstat(handle).st_ino
