"""Replay: a series of steps, each released at its moment, exactly once over any number of crashes.

A series is a pure function of the position: step 17 is the same today, after a restart, on another machine. So a
cursor needs two numbers only, and they are committed together with the readings they account for:

    position    the step to release next
    origin_ns   wall clock at the series' very first start: the schedule goes on after a crash as if there had been
                none, and what fell due meanwhile is released at once, like a sensor's own memory would

A step is released when `elapsed since origin x speed` has reached it, and never before its own sensor time: a
sensor does not know the future, however fast the demo is.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from edge.source import Chunk, Measured
from vitalseal.errors import UserError

# A chunk is held in memory whole; 256 one-second ECG readings are half a megabyte.
MAX_CHUNK = 256
# The shortest nap: at any speed no more than 50 wake-ups a second, each with all that is due.
MIN_WAIT_S = 0.02
# The longest: how soon a source sees that it is to stop.
MAX_WAIT_S = 0.25

_CURSOR = re.compile(rb"([0-9]{1,18}) ([0-9]{1,19})")


@dataclass(frozen=True, slots=True)
class Step:
    """Readings that a sensor states at one moment: `due_ns` after the series' start, by the sensor's clock."""

    due_ns: int
    readings: tuple[Measured, ...]


class Series(Protocol):
    """Steps by position, from 0; `due_ns` never falls from one to the next."""

    def step(self, position: int) -> Step | None:
        """The step at `position`, the same at every call; None behind the last."""
        ...


class Clock(Protocol):
    """Time, so that tests can bring their own."""

    def wall_ns(self) -> int:
        """Unix time, ns."""
        ...

    def monotonic_ns(self) -> int:
        """Ns since some moment; never goes back while the process lives."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Returns about `seconds` later."""
        ...


class SystemClock:
    """The machine's clocks."""

    def wall_ns(self) -> int:
        """Unix time, ns."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """Ns since some moment."""
        return time.monotonic_ns()

    async def sleep(self, seconds: float) -> None:
        """Returns about `seconds` later."""
        await asyncio.sleep(seconds)


async def replay(
    series: Series,
    *,
    start_ns: int,
    speed: float,
    cursor: bytes | None,
    clock: Clock,
    stopped: Callable[[], bool] = lambda: False,
) -> AsyncIterator[Chunk]:
    """The chunks of `series` behind `cursor`, each when it is due; ends with the series, or when `stopped`.

    `start_ns` is the sensor time of the start of the series, `speed` how much faster than life it goes.
    """
    wall_ns, started_ns = clock.wall_ns(), clock.monotonic_ns()
    position, origin_ns = (0, wall_ns) if cursor is None else parse_cursor(cursor)
    # The wall clock bridges restarts; within one run it may be set, so the monotonic one counts there.
    before_ns = max(0, wall_ns - origin_ns)
    while not stopped():
        elapsed_ns = before_ns + clock.monotonic_ns() - started_ns
        horizon_ns = min(int(elapsed_ns * speed), clock.wall_ns() - start_ns)
        readings: list[Measured] = []
        while (step := series.step(position)) is not None and step.due_ns <= horizon_ns and len(readings) < MAX_CHUNK:
            readings += step.readings
            position += 1
        if readings:
            yield Chunk(tuple(readings), format_cursor(position, origin_ns))
        elif step is None:
            return
        else:
            # Too short where the sensor time holds the step back; then the loop comes by again.
            wait_s = (step.due_ns - horizon_ns) / speed / 1e9
            await clock.sleep(min(max(wait_s, MIN_WAIT_S), MAX_WAIT_S))


def format_cursor(position: int, origin_ns: int) -> bytes:
    """The cursor of a series that goes on at `position` and first started at `origin_ns`."""
    return b"%d %d" % (position, origin_ns)


def parse_cursor(cursor: bytes) -> tuple[int, int]:
    """Position and origin; raises UserError for bytes that are no cursor of ours."""
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise UserError(f"cursor {cursor[:40]!r}: not that of a replayed series; was the source's type changed?")
    return int(match[1]), int(match[2])
