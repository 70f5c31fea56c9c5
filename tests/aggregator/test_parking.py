"""Early batches: whatever the order and however often, each is logged once and in sequence, within bounds."""

import tracemalloc
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregator import parking as parking_module
from aggregator.parking import FORGET_AFTER_S, HINT_AFTER_S, LOT_BATCHES, Parking
from ledger.batch import Notice, NoticeKind
from ledger.entry import BatchEntry
from ledger.messages import Reason, Stored
from ledger.writer.storage import Place

from .devices import Device
from .hands import by_hand


def key(number):
    return bytes([number]) * 32


def batch(size=100):
    return SimpleNamespace(size=size)


class Clock:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def parking(clock):
    return Parking(clock)


def park(parking, number, seq, size=100, epoch=0):
    """Whether there was room."""
    if room := parking.has_room(key(number), size):
        parking.put(f"wrist-{number}", Place(key(number), epoch, seq), batch(size))
    return room


@pytest.fixture
def fleet(data):
    """A service and as many devices as are asked for, each new."""
    with by_hand(data) as hands:
        numbers = iter(range(10, 256))

        def device():
            found = Device(f"fresh-{(number := next(numbers))}", number)
            found.enrol(data)
            hands.scan()
            return found

        yield hands, device


@st.composite
def arrivals(draw):
    """Sequence numbers from 0 in any order, some more than once, cut into groups."""
    seqs = range(draw(st.integers(1, 9)))
    left = draw(st.permutations([*seqs, *draw(st.lists(st.sampled_from(seqs), max_size=6))]))
    groups = []
    while left:
        cut = draw(st.integers(1, len(left)))
        groups.append(left[:cut])
        left = left[cut:]
    return groups


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrivals())
def test_batches_in_any_order_are_logged_in_sequence_and_each_is_answered(fleet, groups):
    """Any permutation with duplicates, cut into any groups, ends as if it had come in the order of sealing."""
    hands, new_device = fleet
    device = new_device()
    count = len({seq for group in groups for seq in group})
    envelopes = [device.batch(1) for _ in range(count)]
    start, answered = hands.writer.size, set()
    for group in groups:
        hands.take(device, *(envelopes[seq] for seq in group))
        assert all(isinstance(message, Stored) for _, message in hands.told)
        answered.update(message.seq for _, message in hands.told)
    logged = [entry.header for entry in hands.entries(BatchEntry)]
    assert logged[-count:] == [sealed.header for sealed in device.sealed]
    assert hands.writer.size == start + count
    assert answered == set(range(count))
    assert len(hands.service._ingest.admission.parking) == 0


def test_parked_batches_follow_their_predecessor_in_its_group(hands, device):
    """What waited is committed with what it waited for, and the device is told of all of it."""
    first, *rest = [device.batch() for _ in range(5)]
    assert hands.take(device, *reversed(rest)) == []
    assert hands.counts == {"parked": 4}
    assert hands.take(device, first) == [Stored] * 5
    assert [message.seq for _, message in hands.told] == [0, 1, 2, 3, 4]
    hands.check()


def test_parked_batch_that_comes_again_is_no_second_one(hands, device):
    """It is not even looked into, and it is answered once it is logged."""
    first, second = device.batch(), device.batch()
    assert hands.take(device, second, second) == []
    assert hands.counts == {"parked": 1, "repeated": 1}
    assert len(hands.service._ingest.admission.parking) == 1
    assert hands.take(device, first) == [Stored, Stored]


def test_another_header_for_a_parked_place_is_evidence(hands, device):
    """Two headers that one key signed for a place are found before either is logged."""
    twin = Device(device.name, device.number)
    first = device.batch()
    twin.batch()
    hands.take(device, device.batch(value=71))
    assert hands.take(device, twin.batch(value=72)) == [Reason.EQUIVOCATION]
    assert hands.take(device, first) == [Stored, Stored]
    hands.check(equivocation=1)


def test_parked_batch_of_another_history_is_refused_when_its_turn_comes(hands, device):
    """A clone's later batch does not continue what is logged, and does not stop the device whose key it is."""
    clone = Device(device.name, device.number)
    clone.batch(value=99)
    hands.take(device, clone.batch())
    assert hands.take(device, device.batch()) == [Stored, Reason.BROKEN_CHAIN]
    assert hands.take(device, device.batch()) == [Stored]


def test_early_batches_of_a_new_epoch_wait_for_its_first(hands, device):
    """The device has begun elsewhere: what is parked of the old epoch is forgotten, what follows the new one is not."""
    hands.take(device, device.batch())
    device.batch()
    late = device.batch()
    device.epoch, device.seq, device.previous = 1, 0, None
    first, second = device.batch(0, notice=Notice(NoticeKind.OUTBOX_LOST)), device.batch()
    assert hands.take(device, late, second) == []
    assert hands.take(device, first) == [Stored, Stored]
    assert len(hands.service._ingest.admission.parking) == 0
    assert hands.take(device, late) == [Reason.BROKEN_CHAIN]


def test_parked_batches_of_a_key_that_ends_are_not_logged(hands, data, device):
    """A revocation that comes between counts, for what comes after it and for what waited."""
    first, second = device.batch(), device.batch()
    hands.take(device, second)
    device.revoke(data, (0, 1))
    hands.scan()
    assert hands.take(device, first) == [Reason.ENDED_KEY]
    hands.check(revoked=1)


def test_device_with_parked_batches_is_told_once_what_is_next(hands, device, monkeypatch):
    """The predecessor may be lost for good, so after a moment its device hears of it; what is parked stays."""
    clock = Clock()
    monkeypatch.setattr(hands.service._ingest.admission.parking, "_now_s", clock)
    first, second, third = device.batch(), device.batch(), device.batch()
    assert hands.take(device, third, second) == []
    clock.now_s += HINT_AFTER_S
    assert hands.take(device) == [Reason.OUT_OF_ORDER]
    [(_, hint)] = hands.told
    assert (hint.epoch, hint.seq, hint.detail) == (0, 1, "epoch 0 seq 0 is next")
    assert hands.take(device) == []
    assert hands.take(device, first) == [Stored] * 3


def test_what_finds_no_room_is_rejected_as_out_of_order(hands, device, monkeypatch):
    """The device learns where to go on from, and its parked batches are not thrown out for it."""
    monkeypatch.setattr(parking_module, "LOT_BATCHES", 2)
    envelopes = [device.batch() for _ in range(4)]
    assert hands.take(device, *envelopes[1:]) == [Reason.OUT_OF_ORDER]
    assert hands.told[0][1].detail == "epoch 0 seq 0 is next"
    assert hands.take(device, envelopes[0]) == [Stored] * 3
    assert hands.take(device, envelopes[3]) == [Stored]


def test_forged_early_batch_takes_no_room(hands, device):
    """Only what the device's own key signed, whole, is parked."""
    device.batch()
    early = device.batch()
    flipped = early[:-1] + bytes([early[-1] ^ 1])
    assert hands.take(device, flipped) == [Reason.BAD_ROOT]
    assert len(hands.service._ingest.admission.parking) == 0


def test_lot_is_bounded_by_batches_and_bytes(parking):
    """One device parks what it may have under way, and no more."""
    assert [park(parking, 1, seq) for seq in range(LOT_BATCHES + 1)] == [True] * LOT_BATCHES + [False]
    half = parking_module.LOT_BYTES // 2
    assert [park(parking, 2, seq, half) for seq in range(3)] == [True, True, False]


def test_full_parking_takes_from_whoever_has_most(parking, monkeypatch):
    """Those who flood make room for those who do not, latest batches first, and never the other way round."""
    monkeypatch.setattr(parking_module, "TOTAL_BYTES", 1000)
    assert all(park(parking, 1, seq) for seq in range(2, 10))
    assert all(park(parking, 2, seq) for seq in (5, 6))
    assert park(parking, 3, 1)
    assert parking.find(Place(key(1), 0, 9)) is None
    assert parking.find(Place(key(1), 0, 8)) is not None
    assert parking.find(Place(key(2), 0, 6)) is not None
    assert not park(parking, 1, 9)
    assert parking.size == 1000


def test_parked_batches_are_forgotten_after_a_while(parking, clock):
    """Unless their chain moves: whoever has given up leaves nothing behind."""
    park(parking, 1, 5)
    park(parking, 2, 5)
    clock.now_s += FORGET_AFTER_S - 1
    parking.moved(Place(key(2), 0, 2))
    clock.now_s += 1
    parking.tire()
    assert (len(parking), parking.size) == (1, 100)
    assert parking.find(Place(key(2), 0, 5)) is not None


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6), st.integers(1, 400), st.booleans()), max_size=60))
def test_parking_is_bounded_and_counts_what_it_holds(steps):
    """Whatever is parked, moved and removed, sizes add up and bounds hold."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("LOT_BATCHES", 4), ("LOT_BYTES", 1000), ("TOTAL_BYTES", 1500)):
            patch.setattr(parking_module, name, value)
        parking = Parking(Clock())
        for number, seq, size, moves in steps:
            place = Place(key(number), 0, seq)
            if moves:
                parking.moved(place)
            elif parking.find(place) is None:
                park(parking, number, seq, size)
            lots = parking._lots.values()
            assert parking.size == sum(lot.size for lot in lots) <= 1500
            assert all(lot.size == sum(item.size for item in lot.batches.values()) <= 1000 for lot in lots)
            assert all(0 < len(lot.batches) <= 4 for lot in lots)


def test_small_batch_is_counted_as_what_it_takes_up(hands, device):
    """One reading is five times as large in memory as on the wire; a bound on bytes is one on memory."""
    device.batch(1)
    early = [bytes(device.batch(1)) for _ in range(100)]
    admission = hands.service._ingest.admission
    admission.admit(device.name, early.pop())
    parked = admission.parking.size
    tracemalloc.start()
    try:
        for envelope in early:
            admission.admit(device.name, envelope)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(admission.parking) == 100
    assert taken < 1.2 * (admission.parking.size - parked)
