"""The batcher as a state machine: it never waits too long, never closes without room, and counts right."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge.batcher import Batcher, Limits

LIMITS = Limits(max_readings=10, max_bytes=1000, max_age_s=5.0)


class BatcherMachine(RuleBasedStateMachine):
    """A model that keeps every open reading with its time and size."""

    def __init__(self):
        super().__init__()
        self.batcher = Batcher(LIMITS)
        self.now = 0.0
        self.open = []  # (accepted at, size)

    @rule(sizes=st.lists(st.integers(10, 300), max_size=25))
    def accept(self, sizes):
        self.open += [(self.now, size) for size in sizes]
        self.batcher.accepted(len(sizes), sum(sizes), self.now)

    @rule(seconds=st.floats(0.0, 4.0))
    def wait(self, seconds):
        self.now += seconds

    @precondition(lambda self: self.batcher.due(self.now, room=True))
    @rule()
    def close(self):
        taken = []
        while self.open and len(taken) < LIMITS.max_readings and sum(taken) + self.open[0][1] <= LIMITS.max_bytes:
            taken.append(self.open.pop(0)[1])
        assert taken
        self.batcher.sealed(len(taken), sum(taken))

    @invariant()
    def counts_what_is_open(self):
        assert (self.batcher.readings, self.batcher.bytes) == (len(self.open), sum(size for _, size in self.open))

    @invariant()
    def is_due_when_full_or_of_age(self):
        full = len(self.open) >= LIMITS.max_readings or sum(size for _, size in self.open) >= LIMITS.max_bytes
        of_age = bool(self.open) and self.now >= self.open[0][0] + LIMITS.max_age_s
        assert self.batcher.due(self.now, room=True) >= (full or of_age)

    @invariant()
    def never_closes_without_room_or_readings(self):
        assert not self.batcher.due(self.now, room=False, flush=True)
        assert self.batcher.due(self.now, room=True, flush=True) == bool(self.open)

    @invariant()
    def wakes_in_time(self):
        wake_at = self.batcher.wake_at()
        assert (wake_at is None) == (not self.open)
        if wake_at is not None:
            assert wake_at <= self.open[0][0] + LIMITS.max_age_s
            assert self.batcher.due(wake_at, room=True)


TestBatcher = BatcherMachine.TestCase


def test_batch_waits_for_its_age():
    """One reading is not a batch until it is old enough."""
    batcher = Batcher(LIMITS)
    batcher.accepted(1, 50, 100.0)
    assert [batcher.due(now, room=True) for now in (100.0, 104.9, 105.0)] == [False, False, True]
