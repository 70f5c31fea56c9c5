"""Files of a log on one machine: read, listed, private, durable, locked."""

import fcntl
import os
import sqlite3
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ledger.writer.storage import StorageError


def read_file(public: Path, path: str) -> bytes | None:
    """The file at `path` below the log directory `public`, or None."""
    try:
        return (public / path).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def list_files(public: Path) -> list[str]:
    """Every file below the log directory `public`; what a writer removes meanwhile is not missed."""
    return [
        (Path(folder) / name).relative_to(public).as_posix() for folder, _, names in os.walk(public) for name in names
    ]


def make_private(path: Path) -> None:
    """`path` exists afterwards, readable by its owner only; SQLite gives its -wal and -shm the same mode."""
    with fatal(path):
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        path.chmod(0o600)


def make_parents(directory: Path, top: Path, durable: Container[Path]) -> list[Path]:
    """`directory` exists; the directories to sync before a name in it is durable: itself, and upwards to `top`.

    What is there already counts for nothing: a process that was killed may have made it and not synced it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    changed = [directory]
    while directory != top and directory not in durable:
        directory = directory.parent
        changed.append(directory)
    return changed


def replace_file(path: Path, data: bytes) -> None:
    """`path` durably holds `data`, or what it held before; the file beside it is left over from a crash."""
    staged = path.with_name(f".{path.name}.new")
    with staged.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    staged.rename(path)
    sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """What was written to `path` is durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_directory(directory: Path) -> None:
    """Names that appeared in `directory` are durable."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock(path: Path) -> IO[str]:
    """An exclusive lock that the kernel drops with the process, however it ends."""
    file = try_lock(path)
    if file is None:
        raise StorageError(f"{path}: another process has it; stop that one first")
    return file


def try_lock(path: Path) -> IO[str] | None:
    """As `lock`; None if another process has it."""
    with fatal(path):
        file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


@contextmanager
def fatal(where: Path) -> Iterator[None]:
    """Turns what the disk or the database refuses into the one error that ends the writer."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{where}: {error.strerror or error}; the writer stops, what is committed is safe"
        ) from error
    except sqlite3.Error as error:
        raise StorageError(f"{where}: {error}; the writer stops, what is committed is safe") from error
