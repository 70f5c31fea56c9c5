"""The whole agent against real brokers and a stand-in aggregator that signs for real."""

import asyncio
import contextlib
import dataclasses
import math
import shutil
import sqlite3

import aiomqtt
import pytest

from edge.batcher import LARGEST
from edge.config import EdgeConfig, OutboxConfig
from edge.database import DiskFullError, open_database
from edge.key import create_key
from edge.outbox_reader import Counts, OutboxReader
from edge.sealing import ENVELOPE_OVERHEAD
from edge.source import Chunk
from ledger.batch import Header, Notice, NoticeKind
from ledger.envelope import parse_envelope
from ledger.info import Clock
from ledger.keys import key_id
from ledger.messages import Reason, Reject, Stored, Wanted
from ledger.note import NoteSigner
from tests.edge.conftest import FedSource, HandClock, measured
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


@pytest.fixture
def standin_on(signer):
    """A good aggregator on a broker."""
    return lambda broker: StandIn(broker, signer)


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
        return Counts(*[0] * 11)


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
        agent = agent_for(mosquitto, source)
        async with running(agent):
            await standin.until(lambda: [status.online for status in standin.statuses] == [True])
            await until(lambda: agent.report().connected)
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


@pytest.fixture
def small_disk(monkeypatch):
    """The outbox's file may grow to 60 pages, until `pages` is called."""
    databases = []

    def small(path, owner):
        databases.append(open_database(path, owner))
        databases[-1].execute("PRAGMA max_page_count = 60")
        return databases[-1]

    monkeypatch.setattr("edge.outbox.open_database", small)
    monkeypatch.setattr("edge.thread.RETRY_BASE_S", 0.01)
    monkeypatch.setattr("edge.thread.RETRY_CAP_S", 0.05)
    return lambda pages: databases[-1].execute(f"PRAGMA max_page_count = {pages}")


async def until(condition):
    """`condition()` holds."""
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - what is waited for is another thread's
            await asyncio.sleep(0.01)


async def test_agent_waits_out_a_full_disk(broker, standin, agent_for, source, directory, small_disk, caplog):
    """It stays up and says so, once: the source is not asked meanwhile; with room again nothing is lost."""
    agent = agent_for(broker, source)
    source.feed(20_000)
    async with running(agent):
        await until(lambda: "disk full" in caplog.text and agent.report().disk_full)
        assert agent.report().states[0] == "disk full"
        given = kept(directory)[0].accepted
        assert given < 20_000
        await agent._thread._once(lambda: small_disk(100_000))
        await receipted(directory, 20_000)
        assert not agent.report().disk_full
    assert standin.readings == kept(directory)[1]
    assert [caplog.text.count(said) for said in ("disk full", "room again")] == [1, 1]


async def test_agent_that_is_stopped_on_a_full_disk_ends_with_one_line(
    agent_for, source, directory, small_disk, monkeypatch
):
    """What waits for room is given up: it was not accepted, and the source replays it."""
    monkeypatch.setattr("edge.agent.DRAIN_S", 0.2)
    agent = agent_for(None, source)
    source.feed(1000)
    task = asyncio.create_task(agent.run())
    await accepted(directory, 1000)
    source.feed(20_000)
    await until(lambda: agent._thread.full)
    agent.stop()
    with pytest.raises(UserError, match="database or disk is full") as caught:
        async with asyncio.timeout(WITHIN_S):
            await task
    assert "\n" not in str(caught.value)
    with OutboxReader(directory / "data" / "outbox.db") as reader:
        assert reader._row("SELECT cursor, closed FROM cursors, state") == (str(reader.counts().accepted).encode(), 0)


async def test_agent_that_is_stopped_while_a_full_disk_holds_up_its_start(agent_for, source, monkeypatch):
    """It waits for room, and no longer than it is wanted."""

    def no_room(*_):
        raise DiskFullError("no room")

    monkeypatch.setattr("edge.outbox.open_database", no_room)
    agent = agent_for(None, source)
    task = asyncio.create_task(agent.run())
    await until(lambda: agent._thread.full)
    agent.stop()
    with pytest.raises(UserError, match="no room"):
        async with asyncio.timeout(5):
            await task


async def test_agent_over_its_budget_drops_the_oldest_and_the_chain_says_so(
    mosquitto, signer, agent_for, source, directory, monkeypatch, caplog
):
    """During an outage the file stays within the budget; afterwards every reading is in a leaf or in a gap's count."""
    monkeypatch.setattr(OutboxConfig, "max_bytes", 400_000)
    async with StandIn(mosquitto, signer) as standin:
        await mosquitto.down()
        agent = agent_for(mosquitto, source)
        async with running(agent):
            source.feed(20_000)
            await accepted(directory, 20_000)
            await until(lambda: agent.report().states[0].startswith("over budget: "))
            await until(lambda: agent.report().used_bytes <= 400_000)
            await mosquitto.up()
            await until_counts(directory, lambda counts: counts.receipted + counts.dropped == 20_000)
            await until(lambda: not agent.report().gaps_pending and not agent.report().counts.batches_sealed)
        notices = [Header.decode(header).notice for header, _ in standin.headers.values()]
    lost = sum(notice.lost for notice in notices if notice is not None)
    assert [notice.reason for notice in notices if notice is not None] == [1] * agent.report().gaps_declared
    assert lost == kept(directory)[0].dropped > 1000
    assert len(standin.readings) == 20_000 - lost
    assert caplog.text.count("over its budget") == 1


async def test_live_readings_overtake_a_backlog(mosquitto, signer, agent_for, source, directory):
    """After an outage: the backlog leaves in large batches, and what is measured now is stored before it is gone."""
    source.chunk = 200
    source.feed(30_000)
    async with running(agent_for(None, source)):
        await accepted(directory, 30_000)
    async with StandIn(mosquitto, signer) as standin:
        standin.stores = standin.receipts = False
        live = FedSource("live", b"livelive")
        agent = agent_for(mosquitto, source, live)
        async with running(agent):
            await until(lambda: agent._courier and len(agent._courier._window.unstored) > 3)
            await until(lambda: not agent._courier.backlog_room(LARGEST.max_bytes + ENVELOPE_OVERHEAD))
            share = len(agent._courier._window.unstored)
            # The aggregator says nothing yet: all that a backlog may have of the window is under way.
            live.feed(10)
            await standin.until(lambda: len(standin.headers) == share + 1)
            counts = [Header.decode(header).count for header, _ in standin.headers.values()]
            assert counts[-1] == 10
            assert min(counts[:-1]) > 3000
            standin.stores = standin.receipts = True
            await receipted(directory, 30_010)
        assert len(standin.readings) == 30_010
        assert len(standin.headers) < 25


async def test_agent_says_so_when_it_was_killed(mosquitto, signer, agent_for, directory):
    """A source that cannot replay may have lost readings: the chain has a gap of unknown size."""

    class Radio(FedSource):
        async def readings(self, cursor):
            async for chunk in super().readings(cursor):
                yield Chunk(chunk.readings)

    radio = Radio()
    radio.feed(10)
    agent = agent_for(None, radio)
    task = asyncio.create_task(agent.run())
    await accepted(directory, 10)
    task.cancel()  # as good as a SIGKILL: nothing is closed in order
    with contextlib.suppress(asyncio.CancelledError):
        await task
    async with StandIn(mosquitto, signer) as standin:
        async with running(agent_for(mosquitto, Radio())):
            await standin.until(lambda: len(standin.headers) >= 2)
            await receipted(directory, 10)
        assert Header.decode(standin.headers[0, 0][0]).notice == Notice(NoticeKind.GAP, 2, None)
        async with running(agent_for(mosquitto, Radio())):
            await standin.until(lambda: [status.online for status in standin.statuses].count(True) == 2)
        assert len(standin.headers) == 2


async def test_silent_agent_sends_heartbeats(mosquitto, standin_on, agent_for, source, monkeypatch):
    """Whoever drops the tail of a chain cannot hide it for longer than that; without a broker there are none."""
    monkeypatch.setattr(EdgeConfig, "__post_init__", lambda _config: None)
    async with standin_on(mosquitto) as standin, running(agent_for(mosquitto, source, heartbeat_s=0.05)):
        await standin.until(lambda: len(standin.headers) >= 3)
    assert {Header.decode(header).notice.kind for header, _ in standin.headers.values()} == {NoticeKind.HEARTBEAT}


async def test_agent_that_is_started_again_and_again_sends_heartbeats(mosquitto, standin_on, agent_for, directory):
    """None of its runs is as long as the interval, and together they are."""
    async with standin_on(mosquitto) as standin:
        starts = 0
        while not standin.headers:
            starts += 1
            agent = agent_for(mosquitto, heartbeat_s=3600.0)
            async with running(agent):
                await standin.until(lambda starts=starts: sum(status.online for status in standin.statuses) >= starts)
                if starts == 2:
                    await standin.until(lambda: standin.headers)
            with contextlib.closing(sqlite3.connect(directory / "data" / "outbox.db")) as db, db:
                db.execute("UPDATE state SET lived_s = lived_s + 3599.9")
        assert Header.decode(standin.headers[0, 0][0]).notice == Notice(NoticeKind.HEARTBEAT)


async def test_agent_keeps_a_budget_that_was_changed_while_it_works(agent_for, directory):
    """SIGHUP brings it into force: what is too much by the new budget goes with the next readings, and is counted."""
    source = FedSource()
    agent = agent_for(None, source)
    async with running(agent):
        source.feed(1000)
        await accepted(directory, 1000)
        tight = object.__new__(OutboxConfig)
        object.__setattr__(tight, "max_mb", 0.08)
        agent.reconfigure(dataclasses.replace(agent.config, outbox=tight))
        source.feed(50)
        await until_counts(directory, lambda counts: counts.accepted == 1050 and counts.dropped > 0)
        assert agent.report().over_budget


class ManyKeyed(StandIn):
    """An aggregator that knows several keys of the device; from `ended_at` on it takes nothing of the first."""

    def __init__(self, broker, *signers):
        super().__init__(broker, signers[0])
        self.ended_at = math.inf
        self.of_key = {key_id(each.algorithm, each.public_key): StandIn(broker, each) for each in signers}
        for each in self.of_key.values():
            each.log = self.log

    @property
    def all_readings(self):
        return [body for each in self.of_key.values() for body in each.readings]

    def _answers(self, payload):
        header = parse_envelope(payload).header
        first, each = next(iter(self.of_key.values())), self.of_key[header.key_id]
        each.stores, each.receipts, each.known_size = self.stores, self.receipts, self.known_size
        place = (header.epoch, header.seq)
        if each is first and place not in each.headers and header.seq >= self.ended_at:
            return [Reject(*place, Reason.ENDED_KEY, "as the test wants")]
        answers = each._answers(payload)
        self.known_size = each.known_size
        return answers


@pytest.mark.parametrize("ended_at", [0, 2, math.inf])
async def test_key_that_is_exchanged_seals_nothing_twice(
    mosquitto, directory, agent_for, signer, source, ended_at, monkeypatch
):
    """The log had batches of the old key and said so to nobody; it has or refuses the rest before the new one seals."""
    monkeypatch.setattr("edge.agent.DRAIN_S", 0.1)
    new = create_key(directory / "new.key")
    async with ManyKeyed(mosquitto, signer, new) as standin:
        standin.stores = standin.receipts = False
        standin.ended_at = ended_at
        async with running(agent_for(mosquitto, source)):
            source.feed(400)
            await until_counts(directory, lambda counts: counts.batches_sealed >= 4)
            await standin.until(lambda: len(standin.all_readings) >= 100 * min(ended_at, 4))
        standin.stores = standin.receipts = True
        agent = agent_for(mosquitto, source, signer=new)
        async with running(agent):
            source.feed(100)
            await receipted(directory, 500)
        assert sorted(standin.all_readings) == sorted(kept(directory)[1])
        assert len(standin.of_key[key_id(1, new.public_key)].readings) == {0: 500, 2: 300, math.inf: 100}[ended_at]


async def test_agent_holds_readings_until_its_clock_is_set(mosquitto, standin_on, agent_for, source, directory):
    """Status names the state; the readings are on the log soon after the clock is synchronised."""
    clock = HandClock(10**9, Clock.UNSYNCHRONISED)
    agent = agent_for(mosquitto, source, clock=clock)
    async with standin_on(mosquitto) as standin, running(agent):
        source.feed(20)
        await accepted(directory, 20)
        await standin.until(lambda: standin.statuses)
        assert "clock not set: 20 readings held" in agent.report().states
        assert not standin.readings
        clock.steps(1_800_000_000, clock=Clock.SYNCHRONISED)
        await receipted(directory, 20)
        assert agent.report().states == ("connected",)


async def test_companions_run_beside_the_agent_and_end_with_it(agent_for, directory):
    """They get the agent, are cancelled at the end, and one that raises a UserError ends it."""
    seen = []

    async def beside(agent):
        try:
            seen.append(agent.report().running)
            await asyncio.Event().wait()
        finally:
            seen.append("over")

    async def broken(_agent):
        raise UserError("the desk says no")

    agent = agent_for(None, companions=[beside])
    async with running(agent):
        await until(lambda: seen)
    assert seen == [True, "over"]
    with pytest.raises(UserError, match="the desk says no"):
        await agent_for(None, companions=[broken]).run()


async def test_agent_rotates_its_key(mosquitto, standin_on, agent_for, source, directory):
    """The old chain ends where the new key was asked for, with all of it stored; a refusal leaves the old key."""
    new = create_key(directory / "new.key")
    asked = []

    async def refuse(until):
        asked.append(until)
        raise UserError("not now")

    async with standin_on(mosquitto) as standin:
        agent = agent_for(mosquitto, source)
        async with running(agent):
            source.feed(150)
            await receipted(directory, 150)
            with pytest.raises(UserError, match="not now"):
                await agent.rotate(new, refuse)
            source.feed(50)
            await receipted(directory, 200)

            async def ask(until):
                asked.append(until)
                assert standin.last[:2] == (until[0], until[1] - 1)
                source.feed(70)
                await accepted(directory, 270)
                standin.signer, standin.last, standin.old = new, None, standin.readings
                standin.headers, standin.bodies = {}, {}

            await agent.rotate(new, ask)
            await receipted(directory, 270)
            assert agent.report().key_id == key_id(1, new.public_key).hex()
        assert asked[0][1] < asked[1][1]
        assert standin.old + standin.readings == kept(directory)[1]
        assert Header.decode(standin.headers[0, 0][0]).key_id == key_id(1, new.public_key)


async def test_agent_sends_again_what_a_restored_log_asks_for(mosquitto, standin_on, agent_for, source, directory):
    """Receipted batches too, one after another, and nothing else changes; what is not kept is passed over."""
    async with standin_on(mosquitto) as standin, aiomqtt.Client("127.0.0.1", mosquitto.port) as other:
        async with running(agent_for(mosquitto, source)):
            source.feed(500)
            await receipted(directory, 500)
            before, sent = kept(directory), {place: len(sent) for place, sent in standin.envelopes.items()}
            places = sorted(standin.headers)
            wanted = Wanted(((7, 7), *places[:2], (0, 2**64 - 1), places[-1]))
            await other.publish("vitalseal/v1/dev-1/receipt", wanted.encode(), qos=1)
            again = {place: sent[place] + (place in wanted.places) for place in places}
            await standin.until(lambda: {place: len(standin.envelopes[place]) for place in places} == again)
            assert kept(directory) == before
        assert all(len(set(sent)) == 1 for sent in standin.envelopes.values())


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


async def test_faults_of_many_kinds_do_not_fill_the_log(mosquitto, standin_on, agent_for, source, directory, caplog):
    """Whoever can publish on the receipt topic chooses the words; each is recorded for status, few are said."""
    async with standin_on(mosquitto) as standin, aiomqtt.Client("127.0.0.1", mosquitto.port) as other:
        async with running(agent_for(mosquitto, source)):
            await standin.until(lambda: standin.statuses)
            for number in range(30):
                answer = Reject(None, None, 1 + number % 7, f"detail {number}").encode() if number % 2 else b"\xff"
                await other.publish("vitalseal/v1/dev-1/receipt", answer, qos=1)
            source.feed(1)
            await receipted(directory, 1)
        with OutboxReader(directory / "data" / "outbox.db") as reader:
            assert reader.last_reject().detail == "detail 29"
    assert sum("rejects batches" in message or "not understood" in message for message in caplog.messages) == 1


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
