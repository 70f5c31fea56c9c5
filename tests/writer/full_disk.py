"""Fills small file systems in memory with a log, again and again; a program, to be run in a mount namespace of its own.

    python -m tests.writer.full_disk DIRECTORY

Each round has a little more room than the last. Whatever was acknowledged is in the log when there is room at last.
"""

import subprocess
import sys
from pathlib import Path

from ledger.writer.create import create_log
from ledger.writer.local import LocalStorage
from ledger.writer.storage import StorageError

from .logs import ORIGIN, commitments, fsck, open_writer

KIB = range(600, 1800, 90)
COUNT = 40  # entries in a group


def mount(disk: Path, *options: str) -> None:
    """`disk` is a file system in memory; with `remount`, of another size."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(disk)], check=True)


def fill(data: Path, told: int) -> tuple[int, str]:
    """Appends and publishes until the disk is full; how many entries are acknowledged by now, and what was said."""
    try:
        with LocalStorage(data) as storage:
            writer = open_writer(storage, data)
            while True:
                told = max(told, writer.append(commitments(writer.size, COUNT)) + COUNT)
                writer.publish()
    except StorageError as error:
        return told, str(error)


def main(disk: Path) -> None:
    """Rounds of filling, then room."""
    mount(disk, "size=400k")
    data = disk / "data"
    create_log(data, ORIGIN)
    told, rounds = 0, 0
    for size in KIB:
        mount(disk, "remount", f"size={size}k")
        before = told
        told, said = fill(data, told)
        assert "No space left on device" in said or "disk is full" in said, said
        assert not (data / "log" / "checkpoint").exists() or fsck(data) <= told
        rounds += told > before
    mount(disk, "remount", "size=64m")
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data)
        total = writer.size
        assert told <= total == writer.checkpoint.size
        assert list(storage.entries(0, total)) == [item.entry for item in commitments(0, total)]
        writer.append(commitments(total, COUNT))
        writer.publish()
    assert fsck(data) == total + COUNT
    print(f"{rounds} rounds")  # noqa: T201 - to its test


if __name__ == "__main__":
    main(Path(sys.argv[1]))
