"""The model of the disk allows what a power loss may do and nothing else; the trace lets nothing escape it."""

import sys
from pathlib import Path

import pytest

from tests.crash import trace
from tests.crash.disk import Disk, Fixed, Mixed
from tests.crash.operations import ROOT, Make, Mark, Move, Remove, Sync, Truncate, UnmodelledError, Write, snapshot

NOTHING = Fixed(names=False, bytes_=False)
EVERYTHING = Fixed(names=True, bytes_=True)
OLD = [Make("a", 1), Write(1, 0, bytes(1024)), Sync(1), Sync(ROOT)]


def after(*operations):
    disk = Disk()
    for operation in operations:
        disk.apply(operation)
    return disk


def mixtures(disk):
    return [disk.state(Mixed(str(seed))) for seed in range(500)]


def test_synced_file_is_lost_without_its_name():
    """Only a directory's own sync makes a name durable."""
    assert after(Make("a", 1), Write(1, 0, b"bytes"), Sync(1)).state(NOTHING) == {}


def test_name_without_synced_bytes_is_an_empty_file():
    """Only a file's own sync makes its bytes durable."""
    assert after(Make("a", 1), Write(1, 0, b"bytes"), Sync(ROOT)).state(NOTHING) == {"a": b""}


def test_what_was_synced_survives_whatever_comes_after():
    """No mixture takes back what two syncs have covered."""
    disk = after(*OLD, Make("b", 2), Write(2, 0, b"bytes"), Remove("b"))
    assert {state["a"] for state in [disk.state(NOTHING), disk.state(EVERYTHING), *mixtures(disk)]} == {bytes(1024)}


def test_write_is_torn_at_sectors_and_nowhere_else():
    """Each of two sectors is old or new."""
    old, new = bytes(512), b"x" * 512
    assert {state["a"] for state in mixtures(after(*OLD, Write(1, 0, new + new)))} == {
        old + old,
        old + new,
        new + old,
        new + new,
    }


def test_writes_survive_in_any_order():
    """Of two writes to one place either may be the later, or a truncation between them."""
    found = {state["a"] for state in mixtures(after(*OLD, Write(1, 0, b"1"), Truncate(1, 0), Write(1, 0, b"2")))}
    assert {b"", b"1", b"2", b"1" + bytes(1023), b"2" + bytes(1023), bytes(1024)} <= found


def test_rename_within_a_directory_leaves_the_old_file_or_the_new_one():
    """A file that is replaced is never missing."""
    disk = after(*OLD, Make("b", 2), Write(2, 0, b"new"), Sync(2), Sync(ROOT), Move("b", "a"))
    found = [(state.get("a"), state.get("b")) for state in mixtures(disk)]
    assert set(found) == {(bytes(1024), b"new"), (b"new", None)}


def test_rename_into_another_directory_may_leave_both_names_or_none():
    """Each directory's sync is its own."""
    disk = after(Make("d", 2, directory=True), *OLD, Move("a", "d/a"))
    assert {("a" in state, "d/a" in state) for state in mixtures(disk)} == {
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    }


def test_directory_takes_everything_below_it_along():
    """What is synced in a directory whose own name is not, is gone with it."""
    disk = after(Make("d", 1, directory=True), Make("d/a", 2), Write(2, 0, b"bytes"), Sync(2), Sync(1))
    assert (disk.state(NOTHING), disk.state(EVERYTHING)) == ({}, {"d": None, "d/a": b"bytes"})


PROGRAM = """
import os
root, marks = os.environ["ROOT"], os.open(os.environ["MARKS"], os.O_WRONLY | os.O_CREAT)
with open(f"{root}/old", "rb+") as file:
    file.read(1)
    os.write(marks, b"before\\n")
    file.seek(1)
    file.write(b"one")
    file.flush()
    os.writev(file.fileno(), [b"two", b"three"])
    os.pwritev(file.fileno(), [b"f", b"our"], 20)
    os.ftruncate(file.fileno(), 30)
    os.posix_fallocate(file.fileno(), 0, 40)
    os.fdatasync(os.dup(file.fileno()))
os.mkdir(f"{root}/d")
handle = os.open(f"{root}/d", os.O_RDONLY)
os.close(os.open("new", os.O_WRONLY | os.O_CREAT, dir_fd=handle))
os.rename("new", "newer", src_dir_fd=handle, dst_dir_fd=handle)
os.link(f"{root}/old", f"{root}/d/link")
os.fsync(handle)
os.unlink("newer", dir_fd=handle)
os.unlink(f"{root}/d/link")
os.rmdir(f"{root}/d")
"""


def traced(root, program, monkeypatch):
    marks = root.with_name("marks")
    monkeypatch.setenv("ROOT", str(root))
    monkeypatch.setenv("MARKS", str(marks))
    return trace.record([sys.executable, "-c", program], root, marks, snapshot(root))


def test_trace_has_every_operation_in_order(root, monkeypatch):
    """Offsets, vectors, duplicated handles, directory handles: all lead to the file that was meant."""
    (root / "old").write_bytes(b"0123456789")
    assert traced(root, PROGRAM, monkeypatch) == [
        Mark("before"),
        Write(1, 1, b"one"),
        Write(1, 4, b"twothree"),
        Write(1, 20, b"four"),
        Truncate(1, 30),
        Write(1, 40, b""),
        Sync(1),
        Make("d", 2, directory=True),
        Make("d/new", 3),
        Move("d/new", "d/newer"),
        Make("d/link", 1),
        Sync(2),
        Remove("d/newer"),
        Remove("d/link"),
        Remove("d"),
    ]


def test_replayed_trace_is_the_directory_as_it_is(root, monkeypatch):
    """With everything surviving, the model's disk and the real one are the same."""
    program = PROGRAM.replace('os.unlink(f"{root}/d/link")\nos.rmdir(f"{root}/d")', "")
    (root / "old").write_bytes(b"0123456789")
    before = snapshot(root)
    state = after(*before, *traced(root, program, monkeypatch)).state(EVERYTHING)
    assert state == {"old": (root / "old").read_bytes(), "d": None, "d/link": (root / "d" / "link").read_bytes()}


@pytest.mark.parametrize(
    "unmodelled",
    [
        "mmap.mmap(file.fileno(), 1)",
        "os.sendfile(file.fileno(), source, 0, 4)",
        "os.copy_file_range(file.fileno(), file.fileno(), 4, 0, 5)",
        "os.open(path, os.O_WRONLY | os.O_APPEND)",
        "os.symlink('elsewhere', path + '2')",
        "os.rename(os.path.dirname(path), os.path.dirname(path) + '2')",
        "os.truncate(path, 1)",
        "os.sync()",
        "os.fork() or os._exit(0)",
    ],
)
def test_trace_refuses_what_the_model_does_not_know(root, monkeypatch, unmodelled):
    """A change that no operation stands for stops the test instead of escaping it."""
    (root / "d").mkdir()
    (root / "d" / "old").write_bytes(b"0123456789")
    program = (
        "import mmap, os\n"
        "path = os.environ['ROOT'] + '/d/old'\n"
        "source = os.open('/proc/version', os.O_RDONLY)\n"
        "file = open(path, 'rb+')\n"
        f"{unmodelled}\n"
    )
    with pytest.raises(UnmodelledError):
        traced(root, program, monkeypatch)


# Two threads: the second writes while the first's fsync runs.
THREADS = """\
1 openat(AT_FDCWD<\\x2f>, "{root}\\x2f\\x61", O_RDWR|O_CREAT, 0600) = 3<{root}\\x2f\\x61>
2 pwrite64(3<{root}\\x2f\\x61>, "\\x78", 1, 7 <unfinished ...>
1 {first} <unfinished ...>
2 <... pwrite64 resumed>) = 1
1 <... {name} resumed>) = 0
"""
PATHS = (Path("/r"), Path("/m"))


def threads(first, name):
    return THREADS.replace("{first}", first).replace("{name}", name).replace("{root}", "\\x2f\\x72").splitlines()


def test_interleaved_calls_count_when_they_return():
    """A call that another thread interrupts in the trace is one operation, at its end."""
    lines = threads("fstat(3<{root}\\x2f\\x61>, NULL", "fstat")
    assert trace.parse(lines, *PATHS, []) == [Make("a", 1), Write(1, 7, b"x")]


def test_write_during_a_sync_is_refused():
    """Whether a sync covers what another thread writes meanwhile nobody knows."""
    with pytest.raises(UnmodelledError, match="another thread"):
        trace.parse(threads("fsync(3<{root}\\x2f\\x61>", "fsync"), *PATHS, [])
