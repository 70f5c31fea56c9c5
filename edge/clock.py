"""The gateway's clocks: what they say, how far they can be believed, and which readings go by which.

A gateway without a battery boots in 1970, or at the time of its last shutdown, and learns the date later or never. So
every reading is received under a *segment*: a stretch of time in which the wall clock ran along with the monotonic
one, in one boot, in one state. A new segment begins at a reboot, at a change of state, and where the wall clock was set
(moved against the monotonic one by more than a second). A batch never mixes segments, and its info states the clock of
the segment that its readings were received in.

    on the current timeline    sealed as received, the clock's state beside them
    not on it                  held: accepted, not sealed. When the clock is synchronised within the same boot, their
                               receipt times are mapped by the monotonic clock and they are released; when that boot
                               is over without it, or a day, they are sealed as they stand, and as received by an
                               unset clock

A day, because no clock, however wrong it once was, may hold readings for ever: one that was set to 2099 by mistake
leaves a mark behind which everything is in the past. So with the readings goes that mark.

Nothing here reads local time, so neither a time zone nor its changes can matter. No I/O but in `SystemClock`.
"""

import ctypes
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ledger.info import Clock
from ledger.reading import CLOCK_TOLERANCE_NS

# No version of this program was there before 2026: a clock that shows an earlier year was never set.
RELEASED_NS = 1_767_225_600 * 10**9  # 2026-01-01T00:00:00Z
# The wall clock was set, and not merely slewed (500 ppm) or read late, when it moved by more against the monotonic one.
STEP_NS = 10**9
# How long readings wait for a clock: a gateway that boots without a network has found one by then, or has none.
HOLD_NS = 24 * 3600 * 10**9

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# systemd-timesyncd makes this file when the clock has been set from the network since boot, and others imitate it.
_SYNCHRONISED = Path("/run/systemd/timesync/synchronized")
_STA_UNSYNC = 0x0040  # <sys/timex.h>


@dataclass(frozen=True, slots=True)
class Moment:
    """One look at the clocks.

    Attributes:
        wall_ns: Unix time.
        monotonic_ns: compares with others of the same `boot_id` only.
        boot_id: 16 bytes.
        clock: whether the wall clock is synchronised, as far as anybody says.
        error_ns: its estimated error, None if unknown.
    """

    wall_ns: int
    monotonic_ns: int
    boot_id: bytes
    clock: Clock
    error_ns: int | None

    @property
    def delta_ns(self) -> int:
        """Wall minus monotonic: constant while nobody sets the clock."""
        return self.wall_ns - self.monotonic_ns


@dataclass(frozen=True, slots=True)
class Segment:
    """Under which clock readings were received; see the module."""

    boot_id: bytes
    delta_ns: int
    clock: Clock
    error_ns: int | None
    held: bool

    @classmethod
    def begin(cls, moment: Moment, *, held: bool) -> "Segment":
        """The segment that `moment` begins."""
        return cls(moment.boot_id, moment.delta_ns, moment.clock, moment.error_ns, held)

    def goes_on(self, moment: Moment, *, held: bool) -> bool:
        """`moment` is of this segment."""
        same = (self.boot_id, self.clock, self.held) == (moment.boot_id, moment.clock, held)
        return same and abs(moment.delta_ns - self.delta_ns) <= STEP_NS


class ClockReader(Protocol):
    """Where moments come from; tests bring their own."""

    def read(self) -> Moment:
        """The clocks as they are now."""
        ...


def on_timeline(moment: Moment, *, committed_ns: int | None, witnessed_s: int) -> bool:
    """The wall clock may be right: it is not before what certainly has been.

    `committed_ns` is the wall time of the outbox's last commit, `witnessed_s` (Unix) the witnesses' time of the largest
    verified checkpoint. The first is our own word only: a synchronised clock that is behind it has been set right.
    The tolerance is that of the verifier, so that a clock which is corrected by seconds does not hold anything up.
    """
    floor_ns = max(RELEASED_NS, witnessed_s * 10**9)
    if moment.clock != Clock.SYNCHRONISED and committed_ns is not None:
        floor_ns = max(floor_ns, committed_ns)
    return moment.wall_ns >= floor_ns - CLOCK_TOLERANCE_NS


class SystemClock:
    """The machine's clocks and what its kernel says of them."""

    def __init__(self) -> None:
        self._boot_id = _boot_id()
        self._kernel = _Kernel()

    def read(self) -> Moment:
        """The clocks as they are now."""
        clock, error_ns = self._kernel.state()
        return Moment(time.time_ns(), time.monotonic_ns(), self._boot_id, clock, error_ns)


class _Timex(ctypes.Structure):
    """`struct timex` as far as it is read; the rest is room for what the kernel writes."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),  # microseconds
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 32),
    )


class _Kernel:
    """What adjtimex(2) says, which every time service tells; else timesyncd's file; else nothing is known."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        self._adjtimex = getattr(library, "adjtimex", None)

    def state(self) -> tuple[Clock, int | None]:
        """The clock's state, and its estimated error in ns."""
        timex = _Timex()  # modes 0: nothing is set
        if self._adjtimex is None or self._adjtimex(ctypes.byref(timex)) < 0:
            # Silence is no evidence either way.
            return (Clock.SYNCHRONISED if _SYNCHRONISED.exists() else Clock.UNKNOWN), None
        if timex.status & _STA_UNSYNC:
            return Clock.UNSYNCHRONISED, None
        return Clock.SYNCHRONISED, max(0, timex.maxerror) * 1000


def _boot_id() -> bytes:
    """16 bytes within which monotonic times compare: the kernel's boot id, elsewhere random for this process."""
    try:
        return bytes.fromhex(_BOOT_ID.read_text("ascii").strip().replace("-", ""))
    except (OSError, ValueError):
        return secrets.token_bytes(16)
