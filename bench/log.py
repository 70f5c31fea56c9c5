"""A long log through `LogWriter` and `LocalStorage`: rate, memory, start-up, proofs, `fsck`, bytes on disk."""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from bench.fill import (
    ENTRY_SIZE,
    GROUP,
    INTERVAL,
    PAYLOAD_SIZE,
    fill,
    resident,
    show_rates,
    submission,
    submission_with_payload,
)
from bench.pymerkle_tree import measure_pymerkle
from bench.samples import ORIGIN, directory_size
from bench.table import latency, row, seconds, section
from ledger.fsck import fsck
from ledger.policy import parse_policy
from ledger.tiles import TileReader
from ledger.writer.create import POLICY, create_log, load_log_keys
from ledger.writer.database import DATABASE
from ledger.writer.files import list_files, read_file
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter
from ledger.writer.reader import PUBLIC

_PROOFS = 1000
_UNCACHED_PROOFS = 200


def measure_log(scratch: Path, count: int) -> None:
    """Prints what a log of `count` entries costs, and the same entries in pymerkle."""
    data = scratch / "long"
    create_log(data, ORIGIN)
    section(f"{count:,} entries of {ENTRY_SIZE} bytes, {GROUP} a commit, published every {INTERVAL:,}")
    _fill(data, count)
    tree = _start(data)
    _prove(data, tree)
    _check(data, count)
    _weigh(data, count)
    _fill_with_payloads(scratch / "payloads", count // 10)
    measure_pymerkle(scratch / "pymerkle.db", count, tree)


def _fill(data: Path, count: int) -> None:
    with LocalStorage(data) as storage:
        writer = LogWriter(storage, load_log_keys(data).signers, time.time_ns)
        with mock.patch.object(os, "fsync", wraps=os.fsync) as synced:
            windows = fill(range(min(INTERVAL, count)), submission, writer.append, writer.publish)
        windows += fill(range(INTERVAL, count), submission, writer.append, writer.publish)
        show_rates(windows, rate=10_000, ratio=0.9)
        row(f"    fsync calls in a publish of {INTERVAL:,}, beside two commits", synced.call_count, "")


def _fill_with_payloads(data: Path, count: int) -> None:
    create_log(data, ORIGIN)
    with LocalStorage(data) as storage:
        writer = LogWriter(storage, load_log_keys(data).signers, time.time_ns)
        windows = fill(range(count), submission_with_payload, writer.append, writer.publish)
    took = sum(window.wall_s for window in windows)
    row(f"{count:,} with payloads of {PAYLOAD_SIZE:,} bytes, append and publish", count / took, "entries/s")


def _start(data: Path) -> TileReader:
    """The tree that was read at the last of two starts."""
    signers = load_log_keys(data).signers

    def start() -> None:
        with LocalStorage(data) as storage:
            LogWriter(storage, signers, time.time_ns)

    row("start-up: storage and writer", seconds(start), "s", 2)
    _forget(data)
    row("    nothing cached by the system", seconds(start), "s", 2)
    with LocalStorage(data) as storage:
        newest = LogWriter(storage, signers, time.time_ns).checkpoint
    return TileReader(lambda path: read_file(data / PUBLIC, path), newest.size, newest.root)


def _prove(data: Path, tree: TileReader) -> None:
    random_ = random.Random(1)
    indices = [random_.randrange(tree.size) for _ in range(_PROOFS)]
    first = random_.randrange(tree.size - _PROOFS)
    latency(
        "inclusion proof, made and checked, reader kept",
        (seconds(tree.prove_inclusion, index) for index in indices),
        1,
    )
    neighbours = range(first, first + _PROOFS)
    latency("    of neighbours", (seconds(tree.prove_inclusion, index) for index in neighbours))
    latency("    reader new each time, nothing cached by the system", _uncached(data, tree, indices[:_UNCACHED_PROOFS]))
    latency("consistency proof", (seconds(tree.prove_consistency, index) for index in indices))


def _uncached(data: Path, tree: TileReader, indices: list[int]) -> Iterator[float]:
    """Seconds for each proof when reader and operating system hold no tile of the log."""
    _forget(data / PUBLIC)
    for index in indices:
        read: list[str] = []

        def fetch(path: str, read: list[str] = read) -> bytes | None:
            read.append(path)
            return read_file(data / PUBLIC, path)

        reader = TileReader(fetch, tree.size, tree.root)
        yield seconds(reader.prove_inclusion, index)
        for path in read:
            _forget_file(data / PUBLIC / path)


def _check(data: Path, count: int) -> None:
    policy, public = parse_policy((data / POLICY).read_bytes()), data / PUBLIC
    held = [resident()]

    def check() -> None:
        fsck(
            lambda path: read_file(public, path),
            policy,
            paths=list_files(public),
            progress=lambda _done, _all: held.append(resident()),
        )

    row("fsck, all but device signatures, of which there are none", count / seconds(check), "entries/s")
    row("    resident memory, peak over that before", (max(held) - held[0]) / 2**20, "MB")


def _weigh(data: Path, count: int) -> None:
    tiles = data / PUBLIC / "tile"
    bundles = directory_size(tiles / "entries")
    row("bundles", bundles / count, "bytes/entry")
    row("hash tiles", (directory_size(tiles) - bundles) / count, "bytes/entry")
    row("database, payloads of one byte", (data / DATABASE).stat().st_size / count, "bytes/entry")
    row("public files", sum(1 for file in (data / PUBLIC).rglob("*") if file.is_file()), "")


def _forget(directory: Path) -> None:
    """No file below `directory` is in the operating system's cache."""
    for path in directory.rglob("*"):
        if path.is_file():
            _forget_file(path)


def _forget_file(path: Path) -> None:
    """What is durable of `path` is no longer in the operating system's cache."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
