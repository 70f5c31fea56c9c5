"""MQTT: the only room that knows it. Connections that come and go, publishes that end with their PUBACK.

A new `aiomqtt.Client` for every connection: paho resends what an old one had in flight past every window
(paho#698), and our own resending covers what was lost. The session is clean for the same reason.

What aiomqtt 2.5 leaves to us, all in `_Client`: reason codes of PUBACKs are ignored there; a socket that was closed
meanwhile is registered with the loop; a broker that drops the connection instead of answering CONNECT is noticed only
by a time-out; a full incoming queue discards in silence.

With TLS a failure is told apart by its reason (`tls.explain`), and is a state as any other absence: collecting goes on.

The incoming queue is bounded in bytes of memory, so an empty message counts, too; what does not fit is dropped, counted
and logged. An honest aggregator cannot fill it: it answers at most the batches of one window. Dropping is safe for us,
because every answer comes again when the batch is sent again; an unbounded queue would let a broker, which is trusted
with nothing, take all memory, and stopping to read would cost the keep-alive.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import aiomqtt
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge import tls
from edge.config import BrokerConfig
from edge.window import MAX_UNACKNOWLEDGED
from ledger.messages import Status
from vitalseal import topics
from vitalseal.errors import UserError

# A broker that has not acknowledged after this is gone, whatever TCP says.
ANSWER_S = 20.0
# In "auto", how long a broker may think about a CONNECT of version 5. amqtt does not refuse it: it misreads it as
# 3.1.1 and waits for the rest. A broker slower than this is served with 3.1.1, which lacks nothing we depend on.
THINK_S = 2.0
# paho's own limit for a TCP connection to come about.
CONNECT_S = 5.0
RECONNECT_BASE_S, RECONNECT_CAP_S = 0.5, 30.0
# A connection that lasted this long was a success: the next loss starts the back-off from the beginning.
STEADY_S = 10.0
# Two windows of answers with long proofs (256 x 2 KB), and a checkpoint note with all its witnesses a few times.
MAX_INBOX_BYTES = 2 * 1024 * 1024
# What a queued message takes beside payload and topic: some 350 bytes of Python objects, rounded up.
MESSAGE_BYTES = 512

# Answers handed over together, so that they can share a commit.
MAX_AT_ONCE = 64

_NOT_AUTHORIZED = 0x87  # MQTT 5, 2.4

_PROTOCOLS = {"5": aiomqtt.ProtocolVersion.V5, "3.1.1": aiomqtt.ProtocolVersion.V311}
_log = logging.getLogger(__name__)


class ConnectionLostError(Exception):
    """The broker is not there, or not any more; the message says why."""

    state = "away"


class TlsFailedError(ConnectionLostError):
    """The broker's certificate is not believed, or there is no common TLS; the message says why."""

    state = "tls"


class DeviceRefusedError(TlsFailedError):
    """The broker does not believe this device's certificate; the message says why."""

    state = "refused"


class Connection:
    """One connection, from CONNACK to its end. Made by `Uplink` only."""

    def __init__(self, client: "_Client", device: str) -> None:
        self._client = client
        self._device = device
        self._properties: Properties | None = None
        if client.is_5:
            self._properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho
            self._properties.ContentType = topics.CONTENT_TYPE

    async def publish_batch(self, envelope: bytes) -> None:
        """The broker has acknowledged `envelope`. Several may wait at a time, and go out in the order of calls.

        Raises:
            ConnectionLostError: it has not, and the connection is of no further use.
        """
        with _as_lost():
            await self._client.publish(topics.batch(self._device), envelope, qos=1, properties=self._properties)
        self._check_allowed()

    async def publish_status(self, status: Status) -> None:
        """The broker retains `status` as the device's; raises ConnectionLostError."""
        with _as_lost():
            await self._client.publish(topics.status(self._device), status.encode(), qos=1, retain=True)
        self._check_allowed()

    def _check_allowed(self) -> None:
        """A device that may not publish any more is told why when it connects anew, by TLS for instance."""
        if self._client.not_allowed:
            raise ConnectionLostError("it refuses what this device publishes: not authorized")

    async def answers(self) -> AsyncIterator[list[bytes]]:
        """What arrived on the receipt topic, all that is there at a time, until ConnectionLostError."""
        messages = self._client.messages
        with _as_lost():
            async for first in messages:
                payloads = [first.payload]
                while len(messages) and len(payloads) < MAX_AT_ONCE:
                    payloads.append((await anext(messages)).payload)
                yield payloads


class Uplink:
    """Keeps one device connected to one broker.

    Attributes:
        state: "connecting" at first, then "connected", "away", or, when certificates are the reason, "tls" or, if it is
            this device's, "refused".
        why: what led to "away", "tls" or "refused", in one sentence; empty in the other states.
    """

    def __init__(
        self,
        broker: BrokerConfig,
        device: str,
        rng: random.Random,
        *,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._broker = broker
        self._pause = pause
        self._device = device
        self._rng = rng
        # The one that worked last comes first, so "auto" asks once and not at every reconnection.
        self._protocols = ["5", "3.1.1"] if broker.protocol == "auto" else [broker.protocol]
        self.state = "connecting"
        self.why = ""

    async def run(self, serve: Callable[[Connection], Awaitable[None]], status_size: Callable[[], int]) -> None:
        """Connects, calls `serve` on each connection, and again when that is lost; ends when `serve` returns.

        While connected the device's retained status is online; `status_size` is the size that it states.
        """
        attempts = 0
        while True:
            since = time.monotonic()
            served = False
            try:
                async with self._connect(status_size) as connection:
                    self._returned()
                    await serve(connection)
                    served = True
            except* ConnectionLostError as group:
                self._went_away(_first(group))
            if served:
                return
            attempts = 0 if time.monotonic() - since > STEADY_S else attempts + 1
            cap = min(RECONNECT_CAP_S, RECONNECT_BASE_S * 2.0 ** min(attempts, 16))
            # Full jitter: a broker that comes back meets its devices spread out, not all at once.
            await self._pause(self._rng.uniform(0.0, cap))

    @contextlib.asynccontextmanager
    async def _connect(self, status_size: Callable[[], int]) -> AsyncIterator[Connection]:
        async with contextlib.AsyncExitStack() as stack:
            client = await self._negotiate(stack, status_size())
            connection = Connection(client, self._device)
            with _as_lost():
                # Before anything is published: no answer to this connection's batches can be missed.
                await client.subscribe(topics.receipt(self._device), qos=1)
            await connection.publish_status(Status(online=True, size=status_size()))
            yield connection
            # A DISCONNECT discards the will, so going in peace is said here.
            await connection.publish_status(Status(online=False, size=status_size()))

    async def _negotiate(self, stack: contextlib.AsyncExitStack, size: int) -> "_Client":
        """A connected client that `stack` will close; raises ConnectionLostError."""
        will = Status(online=False, size=size).encode()
        context = self._context()
        for at, protocol in enumerate(self._protocols):
            last = at + 1 == len(self._protocols)
            client = _Client(self._broker, self._device, protocol, will, context)
            client.timeout = ANSWER_S if last else THINK_S
            try:
                await stack.enter_async_context(_open(client))
            except (_RefusedError, ConnectionLostError) as error:
                if context is not None and context.fault is not None:
                    kind = DeviceRefusedError if tls.is_refusal(context.fault) else TlsFailedError
                    raise kind(tls.explain(context.fault, "the broker")) from None
                # Whoever does not even take the TCP connection has no opinion on versions: that is another error.
                if last or isinstance(error, ConnectionLostError):
                    raise ConnectionLostError(str(error)) from None
            else:
                client.timeout = ANSWER_S
                if at:
                    self._protocols.reverse()
                return client
        raise ConnectionLostError("no protocol to try")

    def _context(self) -> tls.Context | None:
        """TLS for one connection, from the files as they are now; None where there is to be none."""
        if self._broker.tls is None:
            return None
        try:
            return tls.file_context(self._broker.tls)
        except UserError as error:
            raise TlsFailedError(str(error)) from None

    def _went_away(self, error: ConnectionLostError) -> None:
        if self.state != error.state:
            where = f"{self._broker.host}:{self._broker.port}"
            what = "is away" if error.state == "away" else "is not connected: tls"
            _log.warning("broker %s %s: %s; readings are kept, and it is tried again", where, what, error)
        self.state, self.why = error.state, str(error)

    def _returned(self) -> None:
        version = self._protocols[0]
        _log.info("connected to broker %s:%d with MQTT %s", self._broker.host, self._broker.port, version)
        self.state, self.why = "connected", ""


class _RefusedError(Exception):
    """The broker took the connection, and answered CONNECT with a refusal, by hanging up or with silence."""


class _Inbox(asyncio.Queue[aiomqtt.Message]):
    """Bounded in bytes; see the module for why it drops."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self._bytes = 0
        self._dropped = 0

    def put_nowait(self, item: aiomqtt.Message) -> None:
        """`item` is queued, or dropped and counted."""
        item.properties = None  # nobody reads them, and a broker may send any number
        size = _size(item)
        if self._bytes + size > MAX_INBOX_BYTES:
            self._dropped += 1
            if self._dropped & (self._dropped - 1) == 0:  # 1, 2, 4, 8 ...: said, and never a flood
                _log.warning("more answers than can be kept; %d dropped so far", self._dropped)
            return
        self._bytes += size
        super().put_nowait(item)

    def _get(self) -> aiomqtt.Message:
        item: aiomqtt.Message = super()._get()
        self._bytes -= _size(item)
        return item


class _Client(aiomqtt.Client):
    """What the module says aiomqtt leaves to us. The overridden hooks are aiomqtt's own paho callbacks."""

    def __init__(
        self, broker: BrokerConfig, device: str, protocol: str, will: bytes, context: tls.Context | None
    ) -> None:
        self.is_5 = protocol == "5"
        super().__init__(
            broker.host,
            broker.port,
            # One name per device: a broker that still holds our half-open connection closes it for this one.
            identifier=f"vitalseal-{device}",
            protocol=_PROTOCOLS[protocol],
            will=aiomqtt.Will(topics.status(device), will, qos=1, retain=True),
            clean_session=None if self.is_5 else True,
            tls_context=context,
            keepalive=broker.keepalive_s,
            timeout=ANSWER_S,
            queue_type=_Inbox,
            max_inflight_messages=MAX_UNACKNOWLEDGED + 1,  # the window's, and a status beside them
            logger=_log.getChild("paho"),
        )
        self.pending_calls_threshold = MAX_UNACKNOWLEDGED + 2  # below it aiomqtt would warn of our own window
        self._failing = 0
        self.not_allowed = False

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any) -> None:
        if reason_code.is_failure:
            if reason_code.value != self._failing:
                _log.warning("broker refused a publish: %s (0x%02x)", reason_code, reason_code.value)
            self._failing = reason_code.value
            self.not_allowed = reason_code.value == _NOT_AUTHORIZED
        else:
            self._failing = 0
        # Acknowledged in any case: the slot is free, and what is not stored will be sent again.
        super()._on_publish(client, userdata, mid, reason_code, properties)

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None) -> None:
        if not self._connected.done():
            self._connected.set_exception(_RefusedError(f"it hung up on CONNECT ({reason_code})"))
        super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def _on_socket_register_write(self, client: Any, userdata: Any, sock: Any) -> None:  # noqa: ARG002 - aiomqtt's hook
        def write() -> None:
            try:
                client.loop_write()
            except Exception as error:  # noqa: BLE001 - as aiomqtt has it: whatever it is ends this connection
                if not self._disconnected.done():
                    self._disconnected.set_exception(error)

        def register() -> None:
            # By the loop's next turn the socket may be closed (by a broker that refuses our certificate, say).
            if sock.fileno() >= 0:
                self._loop.add_writer(sock.fileno(), write)

        self._loop.call_soon_threadsafe(register)

    def abandon(self) -> bool:
        """The socket, if there still was one, is closed; aiomqtt leaves it open when connecting fails."""
        sock = self._client.socket()
        if sock is not None and sock.fileno() >= 0:
            self._loop.remove_writer(sock.fileno())
            self._on_socket_close(self._client, None, sock)
            sock.close()
            return True
        return False


@contextlib.asynccontextmanager
async def _open(client: _Client) -> AsyncIterator[_Client]:
    """`client` connected; at the end, however it ends, its socket is closed."""
    entering = asyncio.ensure_future(client.__aenter__())
    try:
        # paho connects in a thread, which cannot be cancelled: let it finish, or its socket would be nobody's.
        await asyncio.shield(entering)
    except asyncio.CancelledError:
        await asyncio.wait({entering}, timeout=CONNECT_S)
        entering.cancel()
        client.abandon()
        raise
    except MqttConnectError as error:
        client.abandon()
        raise _RefusedError(f"it refused the connection: {error}") from None
    except _RefusedError:
        client.abandon()
        raise
    except aiomqtt.MqttError as error:
        taken = client.abandon()
        raise (
            _RefusedError("it does not answer CONNECT") if taken else ConnectionLostError(tls.plain(str(error)))
        ) from None
    try:
        yield client
    finally:
        with contextlib.suppress(aiomqtt.MqttError):
            await client.__aexit__(None, None, None)
        client.abandon()


@contextlib.contextmanager
def _as_lost() -> Iterator[None]:
    """Every MqttError inside is a ConnectionLostError."""
    try:
        yield
    except aiomqtt.MqttError as error:
        raise ConnectionLostError(tls.plain(str(error))) from None


def _size(message: aiomqtt.Message) -> int:
    return len(message.payload) + len(message.topic.value) + MESSAGE_BYTES


def _first(group: BaseExceptionGroup[ConnectionLostError]) -> ConnectionLostError:
    """The first of the errors in a nested group."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
