"""What the chain says next, and with which key.

    succeed    a key that was exchanged while no agent ran begins its chain, once what the old one sealed is decided
    rotate     the same with a rotation, while the agent works
    announce   an outbox was lost
    seal       batches, gaps, heartbeats, whenever the batcher says so and the courier has room

Each of them decides what the next header is, so one of them at a time does.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from edge.batcher import LARGEST, Batcher, Step, limits_of
from edge.chain import Sealed
from edge.clock import ClockReader
from edge.config import EdgeConfig
from edge.courier import Courier, wait
from edge.database import Owner
from edge.outbox import Outbox
from edge.seal import Sealer
from edge.store import Standing
from edge.thread import OutboxThread
from ledger.events import ChainPlace
from ledger.info import MAX_DESCRIPTION, MAX_SOURCES
from ledger.keys import Signer, key_id
from ledger.reading import MAX_SOURCE

# Header, secret, signature and the rest, with every source that a batch may describe, beside its readings.
ENVELOPE_OVERHEAD = 1024 + MAX_SOURCES * (MAX_SOURCE + MAX_DESCRIPTION + 8)

_log = logging.getLogger(__name__)


class Sealing:
    """Seals for one agent.

    Attributes:
        owner: of the outbox, with the key that seals.
        limits: of a live batch; may be changed at any time.
        flush: nothing more will come.
        wake: to be set on every change that may let `seal` go on.
    """

    def __init__(
        self,
        config: EdgeConfig,
        signer: Signer,
        thread: OutboxThread,
        batcher: Batcher,
        clock: ClockReader,
        until: Callable[[Callable[[], bool]], Awaitable[None]],
    ) -> None:
        """`until` returns when its condition holds."""
        self._config = config
        self._thread = thread
        self._batcher = batcher
        self._clock = clock
        self._until = until
        self.limits = limits_of(config.batching)
        self.flush = False
        self.wake = asyncio.Event()
        self._lock = asyncio.Lock()
        self._use(signer)

    async def succeed(self, outbox: Outbox, courier: Courier) -> None:
        """The chain is one of our key. What another one sealed at its end, the log has, or it is sealed anew.

        The first to have the lock. Whatever of it the log had without our knowing would be there twice, so nothing is
        sealed until the aggregator has said of each batch that it has it, or of the lowest that it does not take it.
        """
        async with self._lock:
            if not await self._thread.call(outbox.in_doubt, self.owner):
                return
            _log.warning("another key than before: nothing is sealed until what that one sealed is stored or refused")
            await self._until(lambda: courier.delivered or courier.refused)
            readings = await self._thread.call(outbox.begin_chain, self.owner)
            _log.warning("the chain of the new key begins: %d readings are sealed anew under it", readings)
            await courier.load()
            await self.announce(outbox, courier)
            self._batcher.stands(await self._thread.call(outbox.standing), time.monotonic())
        self.wake.set()

    async def rotate(
        self, outbox: Outbox, courier: Courier, signer: Signer, ask: Callable[[ChainPlace], Awaitable[None]]
    ) -> None:
        """See `Agent.rotate`."""
        async with self._lock:
            await self._until(lambda: courier.delivered)
            await ask(await self._thread.call(outbox.next_place))
            self._use(signer)
            await self._thread.call(outbox.begin_chain, self.owner)
            await self.announce(outbox, courier)

    async def announce(self, outbox: Outbox, courier: Courier) -> None:
        """A chain that begins because an outbox was lost has said so."""
        if said := await self._thread.call(outbox.announce_loss, self._sealer):
            _log.warning("an outbox was lost: the device's chain begins a new epoch, and its first batch says so")
            courier.added(said)

    async def seal(self, outbox: Outbox, courier: Courier) -> None:
        """Whatever is due is sealed and wants to go out; runs until it is cancelled."""
        while True:
            self.wake.clear()
            async with self._lock:
                room = courier.room(self.limits.max_bytes + ENVELOPE_OVERHEAD)
                backlog_room = courier.backlog_room(LARGEST.max_bytes + ENVELOPE_OVERHEAD)
                step = self._batcher.next(time.monotonic(), room=room, backlog_room=backlog_room, flush=self.flush)
                if step is not None:
                    await self._take(step, outbox, courier)
            if step is None:
                await wait(self.wake, self._batcher.wake_at() if room else None)

    async def _take(self, step: Step, outbox: Outbox, courier: Courier) -> None:
        def act() -> tuple[Sealed | None, Standing]:
            sealed = None
            match step:
                case Step.LIVE:
                    sealed = outbox.seal_next(self.limits, self._sealer)
                case Step.DEFER:
                    outbox.defer()
                case Step.BACKLOG:
                    sealed = outbox.seal_next(LARGEST, self._sealer, backlog=True)
                case Step.GAP:
                    sealed = outbox.declare_gap(self._sealer)
                case Step.HEARTBEAT:
                    sealed = outbox.heartbeat(self._sealer)
            return sealed, outbox.standing()

        sealed, standing = await self._thread.call(act)
        now = time.monotonic()
        live = sealed is not None and step is Step.LIVE
        self._batcher.stands(standing, now, sealed_bytes=sealed.reading_bytes if sealed and live else 0)
        if sealed is not None:
            self._batcher.sealed(step, now)
            courier.added(sealed)

    def _use(self, signer: Signer) -> None:
        self._sealer = Sealer(signer, self._config.origin, self._clock)
        self.owner = Owner(
            self._config.device,
            self._config.origin,
            key_id(signer.algorithm, signer.public_key),
            self._config.key,
        )
