"""A device's half of the conversation, by hand: publishes envelopes, collects what comes back."""

import asyncio
import contextlib

import aiomqtt

from ledger.messages import Receipt, Reject, Status, Stored, parse_message
from vitalseal import topics

PATIENCE_S = 20


class Conversation:
    """An MQTT 3.1.1 client that listens to some devices' receipts; use as an async context manager."""

    def __init__(self, broker, *names):
        self._client = aiomqtt.Client(broker.host, broker.port)
        self._names = names
        self._heard = asyncio.Condition()
        self.messages = []

    async def __aenter__(self):
        await self._client.__aenter__()
        for name in self._names:
            await self._client.subscribe(topics.receipt(name), qos=1)
        self._listener = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *details):
        self._listener.cancel()
        with contextlib.suppress(asyncio.CancelledError, aiomqtt.MqttError):
            await self._listener
        # A broker that was taken away is no failure of the test.
        with contextlib.suppress(aiomqtt.MqttError):
            await self._client.__aexit__(*details)

    async def _listen(self):
        async for message in self._client.messages:
            async with self._heard:
                self.messages.append((topics.device_of(str(message.topic)), parse_message(message.payload)))
                self._heard.notify_all()

    async def send(self, name, *envelopes):
        """Publishes envelopes on the device's topic."""
        for envelope in envelopes:
            await self._client.publish(topics.batch(name), envelope, qos=1)

    async def publish(self, topic, payload):
        """Publishes anything anywhere, retained."""
        await self._client.publish(topic, payload, qos=1, retain=True)

    async def status(self, name, *, online=True, size=0):
        """Publishes the device's retained status."""
        await self._client.publish(topics.status(name), Status(online, size).encode(), qos=1, retain=True)

    async def until(self, condition):
        """Waits until `condition(self)` holds of what was heard."""
        async with asyncio.timeout(PATIENCE_S), self._heard:
            await self._heard.wait_for(lambda: condition(self))

    def stored(self, name):
        """Sequence numbers that were answered `stored`."""
        return {message.seq for device, message in self.messages if device == name and isinstance(message, Stored)}

    def placed(self, name):
        """Sequence number and index of every batch in a receipt."""
        receipts = [message for device, message in self.messages if device == name and isinstance(message, Receipt)]
        return {(item.seq, item.index) for receipt in receipts for item in receipt.placed}

    def receipts(self, name):
        """The receipts, oldest first."""
        return [message for device, message in self.messages if device == name and isinstance(message, Receipt)]

    def rejects(self, name):
        """Reasons of the rejects, oldest first."""
        return [message.reason for device, message in self.messages if device == name and isinstance(message, Reject)]
