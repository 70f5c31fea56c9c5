"""Too much of everything: floods, long outages, a broker that takes nothing. Memory stays bounded, others go on."""

import asyncio
import os
import signal
import time

import pytest

from aggregator import intake as intake_module
from aggregator import mqtt as mqtt_module
from aggregator import outgoing as outgoing_module
from aggregator.config import BrokerConfig
from aggregator.mqtt import BrokerConnection, Message
from aggregator.status import glance, read_status
from ledger.messages import Reason, Receipt, Reject, Stored
from ledger.writer.create import create_log
from tests.writer.quorum import BOTH, WITNESSES, Cosigners

from .conversation import Conversation
from .devices import ORIGIN, Device
from .hands import by_hand
from .test_service import batches_in_log, serving, until


async def test_flood_by_one_device_leaves_the_others_latency_bounded(data, device, other, mosquitto, monkeypatch):
    """Beyond its share the flood is refused and told so; what another device sends meanwhile is stored in no time."""
    monkeypatch.setattr(intake_module, "SHARE_MESSAGES", 40)
    waits = []
    async with serving(data, mosquitto) as service, Conversation(mosquitto, "wrist-1", "wrist-2") as talk:
        whole = device.batch(500)
        flood = [whole[:-1] + bytes([whole[-1] ^ 1])] * 400
        with service._order:  # a slow disk
            await talk.send("wrist-1", *flood[:100])
            assert await asyncio.to_thread(until, service._intake.over_quota)
        flooding = asyncio.create_task(talk.send("wrist-1", *flood[100:]))
        for seq in range(10):
            started = time.monotonic()
            await talk.send("wrist-2", other.batch())
            await talk.until(lambda talk, seq=seq: seq in talk.stored("wrist-2"))
            waits.append(time.monotonic() - started)
        await flooding
        await talk.until(lambda talk: talk.rejects("wrist-1").count(Reason.BAD_ROOT) >= 40)
        counts, intake = service._ingest.admission.counts, service._intake
        assert await asyncio.to_thread(until, lambda: counts["bad_root"] + sum(intake.over_quota().values()) == 400)
        assert 1 <= talk.rejects("wrist-1").count(Reason.OVER_QUOTA) < 30
        await talk.send("wrist-1", whole)
        await talk.until(lambda talk: 0 in talk.stored("wrist-1"))
    assert max(waits) < 5
    assert len(batches_in_log(data)) == 11


def test_message_beyond_the_share_is_acknowledged_counted_and_told_seldom(hands, device, monkeypatch):
    """The broker's window goes on moving; the device hears which batch it was, once in a while."""
    monkeypatch.setattr(intake_module, "SHARE_MESSAGES", 2)
    acknowledged = []
    for number in range(6):
        hands.service._receive(Message("wrist-1", "batch", device.batch(), lambda at=number: acknowledged.append(at)))
    for payload in (b"garbage", device.batch()):
        hands.service._receive(Message("stranger", "batch", payload, lambda: acknowledged.append("stranger")))
    assert acknowledged == [2, 3, 4, 5]
    [(name, reject)] = hands.told
    assert (name, reject.epoch, reject.seq, reject.reason) == ("wrist-1", 0, 2, Reason.OVER_QUOTA)
    hands.service._tell()
    status = read_status(hands.data)
    assert (status.decisions["over_quota"], status.queue) == (4, 4)
    assert glance(status)["waiting"].startswith("4 messages to be admitted, 4 messages OVER QUOTA were refused")


def test_over_quota_of_garbage_names_no_place(hands, device, monkeypatch):
    """What shows no header cannot be named."""
    monkeypatch.setattr(intake_module, "SHARE_MESSAGES", 1)
    for _ in range(2):
        hands.service._receive(Message("wrist-1", "batch", b"garbage", lambda: None))
    [(_, reject)] = hands.told
    assert (reject.epoch, reject.seq, reject.reason) == (None, None, Reason.OVER_QUOTA)


def test_outage_of_the_witnesses_costs_bounded_memory_and_no_receipt(tmp_path, monkeypatch):
    """`stored` goes on without a quorum; when it is back, every batch of the outage gets its receipt, unasked."""
    monkeypatch.setattr(outgoing_module, "MAX_OWED", 8)
    data = tmp_path / "data"
    create_log(data, ORIGIN, witnesses=WITNESSES)
    quorum = Cosigners(2_000_000_000)
    device = Device("wrist-1", 1)
    device.enrol(data)
    with by_hand(data, quorum) as hands:
        quorum.silent = BOTH
        for _ in range(10):
            assert hands.take(device, *(device.batch(1) for _ in range(5))) == [Stored] * 5
            hands.service._publish_once()
        assert len(hands.service._publisher._outgoing._devices["wrist-1"].owed) == 8
        assert read_status(data).without_receipt == 50
        quorum.silent = frozenset()
        hands.told.clear()
        while hands.service._publish_once():
            pass
        for _ in range(7):
            hands.service._tell()
        receipts = [message for _, message in hands.told if isinstance(message, Receipt)]
        assert [item.seq for receipt in receipts for item in receipt.placed] == list(range(50))
        assert read_status(data).without_receipt == 0
        hands.check()


async def test_answers_that_the_broker_does_not_take_are_dropped_and_counted(mosquitto, monkeypatch):
    """The queue to the broker is bounded; when it moves again, so does what is sent."""
    monkeypatch.setattr(mqtt_module, "OUTGOING_MESSAGES", 5)
    monkeypatch.setattr(mqtt_module, "OUTGOING_BYTES", 1000)
    answer = Stored(0, 1, 2).encode()
    connection = BrokerConnection(BrokerConfig(mosquitto.host, mosquitto.port), lambda _: None)
    assert not connection.has_room()
    async with Conversation(mosquitto, "wrist-1") as talk:
        with connection:
            assert await asyncio.to_thread(connection.connected.wait, 20)
            assert connection.has_room()
            os.kill(mosquitto._process.pid, signal.SIGSTOP)
            try:
                for _ in range(8):
                    connection.send("wrist-1", answer)
                assert (connection.outgoing(), connection.dropped, connection.has_room()) == (5, 3, False)
            finally:
                os.kill(mosquitto._process.pid, signal.SIGCONT)
            assert await asyncio.to_thread(until, lambda: connection.outgoing() == 0)
            assert connection.has_room()
            connection.send("wrist-1", Reject(0, 1, 1, "d" * 200).encode())
            await talk.until(lambda talk: len(talk.messages) == 6)
            large = Stored(0, 1, 3).encode() * 300
            connection.send("wrist-1", large)
            assert connection.dropped == 4
    connection.send("wrist-1", answer)
    assert connection.dropped == 4


@pytest.mark.parametrize("stopped", ["between", "queued"])
def test_what_was_not_acknowledged_is_not_forgotten(hands, device, stopped):
    """A graceful stop takes in what was taken over, and refuses what comes later, which stays with the broker."""
    acknowledged = []
    message = Message("wrist-1", "batch", device.batch(), lambda: acknowledged.append(1))
    if stopped == "between":
        hands.service.stop()
        hands.service._receive(message)
        assert (len(hands.service._intake), acknowledged) == (0, [])
    else:
        hands.service._receive(message)
        hands.service.stop()
        hands.service._take_in()
        assert (acknowledged, hands.counts) == ([1], {"admitted": 1})
