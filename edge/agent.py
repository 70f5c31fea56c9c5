"""The agent: sources, outbox, sealing, broker and receipts under one TaskGroup.

    collect    a task for every source, and one that commits (`collect`)
    seal       closes batches when the batcher says so and the courier has room (`sealing`)
    uplink     keeps a connection, and serves the courier on it
    answers    handles what comes back (`courier`)
    keep       counts running time, deletes what is old and receipted (`keeper`)
    watch      looks at the clock and the connection: releases what was held, notes what status tells
    companions whatever whoever made the agent wants to run beside it

The state machines (`batcher`, `window`) belong to the event loop, the outbox to one thread. Collecting and accepting go
on whatever the broker, the aggregator or the clock do. Stopping goes the way of the data: sources first, then what
they gave is accepted, then what can be sealed is, then for a bounded time it is delivered. The rest is in the outbox.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from edge import files
from edge.batcher import LARGEST, Batcher, Step, limits_of
from edge.clock import ClockReader, SystemClock
from edge.collect import Collector
from edge.config import EdgeConfig
from edge.courier import Courier
from edge.database import DiskFullError
from edge.intake import Delivery
from edge.keeper import Keeper
from edge.mqtt import Uplink
from edge.outbox import Outbox
from edge.overflow import Relief
from edge.receipts import ReceiptBook
from edge.sealing import Sealing
from edge.source import Source
from edge.status import Report, make_report
from edge.store import Standing
from edge.thread import OutboxThread
from edge.window import Pace, Window
from ledger.events import ChainPlace
from ledger.keys import Signer
from ledger.policy import Policy
from vitalseal.errors import UserError

# Stopping tries this long to see what is under way stored, and as long to say goodbye; service managers wait 90 s.
DRAIN_S = 5.0

_log = logging.getLogger(__name__)


class Agent:
    """One device. Make it inside a running loop, `await run()` once; `stop()` ends it in good order.

    `companions` run beside the rest while the agent works, and are cancelled when it stops; one that raises UserError
    ends it. `rng`, `pace` and `clock` are for tests: jitter, how long to wait for answers, and what time it is.
    """

    def __init__(
        self,
        config: EdgeConfig,
        *,
        signer: Signer,
        policy: Policy,
        sources: Sequence[Source],
        companions: Sequence[Callable[["Agent"], Coroutine[Any, Any, None]]] = (),
        rng: random.Random | None = None,
        pace: Pace | None = None,
        clock: ClockReader | None = None,
    ) -> None:
        self._config = config
        self._policy = policy
        self._sources = sources
        self._companions = companions
        self._rng = rng or random.SystemRandom()
        self._pace = pace
        self._clock = clock or SystemClock()
        self._batcher = Batcher(limits_of(config.batching), config.heartbeat_s, time.monotonic())
        self._thread = OutboxThread(f"outbox-{config.device}")
        self._sealing = Sealing(config, signer, self._thread, self._batcher, self._clock, self._until)
        self._stop = asyncio.Event()
        # Set on every change that may let someone go on who waits here; sealing has its own.
        self._settled = asyncio.Event()
        # All there while the agent works.
        self._outbox: Outbox | None = None
        self._courier: Courier | None = None
        self._collector: Collector | None = None

    def stop(self) -> None:
        """The agent ends in good order, within about 2 x DRAIN_S seconds."""
        self._stop.set()
        if self._courier is None:
            self._thread.give_up()  # nothing but a full disk can hold up the start

    @property
    def config(self) -> EdgeConfig:
        """What it works by."""
        return self._config

    def reconfigure(self, config: EdgeConfig) -> None:
        """What `config.LIVE` names is as `config` says from here on; the rest of it is as it was."""
        self._config = config
        limits = limits_of(config.batching)
        self._batcher.follow(limits, config.heartbeat_s)
        self._sealing.limits = limits
        if self._collector is not None:
            self._collector.commit_s = config.batching.commit_s
        self._changed()

    async def come_round(self) -> None:
        """Returns once the outbox's thread has done what it was asked before: neither it nor the loop stands still."""
        await self._thread.call(int)

    def report(self) -> Report:
        """How the agent stands; may be called from any thread, and reads the outbox's file. Raises UserError."""
        return make_report(
            self._config,
            self._sealing.owner.key_id,
            running=self._courier is not None,
            disk_full=self._thread.full,
            clock=self._clock,
        )

    async def rotate(self, signer: Signer, ask: Callable[[ChainPlace], Awaitable[None]]) -> None:
        """The device's chain goes on as one of `signer`'s key.

        Nothing is sealed until all that the present key has sealed is stored; then `ask` is awaited with the first
        place of its chain that stays empty. When it returns, the rotation is on the log and the new key's file in
        place, so an agent that starts after a crash behind that begins the new chain by itself. When it raises, the
        present key goes on.
        """
        if self._outbox is None or self._courier is None:
            raise RuntimeError("the agent does not work")
        await self._sealing.rotate(self._outbox, self._courier, signer, ask)
        self._changed()

    async def run(self, *, exit_when_done: bool = False) -> None:
        """The agent works until `stop()`, or, if asked to, until all sources are finished and all is receipted.

        Readings that are held for a clock are not waited for.

        Raises:
            UserError: the outbox or the disk cannot go on, or a source cannot be described; one line that says why.
        """
        try:
            files.make_directory(self._config.data)
            outbox = await self._thread.call(Outbox, self._config.outbox_file, self._sealing.owner)
            self._thread.make_room = outbox.make_room
            try:
                lived_s = await self._run(outbox, exit_when_done=exit_when_done)
                # Not after an error: what had been read, and was not accepted any more, may be lost.
                self._thread.give_up()
                with contextlib.suppress(DiskFullError):
                    await self._thread.call(outbox.close_in_order, lived_s)
            finally:
                self._outbox = self._courier = self._collector = None
                await self._thread.call(outbox.close)
        except BaseExceptionGroup as group:
            # What went wrong outside is one line; a fault of ours in the group keeps its traceback.
            fault, rest = group.split(UserError)
            if fault is None or rest is not None:
                raise
            raise _first(fault) from None
        finally:
            self._thread.end()

    async def _run(self, outbox: Outbox, *, exit_when_done: bool) -> float:
        """Runs; returns the running time that the outbox has not been told of."""
        config = self._config
        book = ReceiptBook(outbox, self._policy, config.origin, config.evidence)
        courier = Courier(self._thread, outbox, book, Window(self._rng, self._pace), self._changed)
        await self._load(outbox, courier)
        keeper = Keeper(lambda: self._config, self._thread, outbox, self._batcher, self._clock, self._changed)
        collector = Collector(
            self._sources,
            commit_s=config.batching.commit_s,
            cursor=lambda name: self._thread.call(outbox.cursor, name),
            accept=lambda deliveries: self._accept(outbox, keeper, deliveries),
            clock=self._clock,
            rng=self._rng,
        )
        uplink = Uplink(config.broker, config.device, self._rng)
        self._outbox, self._courier, self._collector = outbox, courier, collector
        async with asyncio.TaskGroup() as group:
            working = [
                group.create_task(self._sealing.succeed(outbox, courier), name="succeed"),
                group.create_task(self._sealing.seal(outbox, courier), name="seal"),
                group.create_task(courier.answers(), name="answers"),
                group.create_task(keeper.keep(), name="keep"),
                group.create_task(keeper.watch(uplink, collector.troubles), name="watch"),
            ]
            beside = [group.create_task(companion(self), name="companion") for companion in self._companions]
            sending = group.create_task(uplink.run(courier.serve, lambda: courier.anchor_size), name="uplink")
            collecting = group.create_task(collector.run(), name="collect")
            await self._until_over(collecting, courier, exit_when_done=exit_when_done)
            for task in beside:
                task.cancel()
            collector.stop()
            # A full disk is not waited for any longer than a broker.
            giving_up = asyncio.get_running_loop().call_later(DRAIN_S, self._thread.give_up)
            await collecting  # what had been read is accepted now
            await self._drain(courier, sending)
            giving_up.cancel()
            for task in working:
                task.cancel()
        standing = self._batcher.standing
        _log.info(
            "stopped: %d readings open, %d held, %d batches without a receipt; all of them are in the outbox",
            standing.live + standing.backlog,
            standing.held,
            courier.open_batches,
        )
        return keeper.uncounted_s

    async def _load(self, outbox: Outbox, courier: Courier) -> None:
        """Both machines know what the outbox holds."""
        names = [source.name for source in self._sources if not getattr(source, "replays", False)]
        if await self._thread.call(outbox.resume, self._clock.read(), names):
            _log.warning("the agent was not stopped in good order: the device's chain will say that readings may lack")
        for source in self._sources:
            await self._thread.call(outbox.register, source.source_id, source.description)
        await courier.load()
        await self._sealing.announce(outbox, courier)
        standing = await self._thread.call(outbox.standing)
        if standing.live > LARGEST.max_readings:  # not counted in bytes, there may be millions
            await self._thread.call(outbox.defer)
            standing = await self._thread.call(outbox.standing)
        size = await self._thread.call(outbox.live_bytes)
        self._batcher.stands(standing, time.monotonic(), accepted_bytes=size)
        # Not from now: an agent that is started again and again would never send a heartbeat.
        self._batcher.sealed(Step.HEARTBEAT, time.monotonic() - await self._thread.call(outbox.silent_s))

    async def _accept(self, outbox: Outbox, keeper: Keeper, deliveries: Sequence[Delivery]) -> None:
        """`deliveries` are accepted, and the outbox is within its budget or has nothing left to drop."""

        def take() -> tuple[Standing, Relief | None]:
            outbox.accept(deliveries)
            # In the same call: in between, something could be sealed, and would have to stay.
            return outbox.standing(), keeper.relieve()

        standing, relief = await self._thread.call(take)
        if relief is not None and relief.dropped:
            standing = await self._thread.call(outbox.standing)
        self._batcher.stands(standing, time.monotonic(), accepted_bytes=sum(item.size for item in deliveries))
        keeper.say(relief)
        self._changed()

    # How it ends.

    async def _until_over(self, collecting: asyncio.Task[None], courier: Courier, *, exit_when_done: bool) -> None:
        if not exit_when_done:
            await self._stop.wait()
            return
        await self._unless_stopped(asyncio.wait({collecting}))
        self._sealing.flush = True
        self._changed()
        await self._unless_stopped(self._until(lambda: not self._batcher.open and not courier.open_batches))

    async def _drain(self, courier: Courier, sending: asyncio.Task[None]) -> None:
        """What could be delivered is, and the device has said goodbye; a broker that is away is not waited for."""
        self._sealing.flush = True
        self._changed()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await self._until(lambda: not courier.connected or (courier.delivered and not self._batcher.open))
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
        self._sealing.wake.set()
        self._settled.set()


def _first(group: BaseExceptionGroup[UserError]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
