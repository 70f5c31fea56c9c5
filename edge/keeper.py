"""What goes on beside collecting and sending: running time, old batches, the disk budget, the clock, the connection."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping

from edge.batcher import Batcher
from edge.clock import ClockReader
from edge.config import EdgeConfig
from edge.database import DiskFullError
from edge.mqtt import Uplink
from edge.outbox import Outbox
from edge.overflow import Relief
from edge.thread import OutboxThread

# Running time is counted, and old batches are looked for, this often.
KEEP_EVERY_S = 60.0
# The clock and the connection are looked at this often.
WATCH_EVERY_S = 1.0
_DAY_S = 86400.0

_log = logging.getLogger(__name__)


class Keeper:
    """Looks after one outbox by what `config` says at the moment; `changed` is called when what is to be sealed has."""

    def __init__(
        self,
        config: Callable[[], EdgeConfig],
        thread: OutboxThread,
        outbox: Outbox,
        batcher: Batcher,
        clock: ClockReader,
        changed: Callable[[], None],
    ) -> None:
        self._config = config
        self._thread = thread
        self._outbox = outbox
        self._batcher = batcher
        self._clock = clock
        self._changed = changed
        self._over_budget = False
        self._counted_at = time.monotonic()

    @property
    def uncounted_s(self) -> float:
        """Running time that the outbox does not know of yet."""
        return time.monotonic() - self._counted_at

    async def keep(self) -> None:
        """Running time is counted, what is old and receipted deleted; runs until it is cancelled."""
        while True:
            await self._thread.call(self._outbox.scrub)
            while await self._thread.call(self._outbox.purge, self._config().keep_days * _DAY_S):
                pass
            self.say(await self._thread.call(self.relieve))
            await asyncio.sleep(KEEP_EVERY_S)
            lived_s = self.uncounted_s
            await self._thread.call(self._outbox.record_life, lived_s)
            self._counted_at += lived_s

    async def watch(self, uplink: Uplink, troubles: Callable[[], Mapping[str, str]]) -> None:
        """What was held for a clock is released, and status knows of connection and sources; until it is cancelled."""
        # Not noted where the connection is made: a full disk must not keep what is sealed from being sent.
        noted = noted_troubles = None
        holding = False
        while True:
            if (now := (uplink.state, uplink.why)) != noted:
                noted = now
                await self._thread.call(self._outbox.record_connection, *now)
            if (found := troubles()) != noted_troubles:
                noted_troubles = found
                await self._thread.call(self._outbox.record_troubles, found)
            while self._batcher.standing.held and await self._thread.call(self._outbox.release, self._clock.read()):
                self._batcher.stands(await self._thread.call(self._outbox.standing), time.monotonic())
                self._changed()
            if holding != bool(self._batcher.standing.held):
                holding = not holding
                if holding:
                    _log.warning("the clock is not set: readings are accepted, and held until it is")
                else:
                    _log.warning("no reading is held for the clock any more: those that were are on their way")
            await asyncio.sleep(WATCH_EVERY_S)

    def relieve(self) -> Relief | None:
        """The outbox's thread: room is made within the budget; None where the disk has no room for saying so."""
        with contextlib.suppress(DiskFullError):
            return self._outbox.relieve(self._config().outbox.max_bytes)
        return None

    def say(self, relief: Relief | None) -> None:
        """Says once that readings are dropped, and once that it is over."""
        if relief is None or relief.over == self._over_budget:
            return
        self._over_budget = relief.over
        if relief.over:
            _log.error(
                "the outbox is over its budget of %d MB: the oldest readings that are not sealed are dropped, and the"
                " device's chain will say how many",
                self._config().outbox.max_mb,
            )
        else:
            _log.warning("the outbox is within its budget again")
