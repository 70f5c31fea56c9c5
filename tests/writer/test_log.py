"""The writer: order, publishing, recovery; the whole tree is recomputed after every step."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from ledger.entry import Closing, Commitment
from ledger.errors import LedgerError
from ledger.note import ED25519_NOTE, ML_DSA_44, NoteSigner, parse_note
from ledger.tiles import parse_tile_path
from ledger.writer.create import KEYS, POLICY, POLICY_PQ, create_log, load_log_keys, retire_key, write_key
from ledger.writer.local import DATABASE, PUBLIC, LocalStorage
from ledger.writer.log import LogWriter
from ledger.writer.storage import Place, Recorded, StorageError, Submission

from .logs import NOW_NS, ORIGIN, commitments, fsck, grown, open_writer
from .quorum import BOTH, WITNESSES, Cosigners


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
    with LocalStorage(data), pytest.raises(StorageError, match="another process has it; stop that one first"):
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
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    with pytest.raises(StorageError, match="there is a log already"):
        create_log(data, ORIGIN)
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before


def test_private_keys_are_for_their_owner_only(data: Path) -> None:
    """No other account can sign for the log."""
    modes = {path.name: path.stat().st_mode & 0o777 for path in (data / KEYS).iterdir()}
    names = {f"log-{signer.verifier.id.hex()}.key" for signer in load_log_keys(data).signers}
    assert modes == dict.fromkeys([*names, "registrar.key"], 0o600)
    assert len(names) == 2


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
    """A private key with a public mode is one that someone may have copied, whichever of the two it is."""
    for path in sorted((data / KEYS).glob("log-*.key")):
        path.chmod(0o644)
        with pytest.raises(StorageError, match=f"chmod 600 {path}"):
            load_log_keys(data)
        path.chmod(0o600)
    assert [signer.verifier.type for signer in load_log_keys(data).signers] == [ED25519_NOTE, ML_DSA_44]


def test_numbers_beyond_the_database_find_nothing(data: Path) -> None:
    """Numbers come from strangers' messages; those that no column can hold are simply not there."""
    with LocalStorage(data) as storage:
        assert storage.find(Place(bytes(32), 0, 2**64 - 1)) is None
        assert storage.batches_since(bytes(32), 2**64 - 1, 5) == []
        assert storage.checkpoint_root(2**64 - 1) is None


def test_partial_tiles_stay_until_what_replaces_them_is_published(tmp_path: Path) -> None:
    """Whoever reads the published tree finds its tiles, however long the next checkpoint waits for its quorum."""
    create_log(tmp_path, ORIGIN, witnesses=WITNESSES)
    quorum = Cosigners()
    partials = [tmp_path / PUBLIC / path for path in ("tile/entries/000.p/100", "tile/0/000.p/100")]
    with LocalStorage(tmp_path) as storage:
        writer = open_writer(storage, tmp_path, quorum=quorum)
        writer.append(commitments(0, 100))
        writer.publish()
        quorum.silent = BOTH
        writer.append(commitments(100, 300))
        for _ in range(3):
            assert not writer.publish()
            assert [path.exists() for path in partials] == [True, True]
            assert fsck(tmp_path) == 100
        quorum.silent = frozenset()
        assert writer.publish()
    assert [path.exists() for path in partials] == [False, False]
    assert fsck(tmp_path) == 400


def test_first_covering_checkpoint_is_the_first_published_one(data: Path) -> None:
    """A proof shows the earliest time: that of the first checkpoint which covers an entry and had its quorum."""
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data)
        for count in (3, 2, 4):
            writer.append(commitments(writer.size, count))
            writer.publish()
        writer.append(commitments(9, 1))
        found = [storage.first_covering(index) for index in range(11)]
        sizes = [checkpoint and checkpoint.size for checkpoint in found]
        assert sizes == [3, 3, 3, 5, 5, 9, 9, 9, 9, None, None]
        assert all(checkpoint.published for checkpoint in found if checkpoint)


def rotate_keys(data: Path) -> None:
    """Both keys of the log are retired, two new ones sign, and the policies name all four."""
    old = [signer.verifier for signer in load_log_keys(data).signers]
    for type_, name in ((ED25519_NOTE, POLICY), (ML_DSA_44, POLICY_PQ)):
        new = NoteSigner(ORIGIN, bytes([type_, len(list((data / KEYS).iterdir()))]) * 16, type_)
        write_key(data, new)
        (data / name).write_text(f"log {new.verifier}\n" + (data / name).read_text())
    for key in old:
        retire_key(data, key)


def test_log_goes_on_under_new_keys(data: Path) -> None:
    """What the retired keys signed is still this log's at every start, and what follows is signed by the new ones."""
    grown(data, 300)
    for at in range(1, 3):
        before = {signer.verifier.id for signer in load_log_keys(data).signers}
        rotate_keys(data)
        keys = load_log_keys(data)
        assert len(keys.retired) == 2 * at
        with LocalStorage(data) as storage:
            assert not open_writer(storage, data).publish()
        assert signed_by(data) == before
        grown(data, 10)
        assert signed_by(data) == {signer.verifier.id for signer in keys.signers}
        assert fsck(data) == 300 + 10 * at


def signed_by(data: Path) -> set[bytes]:
    return {line.key_id for line in parse_note((data / PUBLIC / "checkpoint").read_bytes()).signatures}


def test_start_refuses_what_a_forgotten_key_signed(data: Path) -> None:
    """A key that is retired is kept, because without it the log's own past looks like a stranger's."""
    grown(data, 3)
    rotate_keys(data)
    for path in (data / KEYS).glob("log-*.retired"):
        path.unlink()
    with LocalStorage(data) as storage, pytest.raises(StorageError, match="not this log's: no signature by a known"):
        open_writer(storage, data)


def test_log_without_keys_is_none(tmp_path: Path) -> None:
    """A directory in which nothing can sign is said not to be an aggregator's."""
    with pytest.raises(StorageError, match=r"there is no log-\*.key; is .* an aggregator's data"):
        load_log_keys(tmp_path)


def test_closed_log_refuses_every_entry_after_its_last(data: Path) -> None:
    """The end of a log is for ever, in the process that closed it and in all after it; what is there is published."""
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data)
        writer.append(commitments(0, 4))
        closing = Closing("next.example/log", ("next.example/log+00000000+AQ==",))
        assert writer.close(Submission(closing.encode())) == 4
        assert_closed(writer)
        assert writer.publish()
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data)
        assert_closed(writer)
        assert not writer.publish()
    assert fsck(data) == 5


def assert_closed(writer: LogWriter) -> None:
    assert writer.closed
    for refused in (writer.append, lambda group: writer.close(group[0])):
        with pytest.raises(StorageError, match="is closed: nothing can be appended; use its successor"):
            refused(commitments(9, 1))
    assert writer.size == 5
