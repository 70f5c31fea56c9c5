"""The embedded reading store: one SQLite file, `readings.db`.

Columns beside `body` and `salt` are derived from the body, for queries and charts; `body` is what is proven. The key of
a row is its ref, so no two readings can overwrite each other.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import nan
from pathlib import Path
from typing import Any, Self

from aggregator.timeseries.base import (
    Bucket,
    Refused,
    Row,
    Sample,
    Selection,
    StoreAwayError,
    StoredBatch,
    StoredReading,
    checkpoint_size,
    number,
)
from ledger.batch import LEAVES_PER_BATCH
from ledger.errors import MalformedError
from ledger.kinds import kind_name
from ledger.merkle import join_path, split_path
from ledger.reading import MIN_INT64, Reading
from ledger.writer.files import make_private
from vitalseal.errors import UserError

DATABASE = "readings.db"
# A view of another version is not converted: it is made again from the log.
VERSION = 3

# Errors that pass without anybody touching the file; the primary code is the low byte.
_PASSING = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})

_TABLES = ("readings", "batches", "checkpoints", "projection")
_SCHEMA = """
CREATE TABLE readings (
    ref INTEGER PRIMARY KEY, device TEXT NOT NULL, source BLOB NOT NULL, kind INTEGER NOT NULL,
    sensor_time_ns INTEGER NOT NULL, quality INTEGER NOT NULL, value REAL, body BLOB NOT NULL, salt BLOB NOT NULL
) STRICT;
CREATE INDEX series ON readings (device, source, kind, sensor_time_ns);
CREATE TABLE batches (
    log_index INTEGER PRIMARY KEY, device TEXT NOT NULL, algorithm INTEGER NOT NULL, public_key BLOB NOT NULL,
    header BLOB NOT NULL, signature BLOB NOT NULL, leaf_hashes BLOB NOT NULL, inclusion BLOB NOT NULL,
    checkpoint INTEGER NOT NULL REFERENCES checkpoints, first_ns INTEGER, last_ns INTEGER
) STRICT;
CREATE TABLE checkpoints (size INTEGER PRIMARY KEY, note BLOB NOT NULL) STRICT;
CREATE TABLE projection (id INTEGER PRIMARY KEY CHECK (id = 0), cursor INTEGER NOT NULL) STRICT;
INSERT INTO projection VALUES (0, 0);
"""
# SQLite keeps to these when it is asked to write, and not when somebody else has written the file.
_HEAD = (int, str, int, *(bytes,) * 6)
_BATCH_TYPES = {(*_HEAD, one, other, int) for one in (int, type(None)) for other in (int, type(None))}
_NO_TIME = MIN_INT64 - 1
_STORED = "SELECT ref, device, body, salt FROM readings"
_ROW = "SELECT device, source, kind, sensor_time_ns, quality, value, ref, body, salt FROM readings"
_IN_SERIES = "ORDER BY device, source, kind, sensor_time_ns, ref"


class EmbeddedStore:
    """`ReadingStore` on SQLite; use as a context manager. `readonly` opens it beside a running projection."""

    keeps_samples = False

    def __init__(self, data: Path, *, readonly: bool = False) -> None:
        """`data` is the aggregator's data directory, or, to read it, the file itself."""
        self._path = data if readonly and data.is_file() else data / DATABASE
        if not readonly:
            make_private(self._path)
        self._db = self._connect("ro" if readonly else "rw")
        try:
            if not readonly:
                self._prepare()
            self._check_version()
            if readonly:
                self._stand_in()
            self.cursor()
        except UserError:
            # Whoever may write can still `clear` it; everything else that is asked of it is answered with this error.
            if readonly:
                self._db.close()
                raise
        except StoreAwayError:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    @property
    def title(self) -> str:
        """Which file."""
        return f"SQLite, {self._path.name}"

    def cursor(self) -> int:
        """How many log entries are in the store."""
        with self._told():
            row = self._db.execute("SELECT cursor FROM projection").fetchone()
            return row[0] if row is not None and type(row[0]) is int else 0

    def write(
        self, batches: Sequence[StoredBatch], readings: Sequence[StoredReading], cursor: int | None
    ) -> tuple[Refused, ...]:
        """One transaction: batches, readings, cursor."""
        with self._told(), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            notes = {note: checkpoint_size(note) for note in {batch.checkpoint for batch in batches}}
            # Signed once more for one size, a checkpoint is the same statement: the later note takes its place.
            self._db.executemany(
                "INSERT OR REPLACE INTO checkpoints VALUES (?, ?)", [(size, note) for note, size in notes.items()]
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
                        *(batch.span_ns or (None, None)),
                    )
                    for batch in batches
                ],
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO readings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", map(_columns, readings)
            )
            self._db.execute("UPDATE projection SET cursor = coalesce(?, cursor)", (cursor,))
        return ()

    def erase(self, log_index: int, leaves: Sequence[int]) -> None:
        """The rows are gone, and nothing of them is left in the file or its write-ahead log.

        The batch record's span is that of what is left: it would show when an erased reading was measured. While
        somebody reads an older state, an audit say, the log keeps what he reads, so that is StoreAwayError.
        """
        first = log_index * LEAVES_PER_BATCH
        with self._told():
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany("DELETE FROM readings WHERE ref = ?", [(first + leaf,) for leaf in leaves])
                self._db.execute(
                    "UPDATE batches SET (first_ns, last_ns) = (SELECT min(sensor_time_ns), max(sensor_time_ns)"
                    " FROM readings WHERE ref >= ? AND ref < ?) WHERE log_index = ?",
                    (first, first + LEAVES_PER_BATCH, log_index),
                )
            (busy, *_) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StoreAwayError(f"{self._path}: somebody is reading it, so that erased readings are still in its -wal")

    def clear(self) -> None:
        """A new file takes the place of the old one, whatever that was; whoever reads the old one reads on in it."""
        self._db.close()
        # Its write-ahead log first: the other way round, a crash would leave one that a new file is taken to be of.
        for path in (*(self._path.with_name(DATABASE + suffix) for suffix in ("-wal", "-shm")), self._path):
            path.unlink(missing_ok=True)
        make_private(self._path)
        self._db = self._connect("rw")
        self._prepare()

    def readings(self) -> Iterator[StoredReading]:
        """Every reading, by `ref`."""
        return (StoredReading(*row) for row in self._rows(f"{_STORED} ORDER BY ref", ()))

    def select(self, selection: Selection) -> Iterator[StoredReading]:
        """The readings of `selection`, by series and time."""
        condition, values = _condition(selection)
        return (StoredReading(*row) for row in self._rows(f"{_STORED} WHERE {condition} {_IN_SERIES}", values))

    def chart(self, selection: Selection, width_ns: int) -> list[Bucket]:
        """The numbers of one series, by stretches of `width_ns`."""
        condition, values = _condition(selection)
        start_ns = selection.from_ns or 0
        query = (
            "SELECT ? + (sensor_time_ns - ?) / ? * ?, count(value), min(value), avg(value), max(value)"  # noqa: S608 - conditions are constants
            f" FROM readings WHERE {condition} AND value IS NOT NULL GROUP BY 1 ORDER BY 1"
        )
        return [Bucket(*row) for row in self._rows(query, (start_ns, start_ns, width_ns, width_ns, *values))]

    def rows(self, selection: Selection | None = None) -> Iterator[Row]:
        """The rows as they are, by `ref`, which is how they lie in the file."""
        if selection is None:
            # Not even from an index that has every column: one that somebody made may say what no row does.
            return map(_row, self._rows(f"{_ROW} NOT INDEXED ORDER BY ref", ()))
        condition, values = _condition(selection)
        return map(_row, self._rows(f"{_ROW} WHERE {condition} ORDER BY ref", values))

    def samples(self) -> Iterator[Sample]:
        """None: waveforms are drawn from their bodies."""
        return iter(())

    def batch(self, log_index: int) -> StoredBatch | None:
        """The batch record of a log entry; raises MalformedError."""
        query = (
            "SELECT log_index, device, algorithm, public_key, header, signature, leaf_hashes, inclusion,"
            " coalesce((SELECT note FROM checkpoints WHERE size = checkpoint), x''), first_ns, last_ns, checkpoint"
            " FROM batches NOT INDEXED WHERE log_index = ? AND typeof(log_index) = 'integer' LIMIT 2"
        )
        rows = list(self._rows(query, (log_index,)))
        if not rows:
            return None
        if len(rows) > 1:  # in a table that somebody made anew, without its key
            raise MalformedError(f"batch record {log_index}: there are several of it")
        row = rows[0]
        types = tuple(map(type, row))
        if types not in _BATCH_TYPES:
            raise MalformedError(f"batch record {log_index}: a field is not of its type")
        index, device, algorithm, public_key, header, signature, hashes, inclusion, note, first_ns, last_ns, size = row
        if (first_ns is None) != (last_ns is None):
            raise MalformedError(f"batch record {index}: one end of its span without the other")
        leaves = tuple(hashes[at : at + 32] for at in range(0, len(hashes), 32))
        path = tuple(split_path(inclusion, "inclusion"))
        span_ns = None if first_ns is None else (first_ns, last_ns)
        return StoredBatch(index, device, algorithm, public_key, header, signature, leaves, path, note, span_ns, size)

    def batch_indexes(self) -> Iterator[int]:
        """The log index of every batch record."""
        rows = self._rows("SELECT log_index FROM batches NOT INDEXED ORDER BY log_index", ())
        return (_place(index) for (index,) in rows)

    def checkpoints(self) -> Iterator[tuple[int, bytes]]:
        """Every checkpoint record, by size."""
        rows = self._rows("SELECT size, note FROM checkpoints NOT INDEXED ORDER BY size", ())
        return ((_place(size), note if type(note) is bytes else b"") for size, note in rows)

    def _connect(self, mode: str) -> sqlite3.Connection:
        try:
            db = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None)
        except sqlite3.Error as error:
            raise UserError(f"{self._path}: {error}") from None
        # Whatever somebody wrote into a row, it can be shown.
        db.text_factory = lambda text: text.decode("utf-8", "backslashreplace")
        return db

    def _prepare(self) -> None:
        """The file can be written, and has the tables of this version, empty if it had others."""
        with self._told():
            self._db.execute("PRAGMA journal_mode = WAL")
            # A view may lose its last second at a power cut: the cursor is lost with it, and it is made again.
            self._db.execute("PRAGMA synchronous = NORMAL")
            # What was deleted is overwritten: an erased reading must not be found in the file.
            self._db.execute("PRAGMA secure_delete = ON")
            if self._version() == VERSION:
                return
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._make()

    def _check_version(self) -> None:
        with self._told():
            version = self._version()
            names = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master")}
        if version != VERSION:
            if names and names.isdisjoint(_TABLES):
                raise UserError(f"{self._path}: is some other database, and not one of readings")
            raise UserError(f"{self._path}: is not of this version; a running aggregator makes it again")

    def _stand_in(self) -> None:
        """A table that somebody dropped is one with nothing in it: that is what there is to be read."""
        with self._told():
            there = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            for statement in _SCHEMA.split(";\n"):
                words = statement.split()
                if words[:2] == ["CREATE", "TABLE"] and words[2] not in there:
                    self._db.execute(statement.replace("CREATE", "CREATE TEMP", 1))

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def _make(self) -> None:
        for table in _TABLES:
            self._db.execute(f"DROP TABLE IF EXISTS {table}")
        for statement in _SCHEMA.split(";\n"):
            self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version = {VERSION}")

    def _rows(self, query: str, values: tuple[object, ...]) -> Iterator[tuple[Any, ...]]:
        with self._told():
            yield from self._db.execute(query, values)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What SQLite says of the file becomes one line."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in _PASSING:
                raise StoreAwayError(f"{self._path}: {error}") from None
            raise UserError(f"{self._path}: {error}") from None
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter in its own words about a damaged file
            raise UserError(f"{self._path}: {error}") from None


def _condition(selection: Selection) -> tuple[str, tuple[object, ...]]:
    conditions = {
        "device = ?": selection.device,
        "source = ?": selection.source,
        "kind = ?": selection.kind,
        "sensor_time_ns >= ?": selection.from_ns,
        "sensor_time_ns < ?": selection.to_ns,
    }
    given = {text: value for text, value in conditions.items() if value is not None}
    return " AND ".join(["1", *given]), tuple(given.values())


def _row(columns: tuple[Any, ...]) -> Row:
    """A row as it is. The file may say anything: what is not of a column's type is shown as what it cannot be."""
    device, source, kind, time_ns, quality, value, ref, body, salt = columns
    return Row(
        f"readings WHERE ref = {ref!r}",
        device if type(device) is str else repr(device),
        source.hex() if type(source) is bytes else repr(source),
        kind_name(kind) if type(kind) is int else repr(kind),
        time_ns if type(time_ns) is int else _NO_TIME,
        0,
        quality if type(quality) is int else None,
        value if value is None or type(value) is float else nan,
        ref if type(ref) is int else None,
        body if type(body) is bytes else None,
        salt if type(salt) is bytes else None,
    )


def _place(number: object) -> int:
    """A record's log index or size; where there is none, a number that is nobody's."""
    return number if type(number) is int else -1


def _columns(stored: StoredReading) -> tuple[object, ...]:
    reading = Reading.decode(stored.body)
    return (
        stored.ref,
        stored.device,
        reading.source,
        reading.kind,
        reading.sensor_time_ns,
        int(reading.quality),
        number(reading),
        stored.body,
        stored.salt,
    )
