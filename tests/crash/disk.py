"""What a disk may hold after a power loss, given every operation before it.

Of a file: its bytes as of its last sync, and any of the later writes, in any order, each whole, torn at sectors of
512 bytes, or gone with only the length that it gave the file. Of a directory: its names as of its last sync, and any
of the later changes. Changes of one name keep their order. A rename within a directory is one change; one into
another directory is a change of each, which may survive without the other. A file's own sync makes no name durable.
"""

import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from tests.crash.operations import ROOT, Make, Mark, Move, Operation, Remove, Sync, Truncate, Write

SECTOR = 512

# Every path with its bytes, None for a directory.
State: TypeAlias = dict[str, bytes | None]

# Names and what they stand for from now on, None for nothing; all at once or not at all.
_Change: TypeAlias = dict[str, int | None]


@dataclass(slots=True)
class _File:
    synced: bytes = b""
    now: bytearray = field(default_factory=bytearray)
    pending: list[Write | Truncate] = field(default_factory=list)


@dataclass(slots=True)
class _Folder:
    synced: dict[str, int] = field(default_factory=dict)
    now: dict[str, int] = field(default_factory=dict)
    pending: list[_Change] = field(default_factory=list)


class Choice(Protocol):
    """Which of the unsynced changes survive."""

    def name(self) -> bool:
        """Whether the next change of a directory did."""
        ...

    def content(self, synced: bytes, pending: list[Write | Truncate], now: bytearray) -> bytes:
        """A file's bytes."""
        ...


class Disk:
    """Files and directories below one directory, what of them is durable, and what is not yet."""

    def __init__(self) -> None:
        self._nodes: dict[int, _File | _Folder] = {ROOT: _Folder()}

    def apply(self, operation: Operation) -> None:
        """The program did this; what it said changes nothing."""
        match operation:
            case Make(path, node, directory):
                self._nodes.setdefault(node, _Folder() if directory else _File())
                self._change(path, node)
            case Write(node) | Truncate(node):
                file = self._file(node)
                _alter(file.now, operation)
                file.pending.append(operation)
            case Sync(node):
                synced = self._nodes[node]
                synced.pending.clear()
                if isinstance(synced, _File):
                    synced.synced = bytes(synced.now)
                else:
                    synced.synced = dict(synced.now)
            case Move(old, new):
                self._move(old, new)
            case Remove(path):
                self._change(path, None)
            case Mark():
                pass

    def read(self, path: str) -> bytes:
        """The bytes of the file at `path`, as programs see them now."""
        folder, name = self._place(path)
        return bytes(self._file(folder.now[name]).now)

    def state(self, choice: Choice) -> State:
        """What is left if the power goes now."""
        return dict(self._walk(ROOT, "", choice))

    def _walk(self, number: int, prefix: str, choice: Choice) -> Iterator[tuple[str, bytes | None]]:
        folder = self._nodes[number]
        assert isinstance(folder, _Folder)
        names: dict[str, int | None] = dict(folder.synced)
        for change in folder.pending:
            if choice.name():
                names.update(change)
        for name, inner in sorted(names.items()):
            if inner is None:
                continue
            node = self._nodes[inner]
            if isinstance(node, _File):
                pending = node.pending
                yield prefix + name, choice.content(node.synced, pending, node.now) if pending else node.synced
            else:
                yield prefix + name, None
                yield from self._walk(inner, f"{prefix}{name}/", choice)

    def _move(self, old: str, new: str) -> None:
        (source, old_name), (target, new_name) = self._place(old), self._place(new)
        node = source.now[old_name]
        if source is target:
            change: _Change = {old_name: None, new_name: node}
            target.pending.append(change)
            target.now[new_name] = target.now.pop(old_name)
        else:
            self._change(new, node)
            self._change(old, None)

    def _change(self, path: str, node: int | None) -> None:
        folder, name = self._place(path)
        folder.pending.append({name: node})
        if node is None:
            del folder.now[name]
        else:
            folder.now[name] = node

    def _place(self, path: str) -> tuple[_Folder, str]:
        *folders, name = path.split("/")
        at = self._nodes[ROOT]
        for part in folders:
            assert isinstance(at, _Folder)
            at = self._nodes[at.now[part]]
        assert isinstance(at, _Folder)
        return at, name

    def _file(self, node: int) -> _File:
        file = self._nodes[node]
        assert isinstance(file, _File)
        return file


class Fixed:
    """All unsynced names survive or none, all unsynced bytes or none."""

    def __init__(self, *, names: bool, bytes_: bool) -> None:
        self._names = names
        self._bytes = bytes_

    def name(self) -> bool:
        """The same for every change."""
        return self._names

    def content(self, synced: bytes, _pending: list[Write | Truncate], now: bytearray) -> bytes:
        """The file as it is, or as it was synced."""
        return bytes(now) if self._bytes else synced


class Mixed:
    """A mixture that follows from `seed`: mostly surviving, mostly lost, or half of each."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self._names = self._random.choice([0.1, 0.5, 0.9])
        self._bytes = self._random.choice([0.1, 0.5, 0.9])

    def name(self) -> bool:
        """Each change for itself."""
        return self._random.random() < self._names

    def content(self, synced: bytes, pending: list[Write | Truncate], _now: bytearray) -> bytes:
        """Some of the writes, in some order, some of them torn; where a length came without bytes, anything."""
        content = bytearray(synced)
        order = list(pending)
        if self._random.random() < 0.5:
            self._random.shuffle(order)
        for operation in order:
            fate = self._random.random()
            if fate < self._bytes:
                _alter(content, operation)
            elif isinstance(operation, Write) and fate < self._bytes + (1 - self._bytes) / 2:
                self._tear(content, operation)
        return bytes(content)

    def _tear(self, content: bytearray, write: Write) -> None:
        end = write.offset + len(write.data)
        if (missing := end - len(content)) > 0 and self._random.random() < 0.5:
            content += self._random.randbytes(missing) if self._random.random() < 0.5 else bytes(missing)
        at = write.offset
        while at < end:
            following = min(end, at - at % SECTOR + SECTOR)
            if self._random.random() < 0.5:
                _alter(content, Write(write.node, at, write.data[at - write.offset : following - write.offset]))
            at = following


def _alter(content: bytearray, operation: Write | Truncate) -> None:
    match operation:
        case Write(_, offset, data):
            if len(content) < offset:
                content += bytes(offset - len(content))
            content[offset : offset + len(data)] = data
        case Truncate(_, size):
            del content[size:]
            content += bytes(size - len(content))


def choices(seed: str, mixtures: int) -> Iterator[tuple[str, Choice]]:
    """The power losses tried at one moment, each under its name, `mixtures` of them random but repeatable."""
    yield "nothing unsynced", Fixed(names=False, bytes_=False)
    yield "everything", Fixed(names=True, bytes_=True)
    yield "names without bytes", Fixed(names=True, bytes_=False)
    for number in range(mixtures):
        name = f"mixture {seed}/{number}"
        yield name, Mixed(name)


def digest(state: Mapping[str, bytes | None]) -> bytes:
    """A hash of everything in `state`."""
    whole = hashlib.sha256()
    for path, data in sorted(state.items()):
        whole.update(f"{path}\0{-1 if data is None else len(data)}\0".encode())
        whole.update(data or b"")
    return whole.digest()


def materialise(state: State, folder: Path) -> None:
    """Puts `state` into the empty directory `folder`, private to its owner."""
    for path, data in state.items():
        target = folder / path
        if data is None:
            target.mkdir(mode=0o700)
        else:
            target.write_bytes(data)
            target.chmod(0o600)
