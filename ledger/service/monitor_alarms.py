"""What a monitor tells: alarms when they begin and when they end, notices once.

A *passing* alarm is about now (`unreachable`, `unwitnessed`, `broken`, `stalled`, `shrunk`) and ends when it is over.
A *lasting* one is about what was signed, which nothing undoes: it stands as long as its evidence is in the folder, over
any number of restarts, and the same thing seen once more is no news. An alarm is its kind and its subject: a view by
its URL or directory, a device's key by the beginning of its id, or the log's entries.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from ledger.service.monitor_evidence import Claim, EvidenceFolder, Exhibit, iso_time

UNREACHABLE, UNWITNESSED, BROKEN, STALLED, SHRUNK = PASSING = (
    "unreachable",
    "unwitnessed",
    "broken",
    "stalled",
    "shrunk",
)
SPLIT_VIEW = "split-view"
# What a whole fleet of broken devices may fill the folder with; the rest is counted together.
MAX_LASTING = 500
REST = "others"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """One line of what a monitor tells; `event` is `begin`, `end` or `notice`, `evidence` a file in the folder."""

    time: str
    event: str
    kind: str
    subject: str
    message: str
    evidence: str | None = None

    def fields(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


Tell: TypeAlias = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm that stands: since when (Unix seconds), why, and where the evidence is, if it lasts."""

    kind: str
    subject: str
    since: int
    message: str
    evidence: str | None = None


class Alarms:
    """The alarms that stand. `now` (Unix seconds) is set by whoever begins a round."""

    def __init__(self, folder: EvidenceFolder, tell: Tell = lambda _event: None) -> None:
        self.now = 0
        self._folder = folder
        self._tell = tell
        self._standing: dict[tuple[str, str], Alarm] = {}
        for kept in folder.read():
            alarm = Alarm(kept.kind, kept.subject, kept.found, kept.says, kept.name)
            self._standing.setdefault((kept.kind, kept.subject), alarm)

    @property
    def standing(self) -> list[Alarm]:
        """Every alarm that has begun and not ended, the oldest first."""
        return sorted(self._standing.values(), key=lambda alarm: (alarm.since, alarm.kind, alarm.subject))

    def forget_removed(self) -> None:
        """The alarms whose evidence somebody has removed are over."""
        there = self._folder.names()
        for alarm in self.standing:
            if alarm.evidence is not None and alarm.evidence not in there:
                self._end(alarm, "its evidence was removed")

    def set(self, kind: str, subject: str, message: str | None) -> None:
        """The passing alarm stands, because of `message`; or, for None, does not."""
        alarm = self._standing.get((kind, subject))
        if message is not None and alarm is None:
            self._begin(Alarm(kind, subject, self.now, message))
        elif message is None and alarm is not None and alarm.evidence is None:
            self._end(alarm, f"over; it began at {iso_time(alarm.since)}")

    def convict(self, kind: str, subject: str, message: str, parts: Callable[[], Sequence[Claim | Exhibit]]) -> None:
        """The lasting alarm stands, and `parts()` are kept as its evidence if it did not stand before."""
        if (kind, subject) in self._standing:
            return
        if sum(alarm.evidence is not None for alarm in self._standing.values()) >= MAX_LASTING:
            subject = REST
            if (kind, subject) in self._standing:
                return
        kept = self._folder.keep(kind, subject, self.now, message, parts())
        self._begin(Alarm(kind, subject, self.now, message, kept.name))

    def notice(self, kind: str, subject: str, message: str) -> None:
        """Said once: what a log properly reports."""
        _log.info("notice %s (%s): %s", kind, subject, message)
        self._tell(Event(iso_time(self.now), "notice", kind, subject, message))

    def _begin(self, alarm: Alarm) -> None:
        self._standing[alarm.kind, alarm.subject] = alarm
        where = f" (evidence: {self._folder.path / alarm.evidence})" if alarm.evidence else ""
        _log.error("ALARM %s (%s): %s%s", alarm.kind, alarm.subject, alarm.message, where)
        self._tell(Event(iso_time(self.now), "begin", alarm.kind, alarm.subject, alarm.message, alarm.evidence))

    def _end(self, alarm: Alarm, message: str) -> None:
        del self._standing[alarm.kind, alarm.subject]
        _log.warning("end of %s (%s): %s", alarm.kind, alarm.subject, message)
        self._tell(Event(iso_time(self.now), "end", alarm.kind, alarm.subject, message, alarm.evidence))
