"""The keys under which payloads are encrypted in backups: one a subject, and destroying it erases him from them all.

    <data>/backup-keys.db    or [backup] keys in the configuration; in no backup, or erasing would end there

A subject is a source, by its id, for its readings; or a device's key, by its key id, for its batch infos. A key id is
longer than any source id. Of one subject there is at most one key at a time, of one number:

    made         by the first backup that has something of the subject; durable before the backup is there
    destroyed    after something of the subject was erased: zeros are where it was, its number stays. What else older
                 backups have of the subject is gone with it; the next one makes another key

A backup that is being taken holds what was erased since it began. So `destroy` leaves a mark even where there is no
key, and `Keyring` makes none for a subject with a mark that is younger than itself. Hence the one rule for whoever
erases: first the payload, durably, then the key.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aggregator.config import AggregatorConfig
from aggregator.private_database import PrivateDatabase
from ledger.writer.database import copy_database
from ledger.writer.files import sync_directory
from vitalseal.errors import UserError

DATABASE = "backup-keys.db"
KEY_BITS = 256
IDENTITY_SIZE = 16
_DESTROYED = bytes(KEY_BITS // 8)

# Rows are appended and never change their size, and SQLite leaves nothing behind of what it does not move. Numbers are
# random: a keys file that went on from an older copy of itself must not use one a second time.
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS identity (one INTEGER PRIMARY KEY CHECK (one = 1), id BLOB NOT NULL) STRICT;
INSERT OR IGNORE INTO identity VALUES (1, randomblob({IDENTITY_SIZE}));
CREATE TABLE IF NOT EXISTS keys (
    place INTEGER PRIMARY KEY, number INTEGER NOT NULL UNIQUE, subject BLOB NOT NULL, key BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS keys_by_subject ON keys (subject, place);
"""  # noqa: S608 - a constant


@dataclass(frozen=True, slots=True)
class SubjectKey:
    """A key and its number, which stands beside what it encrypts."""

    number: int
    cipher: AESGCM


def keys_path(config: AggregatorConfig) -> Path:
    """Where the keys of this aggregator's backups are."""
    return config.backup.keys if config.backup else config.data / DATABASE


def destroy(config: AggregatorConfig, subjects: Iterable[bytes]) -> None:
    """No backup tells anything of `subjects` any more, nor will one that is being taken; doing it again does no harm.

    Call it when the readings are durably gone from the payloads.

    Raises:
        UserError: the keys are not there though their place is configured, or somebody keeps them from being written.
            The bytes may be in the file until it succeeds.
    """
    path = keys_path(config)
    if not path.exists():
        if config.backup:
            raise UserError(f"{path}: is not there, so no key can be destroyed; mount its volume, or take a backup")
        return  # no backup was ever taken
    with closing(Keyring(path)) as keys:
        keys.destroy(subjects)


def check_copy(config: AggregatorConfig, target: Path) -> None:
    """A copy of the keys may take the place of `target`: no key is there that would be lost with it.

    Raises:
        UserError: one is, or something else is there.
    """
    if not target.exists():
        return
    path = keys_path(config)
    with KeyReader(target) as copy:
        wanted = copy.numbers()
    if path.exists():
        with KeyReader(path) as keys:
            wanted -= keys.numbers(destroyed=True)
    if wanted:
        raise UserError(
            f"{target}: holds keys that {path} lacks, and older backups are opened with nothing else; nothing was "
            f"changed: if {path} was lost, put this copy there first; if those backups can go, move the copy away"
        )


def copy_keys(config: AggregatorConfig, target: Path) -> None:
    """`target` durably holds the keys as they are now, or what it held before; raises StorageError.

    Raises UserError where `check_copy` does.
    """
    check_copy(config, target)
    staged = target.with_name(f".{target.name}.new")
    staged.unlink(missing_ok=True)  # left over from a crash
    copy_database(keys_path(config), staged, lambda *_: None)
    staged.rename(target)
    sync_directory(target.absolute().parent)


class Keyring(PrivateDatabase):
    """The keys, made where there are none yet, and destroyed.

    Attributes:
        identity: tells this file's keys from those of every other; its copies have the same.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SCHEMA)
        with self._told():
            self.identity = bytes(self._db.execute("SELECT id FROM identity").fetchone()[0])
            (self._began,) = self._db.execute("SELECT coalesce(max(place), 0) FROM keys").fetchone()

    def of(self, subjects: Iterable[bytes]) -> dict[bytes, SubjectKey | None]:
        """The key of each, made and durable if it had none; None for one whose key was destroyed in our time."""
        found: dict[bytes, SubjectKey | None] = {}
        with self._told(), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for subject in subjects:
                found[subject] = self._key(subject)
        return found

    def destroy(self, subjects: Iterable[bytes]) -> None:
        """See the function of this name."""
        gone = set(subjects)
        with self._told():
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                for subject in gone:
                    for (place,) in self._db.execute("SELECT place FROM keys WHERE subject = ?", (subject,)).fetchall():
                        with self._db.blobopen("keys", "key", place) as key:
                            key.write(_DESTROYED)
                    self._add(subject, _DESTROYED)
            # The key is in the write-ahead log as well, from when it was made.
            (busy, *_) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise UserError(f"{self._path}: somebody is reading it, so that destroyed keys are still in its -wal")

    def _key(self, subject: bytes) -> SubjectKey | None:
        marked = "SELECT 1 FROM keys WHERE subject = ? AND place > ? AND key = ?"
        if self._db.execute(marked, (subject, self._began, _DESTROYED)).fetchone():
            return None
        query = "SELECT number, key FROM keys WHERE subject = ? AND key != ?"
        row = self._db.execute(query, (subject, _DESTROYED)).fetchone()
        if row is None:
            key = AESGCM.generate_key(KEY_BITS)
            row = (self._add(subject, key), key)
        return SubjectKey(row[0], AESGCM(row[1]))

    def _add(self, subject: bytes, key: bytes) -> int:
        number = int.from_bytes(os.urandom(8)) >> 1  # SQLite's integers have a sign
        self._db.execute("INSERT INTO keys (number, subject, key) VALUES (?, ?, ?)", (number, subject, key))
        return number


class KeyReader:
    """The keys in a file that may be a copy, by number; nothing is written. A context manager.

    Attributes:
        identity: as that of `Keyring`.
    """

    def __init__(self, path: Path) -> None:
        """Raises UserError if `path` holds no keys."""
        self.path = path
        self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            with self._told():
                self.identity = bytes(self._db.execute("SELECT id FROM identity").fetchone()[0])
        except UserError:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def key(self, number: int) -> AESGCM | None:
        """The key; None if it was destroyed; raises LookupError for one that this file never had."""
        with self._told():
            row = self._db.execute("SELECT key FROM keys WHERE number = ?", (number,)).fetchone()
        if row is None:
            raise LookupError(number)
        return None if row[0] == _DESTROYED else AESGCM(row[0])

    def numbers(self, *, destroyed: bool = False) -> set[int]:
        """The numbers of all keys; with those that were destroyed or not."""
        with self._told():
            rows = self._db.execute("SELECT number FROM keys WHERE ? OR key != ?", (destroyed, _DESTROYED)).fetchall()
        return {number for (number,) in rows}

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, TypeError) as error:
            raise UserError(f"{self.path}: holds no keys of backups: {error}") from None
