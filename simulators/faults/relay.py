"""A relay between two brokers that delivers what comes through it twice, late, and in another order.

Devices speak to one broker and the aggregator to the other, so every batch and every answer passes here. Nothing is
lost; QoS 1 promises no more than that.
"""

import heapq
import itertools
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from simulators.broker import HOST
from vitalseal import topics
from vitalseal.errors import UserError

READY_WITHIN_S = 10.0
MAX_COPIES = 3
# Most copies come within a moment, some when nobody waits for them any more.
SOON_S, LATE_S, LATE_SHARE = 1.5, 8.0, 0.05


@dataclass(order=True, slots=True)
class _Due:
    at_s: float
    number: int
    topic: str = field(compare=False)
    payload: bytes = field(compare=False)
    to: paho.Client = field(compare=False)


class Relay:
    """Relays between the brokers on two loopback ports while its context is entered; `counts` by what was done."""

    def __init__(self, devices_port: int, aggregator_port: int, rng: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self._rng = rng
        self._numbers = itertools.count()
        self._due: list[_Due] = []
        self._changed = threading.Condition()
        self._closing = False
        self._subscribed = threading.Semaphore(0)
        self._devices = self._client([topics.BATCHES, topics.STATUSES])
        self._aggregator = self._client([topics.receipt("+")])
        self._devices.on_message = lambda _client, _data, message: self._take(message, self._aggregator)
        self._aggregator.on_message = lambda _client, _data, message: self._take(message, self._devices)
        self._ports = {self._devices: devices_port, self._aggregator: aggregator_port}
        self._thread = threading.Thread(target=self._deliver, name="relay", daemon=True)

    def __enter__(self) -> Self:
        for client, port in self._ports.items():
            client.connect(HOST, port)
            client.loop_start()
        for _ in self._ports:
            if not self._subscribed.acquire(timeout=READY_WITHIN_S):
                raise UserError("the relay cannot subscribe at its brokers")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        for client in self._ports:
            client.disconnect()
            client.loop_stop()

    def _client(self, subscriptions: list[str]) -> paho.Client:
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv311)
        client.max_inflight_messages_set(1000)

        def subscribe(*_: Any) -> None:
            client.subscribe([(topic, 1) for topic in subscriptions])

        client.on_connect = subscribe
        client.on_subscribe = lambda *_: self._subscribed.release()
        return client

    def _take(self, message: paho.MQTTMessage, to: paho.Client) -> None:
        """Network threads: batches and answers are put into the heap, once or more often."""
        if message.topic.endswith("/status"):
            # What is retained is about now: it passes as it is.
            to.publish(message.topic, message.payload, qos=1, retain=True)
            return
        copies = self._rng.randint(1, MAX_COPIES)
        self.counts["messages"] += 1
        self.counts["copies"] += copies - 1
        with self._changed:
            for _ in range(copies):
                late = self._rng.random() < LATE_SHARE
                at_s = time.monotonic() + self._rng.uniform(0.0, LATE_S if late else SOON_S)
                due = _Due(at_s, next(self._numbers), message.topic, bytes(message.payload), to)
                heapq.heappush(self._due, due)
            self._changed.notify()

    def _deliver(self) -> None:
        newest = -1
        while True:
            with self._changed:
                while not self._closing and (not self._due or self._due[0].at_s > time.monotonic()):
                    self._changed.wait(self._due[0].at_s - time.monotonic() if self._due else None)
                if self._closing:
                    return
                due = heapq.heappop(self._due)
            self.counts["out of order"] += due.number < newest
            newest = max(newest, due.number)
            due.to.publish(due.topic, due.payload, qos=1)
