"""Collecting: from every source's chunks to one group commit after another.

A chunk waits in a bounded queue for others, at most `commit_s`, and is then accepted with them in one transaction.
While a commit is being synced the next one fills, so a fast source pays one sync for many chunks and a slow one
does not wear out a memory card. When the queue is full, sources are simply not asked.

A source that raises is asked again later, from the cursor of its last chunk; the others do not notice.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

from edge.clock import ClockReader
from edge.intake import Delivery
from edge.source import Chunk, Source
from ledger.errors import MalformedError
from vitalseal.errors import UserError

# A queue of waveforms must not take the agent's 64 MB; scalars are 40 to 60 bytes.
MAX_QUEUED_BYTES = 1024 * 1024
# What a chunk takes beside its readings, so that one without any (a cursor, refused input) fills the queue, too.
CHUNK_BYTES = 512
# Enough to be worth a sync at once. Half the queue, so that sources can go on meanwhile.
URGENT_READINGS, URGENT_BYTES = 256, MAX_QUEUED_BYTES // 2
RETRY_BASE_S, RETRY_CAP_S = 1.0, 60.0

_log = logging.getLogger(__name__)


class Collector:
    """Takes from `sources` until they are finished or `stop()` is called; `run` once.

    Args:
        sources: each has its own task.
        commit_s: longest wait of a chunk for others; may be changed at any time.
        cursor: the committed cursor of a source, by name.
        accept: commits deliveries; when it returns they are accepted.
        clock: when readings are received, and how far that is to be believed.
        rng: for the jitter before a failed source is asked again.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        commit_s: float,
        cursor: Callable[[str], Awaitable[bytes | None]],
        accept: Callable[[Sequence[Delivery]], Awaitable[None]],
        clock: ClockReader,
        rng: random.Random,
    ) -> None:
        self._sources = sources
        self.commit_s = commit_s
        self._cursor = cursor
        self._accept = accept
        self._clock = clock
        self._rng = rng
        self._failed: dict[str, str] = {}  # sources that raised and have given nothing since, and what was said
        self._queue: list[Delivery] = []
        self._readings = 0
        self._bytes = 0
        self._stop = asyncio.Event()
        self._over = False  # no source can give anything any more
        self._arrived = asyncio.Event()
        self._urgent = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def stop(self) -> None:
        """Sources are asked no more; what they gave is committed, then `run` returns."""
        self._stop.set()

    def troubles(self) -> dict[str, str]:
        """The sources, by name, that give nothing just now, and why, in words that hold nothing of any reading."""
        told = {source.name: getattr(source, "trouble", "") for source in self._sources}
        return {name: why for name, why in (told | self._failed).items() if why}

    async def run(self) -> None:
        """Every source is finished or stopped, and everything they gave is accepted; raises UserError."""
        async with asyncio.TaskGroup() as group:
            committing = group.create_task(self._commit(), name="commit")
            collecting = [
                group.create_task(self._collect(source), name=f"collect:{source.name}") for source in self._sources
            ]
            stopped = group.create_task(self._stop.wait(), name="stop")
            finished = asyncio.gather(*collecting, return_exceptions=True)
            either: set[asyncio.Future[Any]] = {stopped, finished}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            for task in collecting:
                task.cancel()
            await asyncio.wait({finished})
            # Only now: between `stop` and the end of its task a source may still give, and `commit` must be there.
            self._over = True
            self._arrived.set()
            self._urgent.set()
            await committing

    async def _collect(self, source: Source) -> None:
        cursor = await self._cursor(source.name)
        attempts = 0
        while True:
            chunks = source.readings(cursor)
            try:
                async for chunk in chunks:
                    await self._enqueue(self._delivery(source, chunk))
                    cursor = chunk.cursor or cursor
                    attempts = 0
                    self._failed.pop(source.name, None)
            except Exception as error:  # noqa: BLE001 - a source is anyone's code; the others go on whatever it does
                if not attempts:
                    _log.warning("source %s failed, and will be asked again: %s", source.name, _said(error))
                self._failed[source.name] = _said(error)
            else:
                self._failed.pop(source.name, None)
                _log.info("source %s is finished", source.name)
                return
            finally:
                if isinstance(chunks, AsyncGenerator):
                    await chunks.aclose()
            attempts += 1
            await asyncio.sleep(self._rng.uniform(0.0, min(RETRY_CAP_S, RETRY_BASE_S * 2.0 ** min(attempts, 16))))

    def _delivery(self, source: Source, chunk: Chunk) -> Delivery:
        moment = self._clock.read()
        readings = []
        refused = chunk.refused
        for item in chunk.readings:
            try:
                body = item.received(source.source_id, moment.wall_ns).encode()
            except MalformedError:
                refused += 1  # the error's text may hold the value, so the log only says where
                _log.warning("source %s gave a reading outside the format's ranges; left out", source.name)
            else:
                readings.append((source.source_id, item.sensor_time_ns, body))
        return Delivery(source.name, tuple(readings), chunk.cursor, refused, moment, chunk.lost)

    async def _enqueue(self, delivery: Delivery) -> None:
        self._queue.append(delivery)
        self._readings += len(delivery.readings)
        self._bytes += CHUNK_BYTES + delivery.size
        self._arrived.set()
        if self._readings >= URGENT_READINGS or self._bytes >= URGENT_BYTES:
            self._urgent.set()
        if self._bytes >= MAX_QUEUED_BYTES:
            self._room.clear()
        # Behind the queueing, so that a source which is stopped here has given its chunk.
        await self._room.wait()

    async def _commit(self) -> None:
        while True:
            await self._arrived.wait()
            if not self._queue:
                return  # woken without anything queued: the end
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.commit_s):
                    await self._urgent.wait()
            queue = self._queue
            self._queue, self._readings, self._bytes = [], 0, 0
            self._room.set()
            if not self._over:
                self._arrived.clear()
                self._urgent.clear()
            await self._accept(queue)


def _said(error: Exception) -> str:
    """What may be said of a source's failure: its words only where they are known to hold no reading."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{error}" if isinstance(error, UserError | OSError) else type(error).__name__
