"""The aggregator's side of MQTT: the only module here that knows paho.

paho's network thread alone reads and writes the socket: OpenSSL takes no two threads on one connection, and paho would
let packets of two threads run into each other. It hands every message to one callback and waits in it, so a callback
that blocks is back-pressure: nothing more is read from the socket. (Receive Maximum is not enough: Mosquitto 2.0.11
lets it be overrun.) Messages are acknowledged by hand, after the durable commit; until then the broker holds them for
our persistent session.
"""

import logging
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from aggregator.config import BrokerConfig
from aggregator.tls import broker_context, reason_of
from ledger.envelope import MAX_ENVELOPE
from vitalseal import topics
from vitalseal.errors import UserError

logger = logging.getLogger(__name__)

# How long the broker keeps our session (MQTT 5, 3.1.2.11.2): a Mosquitto 2.0.11 that has noted an end crashes, see
# `aggregator.mosquitto`. What waits in it is bounded by the broker, and is sent again by devices anyway.
NEVER = 0xFFFFFFFF
KEEPALIVE_S = 30
ANSWER_WITHIN_S = 3.0  # for the broker to accept a connection
UNANSWERED = "did not answer"
CLOSED = "closed the connection"
CONTESTED = (
    "ends our connection again and again and lets us in again: DOES ANOTHER CLIENT HAVE OUR SESSION? A second"
    " aggregator of this log, or somebody with our certificate; or the broker is restarted all the time"
)
MAX_BACKOFF_S = 30.0
# So many connections lost within that time, and others made: as when a second client has our session, and the two
# throw each other off. (MQTT 5 has a word for it, which Mosquitto 2.0.11 does not say.)
LOSSES, LOSSES_WITHIN_S = 4, 300.0
STEADY_S = 10.0  # a connection that lasts this long was a good one
MAX_PAYLOAD = MAX_ENVELOPE + 1  # what is larger is rejected for its size, whatever the rest says
# As much as the intake holds, so that the broker hands over the messages of all devices, not of the fastest alone.
RECEIVE_MAXIMUM = 4096
# Messages to devices that the broker has not acknowledged: some seconds of a large fleet. What comes on top is dropped.
OUTGOING_MESSAGES, OUTGOING_BYTES = 8192, 16 * 1024 * 1024
# Of them to one device: more than what a device that keeps to its window can be told at once.
OUTGOING_PER_DEVICE = 1024


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a device, to be acknowledged when its effect is durable."""

    device: str
    kind: str
    payload: bytes
    acknowledge: Callable[[], None]


class BrokerConnection:
    """A connection that comes back by itself; use as a context manager.

    `handle` is called in the network thread for every message on our topics, and may block. Messages to devices are
    sent while connected, and while not too many wait for the broker; others are dropped and counted: every one of them
    is sent again when the device asks again.

    Every connection has a new client (a reused one floods past its window), made and ended by one supervising thread.
    """

    def __init__(self, config: BrokerConfig, handle: Callable[[Message], None]) -> None:
        broker_context(config)  # files that cannot be used are told now, before anything runs
        self._config = config
        self._handle = handle
        self._versions = ["5", "3.1.1"] if config.protocol == "auto" else [config.protocol]
        self._closing = threading.Event()
        self._client: paho.Client | None = None
        self._refusal = ""
        self.fault = "not connected yet"  # why there is no connection, where there is none
        self._lost_s: deque[float] = deque(maxlen=LOSSES)  # when connections that stood were lost last
        self._supervisor = threading.Thread(target=self._supervise, name="mqtt", daemon=True)
        self.connected = threading.Event()
        self._outgoing_lock = threading.Lock()  # guards what follows
        self._outgoing: deque[tuple[paho.MQTTMessageInfo, str, int]] = deque()
        self._outgoing_bytes = 0
        self._outgoing_to: Counter[str] = Counter()  # by device
        self.dropped = 0  # messages to devices, since the start, while connected

    def __enter__(self) -> Self:
        self._supervisor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        if self._client is not None:
            self._client.disconnect()
        self._supervisor.join()

    @property
    def version(self) -> str:
        """The MQTT version that is in use, or tried first."""
        return self._versions[0]

    def send(self, device: str, payload: bytes) -> None:
        """Publishes a message to `device`'s receipt topic, QoS 1."""
        client = self._client
        if client is None or not self.connected.is_set():
            return
        with self._outgoing_lock:
            self._settle()
            full = len(self._outgoing) >= OUTGOING_MESSAGES or self._outgoing_bytes + len(payload) > OUTGOING_BYTES
            # What one device is told about a flood of its own must not cost another its answer.
            if full or self._outgoing_to[device] >= OUTGOING_PER_DEVICE:
                self.dropped += 1
                return
        # Not under the lock: paho has locks of its own. Some threads at once may go over by a message each.
        info = client.publish(topics.receipt(device), payload, qos=1)
        with self._outgoing_lock:
            if client is self._client:
                self._outgoing.append((info, device, len(payload)))
                self._outgoing_bytes += len(payload)
                self._outgoing_to[device] += 1

    def is_contested(self) -> bool:
        """Whether the broker lately ended our connection so often that another client seems to have our session."""
        lost = tuple(self._lost_s)
        return len(lost) == LOSSES and time.monotonic() - lost[0] < LOSSES_WITHIN_S

    def outgoing(self) -> int:
        """How many messages to devices wait for the broker's acknowledgement."""
        with self._outgoing_lock:
            self._settle()
            return len(self._outgoing)

    def has_room(self) -> bool:
        """Whether we are connected, and half of what may wait for the broker is free."""
        if not self.connected.is_set():
            return False
        with self._outgoing_lock:
            self._settle()
            return len(self._outgoing) < OUTGOING_MESSAGES // 2 and self._outgoing_bytes < OUTGOING_BYTES // 2

    def _settle(self) -> None:
        """Forgets what the broker acknowledged; it does so nearly in order, so looking at the oldest is enough."""
        while self._outgoing and _is_over(self._outgoing[0][0]):
            _, device, size = self._outgoing.popleft()
            self._outgoing_bytes -= size
            self._outgoing_to[device] -= 1
            if not self._outgoing_to[device]:
                del self._outgoing_to[device]

    def _supervise(self) -> None:
        failures = 0
        told = False
        while not self._closing.is_set():
            started = time.monotonic()
            refusal = self._one_connection()
            if self._closing.is_set():
                return
            if time.monotonic() - started >= STEADY_S:
                failures, told = 0, False
            self.fault = refusal
            if not told:
                logger.warning("broker %s:%s %s; trying again", self._config.host, self._config.port, refusal)
                told = True
            # Full jitter, so that a fleet does not come back in step; the first time at once.
            self._closing.wait(random.uniform(0, min(MAX_BACKOFF_S, 2.0**failures - 1)))  # noqa: S311 - not a secret
            failures += 1

    def _one_connection(self) -> str:
        """Connects, and serves until the connection is over; why it is, in words."""
        self._refusal = UNANSWERED
        options: dict[str, Any] = {}
        if self.version == "5":
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
            properties.SessionExpiryInterval = NEVER
            properties.ReceiveMaximum = RECEIVE_MAXIMUM
            options = {"clean_start": False, "properties": properties}
        self._client = client = self._make_client()
        try:
            tls = broker_context(self._config)
        except UserError as error:
            return f"cannot be asked: {error}"
        if tls is not None:
            client.tls_set_context(tls)
        unanswered = threading.Timer(ANSWER_WITHIN_S, self._give_up, (client,))
        reached = False
        try:
            client.connect(self._config.host, self._config.port, KEEPALIVE_S, **options)
            reached = True
            unanswered.start()
            # Only with a thread of its own does paho leave the socket to it, whoever publishes or acknowledges.
            client.loop_start()
            client.ended.wait()
            if client.failure is not None:
                self._refusal = f"sent what paho cannot read: {client.failure!r}"
        except OSError as error:
            self._refusal = f"cannot be reached: {reason_of(error)}"
        finally:
            unanswered.cancel()
            accepted = self.connected.is_set()
            self.connected.clear()
            if accepted and not self._closing.is_set():
                self._note_loss()
            client.disconnect()
        if tls is not None and tls.alert and not accepted:
            # Whatever the MQTT version, it does not let us in.
            return f"refuses our certificate {self._config.certificate}: {tls.alert}"
        if reached and not accepted:
            self._versions.reverse()
            if tls is not None and self._refusal == UNANSWERED:
                # Its word about a certificate may be lost with the connection that it closes.
                return f"{UNANSWERED}: does it take our certificate {self._config.certificate}?"
        return self._refusal

    def _note_loss(self) -> None:
        known = self.is_contested()
        self._lost_s.append(time.monotonic())
        if self.is_contested() and not known:
            logger.critical("broker %s:%s %s", self._config.host, self._config.port, CONTESTED)

    def _give_up(self, client: paho.Client) -> None:
        """A broker without MQTT 5 refuses it, drops the connection, or (amqtt) says nothing at all."""
        if not self.connected.is_set():
            client.disconnect()

    def _make_client(self) -> "_Client":
        five = self.version == "5"
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._config.client_id,
            protocol=paho.MQTTv5 if five else paho.MQTTv311,
            clean_session=None if five else False,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        with self._outgoing_lock:
            # What waited on the connection before is not sent on this one: devices ask again.
            self._outgoing.clear()
            self._outgoing_to.clear()
            self._outgoing_bytes = 0
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        # Receipts to many devices at once must not wait for each other's acknowledgement.
        client.max_inflight_messages_set(1000)
        return client

    def _on_connect(self, client: paho.Client, _data: object, _flags: object, reason: Any, _props: object) -> None:
        if reason.is_failure:
            self._refusal = f"refuses the connection: {reason}"
            return
        self._refusal = CLOSED
        # Subscribing at every connect costs nothing and heals a session that the broker lost.
        client.subscribe([(topics.BATCHES, 1), (topics.STATUSES, 1)])

    def _on_subscribe(self, client: paho.Client, _data: object, _mid: int, _reasons: Any, _props: object) -> None:
        """Only now do we hear devices, so only now are we connected."""
        self.connected.set()
        logger.info("connected to broker %s:%s, MQTT %s", self._config.host, self._config.port, self.version)
        if self._closing.is_set():
            client.disconnect()

    def _on_disconnect(self, _client: object, _data: object, _flags: object, reason: Any, _props: object) -> None:
        # After the broker's own word paho calls once more, and knows only that the connection is gone.
        if self.connected.is_set() and self._refusal == CLOSED:
            self._refusal = f"connection lost: {reason}"

    def _on_message(self, client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        device = topics.device_of(message.topic)
        if device is None:
            client.ack(message.mid, message.qos)
            return
        kind = message.topic.rpartition("/")[2]
        mid, qos = message.mid, message.qos
        payload = bytes(message.payload[:MAX_PAYLOAD])
        self._handle(Message(device, kind, payload, lambda: _acknowledge(client, mid, qos)))


class _Client(paho.Client):
    """paho's, which says when its network thread is done, and what ended it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ended = threading.Event()
        self.failure: Exception | None = None

    def loop_forever(self, timeout: float = 1.0, retry_first_connection: bool = False) -> MQTTErrorCode:  # noqa: FBT001, FBT002 - paho's
        try:
            return super().loop_forever(timeout, retry_first_connection)
        except Exception as error:  # noqa: BLE001 - whatever paho makes of a broker's bytes ends this connection only
            self.failure = error
            return MQTTErrorCode.MQTT_ERR_UNKNOWN
        finally:
            self.ended.set()


def _is_over(info: paho.MQTTMessageInfo) -> bool:
    """Whether the broker has acknowledged this message, or it never went out."""
    try:
        return info.is_published()
    except (ValueError, RuntimeError):  # paho's words for a message that was not sent
        return True


def _acknowledge(client: paho.Client, mid: int, qos: int) -> None:
    """Sends the PUBACK; on a connection that was replaced meanwhile it goes nowhere, and the broker redelivers."""
    client.ack(mid, qos)
