"""How often a witness is asked before it says 429: token buckets, filled by a clock that is given.

Who may drain which bucket decides whether strangers can keep a log from being witnessed. A step forward takes from
the log's own bucket, and only the log can sign one. A log's checkpoint that anybody may have copied (nothing new, or
refused) takes from that log's second bucket; everything that no known log signed takes from the one for strangers.
"""

import math
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

# A log that publishes every second needs one; ten let several of its processes try, and catch up.
LOG_RATE = 10.0
# Each costs the parsing of at most 260 KB and a signature check, about a millisecond: a fiftieth of one core.
STRANGER_RATE = 20.0
# A bucket holds what comes in in this time, so that a restart of everybody at once is not an attack.
BURST_S = 3.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests per second: for each log forward and for each log otherwise, and for all strangers together."""

    log: float = LOG_RATE
    strangers: float = STRANGER_RATE


DEFAULT_LIMITS = Limits()


class Buckets:
    """A bucket for every key that was ever asked for; safe from any thread."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._levels: dict[Hashable, tuple[float, float]] = {}  # tokens, and when they were counted

    def take(self, key: Hashable, rate: float) -> int:
        """0 if a token of `key`, of which `rate` come in a second, was there and is gone; else seconds to the next."""
        capacity = max(1.0, rate * BURST_S)
        with self._lock:
            now = self._monotonic()
            tokens, counted = self._levels.get(key, (capacity, now))
            tokens = min(capacity, tokens + (now - counted) * rate)
            granted = tokens >= 1
            self._levels[key] = (tokens - granted, now)
        return 0 if granted else math.ceil((1 - tokens) / rate)
