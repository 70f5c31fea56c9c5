"""Status: the states that a person must know are named, the worst first, and the numbers add up."""

import contextlib
import dataclasses
import json

import pytest

from edge import status
from edge.batcher import LARGEST
from edge.health import faults
from edge.outbox import Outbox
from edge.seal import Sealer
from edge.status import for_people, make_report, read_report
from ledger.info import Clock
from ledger.messages import Reason
from tests.edge.conftest import SOURCE_ID, HandClock, make_config
from tests.edge.standin import ORIGIN
from tests.edge.test_outbox import LIMITS, delivery


@pytest.fixture
def config(directory):
    config = make_config(directory)
    config.data.mkdir()
    return config


@pytest.fixture
def outbox(config, owner):
    with contextlib.closing(Outbox(config.outbox_file, owner)) as outbox:
        outbox.register(SOURCE_ID, "a test")
        yield outbox


@pytest.fixture
def report(config, owner):
    """The report of a running agent, or one that does not."""

    def make(clock=None, *, running=True, disk_full=False):
        return make_report(config, owner.key_id, running=running, disk_full=disk_full, clock=clock or HandClock())

    return make


def test_report_adds_up_and_is_json(outbox, report, signer):
    """Every accepted reading is in one place, and the whole report survives a round trip."""
    sealer = Sealer(signer, ORIGIN)
    outbox.accept([delivery(0, 6000, refused=3)])
    outbox.defer()
    outbox.seal_next(LARGEST, sealer, backlog=True)
    outbox.accept([delivery(6000, 15)])
    outbox.seal_next(LIMITS, sealer)
    outbox.mark_stored([((0, 0), 0)])
    counts = report().counts
    assert (counts.accepted, counts.unsealed, counts.backlog) == (6015, 1910, 1905)
    assert (counts.sealed, counts.stored, counts.receipted) == (10, 4095, 0)
    table = json.loads(json.dumps(report().as_json()))
    assert (table["accepted"], table["refused_input"], table["epoch"]) == (6015, {"fed": 3}, 0)
    assert "of them a backlog" in for_people(report())


@pytest.mark.parametrize(
    ("broker", "clock", "said"),
    [
        (("connected", ""), Clock.SYNCHRONISED, "connected"),
        (("away", "connection refused"), Clock.SYNCHRONISED, "no broker: connection refused"),
        (("away", ""), Clock.UNKNOWN, "no broker"),
        (("tls", "certificate is not yet valid"), Clock.SYNCHRONISED, "tls refused: certificate is not yet valid"),
        (("refused", "revoked"), Clock.UNSYNCHRONISED, "refused by the broker: revoked"),
        (("tls", "too early"), Clock.UNSYNCHRONISED, "tls refused, clock not set: too early"),
    ],
)
def test_connection_is_named(outbox, report, broker, clock, said):
    """With its reason where there is one; a clock that nobody set is the likely reason for TLS."""
    outbox.record_connection(*broker)
    assert report(HandClock(clock=clock)).states == (said,)
    assert report(HandClock(clock=clock), running=False).states == ("not running",)


def test_worst_states_come_first(outbox, report, signer):
    """Several at a time are all named."""
    unset = HandClock(10**9, Clock.UNSYNCHRONISED)
    outbox.accept([delivery(0, 5)])
    outbox.seal_next(LIMITS, Sealer(signer, ORIGIN))
    outbox.accept([delivery(5, 2000, moment=unset.read())])
    outbox.record_reject((0, 0), Reason.ENDED_KEY, "revoked")
    dropped = outbox.relieve(10_000).dropped
    found = report(unset, disk_full=True).states
    assert found[:3] == ("key ended", "disk full", f"over budget: {dropped} readings dropped so far")
    assert found[3:] == (*[f"clock not set: {2000 - dropped} readings held"] * (dropped < 2000), "no broker")
    outbox.record_reject((0, 0), Reason.EQUIVOCATION, "another header")
    assert report(unset).states[0] == "outdated outbox"
    outbox.mark_stored([((0, 0), 0)])
    assert report(unset).states[0].startswith("over budget")


def test_batches_refused_for_good_are_said_first_until_they_are_stored(outbox, report, signer):
    """With the reason; those that come out of order behind them do not hide it, and what is over is no news."""
    clock = HandClock()
    sealer = Sealer(signer, ORIGIN)
    outbox.accept([delivery(0, 20)])
    outbox.seal_next(LIMITS, sealer)
    outbox.seal_next(LIMITS, sealer)
    outbox.record_reject((0, 1), Reason.OUT_OF_ORDER, "early", clock.now.wall_ns)
    assert report(clock).states == ("no broker",)
    outbox.record_reject((0, 0), Reason.UNKNOWN_KEY, "not enrolled", clock.now.wall_ns)
    outbox.record_reject((0, 1), Reason.OUT_OF_ORDER, "early", clock.now.wall_ns)
    clock.passes(300)
    assert report(clock).states == ("refused: unknown key", "no broker")
    assert faults(report(clock))["batches"] == "are refused: unknown key"
    assert "last reject    5 min ago, batch 0/0: unknown key: not enrolled" in for_people(report(clock))
    outbox.mark_stored([((0, 0), 0)])
    assert report(clock).states == ("no broker",)
    assert "last reject    none" in for_people(report(clock))


def test_refused_input_is_a_state_for_a_day(outbox, report):
    """With how much and how long ago; afterwards it is still counted."""
    clock = HandClock()
    outbox.accept([delivery(0, 1, refused=80, moment=clock.read())])
    clock.passes(600)
    assert report(clock).states == ("80 pieces of input refused from fed, the last one 10 min ago", "no broker")
    clock.passes(86400)
    assert report(clock).states == ("no broker",)
    assert report(clock).refused_input == {"fed": 80}


def test_source_that_gives_nothing_is_a_state(outbox, report):
    """While the agent runs: another moment's trouble is not told of."""
    outbox.record_troubles({"wrist": "wrist.ndjson is not there; it is waited for"})
    assert report().states[0] == "source wrist: wrist.ndjson is not there; it is waited for"
    assert faults(report())["source"] == "wrist: wrist.ndjson is not there; it is waited for"
    assert report(running=False).states == ("not running",)
    outbox.record_troubles({})
    assert (report().states, faults(report())["source"]) == (("no broker",), None)


def test_oldest_unsent_is_the_oldest_wherever_it_waits(outbox, report, signer):
    """Live, in a backlog, held or sealed; nothing waits when all is stored."""
    clock = HandClock()
    assert report(clock).oldest_unstored_s is None
    outbox.accept([delivery(0, 3, moment=clock.read())])
    clock.passes(60)
    outbox.defer()
    outbox.accept([delivery(3, 3, moment=clock.read())])
    sealer = Sealer(signer, ORIGIN)
    assert report(clock).oldest_unstored_s == 60.0
    outbox.seal_next(LIMITS, sealer)
    assert report(clock).oldest_unstored_s == 60.0
    outbox.seal_next(LIMITS, sealer, backlog=True)
    outbox.mark_stored([((0, 1), 1)])
    assert report(clock).oldest_unstored_s == 0.0
    outbox.mark_stored([((0, 0), 0)])
    assert report(clock).oldest_unstored_s is None


def test_full_file_system_is_seen_from_beside(outbox, config, owner, monkeypatch):
    """The agent cannot write that its disk is full; whoever asks for the status can see it."""
    assert "disk full" not in read_report(config, owner.key_id).states
    monkeypatch.setattr(status, "FULL_BELOW", 2**63)
    found = read_report(config, owner.key_id)
    assert (found.running, found.disk_full, found.states[0]) == (True, True, "disk full")


def test_report_is_frozen(outbox, report):
    """Nobody who is handed one can make it say something else."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        report().running = False
