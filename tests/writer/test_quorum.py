"""Publishing waits for a quorum: what goes on meanwhile, what is offered again, and what a start asks first."""

import os
import shutil
from pathlib import Path

import pytest

from ledger.checkpoint import Checkpoint, parse_checkpoint
from ledger.merkle import EMPTY_ROOT
from ledger.note import ED25519_COSIGNATURE, ML_DSA_44, Note, NoteSigner, parse_note
from ledger.writer.create import create_log, load_log_keys, retire_key, write_key
from ledger.writer.local import LocalStorage
from ledger.writer.log import RENEW_AFTER_NS
from ledger.writer.reader import PUBLIC
from ledger.writer.storage import StorageError

from .logs import NOW_NS, ORIGIN, commitments, fsck, open_writer
from .quorum import BOTH, WITNESSES, Cosigners


@pytest.fixture
def data(tmp_path: Path) -> Path:
    create_log(tmp_path / "data", ORIGIN, witnesses=WITNESSES)
    return tmp_path / "data"


@pytest.fixture
def quorum() -> Cosigners:
    return Cosigners()


def offered_sizes(quorum: Cosigners) -> list[int]:
    return [parse_checkpoint(note.text).size for note in quorum.offered]


def public_note(data: Path) -> Note:
    return parse_note((data / PUBLIC / "checkpoint").read_bytes())


def test_without_a_quorum_one_checkpoint_waits_and_entries_go_on(data: Path, quorum: Cosigners) -> None:
    """Closed on publishing, open on ingest: nothing new is public or signed, everything is committed."""
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data, quorum=quorum)
        quorum.silent, quorum.offered = BOTH, []
        for count in (3, 2, 400):
            writer.append(commitments(writer.size, count))
            assert not writer.publish()
            assert (writer.waiting, writer.checkpoint.size, fsck(data)) == (3, 0, 0)
        assert writer.size == 405
        assert quorum.offered == [quorum.offered[0]] * 3
        waiting = storage.recorded()
        assert (waiting.size, waiting.published, waiting.note) == (3, False, quorum.offered[0].encode())
        quorum.silent = frozenset()
        assert [writer.publish() for _ in range(3)] == [True, True, False]
        assert offered_sizes(quorum)[3:] == [3, 405]
        assert writer.waiting is None
        assert writer.reader().size == fsck(data) == 405
        assert [storage.checkpoint_root(size) is not None for size in (3, 5, 405)] == [True, False, True]
        assert storage.first_covering(0).size == 3


def test_published_checkpoint_is_the_one_that_waited(data: Path, quorum: Cosigners) -> None:
    """What the log signed once is what becomes public: the same text and the same lines, the witnesses' after them."""
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data, quorum=quorum)
        writer.append(commitments(0, 3))
        quorum.silent, quorum.offered = BOTH, []
        writer.publish()
        quorum.silent = frozenset()
        writer.publish()
        (first, _) = quorum.offered
        assert public_note(data).text == first.text
        assert public_note(data).signatures[:2] == first.signatures
        assert len(public_note(data).signatures) == 4
        assert writer.note == storage.published().note == public_note(data).encode()


def test_answers_of_several_rounds_make_up_a_quorum(data: Path, quorum: Cosigners) -> None:
    """A witness that answered is not asked for the same line again because another was away."""
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data, quorum=quorum)
        writer.append(commitments(0, 3))
        quorum.silent = {ED25519_COSIGNATURE}
        assert not writer.publish()
        quorum.silent = {ML_DSA_44}
        assert writer.publish()
    assert fsck(data) == 3


@pytest.mark.parametrize("back", [True, False], ids=["the quorum is back", "it is not"])
def test_crash_with_a_waiting_checkpoint_offers_the_same_bytes(data: Path, quorum: Cosigners, *, back: bool) -> None:
    """A witness may have it already: after a restart it is that one and no other that is offered."""
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data, quorum=quorum)
        writer.append(commitments(0, 3))
        quorum.silent, quorum.offered = BOTH, []
        writer.publish()
        writer.append(commitments(3, 7))
    (signed,) = quorum.offered
    quorum.silent = frozenset() if back else BOTH
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data, quorum=quorum)
        assert quorum.offered == [signed, signed]
        assert (writer.waiting, writer.checkpoint.size) == ((None, 3) if back else (3, 0))
        assert fsck(data) == writer.checkpoint.size
        quorum.silent = frozenset()
        while writer.publish():
            pass
    assert fsck(data) == 10


@pytest.mark.parametrize("harm", ["gone", "the published tree's partial tiles gone"])
def test_published_tree_is_whole_while_the_next_waits(data: Path, quorum: Cosigners, harm: str) -> None:
    """A public directory that was lost comes back as it was published, not only as it will be."""
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data, quorum=quorum)
        writer.append(commitments(0, 300))
        writer.publish()
        quorum.silent = BOTH
        writer.append(commitments(300, 30))
        writer.publish()
    public = data / PUBLIC
    if harm == "gone":
        shutil.rmtree(public)
    else:
        for path in public.rglob("*.p/44"):
            path.unlink()
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data, quorum=quorum)
        assert (writer.checkpoint.size, writer.waiting) == (300, 330)
        writer.reader().prove_inclusion(299)
        assert fsck(data) == 300
        quorum.silent = frozenset()
        assert writer.publish()
    assert fsck(data) == 330


def test_nothing_is_signed_before_the_witnesses_have_answered(data: Path) -> None:
    """A database that was restored knows nothing of what was signed since; only witnesses can say that all is well."""
    quorum = Cosigners(answers=False)
    with LocalStorage(data) as storage:
        for _ in range(2):
            writer = open_writer(storage, data, quorum=quorum)
            writer.append(commitments(writer.size, 4))
            assert not writer.publish()
        assert (writer.size, writer.waiting, storage.recorded()) == (8, None, None)
        assert quorum.offered == []
        assert not (data / PUBLIC / "checkpoint").exists()
        quorum.answers = True
        assert writer.publish()
    assert fsck(data) == 8


def test_waiting_checkpoint_is_not_offered_before_the_witnesses_have_answered(data: Path, quorum: Cosigners) -> None:
    """After a restart even what is signed already waits for the answer."""
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data, quorum=quorum)
        writer.append(commitments(0, 3))
        quorum.silent = BOTH
        writer.publish()
    quorum.silent, quorum.answers, quorum.offered = frozenset(), False, []
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data, quorum=quorum)
        assert not writer.publish()
        assert (quorum.offered, writer.waiting) == ([], 3)
        quorum.answers = True
        assert writer.publish()
    assert fsck(data) == 3


@pytest.mark.parametrize("size", [3, 4], ids=["another root", "a larger size"])
def test_start_ends_where_a_witness_has_seen_more(data: Path, quorum: Cosigners, size: int) -> None:
    """Going on would fork the log, so the start ends, and nothing is signed."""
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data, quorum=quorum)
        writer.append(commitments(0, 3))
        writer.publish()
        before = storage.recorded()
    quorum.seen, quorum.offered = Checkpoint(ORIGIN, size, bytes(32)), []
    with LocalStorage(data) as storage:
        with pytest.raises(StorageError, match=f"the witness hospital has cosigned a checkpoint of size {size}"):
            open_writer(storage, data, quorum=quorum)
        assert storage.recorded() == before
    assert quorum.offered == []
    assert fsck(data) == 3


class Clock:
    """The log's clock."""

    def __init__(self) -> None:
        self.now_ns = NOW_NS

    def __call__(self) -> int:
        return self.now_ns


def test_idle_log_signs_anew_at_most_every_ten_minutes(data: Path, quorum: Cosigners) -> None:
    """The public file shows that the log is alive; proofs keep the first note, which shows the earliest time."""
    clock = Clock()
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data, clock, quorum)
        writer.append(commitments(0, 3))
        writer.publish()
        first = public_note(data)
        quorum.offered = []
        shown = []
        for _ in range(25):  # an hour and more, looked at every 150 seconds
            clock.now_ns += RENEW_AFTER_NS // 4
            quorum.time_s += RENEW_AFTER_NS // 4 // 10**9
            assert not writer.publish()
            shown.append(public_note(data))
            assert fsck(data) == 3
        assert [shown.index(note) for note in quorum_notes(shown)] == [0, 3, 7, 11, 15, 19, 23]
        assert len(quorum.offered) == 6
        assert {note.text for note in shown} == {first.text}
        assert writer.note == storage.recorded().note == storage.first_covering(2).note == first.encode()
        assert (writer.checkpoint.size, writer.waiting) == (3, None)


def quorum_notes(notes: list[Note]) -> list[Note]:
    """Each once, in order."""
    return list(dict.fromkeys(notes))


def test_idle_log_without_a_quorum_leaves_its_checkpoint_as_it_is(data: Path, quorum: Cosigners) -> None:
    """A note that no quorum cosigned anew would satisfy no policy; witnesses are asked again a minute later."""
    clock = Clock()
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data, clock, quorum)
        writer.append(commitments(0, 3))
        writer.publish()
        before = public_note(data)
        quorum.silent, quorum.offered = BOTH, []
        for _ in range(14):
            clock.now_ns += 60 * 10**9
            writer.publish()
            writer.publish()
        assert len(quorum.offered) == 5
        assert public_note(data) == before
        writer.append(commitments(3, 1))
        quorum.silent = frozenset()
        assert writer.publish()
    assert fsck(data) == 4


def test_restart_of_an_idle_log_signs_anew_only_when_that_is_due(data: Path, quorum: Cosigners) -> None:
    """A program that is started again and again does not sign again and again."""
    clock = Clock()
    with LocalStorage(data) as storage:
        open_writer(storage, data, clock, quorum)
    first, quorum.offered = public_note(data), []
    for passed_ns, anew in ((1, 0), (RENEW_AFTER_NS - 2, 0), (1, 1)):
        clock.now_ns += passed_ns
        with LocalStorage(data) as storage:
            open_writer(storage, data, clock, quorum)
        assert len(quorum.offered) == anew
        assert (public_note(data) == first) is (anew == 0)


def test_log_of_no_entries_has_its_quorum_too(data: Path, quorum: Cosigners) -> None:
    """The first checkpoint is of size 0, cosigned like every other."""
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data, quorum=quorum)
        assert writer.checkpoint == Checkpoint(ORIGIN, 0, EMPTY_ROOT)
    assert fsck(data) == 0


def test_waiting_checkpoint_is_signed_by_new_keys(data: Path, quorum: Cosigners) -> None:
    """Whoever knows only the keys that sign now can cosign what was signed before they changed."""
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data, quorum=quorum)
        quorum.silent = BOTH
        writer.append(commitments(0, 3))
        assert not writer.publish()
        waiting = storage.recorded()
    old = load_log_keys(data).signers
    for signer in old:
        write_key(data, NoteSigner(signer.verifier.name, os.urandom(32), signer.verifier.type))
        retire_key(data, signer.verifier)
    quorum.silent, quorum.offered = frozenset(), []
    with LocalStorage(data) as storage:
        open_writer(storage, data, quorum=quorum)
        signers = load_log_keys(data).signers
        assert all(offered.by(signer.verifier) for offered in quorum.offered for signer in signers)
        published = storage.published()
    assert published.size == 3
    assert parse_checkpoint(quorum.offered[0].text) == Checkpoint(ORIGIN, waiting.size, waiting.root)
