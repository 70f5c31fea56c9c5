"""What waits between network and ingest: a bounded place for each device, emptied in turn.

Each enrolled device has a share, larger than what an honest one has under way, so that whoever floods fills his own
place and nobody else's. Those without an enrolled key share one small place. What is within its share waits, if need be
in the network thread, which then reads nothing more from the broker; what goes beyond is refused at once, because a
message that was neither taken nor acknowledged would keep the broker from handing over those of others.

Sans-I/O but for the waiting; used from any thread.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from aggregator.mqtt import RECEIVE_MAXIMUM, Message
from ledger.envelope import MAX_ENVELOPE

MB = 1024 * 1024
# A device has 256 batches or 4 MB under way, asks after a few more, and the broker may redeliver all of it once.
SHARE_MESSAGES, SHARE_BYTES = 544, 9 * MB
# Of all that have no enrolled key together: enough for a device that is about to be enrolled to hear why not.
STRANGERS_MESSAGES, STRANGERS_BYTES = 32, 1 * MB
TOTAL_MESSAGES, TOTAL_BYTES = RECEIVE_MAXIMUM, 64 * MB  # of all devices together
# One commit: an fsync for each batch would be the bottleneck, and those who come after it wait for all of it.
GROUP_MESSAGES, GROUP_BYTES = 256, 2 * MB
_STRANGERS = ""  # no device has this name


class Verdict(Enum):
    """What became of a message: taken, refused for its device's share, or not taken yet for want of room."""

    TAKEN = 1
    OVER_QUOTA = 2
    FULL = 3


@dataclass(slots=True)
class _Place:
    messages: deque[Message] = field(default_factory=deque)
    size: int = 0


class Intake:
    """Messages that wait to be admitted. `knows` says whether a device has an enrolled key."""

    def __init__(self, knows: Callable[[str], bool]) -> None:
        self._knows = knows
        self._changed = threading.Condition()
        # Those who have something waiting, the next one to be served first.
        self._places: dict[str, _Place] = {}
        self._messages = 0
        self._bytes = 0
        self._over: Counter[bool] = Counter()  # by whether the device is known

    def __len__(self) -> int:
        return self._messages

    @property
    def size(self) -> int:
        """The bytes that wait."""
        return self._bytes

    def over_quota(self) -> dict[str, int]:
        """How many messages were refused, by whose share was full."""
        names = {True: "over_quota", False: "over_quota_unknown"}
        return {names[known]: count for known, count in self._over.items()}

    def refused(self, device: str) -> None:
        """A message of `device` was refused before it came here."""
        with self._changed:
            self._over[self._knows(device)] += 1

    def put(self, message: Message, timeout_s: float) -> Verdict:
        """Takes `message` in, waiting at most `timeout_s` for room among all devices."""
        size = len(message.payload)
        known = self._knows(message.device)
        owner = message.device if known else _STRANGERS
        most, most_bytes = (SHARE_MESSAGES, SHARE_BYTES) if known else (STRANGERS_MESSAGES, STRANGERS_BYTES)
        with self._changed:
            place = self._places.get(owner)
            if place and (len(place.messages) >= most or place.size + size > most_bytes):
                self._over[known] += 1
                return Verdict.OVER_QUOTA
            if not self._changed.wait_for(lambda: self._fits(size), timeout_s):
                return Verdict.FULL
            # Only this thread adds, so the share that had room before the wait has it now; its place may be gone.
            place = self._places.setdefault(owner, _Place())
            place.messages.append(message)
            place.size += size
            self._messages += 1
            self._bytes += size
            self._changed.notify_all()
        return Verdict.TAKEN

    def take(self, timeout_s: float) -> list[Message]:
        """What one commit may hold, one message of each device in turn; waits at most `timeout_s` for the first."""
        group: list[Message] = []
        size = 0
        with self._changed:
            self._changed.wait_for(lambda: self._messages, timeout_s)
            while self._places and len(group) < GROUP_MESSAGES and size <= GROUP_BYTES - MAX_ENVELOPE:
                owner, place = next(iter(self._places.items()))
                del self._places[owner]
                message = place.messages.popleft()
                place.size -= len(message.payload)
                if place.messages:
                    self._places[owner] = place  # at the end: its next turn comes after everybody else's
                group.append(message)
                size += len(message.payload)
            self._messages -= len(group)
            self._bytes -= size
            self._changed.notify_all()
        return group

    def _fits(self, size: int) -> bool:
        return self._messages < TOTAL_MESSAGES and self._bytes + size <= TOTAL_BYTES
