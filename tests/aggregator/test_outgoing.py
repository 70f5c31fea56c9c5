"""Receipts: owed once, sent when covered, sent again from where a device says it stands."""

import pytest

from aggregator import outgoing as outgoing_module
from aggregator.outgoing import Outgoing, Owed, since
from ledger.batch import Anchor, Notice, NoticeKind
from ledger.entry import BatchEntry
from ledger.messages import MAX_MESSAGE, parse_message
from ledger.note import parse_note
from ledger.policy import parse_policy
from ledger.receipt import verify_placed, verify_receipt
from ledger.writer.create import POLICY, load_log_keys
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter
from ledger.writer.storage import Place, Submission

from .devices import ORIGIN
from .hands import by_hand

KEY = bytes(32)


class Gone:
    """Witnesses that have seen nothing else, and cosign nothing."""

    def cosign(self, note, _prove):
        return note

    def satisfied(self, _note):
        return False

    def confirm(self, _checkpoint, _root_at):
        return True

    def states(self):
        return []


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
    assert outgoing.heard("wrist-1", 0)
    chain = unbroken(0, 3)
    outgoing.owe_since("wrist-1", *since(0, Place(KEY, 0, 2), chain.find))
    assert outgoing.waiting() == 3
    outgoing.refill(chain.follow, 3)
    [(_, receipt)] = due(outgoing, log)
    assert [item.seq for item in receipt.placed] == [0, 1, 2]
    assert receipt.old_size == 0
    assert verify_receipt(receipt, policy, ORIGIN, None).size == 3
    assert not outgoing.heard("wrist-1", 3)
    assert since(3, Place(KEY, 0, 2), chain.find) is None
    assert (due(outgoing, log), outgoing.waiting()) == ([], 0)


def test_device_that_claims_a_larger_checkpoint_is_still_answered(log, device):
    """What it makes of the answer is its business; ours is not to fail."""
    outgoing = Outgoing()
    outgoing.heard("wrist-1", 10**9)
    outgoing.owe("wrist-1", owed(0, append(log, device, 1)))
    log.publish()
    [(_, receipt)] = due(outgoing, log)
    assert receipt.old_size == 0


def test_many_receipts_are_cut_to_the_size_of_a_message(log, device, monkeypatch):
    """A backlog's receipts arrive in several messages, each within its limit, together all of them."""
    monkeypatch.setattr(outgoing_module, "MAX_OWED", 1000)
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


class Chain:
    """Where the batches of a device are, in order: index by epoch and sequence number."""

    def __init__(self, indexes):
        self.indexes = indexes
        self.found = 0

    def find(self, place):
        self.found += 1
        index = self.indexes.get((place.epoch, place.seq))
        return None if index is None else (index, b"")

    def follow(self, place, limit):
        after = [at for at in self.indexes if at > (place.epoch, place.seq)]
        return [(self.indexes[at], Place(place.key_id, *at)) for at in after[:limit]]


def unbroken(first, count):
    """Appended from `first` on, in one epoch."""
    return Chain({(0, seq): first + seq for seq in range(count)})


def test_long_outage_takes_bounded_memory_and_every_batch_gets_its_receipt(small, log, device):
    """While nothing is published a device goes on; afterwards the receipts follow, in order, each once."""
    first = append(log, device, 47)
    for seq in range(47):
        small.owe("wrist-1", owed(seq, first + seq))
    small.owe("wrist-1", owed(3, first + 3))
    small.owe("wrist-1", owed(40, first + 40))
    assert len(small._devices["wrist-1"].owed) == 10
    assert small.waiting() == 47
    follow = unbroken(first, 47).follow
    small.refill(follow, 0)
    assert small.waiting() == 47
    log.publish()
    seen = []
    for _ in range(5):
        seen += [item.seq for _, receipt in due(small, log) for item in receipt.placed]
        assert small.waiting() == 47 - len(seen)
        small.refill(follow, log.checkpoint.size)
    assert seen == list(range(47))
    assert not small._devices["wrist-1"].behind


def test_batches_that_come_during_the_refill_are_not_forgotten(small, log, device):
    """What is committed while others still wait their turn comes after them."""
    first = append(log, device, 25)
    for seq in range(15):
        small.owe("wrist-1", owed(seq, first + seq))
    log.publish()
    assert [item.seq for _, receipt in due(small, log) for item in receipt.placed] == list(range(10))
    small.refill(unbroken(first, 15).follow, log.checkpoint.size)
    for seq in range(15, 25):
        small.owe("wrist-1", owed(seq, first + seq))
    assert small.waiting() == 15
    seen = []
    for _ in range(3):
        seen += [item.seq for _, receipt in due(small, log) for item in receipt.placed]
        small.refill(unbroken(first, 25).follow, log.checkpoint.size)
    assert seen == list(range(10, 25))


def test_refill_follows_a_chain_into_its_next_epoch(small, log, device):
    """An outbox lost in the middle of an outage costs no receipts; the number of an epoch only rises."""
    first = append(log, device, 14)
    where = {(0, seq): first + seq for seq in range(12)} | {(5, seq): first + 12 + seq for seq in range(2)}
    for (epoch, seq), index in where.items():
        small.owe("wrist-1", Owed(Place(KEY, epoch, seq), index))
    log.publish()
    due(small, log)
    small.refill(Chain(where).follow, 14)
    assert [(item.epoch, item.seq) for _, receipt in due(small, log) for item in receipt.placed] == [
        (0, 10),
        (0, 11),
        (5, 0),
        (5, 1),
    ]
    assert small.waiting() == 0


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
    assert (receipt.old_size, [item.seq for item in receipt.placed]) == (0, [1])


def test_receipts_are_built_in_portions_and_no_device_waits_for_another_twice(log, device, monkeypatch):
    """After an outage all of them would fill the memory; who was left out of a portion comes first in the next."""
    monkeypatch.setattr(outgoing_module, "PORTION", 5)
    outgoing = Outgoing()
    first = append(log, device, 12)
    for at in range(4):
        for name in ("wrist-1", "wrist-2", "wrist-3"):
            outgoing.owe(name, owed(at, first + at))
    log.publish()
    portions = [[(name, len(receipt.placed)) for name, receipt in due(outgoing, log)] for _ in range(4)]
    assert portions == [[("wrist-1", 4), ("wrist-2", 1)], [("wrist-3", 4), ("wrist-2", 1)], [("wrist-2", 2)], []]


def test_what_is_owed_since_a_place_comes_once_and_in_order(small, log, device):
    """It may be owed already, remembered or behind what is; the device says so again while it is looked up."""
    first = append(log, device, 30)
    chain = unbroken(first, 30)
    for seq in range(20, 30):
        small.owe("wrist-1", owed(seq, first + seq))
    log.publish()
    small.owe_since("wrist-1", *since(first + 12, Place(KEY, 0, 29), chain.find))
    small.owe_since("wrist-1", *since(first + 5, Place(KEY, 0, 29), chain.find))
    small.owe_since("wrist-1", *since(first + 15, Place(KEY, 0, 29), chain.find))
    assert small.waiting() == 25

    def follow_and_hear(place, limit):
        small.owe_since("wrist-1", *since(first + 3, Place(KEY, 0, 29), chain.find))
        return chain.follow(place, limit)

    small.refill(follow_and_hear, log.checkpoint.size)
    assert (small.waiting(), due(small, log)) == (27, [])
    seen = []
    for _ in range(4):
        small.refill(chain.follow, log.checkpoint.size)
        seen += [item.seq for _, receipt in due(small, log) for item in receipt.placed]
    assert (seen, small.waiting()) == (list(range(3, 30)), 0)


@pytest.mark.parametrize("size", [0, 1, 7, 12, 13, 14, 22, 23, 24, 10**6])
def test_first_batch_that_a_checkpoint_does_not_cover_is_found(size):
    """Of the newest epoch, however the entries of others lie in between."""
    places = {(0, seq): seq for seq in range(5)} | {(1, seq): 11 + 2 * seq for seq in range(7)}
    chain = Chain(places)
    found = since(size, Place(KEY, 1, 6), chain.find)
    covered = [index for (epoch, _), index in places.items() if epoch == 1 and index >= size]
    assert (found and (found[0].index, found[1].index)) == ((covered[0], 23) if covered else None)
    assert chain.found <= 5


def test_batches_without_a_receipt_get_it_after_a_restart(data, device):
    """However many there are, once their device says which checkpoint it has."""
    with by_hand(data, Gone()) as hands:
        hands.take(device, *[device.batch(1) for _ in range(600)])
        hands.service._publish_once()
    with by_hand(data) as hands:
        hands.status(device, 0)
        for _ in range(4):
            hands.service._publish_once()
        assert hands.placed() == list(range(600))


def test_no_receipt_is_spent_on_a_broker_that_is_away(hands, device):
    """It stays owed, so that nobody has to send a batch again to get it."""
    hands.connected = False
    hands.take(device, *[device.batch(1) for _ in range(600)])
    for _ in range(4):
        hands.service._publish_once()
    assert hands.placed() == []
    hands.connected = True
    for _ in range(2):
        hands.service._publish_once()
    assert hands.placed() == list(range(600))


def test_receipts_follow_a_chain_on_the_log_into_any_later_epoch(data, device, other, monkeypatch):
    """Looked up in the database, between the batches of others, whatever number the next epoch has."""
    monkeypatch.setattr(outgoing_module, "MAX_OWED", 3)
    with by_hand(data, Gone()) as hands:
        for epoch in (0, 1, 7):
            device.epoch, device.seq, device.previous = epoch, 0, None
            notice = Notice(NoticeKind.OUTBOX_LOST) if epoch else None
            hands.take(device, device.batch(0 if epoch else 1, notice=notice))
            hands.take(other, other.batch(1))
            hands.take(device, *[device.batch(1) for _ in range(3)])
        outgoing = hands.service._publisher._outgoing
        assert outgoing.waiting() == 15
        hands.writer._quorum = None
        for _ in range(4):
            hands.service._publish_once()
        assert sorted(hands.placed()) == sorted([*range(4)] * 3 + [*range(3)])
        assert outgoing.waiting() == 0
        assert hands.storage.last_batches(device.key_id, 2) == [(17, 7, 2), (18, 7, 3)]
