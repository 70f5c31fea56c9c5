"""The agent: sources, outbox, sealing, broker and receipts under one TaskGroup.

    collect    a task for every source, and one that commits (`collect`)
    seal       closes batches when the batcher says so and the courier has room
    uplink     keeps a connection, and serves the courier on it
    answers    handles what comes back (`courier`)
    keep       counts running time, deletes what is old and receipted

The state machines (`batcher`, `window`) belong to the event loop, the outbox to one thread. Collecting and accepting go
on whatever the broker, the aggregator or the clock do. Stopping goes the way of the data: sources first, then what
they gave is accepted, then what can be sealed is, then for a bounded time it is delivered. The rest is in the outbox.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from edge import files
from edge.batcher import Batcher, Limits
from edge.collect import Collector
from edge.config import EdgeConfig
from edge.courier import Courier, wait
from edge.mqtt import Uplink
from edge.outbox import Outbox
from edge.receipts import ReceiptBook
from edge.seal import Sealer
from edge.source import Source
from edge.thread import OutboxThread
from edge.window import Pace, Window
from ledger.info import MAX_DESCRIPTION, MAX_SOURCES
from ledger.keys import Signer
from ledger.policy import Policy
from ledger.reading import MAX_SOURCE
from vitalseal.errors import UserError

# Stopping tries this long to see what is under way stored, and as long to say goodbye; service managers wait 90 s.
DRAIN_S = 5.0
# Running time is counted, and old batches are looked for, this often.
KEEP_EVERY_S = 60.0
# Header, secret, signature and the rest, with every source that a batch may describe, beside its readings.
ENVELOPE_OVERHEAD = 1024 + MAX_SOURCES * (MAX_SOURCE + MAX_DESCRIPTION + 8)
_DAY_S = 86400.0

_log = logging.getLogger(__name__)


class Agent:
    """One device. Make it inside a running loop, `await run()` once; `stop()` ends it in good order.

    `rng` and `pace` are for tests: jitter, and how long to wait for answers.
    """

    def __init__(
        self,
        config: EdgeConfig,
        *,
        signer: Signer,
        policy: Policy,
        sources: Sequence[Source],
        rng: random.Random | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._config = config
        self._policy = policy
        self._sources = sources
        self._rng = rng or random.SystemRandom()
        self._pace = pace
        self._sealer = Sealer(signer, config.origin)
        self._limits = Limits(config.batching.max_readings, config.batching.max_bytes, config.batching.max_age_s)
        self._batcher = Batcher(self._limits)
        self._thread = OutboxThread(f"outbox-{config.device}")
        self._stop = asyncio.Event()
        # Set on every change that may let a waiting task go on; each waiter has its own.
        self._seal_wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._flush = False

    def stop(self) -> None:
        """The agent ends in good order, within about 2 x DRAIN_S seconds."""
        self._stop.set()

    async def run(self, *, exit_when_done: bool = False) -> None:
        """The agent works until `stop()`, or, if asked to, until all sources are finished and all is receipted.

        Raises:
            UserError: the outbox or the disk cannot go on, or a source cannot be described; one line that says why.
        """
        try:
            files.make_directory(self._config.data)
            outbox = await self._thread.call(Outbox, self._config.outbox, self._config.key)
            try:
                await self._run(outbox, exit_when_done=exit_when_done)
            finally:
                await self._thread.call(outbox.close)
        except BaseExceptionGroup as group:
            # What went wrong outside is one line; a fault of ours in the group keeps its traceback.
            fault, rest = group.split(UserError)
            if fault is None or rest is not None:
                raise
            raise _first(fault) from None
        finally:
            self._thread.end()

    async def _run(self, outbox: Outbox, *, exit_when_done: bool) -> None:
        config = self._config
        book = ReceiptBook(outbox, self._policy, config.origin, config.evidence)
        courier = Courier(self._thread, outbox, book, Window(self._rng, self._pace), self._changed)
        await self._load(outbox, courier)
        collector = Collector(
            self._sources,
            commit_s=config.batching.commit_s,
            cursor=lambda name: self._thread.call(outbox.cursor, name),
            accept=lambda deliveries: self._thread.call(outbox.accept, deliveries),
            accepted=self._accepted,
            rng=self._rng,
        )
        uplink = Uplink(config.broker, config.device, self._rng)
        async with asyncio.TaskGroup() as group:
            working = [
                group.create_task(self._seal(outbox, courier), name="seal"),
                group.create_task(courier.answers(), name="answers"),
                group.create_task(self._keep(outbox), name="keep"),
            ]
            sending = group.create_task(uplink.run(courier.serve, lambda: courier.anchor_size), name="uplink")
            collecting = group.create_task(collector.run(), name="collect")
            await self._until_over(collecting, courier, exit_when_done=exit_when_done)
            collector.stop()
            await collecting  # what had been read is accepted now
            await self._drain(courier, sending)
            for task in working:
                task.cancel()
        _log.info(
            "stopped: %d readings open, %d batches without a receipt; all of them are in the outbox",
            self._batcher.readings,
            courier.open_batches,
        )

    async def _load(self, outbox: Outbox, courier: Courier) -> None:
        """Both machines know what the outbox holds."""
        for source in self._sources:
            await self._thread.call(outbox.register, source.source_id, source.description)
        await courier.load()
        if said := await self._thread.call(outbox.announce_loss, self._sealer):
            _log.warning("an outbox was lost: the device's chain begins a new epoch, and its first batch says so")
            courier.added(said)
        self._batcher.accepted(*await self._thread.call(outbox.open_readings), time.monotonic())

    def _accepted(self, readings: int, size: int) -> None:
        self._batcher.accepted(readings, size, time.monotonic())
        self._changed()

    async def _seal(self, outbox: Outbox, courier: Courier) -> None:
        most = self._limits.max_bytes + ENVELOPE_OVERHEAD
        while True:
            self._seal_wake.clear()
            room = courier.room(most)
            if self._batcher.due(time.monotonic(), room=room, flush=self._flush):
                sealed = await self._thread.call(outbox.seal_next, self._limits, self._sealer)
                if sealed is not None:
                    self._batcher.sealed(sealed.readings, sealed.reading_bytes)
                    courier.added(sealed)
            else:
                await wait(self._seal_wake, self._batcher.wake_at() if room else None)

    async def _keep(self, outbox: Outbox) -> None:
        while True:
            since = time.monotonic()
            while await self._thread.call(outbox.purge, self._config.keep_days * _DAY_S):
                pass
            await asyncio.sleep(KEEP_EVERY_S)
            await self._thread.call(outbox.record_life, time.monotonic() - since)

    # How it ends.

    async def _until_over(self, collecting: asyncio.Task[None], courier: Courier, *, exit_when_done: bool) -> None:
        if not exit_when_done:
            await self._stop.wait()
            return
        await self._unless_stopped(asyncio.wait({collecting}))
        self._flush = True
        self._changed()
        await self._unless_stopped(self._until(lambda: not self._batcher.readings and not courier.open_batches))

    async def _drain(self, courier: Courier, sending: asyncio.Task[None]) -> None:
        """What could be delivered is, and the device has said goodbye; a broker that is away is not waited for."""
        self._flush = True
        self._changed()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await self._until(lambda: not courier.connected or (courier.delivered and not self._batcher.readings))
        courier.hang_up()
        if courier.connected:
            await asyncio.wait({sending}, timeout=DRAIN_S)
        sending.cancel()

    async def _unless_stopped(self, awaited: Coroutine[Any, Any, object]) -> None:
        """`awaited` is over, or the agent was stopped before."""
        tasks = {asyncio.create_task(awaited), asyncio.create_task(self._stop.wait())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._settled.clear()
            await self._settled.wait()

    def _changed(self) -> None:
        self._seal_wake.set()
        self._settled.set()


def _first(group: BaseExceptionGroup[UserError]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
