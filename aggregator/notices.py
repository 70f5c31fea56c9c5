"""What the log tells of each device's chain, gathered in the registry so that it is known by device.

    activity    key -> last place, batches and readings logged, when it was heard last
    notices     gaps, new epochs, second headers and erasures, each an entry of the log
    faults      what `faults` counted

Filled by walking the log: a cursor goes with every transaction, so a crash between a commit and the walk loses nothing,
and whoever starts with an old registry walks what it lacks. Never the source of anything: all but `faults` is derived.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from aggregator.faults import CLOCK_AHEAD, CLOCK_BEHIND
from aggregator.registry import Registry
from ledger.batch import Header, Notice, NoticeKind
from ledger.entry import BatchEntry, Equivocation, Erased, parse_entry
from ledger.errors import LedgerError
from ledger.info import BatchInfo
from ledger.leaves import Leaf
from ledger.reading import format_time
from ledger.writer.payload import parse_payload
from ledger.writer.storage import Storage

logger = logging.getLogger(__name__)

PORTION = 4096  # entries in one transaction: a tenth of a second, so that an old registry holds up no publishing
EQUIVOCATION, ERASURE = 0, -1  # among notices; the others have the number of their `NoticeKind`
GAP_REASONS = {1: "disk budget", 2: "unclean stop", 3: "source overrun"}  # FORMAT.md section 5.4


@dataclass(frozen=True, slots=True)
class Noted:
    """A gap, a new epoch, a second header or an erasure: entry `index` of the log.

    For a gap: `reason`, readings `lost`, None if unknown, and the sensor times between which they lie, if known. For an
    erasure: the place of the batch, and how many of its readings were erased, as `lost`.
    """

    index: int
    key_id: bytes
    kind: int
    epoch: int
    seq: int
    reason: int | None = None
    lost: int | None = None
    from_ns: int | None = None
    to_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Activity:
    """What a key's chain has on the log; `heard_ns` is by the aggregator's clock."""

    key_id: bytes
    epoch: int
    seq: int
    index: int
    batches: int
    readings: int
    heard_ns: int


@dataclass(frozen=True, slots=True)
class Totals:
    """At a glance."""

    gaps: int = 0
    second_headers: int = 0
    new_epochs: int = 0
    clock_faults: int = 0


class Notices:
    """The tables in `registry`; used from the thread that uses that."""

    def __init__(self, registry: Registry, storage: Storage) -> None:
        self._registry = registry
        self._storage = storage
        with registry.reading() as database:
            row = database.execute("SELECT at FROM walked").fetchone()
        # A log that was restored from an older copy gets the same entries again: nothing is walked twice.
        self._walked: int = row[0] if row else 0

    def walk(self, name_of: Callable[[bytes], str]) -> bool:
        """Takes in what was committed since the last walk, a portion at most; whether there is more.

        `name_of` a key is its device; a gap is named in the log when it is taken in.
        """
        start = self._walked
        end = min(self._storage.size(), start + PORTION)
        if start >= end:
            return False
        activities: dict[bytes, Activity] = {}
        noted: list[Noted] = []
        for index, data in enumerate(self._storage.entries(start, end), start):
            entry = parse_entry(data)
            if isinstance(entry, BatchEntry):
                header = Header.decode(entry.header)
                before = activities.get(header.key_id)
                activities[header.key_id] = _grown(before, index, header)
                noted += self._noted(index, header)
            elif isinstance(entry, Equivocation):
                header = entry.header
                noted.append(Noted(index, header.key_id, EQUIVOCATION, header.epoch, header.seq))
            elif isinstance(entry, Erased):
                noted += self._erased(index, entry)
        self._write(end, activities, noted)
        self._walked = end
        for item in noted:
            if item.kind == NoticeKind.GAP:
                logger.warning("%s declares a gap: %s", name_of(item.key_id), describe(item))
            elif item.kind == NoticeKind.OUTBOX_LOST:
                logger.warning("%s begins %s", name_of(item.key_id), describe(item))
        return end < self._storage.size()

    def add_faults(self, counts: dict[tuple[str, str], int], now_ns: int) -> None:
        """What was counted is added to the table."""
        if not counts:
            return
        rows = [(device, what, count, now_ns) for (device, what), count in counts.items()]
        with self._registry.transaction() as database:
            database.executemany(
                "INSERT INTO faults VALUES (?, ?, ?, ?) ON CONFLICT (device, what)"
                " DO UPDATE SET count = count + excluded.count, last_ns = excluded.last_ns",
                rows,
            )

    def totals(self) -> Totals:
        """How many of each kind there are, ever."""
        with self._registry.reading() as database:
            kinds = dict(database.execute("SELECT kind, count(*) FROM notices GROUP BY kind").fetchall())
            query = "SELECT coalesce(sum(count), 0) FROM faults WHERE what IN (?, ?)"
            clock_faults = database.execute(query, (CLOCK_AHEAD, CLOCK_BEHIND)).fetchone()[0]
        lost, twins = kinds.get(NoticeKind.OUTBOX_LOST, 0), kinds.get(EQUIVOCATION, 0)
        return Totals(kinds.get(NoticeKind.GAP, 0), twins, lost, clock_faults)

    def _noted(self, index: int, header: Header) -> Iterator[Noted]:
        notice = header.notice
        if notice is None or notice.kind == NoticeKind.HEARTBEAT:
            return
        window = self._window(index) if notice.kind == NoticeKind.GAP else None
        yield Noted(
            index,
            header.key_id,
            notice.kind,
            header.epoch,
            header.seq,
            notice.reason,
            _column(notice),
            *(window or (None, None)),
        )

    def _erased(self, index: int, entry: Erased) -> Iterator[Noted]:
        for data in self._storage.entries(entry.log_index, min(entry.log_index + 1, index)):
            if isinstance(batch := parse_entry(data), BatchEntry):
                header = Header.decode(batch.header)
                readings = len(entry.leaves) - (entry.leaves[0] == 0)
                yield Noted(index, header.key_id, ERASURE, header.epoch, header.seq, lost=readings)

    def _window(self, index: int) -> tuple[int, int] | None:
        """The sensor times between which a gap's readings lie, from its batch info, where that is here and says so."""
        payload = self._storage.payload(index)
        try:
            leaf = parse_payload(payload)[0] if payload else None
            return BatchInfo.decode(leaf.body).window_ns if isinstance(leaf, Leaf) else None
        except LedgerError:
            return None  # not what was admitted; the audit names it

    def _write(self, end: int, activities: dict[bytes, Activity], noted: list[Noted]) -> None:
        published = self._storage.published()
        size = published.size if published else 0
        rows = [
            (item.key_id, item.epoch, item.seq, item.index, item.batches, item.readings, self._heard_ns(item, size))
            for item in activities.values()
        ]
        notices = [
            (item.index, item.key_id, item.kind, item.epoch, item.seq, item.reason, item.lost, item.from_ns, item.to_ns)
            for item in noted
        ]
        with self._registry.transaction() as database:
            database.executemany(
                "INSERT INTO activity VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key_id) DO UPDATE SET"
                " epoch = excluded.epoch, seq = excluded.seq, log_index = excluded.log_index,"
                " batches = batches + excluded.batches, readings = readings + excluded.readings,"
                " heard_ns = excluded.heard_ns",
                rows,
            )
            database.executemany("INSERT OR REPLACE INTO notices VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", notices)
            database.execute("DELETE FROM walked")
            database.execute("INSERT INTO walked VALUES (?)", (end,))

    def _heard_ns(self, item: Activity, published: int) -> int:
        """When the last batch came: at the latest when it was published, and just now if that is still to be."""
        covering = self._storage.first_covering(item.index) if item.index < published else None
        return covering.recorded_at_ns if covering else time.time_ns()


def activity(registry: Registry) -> dict[bytes, Activity]:
    """What each key's chain has on the log, by key."""
    with registry.reading() as database:
        rows = database.execute("SELECT * FROM activity").fetchall()
    return {row[0]: Activity(*row) for row in rows}


def notices(registry: Registry) -> list[Noted]:
    """Every notice, in log order."""
    with registry.reading() as database:
        rows = database.execute("SELECT * FROM notices ORDER BY log_index").fetchall()
    return [Noted(*row) for row in rows]


def faults(registry: Registry) -> dict[str, dict[str, tuple[int, int]]]:
    """By device and fault: how often, and when last."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    with registry.reading() as database:
        for device, what, count, last_ns in database.execute("SELECT * FROM faults ORDER BY device, what"):
            found.setdefault(device, {})[what] = (count, last_ns)
    return found


def describe(item: Noted) -> str:
    """A notice in plain words, with where it is."""
    where = f"epoch {item.epoch} seq {item.seq}, entry {item.index}"
    if item.kind == EQUIVOCATION:
        return f"two headers signed for one place: a cloned key, or an outbox restored from an old copy ({where})"
    if item.kind == NoticeKind.OUTBOX_LOST:
        return f"a new epoch: it lost its outbox, and what was not logged by then ({where})"
    if item.kind == ERASURE:
        return f"{item.lost} readings were erased ({where})"
    lost = "an unknown number of readings" if item.lost is None else f"{item.lost} readings"
    reason = GAP_REASONS.get(item.reason or 0, f"reason {item.reason}")
    window = ""
    if item.from_ns is not None and item.to_ns is not None:
        window = f" between {format_time(item.from_ns)} and {format_time(item.to_ns)}"
    return f"{lost} lost{window}, {reason} ({where})"


def _grown(before: Activity | None, index: int, header: Header) -> Activity:
    batches, readings = (before.batches, before.readings) if before else (0, 0)
    return Activity(header.key_id, header.epoch, header.seq, index, batches + 1, readings + header.count, 0)


def _column(notice: Notice) -> int | None:
    """A number of lost readings as a column holds it; nobody loses more."""
    return None if notice.lost is None else min(notice.lost, 2**63 - 1)
