"""Everything that is read from InfluxDB.

An answer is walked piece by piece as it comes, so a hundred million rows take no more memory than one piece of them.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import groupby

from aggregator.timeseries import influxql as ql
from aggregator.timeseries.answers import (
    Record,
    read_batch,
    read_buckets,
    read_note,
    read_rows,
    read_samples,
    read_stored,
)
from aggregator.timeseries.base import Bucket, Row, Sample, Selection, StoredBatch, StoredReading
from aggregator.timeseries.columns import Asked, Columns, columns_of

RECORDS_AHEAD = 64  # batch records: at most 16 MB

SEAL, NOTE = ql.field(ql.READING, "seal"), ql.field(ql.CHECKPOINT, "note")
LEAVES = [name for name in ql.FIELDS[ql.BATCH] if name.startswith("leaves")]


class InfluxReader:
    """The reading half of the store; `query` answers InfluxQL, or raises StoreAwayError or UserError."""

    keeps_samples = True

    def __init__(self, query: Asked) -> None:
        self._query = query
        self._forget()

    def cursor(self) -> int:
        """How many log entries are in the store; 0 if the cursor's point is not as it was written."""
        for found in self._query(ql.select(ql.field(ql.CURSOR, "entries"), ql.CURSOR, "time = 0")):
            for (entries,) in found.columned("entries"):
                if not any(found.tags.values()) and type(entries) is int and entries >= 0:
                    return entries
        return 0

    def readings(self) -> Iterator[StoredReading]:
        """Every reading whose row can be read, by `ref`.

        InfluxDB has them by series, so SQLite puts them in order: beyond its cache in a temporary file without a name,
        as large as the readings are (SQLITE_TMPDIR says where).
        """
        with closing(sqlite3.connect("")) as sorter:
            sorter.execute("CREATE TABLE readings (ref INTEGER, device TEXT, body BLOB, salt BLOB)")
            for found in self._query(ql.select(SEAL, ql.READING, group="device")):
                stored = ((item.ref, item.device, item.body, item.salt) for _, item in read_stored(found))
                sorter.executemany("INSERT INTO readings VALUES (?, ?, ?, ?)", stored)
            for row in sorter.execute("SELECT * FROM readings ORDER BY ref"):
                yield StoredReading(*row)

    def select(self, selection: Selection) -> Iterator[StoredReading]:
        """The readings of `selection`, by series and time; of one time, by `ref`."""
        statement = ql.select(SEAL, ql.READING, ql.selected(selection), group="device, source, kind")
        placed = (
            ((tuple(found.tags.values()), time_ns), stored)
            for found in self._query(statement)
            for time_ns, stored in read_stored(found)
        )
        for _, together in groupby(placed, key=lambda item: item[0]):
            yield from sorted((stored for _, stored in together), key=lambda stored: stored.ref)

    def chart(self, selection: Selection, width_ns: int) -> list[Bucket]:
        """The numbers of one series, by stretches of `width_ns`; the server counts."""
        offset_ns = (selection.from_ns or 0) % width_ns
        value = ql.field(ql.READING, "value")
        statement = ql.select(
            f"count({value}), min({value}), mean({value}), max({value})",
            ql.READING,
            ql.selected(selection),
            group=f"time({width_ns}ns, {offset_ns}ns) fill(none)",
        )
        return [bucket for found in self._query(statement) for bucket in read_buckets(found)]

    def rows(self, selection: Selection | None = None) -> Iterator[Row]:
        """The rows as they are, by series and time."""
        where = "" if selection is None else ql.selected(selection)
        columns = columns_of(self._query, ql.READING)
        for found in self._query(ql.select(columns.selected(), ql.READING, where)):
            yield from read_rows(columns.settled(found))

    def samples(self) -> Iterator[Sample]:
        """Every drawn frame, by series, of which each copy is one, and time."""
        columns = columns_of(self._query, ql.WAVEFORM)
        for found in self._query(ql.select(columns.selected(), ql.WAVEFORM)):
            yield from read_samples(columns.settled(found))

    def batch(self, log_index: int) -> StoredBatch | None:
        """The batch record of a log entry, with its checkpoint; raises MalformedError."""
        if not 0 <= log_index <= ql.MAX_TIME:
            return None
        batch = read_batch(log_index, self._records(log_index))
        if batch is None or batch.checkpoint_at is None:
            return None
        return replace(batch, checkpoint=self._note(batch.checkpoint_at))

    def batch_indexes(self) -> Iterator[int]:
        """The log index of every batch record, of which anything but the leaf hashes is left."""
        # Without the leaf hashes, which are a hundred times the rest.
        fields = columns_of(self._query, ql.BATCH).selected(LEAVES)
        last = None
        for found in self._query(ql.select(fields, ql.BATCH, group="")):
            for index, *_ in found.values:
                if index != last:
                    yield index
                last = index

    def checkpoints(self) -> Iterator[tuple[int, bytes]]:
        """Every checkpoint record, by size."""
        columns = columns_of(self._query, ql.CHECKPOINT)
        for found in self._query(ql.select(columns.selected(), ql.CHECKPOINT, group="")):
            for row in columns.settled(found).dicts():
                yield row["time"], read_note(row)

    def _forget(self) -> None:
        """What was read ahead may have been written since."""
        self._checkpoint: tuple[int, bytes] | None = None  # that was read last: neighbours share one
        self._ahead: tuple[range, dict[int, list[Record]]] = range(0), {}
        self._columns: Columns | None = None  # of what was read ahead

    def _records(self, log_index: int) -> list[Record]:
        """The batch records at `log_index`; who asks for one after the other is read ahead for.

        To find one, the server unpacks the leaf hashes of up to a thousand around it.
        """
        # What was not there is asked for again: another process may have written it meanwhile.
        if log_index not in self._ahead[1]:
            last = self._ahead[0]
            follows = last.start < log_index < last.stop + RECORDS_AHEAD
            wanted = range(log_index, log_index + (RECORDS_AHEAD if follows else 1))
            if self._columns is None or not follows:
                self._columns = columns_of(self._query, ql.BATCH)
            columns = self._columns
            found: dict[int, list[Record]] = {}
            for piece in self._query(ql.select(columns.selected(), ql.BATCH, ql.between(wanted[0], wanted[-1]))):
                for row in columns.settled(piece).dicts():
                    found.setdefault(row["time"], []).append((piece.tags, row))
            self._ahead = wanted, found
        return self._ahead[1].get(log_index, [])

    def _note(self, size: int) -> bytes:
        if self._checkpoint is None or self._checkpoint[0] != size:
            found = self._query(ql.select(NOTE, ql.CHECKPOINT, f"time = {size}", group=""))
            notes = [read_note(row) for piece in found for row in piece.dicts()]
            self._checkpoint = size, (notes[0] if len(notes) == 1 else b"")
        return self._checkpoint[1]
