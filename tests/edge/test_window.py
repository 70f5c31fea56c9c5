"""The window as a state machine: bounds hold, order holds, nothing is forgotten, and good answers always finish."""

import random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge import window as room
from edge.window import Backoff, Pace, Window
from ledger.messages import Reason

PACE = Pace(Backoff(3.0, 4.0, 60.0), Backoff(10.0, 20.0, 100.0), Backoff(10.0, 20.0, 100.0))
SIZE = 40_000
REASONS = st.sampled_from([Reason.OUT_OF_ORDER, Reason.UNKNOWN_KEY, Reason.BROKEN_CHAIN])


class WindowMachine(RuleBasedStateMachine):
    """A device, and around it a broker and an aggregator that may do anything."""

    def __init__(self):
        super().__init__()
        self.window = Window(random.Random(1), PACE)
        self.now = 0.0
        self.seq = 0
        self.connected = False
        self.sent_before = set()
        self.done = set()

    @rule(count=st.integers(1, 60))
    def seal(self, count):
        for _ in range(count):
            if self.window.room(SIZE):
                self.window.add((0, self.seq), SIZE)
                self.seq += 1

    @rule(seconds=st.floats(0.0, 200.0))
    def wait(self, seconds):
        self.now += seconds

    @precondition(lambda self: not self.connected)
    @rule()
    def connect(self):
        self.connected = True
        self.window.connected(self.now)

    @precondition(lambda self: self.connected)
    @rule()
    def disconnect(self):
        self.connected = False

    @precondition(lambda self: self.connected)
    @rule(at_most=st.integers(1, 100))
    def send(self, at_most):
        lowest = min(self.window.unstored, default=None)
        for _ in range(at_most):
            place = self.window.next(self.now)
            if place is None:
                return
            assert place not in self.done
            if place not in self.sent_before:
                assert all(place > other for other in self.sent_before), "first sendings are in order"
                assert not self.window.blocked or place == lowest
            self.sent_before.add(place)

    @precondition(lambda self: self.window.unacknowledged)
    @rule(data=st.data())
    def acknowledge(self, data):
        self.window.acknowledged(data.draw(st.sampled_from(sorted(self.window.unacknowledged))))

    # What was never sent is never answered; else any answer may come at any time, and any number of times.

    @precondition(lambda self: self.sent_before)
    @rule(data=st.data(), count=st.integers(1, 60))
    def store(self, data, count):
        first = data.draw(st.sampled_from(sorted(self.sent_before)))
        for place in sorted(self.sent_before - self.done)[:count]:
            if place >= first:
                self.window.stored(place, self.now)

    @precondition(lambda self: self.sent_before)
    @rule(data=st.data(), reason=REASONS)
    def reject(self, data, reason):
        self.window.rejected(data.draw(st.sampled_from(sorted(self.sent_before))), reason, self.now)

    @precondition(lambda self: self.sent_before)
    @rule(data=st.data())
    def receipt(self, data):
        place = data.draw(st.sampled_from(sorted(self.sent_before)))
        self.window.receipted(place, self.now)
        self.done.add(place)

    @rule()
    def hear_a_stale_receipt(self):
        self.window.ask_soon(self.now)

    @invariant()
    def windows_are_bounded(self):
        assert len(self.window.unacknowledged) <= room.MAX_UNACKNOWLEDGED
        assert len(self.window.unstored) <= room.MAX_UNSTORED
        assert sum(self.window.unstored.values()) <= room.MAX_UNSTORED_BYTES

    @invariant()
    def nothing_is_forgotten(self):
        known = self.window.unstored.keys() | self.window.asking.keys()
        assert known == {(0, seq) for seq in range(self.seq)} - self.done
        assert list(self.window.unstored) == sorted(self.window.unstored)

    def teardown(self):
        """With a good broker and a good aggregator everything is receipted, in bounded time and sendings."""
        self.window.connected(self.now)
        sendings = 0
        while self.window.unstored or self.window.asking:
            place = self.window.next(self.now)
            if place is None:
                wake_at = self.window.wake_at()
                assert wake_at is not None, "something waits, and nothing would wake it"
                self.now = max(self.now, wake_at)
            else:
                sendings += 1
                self.window.acknowledged(place)
                if place == min(self.window.unstored, default=None):
                    self.window.stored(place, self.now)
                    self.window.receipted(place, self.now)
                elif place in self.window.asking:
                    self.window.receipted(place, self.now)
            assert sendings <= 4 * (self.seq + 1)


TestWindow = WindowMachine.TestCase


@pytest.fixture
def window():
    return Window(random.Random(7), PACE)


def drain(window, now):
    """All that is sent at `now`, each acknowledged at once."""
    sent = []
    while (place := window.next(now)) is not None:
        sent.append(place)
        window.acknowledged(place)
    return sent


def fill(window, count):
    for seq in range(count):
        window.add((0, seq), 100)
    return [(0, seq) for seq in range(count)]


def test_window_stops_at_twenty_unacknowledged(window):
    """The twenty-first goes out when the broker has acknowledged one."""
    places = fill(window, 30)
    window.connected(0.0)
    assert [window.next(0.0) for _ in range(21)] == [*places[:20], None]
    window.acknowledged((0, 3))
    assert [window.next(0.0), window.next(0.0)] == [places[20], None]


def test_window_has_no_room_for_more_than_4_megabytes(window):
    """The bytes are bounded as well as the count, whichever is reached first."""
    for seq in range(41):
        assert window.room(100_000)
        window.add((0, seq), 100_000)
    assert not window.room(100_000)
    window.stored((0, 0), 0.0)
    assert window.room(100_000)


def test_silence_is_answered_with_everything_once_then_with_the_lowest(window):
    """An aggregator that is away costs one window, and after that one batch at a time, further and further apart."""
    places = fill(window, 50)
    window.connected(0.0)
    assert drain(window, 0.0) == places
    now, rounds, gaps = 0.0, [], []
    for _ in range(6):
        wake_at = window.wake_at()
        gaps.append(wake_at - now)
        now = wake_at
        rounds.append(drain(window, now))
    assert rounds == [places, *[places[:1]] * 5]
    assert all(gap >= PACE.stored.floor_s for gap in gaps)
    assert max(gaps) <= PACE.stored.floor_s + PACE.stored.cap_s


def test_out_of_order_rewinds_once_and_promptly(window):
    """One lost batch brings as many rejects as were behind it; all of them together cause one rewind."""
    places = fill(window, 10)
    window.connected(0.0)
    drain(window, 0.0)
    window.stored((0, 0), 0.1)
    for place in places[2:]:
        window.rejected(place, Reason.OUT_OF_ORDER, 0.2)
    assert drain(window, 0.2) == places[1:]
    assert drain(window, 0.3) == []


def test_other_rejects_block_what_is_behind_and_are_retried_slower_and_slower(window):
    """The chain cannot continue past a refused batch; when it is taken at last, the rest follows at once."""
    places = fill(window, 10)
    window.connected(0.0)
    drain(window, 0.0)
    for place in places:
        window.rejected(place, Reason.UNKNOWN_KEY, 0.1)
    assert window.blocked
    now = 0.1
    for _ in range(5):
        window.add((0, len(window.unstored)), 100)
        assert drain(window, now) == []
        wake_at = window.wake_at()
        assert wake_at - now >= PACE.refused.floor_s
        now = wake_at
        assert drain(window, now) == places[:1]
        window.rejected(places[0], Reason.UNKNOWN_KEY, now)
    window.stored(places[0], now)
    assert drain(window, now) == [(0, seq) for seq in range(1, 15)]


def test_reconnecting_sends_everything_unstored_in_order(window):
    """What was under way with the old connection is not under way with the new one."""
    places = fill(window, 25)
    window.connected(0.0)
    while window.next(0.0) is not None:
        pass
    window.stored((0, 0), 0.5)
    window.connected(1.0)
    assert drain(window, 1.0)[: len(places) - 1] == places[1:]


def test_stored_batches_are_asked_after_a_few_at_a_time(window):
    """A log that stores and hands out no receipts is not sent everything again."""
    places = fill(window, 100)
    window.connected(0.0)
    drain(window, 0.0)
    for place in places:
        window.stored(place, 0.1)
    assert drain(window, 0.1) == []
    wake_at = window.wake_at()
    assert wake_at >= 0.1 + PACE.receipt.floor_s
    assert drain(window, wake_at) == places[: room.ASK_BURST]


def test_memory_of_stored_batches_is_bounded(window, monkeypatch):
    """Beyond the bound the window only knows that there are more; the outbox says which when the others are done."""
    monkeypatch.setattr(room, "MAX_ASKING", 3)
    places = fill(window, 5)
    for place in places:
        window.stored(place, 0.0)
    assert (list(window.asking), window.untracked) == (places[:3], True)
    for place in places[:3]:
        window.receipted(place, 0.0)
    window.ask_after(places[3:], 1.0, more=False)
    assert (list(window.asking), window.untracked) == (places[3:], False)
    assert drain(window, window.wake_at()) == places[3:]


def test_a_batch_out_of_turn_is_the_callers_mistake(window):
    """Places come in the order of the chain."""
    window.add((0, 5), 100)
    with pytest.raises(ValueError, match="does not come last"):
        window.add((0, 4), 100)


def test_backoff_grows_with_full_jitter_up_to_its_cap():
    """Between the floor and the floor plus the capped exponential, spread over all of it."""
    backoff = Backoff(1.0, 2.0, 50.0)
    rng = random.Random(3)
    for attempts, top in ((0, 2.0), (3, 16.0), (10, 50.0), (10_000, 50.0)):
        delays = [backoff.delay(attempts, rng) - 1.0 for _ in range(500)]
        assert 0.0 <= min(delays) < top * 0.05
        assert top * 0.95 < max(delays) <= top


def test_backlog_has_a_part_of_the_window_only(window):
    """Eight batches or a megabyte; what arrives now finds room beside it, and each that is stored makes room again."""
    for seq in range(room.MAX_BACKLOG):
        assert window.backlog_room(1000)
        window.add((0, seq), 1000, backlog=True)
    assert not window.backlog_room(1000)
    window.add((0, room.MAX_BACKLOG), 1000)
    window.stored((0, room.MAX_BACKLOG), 0.0)
    assert not window.backlog_room(1000)
    window.stored((0, 0), 0.0)
    assert window.backlog_room(room.MAX_BACKLOG_BYTES - 7000)
    assert not window.backlog_room(room.MAX_BACKLOG_BYTES - 6999)


def test_receipts_that_are_withheld_for_weeks_cost_neither_window_nor_memory_nor_traffic(window):
    """`stored` opens the window; places are remembered up to a bound, and asked after slower and slower."""
    window.connected(0.0)
    now, seq, asked = 0.0, 0, 0
    for _ in range(3 * 7 * 24):  # an hour a turn, three weeks
        now += 3600.0
        new = [(0, seq + at) for at in range(60)]
        seq += 60
        for place in new:
            assert window.room(1000)
            window.add(place, 1000)
        sent = drain(window, now)
        asked += len(set(sent) - set(new))
        for place in new:
            window.stored(place, now)
        assert len(window.asking) <= room.MAX_ASKING
    assert window.untracked
    assert not window.unstored
    assert asked <= 3 * 7 * 24 * room.ASK_BURST
    waits = []
    for _ in range(20):
        waits.append(window.wake_at() - now)
        now += waits[-1]
        assert len(drain(window, now)) == room.ASK_BURST
    assert min(waits) >= PACE.receipt.floor_s
    assert sum(waits) / len(waits) > PACE.receipt.floor_s + PACE.receipt.cap_s / 4
