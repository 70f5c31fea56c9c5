"""Things that are said seldom, however often they happen."""

import time
from collections.abc import Callable, Hashable


class Seldom:
    """Lets each of a bounded number of names through once in `every_s`."""

    def __init__(self, every_s: float, names: int, now_s: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._names = names
        self._now_s = now_s
        self._last: dict[Hashable, float] = {}

    def may(self, name: Hashable) -> bool:
        """Whether it is `name`'s time again; if so, not for a while from here on."""
        now = self._now_s()
        if now - self._last.get(name, -self._every_s) < self._every_s:
            return False
        self._last.pop(name, None)
        self._last[name] = now  # the one that was let through longest ago is first, and the first to be forgotten
        if len(self._last) > self._names:
            del self._last[next(iter(self._last))]
        return True
