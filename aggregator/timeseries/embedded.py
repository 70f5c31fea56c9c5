"""The embedded reading store: one SQLite file, `readings.db`.

Columns beside `body` and `salt` are derived from the body, for queries and charts; `body` is what is proven.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from aggregator.timeseries.base import StoredBatch, StoredReading
from ledger.merkle import join_path, split_path
from ledger.reading import Reading, Scalar
from ledger.writer.files import make_private
from vitalseal.errors import UserError

DATABASE = "readings.db"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS readings (
    ref INTEGER PRIMARY KEY, device TEXT NOT NULL, source BLOB NOT NULL, kind INTEGER NOT NULL,
    sensor_time_ns INTEGER NOT NULL, ordinal INTEGER NOT NULL, quality INTEGER NOT NULL, value REAL,
    body BLOB NOT NULL, salt BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS series ON readings (device, source, kind, sensor_time_ns);
CREATE TABLE IF NOT EXISTS batches (
    log_index INTEGER PRIMARY KEY, device TEXT NOT NULL, algorithm INTEGER NOT NULL, public_key BLOB NOT NULL,
    header BLOB NOT NULL, signature BLOB NOT NULL, leaf_hashes BLOB NOT NULL, inclusion BLOB NOT NULL,
    checkpoint INTEGER NOT NULL REFERENCES checkpoints
) STRICT;
CREATE TABLE IF NOT EXISTS checkpoints (id INTEGER PRIMARY KEY, note BLOB NOT NULL UNIQUE) STRICT;
CREATE TABLE IF NOT EXISTS projection (id INTEGER PRIMARY KEY CHECK (id = 0), cursor INTEGER NOT NULL) STRICT;
INSERT OR IGNORE INTO projection VALUES (0, 0);
"""


class EmbeddedStore:
    """`ReadingStore` on SQLite; use as a context manager. `readonly` opens it beside a running projection."""

    def __init__(self, data: Path, *, readonly: bool = False) -> None:
        self._path = data / DATABASE
        mode = "ro" if readonly else "rw"
        if not readonly:
            make_private(self._path)
        try:
            self._db = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None)
        except sqlite3.Error as error:
            raise UserError(f"{self._path}: {error}") from None
        try:
            if not readonly:
                self._db.execute("PRAGMA journal_mode = WAL")
                # A view may lose its last second at a power cut: the cursor is lost with it, and it is made again.
                self._db.execute("PRAGMA synchronous = NORMAL")
                self._db.executescript(_SCHEMA)
            self.cursor()
        except sqlite3.Error as error:
            self._db.close()
            raise UserError(f"{self._path}: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def cursor(self) -> int:
        """How many log entries are in the store."""
        return int(self._db.execute("SELECT cursor FROM projection").fetchone()[0])

    def write(self, batches: Sequence[StoredBatch], readings: Sequence[StoredReading], cursor: int) -> None:
        """One transaction: batches, readings, cursor."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            notes = {note: self._note_id(note) for note in {batch.checkpoint for batch in batches}}
            self._db.executemany(
                "INSERT OR REPLACE INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        batch.log_index,
                        batch.device,
                        batch.algorithm,
                        batch.public_key,
                        batch.header,
                        batch.signature,
                        join_path(batch.leaf_hashes),
                        join_path(batch.inclusion),
                        notes[batch.checkpoint],
                    )
                    for batch in batches
                ],
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO readings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", map(_row, readings)
            )
            self._db.execute("UPDATE projection SET cursor = ?", (cursor,))

    def readings(self) -> Iterator[StoredReading]:
        """Every reading, by `ref`."""
        rows = self._db.execute("SELECT ref, device, body, salt FROM readings ORDER BY ref")
        return (StoredReading(*row) for row in rows)

    def reading(self, ref: int) -> StoredReading | None:
        """The reading at `ref`."""
        row = self._db.execute("SELECT ref, device, body, salt FROM readings WHERE ref = ?", (ref,)).fetchone()
        return StoredReading(*row) if row else None

    def batch(self, log_index: int) -> StoredBatch | None:
        """The batch record of a log entry."""
        row = self._db.execute(
            "SELECT log_index, device, algorithm, public_key, header, signature, leaf_hashes, inclusion, note"
            " FROM batches JOIN checkpoints ON checkpoint = id WHERE log_index = ?",
            (log_index,),
        ).fetchone()
        if row is None:
            return None
        index, device, algorithm, public_key, header, signature, hashes, inclusion, note = row
        leaves = tuple(hashes[at : at + 32] for at in range(0, len(hashes), 32))
        path = tuple(split_path(inclusion, "inclusion"))
        return StoredBatch(index, device, algorithm, public_key, header, signature, leaves, path, note)

    def _note_id(self, note: bytes) -> int:
        self._db.execute("INSERT OR IGNORE INTO checkpoints (note) VALUES (?)", (note,))
        return int(self._db.execute("SELECT id FROM checkpoints WHERE note = ?", (note,)).fetchone()[0])


def _row(stored: StoredReading) -> tuple[object, ...]:
    reading = Reading.decode(stored.body)
    value = float(str(reading.value)) if isinstance(reading.value, Scalar) else None
    return (
        stored.ref,
        stored.device,
        reading.source,
        reading.kind,
        reading.sensor_time_ns,
        reading.ordinal,
        reading.quality,
        value,
        stored.body,
        stored.salt,
    )
