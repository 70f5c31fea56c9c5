"""The uplink: versions, connections that break, and what aiomqtt leaves to us."""

import asyncio
import random
import socket
import tracemalloc

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge.config import BrokerConfig
from edge.mqtt import MAX_INBOX_BYTES, MESSAGE_BYTES, Uplink, _Client, _Inbox
from ledger.messages import Status, parse_status
from tests.brokers import Mosquitto, free_port
from vitalseal import topics


def uplink(broker, protocol="auto", **others):
    return Uplink(BrokerConfig(port=broker.port, protocol=protocol), "dev-1", random.Random(1), **others)


async def once(link, serve):
    """`serve` ran on one connection, and the uplink ended in good order."""
    async with asyncio.timeout(20):
        await link.run(serve, lambda: 7)


async def published(connection):
    await connection.publish_batch(b"envelope")


async def test_auto_finds_the_version_that_the_broker_speaks(broker, caplog):
    """Version 5 with Mosquitto; 3.1.1 with amqtt, which does not even refuse version 5."""
    caplog.set_level("INFO", logger="edge")
    link = uplink(broker)
    await once(link, published)
    await once(link, published)
    said = [record.getMessage().rpartition(" ")[2] for record in caplog.records]
    assert said == [broker.protocol, broker.protocol]


async def test_batches_carry_their_content_type_on_mqtt_5(mosquitto):
    """Where the broker has properties, the payload says what it is."""
    async with aiomqtt.Client("127.0.0.1", mosquitto.port, protocol=aiomqtt.ProtocolVersion.V5) as other:
        await other.subscribe(topics.BATCHES, qos=1)
        await once(uplink(mosquitto), published)
        message = await anext(other.messages)
    assert (message.payload, message.properties.ContentType) == (b"envelope", topics.CONTENT_TYPE)


async def test_status_is_retained_online_then_offline(broker):
    """Online from before the first batch, offline after the goodbye; both state the size."""
    seen = []
    retained = asyncio.Event()

    async def watch():
        async with aiomqtt.Client(broker.host, broker.port) as other:
            await other.subscribe(topics.STATUSES, qos=1)
            watching.set()
            async for message in other.messages:
                seen.append(parse_status(message.payload))
                if len(seen) == 2:
                    retained.set()

    watching = asyncio.Event()
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        task = group.create_task(watch())
        await watching.wait()
        await once(uplink(broker, broker.protocol), published)
        await retained.wait()
        task.cancel()
    assert seen == [Status(online=True, size=7), Status(online=False, size=7)]


async def test_will_says_offline_when_the_connection_breaks(mosquitto):
    """A device that vanishes without a goodbye is shown as gone."""
    async with aiomqtt.Client("127.0.0.1", mosquitto.port) as other:
        await other.subscribe(topics.status("dev-1"), qos=1)

        async def cut(connection):
            connection._client._client._sock.shutdown(2)
            async for _ in connection.answers():
                pass

        link = asyncio.create_task(uplink(mosquitto).run(cut, lambda: 7))
        messages = other.messages
        async with asyncio.timeout(20):
            seen = [parse_status((await anext(messages)).payload).online for _ in range(2)]
        link.cancel()
        await asyncio.wait({link})
    assert seen == [True, False]


async def test_loss_and_return_are_logged_once_each(mosquitto, caplog):
    """An outage is one line when it begins, however many attempts it takes, and one when it ends."""
    caplog.set_level("INFO", logger="edge")
    served = asyncio.Queue()

    async def serve(connection):
        served.put_nowait(connection)
        async for _ in connection.answers():
            pass

    attempts = 0

    async def pause(_delay):
        nonlocal attempts
        attempts += 1
        if attempts == 5:
            await mosquitto.up()

    task = asyncio.create_task(uplink(mosquitto, pause=pause).run(serve, lambda: 0))
    async with asyncio.timeout(20):
        await served.get()
        await mosquitto.down()
        await served.get()
    task.cancel()
    await asyncio.wait({task})
    assert [record.levelname for record in caplog.records if record.name == "edge.mqtt"] == ["INFO", "WARNING", "INFO"]
    assert attempts >= 5


async def test_device_that_may_not_publish_connects_anew(tmp_path, caplog):
    """MQTT 5 says so in the PUBACK (aiomqtt does not pass it on): it is logged once, and what the next CONNECT says."""
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite vitalseal/v1/dev-1/status\ntopic read vitalseal/v1/dev-1/receipt\n")
    broker = Mosquitto(tmp_path, f"acl_file {acl}")
    await broker.up()
    connections = []

    async def serve(connection):
        connections.append(connection)
        if len(connections) < 3:
            await connection.publish_batch(b"envelope")

    async def pause(_delay):
        assert (link.state, link.why) == ("away", "it refuses what this device publishes: not authorized")

    link = uplink(broker, "5", pause=pause)
    await once(link, serve)
    await broker.down()
    assert len(connections) == 3
    assert caplog.records[0].getMessage() == "broker refused a publish: Not authorized (0x87)"


async def test_nobody_listening_is_tried_again_with_growing_pauses():
    """Full jitter below a doubling cap."""
    pauses = []

    class Enough(Exception):  # noqa: N818 - ends the test
        pass

    async def pause(delay):
        pauses.append(delay)
        if len(pauses) == 12:
            raise Enough

    class Top(random.Random):
        def uniform(self, _low, high):
            return high

    link = Uplink(BrokerConfig(port=free_port()), "dev-1", Top(), pause=pause)
    with pytest.raises(Enough):
        await link.run(published, lambda: 0)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, *[30.0] * 7]


async def test_inbox_drops_beyond_its_bytes_and_says_so(caplog):
    """Bounded memory, and never in silence; what is taken out makes room again."""
    inbox = _Inbox()
    big = aiomqtt.Message("t", bytes(MAX_INBOX_BYTES // 4 - MESSAGE_BYTES - 1), 1, False, 1, None)
    for _ in range(10):
        inbox.put_nowait(big)
    assert inbox.qsize() == 4
    assert [record.getMessage() for record in caplog.records][-1] == "more answers than can be kept; 4 dropped so far"
    inbox.get_nowait()
    inbox.put_nowait(big)
    assert inbox.qsize() == 4


async def test_inbox_of_empty_messages_takes_no_more_memory_than_it_may(monkeypatch):
    """A broker, trusted with nothing, may send messages without payload as fast as it can, and with any properties."""
    limit = MAX_INBOX_BYTES // 8  # a message takes what it takes, and fewer of them are traced sooner
    monkeypatch.setattr("edge.mqtt.MAX_INBOX_BYTES", limit)
    inbox = _Inbox()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(2000):
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = ("name", "x" * 100)
        inbox.put_nowait(aiomqtt.Message(f"vitalseal/v1/{number}/receipt", b"", 0, False, 1, properties))
    del properties
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 300 < inbox.qsize() <= limit // MESSAGE_BYTES
    assert after - before <= limit


async def test_socket_closed_before_the_loop_hears_of_it_is_no_error():
    """A broker that refuses a certificate closes at once; the loop is not asked to watch what is gone."""
    said = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    client = _Client(BrokerConfig(), "dev-1", "5", b"will", None)
    with socket.socket() as sock:
        client._on_socket_register_write(client._client, None, sock)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert said == []
