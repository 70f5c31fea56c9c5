"""The outbox's thread: the event loop never waits for a disk, and SQLite's connection never changes hands."""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class OutboxThread:
    """Runs calls one after another, in the order they are made."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `function`. A caller who is cancelled does not stop it: what it commits is committed."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, functools.partial(function, *args, **kwargs))

    def end(self) -> None:
        """The thread has ended; raises nothing."""
        self._executor.shutdown()
