"""When to close a batch: by count, by bytes or by age, and only while the windows have room. No I/O, no clock.

While there is no room the readings stay open in the outbox, so a backlog is sealed late and leaves in full
batches, and a device that was away for a day does not flood the log with a day of small ones.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """No batch is larger than `max_readings` and `max_bytes` (of readings); none waits longer than `max_age_s`."""

    max_readings: int
    max_bytes: int
    max_age_s: float


class Batcher:
    """Counts what is accepted and not yet sealed. `now` is monotonic seconds throughout."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.readings = 0
        self.bytes = 0
        # When the oldest open reading was accepted. It is kept while a full batch takes only a part of what is
        # open: the rest may then close a little early, but no reading ever waits longer than the age.
        self._since: float | None = None

    def accepted(self, readings: int, size: int, now: float) -> None:
        """`readings` of `size` bytes in all are committed to the outbox."""
        if readings:
            self.readings += readings
            self.bytes += size
            self._since = now if self._since is None else self._since

    def sealed(self, readings: int, size: int) -> None:
        """The oldest `readings`, `size` bytes in all, are in a sealed batch."""
        self.readings -= readings
        self.bytes -= size
        if not self.readings:
            self._since = None

    def due(self, now: float, *, room: bool, flush: bool = False) -> bool:
        """A batch is to be closed now. `flush`: nothing more will come, so waiting for it is pointless."""
        if not room or self._since is None:
            return False
        return flush or self._full or now >= self._since + self._limits.max_age_s

    def wake_at(self) -> float | None:
        """When the open batch comes of age, None when nothing is open."""
        return None if self._since is None else self._since + self._limits.max_age_s

    @property
    def _full(self) -> bool:
        return self.readings >= self._limits.max_readings or self.bytes >= self._limits.max_bytes
