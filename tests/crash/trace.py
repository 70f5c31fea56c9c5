"""What a program does to the files below one directory, in operations that the model of the disk understands.

Nothing escapes: a system call that names a path below the directory, or a file that was opened there, is modelled,
is known to change nothing, or raises `UnmodelledError`. SQLite's `-shm` files are left out: they are memory, mapped
and never synced, and SQLite makes them again when it recovers.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crash import strace
from tests.crash.operations import ROOT, Make, Mark, Move, Operation, Remove, Sync, Truncate, UnmodelledError, Write
from tests.crash.strace import Call, Kill, parse_handle, parse_string, parse_vector

# These change neither bytes nor names; modes, owners and locks are not modelled.
_HARMLESS = (
    *("access", "chmod", "chown", "execve", "faccessat", "faccessat2", "fadvise64", "fchmod", "fchmodat", "fchown"),
    *("flock", "fstat", "fstatfs", "getcwd", "getdents64", "lstat", "newfstatat", "pread64", "preadv", "readlink"),
    *("readlinkat", "stat", "statfs", "statx", "sync_file_range"),
)
# These could change files without naming them, or make a second table of open files.
_FORBIDDEN = ("clone", "clone3", "close_range", "fork", "io_uring_setup", "open_by_handle_at", "sync", "vfork")
# Calls without a directory handle, by where the one of the current directory goes in their other form.
_OTHER_FORMS = {
    "open": ("openat", (0,)),
    "creat": ("openat", (0,)),
    "link": ("linkat", (0, 2)),
    "mkdir": ("mkdirat", (0,)),
    "rename": ("renameat2", (0, 2)),
    "renameat": ("renameat2", ()),
    "rmdir": ("unlinkat", (0,)),
    "unlink": ("unlinkat", (0,)),
    "dup2": ("dup", ()),
    "dup3": ("dup", ()),
    "pwritev2": ("pwritev", ()),
    "readv": ("read", ()),
    "fdatasync": ("fsync", ()),
}
_HERE = "AT_FDCWD<\\x2f>"


def record(
    command: Sequence[str], root: Path, marks: Path, before: Sequence[Operation], kill: Kill | None = None
) -> list[Operation]:
    """What `command` does below `root`, and what it writes to `marks`; `before` is how `root` came to be.

    Raises:
        UnmodelledError: something was done that no operation stands for.
        RuntimeError: the program failed, other than by a SIGKILL.
    """
    log = marks.with_suffix(".strace")
    strace.run(command, log, kill)
    with log.open(encoding="ascii") as lines:
        return parse(lines, root, marks, before)


def parse(lines: Iterable[str], root: Path, marks: Path, before: Sequence[Operation]) -> list[Operation]:
    """The operations in strace's output; see `record`."""
    table = _Table(str(root.resolve()), str(marks.resolve()), before)
    for line, call in strace.calls(lines):
        table.take(line, call)
    return [operation for _, operation in table.operations]


@dataclass(slots=True)
class _Open:
    """An open file; `node` is None where its content is left out."""

    path: str
    node: int | None
    offset: int = 0


class _Table:
    """Names and open files of the traced program as they are at one moment."""

    def __init__(self, root: str, marks: str, before: Iterable[Operation]) -> None:
        self.operations: list[tuple[int, Operation]] = []
        self._root = root
        self._marks = marks
        self._relevant = (strace.escape(root), strace.escape(marks))
        self._nodes = {"": ROOT}
        self._count = 1
        self._open: dict[int, _Open] = {}
        self._line = 0
        for operation in before:
            self._name(operation)

    def take(self, line: int, call: Call) -> None:
        """Adds the operation that a system call was, if it was one."""
        self._line = line
        if call.name in _FORBIDDEN and "CLONE_THREAD" not in call.text and not call.result.startswith("-"):
            raise UnmodelledError(f"{call.name} was called")
        if not any(path in call.text for path in self._relevant):
            return
        name, places = _OTHER_FORMS.get(call.name, (call.name, ()))
        if call.result.startswith("-") or call.result == "?":
            if name == "fsync" and call.result != "?":
                raise UnmodelledError(f"{call.name} failed")
            return
        arguments = call.arguments
        for place in places:
            arguments.insert(place, _HERE)
        if call.name == "creat":
            arguments[2] = "O_WRONLY|O_CREAT|O_TRUNC"
        if handler := getattr(self, f"_{name}", None):
            handler(arguments, int(call.result, 0), call.began)
        elif name not in _HARMLESS:
            raise UnmodelledError(f"{call.name}({call.text[:400]})")

    def _add(self, operation: Operation) -> None:
        self.operations.append((self._line, operation))
        self._name(operation)

    def _name(self, operation: Operation) -> None:
        match operation:
            case Make(path, node):
                self._nodes[path] = node
                self._count = max(self._count, node + 1)
            case Move(old, new):
                self._nodes[new] = self._nodes.pop(old)
            case Remove(path):
                del self._nodes[path]

    def _below(self, at: str, name: str) -> str | None:
        """The path below the root of `name` in the directory `at`; None if it is elsewhere or memory."""
        path = os.path.normpath(Path(parse_handle(at)[1], os.fsdecode(parse_string(name))))
        inside = path == self._root or path.startswith(f"{self._root}/")
        return path[len(self._root) + 1 :] if inside and not path.endswith("-shm") else None

    def _file(self, argument: str) -> _Open:
        number, path = parse_handle(argument)
        file = self._open.get(number)
        name = path.removeprefix(f"{self._root}/")
        if file is None or self._nodes.get(name, file.node) != file.node:
            raise UnmodelledError(f"{argument}: open, but nobody is known to have opened it")
        return file

    def _openat(self, arguments: list[str], result: int, _began: int) -> None:
        flags = set(arguments[2].split("|"))
        path = self._below(*arguments[:2])
        if path is None:
            self._open[result] = _Open(os.fsdecode(parse_string(arguments[1])), None)
            return
        if unknown := flags & {"O_APPEND", "O_TMPFILE", "__O_TMPFILE", "O_PATH"}:
            raise UnmodelledError(f"{path}: opened with {unknown}")
        node = self._nodes.get(path)
        if node is None:
            node = self._count
            self._add(Make(path, node))
        elif "O_TRUNC" in flags:
            self._add(Truncate(node, 0))
        self._open[result] = _Open(path, node)

    def _close(self, arguments: list[str], _result: int, _began: int) -> None:
        del self._open[parse_handle(arguments[0])[0]]

    def _dup(self, arguments: list[str], result: int, _began: int) -> None:
        self._open[result] = self._file(arguments[0])

    def _fcntl(self, arguments: list[str], result: int, began: int) -> None:
        if arguments[1].startswith("F_DUPFD"):
            self._dup(arguments, result, began)
        elif arguments[1] == "F_SETFL" and "O_APPEND" in arguments[2]:
            raise UnmodelledError(f"{arguments[0]}: append mode")

    def _read(self, arguments: list[str], result: int, _began: int) -> None:
        self._file(arguments[0]).offset += result

    def _lseek(self, arguments: list[str], result: int, _began: int) -> None:
        self._file(arguments[0]).offset = result

    def _mmap(self, arguments: list[str], _result: int, _began: int) -> None:
        file = self._file(arguments[4])
        if file.node is not None and "MAP_PRIVATE" not in arguments[3]:
            raise UnmodelledError(f"{file.path}: mapped, so that writes to it are not seen")

    def _write(self, arguments: list[str], result: int, _began: int) -> None:
        self._append(self._file(arguments[0]), parse_string(arguments[1])[:result])

    def _writev(self, arguments: list[str], result: int, _began: int) -> None:
        self._append(self._file(arguments[0]), parse_vector(arguments[1])[:result])

    def _append(self, file: _Open, data: bytes) -> None:
        self._put(file, file.offset, data)
        file.offset += len(data)

    def _pwrite64(self, arguments: list[str], result: int, _began: int) -> None:
        self._put(self._file(arguments[0]), int(arguments[3]), parse_string(arguments[1])[:result])

    def _pwritev(self, arguments: list[str], result: int, _began: int) -> None:
        if arguments[4:] not in ([], ["0"]):
            raise UnmodelledError(f"{arguments[0]}: pwritev2 with {arguments[4]}")
        self._put(self._file(arguments[0]), int(arguments[3]), parse_vector(arguments[1])[:result])

    def _put(self, file: _Open, offset: int, data: bytes) -> None:
        if file.node is not None:
            self._add(Write(file.node, offset, data))
        elif file.path == self._marks:
            self._add(Mark(data.decode().rstrip("\n")))

    def _ftruncate(self, arguments: list[str], _result: int, _began: int) -> None:
        file = self._file(arguments[0])
        if file.node is not None:
            self._add(Truncate(file.node, int(arguments[1])))

    def _fallocate(self, arguments: list[str], _result: int, _began: int) -> None:
        file = self._file(arguments[0])
        if file.node is not None:
            if arguments[1] != "0":
                raise UnmodelledError(f"{file.path}: fallocate with {arguments[1]}")
            self._add(Write(file.node, int(arguments[2]) + int(arguments[3]), b""))

    def _fsync(self, arguments: list[str], _result: int, began: int) -> None:
        file = self._file(arguments[0])
        if file.node is None:
            return
        if any(line > began and not isinstance(other, Mark | Sync) for line, other in self.operations):
            # Whether the sync covered what another thread did meanwhile nobody knows.
            raise UnmodelledError(f"{file.path}: another thread changed files while it was being synced")
        self._add(Sync(file.node))

    def _renameat2(self, arguments: list[str], _result: int, _began: int) -> None:
        old, new = self._below(*arguments[:2]), self._below(*arguments[2:4])
        if old is None or new is None or arguments[4:] not in ([], ["0"], ["RENAME_NOREPLACE"]):
            raise UnmodelledError(f"rename of {old} to {new} {arguments[4:]}")
        if any(path.startswith(f"{old}/") for path in self._nodes):
            raise UnmodelledError(f"rename of the directory {old}")
        self._add(Move(old, new))

    def _linkat(self, arguments: list[str], _result: int, _began: int) -> None:
        old, new = self._below(*arguments[:2]), self._below(*arguments[2:4])
        if old is None or new is None:
            raise UnmodelledError(f"link of {old} as {new}")
        self._add(Make(new, self._nodes[old]))

    def _unlinkat(self, arguments: list[str], _result: int, _began: int) -> None:
        if (path := self._below(*arguments[:2])) is not None:
            self._add(Remove(path))

    def _mkdirat(self, arguments: list[str], _result: int, _began: int) -> None:
        if (path := self._below(*arguments[:2])) is not None:
            self._add(Make(path, self._count, directory=True))

    def _ioctl(self, arguments: list[str], _result: int, _began: int) -> None:
        raise UnmodelledError(f"ioctl {arguments[1]} on {arguments[0]}")
