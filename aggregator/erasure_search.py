"""Finding what is to be erased: in the payloads themselves, since a database could hide some of it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from aggregator.admission import Key
from aggregator.erasures import Target
from aggregator.export.selection import fits
from aggregator.timeseries.base import Selection
from ledger.batch import Header
from ledger.entry import BatchEntry, parse_entry
from ledger.errors import MalformedError
from ledger.kinds import kind_name
from ledger.leaves import Leaf
from ledger.reading import Reading
from ledger.writer.payload import parse_payload
from ledger.writer.reader import LocalReader
from ledger.writer.storage import Place

# How many entries were looked at, and how many there are.
Progress = Callable[[int, int], None]
UNNAMED = "(unnamed key)"
_SHOW_EVERY = 1024  # entries


@dataclass(slots=True)
class Found:
    """What is to be erased, by batch; and, for people, how many readings of which device, source and kind, from when.

    `damaged` are batches whose payload is not what was admitted, so that nobody can say what is in it; `missing` those
    whose payload is not here at all.
    """

    targets: list[Target] = field(default_factory=list)
    counts: Counter[tuple[str, bytes, int]] = field(default_factory=Counter)
    first_ns: int | None = None
    last_ns: int | None = None
    damaged: list[int] = field(default_factory=list)
    missing: int = 0

    @property
    def readings(self) -> int:
        """How many."""
        return self.counts.total()

    def lines(self) -> Iterator[str]:
        """A line for each device, source and kind."""
        for (device, source, kind), count in sorted(self.counts.items()):
            yield f"{device}  source {source.hex()}  {kind_name(kind)}: {count} readings"


def search(log: LocalReader, keys: Mapping[bytes, Key], selections: Sequence[Selection], progress: Progress) -> Found:
    """Every reading in the payloads of `log` that one of `selections` is about, of keys held as `keys` says."""
    found = Found(missing=log.missing_payload_count())
    size = log.size()
    wanted = {selection.source for selection in selections}
    for index, data in enumerate(log.entries(0, size)):
        if index % _SHOW_EVERY == 0:
            progress(index, size)
        entry = parse_entry(data)
        payload = log.payload(index) if isinstance(entry, BatchEntry) else None
        if payload is None or not isinstance(entry, BatchEntry) or not _may_hold(payload, wanted):
            continue
        header = Header.decode(entry.header)
        key = keys.get(header.key_id)
        device = key.device if key else UNNAMED
        if not any(selection.device in (None, device) for selection in selections):
            continue
        try:
            readings = dict(_readings(payload))
        except MalformedError:
            found.damaged.append(index)
            continue
        chosen = {
            leaf: reading for leaf, reading in readings.items() if any(fits(one, device, reading) for one in selections)
        }
        if chosen:
            place = Place(header.key_id, header.epoch, header.seq)
            sources = frozenset(reading.source for reading in chosen.values())
            found.targets.append(Target(place, index, tuple(chosen), sources))
            _count(found, device, chosen.values())
    progress(size, size)
    return found


def _may_hold(payload: bytes, sources: Iterable[bytes | None]) -> bool:
    """Whether one of `sources`, None for any, may be in it: most batches are of others, and are not taken apart."""
    return any(source is None or source in payload for source in sources)


def _readings(payload: bytes) -> Iterator[tuple[int, Reading]]:
    """The readings that are there, by their leaf; raises MalformedError."""
    for number, leaf in enumerate(parse_payload(payload)):
        if number and isinstance(leaf, Leaf):
            yield number, Reading.decode(leaf.body)


def _count(found: Found, device: str, readings: Iterable[Reading]) -> None:
    for reading in readings:
        found.counts[device, reading.source, reading.kind] += 1
        at_ns = reading.sensor_time_ns
        found.first_ns = at_ns if found.first_ns is None else min(found.first_ns, at_ns)
        found.last_ns = at_ns if found.last_ns is None else max(found.last_ns, at_ns)
