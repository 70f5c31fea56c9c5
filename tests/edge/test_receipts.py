"""Receipts: only what verifies under the device's own policy lets a batch go."""

import dataclasses

import pytest

from edge.batcher import Limits
from edge.outbox import Outbox
from edge.receipts import MAX_EVIDENCE, Outcome, ReceiptBook
from edge.seal import Sealer
from ledger.batch import Anchor
from ledger.checkpoint import Checkpoint
from ledger.entry import BatchEntry
from ledger.messages import Receipt
from ledger.note import NoteSigner
from ledger.policy import parse_policy
from tests.edge.conftest import SOURCE_ID
from tests.edge.standin import LOG, ORIGIN, MemoryLog, policy
from tests.edge.test_outbox import delivery


@pytest.fixture
def outbox(directory, owner):
    outbox = Outbox(directory / "outbox.db", owner)
    outbox.register(SOURCE_ID, "a test")
    yield outbox
    outbox.close()


@pytest.fixture
def log():
    """The log that the device's policy names, with somebody's entry in it."""
    log = MemoryLog()
    log.append(b"somebody's entry")
    return log


@pytest.fixture
def book(outbox, directory):
    return ReceiptBook(outbox, policy(), ORIGIN, directory / "evidence")


@pytest.fixture
def seal_batch(outbox, signer, log):
    """Seals and logs one more batch; gives (epoch, seq, log index)."""

    def seal(into=log):
        outbox.accept([delivery(0, 3)])
        place = outbox.seal_next(Limits(10, 20_000, 1.0), Sealer(signer, ORIGIN)).place
        return (*place, into.append(BatchEntry(*outbox.unreceipted_at(place)[0][1:]).encode()))

    return seal


def test_verified_receipt_lets_the_batch_go(book, outbox, log, seal_batch):
    """The batch is receipted, and the checkpoint is our largest."""
    place = seal_batch()
    assert book.accept(log.receipt([place])) == Outcome(((0, 0),))
    assert (outbox.open_batches(), outbox.anchor()) == (0, Anchor(2, log.root()))


def test_receipts_follow_the_log_as_it_grows(book, outbox, log, seal_batch):
    """Each proves consistency from the last; a second portion under the same checkpoint needs no proof."""
    book.accept(log.receipt([seal_batch()]))
    places = [seal_batch(), seal_batch()]
    assert book.accept(log.receipt(places[:1], old_size=2)).receipted == ((0, 1),)
    assert book.accept(log.receipt(places[1:], old_size=2)).receipted == ((0, 2),)
    assert outbox.anchor().size == 4


def test_receipt_signed_by_another_key_is_not_believed(book, outbox, log, seal_batch):
    """The log's name under a stranger's signature is nothing."""
    place = seal_batch()
    log.signer = NoteSigner(ORIGIN, bytes(32))
    assert_refused(book.accept(log.receipt([place])), outbox, "no signature by a known key")


def test_receipt_of_another_log_is_not_believed(directory, outbox, log, seal_batch):
    """Even a log that the policy names: the device seals for one origin only."""
    other = NoteSigner("other.example/log", b"other".ljust(32, b"\0"))
    both = parse_policy(f"log {LOG.verifier}\nlog {other.verifier}\nquorum none\n".encode())
    book = ReceiptBook(outbox, both, ORIGIN, directory / "evidence")
    elsewhere = MemoryLog(other, "other.example/log")
    place = seal_batch(elsewhere)
    assert_refused(book.accept(elsewhere.receipt([place])), outbox, "not from log.example")


def test_receipt_without_the_quorum_is_not_believed(directory, outbox, log, seal_batch):
    """The device's policy asks for a witness; the log's own signature is not enough."""
    witness = (
        "witness.example+"
        + dataclasses.replace(LOG.verifier, name="witness.example", type=4).__str__().split("+", 1)[1]
    )
    strict = parse_policy(f"log {LOG.verifier}\nwitness w {witness}\nquorum w\n".encode())
    book = ReceiptBook(outbox, strict, ORIGIN, directory / "evidence")
    assert_refused(book.accept(log.receipt([seal_batch()])), outbox, "quorum")


def test_receipt_for_another_entry_is_not_believed(book, outbox, log, seal_batch):
    """A batch at the index of somebody else's entry stays; the others in the receipt go."""
    epoch, seq, _ = seal_batch()
    good = seal_batch()
    outcome = book.accept(log.receipt([(epoch, seq, 0), good]))
    assert outcome.receipted == ((0, 1),)
    assert "batch 0/0" in outcome.fault
    assert outbox.open_batches() == 1


def test_receipt_for_unknown_batches_is_ignored(book, outbox, log, seal_batch):
    """A repeated answer, or one for a batch that was deleted, is no fault."""
    place = seal_batch()
    receipt = log.receipt([place, (7, 7, 0), (0, 2**64 - 1, 0)])
    assert book.accept(receipt) == Outcome(((0, 0),))
    assert book.accept(receipt) == Outcome()


def test_batch_named_twice_in_a_receipt_counts_once(book, outbox, log, seal_batch):
    """Whoever counts open batches by the outcome must not come to minus one."""
    place = seal_batch()
    assert book.accept(log.receipt([place, place])) == Outcome(((0, 0),))
    assert outbox.open_batches() == 0


@pytest.mark.parametrize("size", [2**63, 2**64 - 1])
def test_checkpoint_larger_than_any_log_is_a_fault(book, outbox, seal_batch, size):
    """A log may sign any size; ours must not end in an OverflowError over it."""
    seal_batch()
    huge = Receipt(Checkpoint(ORIGIN, size, bytes(32)).sign(LOG).encode(), 0, (), ())
    assert_refused(book.accept(huge), outbox, "larger than any log")
    assert outbox.anchor() is None


def test_proof_from_another_size_is_stale(book, outbox, log, seal_batch):
    """Nothing is wrong, nothing is proven: the aggregator has to answer from our size."""
    book.accept(log.receipt([seal_batch()]))
    place = seal_batch()
    assert book.accept(log.receipt([place], old_size=1)) == Outcome(stale=True)
    assert book.accept(log.receipt([place], old_size=2)).receipted == ((0, 1),)


def test_older_checkpoint_is_stale(book, log, seal_batch):
    """A receipt that was overtaken by a later one is asked for again."""
    first, second = seal_batch(), seal_batch()
    late = log.receipt([first], size=2)
    book.accept(log.receipt([second]))
    assert book.accept(late) == Outcome(stale=True)


def test_inconsistent_log_is_not_believed(book, outbox, log, seal_batch, directory):
    """A larger checkpoint that does not extend ours is refused; without two roots for one size it convicts nobody."""
    book.accept(log.receipt([seal_batch()]))
    fork = MemoryLog()
    fork.append(b"another first entry")
    fork.append(b"another second entry")
    place = seal_batch(fork)
    assert_refused(book.accept(fork.receipt([place], old_size=2)), outbox, "consistency proof")
    assert not (directory / "evidence").exists()


def test_split_view_becomes_evidence(book, outbox, log, seal_batch, directory, caplog):
    """Two roots for one size: both signed checkpoints are kept, once, and the batch is not let go."""
    book.accept(log.receipt([seal_batch()]))
    fork = MemoryLog()
    fork.append(b"another first entry")
    place = seal_batch(fork)
    for _ in range(2):
        assert_refused(book.accept(fork.receipt([place])), outbox, "split view")
    (evidence,) = (directory / "evidence").iterdir()
    data = evidence.read_bytes()
    assert log.checkpoint(2) in data
    assert fork.checkpoint() in data
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]


def test_evidence_is_bounded(book, outbox, log, seal_batch, directory):
    """A log that goes on contradicting itself cannot fill the disk."""
    book.accept(log.receipt([seal_batch()]))
    for number in range(MAX_EVIDENCE + 5):
        fork = MemoryLog()
        fork.append(b"fork")
        fork.append(f"{number}".encode())
        assert book.accept(fork.receipt([])).fault
    assert len(list((directory / "evidence").iterdir())) == MAX_EVIDENCE


@pytest.mark.parametrize("checkpoint", [b"x", b"\n\n", b"not a checkpoint\n\n\xe2\x80\x94 a AAAAAAA=\n"])
def test_malformed_checkpoint_is_not_believed(book, outbox, log, seal_batch, checkpoint):
    """Whatever stands where the checkpoint should, the answer is a fault and never an exception."""
    receipt = dataclasses.replace(log.receipt([seal_batch()]), checkpoint=checkpoint)
    assert_refused(book.accept(receipt), outbox, "checkpoint")


def assert_refused(outcome, outbox, fault):
    """Nothing was receipted, and the fault is named."""
    assert (outcome.receipted, outcome.stale, outbox.unreceipted(9)) == ((), False, ([], False))
    assert fault in outcome.fault
    assert outbox.open_batches() == 1
