"""What the projection, the audit and the exports ask of a time-series store, and what a store gives back.

A reading's `ref` is log_index x 4096 + leaf_index: its place in the log and in its batch, unique for ever. With the
batch record of its log_index a stored reading is a complete proof (`prove`), with nothing else at hand.

A store is a view: trusted for nothing, made again from the log and the payloads whenever somebody wants. So it gives
back what it holds as it is (`rows`, `batch`), whoever wrote it; what is true is the audit's question.

    StoreAwayError    it cannot be reached or cannot write just now; trying again is right
    UserError         it is there and will not do, whatever is tried: gone, forbidden, one that would drop readings
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ledger import merkle
from ledger.batch import LEAVES_PER_BATCH
from ledger.checkpoint import parse_checkpoint
from ledger.kinds import kind_name
from ledger.note import parse_note
from ledger.proof import LeafProof, ReadingProof
from ledger.reading import Reading, Scalar


class StoreAwayError(Exception):
    """The store cannot do it just now: not reached, too slow, 429, 5xx, disk full.

    `after_s`: how long it asks to be left alone, None if it does not say.
    """

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


@dataclass(frozen=True, slots=True)
class StoredReading:
    """One reading as stored: the exact bytes that were hashed, and their salt."""

    ref: int
    device: str
    body: bytes
    salt: bytes

    @property
    def log_index(self) -> int:
        """The entry that commits to this reading."""
        return self.ref // LEAVES_PER_BATCH

    @property
    def leaf_index(self) -> int:
        """The reading's leaf in its batch."""
        return self.ref % LEAVES_PER_BATCH


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """One batch's proof material: everything between a leaf hash and the checkpoint.

    `span_ns` are the least and the greatest sensor time of its readings, None without any: where a store has to look
    for them. It proves nothing. Read from a store, `checkpoint_at` is the size under which that holds the checkpoint,
    and `checkpoint` is empty if there is none.
    """

    log_index: int
    device: str
    algorithm: int
    public_key: bytes
    header: bytes
    signature: bytes
    leaf_hashes: tuple[bytes, ...]
    inclusion: tuple[bytes, ...]
    checkpoint: bytes
    span_ns: tuple[int, int] | None
    checkpoint_at: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Row:
    """A reading's row as the store shows it now, whatever was done to it.

    Attributes:
        where: how a person finds it with the store's own tools.
        device, source, kind: as text; the source in hex, the kind's name (`kind_name`).
        time_ns: sensor time.
        copy: tells apart rows of one series whose times collide, from 0; always 0 where the store's key is the ref.
        quality, value: what charts show, derived from the body; None where there is none.
        ref, body, salt: what is proven; None where it cannot be read any more.
        more: names what it has that no row of ours has; nothing in one that nobody touched.
    """

    where: str
    device: str
    source: str
    kind: str
    time_ns: int
    copy: int
    quality: int | None
    value: float | None
    ref: int | None
    body: bytes | None
    salt: bytes | None
    more: str = ""


class Sample(NamedTuple):
    """One drawn frame of a waveform, in a store that keeps them: `values` by channel, in the kind's unit."""

    where: str
    device: str
    source: str
    kind: str
    time_ns: int
    copy: int
    ref: int | None
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which readings: every condition that is given holds. Times are sensor times, [from_ns, to_ns)."""

    device: str | None = None
    source: bytes | None = None
    kind: int | None = None
    from_ns: int | None = None
    to_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Bucket:
    """What a chart draws for one stretch of time: its start, and the values in it."""

    start_ns: int
    count: int
    least: float
    mean: float
    greatest: float


@dataclass(frozen=True, slots=True)
class Refused:
    """A point that the store will not have: which reading (None: a batch record of `log_index`), and why."""

    log_index: int
    ref: int | None
    why: str


class ReadingStore(Protocol):
    """A time-series store; writing the same batch again changes nothing.

    Any call raises StoreAwayError or UserError.
    """

    @property
    def title(self) -> str:
        """What and where it is, for people; no secret in it."""
        ...

    @property
    def keeps_samples(self) -> bool:
        """Whether waveforms are drawn out as `samples` besides."""
        ...

    def cursor(self) -> int:
        """How many log entries are in the store, in order from 0."""
        ...

    def write(
        self, batches: Sequence[StoredBatch], readings: Sequence[StoredReading], cursor: int | None
    ) -> tuple[Refused, ...]:
        """Stores all of it durably, then moves the cursor, unless None; returns what the store would not have.

        `readings` are those of `batches`, in order of their refs.
        """
        ...

    def erase(self, log_index: int, leaves: Sequence[int]) -> None:
        """The readings at these leaves of an entry are not in the store any more; that they were not there is fine."""
        ...

    def clear(self) -> None:
        """The store is there and holds nothing of ours; the cursor is 0."""
        ...

    def readings(self) -> Iterator[StoredReading]:
        """Every reading whose row can be read, by `ref`."""
        ...

    def select(self, selection: Selection) -> Iterator[StoredReading]:
        """The readings of `selection` by what their rows say, by series and time."""
        ...

    def chart(self, selection: Selection, width_ns: int) -> list[Bucket]:
        """The numbers of one series (device, source, kind and both times are given), by stretches of `width_ns`.

        Stretches begin at `from_ns`; one without a number is left out.
        """
        ...

    def rows(self, selection: Selection | None = None) -> Iterator[Row]:
        """The rows of readings as they are, in any order; all of them, or those whose columns are of `selection`."""
        ...

    def samples(self) -> Iterator[Sample]:
        """Every drawn frame, by series and time; nothing where `keeps_samples` is False."""
        ...

    def batch(self, log_index: int) -> StoredBatch | None:
        """The batch record of a log entry; raises MalformedError if there is one that cannot be read any more."""
        ...

    def batch_indexes(self) -> Iterator[int]:
        """The log index of every batch record that there is, readable or not, in order."""
        ...

    def checkpoints(self) -> Iterator[tuple[int, bytes]]:
        """Every checkpoint record, by the size under which it stands: that, and its note, empty if unreadable."""
        ...


class Provable:
    """A batch record that is ready to prove its readings: the tree and the checkpoint are made once for all of them."""

    def __init__(self, batch: StoredBatch) -> None:
        """Raises MalformedError: its checkpoint is no note."""
        self.batch = batch
        self._levels = merkle.tree_levels(batch.leaf_hashes)
        self._checkpoint = parse_note(batch.checkpoint, "checkpoint")

    def prove(self, reading: StoredReading) -> ReadingProof:
        """The proof of `reading` from what the store holds; whether it holds is the verifier's question."""
        batch = self.batch
        leaf = LeafProof(
            batch.algorithm,
            batch.public_key,
            batch.header,
            batch.signature,
            reading.leaf_index,
            reading.salt,
            tuple(merkle.level_path(self._levels, reading.leaf_index)),
            reading.body,
        )
        return ReadingProof(leaf, batch.log_index, batch.inclusion, self._checkpoint)


def prove(reading: StoredReading, batch: StoredBatch) -> ReadingProof:
    """The proof of one `reading`, as `Provable` makes it for many."""
    return Provable(batch).prove(reading)


def checkpoint_size(note: bytes) -> int:
    """The size of the checkpoint in `note`, under which stores hold it; raises MalformedError."""
    return parse_checkpoint(parse_note(note, "checkpoint").text).size


def number(reading: Reading) -> float | None:
    """What a chart shows for `reading`: the number nearest to a scalar; nothing for the rest."""
    return float(str(reading.value)) if isinstance(reading.value, Scalar) else None


def row_of(stored: StoredReading, copy: int = 0, where: str = "", reading: Reading | None = None) -> Row:
    """The row that a store shows for `stored`, as long as nobody touched it; raises MalformedError.

    `reading`: its body, for whoever has decoded it already.
    """
    reading = reading or Reading.decode(stored.body)
    return Row(
        where,
        stored.device,
        reading.source.hex(),
        kind_name(reading.kind),
        reading.sensor_time_ns,
        copy,
        int(reading.quality),
        number(reading),
        stored.ref,
        stored.body,
        stored.salt,
    )
