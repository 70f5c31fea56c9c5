"""A log lives longer than a version of its database: those before are brought up, whole or not at all."""

import sqlite3
from contextlib import closing

import pytest

from ledger.writer.create import create_log
from ledger.writer.database import DATABASE, DATABASE_VERSION
from ledger.writer.local import LocalStorage
from ledger.writer.reader import LocalReader
from ledger.writer.storage import Place, StorageError, Submission

from .logs import ORIGIN, commitments, fsck, grown, open_writer

# As released before there was version 3.
VERSION_2 = """
CREATE TABLE chains (number INTEGER PRIMARY KEY, key_id BLOB NOT NULL UNIQUE) STRICT;
CREATE TABLE entries (
    idx INTEGER PRIMARY KEY, kind INTEGER NOT NULL, entry BLOB NOT NULL,
    chain INTEGER REFERENCES chains, epoch INTEGER, seq INTEGER
) STRICT;
CREATE UNIQUE INDEX place ON entries (chain, epoch, seq) WHERE chain IS NOT NULL;
CREATE TABLE notable (kind INTEGER, idx INTEGER, PRIMARY KEY (kind, idx)) STRICT, WITHOUT ROWID;
CREATE TABLE payloads (idx INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT;
CREATE TABLE checkpoints (
    size INTEGER PRIMARY KEY, root BLOB NOT NULL, note BLOB NOT NULL, recorded_at_ns INTEGER NOT NULL,
    published INTEGER NOT NULL
) STRICT;
PRAGMA user_version = 2;
"""
# As released before there was version 4.
VERSION_3 = f"""{VERSION_2}
CREATE TABLE missing (
    chain INTEGER NOT NULL REFERENCES chains, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (chain, epoch, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE returned (number INTEGER PRIMARY KEY, idx INTEGER NOT NULL) STRICT;
CREATE TABLE replayed (first INTEGER PRIMARY KEY, size INTEGER NOT NULL) STRICT;
PRAGMA user_version = 3;
"""
TABLES = ("chains", "entries", "notable", "payloads", "checkpoints")
PLACE = Place(bytes(32), 0, 0)
ENTRY = commitments(10, 1)[0].entry


@pytest.fixture(params=[VERSION_2, VERSION_3], ids=["version 2", "version 3"])
def data(request, tmp_path):
    """A log of that version, written before: ten entries published, a batch with its payload committed after them."""
    data = tmp_path / "data"
    create_log(data, ORIGIN)
    grown(data, 10)
    with LocalStorage(data) as storage:
        storage.append([Submission(ENTRY, PLACE, b"payload")])
    rows = contents(data)
    (data / DATABASE).unlink()
    with closing(sqlite3.connect(data / DATABASE, isolation_level=None)) as database:
        database.executescript(request.param)
        database.execute("PRAGMA journal_mode = WAL")
        for table, content in rows.items():
            for row in content:
                database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608 - constants
    return data


def contents(data):
    with closing(sqlite3.connect(data / DATABASE)) as database:
        return {table: database.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}  # noqa: S608 - constants


def schema(data):
    query = "SELECT name, sql FROM sqlite_master ORDER BY name"
    with closing(sqlite3.connect(data / DATABASE)) as database:
        return database.execute(query).fetchall(), database.execute("PRAGMA user_version").fetchone()[0]


def test_log_of_a_version_before_goes_on(data, tmp_path):
    """Opened by its writer it has the tables of a new one, every row that it had, and it is the same log."""
    before = contents(data)
    with LocalStorage(data) as storage:
        assert contents(data) == before
        assert (storage.missing_payload_count(), storage.find(PLACE)) == (0, (10, ENTRY))
    create_log(tmp_path / "new", ORIGIN)
    assert schema(data) == schema(tmp_path / "new")
    assert schema(data)[1] == DATABASE_VERSION
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data)
        writer.append(commitments(11, 3))
        assert writer.publish()
    assert fsck(data) == 14


def test_upgrade_that_fails_half_way_leaves_what_was_there(data):
    """A disk that is full, or a crash: the version before still opens it, and the next start does it again."""
    with closing(sqlite3.connect(data / DATABASE, isolation_level=None)) as database:
        database.execute("CREATE TABLE erased (in_the_way INTEGER)")
    before = schema(data)
    with pytest.raises(StorageError, match="erased already exists"):
        LocalStorage(data)
    assert schema(data) == before
    with closing(sqlite3.connect(data / DATABASE, isolation_level=None)) as database:
        database.execute("DROP TABLE erased")
    LocalStorage(data).close()
    assert schema(data)[1] == DATABASE_VERSION


def test_reader_changes_nothing_and_says_what_to_do(data):
    """Only the one writer upgrades."""
    before = schema(data)
    version = before[1]
    said = f"is of version {version}, not of this program's version {DATABASE_VERSION}; start its aggregator"
    with pytest.raises(StorageError, match=said):
        LocalReader(data)
    assert schema(data) == before


@pytest.mark.parametrize("version", [1, DATABASE_VERSION + 1])
def test_any_other_version_is_refused(data, version):
    """An older one was never released; a newer one is another program's."""
    with closing(sqlite3.connect(data / DATABASE, isolation_level=None)) as database:
        database.execute(f"PRAGMA user_version = {version}")
    before = contents(data)
    with pytest.raises(
        StorageError, match=f"is of version {version}, not of this program's version {DATABASE_VERSION}$"
    ):
        LocalStorage(data)
    assert contents(data) == before
