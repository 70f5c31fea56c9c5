"""A disk budget: what may go, in which order, and that the chain says so; what may not go stays whatever happens."""

import dataclasses
import sqlite3

import pytest

from edge import overflow
from edge.batcher import LARGEST
from edge.clock import Moment
from edge.database import DiskFullError, OutboxError, explained
from edge.intake import GapReason
from edge.outbox_reader import OutboxReader
from ledger.batch import Anchor, Notice, NoticeKind
from ledger.envelope import parse_envelope
from ledger.info import Clock
from tests.edge.conftest import measured
from tests.edge.test_outbox import delivery


def fill(outbox, count, start=0):
    """`count` readings more."""
    for at in range(start, start + count, 1000):
        outbox.accept([delivery(at, min(1000, start + count - at))])


def ids(outbox):
    low, high, count = outbox._row("SELECT min(id), max(id), count(*) FROM readings")
    assert count == 0 or high - low + 1 == count
    return low, high


def settle_all(outbox, seqs):
    outbox.settle(Anchor(1, bytes(32)), b"signed", [((0, seq), seq) for seq in seqs])


def test_nothing_goes_below_the_budget(outbox):
    """Making room costs nothing while there is room."""
    fill(outbox, 1000)
    assert outbox.relieve(outbox.used()) == overflow.Relief(0, 0, over=False)


def test_receipted_batches_go_first_and_oldest_first(outbox, sealer, path):
    """However young; the unsealed stay while that is enough, and nothing is over."""
    fill(outbox, 12_000)
    while outbox.seal_next(LARGEST, sealer):
        pass
    settle_all(outbox, range(2))
    fill(outbox, 5_000, 12_000)
    relief = outbox.relieve(outbox.used() - 10_000)
    assert (relief.purged, relief.dropped, relief.over) == (1, 0, False)
    assert (outbox.envelope((0, 0)), outbox.envelope((0, 1)) is None) == (None, False)
    with OutboxReader(path) as reader:
        assert (reader.facts().purged_early, reader.counts().receipted, reader.counts().dropped) == (1, 8190, 0)


def test_oldest_unsealed_readings_go_and_a_gap_says_so(outbox, sealer, path):
    """As many as it takes and some more, so that the next reading does not pay again; counted in status and chain."""
    fill(outbox, 10_000)
    outbox.defer()
    fill(outbox, 10_000, 10_000)
    budget = outbox.used() * 3 // 4
    relief = outbox.relieve(budget)
    assert (relief.purged, relief.over) == (0, True)
    assert 4000 < relief.dropped < 7000
    assert budget * 0.97 < outbox.used() <= budget
    assert ids(outbox) == (relief.dropped + 1, 20_000)
    assert dataclasses.astuple(outbox.standing()) == (10_000, 10_000 - relief.dropped, 0, True)
    more = outbox.relieve(outbox.used() // 2)
    assert outbox.standing().live < 10_000
    envelope = parse_envelope(outbox.envelope(outbox.declare_gap(sealer).place))
    lost = relief.dropped + more.dropped
    assert envelope.header.notice == Notice(NoticeKind.GAP, GapReason.DISK_BUDGET, lost)
    assert envelope.info.window_ns == (measured(0).sensor_time_ns, measured(lost - 1).sensor_time_ns)
    with OutboxReader(path) as reader:
        counts, facts = reader.counts(), reader.facts()
    assert (counts.accepted, counts.unsealed, counts.dropped) == (20_000, 20_000 - lost, lost)
    assert (facts.over_budget, facts.gaps_declared, facts.gaps_pending) == (1, 1, 0)


def test_sealed_batches_without_a_receipt_never_go(outbox, sealer):
    """Witnesses away for weeks: what arrives is what goes, and what is sealed is whole."""
    fill(outbox, 8000)
    while outbox.seal_next(LARGEST, sealer):
        pass
    outbox.mark_stored([((0, 0), 0)])
    envelopes = [outbox.envelope((0, seq)) for seq in range(2)]
    for start in (8000, 8100):
        outbox.accept([delivery(start, 100)])
        relief = outbox.relieve(10_000)
        assert (relief.purged, relief.dropped, relief.over) == (0, 100, True)
    assert ids(outbox) == (1, 8000)
    assert [outbox.envelope((0, seq)) for seq in range(2)] == envelopes
    assert parse_envelope(outbox.envelope(outbox.declare_gap(sealer).place)).header.notice.lost == 200


def test_budget_that_holds_again_is_over(outbox, sealer):
    """Receipts make room: dropping ends, and is not said to go on."""
    fill(outbox, 10_000)
    budget = outbox.used() - 50_000
    assert outbox.relieve(budget).over
    assert outbox.relieve(budget).over  # just below it: the next portion is near
    while outbox.seal_next(LARGEST, sealer):
        pass
    settle_all(outbox, range(3))
    assert outbox.purge(0.0)
    assert outbox.relieve(budget) == overflow.Relief(0, 0, over=False)


def test_held_readings_go_like_others(outbox):
    """A clock that is never set must not fill the disk."""
    unset = Moment(10**9, 10**9, bytes(16), Clock.UNSYNCHRONISED, None)
    outbox.accept([delivery(0, 5000, moment=unset)])
    relief = outbox.relieve(outbox.used() - 100_000)
    assert outbox.standing().held == 5000 - relief.dropped < 5000


def test_looking_for_what_may_go_writes_nothing(outbox, sealer):
    """Every minute for weeks, and with every reading while all is sealed: a memory card pays for each commit."""
    fill(outbox, 2000)
    while outbox.seal_next(LARGEST, sealer):
        pass
    outbox.relieve(10_000)
    before = outbox._db.total_changes
    assert (outbox.purge(0.0), outbox.relieve(10_000).dropped) == (0, 0)
    assert outbox._db.total_changes == before


def test_dropping_is_amortised(outbox, monkeypatch):
    """A stream into a full outbox pays for a portion of a percent now and then, not for every commit."""
    fill(outbox, 15_000)
    budget = outbox.used()
    drops = []
    for start in range(15_000, 20_000, 50):
        outbox.accept([delivery(start, 50)])
        if dropped := outbox.relieve(budget).dropped:
            drops.append(dropped)
    assert len(drops) < 40
    assert min(drops) > 100


def test_killed_between_portions_loses_no_count(outbox, path, owner, monkeypatch):
    """Each portion is one transaction with its gap: what is gone is told, whenever the power goes."""
    fill(outbox, 10_000)
    monkeypatch.setattr(overflow, "_DROPPED_AT_ONCE", 100)
    drops = []

    def stop_after_three(_self, wanted):
        if len(drops) == 3:
            raise KeyboardInterrupt
        drops.append(original(outbox, wanted))
        return drops[-1]

    original = overflow.Overflow._drop
    monkeypatch.setattr(overflow.Overflow, "_drop", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        outbox.relieve(100_000)
    outbox.close()
    outbox.__init__(path, owner)
    assert drops == [100, 100, 100]
    assert ids(outbox) == (301, 10_000)
    assert outbox._rows("SELECT reason, lost FROM gaps") == [(GapReason.DISK_BUDGET, 300)]


def test_full_disk_is_told_from_a_broken_one_at_opening_too(path):
    """SQLite has another name for it there, and an agent waits for room only if it knows that this is what lacks."""
    for extended, full in ((sqlite3.SQLITE_IOERR_SHMSIZE, True), (sqlite3.SQLITE_IOERR_FSYNC, False)):
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = extended
        with pytest.raises(OutboxError) as caught, explained(path):
            raise error
        assert isinstance(caught.value, DiskFullError) == full


def test_full_disk_is_an_error_of_its_own_and_changes_nothing(outbox, sealer, path):
    """The transaction did not happen; receipted batches make room for it."""
    fill(outbox, 4000)
    outbox.seal_next(LARGEST, sealer)
    settle_all(outbox, [0])
    pages = outbox._row("PRAGMA page_count")[0]
    outbox._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DiskFullError, match=r"^outbox .* database or disk is full; make room$"):
        fill(outbox, 3000, 4000)
    assert ids(outbox)[1] < 7000
    assert outbox.make_room() == 1
    accepted = ids(outbox)[1] or 4000
    fill(outbox, 1000, accepted)
    assert outbox.make_room() == 0
