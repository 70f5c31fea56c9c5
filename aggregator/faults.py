"""What devices do that is no entry of the log, and that a person wants to know: second signatures, odd chains, clocks.

Counted by device in memory; the publisher moves the counts to the registry every interval, so that a crash, or a
registry that cannot be written, costs the last second's. A clock that is wrong is no reason to refuse a batch: its
readings are as true as they are.
"""

import threading
from collections import Counter

from ledger.info import BatchInfo
from ledger.messages import Reason
from ledger.writer.storage import Storage

# What a reject of a batch that the device's own key signed says about the device.
REJECTS = {
    Reason.EQUIVOCATION: "second_header",
    Reason.BROKEN_CHAIN: "broken_chain",
    Reason.WRONG_ANCHOR: "foreign_anchor",
}
CLOCK_AHEAD, CLOCK_BEHIND = "clock_ahead", "clock_behind"
FLOOD = "flood"
WORDS = {
    "second_header": "batches with another header for a place that is taken: a cloned key, or an outbox restored from"
    " an old copy",
    "broken_chain": "batches that do not continue what is logged: a cloned key, or an outbox restored from an old copy",
    "foreign_anchor": "batches anchored to a checkpoint that is not this log's",
    FLOOD: "times shut out for ten minutes, because it sent far more than a gateway can mean to",
    CLOCK_AHEAD: "batches whose times are ahead of this clock",
    CLOCK_BEHIND: "batches sealed, by their device's clock, before this log began",
}
AHEAD_NS = 300 * 10**9  # what a verifier allows, too (FORMAT.md 10.1, step 8)
BEFORE_NS = 86_400 * 10**9  # a device may know of its log before the log has anything in it


class Faults:
    """Counts since they were last drained; used from any thread. Devices are enrolled ones, so they are few."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, device: str, fault: str) -> None:
        """`device` did `fault` once more."""
        with self._lock:
            self._counts[device, fault] += 1

    def drain(self) -> dict[tuple[str, str], int]:
        """What was counted since the last call, by device and fault."""
        with self._lock:
            counts, self._counts = dict(self._counts), Counter()
        return counts


class Clocks:
    """Tells a device's clock that is surely wrong. A batch that was sealed long ago may only have come late."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._began_ns: int | None = None

    def fault(self, info: BatchInfo, now_ns: int) -> str | None:
        """What is wrong with the times of a batch that came at `now_ns`."""
        if max(info.sealed_at_ns, info.last_ns or info.sealed_at_ns) > now_ns + AHEAD_NS:
            return CLOCK_AHEAD
        began_ns = self._began()
        if began_ns is not None and info.sealed_at_ns < began_ns - BEFORE_NS:
            return CLOCK_BEHIND
        return None

    def _began(self) -> int | None:
        """When this log published its first checkpoint, None before."""
        if self._began_ns is None and (first := self._storage.first_covering(0)):
            self._began_ns = first.recorded_at_ns
        return self._began_ns
