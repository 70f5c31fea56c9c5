"""The batcher as a state machine: live readings never wait too long, nothing closes without room, gaps come first."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge.batcher import GAP_EVERY_S, LARGEST, Batcher, Limits, Step
from edge.store import Standing

LIMITS = Limits(max_readings=10, max_bytes=1000, max_age_s=5.0)
HEARTBEAT_S = 100.0
ROOM = {"room": True, "backlog_room": True}


class BatcherMachine(RuleBasedStateMachine):
    """A model that keeps every live reading with its time and size, and an outbox that does what it is told."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.batcher = Batcher(LIMITS, HEARTBEAT_S, self.now)
        self.live = []  # (accepted at, size)
        self.backlog = 0
        self.gap = False
        self.header_at = 0.0

    def tell(self, **sizes):
        standing = Standing(len(self.live), self.backlog, 0, self.gap)
        self.batcher.stands(standing, self.now, **sizes)

    @rule(sizes=st.lists(st.integers(10, 300), max_size=25))
    def accept(self, sizes):
        self.live += [(self.now, size) for size in sizes]
        self.tell(accepted_bytes=sum(sizes))

    @rule(count=st.integers(1, 10_000))
    def find_a_backlog(self, count):
        self.backlog += count
        self.tell()

    @rule()
    def lose(self):
        self.gap = True
        self.tell()

    @rule(seconds=st.floats(0.0, 40.0))
    def wait(self, seconds):
        self.now += seconds

    @precondition(lambda self: self.batcher.next(self.now, **ROOM))
    @rule(backlog_room=st.booleans())
    def act(self, backlog_room):
        step = self.batcher.next(self.now, room=True, backlog_room=backlog_room)
        taken = []
        match step:
            case Step.LIVE:
                assert not self.gap, "what is missing is said before what comes behind it"
                while self.live and len(taken) < LIMITS.max_readings and sum(taken) <= LIMITS.max_bytes - 300:
                    taken.append(self.live.pop(0)[1])
                assert taken
            case Step.BACKLOG:
                assert backlog_room
                assert not self.gap
                self.backlog = max(0, self.backlog - LARGEST.max_readings)
            case Step.DEFER:
                self.backlog += len(self.live)
                self.live = []
            case Step.GAP:
                assert self.gap
                self.gap = False
            case Step.HEARTBEAT:
                assert self.now >= self.header_at + HEARTBEAT_S
        self.tell(sealed_bytes=sum(taken))
        if step in (Step.LIVE, Step.BACKLOG, Step.GAP, Step.HEARTBEAT):
            self.batcher.sealed(step, self.now)
            self.header_at = self.now

    @invariant()
    def live_readings_do_not_wait_beyond_their_age(self):
        full = len(self.live) >= LIMITS.max_readings or sum(size for _, size in self.live) >= LIMITS.max_bytes
        of_age = bool(self.live) and self.now >= self.live[0][0] + LIMITS.max_age_s
        step = self.batcher.next(self.now, room=True, backlog_room=True)
        if full or of_age:
            assert step in ({Step.GAP} if self.gap else {Step.LIVE}) | {Step.DEFER}

    @invariant()
    def never_closes_without_room_or_anything_to_say(self):
        assert self.batcher.next(self.now, room=False, backlog_room=False, flush=True) is None
        flushed = self.batcher.next(self.now, flush=True, **ROOM)
        anything = self.live or self.backlog or self.gap or self.now >= self.header_at + HEARTBEAT_S
        assert (flushed is not None) == bool(anything)

    @invariant()
    def wakes_in_time(self):
        wake_at = self.batcher.wake_at()
        if self.live:
            assert wake_at <= self.live[0][0] + LIMITS.max_age_s
        assert self.batcher.next(wake_at, **ROOM) is not None


TestBatcher = BatcherMachine.TestCase


@pytest.fixture
def batcher():
    return Batcher(LIMITS, HEARTBEAT_S, 100.0)


def test_batch_waits_for_its_age(batcher):
    """One reading is not a batch until it is old enough."""
    batcher.stands(Standing(1, 0, 0, gap=False), 100.0, accepted_bytes=50)
    assert [batcher.next(now, **ROOM) for now in (100.0, 104.9, 105.0)] == [None, None, Step.LIVE]


def test_live_goes_before_a_backlog(batcher):
    """The backlog has its turn whenever nothing live is due, and only with room of its own."""
    batcher.stands(Standing(1, 9000, 0, gap=False), 100.0, accepted_bytes=50)
    assert batcher.next(100.0, **ROOM) is Step.BACKLOG
    assert batcher.next(100.0, room=True, backlog_room=False) is None
    assert batcher.next(105.0, **ROOM) is Step.LIVE


def test_what_piled_up_is_a_backlog(batcher):
    """More than the largest batch holds is not sealed in small ones, by count or by bytes."""
    batcher.stands(Standing(LARGEST.max_readings + 1, 0, 0, gap=False), 100.0)
    assert batcher.next(100.0, **ROOM) is Step.DEFER
    batcher.stands(Standing(0, 0, 0, gap=False), 100.0)
    batcher.stands(Standing(2, 0, 0, gap=False), 100.0, accepted_bytes=LARGEST.max_bytes + 1)
    assert batcher.next(100.0, **ROOM) is Step.DEFER


def test_gap_is_said_at_once_and_then_seldom_unless_something_follows(batcher):
    """Dropping for weeks makes a header every ten minutes; a batch never goes before the gap in front of it."""
    batcher.stands(Standing(0, 0, 0, gap=True), 100.0)
    assert batcher.next(100.0, **ROOM) is Step.GAP
    batcher.sealed(Step.GAP, 100.0)
    slow = Batcher(LIMITS, 86400.0, 100.0)
    for each in (batcher, slow):
        each.stands(Standing(0, 0, 0, gap=True), 101.0)
    slow.sealed(Step.GAP, 100.0)
    assert [slow.next(100.0 + at, **ROOM) for at in (1.0, GAP_EVERY_S - 1, GAP_EVERY_S)] == [None, None, Step.GAP]
    batcher.stands(Standing(0, 5, 0, gap=True), 101.0)
    assert batcher.next(101.0, **ROOM) is Step.GAP


def test_silence_ends_with_a_heartbeat(batcher):
    """Only without anything else to seal, and counted from the last header whatever that was."""
    assert [batcher.next(now, **ROOM) for now in (199.9, 200.0)] == [None, Step.HEARTBEAT]
    batcher.sealed(Step.LIVE, 150.0)
    assert [batcher.next(now, **ROOM) for now in (200.0, 250.0)] == [None, Step.HEARTBEAT]
    assert batcher.next(250.0, room=False, backlog_room=False) is None
