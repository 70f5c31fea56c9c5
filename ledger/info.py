"""Batch info, leaf 0 of every batch: when, by what clock and by which sensors it was sealed (FORMAT.md section 5.3)."""

from dataclasses import dataclass
from enum import IntEnum

from ledger import canonical
from ledger.canonical import Value
from ledger.errors import MalformedError
from ledger.reading import MAX_INT64, MAX_SOURCE, MIN_INT64

MAX_SOURCES = 128  # of one gateway's batch; with descriptions, they fit the body of a proof
MAX_DESCRIPTION = 64
MAX_UINT64 = 2**64 - 1


class Clock(IntEnum):
    """What the gateway knew of its own clock when it sealed."""

    UNKNOWN = 0
    SYNCHRONISED = 1
    UNSYNCHRONISED = 2


@dataclass(frozen=True, slots=True)
class Source:
    """A physical sensor as the gateway knows it; `description` is make and model, never a person."""

    source: bytes
    description: str


@dataclass(frozen=True, slots=True)
class BatchInfo:
    """Leaf 0: when and by what clock the batch was sealed, and by which sensors. Salted like every reading.

    Attributes:
        boot_id: random per start of the gateway's clock; monotonic times compare only within one.
        sealed_at_ns: gateway wall clock.
        monotonic_ns: gateway monotonic clock at the same moment.
        clock: whether the wall clock was synchronised; `clock_error_ns` its estimated error, or None.
        first_ns, last_ns: least and greatest sensor time in the batch, None without readings.
        sources: sorted by id, each that has a reading in the batch.
        window_ns: for a gap, the sensor times between which readings are missing, if known.
    """

    boot_id: bytes
    sealed_at_ns: int
    monotonic_ns: int
    clock: int
    clock_error_ns: int | None
    first_ns: int | None
    last_ns: int | None
    sources: tuple[Source, ...]
    window_ns: tuple[int, int] | None = None

    def encode(self) -> bytes:
        """The canonical bytes of leaf 0; raises MalformedError."""
        fields: Value = (
            self.boot_id,
            self.sealed_at_ns,
            self.monotonic_ns,
            int(self.clock),
            self.clock_error_ns,
            self.first_ns,
            self.last_ns,
            tuple((source.source, source.description) for source in self.sources),
            self.window_ns,
        )
        parse_info(fields)
        return canonical.encode(fields)

    @classmethod
    def decode(cls, data: bytes) -> "BatchInfo":
        """The batch info that `data` encodes; raises MalformedError."""
        return parse_info(canonical.decode(data, "batch info"))


def parse_info(value: Value) -> BatchInfo:
    """Decoded canonical fields as a batch info; raises MalformedError."""
    boot, sealed, monotonic, clock, error, first, last, sources, window = canonical.fields(value, 9, "batch info")
    if type(sources) is not tuple or len(sources) > MAX_SOURCES:
        raise MalformedError(f"batch info: sources are not an array of at most {MAX_SOURCES}")
    described = tuple(_source(item) for item in sources)
    ids = [item.source for item in described]
    if ids != sorted(set(ids)):
        raise MalformedError("batch info: sources are not sorted and distinct")
    times = (_time(first, "first time"), _time(last, "last time"))
    if (times[0] is None) != (times[1] is None):
        raise MalformedError("batch info: one of first and last time is nil")
    if times[0] is not None and times[1] is not None and times[0] > times[1]:
        raise MalformedError("batch info: the first time is after the last")
    if (times[0] is None) != (not described):
        raise MalformedError("batch info: times without sources, or sources without times")
    if window is not None:
        low, high = canonical.fields(window, 2, "batch info window")
        window = (
            canonical.integer(low, "batch info: window start", MIN_INT64, MAX_INT64),
            canonical.integer(high, "batch info: window end", MIN_INT64, MAX_INT64),
        )
        if window[0] > window[1]:
            raise MalformedError("batch info: the window's start is after its end")
    return BatchInfo(
        canonical.binary(boot, "batch info: boot id", 16),
        canonical.integer(sealed, "batch info: sealed at", MIN_INT64, MAX_INT64),
        canonical.uint(monotonic, "batch info: monotonic time", MAX_UINT64),
        canonical.uint(clock, "batch info: clock state", 2),
        None if error is None else canonical.uint(error, "batch info: clock error", MAX_UINT64),
        *times,
        described,
        window,
    )


def _source(item: Value) -> Source:
    source, description = canonical.fields(item, 2, "batch info source")
    return Source(
        canonical.binary(source, "batch info: source id", 1, MAX_SOURCE),
        canonical.text(description, "batch info: source description", MAX_DESCRIPTION),
    )


def _time(value: Value, what: str) -> int | None:
    return None if value is None else canonical.integer(value, f"batch info: {what}", MIN_INT64, MAX_INT64)
