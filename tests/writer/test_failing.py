"""Failures: of every storage call, of every file operation, for want of room, by SIGKILL; what the next start makes."""

import errno
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from ledger.writer.create import create_log, load_log_keys
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter
from ledger.writer.reader import PUBLIC
from ledger.writer.storage import Recorded, StorageError, Submission

from .logs import NOW_NS, ORIGIN, commitments, fsck, grown, open_writer
from .quorum import BOTH, WITNESSES, Cosigners


@pytest.fixture
def data(tmp_path: Path) -> Path:
    create_log(tmp_path / "data", ORIGIN)
    return tmp_path / "data"


class FailingStorage:
    """A `Storage` whose n-th durable call fails: before its effect, or after it (applied, but reported failed)."""

    def __init__(self, inner: LocalStorage, fail_at: int, *, after: bool) -> None:
        self._inner = inner
        self._left = fail_at
        self._after = after

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def _call(self, work: Callable[[], object]) -> object:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise StorageError("injected, not applied")
        result = work()
        if self._left == 0:
            raise StorageError("injected, applied")
        return result

    def append(self, group: Sequence[Submission]) -> object:
        return self._call(lambda: self._inner.append(group))

    def record(self, checkpoint: Recorded, text: str) -> object:
        return self._call(lambda: self._inner.record(checkpoint, text))

    def publish(self, checkpoint: Recorded) -> object:
        return self._call(lambda: self._inner.publish(checkpoint))

    def write(self, files: Iterable[tuple[str, bytes]]) -> object:
        return self._call(lambda: self._inner.write(list(files)))

    def remove_partials(self, paths: Iterable[str]) -> object:
        return self._call(lambda: self._inner.remove_partials(list(paths)))


def open_failing(storage: FailingStorage, data: Path, quorum: Cosigners | None) -> LogWriter:
    return LogWriter(storage, load_log_keys(data).signers, lambda: NOW_NS, quorum=quorum)  # type: ignore[arg-type]


@pytest.mark.parametrize("after", [False, True], ids=["not applied", "applied"])
@pytest.mark.parametrize("cosigned", [False, True], ids=["alone", "with a quorum now and then"])
def test_every_storage_call_may_fail_and_the_next_start_finishes(
    tmp_path: Path, *, after: bool, cosigned: bool
) -> None:
    """Whichever call ends the process, everything committed is published once, and no published state is undone."""
    tried = 0
    for fail_at in range(1, 60):
        data = tmp_path / str(fail_at)
        create_log(data, ORIGIN, witnesses=WITNESSES if cosigned else ())
        quorum = Cosigners() if cosigned else None
        committed = 0
        failed = False
        with LocalStorage(data) as storage:
            failing = FailingStorage(storage, fail_at, after=after)
            try:
                writer = open_failing(failing, data, quorum)
                for at, count in enumerate((1, 200, 60, 256, 3)):
                    writer.append(commitments(committed, count))
                    committed += count
                    if quorum:
                        quorum.silent = BOTH if at % 2 else frozenset()
                    writer.publish()
            except StorageError:
                failed = True
            committed = storage.size()
        published = fsck(data) if (data / PUBLIC / "checkpoint").exists() else 0
        if quorum:
            quorum.silent = frozenset()
        with LocalStorage(data) as storage:
            writer = open_writer(storage, data, quorum=quorum)
            while writer.publish():
                pass
            assert published <= committed == writer.checkpoint.size
            writer.append(commitments(committed, 5))
            writer.publish()
        assert fsck(data) == committed + 5
        tried += 1
        if not failed:
            break
    assert 20 < tried < 59


class FullDisk:
    """From the n-th file that is opened, renamed or synced on, there is no room."""

    def __init__(self, patch: pytest.MonkeyPatch, fail_at: int) -> None:
        self._left = fail_at
        self.hit = False
        for owner, name in ((os, "fsync"), (Path, "rename"), (Path, "open"), (Path, "mkdir")):
            patch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, work: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **named: object) -> object:
            self._left -= 1
            if self._left <= 0:
                self.hit = True
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return work(*args, **named)

        return call


def test_disk_may_be_full_at_every_step_and_the_next_start_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles, guard and checkpoint that found no room end the writer in one line; with room again nothing is missing."""
    tried = 0
    for fail_at in range(1, 200, 3):
        data = tmp_path / str(fail_at)
        create_log(data, ORIGIN)
        grown(data, 250)
        with LocalStorage(data) as storage, monkeypatch.context() as patch:
            writer = open_writer(storage, data)
            disk = FullDisk(patch, fail_at)
            said = ""
            try:
                for count in (3, 10):
                    writer.append(commitments(writer.size, count))
                    writer.publish()
            except StorageError as error:
                said = str(error)
            committed = storage.size()
        assert said.endswith("No space left on device; the writer stops, what is committed is safe") is disk.hit
        assert fsck(data) in {250, 253, 263}
        with LocalStorage(data) as storage:
            assert open_writer(storage, data).checkpoint.size == committed
        assert fsck(data) == committed
        tried += 1
        if not disk.hit:
            break
    assert 8 < tried < 60


def test_file_system_that_is_full_again_and_again_loses_nothing(tmp_path: Path) -> None:
    """Not injected: a real file system without room, for database, tiles and guard alike."""
    alone = ["unshare", "--mount", "--map-root-user"]
    try:
        may_mount = (
            subprocess.run([*alone, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], check=False).returncode == 0
        )
    except FileNotFoundError:
        may_mount = False
    if not may_mount:
        pytest.skip("this machine does not let us mount")
    command = [*alone, sys.executable, "-m", "tests.writer.full_disk", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) >= 5


def test_database_may_be_full(data: Path) -> None:
    """What was not committed is not acknowledged, the writer stops, and with room again the log goes on."""
    grown(data, 10)
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data)
        (pages,) = storage._writing.execute("PRAGMA page_count").fetchone()
        storage._writing.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StorageError, match="full; the writer stops"):
            writer.append(commitments(10, 2000))
        with pytest.raises(StorageError, match="a write before it failed"):
            writer.append(commitments(10, 1))
        assert writer.size == 10
    grown(data, 5)
    assert fsck(data) == 15


WRITER = """
import sys, time
from pathlib import Path
from ledger.entry import Commitment
from ledger.writer.create import load_log_keys
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter
from ledger.writer.storage import Submission
data = Path(sys.argv[1])
with LocalStorage(data) as storage:
    writer = LogWriter(storage, load_log_keys(data).signers, time.time_ns)
    while True:
        size = writer.size
        group = [Submission(Commitment(n.to_bytes(32, "big")).encode()) for n in range(size, size + 37)]
        print(writer.append(group) + len(group), flush=True)
        writer.publish()
"""


@pytest.mark.parametrize("seed", range(6))
def test_log_survives_sigkill(data: Path, seed: int) -> None:
    """Every group whose commit had returned is in the log after a kill at any moment, and none is there twice."""
    lines = random.Random(seed).randrange(2, 40)
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(data)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    told = 0
    with process.stdout:
        for _ in range(lines):
            told = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data, lambda: 2**62)
        assert writer.checkpoint.size >= told
        entries = list(storage.entries(0, writer.size))
    assert entries == [item.entry for item in commitments(0, len(entries))]
    assert fsck(data) == len(entries)


def test_no_thread_writes_after_the_first_failed_write(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed fsync nobody can say what is on the disk, so nothing is built on it."""
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data)
        writer.append(commitments(0, 3))

        def failing(_handle: int) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", failing)
            with pytest.raises(StorageError, match="Input/output error"):
                writer.publish()
        with pytest.raises(StorageError, match="a write before it failed"):
            writer.append(commitments(3, 1))
    grown(data, 1)
    assert fsck(data) == 4
