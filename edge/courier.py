"""The courier: sealed batches out, answers in, from `added` to a verified receipt.

    serve      runs on each connection, as two tasks: `send` asks the window what goes out, `receive` hands over answers
    answers    handles them. It outlives connections: an answer that was half handled when one broke would be done in
               the outbox and unknown to the window
    again      sends what a restored log asks for again, one after another and behind everything else; neither the
               window nor the outbox's states know of it, and a question that is forgotten is asked again

Every change to the window comes after the commit that makes it true. A crash between the two forgets nothing: the
next start builds the window from the outbox.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable

from edge.chain import Sealed
from edge.database import PASSING
from edge.mqtt import Connection
from edge.outbox import Outbox
from edge.receipts import Outcome, ReceiptBook
from edge.thread import OutboxThread
from edge.window import MAX_ASKING, MAX_UNACKNOWLEDGED, Place, Window
from ledger.errors import MalformedError
from ledger.events import ChainPlace
from ledger.messages import ErasedNotice, Message, Reason, Receipt, Reject, Status, Stored, Wanted, parse_message

# Places asked for again and remembered; the aggregator asks for the rest when it has these.
MAX_WANTED = 4096
# Between two batches that are sent again because they were asked for: an easy pace, on a metered link too.
AGAIN_EVERY_S = 0.2
# Another fault than the last one is said no sooner than this: a broker may put any number of them into the log.
FAULT_EVERY_S = 10.0

_log = logging.getLogger(__name__)


class Courier:
    """Owns the window.

    Attributes:
        connected: there is a connection to the broker.
        open_batches: sealed batches without a verified receipt.
        anchor_size: size of the largest verified checkpoint.
    """

    def __init__(
        self, thread: OutboxThread, outbox: Outbox, book: ReceiptBook, window: Window, changed: Callable[[], None]
    ) -> None:
        """`changed` is called after every change that may let someone else go on."""
        self._thread = thread
        self._outbox = outbox
        self._book = book
        self._window = window
        self._tell = changed
        self.connected = False
        self.open_batches = 0
        self.anchor_size = 0
        self._wake = asyncio.Event()
        self._hang_up = asyncio.Event()
        # One list waits at most; behind it the connection's own bounded queue fills.
        self._answers: asyncio.Queue[list[bytes]] = asyncio.Queue(1)
        # Envelopes sealed a moment ago, so that their first sending need not put them together anew.
        self._fresh: dict[Place, bytes] = {}
        self._wanted: dict[ChainPlace, None] = {}
        self._asked = asyncio.Event()
        self._restate = False
        self._refused: Place | None = None
        self._last_fault: str | None = None
        self._fault_from = -math.inf

    async def load(self) -> None:
        """The window knows what the outbox holds, and nothing else."""
        self._window.give_up()
        self.open_batches = await self._thread.call(self._outbox.open_batches)
        for place, size in await self._thread.call(self._outbox.unstored):
            self._window.add(place, size)
        await self._reload_asking()
        await self._reload_anchor()
        self._changed()

    def added(self, sealed: Sealed) -> None:
        """A new batch is committed and wants to go out."""
        self.open_batches += 1
        self._window.add(sealed.place, sealed.size, backlog=sealed.backlog)
        if len(self._fresh) < MAX_UNACKNOWLEDGED:
            self._fresh[sealed.place] = sealed.envelope
        self._changed()

    def room(self, size: int) -> bool:
        """A batch of at most `size` bytes could be sent: there is a connection, and the window has room.

        Sealing without a connection would only make more and smaller batches.
        """
        return self.connected and self._window.room(size)

    def backlog_room(self, size: int) -> bool:
        """The same for a batch of a backlog, which must leave room to what arrives now."""
        return self.connected and self._window.backlog_room(size)

    @property
    def delivered(self) -> bool:
        """The aggregator has every sealed batch."""
        return not self._window.unstored

    @property
    def refused(self) -> bool:
        """The aggregator does not take the lowest batch that it lacks, nor, therefore, those behind it."""
        return self._refused is not None and self._refused == self._window.lowest

    def hang_up(self) -> None:
        """`serve` returns soon."""
        self._hang_up.set()

    async def serve(self, connection: Connection) -> None:
        """Sends and receives on `connection` until `hang_up`; raises a group of ConnectionLostErrors."""
        self._window.connected(time.monotonic())
        self.connected = True
        self._changed()
        publishing: set[asyncio.Task[None]] = set()
        try:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(self._send(connection, group, publishing), name="send")
                receiving = group.create_task(self._receive(connection), name="receive")
                again = group.create_task(self._again(connection), name="again")
                await self._hang_up.wait()
                for task in (sending, receiving, again, *publishing):
                    task.cancel()
        finally:
            self.connected = False
            self._fresh.clear()
            self._changed()

    async def _send(
        self, connection: Connection, group: asyncio.TaskGroup, publishing: set[asyncio.Task[None]]
    ) -> None:
        while True:
            self._wake.clear()
            if self._restate:
                self._restate = False
                await connection.publish_status(Status(online=True, size=self.anchor_size))
            place = self._window.next(time.monotonic())
            if place is None:
                if self._window.untracked and not self._window.asking:
                    await self._reload_asking()
                await wait(self._wake, self._window.wake_at())
                continue
            envelope = self._fresh.pop(place, None) or await self._thread.call(self._outbox.envelope, place)
            if envelope is None:
                self._window.acknowledged(place)  # receipted and purged while it waited to be asked after
                continue
            # Tasks begin in the order they are made, so the batches leave in the order of `next`.
            task = group.create_task(self._publish(connection, place, envelope), name=f"publish:{place}")
            publishing.add(task)
            task.add_done_callback(publishing.discard)

    async def _publish(self, connection: Connection, place: Place, envelope: bytes) -> None:
        await connection.publish_batch(envelope)
        self._window.acknowledged(place)
        self._changed()

    async def _again(self, connection: Connection) -> None:
        while True:
            self._asked.clear()
            if not self._wanted:
                await self._asked.wait()
            elif not self._window.unacknowledged:
                at = next(iter(self._wanted))
                del self._wanted[at]
                for place in await self._thread.call(self._outbox.kept_at, at):
                    envelope = await self._thread.call(self._outbox.envelope, place)
                    if envelope is not None:
                        await connection.publish_batch(envelope)
            await asyncio.sleep(AGAIN_EVERY_S)

    async def _receive(self, connection: Connection) -> None:
        async for payloads in connection.answers():
            await self._answers.put(payloads)

    async def answers(self) -> None:
        """Every answer that was received is handled; runs until it is cancelled."""
        while True:
            messages = list(filter(None, map(self._parse, await self._answers.get())))
            stored = [((item.epoch, item.seq), item.index) for item in messages if isinstance(item, Stored)]
            if stored:
                for place in await self._thread.call(self._outbox.mark_stored, stored):
                    self._window.stored(place, time.monotonic())
            for message in messages:
                if isinstance(message, Receipt):
                    await self._take_outcome(await self._thread.call(self._book.accept, message), "a receipt")
                elif isinstance(message, ErasedNotice):
                    outcome = await self._thread.call(self._book.erase, message)
                    await self._take_outcome(outcome, "a message that readings were erased")
                elif isinstance(message, Reject):
                    await self._take_reject(message)
                elif isinstance(message, Wanted):
                    self._take_wanted(message)
            self._changed()

    def _parse(self, payload: bytes) -> Message | None:
        try:
            return parse_message(payload)
        except MalformedError as error:
            self._note_fault(f"an answer was not understood: {error}")
            return None

    def _take_wanted(self, wanted: Wanted) -> None:
        if not self._wanted:
            self._note_fault("the log asks for batches again that it lost; what is still kept is sent")
        self._wanted.update(dict.fromkeys(wanted.places[: MAX_WANTED - len(self._wanted)]))
        self._asked.set()

    async def _take_reject(self, reject: Reject) -> None:
        at = None if reject.epoch is None or reject.seq is None else (reject.epoch, reject.seq)
        place = await self._thread.call(self._outbox.record_reject, at, reject.reason, reject.detail, time.time_ns())
        if place is not None:
            self._window.rejected(place, reject.reason, time.monotonic())
            if reject.reason not in PASSING:
                self._refused = place
        # Order mends itself; anything else takes a person.
        if reject.reason != Reason.OUT_OF_ORDER:
            self._note_fault(
                f"the aggregator rejects batches: {reason_name(reject.reason)}: {reject.detail};"
                " `vitalseal edge status` says more"
            )

    async def _take_outcome(self, outcome: Outcome, what: str) -> None:
        now = time.monotonic()
        for place in outcome.receipted:
            self._window.receipted(place, now)
        self.open_batches -= len(outcome.receipted)
        await self._reload_anchor()
        if outcome.fault is not None:
            self._note_fault(f"{what} was not believed: {outcome.fault}")
        if outcome.erased:
            for place in outcome.erased:
                self._fresh.pop(place, None)
            _log.warning("%d batches are deleted: the log's operator has erased readings of them", len(outcome.erased))
        if outcome.stale:
            # The aggregator proves consistency from the size that our retained status states. `send` says it, so
            # that a dying connection holds up no answers; the next one begins with a status anyway.
            self._restate = True
            self._window.ask_soon(now)

    async def _reload_asking(self) -> None:
        places, more = await self._thread.call(self._outbox.unreceipted, MAX_ASKING)
        self._window.ask_after(places, time.monotonic(), more=more)

    async def _reload_anchor(self) -> None:
        anchor = await self._thread.call(self._outbox.anchor)
        self.anchor_size = anchor.size if anchor else 0

    def _note_fault(self, fault: str) -> None:
        """Says `fault`, once for as long as it stays the same, and at an easy pace."""
        now = time.monotonic()
        if fault != self._last_fault and now >= self._fault_from:
            self._last_fault, self._fault_from = fault, now + FAULT_EVERY_S
            _log.warning("%s", fault)

    def _changed(self) -> None:
        self._wake.set()
        self._tell()


def reason_name(reason: int) -> str:
    """A reject's reason in words."""
    known = reason in set(Reason)
    return Reason(reason).name.lower().replace("_", " ") if known else f"reason {reason}"


async def wait(event: asyncio.Event, until: float | None) -> None:
    """`event` is set, or the monotonic clock has reached `until`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None if until is None else max(0.0, until - time.monotonic())):
            await event.wait()
