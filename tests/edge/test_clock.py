"""Clocks that lie: steps, reboots, 1970, never synchronised; what is held, mapped, released, and what is said of it."""

import contextlib
import dataclasses
import itertools
import os
import subprocess
import sys

import pytest

from edge import clock as room
from edge import intake
from edge.clock import RELEASED_NS, Segment, SystemClock, on_timeline
from edge.outbox import Outbox
from edge.seal import Sealer
from ledger.batch import Anchor
from ledger.envelope import parse_envelope
from ledger.info import Clock
from ledger.reading import CLOCK_TOLERANCE_NS, Reading
from tests.edge.conftest import SOURCE_ID, HandClock, measured
from tests.edge.standin import ORIGIN
from tests.edge.test_outbox import LIMITS, delivery

YEAR_1970 = 100 * 10**9
UNSET = {"wall_ns": YEAR_1970, "clock": Clock.UNSYNCHRONISED}
HOUR = 3600


@pytest.fixture
def reopen(directory, owner):
    """Opens the outbox, after a reboot or not; closes it first if it is open."""
    opened = []

    def make(clock):
        while opened:
            opened.pop().close()
        opened.append(Outbox(directory / "outbox.db", owner))
        opened[0].register(SOURCE_ID, "a test")
        opened[0].resume(clock.read(), [])
        return opened[0]

    yield make
    for outbox in opened:
        outbox.close()


@pytest.fixture
def batches(signer):
    """Seals all that is open; gives count, clock, error and receipt times of each batch, backlog after live."""

    def seal(outbox, clock):
        sealer = Sealer(signer, ORIGIN, clock)
        found = []
        for backlog in (False, True):
            while sealed := outbox.seal_next(LIMITS, sealer, backlog=backlog):
                envelope = parse_envelope(outbox.envelope(sealed.place))
                readings = [Reading.decode(body) for body in envelope.bodies[1:]]
                received = [reading.sensor_time_ns + reading.gateway_offset_ns for reading in readings]
                found.append((len(readings), Clock(envelope.info.clock), envelope.info.clock_error_ns, received))
        return found

    return seal


def receive(outbox, clock, count, start=0):
    """`count` readings are accepted under `clock`, a second apart."""
    for at in range(count):
        outbox.accept([delivery(start + at, 1, moment=clock.read())])
        clock.passes(1)


def clocks(found):
    return [(count, clock) for count, clock, _, _ in found]


def test_batches_do_not_mix_clocks(reopen, batches):
    """A change of state and a step each begin a segment; every batch says under which its readings came."""
    clock = HandClock()
    outbox = reopen(clock)
    receive(outbox, clock, 3)
    clock.steps(0, clock=Clock.UNSYNCHRONISED)
    receive(outbox, clock, 2)
    clock.steps(2)
    receive(outbox, clock, 4)
    clock.steps(0.5)  # slewed, not set
    receive(outbox, clock, 1)
    found = batches(outbox, clock)
    assert clocks(found) == [
        (3, Clock.SYNCHRONISED),
        (2, Clock.UNSYNCHRONISED),
        (5, Clock.UNSYNCHRONISED),
    ]
    assert found[0][2] == 1000


def test_reboot_begins_a_segment(reopen, batches):
    """Monotonic times of two boots do not compare."""
    for boot in (b"1".ljust(16), b"2".ljust(16)):
        clock = HandClock(boot_id=boot)
        outbox = reopen(clock)
        receive(outbox, clock, 2)
    assert clocks(batches(outbox, clock)) == [(2, Clock.SYNCHRONISED), (2, Clock.SYNCHRONISED)]


def test_readings_under_an_unset_clock_are_held_and_mapped_when_it_is_set(reopen, batches):
    """1970 after a boot: nothing is sealed; then every receipt time is what it would have been, to the nanosecond."""
    clock = HandClock(**UNSET)
    outbox = reopen(clock)
    receive(outbox, clock, 5)
    assert dataclasses.astuple(outbox.standing()) == (0, 0, 5, False)
    assert batches(outbox, clock) == []
    assert outbox.release(clock.read()) == 0
    boot_ns = 1_800_000_000 * 10**9
    clock.steps((boot_ns - YEAR_1970) / 10**9, clock=Clock.SYNCHRONISED)
    receive(outbox, clock, 2, start=5)
    assert dataclasses.astuple(outbox.standing()) == (2, 0, 5, False)
    assert outbox.release(clock.read()) == 5
    assert dataclasses.astuple(outbox.standing()) == (2, 5, 0, False)
    found = batches(outbox, clock)
    assert clocks(found) == [(2, Clock.SYNCHRONISED), (5, Clock.SYNCHRONISED)]
    received = sorted(found[0][3] + found[1][3])
    assert received == [boot_ns + at * 10**9 for at in range(7)]


def test_release_is_in_portions(reopen, batches, monkeypatch):
    """Millions of held readings do not stop accepting; a portion more is mapped at each call."""
    monkeypatch.setattr(intake, "_RELEASED_AT_ONCE", 2)
    clock = HandClock(**UNSET)
    outbox = reopen(clock)
    receive(outbox, clock, 5)
    clock.steps(1_800_000_000, clock=Clock.SYNCHRONISED)
    receive(outbox, clock, 1, start=5)
    portions = [outbox.release(clock.read()) for _ in range(4)]
    assert portions == [2, 2, 1, 0]
    received = sorted(itertools.chain.from_iterable(received for *_, received in batches(outbox, clock)))
    assert [later - earlier for earlier, later in itertools.pairwise(received)] == [10**9] * 5


def test_sensor_times_are_never_rewritten(reopen, signer):
    """Mapping is about the gateway's clock only."""
    clock = HandClock(**UNSET)
    outbox = reopen(clock)
    receive(outbox, clock, 3)
    clock.steps(1_800_000_000, clock=Clock.SYNCHRONISED)
    outbox.release(clock.read())
    sealed = outbox.seal_next(LIMITS, Sealer(signer, ORIGIN, clock), backlog=True)
    bodies = parse_envelope(sealed.envelope).bodies[1:]
    assert [Reading.decode(body).sensor_time_ns for body in bodies] == [measured(at).sensor_time_ns for at in range(3)]


def test_readings_of_a_boot_that_never_knew_the_date_go_as_they_stand(reopen, batches):
    """In batches of their own that say so; the next boot's clock, even a good one, cannot tell their times."""
    clock = HandClock(**UNSET, boot_id=b"1".ljust(16))
    outbox = reopen(clock)
    receive(outbox, clock, 3)
    clock = HandClock(boot_id=b"2".ljust(16))
    outbox = reopen(clock)
    receive(outbox, clock, 2, start=3)
    assert outbox.release(clock.read()) == 0
    found = batches(outbox, clock)
    assert clocks(found) == [(2, Clock.SYNCHRONISED), (3, Clock.UNSYNCHRONISED)]
    assert found[1][3] == [YEAR_1970 + at * 10**9 for at in range(3)]


def test_restart_within_a_boot_goes_on_holding(reopen, batches):
    """The agent, not the gateway, was started again: the monotonic clock still tells."""
    clock = HandClock(**UNSET)
    receive(reopen(clock), clock, 3)
    outbox = reopen(clock)
    receive(outbox, clock, 2, start=3)
    assert outbox.standing().held == 5
    clock.steps(1_800_000_000, clock=Clock.SYNCHRONISED)
    assert outbox.release(clock.read()) == 5


def test_step_backwards_holds_until_the_clock_is_set_right(reopen, batches):
    """Before the last commit is not on the timeline; what was open before goes as it was received."""
    clock = HandClock(clock=Clock.UNSYNCHRONISED)
    outbox = reopen(clock)
    receive(outbox, clock, 2)
    clock.steps(-HOUR)
    receive(outbox, clock, 3, start=2)
    assert dataclasses.astuple(outbox.standing()) == (0, 2, 3, False)
    clock.steps(HOUR, clock=Clock.SYNCHRONISED)
    assert outbox.release(clock.read()) == 3
    received = sorted(itertools.chain.from_iterable(received for *_, received in batches(outbox, clock)))
    assert [later - earlier for earlier, later in itertools.pairwise(received)] == [10**9] * 4


@pytest.mark.parametrize("clock_state", [Clock.UNSYNCHRONISED, Clock.UNKNOWN])
def test_clock_that_was_once_far_ahead_holds_for_a_day_and_not_for_ever(reopen, batches, clock_state):
    """Set to 2062 by hand, set right, never synchronised: a day later the mark is gone, and so is what was held."""
    clock = HandClock(clock=clock_state)
    outbox = reopen(clock)
    clock.steps(36 * 365 * 24 * HOUR)
    receive(outbox, clock, 2)
    clock.steps(-36 * 365 * 24 * HOUR)
    receive(outbox, clock, 3, start=2)
    clock.passes(24 * HOUR - 4)
    assert (outbox.release(clock.read()), outbox.standing().held) == (0, 3)
    clock.passes(1)
    received_ns = clock.read().wall_ns - 24 * HOUR * 10**9
    assert (outbox.release(clock.read()), outbox.standing().held) == (3, 0)
    receive(outbox, clock, 4, start=5)
    assert outbox.standing().held == 0
    live, before, held = batches(outbox, clock)
    assert (live[0], before[0]) == (4, 2)
    assert held == (3, Clock.UNSYNCHRONISED, None, [received_ns + at * 10**9 for at in range(3)])


def test_clock_that_was_never_set_lets_readings_go_a_day_later(reopen, batches):
    """1970 for months, without a reboot: what has waited for a day goes as it stands, what comes then waits for one."""
    clock = HandClock(**UNSET)
    outbox = reopen(clock)
    for day in range(3):
        receive(outbox, clock, 2, start=2 * day)
        clock.passes(24 * HOUR)
        assert (outbox.release(clock.read()), outbox.release(clock.read())) == (2, 0)
        receive(outbox, clock, 1, start=99 + day)
        assert outbox.standing().held == 1
        clock.passes(24 * HOUR)
        assert outbox.release(clock.read()) == 1
    assert {state for _, state in clocks(batches(outbox, clock))} == {Clock.UNSYNCHRONISED}


def test_step_backwards_of_a_synchronised_clock_sets_it_right(reopen, batches):
    """It had been ahead: what comes now is not held for hours until it has caught up."""
    clock = HandClock(clock=Clock.UNSYNCHRONISED)
    outbox = reopen(clock)
    clock.steps(HOUR)
    receive(outbox, clock, 2)
    clock.steps(-HOUR, clock=Clock.SYNCHRONISED)
    receive(outbox, clock, 2, start=2)
    clock.steps(0, clock=Clock.UNSYNCHRONISED)
    receive(outbox, clock, 2, start=4)
    assert outbox.standing().held == 0
    assert len(batches(outbox, clock)) == 3


def test_step_forwards_is_a_segment_and_nothing_else(reopen, batches):
    """A clock that jumps ahead deletes nothing, holds nothing, ends nothing."""
    clock = HandClock()
    outbox = reopen(clock)
    receive(outbox, clock, 2)
    clock.steps(10 * 365 * 24 * HOUR)
    receive(outbox, clock, 2, start=2)
    assert outbox.purge(0.0) == 0
    assert clocks(batches(outbox, clock)) == [(2, Clock.SYNCHRONISED)] * 2


def test_never_synchronised_is_said_and_sealed(reopen, batches):
    """On the timeline, nobody vouches for the clock: the readings go, and say that."""
    clock = HandClock(clock=Clock.UNKNOWN)
    outbox = reopen(clock)
    receive(outbox, clock, 2)
    assert batches(outbox, clock) == [(2, Clock.UNKNOWN, None, [clock.read().wall_ns - at * 10**9 for at in (2, 1)])]


def test_witnesses_time_is_a_floor_even_for_a_synchronised_clock():
    """They signed the largest checkpoint then, so it is later now."""
    moment = HandClock(RELEASED_NS + 10 * HOUR * 10**9).read()
    witnessed_s = (moment.wall_ns + CLOCK_TOLERANCE_NS) // 10**9
    assert on_timeline(moment, committed_ns=None, witnessed_s=witnessed_s)
    assert not on_timeline(moment, committed_ns=None, witnessed_s=witnessed_s + 1)
    assert not on_timeline(dataclasses.replace(moment, wall_ns=YEAR_1970), committed_ns=None, witnessed_s=0)


def test_witnesses_time_is_kept_with_the_largest_checkpoint(reopen):
    """A smaller one later changes nothing."""
    clock = HandClock()
    outbox = reopen(clock)
    outbox.settle(Anchor(7, bytes(32)), b"7", [], 1_900_000_000)
    outbox.settle(Anchor(3, bytes(32)), b"3", [], 1_700_000_000)
    receive(outbox, clock, 1)
    assert outbox.standing().held == 1


def test_segments_of_what_is_sealed_are_forgotten(reopen, batches):
    """A clock that is set every minute for years leaves a handful of rows."""
    clock = HandClock()
    outbox = reopen(clock)
    for at in range(20):
        receive(outbox, clock, 1, start=at)
        clock.steps(5)
        batches(outbox, clock)
    assert outbox._row("SELECT count(*) FROM segments") == (1,)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Sao_Paulo", "Pacific/Apia", "Asia/Kathmandu"])
def test_time_zones_change_nothing(zone):
    """Summer time begins and ends for others: the same moments make the same segments everywhere."""
    program = (
        "import time; time.tzset()\n"
        "from tests.edge.conftest import HandClock\n"
        "from edge.clock import Segment, SystemClock, on_timeline\n"
        "for start in (1_774_746_000, 1_792_890_000):\n"  # an hour before summer time begins and ends in Europe, 2026
        "    clock = HandClock(start * 10**9)\n"
        "    segment = Segment.begin(clock.read(), held=False)\n"
        "    for _ in range(180):\n"
        "        clock.passes(60)\n"
        "        assert segment.goes_on(clock.read(), held=False)\n"
        "        assert on_timeline(clock.read(), committed_ns=clock.read().wall_ns, witnessed_s=start)\n"
        "now = SystemClock().read()\n"
        "assert abs(now.wall_ns - time.time_ns()) < 10**10\n"
    )
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "TZ": zone}, check=True)


def test_system_clock_says_what_the_kernel_says():
    """Each state comes with an error exactly if it is synchronised, and moments follow one another."""
    clock = SystemClock()
    first, second = clock.read(), clock.read()
    assert second.monotonic_ns > first.monotonic_ns
    assert first.boot_id == second.boot_id == SystemClock().read().boot_id
    assert (first.error_ns is None) == (first.clock != Clock.SYNCHRONISED)
    assert Segment.begin(first, held=False).goes_on(dataclasses.replace(second, clock=first.clock), held=False)


@pytest.mark.parametrize(("status", "state"), [(0, (Clock.SYNCHRONISED, 1000)), (0x40, (Clock.UNSYNCHRONISED, None))])
def test_kernel_states(monkeypatch, status, state):
    """STA_UNSYNC decides; the error is the kernel's bound, in microseconds there."""

    def adjtimex(pointer):
        timex = pointer._obj
        timex.status, timex.maxerror = status, 1
        return 0

    kernel = room._Kernel()
    monkeypatch.setattr(kernel, "_adjtimex", adjtimex)
    assert kernel.state() == state


@pytest.mark.parametrize("there", [True, False])
def test_kernel_that_does_not_answer_leaves_timesyncds_word(monkeypatch, tmp_path, there):
    """Without that, nothing is known: silence is no evidence either way."""
    mark = tmp_path / "synchronized"
    if there:
        mark.touch()
    monkeypatch.setattr(room, "_SYNCHRONISED", mark)
    kernel = room._Kernel()
    monkeypatch.setattr(kernel, "_adjtimex", lambda _pointer: -1)
    assert kernel.state() == (Clock.SYNCHRONISED if there else Clock.UNKNOWN, None)
    with contextlib.suppress(AttributeError):
        monkeypatch.setattr(kernel, "_adjtimex", None)
    assert kernel.state()[1] is None
