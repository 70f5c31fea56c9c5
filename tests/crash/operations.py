"""File operations below one directory, as a trace holds them and as the model of the disk takes them.

A file or directory has a number of its own, whatever its names are; the directory itself is `ROOT`. Paths are
relative to it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

ROOT = 0


class UnmodelledError(Exception):
    """The program did something of which the model cannot say what a power loss leaves."""


@dataclass(frozen=True, slots=True)
class Make:
    """A name for a file or directory: a new one, or by link(2) another name of an old one."""

    path: str
    node: int
    directory: bool = False


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes at an offset; the file is at least as long as `offset`, even if there are none."""

    node: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """The file is `size` bytes long."""

    node: int
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """A file's bytes, or a directory's names, are durable."""

    node: int


@dataclass(frozen=True, slots=True)
class Move:
    """rename(2) of a file; what had the new name before has lost it."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Remove:
    """A name is gone: unlink(2) or rmdir(2)."""

    path: str


@dataclass(frozen=True, slots=True)
class Mark:
    """What the program said at this moment."""

    text: str


Operation: TypeAlias = Make | Write | Truncate | Sync | Move | Remove | Mark


def snapshot(root: Path) -> list[Operation]:
    """Operations that make what is below `root`, all of it durable."""
    numbers = {root: ROOT}
    operations: list[Operation] = []
    for folder, directories, files in os.walk(root):
        here = Path(folder)
        for name in sorted(directories + files):
            path = here / name
            number = numbers[path] = len(numbers)
            operations.append(Make(str(path.relative_to(root)), number, directory=path.is_dir()))
            if not path.is_dir():
                operations += [Write(number, 0, path.read_bytes()), Sync(number)]
        operations.append(Sync(numbers[here]))
    return operations
