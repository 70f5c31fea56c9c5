"""Payloads that are missing and come back, and an old database that is brought up from the public log."""

import shutil
import time
from pathlib import Path

import pytest

from ledger.batch import Header
from ledger.checkpoint import Checkpoint, parse_checkpoint
from ledger.entry import BatchEntry, parse_entry
from ledger.errors import LedgerError
from ledger.events import enrol
from ledger.note import NoteSigner
from ledger.tiles import format_bundle, parse_bundle, parse_tile_path
from ledger.writer import local
from ledger.writer.create import create_log, load_log_keys
from ledger.writer.files import read_file
from ledger.writer.keybook import KeyBook
from ledger.writer.local import LocalStorage
from ledger.writer.reader import PUBLIC, LocalReader
from ledger.writer.replay import Known, TooOldError, catch_up, sign_again
from ledger.writer.storage import Place, Recorded, StorageError, Submission
from tests.aggregator.devices import Device, registrar
from tests.aggregator.estate import submission

from .logs import NOW_NS, ORIGIN, commitments, fsck, grown, open_writer


def quiet(_done: int, _all: int) -> None:
    """Progress that nobody watches."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A new log."""
    create_log(tmp_path / "data", ORIGIN)
    return tmp_path / "data"


@pytest.fixture
def device() -> Device:
    """A device; nobody asks here whether it is enrolled."""
    return Device("wrist-1", 1)


def without_payload(item: Submission) -> Submission:
    return Submission(item.entry, item.place)


def test_batch_without_a_payload_is_missing_it_until_it_is_put_back(data: Path, device: Device) -> None:
    """It is listed newest first, put back once, and counted among those that came back, over a restart too."""
    batches = [submission(device.batch()) for _ in range(5)]
    with LocalStorage(data) as storage:
        storage.append([batches[0], *map(without_payload, batches[1:])])
        assert storage.missing_payload_count() == 4
        places = [Place(device.key_id, 0, seq) for seq in (4, 3, 2, 1)]
        assert storage.missing_payloads(device.key_id, 10) == places
        assert storage.missing_payloads(device.key_id, 2) == places[:2]
        assert storage.missing_payloads(bytes(32), 10) == []
        assert storage.put_payload(3, batches[3].payload)
        assert storage.put_payload(1, batches[1].payload)
        assert not storage.put_payload(3, batches[3].payload)
    with LocalStorage(data) as storage:
        assert storage.payload(3) == batches[3].payload
        assert storage.missing_payload_count() == 2
        assert storage.missing_payloads(device.key_id, 10) == [places[0], places[2]]
        assert storage.returned(0, 10) == [(1, 3), (2, 1)]
        assert storage.returned(1, 10) == [(2, 1)]


def test_payload_that_is_not_the_batchs_is_refused(data: Path, device: Device) -> None:
    """Another batch's leaves, garbage, and what stands where no batch or nothing is missing: nothing changes."""
    batches = [submission(device.batch(value=value)) for value in (70, 80)]
    with LocalStorage(data) as storage:
        storage.append([without_payload(batches[0]), batches[1], *commitments(0, 1)])
        for payload in (batches[1].payload, b"", b"garbage", batches[0].payload[:-1]):
            with pytest.raises(LedgerError):
                storage.put_payload(0, payload)
        assert storage.missing_payload_count() == 1
        assert not storage.put_payload(1, batches[1].payload)
        assert not storage.put_payload(2, b"")
        assert not storage.put_payload(99, b"")
        assert storage.put_payload(0, batches[0].payload)


class Old:
    """A log of `size` entries in `data`, and an older copy of it in `copy`, of which `kept` are in the database."""

    def __init__(self, tmp_path: Path, data: Path, device: Device, kept: int, more: int) -> None:
        self.data, self.copy = data, tmp_path / "copy"
        self.device = device
        self.checkpoints: list[Checkpoint] = []
        with LocalStorage(data) as storage:
            book = KeyBook(open_writer(storage, data), storage, time.monotonic)
            book.append([enrol(device.signer, registrar(data), ORIGIN)])
        self._grow(kept)
        shutil.copytree(data, self.copy)
        shutil.rmtree(self.copy / PUBLIC)
        for _ in range(3):
            self._grow(more)

    def _grow(self, count: int) -> None:
        with LocalStorage(self.data) as storage:
            writer = open_writer(storage, self.data)
            for batch in range(count):
                writer.append([submission(self.device.batch(1)), *commitments(batch, 1)])
            writer.publish()
            self.checkpoints.append(writer.checkpoint)
            self.note = writer.note

    def fetch(self, path: str) -> bytes | None:
        return read_file(self.data / PUBLIC, path)

    def published(self) -> Recorded:
        newest = self.checkpoints[-1]
        return Recorded(newest.size, newest.root, self.note, NOW_NS, published=True)

    def catch_up(self, *known: Checkpoint, fetch=None, published: Recorded | None = None) -> int:
        said = [Known(f"witness {number}", checkpoint) for number, checkpoint in enumerate(known)]
        sign = sign_again(load_log_keys(self.copy).signers, NOW_NS)
        with LocalStorage(self.copy) as storage:
            return catch_up(storage, said, published, fetch, sign, quiet)


@pytest.fixture
def old(tmp_path: Path, data: Path, device: Device) -> Old:
    """42 entries are in the copy, and 642 on the log: in the middle of a bundle, and of another."""
    return Old(tmp_path, data, device, 20, 100)


def entries(data: Path) -> list[bytes]:
    with LocalReader(data) as log:
        return list(log.entries(0, log.size()))


def test_old_copy_is_brought_up_to_the_published_checkpoint(old: Old) -> None:
    """The same entries at the same places, their payloads missing; the writer goes on, and the log is one log."""
    assert old.catch_up(*old.checkpoints, fetch=old.fetch, published=old.published()) == 600
    assert entries(old.copy) == entries(old.data)
    with LocalStorage(old.copy) as storage:
        assert storage.missing_payload_count() == 300
        assert storage.head_place(old.device.key_id) == Place(old.device.key_id, 0, 319)
        writer = open_writer(storage, old.copy)
        assert writer.checkpoint == old.checkpoints[-1]
        assert writer.note == old.note
        for batch in old.device.sealed[20:]:
            index, entry = storage.find(Place(old.device.key_id, 0, batch_seq(batch)))
            assert parse_entry(entry) == BatchEntry(batch.header, batch.signature)
            assert index == 2 + 2 * batch_seq(batch)
    grown(old.copy, 10)
    assert fsck(old.copy) == 652


def test_old_entry_is_proven_from_a_tree_that_was_made_again(old: Old) -> None:
    """The partial tiles of its first checkpoint are gone with the old tree: they are cut from the newest one's."""
    old.catch_up(*old.checkpoints, fetch=old.fetch, published=old.published())
    with LocalStorage(old.copy) as storage:
        open_writer(storage, old.copy)
        assert not (old.copy / PUBLIC / "tile/entries/000.p/42").exists()
        for index, size in ((3, 42), (600, 642)):
            tree = storage.tree(storage.first_covering(index))
            assert tree.size == size
            assert tree.prove_inclusion(index)
            assert [tree.entry(index)] == list(storage.entries(index, index + 1))


def batch_seq(batch) -> int:
    return Header.decode(batch.header).seq


def test_old_copy_that_is_brought_up_twice_is_as_if_it_was_once(old: Old) -> None:
    """Whoever does it again finds nothing to do."""
    old.catch_up(*old.checkpoints, fetch=old.fetch, published=old.published())
    assert old.catch_up(*old.checkpoints, fetch=old.fetch, published=old.published()) == 0
    assert old.catch_up(old.checkpoints[0]) == 0


def test_signed_checkpoint_that_is_not_published_waits_for_its_quorum_again(old: Old) -> None:
    """What only a witness has seen is signed again, as the same text, and published by the writer."""
    old.catch_up(old.checkpoints[-1], fetch=old.fetch)
    with LocalStorage(old.copy) as storage:
        recorded = storage.recorded()
        assert (recorded.size, recorded.root, recorded.published) == (642, old.checkpoints[-1].root, False)
        writer = open_writer(storage, old.copy)
        assert writer.checkpoint == old.checkpoints[-1]


def test_guard_that_knows_most_never_goes_back(old: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the published checkpoint and a newer one, it says what was signed; it may be alone in that."""
    written = []
    monkeypatch.setattr(local, "replace_file", lambda _path, text: written.append(text.decode()))
    *_, before, newest = old.checkpoints
    with LocalReader(old.data) as log:
        published = log.first_covering(before.size - 1)
    assert published is not None
    assert published.size == before.size
    old.catch_up(before, newest, fetch=old.fetch, published=published)
    assert [parse_checkpoint(text) for text in written] == [newest, newest]


def test_every_size_that_was_replayed_may_have_been_a_checkpoint(old: Old) -> None:
    """A device anchored to one that the backup never knew is no forger; not even where the public tree is damaged."""
    old.catch_up(*old.checkpoints, fetch=old.fetch, published=old.published())
    lost = old.checkpoints[1]
    with LocalStorage(old.copy) as storage:
        open_writer(storage, old.copy)
        assert storage.checkpoint_root(lost.size) == lost.root
        assert storage.checkpoint_root(lost.size + 1) not in (None, lost.root)
        assert storage.checkpoint_root(41) is None
        assert storage.checkpoint_root(643) is None
        shutil.rmtree(old.copy / PUBLIC / "tile")
        assert storage.checkpoint_root(lost.size) == lost.root


def test_replayed_checkpoint_counts_while_the_newest_waits_for_its_quorum(old: Old) -> None:
    """No batch is refused, and no fork cried, because witnesses are away after a restore."""
    old.catch_up(*old.checkpoints, fetch=old.fetch)
    with LocalStorage(old.copy) as storage:
        assert storage.published() != storage.recorded()
        for checkpoint in old.checkpoints:
            assert storage.checkpoint_root(checkpoint.size) == checkpoint.root


def test_missing_entries_leave_the_copy_too_old(old: Old) -> None:
    """No log, one that ends before, one with a hole: each is told, with who has seen more."""
    newest = old.checkpoints[-1]
    with pytest.raises(TooOldError, match="witness 0 has size 642, the backup 42 entries, and no log is named"):
        old.catch_up(newest)
    behind = Checkpoint(ORIGIN, newest.size + 100, bytes(32))
    with pytest.raises(TooOldError, match=r"has size 742, and the log that was named does not: tile/entries/002.p/230"):
        old.catch_up(newest, behind, fetch=old.fetch)


def test_other_entries_leave_the_copy_too_old(old: Old, tmp_path: Path) -> None:
    """A root that differs, before or behind the copy's end, is another history, whoever has it."""
    forged = Checkpoint(ORIGIN, 30, bytes(32))
    with pytest.raises(TooOldError, match="do not lead to the root that witness 1 has for size 30"):
        old.catch_up(old.checkpoints[-1], forged, fetch=old.fetch)

    def tampered(path: str) -> bytes | None:
        data = old.fetch(path)
        return data and (data[:-1] + bytes([data[-1] ^ 1]) if path.startswith("tile/entries/001") else data)

    shutil.rmtree(old.copy)
    shutil.copytree(old.data, old.copy)
    with pytest.raises(TooOldError, match="the root that witness 0"):
        old.catch_up(Checkpoint(ORIGIN, 642, bytes(32)))
    create_log(tmp_path / "empty", ORIGIN)
    shutil.rmtree(old.copy)
    (tmp_path / "empty").rename(old.copy)
    with pytest.raises(TooOldError, match="the root that witness 0"):
        old.catch_up(old.checkpoints[-1], fetch=tampered)


def test_garbage_in_the_log_is_no_entry(old: Old) -> None:
    """A mirror that serves other bytes leaves the copy too old, in words."""

    def garbage(path: str) -> bytes | None:
        return format_bundle([b"garbage"] * parse_tile_path(path).width)

    with pytest.raises(TooOldError, match="holds something that is no entry"):
        old.catch_up(old.checkpoints[-1], fetch=garbage)


@pytest.mark.parametrize("bundle", ["tile/entries/000", "tile/entries/001"])
def test_batch_that_stands_twice_in_the_log_leaves_the_copy_too_old(old: Old, bundle: str) -> None:
    """A mirror that serves one entry in the place of another is told like any that is not this log."""

    def twice(path: str) -> bytes | None:
        data = old.fetch(path)
        if data is None or path != bundle:
            return data
        entries = list(parse_bundle(data, parse_tile_path(path)))
        entries[101:103] = entries[99:101]
        return format_bundle(entries)

    with pytest.raises(TooOldError, match=r"the log that was named holds epoch 0 seq [0-9]+ of one key twice"):
        old.catch_up(old.checkpoints[-1], fetch=twice)


def test_frozen_log_is_written_by_nobody(data: Path) -> None:
    """The file says so, and the storage does not open."""
    (data / "frozen").write_text("")
    with pytest.raises(StorageError, match="this log is frozen"):
        LocalStorage(data)


def test_sign_again_signs_by_every_key(data: Path) -> None:
    """The note is one that the writer takes up."""
    signers = load_log_keys(data).signers
    recorded = sign_again(signers, NOW_NS)(Checkpoint(ORIGIN, 3, bytes(32)))
    assert (recorded.size, recorded.published, recorded.note.count(b"\n\xe2\x80\x94")) == (3, False, len(signers))
    assert isinstance(signers[0], NoteSigner)
