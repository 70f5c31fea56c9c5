"""A million entries of 300 bytes, put into a log in groups, window by window.

The entries are of the batch type in a version that no program knows yet: their form is checked and they are proven
like any other, and no device had to sign a million of them.
"""

import hashlib
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench.table import row
from ledger import canonical
from ledger.entry import BATCH, ENTRY_VERSION
from ledger.writer.storage import Place, Submission

ENTRY_SIZE = 300
PAYLOAD_SIZE = 3566  # salts and readings of a batch of 64
GROUP = 256  # entries in one commit
INTERVAL = 10_000  # entries between publishes: a second's worth at the rate that is asked for
DEVICES = 100
_EDGE = 100_000  # entries at the start, and at the end, whose rates are compared
_HEAD = 6  # bytes before an entry's random ones: array, type, version, a length in two bytes
_KEYS = tuple(hashlib.sha256(b"device %d" % number).digest() for number in range(DEVICES))

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Window:
    """What one interval took: appending `count` entries and publishing them; resident memory (bytes) at its end."""

    count: int
    append_s: float
    publish_s: float
    cpu_s: float
    resident: int

    @property
    def wall_s(self) -> float:
        """All of it."""
        return self.append_s + self.publish_s


def entry(index: int) -> bytes:
    """The entry at `index`, the same in every run; its bytes do not compress."""
    content = hashlib.shake_128(index.to_bytes(8, "big")).digest(ENTRY_SIZE - _HEAD)
    return canonical.encode((BATCH, ENTRY_VERSION + 1, content))


def submission(index: int) -> Submission:
    """That entry with a place in a device's chain and hardly a payload; one without is noted down as having lost it."""
    return Submission(entry(index), Place(_KEYS[index % DEVICES], 0, index // DEVICES), b"\x00")


def submission_with_payload(index: int) -> Submission:
    """That submission with a private payload, as batches have one."""
    bare = submission(index)
    return Submission(bare.entry, bare.place, hashlib.shake_128(bare.entry).digest(PAYLOAD_SIZE))


def fill(
    indices: range,
    make: Callable[[int], T],
    append: Callable[[Sequence[T]], object],
    publish: Callable[[], object],
    *,
    limit_s: float = float("inf"),
) -> list[Window]:
    """Appends what `make` makes of `indices`; ends early when more than `limit_s` have gone by. Making is not timed."""
    windows = []
    left_s = limit_s
    for start in range(indices.start, indices.stop, INTERVAL):
        items = [make(index) for index in range(start, min(start + INTERVAL, indices.stop))]
        cpu, started = time.process_time(), time.perf_counter()
        for at in range(0, len(items), GROUP):
            append(items[at : at + GROUP])
        appended = time.perf_counter()
        publish()
        ended, used = time.perf_counter(), time.process_time() - cpu
        windows.append(Window(len(items), appended - started, ended - appended, used, resident()))
        left_s -= ended - started
        if left_s < 0:
            break
    return windows


def show_rates(windows: Sequence[Window], rate: float | None = None, ratio: float | None = None) -> None:
    """Prints rates and memory of `windows`, beside the least `rate` (entries/s) and `ratio` that they may have."""
    edge = max(1, min(_EDGE // INTERVAL, len(windows) // 2))
    ends = windows[:edge], windows[-edge:]
    rates = [statistics.median(window.count / window.wall_s for window in end) for end in ends]
    cpu = [statistics.median(window.cpu_s / window.count for window in end) * 1e6 for end in ends]
    total = sum(window.count for window in windows)
    row("append and publish", total / sum(window.wall_s for window in windows), "entries/s", rate, floor=True)
    row(f"    first {edge * INTERVAL:,}, median of {edge} windows", rates[0], "entries/s")
    row(f"    last {edge * INTERVAL:,}", rates[1], "entries/s")
    row("    last / first", rates[1] / rates[0], "", ratio, floor=True)
    row("    CPU time of one entry, first", cpu[0], "us")
    row("    CPU time of one entry, last", cpu[1], "us")
    row(f"    commit of {GROUP}", statistics.median(w.append_s / w.count for w in windows) * GROUP * 1e3, "ms")
    row(f"    publish of {INTERVAL:,}", statistics.median(window.publish_s for window in windows) * 1e3, "ms")
    growth = max(window.resident for window in windows) - windows[0].resident
    row("resident memory, peak over that after the first window", growth / 2**20, "MB")


def resident() -> int:
    """Resident memory of this process, bytes."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
