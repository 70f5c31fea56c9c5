"""The aggregator's side of MQTT: the only module here that knows paho.

paho's network thread hands every message to one callback and waits in it, so a callback that blocks is back-pressure:
nothing more is read from the socket. (Receive Maximum is not enough: Mosquitto 2.0.11 lets it be overrun.) Messages are
acknowledged by hand, after the durable commit; until then the broker holds them for our persistent session.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from aggregator.config import BrokerConfig
from vitalseal import topics
from vitalseal.errors import UserError

logger = logging.getLogger(__name__)

SESSION_EXPIRY_S = 86_400  # how long the broker keeps messages for an aggregator that is away
KEEPALIVE_S = 30


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
    sent while connected and dropped otherwise: every one of them is sent again when the device asks again.
    """

    def __init__(self, config: BrokerConfig, handle: Callable[[Message], None]) -> None:
        self._config = config
        self._handle = handle
        self._five = config.protocol != "3.1.1"
        self._closing = False
        self._told_away = False
        self.connected = threading.Event()
        self._client = self._make_client()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self._client.disconnect()
        self._client.loop_stop()

    def send(self, device: str, payload: bytes) -> None:
        """Publishes a message to `device`'s receipt topic, QoS 1."""
        if self.connected.is_set():
            self._client.publish(topics.receipt(device), payload, qos=1)

    def _make_client(self) -> paho.Client:
        version = paho.MQTTv5 if self._five else paho.MQTTv311
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._config.client_id,
            protocol=version,
            clean_session=None if self._five else False,
            manual_ack=True,
        )
        client.on_connect = self._on_connect
        client.on_connect_fail = lambda *_: self._away("cannot be reached")
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.reconnect_delay_set(1, 30)
        # Receipts to many devices at once must not wait for each other's acknowledgement.
        client.max_inflight_messages_set(1000)
        return client

    def _start(self) -> None:
        properties = None
        options: dict[str, Any] = {}
        if self._five:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
            properties.SessionExpiryInterval = SESSION_EXPIRY_S
            options["clean_start"] = False
        try:
            self._client.connect_async(
                self._config.host, self._config.port, KEEPALIVE_S, properties=properties, **options
            )
        except ValueError as error:
            raise UserError(f"broker {self._config.host}:{self._config.port}: {error}") from None
        self._client.loop_start()

    def _on_connect(self, client: paho.Client, _data: object, _flags: object, reason: Any, _props: object) -> None:
        if reason.is_failure:
            if self._five and self._config.protocol == "auto" and "protocol version" in str(reason).lower():
                self._fall_back(client)
            else:
                self._away(f"refuses the connection: {reason}")
            return
        # Subscribing at every connect costs nothing and heals a session that the broker lost.
        client.subscribe([(topics.BATCHES, 1), (topics.STATUSES, 1)])
        self.connected.set()
        self._told_away = False
        logger.info("connected to broker %s:%s (MQTT %s)", self._config.host, self._config.port, self._version())

    def _fall_back(self, client: paho.Client) -> None:
        """The broker has no MQTT 5: a new client for 3.1.1, made outside the old one's thread."""
        self._five = False

        def replace() -> None:
            client.loop_stop()
            if not self._closing:
                self._client = self._make_client()
                self._start()

        client.disconnect()
        threading.Thread(target=replace, name="mqtt-fallback", daemon=True).start()

    def _on_disconnect(self, _client: object, _data: object, _flags: object, reason: Any, _props: object) -> None:
        if self.connected.is_set():
            self.connected.clear()
            self._away(f"connection lost: {reason}")

    def _on_message(self, client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        device = topics.device_of(message.topic)
        if device is None:
            client.ack(message.mid, message.qos)
            return
        kind = message.topic.rpartition("/")[2]
        mid, qos = message.mid, message.qos
        self._handle(Message(device, kind, bytes(message.payload), lambda: _acknowledge(client, mid, qos)))

    def _away(self, why: str) -> None:
        """Says once that the broker is away."""
        if not self._told_away and not self._closing:
            self._told_away = True
            logger.warning("broker %s:%s %s; trying again", self._config.host, self._config.port, why)

    def _version(self) -> str:
        return "5" if self._five else "3.1.1"


def _acknowledge(client: paho.Client, mid: int, qos: int) -> None:
    """Sends the PUBACK; on a connection that was replaced meanwhile it goes nowhere, and the broker redelivers."""
    client.ack(mid, qos)
