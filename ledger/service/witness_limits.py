"""How often a witness is asked before it says 429: token buckets, filled by a clock that is given.

Who may drain which bucket decides whether strangers can keep a log from being witnessed:

    a step forward                  its log's own bucket: only the log can sign one, and each is made once
    409, the last checkpoint again  none: whoever asks, the answer is at hand, and renewed once a minute at most
    another refusal, signed         its log's bucket of refusals: anybody may have copied the checkpoint
    what no known log signed        the one for strangers
    every request, before it is     one of two for all, by its length: the only ones that limit the work, and
    parsed                          that a flood can drain for the logs, too
"""

import math
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

# A log that publishes every second needs one; ten let several of its processes try, and catch up.
LOG_RATE = 10.0
# A reason is given this often; who goes on sending what cannot be right is told to wait instead.
STRANGER_RATE = 20.0
# Of a request with an Ed25519 and an ML-DSA-44 line (3.4 KB) parsing takes 0.1 ms and checking both 0.25 ms, on a
# Xeon core of 2026; of one with 16 KB parsing takes 0.5 ms. So a flood gets two fifths of a core at most.
SMALL_BODY = 16 * 1024
SMALL_RATE = 500.0
# Larger are only notes with the lines of five witnesses and more, sent again: 8 ms for 254 KB, a sixth of a core.
LARGE_RATE = 20.0
# A bucket holds what comes in in this time, so that a restart of everybody at once is not an attack.
BURST_S = 3.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests per second: for each log forward and for each log refused, and for all strangers together."""

    log: float = LOG_RATE
    strangers: float = STRANGER_RATE

    def of_all(self, *, large: bool) -> float:
        """Requests per second by everybody together, longer than SMALL_BODY or not; no other limit is beyond it."""
        return max(LARGE_RATE if large else SMALL_RATE, self.log, self.strangers)


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
