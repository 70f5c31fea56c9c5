"""Small files that are there whole or not at all, after a power cut too."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from vitalseal.errors import UserError


def write_new(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """`data` is durably in `path`, which did not exist; raises UserError."""
    try:
        with _beside(path, data, mode) as beside:
            path.hardlink_to(beside)  # unlike a rename, it takes no name that is taken
        sync_directory(path.parent)
    except FileExistsError:
        raise UserError(f"{path}: already there, and not overwritten") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None


def replace(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """`path` durably holds `data`; until then it held what it held before; raises UserError."""
    try:
        with _beside(path, data, mode) as beside:
            beside.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None


def move(old: Path, new: Path) -> None:
    """The file that was `old` is durably `new`, in the same directory, whatever that was before; raises UserError."""
    try:
        old.replace(new)
        sync_directory(new.parent)
    except OSError as error:
        raise UserError(f"{old}: {error.strerror or error}") from None


@contextlib.contextmanager
def _beside(path: Path, data: bytes, mode: int) -> Iterator[Path]:
    """A file of another name, in the same directory, that durably holds `data`; that name is gone afterwards."""
    # Readers watch the directory for the final name only; the process id keeps two writers apart.
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # One that a killed process left may be a second name of the finished file: removed, never written into.
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield beside
    finally:
        beside.unlink(missing_ok=True)


def make_directory(path: Path) -> None:
    """`path` is a directory, after a power cut too, private to its owner if it had to be made; raises UserError."""
    try:
        # A name is durable when the directory that it stands in is synced, so from the top down.
        for made in reversed([path, *path.parents]):
            if not made.exists():
                made.mkdir(mode=0o700, exist_ok=True)
                sync_directory(made.parent)
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None


def sync_directory(path: Path) -> None:
    """The names in `path` survive a power cut; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
