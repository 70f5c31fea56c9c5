r"""strace, and the form of what it prints: one line for each system call, strings in hexadecimal.

    4711 openat(AT_FDCWD<\x2f>, "\x2f\x61", O_RDONLY|O_CLOEXEC) = 3<\x2f\x61>
    4711 write(3<\x2f\x61>, "\x00\x01", 2 <unfinished ...>
    4711 <... write resumed>) = 2

A call is cut in two where another thread's comes between.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crash.operations import UnmodelledError

_CALL = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+|\?|0x[0-9a-f]+)(?:<[^>]*>)?(?: .*)?")
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_HANDLE = re.compile(r"(\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>(\(deleted\))?")
_DIVIDER = re.compile(r"[\[{(]|[\]})]|, ")
_LONGEST = 2**26  # bytes of a string that strace prints; what is longer is noticed
_KILLED = (-9, 137)


@dataclass(frozen=True, slots=True)
class Call:
    """A system call that has returned; `began` is the number of the line where it did."""

    name: str
    text: str
    result: str
    began: int

    @property
    def arguments(self) -> list[str]:
        """The arguments as printed; commas within brackets do not divide."""
        arguments, start, depth = [], 0, 0
        for match in _DIVIDER.finditer(self.text):
            if match[0] != ", ":
                depth += 1 if match[0] in "[{(" else -1
            elif depth == 0:
                arguments.append(self.text[start : match.start()])
                start = match.end()
        return [*arguments, self.text[start:]]


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL in place of the `number`-th call of the system call `name`."""

    name: str
    number: int


def run(command: Sequence[str], log: Path, kill: Kill | None = None) -> None:
    """Runs `command` and puts every system call of it into `log`; raises RuntimeError if it fails, unless killed."""
    tracing = ["strace", "-f", "-y", "-xx", "-s", str(_LONGEST), "-o", str(log)]
    if kill:
        tracing += ["-e", f"inject={kill.name}:signal=KILL:when={kill.number}"]
    done = subprocess.run([*tracing, *command], cwd="/", capture_output=True, text=True, check=False)
    if done.returncode and done.returncode not in _KILLED:
        raise RuntimeError(f"{shlex.join(command)}: exit {done.returncode}\n{done.stderr}")


def calls(lines: Iterable[str]) -> Iterator[tuple[int, Call]]:
    """Each system call when it returned, with the number of its last line."""
    unfinished: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(lines):
        process, text = line.rstrip("\n").split(None, 1)
        began = number
        if text.startswith(("+++", "---")):
            continue
        if text.endswith("<unfinished ...>"):
            unfinished[process] = (text.removesuffix(" <unfinished ...>"), number)
            continue
        if resumed := _RESUMED.match(text):
            head, began = unfinished.pop(process)
            text = head + text[resumed.end() :]
        call = _CALL.fullmatch(text)
        if call is None:
            raise UnmodelledError(f"not understood: {text[:200]}")
        yield number, Call(call[1], call[2], call[3], began)


def escape(path: str) -> str:
    """`path` as strace prints it."""
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(path))


def parse_handle(argument: str) -> tuple[int, str]:
    """A file handle's number, -1 for the current directory, and its path, which is empty if it has none any more."""
    handle = _HANDLE.fullmatch(argument)
    if handle is None:
        raise UnmodelledError(f"{argument[:120]}: not a file handle")
    return -1 if handle[1] == "AT_FDCWD" else int(handle[1]), "" if handle[3] else os.fsdecode(_decode(handle[2]))


def parse_string(argument: str) -> bytes:
    """A string's bytes."""
    string = _STRING.fullmatch(argument)
    if string is None or string[2]:
        raise UnmodelledError(f"{argument[:120]}: not a whole string")
    return _decode(string[1])


def parse_vector(argument: str) -> bytes:
    """The bytes of an iovec array, of which strace prints each part as a string."""
    parts = list(_STRING.finditer(argument))
    if len(parts) != argument.count("iov_base") or any(part[2] for part in parts):
        raise UnmodelledError(f"{argument[:120]}: not a whole vector")
    return b"".join(_decode(part[1]) for part in parts)


def _decode(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
