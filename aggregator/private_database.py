"""What the aggregator's own small databases share: private to it, synced at every commit, errors in one line.

The running aggregator, its side processes and commands may have one open at a time; SQLite orders them.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ledger.writer.files import make_private
from vitalseal.errors import UserError

WAIT_S = 10.0  # for another process's transaction


class PrivateDatabase:
    """An SQLite database; used by one thread at a time."""

    def __init__(self, path: Path, schema: str) -> None:
        """The database in `path`, with the tables of `schema`, each made if it is not there; raises UserError."""
        self._path = path
        make_private(path)
        self._db = sqlite3.connect(path, isolation_level=None, timeout=WAIT_S, check_same_thread=False)
        try:
            with self._told():
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.executescript(schema)
        except UserError:
            self._db.close()
            raise

    def close(self) -> None:
        """Releases the database."""
        self._db.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise UserError(f"{self._path}: {error}") from None
