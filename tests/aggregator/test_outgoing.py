"""Receipts: owed once, sent when covered, sent again from where a device says it stands."""

import pytest

from aggregator.outgoing import Outgoing, Owed
from ledger.batch import Anchor
from ledger.entry import BatchEntry
from ledger.note import parse_note
from ledger.policy import parse_policy
from ledger.receipt import MAX_MESSAGE, parse_message, verify_placed, verify_receipt
from ledger.writer.create import POLICY, load_log_keys
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter
from ledger.writer.storage import Submission

from .devices import ORIGIN


@pytest.fixture
def log(data):
    with LocalStorage(data) as storage:
        yield LogWriter(storage, load_log_keys(data).signers, lambda: 2**60)


def append(log, device, count):
    entries = []
    for _ in range(count):
        device.batch()
        entries.append(BatchEntry(device.sealed[-1].header, device.sealed[-1].signature))
    return log.append([Submission(entry.encode()) for entry in entries])


def due(outgoing, log):
    return [(device, parse_message(receipt.encode())) for device, receipt in outgoing.due(log.reader(), log.note)]


def test_receipt_waits_for_a_checkpoint_that_covers_its_batch(log, device):
    """Nothing is promised before it is public."""
    outgoing = Outgoing()
    index = append(log, device, 1)
    outgoing.owe("wrist-1", Owed(0, 0, index))
    assert due(outgoing, log) == []
    assert outgoing.waiting() == 1
    log.publish()
    [(name, receipt)] = due(outgoing, log)
    assert (name, [item.index for item in receipt.placed]) == ("wrist-1", [index])
    assert outgoing.waiting() == 0
    assert due(outgoing, log) == []


def test_receipts_verify_under_the_devices_own_policy(log, data, device):
    """Each receipt proves inclusion, and consistency with the checkpoint before it."""
    policy = parse_policy((data / POLICY).read_bytes())
    outgoing, last = Outgoing(), None
    for _ in range(4):
        first = append(log, device, 3)
        for number in range(first, first + 3):
            outgoing.owe("wrist-1", Owed(0, number, number))
        log.publish()
        [(_, receipt)] = due(outgoing, log)
        checkpoint = verify_receipt(receipt, policy, ORIGIN, last)
        last = Anchor(checkpoint.size, checkpoint.root)
        for item in receipt.placed:
            verify_placed(item, checkpoint, device.sealed[item.seq].header, device.sealed[item.seq].signature)


def test_device_that_missed_a_receipt_gets_it_again_from_its_own_size(log, data, device):
    """A device says which checkpoint it has; receipts since then are sent again, consistent from there."""
    policy = parse_policy((data / POLICY).read_bytes())
    outgoing = Outgoing()
    for number in range(3):
        outgoing.owe("wrist-1", Owed(0, number, append(log, device, 1)))
        log.publish()
        messages = due(outgoing, log)
    assert messages[0][1].old_size == 2
    outgoing.heard("wrist-1", 0)
    [(_, receipt)] = due(outgoing, log)
    assert [item.seq for item in receipt.placed] == [0, 1, 2]
    assert receipt.old_size == 0
    assert verify_receipt(receipt, policy, ORIGIN, None).size == 3
    outgoing.heard("wrist-1", 3)
    assert due(outgoing, log) == []


def test_device_that_claims_a_larger_checkpoint_is_still_answered(log, device):
    """What it makes of the answer is its business; ours is not to fail."""
    outgoing = Outgoing()
    outgoing.heard("wrist-1", 10**9)
    outgoing.owe("wrist-1", Owed(0, 0, append(log, device, 1)))
    log.publish()
    [(_, receipt)] = due(outgoing, log)
    assert receipt.old_size == 0


def test_many_receipts_are_cut_to_the_size_of_a_message(log, device):
    """A backlog's receipts arrive in several messages, each within its limit, together all of them."""
    outgoing = Outgoing()
    first = append(log, device, 1500)
    for number in range(first, first + 1500):
        outgoing.owe("wrist-1", Owed(0, number, number))
    log.publish()
    receipts = outgoing.due(log.reader(), log.note)
    assert all(len(receipt.encode()) <= MAX_MESSAGE for _, receipt in receipts)
    assert [item.index for _, receipt in receipts for item in receipt.placed] == list(range(first, first + 1500))
    assert parse_note(receipts[0][1].checkpoint).text.startswith(ORIGIN)
