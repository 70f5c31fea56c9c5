"""The whole agent against real brokers and a stand-in aggregator that signs for real."""

import asyncio
import contextlib
import shutil

import aiomqtt
import pytest

from edge.database import open_database
from edge.outbox_reader import Counts, OutboxReader
from edge.source import Chunk
from ledger.batch import Header, Notice, NoticeKind
from ledger.note import NoteSigner
from ledger.receipt import Reason, Reject, Stored
from tests.edge.conftest import FedSource, measured
from tests.edge.standin import ORIGIN, MemoryLog, StandIn
from vitalseal.errors import UserError

WITHIN_S = 30


@contextlib.asynccontextmanager
async def running(agent, **options):
    """`agent` runs inside; at the end it is stopped, and must end by itself."""
    task = asyncio.create_task(agent.run(**options))
    try:
        yield task
        agent.stop()
        async with asyncio.timeout(WITHIN_S):
            await task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def kept(directory):
    """What the outbox holds: counts, bodies, receipted places."""
    with OutboxReader(directory / "data" / "outbox.db") as reader:
        return reader.counts(), list(reader.bodies()), list(reader.receipted())


async def until_counts(directory, condition):
    """The outbox's counts satisfy `condition`."""
    path = directory / "data" / "outbox.db"
    async with asyncio.timeout(WITHIN_S):
        # The outbox is another thread's; its file is the one thing that says what was committed.
        while not path.exists() or not condition(await asyncio.to_thread(counts_of, path)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def counts_of(path):
    try:
        with OutboxReader(path) as reader:
            return reader.counts()
    except UserError:  # the file is there and its tables are not yet
        return Counts(0, 0, 0, 0, 0, 0, 0, 0)


async def accepted(directory, count):
    await until_counts(directory, lambda counts: counts.accepted == count)


async def receipted(directory, count):
    await until_counts(directory, lambda counts: counts.receipted == count)


async def test_agent_delivers_everything_and_exits_when_done(broker, standin, agent_for, source, directory):
    """Every accepted reading is one leaf on the log, in order, and has a verified receipt when run returns."""
    source.feed(1000)
    source.end()
    async with asyncio.timeout(WITHIN_S):
        await agent_for(broker, source).run(exit_when_done=True)
    counts, bodies, receipted = kept(directory)
    assert (counts.accepted, counts.receipted, len(receipted)) == (1000, 1000, counts.batches_receipted)
    assert standin.readings == bodies
    await standin.until(lambda: not standin.statuses[-1].online)


async def test_agent_goes_on_collecting_while_the_broker_is_away(broker, standin, agent_for, source, directory):
    """What is accepted during an outage is delivered after it, and nothing twice."""
    async with running(agent_for(broker, source)):
        source.feed(150)
        await standin.until(lambda: len(standin.readings) == 150)
        await broker.down()
        source.feed(300)
        await accepted(directory, 450)
        await broker.up()
        await standin.until(lambda: len(standin.readings) == 450)
        await receipted(directory, 450)
    assert standin.readings == kept(directory)[1]


async def test_agent_starts_without_a_broker(directory, agent_for, source):
    """An unreachable broker is no error: readings are accepted, and stopping is quick and clean."""
    async with running(agent_for(None, source)):
        source.feed(10)
        await accepted(directory, 10)
    assert kept(directory)[0].unsealed == 10


async def test_agent_resends_to_an_aggregator_that_was_silent(broker, standin, agent_for, source, directory):
    """An aggregator that says nothing gets the same bytes again, until it stores them."""
    standin.silent = True
    async with running(agent_for(broker, source)):
        source.feed(250)
        await standin.until(lambda: len(standin.envelopes.get((0, 0), [])) > 3)
        standin.silent = False
        await receipted(directory, 250)
    assert all(len(set(sent)) == 1 for sent in standin.envelopes.values())
    assert standin.readings == kept(directory)[1]


async def test_agent_asks_again_for_receipts_that_did_not_come(broker, standin, agent_for, source, directory):
    """A batch that is stored and has no receipt is kept, and asked after."""
    standin.receipts = False
    async with running(agent_for(broker, source)):
        source.feed(250)
        await standin.until(lambda: len(standin.envelopes.get((0, 0), [])) > 2)
        assert kept(directory)[0].receipted == 0
        standin.receipts = True
        await receipted(directory, 250)


async def test_agent_gets_receipts_that_were_missed_after_a_restart(broker, standin, agent_for, source, directory):
    """A new process asks after what the old one had stored."""
    standin.receipts = False
    source.feed(100)
    async with running(agent_for(broker, source)):
        await until_counts(directory, lambda counts: counts.stored == 100)
    standin.receipts = True
    async with running(agent_for(broker, source)):
        await receipted(directory, 100)


async def test_agent_retries_what_was_rejected(broker, standin, agent_for, source, directory):
    """A key that is not enrolled yet: nothing is dropped, only the first batch is tried, then all goes through."""
    standin.reject_with = Reason.UNKNOWN_KEY
    async with running(agent_for(broker, source)):
        source.feed(250)
        await standin.until(lambda: standin.rejects.count((0, 0)) >= 3)
        with OutboxReader(directory / "data" / "outbox.db") as reader:
            assert reader.last_reject().reason == Reason.UNKNOWN_KEY
        standin.reject_with = None
        await receipted(directory, 250)
    assert standin.readings == kept(directory)[1]


async def test_agent_rewinds_to_a_batch_that_was_lost(broker, standin, agent_for, source, directory):
    """A batch lost on the way makes those behind it arrive out of order; all of them come again, in order."""
    standin.lose = {(0, 1)}
    async with running(agent_for(broker, source)):
        source.feed(600)
        await receipted(directory, 600)
    assert standin.rejects
    assert standin.readings == kept(directory)[1]


async def test_agent_tells_its_size_when_a_proof_starts_elsewhere(broker, standin, agent_for, source, directory):
    """An aggregator that lost track of our largest checkpoint learns it from the status, and answers from there."""
    async with running(agent_for(broker, source)):
        source.feed(100)
        await receipted(directory, 100)
        standin.known_size = 0
        standin.log.append(b"someone else's entry")
        source.feed(100)
        await receipted(directory, 200)
    sizes = [status.size for status in standin.statuses if status.online]
    assert sizes[0] == 0
    assert sizes[-1] >= 1


async def test_agent_says_goodbye(mosquitto, signer, agent_for, source):
    """The retained status is offline after a stop; `test_mqtt` shows the will of one that had no time for it."""
    async with StandIn(mosquitto, signer) as standin:
        async with running(agent_for(mosquitto, source)):
            await standin.until(lambda: [status.online for status in standin.statuses] == [True])
        await standin.until(lambda: [status.online for status in standin.statuses] == [True, False])


async def test_agent_stops_while_its_source_waits(broker, standin, agent_for, source, directory):
    """Stopping delivers what was read, though no batch was full or of age."""
    async with running(agent_for(broker, source)):
        await standin.until(lambda: standin.statuses)
        source.feed(7)
        await accepted(directory, 7)
    assert len(standin.readings) == 7


async def test_agent_keeps_others_going_when_a_source_fails(broker, standin, agent_for, source, directory, caplog):
    """A source that raises is named in the log without its data; the other one's readings arrive."""

    class Broken(FedSource):
        async def readings(self, _cursor):
            yield Chunk((measured(1),), b"1")
            raise ValueError("heart rate 61 is a secret")

    broken = Broken("broken", b"brokenid")
    async with running(agent_for(broker, source, broken)):
        source.feed(100)
        await standin.until(lambda: len(standin.readings) >= 101)
    assert "source broken failed" in caplog.text
    assert "61" not in caplog.text


async def test_agent_on_a_busy_outbox_is_refused(agent_for, source, directory):
    """Two agents on one outbox would fork the device's chain."""
    async with running(agent_for(None, source)):
        source.feed(1)
        await accepted(directory, 1)
        with pytest.raises(UserError, match="another agent is using it"):
            await agent_for(None, FedSource()).run()


async def test_agent_with_a_source_that_cannot_be_described_is_refused(agent_for, directory):
    """Before anything is read: what is accepted under such a description could never leave in a batch."""
    source = FedSource(description="Gürtel")
    source.feed(1)
    with pytest.raises(UserError, match="description: not printable ASCII"):
        await agent_for(None, source).run()
    assert kept(directory)[0].accepted == 0


async def test_agent_on_a_full_disk_ends_with_one_line(agent_for, source, monkeypatch):
    """The error is one UserError, not an ExceptionGroup, and says what happened."""

    def small(path, first_epoch):
        db = open_database(path, first_epoch)
        db.execute("PRAGMA max_page_count = 40")
        return db

    monkeypatch.setattr("edge.outbox.open_database", small)
    source.feed(20_000)
    with pytest.raises(UserError, match="database or disk is full") as caught:
        await agent_for(None, source).run(exit_when_done=True)
    assert "\n" not in str(caught.value)


async def test_agent_begins_a_new_epoch_when_its_outbox_is_lost(broker, standin, agent_for, source, directory):
    """The first header of the new epoch says that the outbox was lost, and the chain goes on behind it."""
    source.feed(10)
    async with running(agent_for(broker, source)):
        await receipted(directory, 10)
    shutil.rmtree(directory / "data")
    again = FedSource()
    again.feed(5)
    async with running(agent_for(broker, again)):
        await standin.until(lambda: (1, 1) in standin.headers)
        await receipted(directory, 5)
    assert Header.decode(standin.headers[1, 0][0]).notice == Notice(NoticeKind.OUTBOX_LOST)


async def test_agent_ignores_answers_that_make_no_sense(mosquitto, signer, agent_for, source, directory):
    """A broker, or anyone on it, may say anything: nothing is deleted, and the next good answer is taken."""
    foreign = MemoryLog(NoteSigner(ORIGIN, bytes(32)))
    foreign.append(b"entry")
    forged = [b"", b"\x93", Stored(9, 9, 9).encode(), foreign.receipt([(0, 0, 0)]).encode(), bytes(100_000)]
    forged.append(Reject(None, None, 99, "nonsense").encode())
    async with StandIn(mosquitto, signer) as standin, aiomqtt.Client("127.0.0.1", mosquitto.port) as other:
        standin.silent = True
        async with running(agent_for(mosquitto, source)):
            source.feed(100)
            await standin.until(lambda: standin.envelopes)
            for payload in forged:
                await other.publish("vitalseal/v1/dev-1/receipt", payload, qos=1)
            await until_counts(directory, lambda counts: counts.sealed == 100)
            standin.silent = False
            await receipted(directory, 100)
