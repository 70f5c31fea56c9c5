"""Readings deleted from InfluxDB, row by row, with the frames that are drawn for them.

InfluxQL deletes by tags and time only, so the rows are looked for first: where the batch record says that its device's
readings lie, then among all that the device has; without a record among everything. A row that somebody moved to
another device is not found; the audit names it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from aggregator.timeseries import influxql as ql
from aggregator.timeseries.answers import open_seal
from aggregator.timeseries.base import StoredBatch
from aggregator.timeseries.lines import last_frame_ns, span_line
from aggregator.timeseries.neighbours import REF, SEAL, Query
from aggregator.timeseries.parsing import Found
from ledger.batch import LEAVES_PER_BATCH
from ledger.errors import MalformedError
from ledger.reading import Reading, Waveform

STATEMENTS = 50  # deletions in one request


@dataclass(frozen=True, slots=True)
class _Place:
    """A reading's row, or one waveform's frames in one series: what a DELETE names."""

    measurement: str
    tags: tuple[tuple[str, str], ...]
    first_ns: int
    last_ns: int

    def delete(self) -> str:
        return ql.delete(self.measurement, *([ql.tagged(dict(self.tags))] if self.tags else []), self._times())

    def _times(self) -> str:
        return ql.between(self.first_ns, self.last_ns)


class Erasure:
    """One entry's readings at `leaves`, to be gone; `record` is the entry's batch record, if it can be read."""

    def __init__(self, query: Query, log_index: int, leaves: Sequence[int], record: StoredBatch | None) -> None:
        self._query = query
        self._log_index = log_index
        self._wanted = {log_index * LEAVES_PER_BATCH + leaf for leaf in leaves}
        self._record = record
        self._device = "" if record is None else ql.tagged({"device": record.device})
        self._span_ns = None if record is None else record.span_ns
        self._drawn_to_ns = 0  # where the wanted rows' frames end, by their bodies

    def run(self, write: Callable[[bytes], None]) -> int:
        """Deletes them and narrows the record's span; returns how many rows are there all the same."""
        rows = self._rows()
        if self._span_ns and not self._wanted <= {ref for ref, _ in rows}:
            self._span_ns = None
            rows = self._rows()
        # Frames first: as long as a row is there, it says how far its frames reach, whoever is killed meanwhile.
        gone = self._frames() + [place for ref, place in rows if ref in self._wanted]
        for at in range(0, len(gone), STATEMENTS):
            for _ in self._query(ql.together([place.delete() for place in gone[at : at + STATEMENTS]])):
                pass
        left = (self._rows() if gone else rows), (self._frames() if gone else [])
        # Also if nothing had to be deleted: whoever did it before may have been killed before this.
        self._narrow([place for ref, place in left[0] if ref not in self._wanted], write)
        return len([ref for ref, _ in left[0] if ref in self._wanted]) + len(left[1])

    def _rows(self) -> list[tuple[int, _Place]]:
        """Every row of the entry, wherever it is looked for now."""
        times = "" if self._span_ns is None else ql.between(*self._span_ns)
        found = []
        statement = ql.select(SEAL, ql.READING, self._device, times, ql.sealed_by(self._log_index))
        for tags, time_ns, seal in _points("seal", self._query(statement)):
            opened = open_seal(seal)
            if opened and opened[0] // LEAVES_PER_BATCH == self._log_index:
                if opened[0] in self._wanted:
                    self._drawn_to_ns = max(self._drawn_to_ns, _end_ns(opened[2]))
                found.append((opened[0], _Place(ql.READING, tags, time_ns, time_ns)))
        return found

    def _frames(self) -> list[_Place]:
        """What is drawn for the wanted, a stretch for each waveform and series."""
        span_ns = self._span_ns
        times = "" if span_ns is None else ql.between(span_ns[0], max(span_ns[1], self._drawn_to_ns))
        statement = ql.select(REF, ql.WAVEFORM, self._device, times, ql.referred(self._log_index))
        ends: dict[tuple[int, tuple[tuple[str, str], ...]], tuple[int, int]] = {}
        for tags, time_ns, ref in _points("ref", self._query(statement)):
            if ref in self._wanted:
                first_ns, last_ns = ends.get((ref, tags), (time_ns, time_ns))
                ends[ref, tags] = min(first_ns, time_ns), max(last_ns, time_ns)
        return [_Place(ql.WAVEFORM, tags, *times_ns) for (_, tags), times_ns in ends.items()]

    def _narrow(self, left: Sequence[_Place], write: Callable[[bytes], None]) -> None:
        """The record's span says no more than what is left: an erased reading's time is not in it."""
        if self._record is None or self._record.span_ns is None:
            return
        first_ns, last_ns = self._record.span_ns
        times = [place.first_ns for place in left if first_ns <= place.first_ns <= last_ns]
        span_ns = (min(times), max(times)) if times else None
        if span_ns != self._record.span_ns:
            write(span_line(self._record, span_ns))


def _end_ns(body: bytes) -> int:
    """Where what is drawn for a reading ends; whoever changed it has made it end anywhere."""
    try:
        reading = Reading.decode(body)
    except MalformedError:
        return ql.MAX_TIME
    waveform = reading.value
    return last_frame_ns(reading.sensor_time_ns, waveform) if isinstance(waveform, Waveform) else ql.MIN_TIME


def _points(field: str, found: Iterable[Found]) -> Iterator[tuple[tuple[tuple[str, str], ...], int, object]]:
    for piece in found:
        tags = tuple(piece.tags.items())
        for time_ns, value in piece.columned("time", field):
            yield tags, time_ns, value
