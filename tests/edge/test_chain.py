"""Chains: a new key, a new epoch, an earlier format, gaps; and what becomes of what was sealed before."""

import contextlib
import dataclasses
import signal
import sqlite3
import subprocess
import sys

import pytest

from edge import schema
from edge.batcher import LARGEST
from edge.config import EdgeConfig
from edge.epoch import name_epoch, start_epoch
from edge.intake import GapReason
from edge.key import create_key
from edge.outbox import Outbox
from edge.outbox_reader import OutboxReader
from edge.receipts import Outcome, ReceiptBook
from edge.recovery import Recovered, recover
from edge.seal import Sealer
from ledger.batch import Anchor, Notice, NoticeKind
from ledger.entry import BatchEntry
from ledger.envelope import parse_envelope
from ledger.messages import Reason
from ledger.reading import Reading
from tests.edge.conftest import SOURCE_ID, measured, owner_of
from tests.edge.standin import ORIGIN, MemoryLog, policy
from tests.edge.test_outbox import LIMITS, MOMENT, delivery, seal_all
from vitalseal.errors import UserError


@pytest.fixture
def other(directory):
    """A new key, and the owner with it."""
    signer = create_key(directory / "other.key")
    owner = dataclasses.replace(owner_of(directory, signer), key_file=directory / "edge.key")
    return Sealer(signer, ORIGIN), owner


def times_in(outbox, places):
    """Sensor times of the readings in the batches, as positions of `measured`."""
    bodies = [body for place in places for body in parse_envelope(outbox.envelope(place)).bodies[1:]]
    first = measured(0).sensor_time_ns
    return [(Reading.decode(body).sensor_time_ns - first) // 10**9 for body in bodies]


def notices(outbox, places):
    return [parse_envelope(outbox.envelope(place)).header.notice for place in places]


def test_new_key_takes_along_what_is_not_stored(outbox, sealer, other, path):
    """Its chain begins at 0/0; what the log has stays under the old key, and is asked after."""
    outbox.accept([delivery(0, 40)])
    assert seal_all(outbox, sealer) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    # The answer to 0/0 was lost: the log takes a chain in order, so it has that one, too.
    assert outbox.mark_stored([((0, 1), 7)]) == [(0, 1)]
    outbox.accept([delivery(40, 3)])
    new, owner = other
    assert outbox.begin_chain(owner) == 20
    assert outbox.begin_chain(owner) == 0
    assert (outbox.unstored(), outbox.unreceipted(9)) == ([], ([(0, 0), (0, 1)], False))
    assert dataclasses.astuple(outbox.standing()) == (3, 20, 0, False)
    sealed = [outbox.seal_next(LIMITS, new).place, outbox.seal_next(LARGEST, new, backlog=True).place]
    assert sealed == [(1, 0), (1, 1)]
    assert times_in(outbox, sealed) == [40, 41, 42, *range(20, 40)]
    header = parse_envelope(outbox.envelope((1, 0))).header
    assert (header.key_id, header.epoch, header.previous) == (owner.key_id, 0, None)
    with OutboxReader(path) as reader:
        counts = reader.counts()
    assert (counts.accepted, counts.unsealed, counts.sealed, counts.stored) == (43, 0, 23, 20)
    assert (counts.batches_sealed, counts.batches_stored, counts.batches_receipted) == (2, 2, 0)


def test_new_key_waits_for_what_the_old_one_sealed(outbox, sealer, other, path):
    """The log may have it without our knowing, so opening decides nothing; nor does the new key seal behind it."""
    outbox.accept([delivery(0, 20)])
    seal_all(outbox, sealer)
    outbox.close()
    new, owner = other
    with contextlib.closing(Outbox(path, owner)) as again:
        assert again.in_doubt(owner)
        assert (len(again.unstored()), again.next_place()) == (2, (0, 2))
        for seal in (again.heartbeat, lambda sealer: again.seal_next(LARGEST, sealer)):
            again.accept([delivery(20, 1)])
            with pytest.raises(UserError, match="its chain is another key's; start the agent again"):
                seal(new)
        assert again.mark_stored([((0, 0), 0), ((0, 1), 1)]) == [(0, 0), (0, 1)]
        assert not again.in_doubt(owner)
    with contextlib.closing(Outbox(path, owner)) as again:
        assert again.next_place() == (0, 0)
        assert again.seal_next(LARGEST, new).readings == 2
    outbox.__init__(path, owner)


def test_old_key_that_comes_back_begins_a_new_epoch(outbox, sealer, other, owner, signer):
    """Its places were used: the chain goes on in an epoch that was not."""
    outbox.accept([delivery(0, 10)])
    seal_all(outbox, sealer)
    outbox.begin_chain(other[1])
    assert outbox.begin_chain(owner) == 0
    assert outbox.next_place() == (1, 0)
    assert notices(outbox, [outbox.announce_loss(sealer).place]) == [Notice(NoticeKind.OUTBOX_LOST)]


def test_answers_go_to_the_batch_of_the_chain_that_they_fit(outbox, sealer, other, directory):
    """A receipt names epoch and sequence number only: the proof says which of two batches it is for."""
    log = MemoryLog()
    book = ReceiptBook(outbox, policy(), ORIGIN, directory / "evidence")
    outbox.accept([delivery(0, 3)])
    outbox.seal_next(LIMITS, sealer)
    outbox.mark_stored([((0, 0), 0)])
    ((_, *old),) = outbox.unreceipted_at((0, 0))
    new, owner = other
    outbox.begin_chain(owner)
    outbox.accept([delivery(3, 3)])
    outbox.seal_next(LIMITS, new)
    # A late repetition of what was said of the old batch is not an answer for the new one.
    assert outbox.mark_stored([((0, 0), 0)]) == []
    assert outbox.mark_stored([((0, 0), 1)]) == [(1, 0)]
    places = [place for place, *_ in outbox.unreceipted_at((0, 0))]
    assert places == [(1, 0), (0, 0)]
    log.append(BatchEntry(*old).encode())
    log.append(b"somebody's entry")
    assert "batch 0/0" in book.accept(log.receipt([(0, 0, 1)])).fault
    assert book.accept(log.receipt([(0, 0, 0)], old_size=2)) == Outcome(((0, 0),))
    assert [place for place, *_ in outbox.unreceipted_at((0, 0))] == [(1, 0)]
    assert outbox.kept_at((0, 0)) == [(0, 0), (1, 0)]


def test_recovered_outbox_goes_on_in_a_new_epoch(path, owner, sealer, directory):
    """Same key, cursors kept, what was sealed and not stored is sealed anew behind the word that an outbox was lost."""
    config = EdgeConfig("dev-1", ORIGIN, directory / "edge.key", directory / "policy.txt", directory)
    with pytest.raises(UserError, match="not there"):
        recover(config, owner.key_id)
    with contextlib.closing(Outbox(path, owner)) as outbox:
        outbox.register(SOURCE_ID, "a test")
        outbox.accept([delivery(0, 30, cursor=b"30")])
        seal_all(outbox, sealer)
        outbox.mark_stored([((0, 0), 0)])
        with pytest.raises(UserError, match="another agent"):
            recover(config, owner.key_id)
    with pytest.raises(UserError, match="has not refused it as outdated"):
        recover(config, owner.key_id)
    with contextlib.closing(Outbox(path, owner)) as outbox:
        outbox.record_reject((0, 1), Reason.EQUIVOCATION, "another header")
    assert recover(config, owner.key_id) == Recovered(1, 20)
    with contextlib.closing(Outbox(path, owner)) as outbox:
        assert outbox.cursor("fed") == b"30"
        places = [outbox.announce_loss(sealer).place, outbox.seal_next(LARGEST, sealer, backlog=True).place]
        assert places == [(1, 0), (1, 1)]
        assert times_in(outbox, places) == list(range(10, 30))
    assert start_epoch(owner.key_file, owner.key_id) == 2


def test_gap_of_a_batch_that_is_given_up_is_said_again(outbox, sealer, other):
    """What the old chain said last was heard by nobody."""
    outbox.accept([delivery(0, 1, lost=7)])
    assert notices(outbox, [outbox.declare_gap(sealer).place]) == [Notice(NoticeKind.GAP, 3, 7)]
    outbox.begin_chain(other[1])
    outbox.accept([delivery(1, 1, lost=2)])
    assert notices(outbox, [outbox.declare_gap(other[0]).place]) == [Notice(NoticeKind.GAP, 3, 9)]
    assert outbox.declare_gap(other[0]) is None


def test_overrun_of_a_source_is_a_gap(outbox, sealer, path):
    """Committed with the chunk that told of it, and added up until the chain says it."""
    for lost in (3, 4):
        outbox.accept([delivery(0, 1, lost=lost)])
    assert outbox.standing().gap
    envelope = parse_envelope(outbox.envelope(outbox.declare_gap(sealer).place))
    assert (envelope.header.notice, envelope.info.window_ns) == (
        Notice(NoticeKind.GAP, GapReason.SOURCE_OVERRUN, 7),
        None,
    )
    assert not outbox.standing().gap
    with OutboxReader(path) as reader:
        assert (reader.facts().gaps_declared, reader.facts().gaps_pending) == (1, 0)


def test_silence_is_counted_in_running_time_across_restarts(path, owner, sealer):
    """From the last header of any kind; what an agent ran for until it stopped in good order counts, too."""
    for silent_s in (0.0, 70.0, 140.0):
        with contextlib.closing(Outbox(path, owner)) as outbox:
            assert outbox.silent_s() == silent_s
            outbox.record_life(60.0)
            outbox.close_in_order(10.0)
    with contextlib.closing(Outbox(path, owner)) as outbox:
        outbox.heartbeat(sealer)
        assert outbox.silent_s() == 0.0


@pytest.mark.parametrize(
    ("sources", "cursor", "said"),
    [(["fed"], None, True), (["fed"], b"5", False), (["fed", "radio"], b"5", True), ([], None, False)],
)
def test_unclean_stop_is_a_gap_unless_every_source_replays(path, owner, sealer, sources, cursor, said):
    """Nobody knows how many readings were on their way; from the last commit to the start is when."""
    with contextlib.closing(Outbox(path, owner)) as outbox:
        assert not outbox.resume(MOMENT, sources)
        outbox.register(SOURCE_ID, "a test")
        outbox.accept([delivery(0, 1, cursor=cursor)])
    later = dataclasses.replace(MOMENT, wall_ns=MOMENT.wall_ns + 10**9)
    with contextlib.closing(Outbox(path, owner)) as outbox:
        assert outbox.resume(later, sources) == said
        assert outbox.standing().gap == said
        if said:
            envelope = parse_envelope(outbox.envelope(outbox.declare_gap(sealer).place))
            assert envelope.header.notice == Notice(NoticeKind.GAP, GapReason.UNCLEAN_STOP, None)
            assert envelope.info.window_ns == (MOMENT.wall_ns, later.wall_ns)
        outbox.close_in_order()
    with contextlib.closing(Outbox(path, owner)) as outbox:
        assert not outbox.resume(later, sources)


def test_unclean_stop_before_a_clock_that_makes_no_sense_has_no_window(path, owner, sealer):
    """A window that ends in 1970 would say something about nothing."""
    for wall_ns in (MOMENT.wall_ns, 10**9):
        with contextlib.closing(Outbox(path, owner)) as outbox:
            outbox.resume(dataclasses.replace(MOMENT, wall_ns=wall_ns), ["fed"])
            if wall_ns == 10**9:
                assert parse_envelope(outbox.envelope(outbox.declare_gap(sealer).place)).info.window_ns is None


def test_outbox_of_another_device_or_log_is_refused(outbox, path, owner):
    """A copied data directory must not make two devices of one chain, nor send one log's batches to another."""
    outbox.close()
    for others in ({"device": "dev-2"}, {"origin": "other.example/log"}):
        with pytest.raises(UserError, match=r"^outbox .* it is that of device 'dev-1' for log ") as caught:
            Outbox(path, dataclasses.replace(owner, **others))
        assert "\n" not in str(caught.value)
    outbox.__init__(path, owner)


def test_epochs_are_kept_for_every_key(directory):
    """A new key begins at 0, an old one behind its last; a mark without a name counts for whoever asks first."""
    key_file = directory / "edge.key"
    mark = directory / "edge.key.epoch"
    one, two = bytes(32), b"\x01" * 32
    assert [start_epoch(key_file, key) for key in (one, one, two, one)] == [0, 1, 0, 2]
    assert mark.read_text() == f"{one.hex()} 2\n{two.hex()} 0\n"
    mark.write_text("4\n")
    name_epoch(key_file, one, 4)
    assert [start_epoch(key_file, key) for key in (two, one)] == [0, 5]
    mark.write_text("4\n")
    assert start_epoch(key_file, two) == 5
    mark.write_text("nonsense\n")
    with pytest.raises(UserError, match="each line must hold"):
        start_epoch(key_file, one)


FORMAT_1 = """
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL, next_seq INTEGER NOT NULL DEFAULT 0, previous BLOB,
    sealed_to INTEGER NOT NULL DEFAULT 0,
    anchor_size INTEGER NOT NULL DEFAULT 0, anchor_root BLOB,
    checkpoint BLOB,
    lived_s REAL NOT NULL DEFAULT 0,
    connected INTEGER NOT NULL DEFAULT 0,
    purged_readings INTEGER NOT NULL DEFAULT 0, purged_batches INTEGER NOT NULL DEFAULT 0,
    reject_epoch INTEGER, reject_seq INTEGER, reject_reason INTEGER, reject_detail TEXT
);
CREATE TABLE sensors (id INTEGER PRIMARY KEY, source BLOB NOT NULL UNIQUE, description TEXT NOT NULL);
CREATE TABLE cursors (name TEXT PRIMARY KEY, cursor BLOB, refused INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE readings (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sensor INTEGER NOT NULL, sensor_time_ns INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE TABLE batches (
    epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    first_id INTEGER NOT NULL, last_id INTEGER NOT NULL,
    header BLOB NOT NULL, signature BLOB NOT NULL, secret BLOB NOT NULL, info BLOB NOT NULL,
    size INTEGER NOT NULL,
    state INTEGER NOT NULL DEFAULT 0, log_index INTEGER,
    settled_s REAL,
    PRIMARY KEY (epoch, seq)
);
CREATE INDEX batches_by_state ON batches (state, epoch, seq);
"""
FROM_NEW = """
ATTACH 'NEW' AS new;
INSERT INTO state (one, epoch, next_seq, previous, sealed_to, anchor_size, anchor_root, checkpoint, lived_s)
    SELECT 1, epoch, next_seq, previous, live_from - 1, anchor_size, anchor_root, checkpoint, lived_s
    FROM new.state, new.chains;
INSERT INTO sensors SELECT * FROM new.sensors;
INSERT INTO cursors SELECT name, cursor, refused FROM new.cursors;
INSERT INTO readings SELECT * FROM new.readings;
INSERT INTO batches SELECT chain, seq, first_id, last_id, header, signature, secret, info, size, state, log_index,
    settled_s FROM new.batches JOIN new.secrets USING (chain, seq);
DETACH new;
PRAGMA user_version = 1;
"""


# What formats 1 to 3 have instead of a table of secrets.
WITH_SECRETS = """
ALTER TABLE batches RENAME TO newer;
DROP INDEX batches_by_state;
CREATE TABLE batches (
    chain INTEGER NOT NULL, seq INTEGER NOT NULL,
    first_id INTEGER NOT NULL, last_id INTEGER NOT NULL,
    header BLOB NOT NULL, signature BLOB NOT NULL, secret BLOB NOT NULL, info BLOB NOT NULL,
    size INTEGER NOT NULL,
    state INTEGER NOT NULL DEFAULT 0, log_index INTEGER,
    settled_s REAL,
    PRIMARY KEY (chain, seq)
);
CREATE INDEX batches_by_state ON batches (state, chain, seq, first_id, last_id);
INSERT INTO batches SELECT chain, seq, first_id, last_id, header, signature, secret, info, size, state, log_index,
    settled_s FROM newer JOIN secrets USING (chain, seq);
DROP TABLE newer;
DROP TABLE secrets;
"""


@pytest.fixture
def format_1(outbox, sealer, directory, path):
    """Makes an outbox as the first version wrote it: four batches in every state and readings behind them."""
    outbox.accept([delivery(0, 40, cursor=b"40")])
    seal_all(outbox, sealer)
    outbox.mark_stored([((0, 0), 0), ((0, 1), 1)])
    outbox.settle(Anchor(1, bytes(32)), b"signed", [((0, 0), 0)])
    outbox.record_life(100.0)
    outbox.accept([delivery(40, 5)])
    old = directory / "old.db"
    with contextlib.closing(sqlite3.connect(old, isolation_level=None)) as db:
        db.executescript("PRAGMA journal_mode = WAL;" + FORMAT_1 + FROM_NEW.replace("NEW", str(path)))
    (directory / "edge.key.epoch").write_text("0\n")
    return old


def test_outbox_of_format_1_is_taken_over(format_1, outbox, owner, sealer, directory):
    """Every batch's bytes and state, the cursors, the anchor, and what waited; sealing goes on in the chain."""
    with pytest.raises(UserError, match="format 1, of an earlier version; start the agent once"):
        OutboxReader(format_1)
    with contextlib.closing(Outbox(format_1, owner)) as again:
        places = [(0, seq) for seq in range(4)]
        assert [again.envelope(place) for place in places] == [outbox.envelope(place) for place in places]
        assert [place for place, _ in again.unstored()] == places[2:]
        assert (again.unreceipted(9), again.cursor("fed"), again.anchor().size) == (([(0, 1)], False), b"40", 1)
        assert again.seal_next(LIMITS, sealer).place == (0, 4)
        envelope = parse_envelope(again.envelope((0, 4)))
        assert (envelope.header.count, envelope.header.previous is None) == (5, False)
    assert (directory / "edge.key.epoch").read_text() == f"{owner.key_id.hex()} 0\n"


def test_outbox_of_format_1_whose_key_was_changed_meanwhile(format_1, other, directory, owner):
    """Its last header says which key it was: the new one's chain begins at epoch 0; the old one's is noted."""
    with contextlib.closing(Outbox(format_1, other[1])) as again:
        assert (again.in_doubt(other[1]), again.next_place()) == (True, (0, 4))
        assert (again.begin_chain(other[1]), again.next_place()) == (20, (0, 0))
        assert dataclasses.astuple(again.standing()) == (5, 20, 0, False)
    assert f"{owner.key_id.hex()} 0\n" in (directory / "edge.key.epoch").read_text()


def test_outbox_of_format_2_is_taken_over(owner, path):
    """What it did not know yet is unknown; all else stays."""
    with contextlib.closing(Outbox(path, owner)) as outbox:
        outbox.register(SOURCE_ID, "a test")
        outbox.accept([delivery(0, 5, cursor=b"5", refused=2)])
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(
            "ALTER TABLE state DROP COLUMN reject_ns; ALTER TABLE cursors DROP COLUMN refused_ns;"
            "ALTER TABLE state DROP COLUMN erased_batches; ALTER TABLE state DROP COLUMN to_scrub;"
            "DROP TABLE troubles; PRAGMA user_version = 2;" + WITH_SECRETS
        )
    with contextlib.closing(Outbox(path, owner)) as again, OutboxReader(path) as reader:
        assert (again.cursor("fed"), reader.refused(), reader.last_refused_ns()) == (b"5", {"fed": 2}, {})
        assert (reader.troubles(), reader.counts().accepted) == ({}, 5)


@pytest.fixture
def format_3(format_1, outbox, directory, path):
    """The outbox of `format_1`, as the third version wrote it, which was there before anything was ever erased."""
    old = directory / "third.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("VACUUM INTO ?", (str(old),))
    with contextlib.closing(sqlite3.connect(old, isolation_level=None)) as db:
        db.executescript(
            f"PRAGMA journal_mode = WAL; {WITH_SECRETS} ALTER TABLE state DROP COLUMN erased_batches;"
            "ALTER TABLE state DROP COLUMN to_scrub; PRAGMA user_version = 3;"
        )
    return old


def rows(db):
    with contextlib.closing(sqlite3.connect(db)) as opened:
        return sorted(line for line in opened.iterdump() if line.startswith("INSERT"))


def test_outbox_of_format_3_is_taken_over(format_3, outbox, owner, sealer, path):
    """Every batch's bytes and state, and what waited; every row is where one that was made today has it."""
    before = [outbox.envelope((0, seq)) for seq in range(4)]
    with contextlib.closing(Outbox(format_3, owner)) as again:
        assert [again.envelope((0, seq)) for seq in range(4)] == before
        assert rows(format_3) == rows(path)
        assert again.seal_next(LIMITS, sealer).place == (0, 4)


def test_killed_at_any_step_of_the_migration_it_is_format_3_still(format_3, owner, monkeypatch):
    """One transaction: the steps so far are undone by whoever opens it next, which is the agent that migrates it."""
    before = rows(format_3)
    statements = schema._FROM_FORMAT_3.split(";\n")
    for done in range(1, len(statements)):
        command = [sys.executable, "-c", KILLED, str(format_3), ";\n".join(statements[:done])]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        assert rows(format_3) == before
    Outbox(format_3, owner).close()


# In the middle of what `_run` does; the cache is small, so that pages have been written by then.
KILLED = """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size = 1")
db.execute("BEGIN IMMEDIATE")
for statement in sys.argv[2].split(";\\n"):
    db.execute(statement)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_failed_migration_leaves_format_1(format_1, owner):
    """One transaction: a gateway that loses power in the middle finds what it had."""
    with contextlib.closing(sqlite3.connect(format_1)) as db:
        db.execute("CREATE TABLE gaps (in_the_way)")
    for _ in range(2):
        with pytest.raises(UserError, match="already exists"):
            Outbox(format_1, owner)
    with contextlib.closing(sqlite3.connect(format_1)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        db.execute("DROP TABLE gaps")
    Outbox(format_1, owner).close()


def test_ranges_that_touch_become_one(outbox):
    """However often what waits is put back, the outbox remembers a few ranges."""
    with outbox._transaction() as db:
        for first, last, held in (
            (1, 3, False),
            (7, 9, False),
            (4, 6, False),
            (10, 12, True),
            (13, 15, True),
            (20, 19, False),
        ):
            outbox._wait(db, first, last, held=held)
    assert outbox._rows("SELECT * FROM waiting ORDER BY first_id") == [(1, 9, 0), (10, 15, 1)]


def test_live_is_sealed_before_the_backlog_and_batches_are_large(outbox, sealer):
    """A backlog leaves oldest first, as much as a batch holds; what arrived since goes first."""
    outbox.accept([delivery(0, 5000)])
    outbox.defer()
    outbox.accept([delivery(5000, 3)])
    assert dataclasses.astuple(outbox.standing()) == (3, 5000, 0, False)
    sealed = [
        outbox.seal_next(LIMITS, sealer),
        outbox.seal_next(LARGEST, sealer, backlog=True),
        outbox.seal_next(LARGEST, sealer, backlog=True),
    ]
    assert [(item.readings, item.backlog) for item in sealed] == [(3, False), (4095, True), (905, True)]
    assert (
        times_in(outbox, [item.place for item in sealed])
        == [5000, 5001, 5002, *range(5000)][: sum(i.readings for i in sealed)]
    )
    assert [item.envelope for item in sealed] == [outbox.envelope(item.place) for item in sealed]
