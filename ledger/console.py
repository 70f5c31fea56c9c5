"""What commands share: files parsed, one line on stderr, progress on a terminal, an end when asked for."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeVar

from ledger.errors import MalformedError
from ledger.policy import MAX_POLICY

OK, UNPROVEN, WRONG = 0, 1, 2

T = TypeVar("T")


def parse_file(path: Path, parse: Callable[[bytes], T], limit: int = MAX_POLICY) -> T:
    """What `parse` makes of the file's bytes, at most `limit` and one; what is wrong with it is named with its path."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise MalformedError(f"{path}: {error.strerror or error}") from None
    try:
        return parse(data)
    except MalformedError as error:
        raise MalformedError(f"{path}: {error}") from None


def fail(error: object, code: int) -> int:
    """Says in one line on stderr what is wrong; the exit code that goes with it."""
    print(f"vitalseal: {error}", file=sys.stderr)
    return code


def show_progress(what: str = "entries") -> Callable[[int, int], None]:
    """A percentage on a terminal, nothing in a pipe."""
    if not sys.stderr.isatty():
        return lambda _done, _all: None

    def show(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        print(f"\r{done:,} of {total:,} {what} ({done * 100 // max(total, 1)} %)", end=end, file=sys.stderr, flush=True)

    return show


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Set by the first SIGINT or SIGTERM inside; the second is a KeyboardInterrupt. For the main thread."""
    stop = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
