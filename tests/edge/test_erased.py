"""What the log calls erased: the whole batch goes, bytes and all, and nothing goes for any other reason."""

import asyncio
import contextlib
import dataclasses
import random
import sqlite3

import msgpack
import pytest

from edge.batcher import Limits
from edge.courier import Courier
from edge.outbox_reader import OutboxReader
from edge.receipts import Outcome, ReceiptBook
from edge.status import for_people, read_report
from edge.thread import OutboxThread
from edge.window import Window
from ledger import merkle
from ledger.batch import Anchor
from ledger.entry import BatchEntry, Erased
from ledger.envelope import parse_envelope
from ledger.messages import ErasedBatch, ErasedNotice
from ledger.note import NoteSigner
from ledger.policy import parse_policy
from tests.edge.conftest import QUICK, make_config
from tests.edge.standin import LOG, ORIGIN, MemoryLog, policy
from tests.edge.test_outbox import delivery

LIMITS = Limits(3, 20_000, 1.0)
SEEDS = (11, 26)  # where a copy of a secret stayed once


@pytest.fixture
def log():
    log = MemoryLog()
    log.append(b"somebody's entry")
    return log


@pytest.fixture
def book(outbox, directory):
    return ReceiptBook(outbox, policy(), ORIGIN, directory / "evidence")


@pytest.fixture
def logged(outbox, sealer, log):
    """Accepts, seals and logs one more batch of three readings; gives (epoch, seq, log index)."""

    def seal():
        start = outbox.next_place()[1] * 3
        outbox.accept([delivery(start, 3)])
        place = outbox.seal_next(LIMITS, sealer).place
        return (*place, log.append(BatchEntry(*outbox.unreceipted_at(place)[0][1:]).encode()))

    return seal


def notice(log, batches, old_size=0, *, append=True):
    """`batches`: (epoch, seq, log index) each; the log says of each that two of its readings were erased."""
    entries = [Erased(index, (1, 3)) for _, _, index in batches]
    at = [log.append(entry.encode()) if append else 0 for entry in entries]
    size = len(log.leaves)
    items = tuple(
        ErasedBatch(epoch, seq, index, entry, tuple(merkle.prove_inclusion(index, size, log.read)))
        for (epoch, seq, _), entry, index in zip(batches, entries, at, strict=True)
    )
    return ErasedNotice(log.checkpoint(), old_size, tuple(merkle.prove_consistency(old_size, size, log.read)), items)


def receipted(book, outbox, log, *batches):
    """All of them have a verified receipt; the checkpoint's size."""
    size = outbox.anchor().size if outbox.anchor() else 0
    assert len(book.accept(log.receipt(batches, old_size=size)).receipted) == len(batches)
    return outbox.anchor().size


def traces(path, *envelopes):
    """What of these envelopes is found in the outbox's files: secret, salts, info, readings."""
    raw = b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))
    parts = [part for data in envelopes for part in private(data)]
    return [part for part in parts if part in raw]


def private(data):
    """The secret of an envelope, and the bytes of its leaves; the salts are nowhere but in memory."""
    envelope = parse_envelope(data)
    (secret,) = {item for item in walk(data) if len(item) == 32 and item not in envelope.header_bytes}
    return [secret, *envelope.bodies]


def walk(data):
    def items(value):
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, list):
                yield from items(item)
            elif isinstance(item, bytes):
                yield item

    return items(msgpack.unpackb(data))


def test_erased_batch_is_deleted_and_nothing_else(book, outbox, log, logged, path):
    """Its secret, its info and its readings are in no file; its neighbours are as they were, and the chain goes on."""
    batches = [logged() for _ in range(3)]
    size = receipted(book, outbox, log, *batches)
    envelopes = [outbox.envelope((0, seq)) for seq in range(3)]
    assert len(traces(path, *envelopes)) == 15
    said = notice(log, batches[1:2], size)
    assert book.erase(said) == Outcome(erased=((0, 1),))
    assert traces(path, envelopes[1]) == []
    assert len(traces(path, envelopes[0], envelopes[2])) == 10
    assert [outbox.envelope((0, seq)) for seq in range(3)] == [envelopes[0], None, envelopes[2]]
    assert outbox.kept_at((0, 1)) == []
    assert outbox.anchor() == Anchor(len(log.leaves), log.root())
    with OutboxReader(path) as reader:
        counts = reader.counts()
        assert (counts.accepted, counts.receipted, counts.batches_receipted) == (9, 9, 3)
        assert reader.facts().erased_batches == 1
    epoch, seq, _ = logged()
    assert (epoch, seq) == (0, 3)
    header = parse_envelope(outbox.envelope((0, 3))).header
    assert header.previous is not None
    # It is told again whenever the device connects; that changes nothing.
    assert book.erase(dataclasses.replace(said, old_size=0, consistency=())) == Outcome()
    assert len(traces(path, envelopes[0], envelopes[2])) == 10


def test_batch_that_was_purged_before_is_no_longer_there_either(book, outbox, log, logged, path):
    """Deleted in the usual way, it left no bytes; the message finds nothing, and that is no fault."""
    batches = [logged() for _ in range(4)]
    size = receipted(book, outbox, log, *batches)
    envelopes = [outbox.envelope((0, seq)) for seq in range(4)]
    outbox.record_life(10)
    assert outbox.purge(5) == 4
    outbox._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert traces(path, *envelopes) == []
    assert book.erase(notice(log, batches, size)) == Outcome()


@pytest.mark.parametrize("seed", SEEDS)
def test_secret_has_left_no_copy_where_sqlite_moved_rows(seed, outbox, sealer, path):
    """Answers make rows longer, so pages are divided; whatever the order, an erased batch is on none of them."""
    chance = random.Random(seed)
    places, envelopes = [], {}
    for seq in range(150):
        outbox.accept([delivery(seq, 1)])
        outbox.seal_next(LIMITS, sealer)
        places.append(((0, seq), 2 + seq))
        envelopes[seq] = outbox.envelope((0, seq))
    outbox.mark_stored(places)
    answered = chance.sample(places, len(places))
    for size in range(1000, 1015):
        outbox.settle(Anchor(size, bytes(32)), b"signed", answered[(size - 1000) * 10 :][:10])
    gone = chance.sample(places, 120)
    for place in gone:
        assert outbox.erase([place]) == [place[0]]
    raw = b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))
    secrets = [private(envelopes[seq])[0] for (_, seq), _ in gone]
    # A piece, too: something else may lie over the rest of it.
    assert [secret for secret in secrets if secret[:12] in raw or secret[-12:] in raw] == []
    outbox.record_life(10)
    assert outbox.purge(5) == 30
    assert outbox._row("SELECT count(*) FROM secrets") == (0,)


@pytest.mark.parametrize("number", range(7))
def test_forged_message_deletes_nothing(number, directory, book, outbox, log, logged):
    """Another key, another log, no quorum, a proof of another entry, of another index, or of one that comes later."""
    batches = [logged(), logged()]
    size = receipted(book, outbox, log, *batches)
    good = notice(log, batches[:1], size)
    (item,) = good.batches
    says = "inclusion"
    if number == 0:
        log.signer = NoteSigner(ORIGIN, bytes(32))
        forged, says = dataclasses.replace(good, checkpoint=log.checkpoint()), "no signature by a known key"
    elif number == 1:
        other = NoteSigner("other.example/log", b"other".ljust(32, b"\0"))
        both = parse_policy(f"log {LOG.verifier}\nlog {other.verifier}\nquorum none\n".encode())
        book = ReceiptBook(outbox, both, ORIGIN, directory / "evidence")
        log.signer, log.origin = other, "other.example/log"
        forged, says = dataclasses.replace(good, checkpoint=log.checkpoint()), "not from log.example"
    elif number == 2:
        witness = (
            f"witness.example+{str(dataclasses.replace(LOG.verifier, name='witness.example', type=4)).split('+', 1)[1]}"
        )
        strict = parse_policy(f"log {LOG.verifier}\nwitness w {witness}\nquorum w\n".encode())
        book = ReceiptBook(outbox, strict, ORIGIN, directory / "evidence")
        forged, says = good, "quorum"
    elif number == 3:  # an entry that is not on the log
        forged = dataclasses.replace(
            good, batches=(dataclasses.replace(item, seq=1, entry=Erased(batches[1][2], (1,))),)
        )
    elif number == 4:
        forged = dataclasses.replace(good, batches=(dataclasses.replace(item, index=item.index - 1),))
    elif number == 5:
        forged = dataclasses.replace(good, batches=(dataclasses.replace(item, inclusion=item.inclusion[:-1]),))
    else:  # the log says it before the batch is there
        early = MemoryLog()
        early.append(b"somebody's entry")
        ahead = early.append(Erased(2, (1,)).encode())
        early.append(b"the batch")
        proof = tuple(merkle.prove_inclusion(ahead, 3, early.read))
        outbox._db.execute("UPDATE state SET anchor_size = 0, anchor_root = NULL")
        forged = ErasedNotice(early.checkpoint(), 0, (), (ErasedBatch(0, 1, ahead, Erased(2, (1,)), proof),))
        says = "not before it"
    outcome = book.erase(forged)
    assert (outcome.erased, outcome.stale) == ((), False)
    assert says in outcome.fault
    assert all(outbox.envelope((0, seq)) for seq in range(2))


def test_message_for_another_index_or_without_a_receipt_deletes_nothing(book, outbox, log, logged):
    """The entry is on the log, and speaks of somebody else's batch; or ours has no receipt yet. Neither is a fault."""
    mine, other, waiting = logged(), logged(), logged()
    size = receipted(book, outbox, log, mine, other)
    said = notice(log, [(*mine[:2], other[2]), (*mine[:2], 0), (7, 7, mine[2]), (0, 2**64 - 1, 0), waiting], size)
    assert book.erase(said) == Outcome()
    assert all(outbox.envelope((0, seq)) for seq in range(3))
    # With its receipt it goes, when it is told again.
    size = receipted(book, outbox, log, waiting)
    assert book.erase(notice(log, [waiting], size)).erased == ((0, 2),)


def test_batch_behind_one_that_may_not_be_stored_waits(book, outbox, log, logged, owner):
    """A new epoch takes what follows the last stored batch along; with it gone, it would seal readings twice."""
    first, second = logged(), logged()
    size = receipted(book, outbox, log, second)
    assert book.erase(notice(log, [second], size)) == Outcome()
    assert outbox.envelope((0, 1)) is not None
    outbox.mark_stored([(first[:2], first[2])])
    assert book.erase(notice(log, [second], outbox.anchor().size)).erased == ((0, 1),)
    assert outbox.new_epoch(owner) == 0


def test_of_two_keys_batches_in_one_place_the_one_at_the_index_goes(book, outbox, log, logged, owner, path):
    """Epoch and number are the same; the log index tells them apart."""
    old = logged()
    size = receipted(book, outbox, log, old)
    outbox._db.execute("INSERT INTO chains (chain, key_id, epoch) VALUES (1, x'00', 0)")
    outbox._db.execute(
        "INSERT INTO batches SELECT 1, seq, 99, 98, header, signature, size, state, 77, settled_s FROM batches"
    )
    outbox._db.execute("INSERT INTO secrets (chain, seq, secret, info) SELECT 1, seq, x'00', x'00' FROM secrets")
    assert book.erase(notice(log, [old], size)).erased == ((0, 0),)
    assert outbox.kept_at((0, 0)) == [(1, 0)]


def test_reader_that_holds_the_write_ahead_log_delays_the_last_byte(book, outbox, log, logged, path):
    """A status that is being read is not waited for: it is done later, and that it is due is committed."""
    batch = logged()
    size = receipted(book, outbox, log, batch)
    envelope = outbox.envelope((0, 0))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM batches").fetchone()
        assert book.erase(notice(log, [batch], size)).erased == ((0, 0),)
        assert not outbox.scrub()
        assert traces(path, envelope)
        assert reader.execute("COMMIT") is not None
        assert reader.execute("SELECT to_scrub FROM state").fetchone() == (1,)
    assert outbox.scrub()
    assert traces(path, envelope) == []
    assert outbox._row("SELECT to_scrub FROM state") == (0,)


def test_status_counts_what_was_erased(outbox, book, log, logged, directory):
    """For people and for programs."""
    config = make_config(directory)
    config.outbox_file.parent.mkdir(exist_ok=True)
    batches = [logged(), logged()]
    size = receipted(book, outbox, log, *batches)
    assert book.erase(notice(log, batches, size)).erased
    outbox._db.execute("VACUUM INTO ?", (str(config.outbox_file),))
    with contextlib.closing(sqlite3.connect(config.outbox_file)) as db:
        db.execute("PRAGMA journal_mode = WAL")
    report = read_report(config, bytes(32))
    assert report.as_json()["erased_batches"] == 2
    assert "erased       2 batches" in for_people(report)


async def test_courier_acts_on_the_message(outbox, book, log, logged, caplog):
    """From the wire to the deletion, after which there is nothing to send again. A forged one is told."""
    batches = [logged(), logged()]
    size = receipted(book, outbox, log, *batches)
    thread = OutboxThread("test")
    # SQLite lets an outbox be used from the thread that opened it only, and this fixture's was opened in ours.
    thread.call = lambda function, *args: asyncio.sleep(0, function(*args))
    courier = Courier(thread, outbox, book, Window(QUICK), lambda: None)
    await courier.load()
    answers = asyncio.create_task(courier.answers())
    good = notice(log, batches[:1], size)
    (item,) = good.batches
    forged = dataclasses.replace(good, batches=(dataclasses.replace(item, index=item.index - 1),))
    await courier._answers.put([forged.encode()])
    await until(lambda: courier.anchor_size == len(log.leaves))
    assert outbox.envelope((0, 0)) is not None
    await courier._answers.put([notice(log, batches[:1], courier.anchor_size).encode()])
    await until(lambda: courier.anchor_size == len(log.leaves))
    assert outbox.kept_at((0, 0)) == []
    assert outbox.envelope((0, 1)) is not None
    assert courier.anchor_size == len(log.leaves)
    answers.cancel()
    thread.end()
    told = [record.getMessage() for record in caplog.records]
    assert sum("a message that readings were erased was not believed" in line for line in told) == 1
    assert sum("1 batches are deleted" in line for line in told) == 1


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what the courier did is seen from its attributes
            await asyncio.sleep(0)
