"""The outbox's thread: the event loop never waits for a disk, and SQLite's connection never changes hands.

A full disk is waited out here. A transaction for which there was no room did not happen, so it is tried again; whoever
asked for it waits, and so does everything that stands behind it: a source is not asked for the next chunk, a batch is
not sealed. Every other fault of the disk ends the agent.
"""

import asyncio
import functools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from edge.database import DiskFullError

P = ParamSpec("P")
T = TypeVar("T")

RETRY_BASE_S, RETRY_CAP_S = 0.5, 30.0

_log = logging.getLogger(__name__)


class OutboxThread:
    """Runs calls one after another, in the order they are made.

    Attributes:
        full: the disk is full, and someone waits for room.
        make_room: called before a call is tried again; returns how much it could delete.
    """

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._waiting = 0
        self._giving_up = asyncio.Event()
        self.make_room: Callable[[], int] = int

    @property
    def full(self) -> bool:
        """See the class."""
        return bool(self._waiting)

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `function`. A caller who is cancelled does not stop it: what it commits is committed."""
        bound = functools.partial(function, *args, **kwargs)
        try:
            return await self._once(bound)
        except DiskFullError as error:
            # Not the error itself: its traceback would keep the failed statement open.
            said = str(error)
        return await self._until_room(bound, said)

    def give_up(self) -> None:
        """Nobody waits for room any more: what waits fails, and so does what meets a full disk from now on."""
        self._giving_up.set()

    def end(self) -> None:
        """The thread has ended; raises nothing."""
        self._executor.shutdown()

    async def _once(self, bound: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, bound)

    async def _until_room(self, bound: Callable[[], T], said: str) -> T:
        if not self._waiting:
            _log.error(
                "disk full: %s; sources are not asked until there is room, and nothing is lost of the outbox", said
            )
        self._waiting += 1
        attempts = 0
        try:
            while True:
                await self._pause(said, min(RETRY_CAP_S, RETRY_BASE_S * 2.0**attempts))
                attempts = 0 if await self._once(self.make_room) else min(attempts + 1, 16)
                try:
                    result = await self._once(bound)
                except DiskFullError as error:
                    said = str(error)
                    continue
                if self._waiting == 1:
                    _log.warning("the disk has room again")
                return result
        finally:
            self._waiting -= 1

    async def _pause(self, said: str, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._giving_up.wait()
        except TimeoutError:
            return
        raise DiskFullError(said)
