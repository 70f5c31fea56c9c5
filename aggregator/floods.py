"""Who floods: a device that sends far more than a gateway can mean to is shut out for a while.

    <data>/floods.json     which device until when: written by the running aggregator, read by whoever asks

What such a device has sent is thrown away unread as soon as it is found, and the broker, told by the desk (`upkeep`),
takes no more of it. Otherwise it would fill the broker's one queue to us, and the broker then drops what others send.
An outbox forgets nothing meanwhile, so an honest device that is shut out by mistake comes back with all of it.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

from vitalseal.errors import UserError

FILE = "floods.json"
# A gateway has at most 8 batches of a backlog under way, and seals those late and large: not a hundred a second.
RATE = 500.0
# A large message counts as several: 16 MB a second, which is a large batch every 16 ms.
COUNTED_AS_ONE = 32 * 1024
# What may come on top of that: the share of the intake, some times over, as after a redelivery of everything.
BURST = 2500.0
SHUT_OUT_S = 600.0


class Floods:
    """How much each device sends; used from one thread. `now_s` is a monotonic clock, `clock` tells Unix seconds."""

    def __init__(
        self, data: Path, now_s: Callable[[], float] = time.monotonic, clock: Callable[[], float] = time.time
    ) -> None:
        self._data = data
        self._now_s = now_s
        self._clock = clock
        self._levels: dict[str, tuple[float, float]] = {}  # how full, and when that was
        self._until_s: dict[str, float] = {}  # by the monotonic clock

    def is_shut_out(self, device: str) -> bool:
        """Whether `device` is shut out now."""
        until_s = self._until_s.get(device)
        if until_s is None:
            return False
        if self._now_s() >= until_s:
            del self._until_s[device]
            return False
        return True

    def found(self, device: str, size: int) -> bool:
        """`device` sent one message more, of `size` bytes; whether that was too much, and it is shut out from now on.

        Raises OSError if the disk refuses the file; the device is shut out here all the same.
        """
        now_s = self._now_s()
        level, then_s = self._levels.get(device, (0.0, now_s))
        level = max(0.0, level - (now_s - then_s) * RATE) + 1 + size / COUNTED_AS_ONE
        if level <= BURST:
            self._levels[device] = level, now_s
            return False
        self._levels.pop(device, None)
        self._until_s[device] = now_s + SHUT_OUT_S
        now = self._clock()
        shut_out = {**read_floods(self._data, now), device: now + SHUT_OUT_S}
        temporary = self._data / f".{FILE}"
        temporary.write_text(json.dumps(shut_out, indent=1) + "\n", encoding="utf-8")
        temporary.rename(self._data / FILE)
        return True


def read_floods(data: Path, now: float) -> dict[str, float]:
    """Which devices are shut out, and until when, in Unix seconds; raises UserError."""
    path = data / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        # A clock that was set back shuts nobody out for longer than was meant.
        return {device: until for device, until in found.items() if now < until <= now + SHUT_OUT_S}
    except FileNotFoundError:
        return {}
    except (OSError, AttributeError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
