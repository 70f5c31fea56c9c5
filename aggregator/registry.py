"""What the aggregator knows and the log must not: device names, and who wears which sensor.

    devices       key id -> device name, filled from enrolments signed by a registrar
    assignments   source -> patient over an interval; never changed, only superseded, and each change is committed to
                  the log as a salted hash, so that a rewritten history can be told from the true one
    activity, notices, faults     what the log and admission tell of each device, see `notices`
    erasures      readings that are to be deleted everywhere, and how far that is, see `erasures`

`registry.db` is written by the running aggregator, `vitalseal aggregator assign` and `vitalseal erase`; SQLite orders
them.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aggregator.admission import Key
from aggregator.private_database import PrivateDatabase
from ledger import canonical
from ledger.entry import Commitment, commit_assignment
from ledger.writer.log import LogWriter
from ledger.writer.storage import Submission
from vitalseal.errors import UserError

DATABASE = "registry.db"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS devices (
    key_id BLOB PRIMARY KEY, device TEXT NOT NULL, algorithm INTEGER NOT NULL, public_key BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS assignments (
    id INTEGER PRIMARY KEY, source BLOB NOT NULL, patient TEXT NOT NULL, from_ns INTEGER NOT NULL, to_ns INTEGER,
    recorded_at_ns INTEGER NOT NULL, corrects INTEGER REFERENCES assignments, reason TEXT,
    salt BLOB NOT NULL, statement BLOB NOT NULL, log_index INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS activity (
    key_id BLOB PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, log_index INTEGER NOT NULL,
    batches INTEGER NOT NULL, readings INTEGER NOT NULL, heard_ns INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notices (
    log_index INTEGER PRIMARY KEY, key_id BLOB NOT NULL, kind INTEGER NOT NULL, epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL, reason INTEGER, lost INTEGER, from_ns INTEGER, to_ns INTEGER
) STRICT;
CREATE INDEX IF NOT EXISTS erased ON notices (key_id, log_index) WHERE kind = -1;
CREATE TABLE IF NOT EXISTS faults (
    device TEXT, what TEXT, count INTEGER NOT NULL, last_ns INTEGER NOT NULL, PRIMARY KEY (device, what)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS walked (at INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS erasures (
    id INTEGER PRIMARY KEY, requested_at_ns INTEGER NOT NULL, key_id BLOB NOT NULL, epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL, log_index INTEGER NOT NULL, leaves TEXT NOT NULL, sources TEXT NOT NULL, reason TEXT NOT NULL,
    entry_index INTEGER, done_at_ns INTEGER
) STRICT;
CREATE INDEX IF NOT EXISTS undone ON erasures (id) WHERE done_at_ns IS NULL;
"""


@dataclass(frozen=True, slots=True)
class Assignment:
    """`patient` wears `source` from `from_ns` to `to_ns` (None: until further notice), sensor time in Unix ns.

    `corrects` is the id of the assignment that this one replaces, `reason` why; `log_index` is where the change is
    committed, None while it waits for the running aggregator.
    """

    id: int
    source: bytes
    patient: str
    from_ns: int
    to_ns: int | None
    recorded_at_ns: int
    corrects: int | None
    reason: str | None
    log_index: int | None


class Registry(PrivateDatabase):
    """The registry database of one aggregator; used by one thread at a time."""

    def __init__(self, data: Path) -> None:
        super().__init__(data / DATABASE, _SCHEMA)

    def add_device(self, key_id: bytes, key: Key) -> None:
        """From here on `key.device` is the name of the enrolled key's holder."""
        with self._told():
            self._db.execute(
                "INSERT OR REPLACE INTO devices VALUES (?, ?, ?, ?)",
                (key_id, key.device, key.algorithm, key.public_key),
            )

    def keys(self) -> dict[bytes, Key]:
        """Devices and their keys, by key id."""
        with self._told():
            rows = self._db.execute("SELECT key_id, device, algorithm, public_key FROM devices").fetchall()
        return {key_id: Key(*rest) for key_id, *rest in rows}

    def assign(
        self,
        source: bytes,
        patient: str,
        from_ns: int,
        to_ns: int | None,
        *,
        now_ns: int,
        corrects: int | None = None,
        reason: str | None = None,
    ) -> int:
        """Records the assignment and returns its id; it is committed to the log by the running aggregator.

        Raises:
            UserError: the interval is empty, or overlaps another patient's that is not being corrected.
        """
        if to_ns is not None and to_ns <= from_ns:
            raise UserError("--to lies not after --from")
        salt = os.urandom(16)
        statement = canonical.encode((1, source, patient, from_ns, to_ns, now_ns, corrects, reason))
        with self._told(), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            standing = {item.id: item for item in self._standing(source)}
            if corrects is not None and standing.pop(corrects, None) is None:
                raise UserError(f"--correct {corrects}: no standing assignment of this source has that id")
            for other in standing.values():
                if _overlap(from_ns, to_ns, other):
                    raise UserError(
                        f"assignment {other.id} gives this source to {other.patient} at that time; "
                        f"end it or replace it with --correct {other.id} --reason TEXT"
                    )
            row = (source, patient, from_ns, to_ns, now_ns, corrects, reason, salt, statement)
            done = self._db.execute(
                "INSERT INTO assignments (source, patient, from_ns, to_ns, recorded_at_ns, corrects, reason, salt,"
                " statement) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )
        return int(done.lastrowid or 0)

    def assignments(self) -> list[Assignment]:
        """Every assignment ever recorded, superseded ones included, oldest first."""
        with self._told():
            return [Assignment(*row) for row in self._db.execute(f"SELECT {_COLUMNS} FROM assignments ORDER BY id")]  # noqa: S608 - a constant

    def uncommitted(self) -> list[tuple[int, Commitment]]:
        """Id and commitment of every assignment that is not on the log yet."""
        query = "SELECT id, salt, statement FROM assignments WHERE log_index IS NULL ORDER BY id"
        with self._told():
            rows = self._db.execute(query).fetchall()
        return [(number, commit_assignment(salt, statement)) for number, salt, statement in rows]

    def mark_committed(self, number: int, log_index: int) -> None:
        """Assignment `number` is entry `log_index` of the log."""
        with self._told():
            self._db.execute("UPDATE assignments SET log_index = ? WHERE id = ?", (log_index, number))

    def _standing(self, source: bytes) -> Iterator[Assignment]:
        """The assignments of `source` that no later one corrects."""
        query = (
            f"SELECT {_COLUMNS} FROM assignments WHERE source = ? AND id NOT IN"  # noqa: S608 - a constant
            " (SELECT corrects FROM assignments WHERE corrects IS NOT NULL)"
        )
        return (Assignment(*row) for row in self._db.execute(query, (source,)).fetchall())

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The database to look things up for `notices`, in nobody's way."""
        with self._told():
            yield self._db

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The database for one transaction of `notices`, which is durable when this is left without an error."""
        with self._told(), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db


def commit_assignments(registry: Registry, writer: LogWriter) -> None:
    """Every assignment that is not on the log yet is committed to it."""
    for number, commitment in registry.uncommitted():
        # Killed between these two, the change is committed twice: two equal statements, both true.
        registry.mark_committed(number, writer.append([Submission(commitment.encode())]))


_COLUMNS = "id, source, patient, from_ns, to_ns, recorded_at_ns, corrects, reason, log_index"


def _overlap(from_ns: int, to_ns: int | None, other: Assignment) -> bool:
    begins_before_other_ends = other.to_ns is None or from_ns < other.to_ns
    return begins_before_other_ends and (to_ns is None or other.from_ns < to_ns)
