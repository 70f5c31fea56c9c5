"""The guard: a database that was restored from an old copy is refused, wherever the newer truth is."""

import shutil
from pathlib import Path

import pytest

from ledger.checkpoint import parse_checkpoint
from ledger.writer.create import create_log
from ledger.writer.database import DATABASE
from ledger.writer.local import GUARD, LocalStorage
from ledger.writer.reader import PUBLIC
from ledger.writer.storage import StorageError

from .logs import NOW_NS, ORIGIN, commitments, fsck, grown, open_writer


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A log of ten entries, all published."""
    create_log(tmp_path / "data", ORIGIN)
    grown(tmp_path / "data", 10)
    return tmp_path / "data"


class Copy:
    """What was in a log's directory at one time, to be put back piece by piece."""

    def __init__(self, data: Path, beside: Path) -> None:
        self._data = data
        self._kept = beside / "copy"
        shutil.copytree(data, self._kept)

    def restore(self, *names: str) -> None:
        for name in names:
            old, new = self._kept / name, self._data / name
            if old.is_dir():
                shutil.rmtree(new)
                shutil.copytree(old, new)
            else:
                shutil.copy(old, new)
        if DATABASE in names:
            for suffix in ("-wal", "-shm"):
                (self._data / (DATABASE + suffix)).unlink(missing_ok=True)


def refused(data: Path, says: str) -> None:
    """A start is refused in these words, twice, and nothing that was there has changed."""
    before = contents(data)
    for _ in range(2):
        with LocalStorage(data) as storage, pytest.raises(StorageError, match=says):
            open_writer(storage, data)
    assert contents(data) == before


def contents(data: Path) -> dict[Path, bytes]:
    kept = [data / GUARD, *(data / PUBLIC).rglob("*")]
    return {path: path.read_bytes() for path in kept if path.is_file()}


def test_guard_is_the_newest_signed_checkpoint(data: Path) -> None:
    """Origin, size and root, in the three lines of a checkpoint."""
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data)
        writer.append(commitments(10, 1))
        writer.publish()
        assert parse_checkpoint((data / GUARD).read_text()) == writer.checkpoint


def test_start_refuses_a_missing_guard(data: Path) -> None:
    """Whoever takes the guard away is told what it is for and what to do."""
    (data / GUARD).unlink()
    with LocalStorage(data) as storage, pytest.raises(StorageError, match=r"No such file .* mount its volume"):
        open_writer(storage, data)


def test_lost_guard_is_made_again_by_hand_as_the_message_says(data: Path) -> None:
    """The first three lines of the newest checkpoint are a guard."""
    (data / GUARD).unlink()
    lines = (data / PUBLIC / "checkpoint").read_text().splitlines(keepends=True)
    (data / GUARD).write_text("".join(lines[:3]))
    grown(data, 5)
    assert fsck(data) == 15


@pytest.mark.parametrize("text", [b"", b"hello\n", b"test.example/log\n10\n", b"\xff\xfe\n1\n2\n"])
def test_start_refuses_a_guard_that_is_none(data: Path, text: bytes) -> None:
    """A guard of which nothing can be read guards nothing."""
    (data / GUARD).write_bytes(text)
    refused(data, "the guard does not hold a checkpoint")


def test_start_refuses_the_guard_of_another_log(data: Path, tmp_path: Path) -> None:
    """A volume that was mounted in the wrong place is named."""
    create_log(tmp_path / "other", "other.example/log")
    shutil.copy(tmp_path / "other" / GUARD, data / GUARD)
    refused(data, "the guard is that of the log 'other.example/log', not of test.example/log")


def test_start_refuses_an_old_database_by_its_guard(data: Path, tmp_path: Path) -> None:
    """Database and public tree restored together agree with each other; the guard knows better."""
    old = Copy(data, tmp_path)
    grown(data, 10)
    old.restore(DATABASE, PUBLIC)
    refused(data, "the guard of size 20 is ahead of the database at 10: the database is an old copy")


def test_start_refuses_an_old_database_by_its_public_checkpoint(data: Path, tmp_path: Path) -> None:
    """Database and guard restored together: what the world has seen knows better."""
    old = Copy(data, tmp_path)
    grown(data, 10)
    old.restore(DATABASE, GUARD)
    refused(data, "the published checkpoint of size 20 is ahead of the database at 10")


def test_start_refuses_an_old_database_that_went_on(data: Path, tmp_path: Path) -> None:
    """Entries that came after a rollback do not hide it: their checkpoint has another root for the guard's size."""
    old = Copy(data, tmp_path)
    grown(data, 10)
    newer = Copy(data, tmp_path / "newer")
    old.restore(DATABASE, GUARD, PUBLIC)
    for count in (10, 12):
        with LocalStorage(data) as storage:
            writer = open_writer(storage, data)
            writer.append(commitments(1000, count))
            writer.publish()
        forked = Copy(data, tmp_path / f"forked-{count}")
        newer.restore(GUARD)
        refused_anyhow(data, "the guard of size 20 has not this log's root")
        forked.restore(GUARD, PUBLIC)
        newer.restore(PUBLIC)
        refused_anyhow(data, "the published checkpoint of size 20 has not this log's root")
        forked.restore(GUARD, PUBLIC)


def refused_anyhow(data: Path, says: str) -> None:
    """A start is refused in these words; before that the public tree may have been made again from the database."""
    with LocalStorage(data) as storage, pytest.raises(StorageError, match=says):
        open_writer(storage, data)


def test_start_refuses_a_database_without_checkpoints_whose_guard_has_one(data: Path, tmp_path: Path) -> None:
    """The oldest copy of all: from before the first checkpoint."""
    create_log(tmp_path / "new", ORIGIN)
    shutil.copy(tmp_path / "new" / DATABASE, data / DATABASE)
    refused(data, "a checkpoint of size 10 was signed and is not in the database: restore the database")
    (data / PUBLIC / "checkpoint").unlink()
    refused(data, "a checkpoint of size 10 was signed and is not in the database: restore the database")


def test_guard_that_a_crash_left_behind_is_brought_up(data: Path, tmp_path: Path) -> None:
    """Between recording and guarding lies a moment: a guard that is a prefix of the log is no fault."""
    old = Copy(data, tmp_path)
    grown(data, 10)
    old.restore(GUARD)
    grown(data, 1)
    assert parse_checkpoint((data / GUARD).read_text()).size == fsck(data) == 21


def test_guard_on_another_volume(tmp_path: Path) -> None:
    """Where the configuration says, and nowhere else: a database rolled back with its whole directory is refused."""
    data, volume = tmp_path / "data", tmp_path / "volume"
    volume.mkdir()
    create_log(data, ORIGIN, guard=volume / "guard")
    guarded_grow(data, volume / "guard", 10)
    shutil.copytree(data, tmp_path / "copy")
    guarded_grow(data, volume / "guard", 10)
    assert not (data / GUARD).exists()
    assert parse_checkpoint((volume / "guard").read_text()).size == fsck(data) == 20
    shutil.rmtree(data)
    shutil.copytree(tmp_path / "copy", data)
    with (
        LocalStorage(data, volume / "guard") as storage,
        pytest.raises(StorageError, match="the guard of size 20 is ahead of the database at 10"),
    ):
        open_writer(storage, data)
    with LocalStorage(data) as storage, pytest.raises(StorageError, match=f"{data / GUARD}: No such file"):
        open_writer(storage, data)


def guarded_grow(data: Path, guard: Path, count: int) -> None:
    with LocalStorage(data, guard) as storage:
        writer = open_writer(storage, data, lambda: NOW_NS)
        writer.append(commitments(writer.size, count))
        writer.publish()


def test_new_log_is_not_made_over_another_logs_guard(data: Path, tmp_path: Path) -> None:
    """A volume that guards one log is not taken for another."""
    before = (data / GUARD).read_bytes()
    with pytest.raises(StorageError, match=f"{data / GUARD}: is there"):
        create_log(tmp_path / "second", "second.example/log", guard=data / GUARD)
    assert (data / GUARD).read_bytes() == before
    assert not (tmp_path / "second" / DATABASE).exists()
