"""The writer: order, publishing, recovery; the whole tree is recomputed after every step."""

import random
import shutil
from pathlib import Path

import pytest

from ledger.entry import Commitment
from ledger.errors import LedgerError
from ledger.tiles import parse_tile_path
from ledger.writer.create import create_log
from ledger.writer.database import DATABASE
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter
from ledger.writer.reader import PUBLIC
from ledger.writer.storage import Place, StorageError

from .logs import NOW_NS, ORIGIN, closing, commitments, fsck, grown, open_writer
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


def test_start_refuses_a_key_without_its_database(data: Path) -> None:
    """A key that signs without its database would start a second history under the same name."""
    (data / DATABASE).unlink()
    with pytest.raises(StorageError, match="there is no sequencer database"):
        LocalStorage(data)


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


def test_payloads_are_for_their_owner_only(data: Path) -> None:
    """Readings and salts are in the database; its side files have its mode."""
    with LocalStorage(data) as storage:
        open_writer(storage, data)
        modes = {path.name: path.stat().st_mode & 0o777 for path in data.glob(f"{DATABASE}*")}
    assert modes == {DATABASE: 0o600, f"{DATABASE}-wal": 0o600, f"{DATABASE}-shm": 0o600}


def test_numbers_beyond_the_database_find_nothing(data: Path) -> None:
    """Numbers come from strangers' messages; those that no column can hold are simply not there."""
    with LocalStorage(data) as storage:
        assert storage.find(Place(bytes(32), 0, 2**64 - 1)) is None
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


def test_closed_log_refuses_every_entry_after_its_last(data: Path) -> None:
    """The end of a log is for ever, in the process that closed it and in all after it; what is there is published."""
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data)
        writer.append(commitments(0, 4))
        assert writer.close(closing()) == 4
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
