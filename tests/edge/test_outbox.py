"""The outbox: what is accepted stays, what is sealed never changes, and only receipted batches are ever deleted."""

import contextlib
import errno
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from edge import database
from edge.batcher import Limits
from edge.config import MAX_BATCH_BYTES
from edge.database import MAX_SQLITE, locked
from edge.intake import Delivery
from edge.outbox import Outbox
from edge.outbox_reader import OutboxReader
from edge.seal import Sealer
from edge.sealing import ENVELOPE_OVERHEAD
from ledger.batch import Anchor, Header, Notice, NoticeKind, header_hash
from ledger.envelope import MAX_ENVELOPE, parse_envelope
from ledger.info import MAX_DESCRIPTION, MAX_SOURCES
from ledger.messages import Reason
from ledger.reading import Reading
from tests.edge.conftest import SOURCE_ID, HandClock, measured
from tests.edge.standin import ORIGIN
from vitalseal.errors import UserError

MOMENT = HandClock().read()
LIMITS = Limits(max_readings=10, max_bytes=20_000, max_age_s=1.0)


def delivery(start, count, *, name="fed", cursor=None, refused=0, moment=MOMENT, lost=0):
    items = [measured(at) for at in range(start, start + count)]
    readings = tuple(
        (SOURCE_ID, item.sensor_time_ns, item.received(SOURCE_ID, moment.wall_ns).encode()) for item in items
    )
    return Delivery(name, readings, cursor, refused, moment, lost)


@pytest.fixture
def path(directory):
    return directory / "outbox.db"


@pytest.fixture
def reopen(path, owner):
    """Opens the outbox, closing it first if it is open."""
    opened = []

    def make():
        while opened:
            opened.pop().close()
        opened.append(Outbox(path, owner))
        opened[0].register(SOURCE_ID, "a test")
        return opened[0]

    yield make
    for outbox in opened:
        outbox.close()


@pytest.fixture
def outbox(reopen):
    return reopen()


@pytest.fixture
def sealer(signer):
    return Sealer(signer, ORIGIN)


def seal_all(outbox, sealer):
    places = []
    while sealed := outbox.seal_next(LIMITS, sealer):
        places.append(sealed.place)
    return places


def test_accepting_moves_readings_cursor_and_count_together(outbox, path):
    """One commit holds the readings, where their source goes on and how much input it refused."""
    outbox.accept([delivery(0, 5, cursor=b"5", refused=2), delivery(5, 1, name="other")])
    outbox.accept([delivery(6, 0, cursor=None, refused=1)])
    with OutboxReader(path) as reader:
        assert (reader.counts().accepted, reader.refused()) == (6, {"fed": 3, "other": 0})
    assert (outbox.cursor("fed"), outbox.cursor("other"), outbox.cursor("new")) == (b"5", None, None)


def test_failed_accept_leaves_nothing(outbox, path):
    """A delivery that cannot be committed takes its neighbours in the transaction with it, cursors included."""
    stranger = Delivery("stranger", ((b"unknown!", 0, b""),), b"1", 0, MOMENT)
    with pytest.raises(UserError, match="NOT NULL"):
        outbox.accept([delivery(0, 5, cursor=b"5"), stranger])
    with OutboxReader(path) as reader:
        assert reader.counts().accepted == 0
    assert outbox.cursor("fed") is None


def test_sealing_takes_the_oldest_in_order_and_chains(outbox, sealer):
    """Batches follow one another without a gap, each pointing at the header before it."""
    outbox.accept([delivery(0, 25)])
    assert seal_all(outbox, sealer) == [(0, 0), (0, 1), (0, 2)]
    envelopes = [parse_envelope(outbox.envelope((0, seq))) for seq in range(3)]
    assert [envelope.header.count for envelope in envelopes] == [10, 10, 5]
    times = [Reading.decode(body).sensor_time_ns for envelope in envelopes for body in envelope.bodies[1:]]
    assert times == [measured(at).sensor_time_ns for at in range(25)]
    previous = [None, *(header_hash(envelope.header_bytes) for envelope in envelopes)][:3]
    assert [envelope.header.previous for envelope in envelopes] == previous


def test_sealing_closes_at_the_byte_limit(outbox, sealer):
    """A batch holds no more bytes than it may, but always at least one reading."""
    outbox.accept([delivery(0, 9)])
    one = len(delivery(0, 1).readings[0][2])
    assert outbox.seal_next(Limits(10, 3 * one, 1.0), sealer).readings == 3
    assert outbox.seal_next(Limits(10, 1, 1.0), sealer).readings == 1


def test_nothing_to_seal_is_no_batch(outbox, sealer):
    """An empty batch would be a header that says nothing."""
    assert outbox.seal_next(LIMITS, sealer) is None


def test_sealed_bytes_survive_a_restart(outbox, sealer, reopen):
    """The envelope of a batch is the same in the next process."""
    outbox.accept([delivery(0, 10)])
    outbox.seal_next(LIMITS, sealer)
    before = outbox.envelope((0, 0))
    again = reopen()
    assert again.envelope((0, 0)) == before
    assert again.seal_next(LIMITS, sealer) is None


def test_anchor_of_the_next_batch_is_the_largest_verified_checkpoint(outbox, sealer):
    """What the device had verified when it sealed stands in the header; a smaller one later changes nothing."""
    outbox.settle(Anchor(7, bytes(32)), b"signed 7", [])
    outbox.settle(Anchor(3, bytes([1] * 32)), b"signed 3", [])
    outbox.accept([delivery(0, 1)])
    outbox.seal_next(LIMITS, sealer)
    header = Header.decode(outbox.unreceipted_at((0, 0))[0][1])
    assert (header.anchor, outbox.checkpoint()) == (Anchor(7, bytes(32)), b"signed 7")


def test_states_only_rise(outbox, sealer):
    """`stored` after a receipt, or for a batch that is not ours, changes nothing."""
    outbox.accept([delivery(0, 20)])
    seal_all(outbox, sealer)
    far = [((9, 9), 1), ((0, 2**64 - 1), 2**64 - 1)]
    assert outbox.mark_stored([((0, 0), 2**64 - 1), *far]) == [(0, 0)]
    outbox.settle(Anchor(1, bytes(32)), b"signed", [((0, 1), 4)])
    assert outbox.mark_stored([((0, 0), 5), ((0, 1), 5)]) == []
    assert (outbox.unstored(), outbox.unreceipted(9)) == ([], ([(0, 0)], False))
    assert outbox.unreceipted_at((0, 1)) == []
    assert outbox.open_batches() == 1


def test_index_that_sqlite_cannot_hold_is_clamped(outbox, sealer, path):
    """An unverified claim must not be able to raise from the database."""
    outbox.accept([delivery(0, 1)])
    outbox.seal_next(LIMITS, sealer)
    assert outbox.mark_stored([((0, 0), 2**64 - 1)]) == [(0, 0)]
    outbox.record_reject((0, 2**64 - 1), 1, "detail")
    with OutboxReader(path) as reader:
        assert reader.last_reject().seq == MAX_SQLITE


def test_purge_deletes_only_old_receipted_batches(outbox, sealer, path):
    """Running time counts, not the calendar; unsealed, sealed and stored readings stay however old they are."""
    outbox.accept([delivery(0, 35)])
    for _ in range(3):
        outbox.seal_next(LIMITS, sealer)
    outbox.mark_stored([((0, 1), 1)])
    outbox.settle(Anchor(1, bytes(32)), b"signed", [((0, 0), 0)])
    outbox.record_life(99.0)
    assert outbox.purge(100.0) == 0
    outbox.record_life(1.0)
    assert (outbox.purge(100.0), outbox.purge(100.0)) == (1, 0)
    with OutboxReader(path) as reader:
        counts = reader.counts()
        assert len(list(reader.bodies())) == 25
    assert (counts.accepted, counts.unsealed, counts.sealed, counts.stored, counts.receipted) == (35, 5, 10, 10, 10)
    assert counts.batches_receipted == 1
    assert outbox.envelope((0, 0)) is None


def test_ids_are_not_used_twice_after_a_purge(outbox, sealer):
    """When the newest reading was deleted, the next one must not look as if it were in its batch."""
    outbox.accept([delivery(0, 10)])
    outbox.seal_next(LIMITS, sealer)
    outbox.settle(Anchor(1, bytes(32)), b"signed", [((0, 0), 0)])
    assert outbox.purge(0.0) == 1
    outbox.accept([delivery(10, 3)])
    assert outbox.standing().live == 3
    assert outbox.seal_next(LIMITS, sealer).readings == 3


def test_write_ahead_log_shrinks_when_a_reader_has_gone(reopen, path, monkeypatch):
    """Somebody who reads for long makes it grow; the budget does not know of it, so it does not stay large."""
    limit = 200_000
    monkeypatch.setattr(database, "_MAX_WAL", limit)
    outbox = reopen()
    log = path.with_name("outbox.db-wal")
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM state").fetchall()
        many = delivery(0, 1000)
        while log.stat().st_size <= 6_000_000:
            outbox.accept([many] * 100)
    for _ in range(3):
        outbox.accept([delivery(0, 1)])
    assert log.stat().st_size <= limit


def test_batches_that_are_kept_cost_no_answer_more(outbox, sealer):
    """A device keeps half a million of them: what a receipt, a question or a minute takes must not grow with that."""

    def steps(ask):
        """SQLite's, in hundreds."""
        count = 0

        def tick():
            nonlocal count
            count += 1

        outbox._db.set_progress_handler(tick, 100)
        ask()
        outbox._db.set_progress_handler(None, 0)
        return count

    outbox.accept([delivery(0, 1)])
    outbox.seal_next(LIMITS, sealer)
    outbox.settle(Anchor(1, bytes(32)), b"signed", [((0, 0), 0)])
    outbox._db.execute(
        "WITH RECURSIVE more (at) AS (SELECT 1 UNION ALL SELECT at + 1 FROM more WHERE at < 20000) INSERT INTO batches "
        "SELECT chain, at, first_id, last_id, header, signature, size, state, log_index, settled_s FROM batches, more"
    )
    asked = {
        "receipt": lambda: outbox.unreceipted_at((0, 7)),
        "wanted": lambda: outbox.kept_at((0, 7)),
        "stored": lambda: outbox.mark_stored([((0, 7), 7)]),
        "minute": lambda: outbox.purge(100.0),
    }
    assert {name: steps(ask) for name, ask in asked.items() if steps(ask) > 20} == {}


@pytest.mark.parametrize("description", ["G\u00fcrtel", "a\tb", "x" * 65])
def test_description_that_no_batch_can_hold_is_refused(outbox, path, description):
    """Before a reading can be accepted under it: afterwards nothing could ever be sealed again."""
    with pytest.raises(UserError, match=r"description: not printable ASCII of at most 64 bytes$"):
        outbox.register(b"another!", description)
    outbox.register(b"another!", "d" * 64)


def test_description_of_an_older_version_does_not_stop_the_chain(outbox, sealer, path):
    """A file may hold what `register` refuses today; the readings under it were accepted, so they are sealed."""
    outbox._db.execute("UPDATE sensors SET description = ?", ("G\u00fcrtel\n" + "x" * 80,))
    outbox.accept([delivery(0, 3)])
    assert outbox.seal_next(LIMITS, sealer).readings == 3
    (described,) = parse_envelope(outbox.envelope((0, 0))).info.sources
    assert described.description == "G?rtel?" + "x" * 57


def test_batch_with_every_source_described_fits_what_the_window_is_asked_for(outbox, sealer):
    """The agent asks for room before it seals: no envelope is larger than its readings and the overhead."""
    longest = [bytes(15) + bytes([at]) for at in range(MAX_SOURCES + 1)]
    for source in longest:
        outbox.register(source, "d" * MAX_DESCRIPTION)
    readings = [(source, 0, measured(0).received(source, 0).encode()) for source in longest]
    outbox.accept([Delivery("fed", tuple(readings), None, 0, MOMENT)])
    sealed = outbox.seal_next(Limits(200, 20_000, 1.0), sealer)
    assert sealed.readings == MAX_SOURCES
    assert sealed.size - sealed.reading_bytes <= ENVELOPE_OVERHEAD
    assert MAX_BATCH_BYTES + ENVELOPE_OVERHEAD <= MAX_ENVELOPE


def test_lost_outbox_begins_the_next_epoch_with_a_notice(outbox, sealer, path, reopen):
    """A new outbox under an old key never uses a place again, and says what happened first."""
    assert outbox.announce_loss(sealer) is None
    path.unlink()
    again = reopen()
    again.accept([delivery(0, 1)])
    assert again.announce_loss(sealer).place == (1, 0)
    assert again.announce_loss(sealer) is None
    assert again.seal_next(LIMITS, sealer).place == (1, 1)
    header = parse_envelope(again.envelope((1, 0))).header
    assert (header.notice, header.previous) == (Notice(NoticeKind.OUTBOX_LOST), None)


def test_second_writer_is_refused(outbox, path, owner):
    """The lock is held for as long as the outbox is open, and seen from outside."""
    assert locked(path)
    with pytest.raises(UserError, match="another agent is using it"):
        Outbox(path, owner)


def test_reader_cannot_write_and_sees_one_moment(outbox, sealer, path):
    """Counts add up while the writer works."""
    outbox.accept([delivery(0, 25)])
    with OutboxReader(path) as reader:
        outbox.seal_next(LIMITS, sealer)
        counts = reader.counts()
        assert counts.accepted == counts.unsealed + counts.sealed + counts.stored + counts.receipted
        assert reader.batch(0, 0).signature == outbox.unreceipted_at((0, 0))[0][2]
        with pytest.raises(UserError, match="readonly"):
            reader._row("DELETE FROM readings RETURNING id")


def test_reader_of_no_outbox_says_so(tmp_path):
    """Status before the first run is a user's mistake, not a traceback; the file is not made by looking."""
    with pytest.raises(UserError, match="not there"):
        OutboxReader(tmp_path / "outbox.db")
    assert not list(tmp_path.iterdir())


def test_file_that_is_no_outbox_is_refused(path, owner):
    """Garbage is one line, and stays as it was."""
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(UserError, match="not a database"):
        Outbox(path, owner)
    assert path.read_bytes() == b"not a database" * 100


def test_damaged_outbox_says_what_to_do_and_promises_nothing(path, owner):
    """What a broken disk took may have been accepted: the line must not say that nothing is lost."""
    Outbox(path, owner).close()
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 4096 * 20)
    said = "malformed; the file is damaged; keep it for a repair"
    with OutboxReader(path) as reader, pytest.raises(UserError, match=said) as caught:
        reader.counts()
    assert "lost" not in str(caught.value).partition("damaged")[0]


def test_file_system_without_write_ahead_log_is_refused(path, owner, monkeypatch):
    """SQLite goes on without one in silence; then readers would block the agent, and syncs mean something else."""
    connect = sqlite3.connect

    def without_shared_memory(name, **others):
        return connect(f"{name.as_uri()}?vfs=unix-dotfile", uri=True, **others)

    monkeypatch.setattr("edge.database.sqlite3.connect", without_shared_memory)
    with pytest.raises(UserError, match="allows no write-ahead log"):
        Outbox(path, owner)


def test_outbox_of_another_owner_is_one_line(path, owner, monkeypatch):
    """Its mode cannot be set: an error of the file system, said like SQLite's."""

    def refuse(*_args, **_others):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.chmod", refuse)
    with pytest.raises(UserError, match=r"^outbox .*outbox.db: Operation not permitted$"):
        Outbox(path, owner)


def test_failed_opening_leaves_no_connection(path, owner):
    """Closed at once, not when the garbage collector comes by: Python 3.13 warns of that."""
    path.write_bytes(b"not a database" * 100)
    errors = []  # a traceback would keep its connection alive
    for opening in (lambda: Outbox(path, owner), lambda: OutboxReader(path)):
        with pytest.raises(UserError, match="not a database") as caught:
            opening()
        errors.append(caught.value)
    assert open_files(path) == []


def open_files(path):
    """Descriptors of this process that have `path` open."""
    return [fd for fd in Path("/proc/self/fd").iterdir() if fd.exists() and fd.resolve() == path]


def test_outdated_outbox_is_recognised(outbox, sealer, path):
    """Only while the batch that the log refused for another one in its place still waits."""
    outbox.accept([delivery(0, 20)])
    seal_all(outbox, sealer)
    with OutboxReader(path) as reader:
        outbox.record_reject((0, 1), Reason.UNKNOWN_KEY, "detail")
        assert reader.outdated() is None
        outbox.record_reject((0, 1), Reason.EQUIVOCATION, "another header holds this place")
        assert reader.outdated().seq == 1
        outbox.mark_stored([((0, 1), 1)])
        assert reader.outdated() is None


CHILD = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from edge.outbox import Outbox
    from edge.seal import Sealer
    from edge.key import load_key
    from tests.edge.conftest import owner_of
    from tests.edge.test_outbox import LIMITS, ORIGIN, SOURCE_ID, delivery
    directory = Path(sys.argv[1])
    outbox = Outbox(directory / "outbox.db", owner_of(directory, load_key(directory / "edge.key")))
    outbox.register(SOURCE_ID, "a test")
    sealer = Sealer(load_key(directory / "edge.key"), ORIGIN)
    at = int(outbox.cursor("fed") or 0)
    while True:
        outbox.accept([delivery(at, 7, cursor=str(at + 7).encode())])
        at += 7
        print("accepted", at, flush=True)
        if sealed := outbox.seal_next(LIMITS, sealer):
            print("sealed", sealed.place[1], outbox.envelope(sealed.place).hex(), flush=True)
    """
)


def test_killed_writer_loses_nothing_accepted_and_reseals_nothing(directory, owner, path):
    """SIGKILL at any point, six times: everything acknowledged is there, once, and every sealed batch unchanged."""
    accepted, sealed = 0, {}

    def note(line):
        nonlocal accepted
        word, number, *rest = line.split()
        if word == "accepted":
            accepted = int(number)
        else:
            assert sealed.setdefault(int(number), rest[0]) == rest[0]

    for lines in (1, 2, 3, 10, 25, 40):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(directory)], stdout=subprocess.PIPE, text=True)
        for _ in range(lines):
            note(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        # What it had said in whole lines before it died counts, too.
        for line in child.stdout.read().splitlines(keepends=True):
            if line.endswith("\n"):
                note(line)
        child.wait()
        child.stdout.close()
        outbox = Outbox(path, owner)
        with OutboxReader(path) as reader:
            times = [Reading.decode(body).sensor_time_ns for body in reader.bodies()]
        assert times == [measured(at).sensor_time_ns for at in range(len(times))]
        assert len(times) >= accepted
        assert outbox.cursor("fed") == str(len(times)).encode()
        assert {seq: outbox.envelope((0, seq)).hex() for seq in sealed} == sealed
        outbox.close()
