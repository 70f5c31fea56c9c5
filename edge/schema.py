"""The outbox's tables: how a file is made, and brought here from an earlier format.

A batch owns the readings from its first to its last id; ids are never used twice, and have no gaps. What is not sealed
is named by its ids, too: `live_from` and all above is sealed in the order of arrival; below it, `waiting` holds the
ranges that wait behind (a backlog) or for a clock (`held`). So sealing touches no reading, nobody counts millions of
them, and the only thing ever rewritten in place is a receipt time that a clock set later has put right.

What must leave no byte behind when it is erased, a batch's secret and info, is in a table of its own, whose rows never
change their size and are deleted from its beginning or its end: SQLite leaves copies where it moves a row, and it moves
those of `batches` with every answer.

A batch's place is (chain, seq). Chains are numbered in the order in which they began; each has one key and one epoch,
and the first is numbered by its epoch.
"""

import sqlite3
from collections.abc import Mapping

from ledger.batch import Header

FORMAT = 4

_STATE = """
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    device TEXT NOT NULL, origin TEXT NOT NULL,                     -- whose outbox it is
    live_from INTEGER NOT NULL DEFAULT 1,
    anchor_size INTEGER NOT NULL DEFAULT 0, anchor_root BLOB,       -- largest verified checkpoint
    checkpoint BLOB,                                                -- the same, as signed
    witnessed_s INTEGER NOT NULL DEFAULT 0,                         -- its witnesses' time, Unix
    lived_s REAL NOT NULL DEFAULT 0,                                -- how long agents have run on this file
    sealed_s REAL NOT NULL DEFAULT 0,                               -- lived_s when the last header was sealed
    broker TEXT NOT NULL DEFAULT 'away', broker_why TEXT NOT NULL DEFAULT '', -- nothing while no agent runs
    closed INTEGER NOT NULL DEFAULT 1,                              -- in good order
    committed_ns INTEGER,                                           -- wall time when readings were last committed
    purged_readings INTEGER NOT NULL DEFAULT 0, purged_batches INTEGER NOT NULL DEFAULT 0,
    purged_early INTEGER NOT NULL DEFAULT 0,                        -- of those batches, before `keep_days` for room
    dropped INTEGER NOT NULL DEFAULT 0, over_budget INTEGER NOT NULL DEFAULT 0,
    declared_gaps INTEGER NOT NULL DEFAULT 0,
    reject_epoch INTEGER, reject_seq INTEGER, reject_reason INTEGER, reject_detail TEXT,
    reject_ns INTEGER,                                              -- wall time of it
    erased_batches INTEGER NOT NULL DEFAULT 0,                      -- at the log's word
    to_scrub INTEGER NOT NULL DEFAULT 0                             -- the write-ahead log may have their bytes
);
"""
_SECOND = """
CREATE TABLE chains (
    chain INTEGER PRIMARY KEY, key_id BLOB NOT NULL, epoch INTEGER NOT NULL,
    next_seq INTEGER NOT NULL DEFAULT 0, previous BLOB              -- the chain's end; the highest chain is in use
);
CREATE TABLE waiting (
    first_id INTEGER PRIMARY KEY, last_id INTEGER NOT NULL, held INTEGER NOT NULL
);
CREATE TABLE segments (                                             -- of the readings from first_id to the next one's
    first_id INTEGER PRIMARY KEY, boot_id BLOB NOT NULL, delta_ns INTEGER NOT NULL,
    clock INTEGER NOT NULL, error_ns INTEGER, held INTEGER NOT NULL
);
CREATE TABLE gaps (                                                 -- not declared in the chain yet, one of a reason
    reason INTEGER PRIMARY KEY, lost INTEGER, first_ns INTEGER, last_ns INTEGER
);
CREATE INDEX batches_by_state ON batches (state, chain, seq, first_id, last_id);
"""
_THIRD = """
CREATE TABLE troubles (                                             -- sources that give nothing just now
    name TEXT PRIMARY KEY, why TEXT NOT NULL
) WITHOUT ROWID;
ALTER TABLE cursors ADD COLUMN refused_ns INTEGER;
"""
_FOURTH = """
CREATE TABLE secrets (                                              -- of batches; zeros once it was erased
    number INTEGER PRIMARY KEY, chain INTEGER NOT NULL, seq INTEGER NOT NULL, secret BLOB NOT NULL, info BLOB NOT NULL,
    UNIQUE (chain, seq)
);
"""
_MOVE_SECRETS = f"""{_FOURTH}
INSERT INTO secrets (chain, seq, secret, info) SELECT chain, seq, secret, info FROM batches ORDER BY chain, seq;
ALTER TABLE batches DROP COLUMN secret;
ALTER TABLE batches DROP COLUMN info
"""  # noqa: S608 - a constant
_SCHEMA = f"""
{_STATE}
CREATE TABLE sensors (id INTEGER PRIMARY KEY, source BLOB NOT NULL UNIQUE, description TEXT NOT NULL);
CREATE TABLE cursors (name TEXT PRIMARY KEY, cursor BLOB, refused INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE readings (
    id INTEGER PRIMARY KEY AUTOINCREMENT,                           -- AUTOINCREMENT: never used twice
    sensor INTEGER NOT NULL, sensor_time_ns INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE TABLE batches (
    chain INTEGER NOT NULL, seq INTEGER NOT NULL,
    first_id INTEGER NOT NULL, last_id INTEGER NOT NULL,            -- last_id < first_id: no readings
    header BLOB NOT NULL, signature BLOB NOT NULL,
    size INTEGER NOT NULL,                                          -- of the envelope, bytes
    state INTEGER NOT NULL DEFAULT 0, log_index INTEGER,
    settled_s REAL,                                                 -- lived_s when the receipt was verified
    PRIMARY KEY (chain, seq)
);
{_SECOND}
{_THIRD}
{_FOURTH}
INSERT INTO state (one, device, origin) VALUES (1, :device, :origin);
"""  # noqa: S608 - constants only
# Format 1 had one chain, of one epoch, and kept its end in `state`. Gateways that run it are out there.
_FROM_FORMAT_1 = f"""
ALTER TABLE state RENAME TO state1;
{_STATE}
INSERT INTO state (one, device, origin, live_from, anchor_size, anchor_root, checkpoint, lived_s, purged_readings,
    purged_batches, reject_epoch, reject_seq, reject_reason, reject_detail)
    SELECT 1, :device, :origin, sealed_to + 1, anchor_size, anchor_root, checkpoint, lived_s, purged_readings,
    purged_batches, reject_epoch, reject_seq, reject_reason, reject_detail FROM state1;
DROP INDEX batches_by_state;
ALTER TABLE batches RENAME COLUMN epoch TO chain;
{_SECOND}
INSERT INTO chains (chain, key_id, epoch, next_seq, previous)
    SELECT epoch, :key_id, epoch, next_seq, previous FROM state1;
DROP TABLE state1;
{_THIRD}
{_MOVE_SECRETS}
"""  # noqa: S608 - constants only
# Format 3 erased nothing.
_FROM_FORMAT_3 = f"""
ALTER TABLE state ADD COLUMN erased_batches INTEGER NOT NULL DEFAULT 0;
ALTER TABLE state ADD COLUMN to_scrub INTEGER NOT NULL DEFAULT 0;
{_MOVE_SECRETS}
"""
# Format 2 knew neither when something was refused, nor how its sources were.
_FROM_FORMAT_2 = f"""
ALTER TABLE state ADD COLUMN reject_ns INTEGER;
{_THIRD}
{_FROM_FORMAT_3}
"""
_LATER = {2: _FROM_FORMAT_2, 3: _FROM_FORMAT_3}


def make(db: sqlite3.Connection, device: str, origin: str) -> None:
    """The empty file is an outbox of this format; a crash leaves it empty."""
    _run(db, _SCHEMA, {"device": device, "origin": origin})


def migrate(db: sqlite3.Connection, version: int, device: str, origin: str, key_id: bytes) -> None:
    """The outbox of format `version` has this one; the key of a chain of format 1: its last header's, else `key_id`."""
    if version in _LATER:
        _run(db, _LATER[version], {})
        return
    row = db.execute("SELECT header FROM batches ORDER BY seq DESC LIMIT 1").fetchone()
    sealed_by = key_id if row is None else Header.decode(row[0]).key_id
    _run(db, _FROM_FORMAT_1, {"device": device, "origin": origin, "key_id": sealed_by})


def _run(db: sqlite3.Connection, script: str, values: Mapping[str, object]) -> None:
    """`script` has run whole and the file has this format, or nothing of it happened."""
    db.execute("BEGIN IMMEDIATE")
    try:
        for statement in script.split(";\n"):
            db.execute(statement, values)
        db.execute(f"PRAGMA user_version = {FORMAT}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
