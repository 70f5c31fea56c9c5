"""Receipts: owed once, sent when covered, sent again from where a device says it stands."""

import pytest

from aggregator import outgoing as outgoing_module
from aggregator.outgoing import Outgoing, Owed
from ledger.batch import Anchor
from ledger.entry import BatchEntry
from ledger.note import parse_note
from ledger.policy import parse_policy
from ledger.receipt import MAX_MESSAGE, parse_message, verify_placed, verify_receipt
from ledger.writer.create import POLICY, load_log_keys
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter
from ledger.writer.storage import Place, Submission

from .devices import ORIGIN

KEY = bytes(32)


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


def owed(seq, index):
    return Owed(Place(KEY, 0, seq), index)


def due(outgoing, log):
    return [(device, parse_message(receipt.encode())) for device, receipt in outgoing.due(log.reader(), log.note)]


def test_receipt_waits_for_a_checkpoint_that_covers_its_batch(log, device):
    """Nothing is promised before it is public."""
    outgoing = Outgoing()
    index = append(log, device, 1)
    outgoing.owe("wrist-1", owed(0, index))
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
            outgoing.owe("wrist-1", owed(number, number))
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
        outgoing.owe("wrist-1", owed(number, append(log, device, 1)))
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
    outgoing.owe("wrist-1", owed(0, append(log, device, 1)))
    log.publish()
    [(_, receipt)] = due(outgoing, log)
    assert receipt.old_size == 0


def test_many_receipts_are_cut_to_the_size_of_a_message(log, device):
    """A backlog's receipts arrive in several messages, each within its limit, together all of them."""
    outgoing = Outgoing()
    first = append(log, device, 1000)
    for number in range(first, first + 1000):
        outgoing.owe("wrist-1", owed(number, number))
    log.publish()
    receipts = outgoing.due(log.reader(), log.note)
    assert all(len(receipt.encode()) <= MAX_MESSAGE for _, receipt in receipts)
    assert [item.index for _, receipt in receipts for item in receipt.placed] == list(range(first, first + 1000))
    assert parse_note(receipts[0][1].checkpoint).text.startswith(ORIGIN)


@pytest.fixture
def small(monkeypatch):
    """Room for ten receipts of a device."""
    monkeypatch.setattr(outgoing_module, "MAX_OWED", 10)
    return Outgoing()


def find_in(log, device, first):
    """Where the batches of `device`, appended from `first` on, are."""
    places = {seq: first + seq for seq in range(len(device.sealed))}
    return lambda place: (places[place.seq], b"") if place.epoch == 0 and place.seq in places else None


def test_long_outage_takes_bounded_memory_and_every_batch_gets_its_receipt(small, log, device):
    """While nothing is published a device goes on; afterwards the receipts follow, in order, each once."""
    first = append(log, device, 47)
    for seq in range(47):
        small.owe("wrist-1", owed(seq, first + seq))
    small.owe("wrist-1", owed(3, first + 3))
    small.owe("wrist-1", owed(40, first + 40))
    assert len(small._devices["wrist-1"].owed) == 10
    assert small.waiting() == 47
    find = find_in(log, device, first)
    small.refill(find, 0)
    assert small.waiting() == 47
    log.publish()
    seen = []
    for _ in range(5):
        seen += [item.seq for _, receipt in due(small, log) for item in receipt.placed]
        assert small.waiting() == 47 - len(seen)
        small.refill(find, log.checkpoint.size)
    assert seen == list(range(47))
    assert not small._devices["wrist-1"].behind


def test_batches_that_come_during_the_refill_are_not_forgotten(small, log, device):
    """What is committed while others still wait their turn comes after them."""
    first = append(log, device, 25)
    for seq in range(15):
        small.owe("wrist-1", owed(seq, first + seq))
    log.publish()
    assert [item.seq for _, receipt in due(small, log) for item in receipt.placed] == list(range(10))
    places = find_in(log, device, first)
    small.refill(lambda place: places(place) if place.seq < 15 else None, log.checkpoint.size)
    for seq in range(15, 25):
        small.owe("wrist-1", owed(seq, first + seq))
    assert small.waiting() == 15
    seen = []
    for _ in range(3):
        seen += [item.seq for _, receipt in due(small, log) for item in receipt.placed]
        small.refill(places, log.checkpoint.size)
    assert seen == list(range(10, 25))


def test_refill_follows_a_chain_into_its_next_epoch(small, log, device):
    """An outbox lost in the middle of an outage costs no receipts."""
    first = append(log, device, 14)
    where = {(0, seq): first + seq for seq in range(12)} | {(1, seq): first + 12 + seq for seq in range(2)}
    for (epoch, seq), index in where.items():
        small.owe("wrist-1", Owed(Place(KEY, epoch, seq), index))
    log.publish()
    due(small, log)
    small.refill(lambda at: (where[at.epoch, at.seq], b"") if (at.epoch, at.seq) in where else None, 14)
    assert [(item.epoch, item.seq) for _, receipt in due(small, log) for item in receipt.placed] == [
        (0, 10),
        (0, 11),
        (1, 0),
        (1, 1),
    ]


def test_device_that_speaks_while_its_proofs_are_made_gets_them_from_where_it_stands(log, device):
    """No lock is held meanwhile, so what it says counts, and the receipt that does not fit any more is not sent."""
    outgoing = Outgoing()
    outgoing.owe("wrist-1", owed(0, append(log, device, 1)))
    log.publish()
    due(outgoing, log)
    outgoing.owe("wrist-1", owed(1, append(log, device, 1)))
    log.publish()
    reader = log.reader()
    prove = reader.prove_consistency

    def heard_meanwhile(old):
        outgoing.heard("wrist-1", 0)
        return prove(old)

    reader.prove_consistency = heard_meanwhile
    assert outgoing.due(reader, log.note) == []
    [(_, receipt)] = due(outgoing, log)
    assert (receipt.old_size, [item.seq for item in receipt.placed]) == (0, [0, 1])
