"""A line between two programs that can be made as bad as real ones: slow, cut, lossy, or dead without a word.

It forwards TCP from a free loopback port. What TCP hides (a packet lost, a packet late) shows as delay; what it does
not hide is a connection that ends, or one that ends without telling anybody.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from simulators.broker import HOST

_BLOCK = 16 * 1024
_NO_LINGER = struct.pack("ii", 1, 0)  # linger on, for no time: close() sends RST


@dataclass(frozen=True, slots=True)
class Weather:
    """How the line is.

    Attributes:
        delay_s: mean delay of each block, one way; the order stays.
        cut: no connection comes about.
        drops_after: bytes from .. to after which a new connection is reset, None for never.
    """

    delay_s: float = 0.0
    cut: bool = False
    drops_after: tuple[int, int] | None = None


FINE = Weather()


class _Link:
    """One forwarded connection: once it is dead, nothing of it moves, and nobody is told."""

    def __init__(self, writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter], bytes_left: float) -> None:
        self.writers = writers
        self.bytes_left = bytes_left
        self.dead = False

    def reset(self) -> None:
        for writer in self.writers:
            _abort(writer)


class Proxy:
    """Forwards `port` to `target`, both on loopback, in a thread of its own while its context is entered.

    Attributes:
        weather: may be replaced at any time; holds for what comes.
        resets: connections that were reset, by us.
    """

    def __init__(self, target: int, rng: random.Random) -> None:
        self.port = 0
        self.weather = FINE
        self.resets = 0
        self._target = target
        self._rng = rng
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def reset(self) -> None:
        """All present connections are reset."""

        def reset() -> None:
            for link in list(self._links):
                self._reset(link)

        self._loop.call_soon_threadsafe(reset)

    def freeze(self) -> None:
        """All present connections are half-open from here on: they stay, and nothing comes through; new ones work."""

        def freeze() -> None:
            for link in self._links:
                link.dead = True

        self._loop.call_soon_threadsafe(freeze)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, HOST, 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for link in self._links:
            link.reset()
        # Every pump ends by itself: a cancelled one is an error to asyncio's server, and would be told.
        self._over.set()
        self._loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(self._loop)))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        weather = self.weather
        try:
            if weather.cut:
                raise ConnectionRefusedError
            there, back = await asyncio.open_connection(HOST, self._target)
        except OSError:
            _abort(writer)
            return
        drops_after = self._rng.randint(*weather.drops_after) if weather.drops_after else float("inf")
        link = _Link((writer, back), drops_after)
        self._links.add(link)
        try:
            await asyncio.gather(self._pump(link, reader, back), self._pump(link, there, writer))
        finally:
            self._links.discard(link)
            link.reset()

    async def _pump(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while (data := await reader.read(_BLOCK)) or link.dead:
                if link.dead:
                    # Not even its end comes through: whoever waits for more waits until he gives up.
                    await self._over.wait()
                    return
                if self.weather.delay_s:
                    await asyncio.sleep(self._rng.uniform(0.0, 2 * self.weather.delay_s))
                link.bytes_left -= len(data)
                if link.bytes_left < 0:
                    self._reset(link)
                    return
                writer.write(data)
                await writer.drain()
            writer.close()

    def _reset(self, link: _Link) -> None:
        self.resets += 1
        link.reset()


def _abort(writer: asyncio.StreamWriter) -> None:
    """The connection is reset, not closed in good order."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):  # it may be closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    writer.transport.abort()
