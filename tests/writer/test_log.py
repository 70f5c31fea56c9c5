"""The writer: order, publishing, recovery; the whole tree is recomputed after every step."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from ledger import fsck as checker
from ledger.entry import Commitment
from ledger.errors import LedgerError
from ledger.policy import parse_policy
from ledger.tiles import parse_tile_path
from ledger.writer.create import POLICY, create_log, load_log_keys
from ledger.writer.files import read_file
from ledger.writer.local import DATABASE, PUBLIC, LocalStorage
from ledger.writer.log import LogWriter
from ledger.writer.storage import Place, Recorded, StorageError, Submission

ORIGIN = "test.example/log"
NOW_NS = 1_764_000_000 * 10**9


def commitments(start: int, count: int) -> list[Submission]:
    """Small distinct entries."""
    return [Submission(Commitment(number.to_bytes(32, "big")).encode()) for number in range(start, start + count)]


def open_writer(storage: LocalStorage, data: Path, now_ns: Callable[[], int] = lambda: NOW_NS) -> LogWriter:
    return LogWriter(storage, load_log_keys(data).signers, now_ns)


def fsck(data: Path) -> int:
    """The size of the published log, all of it recomputed from its entries, which must be those committed."""
    public = data / PUBLIC
    paths = [path.relative_to(public).as_posix() for path in public.rglob("*") if path.is_file()]
    policy = parse_policy((data / POLICY).read_bytes())
    report = checker.fsck(lambda path: read_file(public, path), policy, paths=paths)
    return report.checkpoint.checkpoint.size


@pytest.fixture
def data(tmp_path: Path) -> Path:
    create_log(tmp_path / "data", ORIGIN)
    return tmp_path / "data"


def test_new_log_publishes_a_checkpoint_of_size_zero(data: Path) -> None:
    """A log can be followed from its first moment."""
    with LocalStorage(data) as storage:
        open_writer(storage, data)
    assert fsck(data) == 0


@pytest.mark.parametrize("seed", range(4))
def test_log_grows_and_restarts_at_any_size(data: Path, seed: int) -> None:
    """Whatever the sizes of groups, checkpoints and runs, the published tree follows from the entries."""
    random_ = random.Random(seed)
    total = 0
    for _ in range(5):
        with LocalStorage(data) as storage:
            writer = open_writer(storage, data)
            for _ in range(random_.randrange(1, 5)):
                count = random_.choice([1, 2, 100, 255, 256, 257, 700])
                assert writer.append(commitments(total, count)) == total
                total += count
                if random_.random() < 0.7:
                    assert writer.publish()
                    assert fsck(data) == total
    with LocalStorage(data) as storage:
        assert not open_writer(storage, data).publish()
    assert fsck(data) == total


def test_tree_with_two_full_levels_is_right(data: Path) -> None:
    """Sizes around 256 x 256 close tiles on two levels at once."""
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data)
        writer.append(commitments(0, 65_535))
        for count in (1, 1, 300):
            writer.append(commitments(writer.size, count))
            writer.publish()
            assert fsck(data) == writer.size
        reader = writer.reader()
        for index in (0, 255, 256, 65_535, 65_536, writer.size - 1):
            reader.prove_inclusion(index)
        for old in (1, 256, 65_535, 65_536, writer.size):
            reader.prove_consistency(old)


def test_partial_tiles_go_once_the_full_tile_is_there(data: Path) -> None:
    """What partial tiles take on disk does not grow with the number of checkpoints."""
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data)
        for _ in range(30):
            writer.append(commitments(writer.size, 20))
            writer.publish()
    public = data / PUBLIC
    tiles = [
        parse_tile_path(path.relative_to(public).as_posix()) for path in (public / "tile").rglob("*") if path.is_file()
    ]
    last_full = 600 // 256 - 1
    assert [tile for tile in tiles if tile.level <= 0 and tile.width < 256 and tile.index <= last_full] == []


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


@pytest.mark.parametrize("after", [False, True], ids=["not applied", "applied"])
def test_every_storage_call_may_fail_and_the_next_start_finishes(tmp_path: Path, *, after: bool) -> None:
    """Whichever call ends the process, everything committed is published once, and no published state is undone."""
    tried = 0
    for fail_at in range(1, 60):
        data = tmp_path / str(fail_at)
        create_log(data, ORIGIN)
        committed = 0
        failed = False
        with LocalStorage(data) as storage:
            failing = FailingStorage(storage, fail_at, after=after)
            try:
                writer = LogWriter(failing, load_log_keys(data).signers, lambda: NOW_NS)  # type: ignore[arg-type]
                for count in (1, 200, 60, 256, 3):
                    writer.append(commitments(committed, count))
                    committed += count
                    writer.publish()
            except StorageError:
                failed = True
            committed = storage.size()
        published = fsck(data) if (data / PUBLIC / "checkpoint").exists() else 0
        with LocalStorage(data) as storage:
            writer = open_writer(storage, data)
            assert published <= committed == writer.checkpoint.size
            writer.append(commitments(committed, 5))
            writer.publish()
        assert fsck(data) == committed + 5
        tried += 1
        if not failed:
            break
    assert 20 < tried < 59


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


def grown(data: Path, count: int) -> None:
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data)
        writer.append(commitments(writer.size, count))
        writer.publish()


def test_start_refuses_a_database_that_is_an_old_copy(data: Path) -> None:
    """Going on behind a published checkpoint would fork the log."""
    grown(data, 10)
    old = (data / DATABASE).read_bytes()
    grown(data, 10)
    for suffix in ("-wal", "-shm"):
        (data / (DATABASE + suffix)).unlink(missing_ok=True)
    (data / DATABASE).write_bytes(old)
    with LocalStorage(data) as storage, pytest.raises(StorageError, match="ahead of the database"):
        open_writer(storage, data)


def test_start_refuses_a_key_without_its_database(data: Path) -> None:
    """A key that signs without its database would start a second history under the same name."""
    (data / DATABASE).unlink()
    with pytest.raises(StorageError, match="there is no sequencer database"):
        LocalStorage(data)


def test_start_refuses_another_key(data: Path, tmp_path: Path) -> None:
    """A log goes on under the key that it was published with."""
    grown(data, 3)
    create_log(tmp_path / "other", ORIGIN)
    with LocalStorage(data) as storage, pytest.raises(StorageError, match="not this log's"):
        open_writer(storage, tmp_path / "other")


def test_start_refuses_a_clock_behind_the_last_checkpoint(data: Path) -> None:
    """A wrong clock is named before anything is signed under it."""
    grown(data, 3)
    with LocalStorage(data) as storage, pytest.raises(StorageError, match="clock is behind"):
        open_writer(storage, data, lambda: NOW_NS - 1)


def test_start_refuses_a_second_writer(data: Path) -> None:
    """One writer per log."""
    with LocalStorage(data), pytest.raises(StorageError, match="another process is writing"):
        LocalStorage(data)


def test_start_refuses_edited_entries(data: Path) -> None:
    """Entries that no longer lead to the recorded root stop the log; nothing is signed over them."""
    grown(data, 3)
    with LocalStorage(data) as storage:
        storage._writing.execute("UPDATE entries SET entry = ? WHERE idx = 1", (Commitment(b"x" * 32).encode(),))
    for path in sorted((data / PUBLIC / "tile").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with LocalStorage(data) as storage, pytest.raises(StorageError, match="do not lead to the recorded root"):
        open_writer(storage, data)


def test_start_rebuilds_a_public_tree_that_was_lost(data: Path) -> None:
    """The public directory is derived: gone, it comes back from the database, byte for byte."""
    grown(data, 300)
    before = {path: path.read_bytes() for path in (data / PUBLIC).rglob("*") if path.is_file()}
    for path in sorted((data / PUBLIC).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with LocalStorage(data) as storage:
        open_writer(storage, data)
    assert {path: path.read_bytes() for path in (data / PUBLIC).rglob("*") if path.is_file()} == before
    assert fsck(data) == 300


def test_create_refuses_a_directory_with_a_log(data: Path) -> None:
    """Nothing of a log that is there is touched."""
    before = (data / LOG_KEY).read_bytes()
    with pytest.raises(StorageError, match="there is a log already"):
        create_log(data, ORIGIN)
    assert (data / LOG_KEY).read_bytes() == before


def test_private_keys_are_for_their_owner_only(data: Path) -> None:
    """No other account can sign for the log."""
    assert [path.stat().st_mode & 0o777 for path in sorted((data / "keys").iterdir())] == [0o600, 0o600]


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(
    "name", ["tile/entries/001.p/44", "tile/0/001.p/44", "tile/1/000.p/1", "tile/0/000", "checkpoint"]
)
@pytest.mark.parametrize("harm", ["flipped", "gone"])
def test_damaged_public_file_never_finds_its_way_into_the_log(data: Path, name: str, harm: str) -> None:
    """What others can write to is made again from the database, or named; no byte of it is published on."""
    grown(data, 300)
    path = data / PUBLIC / name
    flip(path) if harm == "flipped" else path.unlink()
    if name == "checkpoint" and harm == "flipped":
        with LocalStorage(data) as storage, pytest.raises(StorageError, match="published checkpoint is not this log's"):
            open_writer(storage, data)
        return
    grown(data, 300)
    if name == "tile/0/000":  # a full tile is not read at a start; fsck finds it
        with pytest.raises(LedgerError, match=name):
            fsck(data)
        return
    assert fsck(data) == 600


def test_partial_tiles_removed_by_others_do_not_stop_the_writer(data: Path) -> None:
    """The public directory is trusted for nothing, not even for what is to be removed."""
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data)
        writer.append(commitments(0, 100))
        writer.publish()
        for path in (data / PUBLIC / "tile" / "0").glob("*.p"):
            shutil.rmtree(path)
        writer.append(commitments(100, 300))
        writer.publish()
    assert fsck(data) == 400


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


def test_payloads_are_for_their_owner_only(data: Path) -> None:
    """Readings and salts are in the database; its side files have its mode."""
    with LocalStorage(data) as storage:
        open_writer(storage, data)
        modes = {path.name: path.stat().st_mode & 0o777 for path in data.glob(f"{DATABASE}*")}
    assert modes == {DATABASE: 0o600, f"{DATABASE}-wal": 0o600, f"{DATABASE}-shm": 0o600}


def test_log_key_that_others_may_read_is_refused(data: Path) -> None:
    """A private key with a public mode is one that someone may have copied."""
    (data / LOG_KEY).chmod(0o644)
    with pytest.raises(StorageError, match="chmod 600"):
        load_log_keys(data).signers


def test_numbers_beyond_the_database_find_nothing(data: Path) -> None:
    """Numbers come from strangers' messages; those that no column can hold are simply not there."""
    with LocalStorage(data) as storage:
        assert storage.find(Place(bytes(32), 0, 2**64 - 1)) is None
        assert storage.batches_since(bytes(32), 2**64 - 1, 5) == []
        assert storage.checkpoint_root(2**64 - 1) is None
