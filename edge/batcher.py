"""What to seal next: by count, by bytes or by age, and only while the windows have room. No I/O, no clock.

While there is no room the readings stay open in the outbox, so a backlog is sealed late. Readings are *live* at first:
sealed in small batches within `max_age_s`, before everything else. When they have piled up beyond what one of the
largest batches holds (the device was away, or sources are faster than the link), they become a *backlog*, which leaves
in the largest batches there can be, behind what is live, and in a part of the window only: a device that was away for a
day neither floods the log with a day of small batches nor keeps the readings of this minute waiting.
"""

import math
from dataclasses import dataclass
from enum import Enum, auto

from edge.config import MAX_BATCH_BYTES, BatchingConfig
from edge.store import Standing
from ledger.batch import MAX_READINGS

# A gap header beside which nothing is sealed waits at least this long after the one before: readings that are dropped
# for weeks are told of by a few thousand headers, not by one for every commit.
GAP_EVERY_S = 600.0


@dataclass(frozen=True, slots=True)
class Limits:
    """No batch is larger than `max_readings` and `max_bytes` (of readings); none waits longer than `max_age_s`."""

    max_readings: int
    max_bytes: int
    max_age_s: float


# Of a batch of a backlog, and what may pile up before there is one. Its age is past.
LARGEST = Limits(MAX_READINGS, MAX_BATCH_BYTES, 0.0)


def limits_of(config: BatchingConfig) -> Limits:
    """Those of a live batch, as configured."""
    return Limits(config.max_readings, config.max_bytes, config.max_age_s)


class Step(Enum):
    """What is to be sealed, or, for DEFER, not yet: what was live is a backlog."""

    LIVE = auto()
    DEFER = auto()
    BACKLOG = auto()
    GAP = auto()
    HEARTBEAT = auto()


class Batcher:
    """Knows what is accepted and not yet sealed. `now` is monotonic seconds throughout."""

    def __init__(self, limits: Limits, heartbeat_s: float, now: float) -> None:
        self._limits = limits
        self._heartbeat_s = heartbeat_s
        self.standing = Standing(0, 0, 0, gap=False)
        # Bytes that are live; too many at most, when some were dropped, and then a batch closes early.
        self._bytes = 0
        # When the oldest live reading was accepted. It is kept while a full batch takes only a part of what is
        # live: the rest may then close a little early, but no reading ever waits longer than the age.
        self._since: float | None = None
        self._sealed_at = now
        self._gap_from = -math.inf

    def follow(self, limits: Limits, heartbeat_s: float) -> None:
        """These count from here on."""
        self._limits, self._heartbeat_s = limits, heartbeat_s

    @property
    def open(self) -> bool:
        """There are readings to be sealed, or a gap."""
        return bool(self.standing.live or self.standing.backlog or self.standing.gap)

    def stands(self, standing: Standing, now: float, *, accepted_bytes: int = 0, sealed_bytes: int = 0) -> None:
        """The outbox's `standing` is this now, after so many bytes of readings more were live, or sealed."""
        self.standing = standing
        self._bytes = max(0, self._bytes + accepted_bytes - sealed_bytes)
        if not standing.live:
            self._bytes, self._since = 0, None
        elif self._since is None:
            self._since = now

    def sealed(self, step: Step, now: float) -> None:
        """A header was sealed: the chain's next sign of life is due a heartbeat from now."""
        self._sealed_at = now
        if step is Step.GAP:
            self._gap_from = now + GAP_EVERY_S

    def next(self, now: float, *, room: bool, backlog_room: bool, flush: bool = False) -> Step | None:
        """What to do now. `flush`: nothing more will come, so waiting for it is pointless."""
        if not room:
            return None
        step = self._readings(now, backlog_room=backlog_room, flush=flush)
        if step is Step.DEFER:
            return step
        silent = now >= self._sealed_at + self._heartbeat_s
        # What is missing is said before whatever comes behind it.
        if self.standing.gap and (step is not None or flush or silent or now >= self._gap_from):
            return Step.GAP
        return Step.HEARTBEAT if silent and step is None else step

    def wake_at(self) -> float:
        """When `next` may have something to say without anything else happening, given room."""
        times = [self._sealed_at + self._heartbeat_s]
        if self._since is not None:
            times.append(self._since + self._limits.max_age_s)
        if self.standing.gap:
            times.append(self._gap_from)
        return min(times)

    def _readings(self, now: float, *, backlog_room: bool, flush: bool) -> Step | None:
        if self._since is not None:
            live = self.standing.live
            if live > LARGEST.max_readings or self._bytes > LARGEST.max_bytes:
                return Step.DEFER
            full = live >= self._limits.max_readings or self._bytes >= self._limits.max_bytes
            if flush or full or now >= self._since + self._limits.max_age_s:
                return Step.LIVE
        return Step.BACKLOG if self.standing.backlog and backlog_room else None
