"""What a program tells the systemd that started it, as sd_notify(3) has it; elsewhere nothing happens.

    notify("READY=1")         it does its work from here on
    notify("STOPPING=1")      it was asked to end
    notify(*reloading())      it reads its configuration again; followed by READY=1
    heart.beat("ingest")      this part of it gets on; the watchdog is fed while every part does

The unit says `Type=notify` and `WatchdogSec=`. A program that hangs is killed and started again, which loses nothing
here: a part that stands still is worse than one that begins anew.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable

# The watchdog is fed this many times in its period, so that one late turn is no death.
FEEDINGS = 4


def under_systemd() -> bool:
    """Somebody hears what is told."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def notify(*states: str) -> None:
    """Systemd knows each `NAME=value` of `states`; no value has a newline."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    # A message that is lost costs a restart at worst; to fail for it would cost one for certain.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.setblocking(False)
        sender.sendto("\n".join(states).encode(), address)


def reloading() -> tuple[str, ...]:
    """The states that begin a reload."""
    return "RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


def watchdog_s() -> float | None:
    """Seconds within which the watchdog wants to be fed; None if there is none for this process."""
    period, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID")
    # Children inherit the variables, and are not meant.
    if not (period.isascii() and period.isdigit()) or process not in {None, str(os.getpid())}:
        return None
    return int(period) / 1e6 or None


class Heart:
    """Feeds the watchdog for as long as every one of `parts` beats; for any thread.

    A part that stands still stops the feeding, whatever the others do.
    """

    def __init__(
        self, *parts: str, clock: Callable[[], float] = time.monotonic, tell: Callable[[str], None] = notify
    ) -> None:
        self._parts = frozenset(parts)
        self._clock = clock
        self._tell = tell
        period_s = watchdog_s()
        self._every_s = None if period_s is None else period_s / FEEDINGS
        self._lock = threading.Lock()  # guards the two below
        self._beaten: set[str] = set()
        self._fed_s = clock()

    def beat(self, part: str) -> None:
        """`part` has just passed its loop, and found it in order."""
        if self._every_s is None:
            return
        with self._lock:
            self._beaten.add(part)
            now_s = self._clock()
            if not self._parts <= self._beaten or now_s - self._fed_s < self._every_s:
                return
            self._beaten.clear()
            self._fed_s = now_s
        self._tell("WATCHDOG=1")
