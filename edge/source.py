"""Sources: where readings come from. One small protocol, found by name through entry points.

A package adds a source type by an entry point in the group `vitalseal.sources`; `edge.toml` then names it:

    [[sources]]
    name = "left-wrist"
    type = "lines"
    id = "6f1d..."
    options = { path = "wrist.ndjson" }

The agent makes one object per table, calls `readings(cursor)` once and takes chunks until the iterator ends (the
source is finished: a recording at its end) or raises (logged, and called again later from the last cursor).

Exactly once into the outbox: the readings of a chunk, its cursor and its `refused` count are committed in one
transaction. After a crash the source gets the cursor of the last *committed* chunk, so what was yielded behind it
must be yielded again, and nothing before it. A source that cannot replay (a radio) leaves the cursor None; what
it yields in the last moment before a crash is lost, as it would be without us.

Back-pressure: while the outbox is behind, the agent simply does not ask for the next chunk.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ledger import canonical
from ledger.errors import MalformedError
from ledger.info import MAX_DESCRIPTION
from ledger.reading import Reading, ReadingValue
from vitalseal import config as configuration
from vitalseal.errors import UserError

GROUP = "vitalseal.sources"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Measured:
    """One reading as the sensor stated it: a `ledger.reading.Reading` less what only the gateway knows.

    Attributes:
        kind: code from `ledger.kinds`.
        sensor_time_ns: as the sensor reported it, ns since 1970-01-01T00:00Z; never rewritten.
        value: a scalar, a waveform, or an absence with its reason.
        ordinal: tells apart readings of one kind with one sensor time. (source, kind, sensor time, ordinal) is the
            reading's identity: two readings with one identity are kept and flagged as two statements of one fact.
        zone_offset_min: minutes east of UTC at the wearer, or None when unknown.
        quality: `ledger.reading.Quality` bits; synthetic signals carry DEMO_DATA.
    """

    kind: int
    sensor_time_ns: int
    value: ReadingValue
    ordinal: int = 0
    zone_offset_min: int | None = None
    quality: int = 0

    def received(self, source_id: bytes, now_ns: int) -> Reading:
        """The reading, now that the gateway has it: source id and receipt time (wall clock, ns) added."""
        offset = now_ns - self.sensor_time_ns
        return Reading(
            source_id,
            self.kind,
            self.sensor_time_ns,
            self.ordinal,
            self.zone_offset_min,
            offset,
            self.value,
            self.quality,
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a source hands over at one time, committed all or nothing.

    Attributes:
        readings: in the order of arrival; may be empty. At most a few hundred: a chunk is held in memory whole.
        cursor: where the source goes on after this chunk, opaque to the agent; None leaves the last one in place.
        refused: pieces of input that this chunk passes over because they made no reading; counted, shown in status.
        lost: readings before this chunk that the source had to let go, because it was not asked for longer than it can
            remember; the device's chain will say so.
    """

    readings: tuple[Measured, ...] = ()
    cursor: bytes | None = None
    refused: int = 0
    lost: int = 0


class Source(Protocol):
    """A physical sensor, or something that stands for one.

    The class is called with keywords only, exactly these:

        cls(name=str, source_id=bytes, options=Mapping[str, Any], directory=Path)

    `options` is the free table of `edge.toml`; check it with `read_options`, which makes unknown keys an error and
    `Path` fields relative to `directory` (that of the configuration file). The constructor raises `UserError` for
    a mistake in the options; it opens nothing that must be closed. It runs in the agent's thread, before the loop
    serves anything: keep it short.

    Attributes:
        name: as in `edge.toml`; the cursor is kept under this name.
        source_id: 8 to 16 random bytes, made by `edge init`; goes into every reading.
        description: make and model for the batch-info leaf, printable ASCII, at most 64 bytes; never a person.

    A source may have two more. `replays`, when true, says that without a cursor it begins again with all that it has
    given, so an agent that was killed before the first commit has lost nothing. `trouble` says why it gives nothing
    (its file is missing, its sensor out of reach), in words without any reading, "" while all is well; `edge status`
    shows it.
    """

    name: str
    source_id: bytes
    description: str

    def __init__(self, *, name: str, source_id: bytes, options: Mapping[str, Any], directory: Path) -> None:
        """See the class."""
        ...

    def readings(self, cursor: bytes | None) -> AsyncIterator[Chunk]:
        """Chunks from just behind `cursor` (None: from the beginning), for as long as there are any.

        Written as `async def` with `yield`. It awaits rather than blocks; cancelling it stops the source. When it
        ends, the source is finished and is not asked again in this run.
        """
        ...


def make_source(kind: str, *, name: str, source_id: bytes, options: Mapping[str, Any], directory: Path) -> Source:
    """A source of the type that an entry point calls `kind`; raises UserError."""
    known = {point.name: point for point in entry_points(group=GROUP)}
    if kind not in known:
        raise UserError(
            f"source {name!r}: there is no source type {kind!r}; known are {', '.join(sorted(known)) or 'none'}"
        )
    try:
        cls = known[kind].load()
    except (ImportError, AttributeError) as error:
        raise UserError(f"source {name!r}: type {kind!r} does not load: {error}") from None
    source: Source = cls(name=name, source_id=source_id, options=options, directory=directory)
    check_description(source.description, f"source {name!r}: description")
    return source


def check_description(description: str, what: str) -> None:
    """A batch info can hold `description`; raises UserError that begins with `what`."""
    try:
        canonical.text(description, what, MAX_DESCRIPTION)
    except MalformedError as error:
        raise UserError(str(error)) from None


def read_options(options: Mapping[str, Any], cls: type[T], *, name: str, directory: Path) -> T:
    """`options` as the frozen dataclass `cls`; raises UserError that names the source and the key."""
    return configuration.from_table(cls, dict(options), f"source {name!r}: options: ", directory)
