"""The recorded program: one run of the writer, in a process of its own; the only file here that knows the writer.

    python workload.py ROOT MARKS SCRIPT [--harm HARM]

SCRIPT is a list of steps, one letter each, a number behind some:

    c       creates the log, in the directory `DATA` below ROOT
    o, x    opens the log, which recovers it; closes it
    a<n>    appends n entries as one group
    p       publishes
    k       ends the process at once, as SIGKILL does

What the writer has promised goes into the file MARKS, one write each, as soon as it has promised it:
`created`, `acked <size>`, `published <size>`.
"""

import argparse
import os
import re
import signal
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ledger.entry import Commitment
from ledger.writer.create import POLICY, create_log, load_log_keys
from ledger.writer.database import DATABASE
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter
from ledger.writer.reader import PUBLIC
from ledger.writer.storage import Submission

ORIGIN = "crash.example/log"
DATA = "data"
DATABASE_PATH, POLICY_PATH, PUBLIC_PATH = DATABASE, POLICY, PUBLIC
PAYLOAD_EVERY = 16
NOW_NS = 1_764_000_000 * 10**9


def entry(index: int) -> bytes:
    """What every run appends at `index`, so that it is known what must be there."""
    return Commitment(index.to_bytes(32, "big")).encode()


def group(start: int, count: int) -> list[Submission]:
    """The entries [start, start + count), some with a private payload."""
    return [Submission(entry(index), payload=payload(index)) for index in range(start, start + count)]


def payload(index: int) -> bytes | None:
    """The private payload of some entries."""
    return None if index % PAYLOAD_EVERY else b"payload %d" % index


def make_log(data: Path) -> None:
    """A new log in `data`."""
    create_log(data, ORIGIN)


@contextmanager
def open_log(data: Path) -> Iterator[tuple[LogWriter, LocalStorage]]:
    """The log in `data`, recovered."""
    with LocalStorage(data) as storage:
        yield LogWriter(storage, load_log_keys(data).signers, lambda: NOW_NS), storage


class _Run:
    """Takes the steps of one script."""

    def __init__(self, data: Path, marks: Path) -> None:
        self._data = data
        self._opened = ExitStack()
        self._marks = os.open(marks, os.O_WRONLY | os.O_CREAT)

    def take(self, script: str) -> None:
        for step, number in re.findall(r"([a-z])(\d*)", script):
            match step:
                case "c":
                    make_log(self._data)
                    self._mark("created")
                case "o":
                    self._writer, _ = self._opened.enter_context(open_log(self._data))
                    self._mark(f"published {self._writer.checkpoint.size}")
                case "x":
                    self._opened.close()
                case "a":
                    self._writer.append(group(self._writer.size, int(number)))
                    self._mark(f"acked {self._writer.size}")
                case "p":
                    self._writer.publish()
                    self._mark(f"published {self._writer.checkpoint.size}")
                case "k":
                    os.kill(os.getpid(), signal.SIGKILL)
                case _:
                    raise ValueError(f"{step!r} is not a step")

    def _mark(self, text: str) -> None:
        os.write(self._marks, f"{text}\n".encode())


class _Careless(sqlite3.Connection):
    """A connection that leaves syncing to the operating system, whatever it is told."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return super().execute("PRAGMA synchronous = OFF" if "synchronous" in sql else sql, *parameters)


def _harm(what: str) -> None:
    """Makes the program defective, below every name of its own."""
    if what == "database":
        connect = sqlite3.connect
        sqlite3.connect = lambda *a, **options: connect(*a, factory=_Careless, **options)  # type: ignore[assignment]
        return
    is_kind = {"files": stat.S_ISREG, "directories": stat.S_ISDIR}[what]
    sync = os.fsync
    os.fsync = lambda handle: None if is_kind(os.fstat(handle).st_mode) else sync(handle)


def main(take: Callable[[Path, Path, str], None]) -> None:
    """`take` gets what the command line names: the directory, the file for marks, and the steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("marks", type=Path)
    parser.add_argument("script")
    parser.add_argument("--harm", choices=["files", "directories", "database"])
    arguments = parser.parse_args()
    if arguments.harm:
        _harm(arguments.harm)
    take(arguments.root, arguments.marks, arguments.script)


if __name__ == "__main__":
    main(lambda root, marks, script: _Run(root / DATA, marks).take(script))
