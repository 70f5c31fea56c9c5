"""Receipts: what a device may rely on before it deletes."""

import pytest

from ledger.batch import Anchor
from ledger.entry import Erased
from ledger.errors import MalformedError, VerificationError
from ledger.messages import MAX_MESSAGE, ErasedBatch, ErasedNotice, Placed, Receipt, parse_message
from ledger.receipt import verify_erased, verify_placed, verify_receipt
from ledger.splitting import split_erased, split_receipts

from . import builders as b

POLICY = b.policy(b.policy_text())
ENTRIES = b.small_log(6)
HASHES = [b.hash_entry(entry) for entry in ENTRIES]


def root(size):
    """The root of the log's first `size` entries."""
    return b.naive_root(HASHES[:size])


def receipt(old=3, new=7, **cosigned):
    """A receipt that leads from size `old` to `new`."""
    consistency = b.naive_consistency(old, HASHES[:new]) if old else []
    note = b.checkpoint_note(new, root(new), **cosigned)
    placed = [Placed(0, at - 1, at, tuple(b.naive_path(at, HASHES[:new]))) for at in range(1, new)]
    return Receipt(note.encode(), old, tuple(consistency), tuple(placed))


def test_receipt_verified():
    """A receipt under the device's policy, consistent with what it had, shows each of its batches."""
    verified = verify_receipt(receipt(), POLICY, b.ORIGIN, Anchor(3, root(3)))
    assert (verified.size, verified.root) == (7, root(7))
    for item, batch in zip(receipt().placed, b.chain(6), strict=True):
        verify_placed(item, verified, batch.header, batch.signature)


def test_receipt_to_a_device_without_history():
    """A device's first receipt needs no consistency proof; later ones from size 0 need the hash of nothing."""
    assert verify_receipt(receipt(), POLICY, b.ORIGIN, None).size == 7
    assert verify_receipt(receipt(old=0), POLICY, b.ORIGIN, Anchor(0, root(0))).size == 7


def test_receipt_of_the_same_checkpoint():
    """The checkpoint that the device has needs no proof, whatever the receipt says of consistency."""
    assert verify_receipt(receipt(old=3), POLICY, b.ORIGIN, Anchor(7, root(7))).size == 7


@pytest.mark.parametrize(
    ("last", "match"),
    [
        (Anchor(7, bytes(32)), "a split view"),
        (Anchor(3, bytes(32)), "does not start at the old root"),
        (Anchor(2, root(2)), "consistency with size 3, not 2"),
        (Anchor(8, bytes(32)), "of size 7 is older than 8"),
        (Anchor(0, root(0)), "consistency with size 3, not 0"),
    ],
)
def test_receipt_that_does_not_extend_what_the_device_had(last, match):
    """Another root, another size, a shorter log."""
    with pytest.raises(VerificationError, match=match):
        verify_receipt(receipt(), POLICY, b.ORIGIN, last)


def test_receipt_of_a_log_that_shrank():
    """A checkpoint smaller than the device's own is refused, an honest proof the other way round included."""
    smaller = receipt(old=3, new=5)
    wrong = Receipt(smaller.checkpoint, 7, smaller.consistency, smaller.placed)
    with pytest.raises(VerificationError, match="of size 5 is older than 7"):
        verify_receipt(wrong, POLICY, b.ORIGIN, Anchor(7, root(7)))


def test_receipt_without_quorum():
    """The device's own policy decides, quorum included."""
    with pytest.raises(VerificationError, match="is not reached"):
        verify_receipt(receipt(), b.policy(b.two_of_three()), b.ORIGIN, None)
    cosigned = receipt(cosigned=[(b.HOSPITAL, 1), (b.PATIENTS, 2)])
    assert verify_receipt(cosigned, b.policy(b.two_of_three()), b.ORIGIN, None).size == 7


def test_receipt_from_another_log():
    """A log that the policy knows too, but that the device does not write to, gives no receipt."""
    both = b.policy(b.policy_text().replace("quorum", f"log {b.log_signer('other', 'other').verifier}\nquorum"))
    note = b.Checkpoint("other", 7, root(7)).sign(b.log_signer("other", "other"))
    with pytest.raises(VerificationError, match="is from other"):
        verify_receipt(Receipt(note.encode(), 0, (), ()), both, b.ORIGIN, None)


def test_receipt_with_a_checkpoint_that_is_none():
    """A receipt may carry any bytes as checkpoint; they are malformed only when they are verified."""
    odd = parse_message(Receipt(b"?", 0, (), ()).encode())
    with pytest.raises(MalformedError):
        verify_receipt(odd, POLICY, b.ORIGIN, None)


def test_batch_placed_elsewhere():
    """A batch is not shown by another's place, index, proof, header or signature."""
    verified = verify_receipt(receipt(), POLICY, b.ORIGIN, None)
    one, two = b.chain(6)[1:3]
    placed, other = receipt().placed[1:3]
    verify_placed(placed, verified, one.header, one.signature)
    for item, header, signature in (
        (other, one.header, one.signature),
        (placed, two.header, two.signature),
        (placed, one.header, two.signature),
        (Placed(0, 1, placed.index, other.inclusion), one.header, one.signature),
        (Placed(0, 1, other.index, placed.inclusion), one.header, one.signature),
        (Placed(0, 1, 2**64 - 1, placed.inclusion), one.header, one.signature),
    ):
        with pytest.raises(VerificationError):
            verify_placed(item, verified, header, signature)


@pytest.mark.parametrize("reason", [0, -1, 256])
def test_reject_for_no_reason(reason):
    """A reject has a reason from 1 to 255, for writer and reader."""
    with pytest.raises(MalformedError, match="reason"):
        parse_message(b.pack([1, 3, 0, 0, reason, ""]))


def test_receipts_of_no_batch():
    """A receipt may hold no batch: it still moves the device's checkpoint on."""
    (empty,) = split_receipts(receipt().checkpoint, 3, receipt().consistency, [])
    assert empty.placed == ()
    assert verify_receipt(empty, POLICY, b.ORIGIN, Anchor(3, root(3))).size == 7


def test_notice_of_an_erasure_is_verified_as_a_receipt_is():
    """The same demands on its checkpoint; then the entry is at its index, and nothing else is."""
    entry = Erased(2, (1,))
    hashes = [*HASHES, b.hash_entry(entry.encode())]
    size = len(hashes)
    note = b.checkpoint_note(size, b.naive_root(hashes)).encode()
    item = ErasedBatch(0, 1, size - 1, entry, tuple(b.naive_path(size - 1, hashes)))
    notice = ErasedNotice(note, 3, tuple(b.naive_consistency(3, hashes)), (item,))
    assert parse_message(notice.encode()) == notice
    checkpoint = verify_receipt(notice, POLICY, b.ORIGIN, Anchor(3, root(3)))
    verify_erased(item, checkpoint)
    with pytest.raises(VerificationError, match="consistency with size 3, not 2"):
        verify_receipt(notice, POLICY, b.ORIGIN, Anchor(2, root(2)))
    with pytest.raises(VerificationError, match="is not reached"):
        verify_receipt(notice, b.policy(b.two_of_three()), b.ORIGIN, None)
    for wrong in (
        ErasedBatch(0, 1, size - 1, Erased(2, (2,)), item.inclusion),
        ErasedBatch(0, 1, size - 1, Erased(3, (1,)), item.inclusion),
        ErasedBatch(0, 1, 2, entry, item.inclusion),
        ErasedBatch(0, 1, size, entry, item.inclusion),
        ErasedBatch(0, 1, size - 1, entry, item.inclusion[:-1]),
    ):
        with pytest.raises(VerificationError):
            verify_erased(wrong, checkpoint)


def test_notices_of_many_erasures_fit_messages():
    """Whole batches, the largest, with the longest proofs: each message is one, and all are there in order."""
    note = b.checkpoint_note(2**62, bytes(32)).encode()
    items = [ErasedBatch(0, at, 2**62, Erased(at, tuple(range(4096))), (bytes(32),) * 63) for at in range(20)]
    notices = split_erased(note, 2**61, (bytes(32),) * 63, items)
    assert [item for notice in notices for item in notice.batches] == items
    assert len(notices) > 4
    for notice in notices:
        assert len(notice.encode()) <= MAX_MESSAGE
        assert parse_message(notice.encode()) == notice
