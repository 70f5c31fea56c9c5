"""What to send when: two windows, resending, rejects. No I/O, no clock, randomness injected.

    sealed ──► unstored ──stored──► asking ──verified receipt──► gone from here (the outbox keeps it a while)

The first window bounds what the broker has not acknowledged, the second what the aggregator has not stored.
Order: the log wants a device's batches in sequence order, so what goes out first goes out in that order, and what
goes out again begins at the lowest batch that is not stored (go-back-N).

Silence is answered twice: the first time the whole window is sent again, because batches or answers were lost;
from then on only its lowest batch, further and further apart, because the aggregator is away and a metered
link is not to pay for asking. The first answer starts the rest again. PUBACKs play no part in this: a broker
acknowledges what it then drops.

Nothing is ever dropped here. A batch refused for another reason than order blocks those behind it (the chain
cannot continue past it) and is tried again, slower and slower, until the cause has been mended.

A backlog is sealed into a part of the windows only, so that what arrives now need not wait for all of it.
"""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ledger.messages import Reason

Place: TypeAlias = tuple[int, int]  # chain, sequence number: compares in the order of sealing

# Mosquitto's default of messages in flight; paho queues beyond its own 20 out of our sight.
MAX_UNACKNOWLEDGED = 20
# What the aggregator may have to hold for one device, and what a rewind costs on a metered link.
MAX_UNSTORED = 256
MAX_UNSTORED_BYTES = 4 * 1024 * 1024
# What a backlog may take of that: a batch of readings that arrive now finds room, and at most this much before it.
MAX_BACKLOG = 8
MAX_BACKLOG_BYTES = 1024 * 1024
# Places (not batches) remembered in memory; the outbox knows the others.
MAX_ASKING = 4096
# Batches asked after at one time, so that a log that hands out no receipts is not sent everything again.
ASK_BURST = 16


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds before attempt n+1: `floor_s`, plus full jitter up to `base_s` x 2^n, itself at most `cap_s`."""

    floor_s: float
    base_s: float
    cap_s: float

    def delay(self, attempts: int, rng: random.Random) -> float:
        """The wait after `attempts` attempts."""
        return self.floor_s + rng.uniform(0.0, min(self.cap_s, self.base_s * 2.0 ** min(attempts, 32)))


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to wait for what.

    Attributes:
        stored: for `stored` after sending. The floor leaves room for a group commit and a slow link.
        refused: before a refused batch is tried again. Mending it takes a person.
        receipt: for a receipt after `stored`. Checkpoints are seconds apart, witnesses may be away for hours.
    """

    stored: Backoff = Backoff(3.0, 4.0, 120.0)
    refused: Backoff = Backoff(10.0, 20.0, 600.0)
    receipt: Backoff = Backoff(10.0, 20.0, 600.0)


class Window:
    """The state of everything that is sealed and has no receipt. `now` is monotonic seconds throughout."""

    def __init__(self, rng: random.Random, pace: Pace | None = None) -> None:
        self._rng = rng
        self._pace = pace or Pace()
        self.unacknowledged: set[Place] = set()
        # Both in chain order, because places are only ever added in that order.
        self.unstored: dict[Place, int] = {}
        self.asking: dict[Place, None] = {}
        # More batches wait for a receipt than are remembered here: whoever owns the outbox looks them up
        # when `asking` has run dry.
        self.untracked = False
        self.blocked = False
        self._bytes = 0
        # Those of `unstored` that are of a backlog. After a restart nobody knows any more which they were.
        self._backlog: set[Place] = set()
        self._attempts = 0
        self._ask_attempts = 0
        # What is still to go out in this round, in order; stored ones among them are passed over.
        self._round: deque[Place] = deque()
        self._asks: deque[Place] = deque()
        self._resend_at = 0.0
        self._ask_at = 0.0

    def room(self, size: int) -> bool:
        """A batch of at most `size` bytes may be sealed and added."""
        return len(self.unstored) < MAX_UNSTORED and self._bytes + size <= MAX_UNSTORED_BYTES

    def backlog_room(self, size: int) -> bool:
        """A batch of at most `size` bytes of a backlog may be sealed and added."""
        waiting = sum(self.unstored[place] for place in self._backlog)
        return self.room(size) and len(self._backlog) < MAX_BACKLOG and waiting + size <= MAX_BACKLOG_BYTES

    def add(self, place: Place, size: int, *, backlog: bool = False) -> None:
        """A sealed batch of `size` bytes, the highest so far, wants to go out."""
        if self.unstored and place <= next(reversed(self.unstored)):
            raise ValueError(f"batch {place} does not come last")
        self.unstored[place] = size
        self._bytes += size
        if backlog:
            self._backlog.add(place)
        if not self.blocked:
            self._round.append(place)

    @property
    def lowest(self) -> Place | None:
        """The lowest batch that is not stored."""
        return next(iter(self.unstored), None)

    def give_up(self) -> None:
        """What is not stored is no batch any more, and goes out no more."""
        self.unstored.clear()
        self._backlog.clear()
        self._round.clear()
        self._bytes = self._attempts = 0
        self.blocked = False

    def ask_after(self, places: Sequence[Place], now: float, *, more: bool) -> None:
        """`places`, in order, are stored and have no receipt; `more`: the outbox holds others behind them."""
        self.untracked = more
        if places and not self.asking:
            self._ask_at = now + self._pace.receipt.delay(self._ask_attempts, self._rng)
        self.asking.update(dict.fromkeys(places))

    def connected(self, now: float) -> None:
        """There is a new connection: what was under way is not, and answers may have been missed."""
        self.unacknowledged.clear()
        self._asks.clear()
        self._attempts = 0
        self._rewind(now)
        # Receipts that came while nobody listened are asked for at once.
        self._ask_at = now

    def next(self, now: float) -> Place | None:
        """The batch to send now, or None; it counts as under way from here on."""
        if len(self.unacknowledged) >= MAX_UNACKNOWLEDGED:
            return None
        if self.unstored and not self._round and now >= self._resend_at:
            self._retry(now)
        while self._round:
            place = self._round.popleft()
            if place in self.unstored and place not in self.unacknowledged:
                self.unacknowledged.add(place)
                self._resend_at = max(self._resend_at, now + self._stored_or_refused())
                return place
        return self._next_ask(now)

    def wake_at(self) -> float | None:
        """When `next` may have something to say without anything else happening; None if never."""
        if len(self.unacknowledged) >= MAX_UNACKNOWLEDGED:
            return None
        times = [at for at, waiting in ((self._resend_at, self.unstored), (self._ask_at, self.asking)) if waiting]
        return min(times, default=None)

    def acknowledged(self, place: Place) -> None:
        """The broker has the batch, which says nothing about the log."""
        self.unacknowledged.discard(place)

    def stored(self, place: Place, now: float) -> None:
        """The aggregator has the batch durably."""
        if place not in self.unstored:
            return
        self._forget(place, now)
        if len(self.asking) < MAX_ASKING and not self.untracked:
            self.ask_after([place], now, more=False)
        else:
            self.untracked = True

    def receipted(self, place: Place, now: float) -> None:
        """The batch has a verified receipt."""
        if place in self.unstored:
            self._forget(place, now)
        if place in self.asking:
            del self.asking[place]
            self._ask_attempts = 0
            self._ask_at = now + self._pace.receipt.delay(0, self._rng)

    def rejected(self, place: Place, reason: int, now: float) -> None:
        """The aggregator did not take the batch."""
        if place not in self.unstored or self.blocked:
            return  # an echo of an earlier sending, or one of many in flight behind the same fault
        if reason == Reason.OUT_OF_ORDER:
            # Something below it was lost. One rewind mends all that is in flight; the rejects of the others in
            # flight find `_attempts` raised and change nothing.
            if self._attempts == 0:
                self._retry(now)
            return
        self.blocked = True
        self._round.clear()
        self._resend_at = now + self._stored_or_refused()

    def ask_soon(self, now: float) -> None:
        """Receipts came that could not be used (their proof began elsewhere): ask again after the shortest wait."""
        self._ask_at = min(self._ask_at, now + self._pace.stored.floor_s)

    def _stored_or_refused(self) -> float:
        pace = self._pace.refused if self.blocked else self._pace.stored
        return pace.delay(self._attempts, self._rng)

    def _forget(self, place: Place, now: float) -> None:
        """`place` is stored: progress, so the next silence is a first one again."""
        self._bytes -= self.unstored.pop(place)
        self._backlog.discard(place)
        self._attempts = 0
        self._resend_at = now + self._pace.stored.delay(0, self._rng)
        if self.blocked:
            self.blocked = False
            self._rewind(now)

    def _retry(self, now: float) -> None:
        """Another attempt after silence: the first is everything, later ones are the lowest batch."""
        if self._attempts == 0:
            self._rewind(now)
        else:
            self._round = deque([next(iter(self.unstored))])
        self._attempts += 1
        self._resend_at = now + self._stored_or_refused()

    def _rewind(self, now: float) -> None:
        """Everything not stored goes out again, in order; while blocked only the lowest."""
        self._round = deque(list(self.unstored)[: 1 if self.blocked else None])
        self._resend_at = now + self._stored_or_refused()

    def _next_ask(self, now: float) -> Place | None:
        if self.asking and not self._asks and now >= self._ask_at:
            self._asks.extend(list(self.asking)[:ASK_BURST])
            self._ask_at = now + self._pace.receipt.delay(self._ask_attempts, self._rng)
            self._ask_attempts += 1
        while self._asks:
            place = self._asks.popleft()
            if place in self.asking and place not in self.unacknowledged:
                self.unacknowledged.add(place)
                return place
        return None
