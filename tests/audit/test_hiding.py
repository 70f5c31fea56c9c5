# ruff: noqa: S608 - the statements are ours
"""Somebody who knows the auditor and hides from it: tables made anew, indexes that lie, words that are untrue."""

import json
import sqlite3
from contextlib import closing

import pytest

from aggregator.audit.findings import About, What
from aggregator.audit.private import Private
from aggregator.timeseries.embedded import EmbeddedStore
from ledger.batch import LEAVES_PER_BATCH
from ledger.writer.database import DATABASE as SEQUENCER
from ledger.writer.reader import LocalReader
from vitalseal.errors import UserError

from .test_tampering import found

BATCH = 4
REF = BATCH * LEAVES_PER_BATCH + 1
LAST = 21  # size of the last checkpoint

TABLES = {
    "readings": "ref, device, source, kind, sensor_time_ns, quality, value, body, salt",
    "batches": (
        "log_index, device, algorithm, public_key, header, signature, leaf_hashes, inclusion, checkpoint,"
        " first_ns, last_ns"
    ),
    "checkpoints": "size, note",
}
CHANGED_REF = {(About.READING, REF): What.CHANGED}


def remake(scene, table, *statements):
    """`table` has no types and no key any more, and then what `statements` make of it."""
    with closing(sqlite3.connect(scene.data / "readings.db", isolation_level=None)) as db:
        db.execute(f"ALTER TABLE {table} RENAME TO old")
        db.execute(f"CREATE TABLE {table} ({TABLES[table]})")
        db.execute(f"INSERT INTO {table} SELECT * FROM old")
        db.execute("DROP TABLE old")
        for statement in statements:
            db.execute(statement)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (f"UPDATE readings SET ref = '{REF}x' WHERE ref = {REF}", CHANGED_REF),
        (f"UPDATE readings SET ref = {REF}.0 WHERE ref = {REF}", CHANGED_REF),
        (f"UPDATE readings SET ref = x'00' WHERE ref = {REF}", CHANGED_REF),
        (f"UPDATE readings SET ref = NULL WHERE ref = {REF}", CHANGED_REF),
        (f"UPDATE readings SET value = '60.0' WHERE ref = {REF}", CHANGED_REF),
        (f"UPDATE readings SET sensor_time_ns = 'x' WHERE ref = {REF}", {(About.READING, REF): What.MOVED}),
        (f"INSERT INTO readings SELECT * FROM readings WHERE ref = {REF}", {(About.READING, REF): What.EXTRA}),
        (f"INSERT INTO batches SELECT * FROM batches WHERE log_index = {BATCH}", {(About.BATCH, BATCH): What.CHANGED}),
        ("INSERT INTO batches (log_index) VALUES (NULL)", {(About.BATCH, -1): What.EXTRA}),
        ("INSERT INTO batches (log_index) VALUES ('x')", {(About.BATCH, -1): What.EXTRA}),
        ("INSERT INTO batches (log_index) VALUES (4.0)", {(About.BATCH, -1): What.EXTRA}),
        ("INSERT INTO checkpoints SELECT * FROM checkpoints WHERE size = 8", {(About.CHECKPOINT, 8): What.CHANGED}),
        ("INSERT INTO checkpoints VALUES (8, x'00')", {(About.CHECKPOINT, 8): What.CHANGED}),
        ("INSERT INTO checkpoints VALUES (NULL, x'00')", {(About.CHECKPOINT, -1): What.EXTRA}),
        ("INSERT INTO checkpoints VALUES ('x', x'00')", {(About.CHECKPOINT, -1): What.EXTRA}),
    ],
)
def test_row_that_the_tables_own_key_would_forbid_is_named(statement, expected, scene):
    """In a table that was made anew anything may stand, twice, and under what is no number."""
    remake(scene, statement.split()[1 if statement.startswith("UPDATE") else 2], statement)
    assert found(scene.audit()) == expected
    assert not scene.audit(alone=True).is_proven


def test_index_that_lies_hides_nothing(scene):
    """An index with every column shows the row as it was; what is read is the table."""
    remake(scene, "readings", f"CREATE INDEX cover ON readings ({TABLES['readings']})")
    with closing(sqlite3.connect(scene.data / "readings.db", isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema = ON")
        entry = db.execute("SELECT * FROM sqlite_master WHERE name = 'cover'").fetchone()
        db.execute("DELETE FROM sqlite_master WHERE name = 'cover'")
    with closing(sqlite3.connect(scene.data / "readings.db", isolation_level=None)) as db:
        db.execute(f"UPDATE readings SET value = 199 WHERE ref = {REF}")
        db.execute("PRAGMA writable_schema = ON")
        db.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", entry)
    with closing(sqlite3.connect(scene.data / "readings.db", isolation_level=None)) as db:
        assert db.execute(f"SELECT value FROM readings WHERE ref = {REF}").fetchone() == (60.0,)
    for alone in (False, True):
        assert found(scene.audit(alone=alone)) == CHANGED_REF


def test_view_in_place_of_a_table_is_an_empty_table(scene):
    """What it would compute is nobody's row."""
    with closing(sqlite3.connect(scene.data / "readings.db", isolation_level=None)) as db:
        db.execute("ALTER TABLE readings RENAME TO hidden")
        db.execute("CREATE VIEW readings AS SELECT * FROM hidden")
    assert scene.audit().book.counts()["missing"] == 144


def test_record_that_leads_to_a_later_checkpoint_was_changed(scene):
    """Its proof is right, and shows a later time; the checkpoint that it led to is gone, and missed."""
    with LocalReader(scene.data) as log, closing(sqlite3.connect(scene.data / "readings.db")) as db, db:
        last = log.published()
        tree = log.tree(last)
        first = db.execute("SELECT min(checkpoint) FROM batches").fetchone()[0]
        indexes = [index for (index,) in db.execute("SELECT log_index FROM batches WHERE checkpoint = ?", (first,))]
        for index in indexes:
            update = "UPDATE batches SET checkpoint = ?, inclusion = ? WHERE log_index = ?"
            db.execute(update, (last.size, b"".join(tree.prove_inclusion(index)), index))
        db.execute("DELETE FROM checkpoints WHERE size = ?", (first,))
    expected = {(About.BATCH, index): What.CHANGED for index in indexes}
    assert found(scene.audit()) == expected | {(About.CHECKPOINT, first): What.MISSING}


def test_word_that_the_view_is_behind_hides_no_row_that_is_there(scene):
    """Whoever writes that as well: of what is there, everything is judged; what is gone is said not to be known."""
    view = json.loads((scene.data / "view.json").read_text())
    (scene.data / "view.json").write_text(json.dumps(view | {"cursor": BATCH}))
    assert (found(scene.audit()), scene.audit().is_proven) == ({}, True)
    with closing(sqlite3.connect(scene.data / "readings.db", isolation_level=None)) as db:
        db.execute(f"UPDATE readings SET value = 199 WHERE ref = {REF}")
        db.execute("UPDATE batches SET signature = x'' WHERE log_index = 5")
        db.execute(f"DELETE FROM readings WHERE ref = {REF + 1}")
    outcome = scene.audit()
    assert found(outcome) == CHANGED_REF | {(About.BATCH, 5): What.CHANGED}
    assert outcome.not_checked[0].startswith("whether all of entries 4 to 20 is there")


@pytest.mark.parametrize("cursor", [-4, 4.5, "x", None, True, [1]])
def test_word_on_the_view_that_is_none_is_not_believed(cursor, scene):
    """Everything on the log is expected then."""
    view = json.loads((scene.data / "view.json").read_text())
    (scene.data / "view.json").write_text(json.dumps(view | {"cursor": cursor}))
    (scene.data / "readings.db").write_bytes(scene.older.read_bytes())
    assert scene.audit().book.counts()["missing"] == 6 * 12 + 6 + 2


def test_rebuild_meanwhile_accuses_nobody_and_proves_nothing(scene):
    """The view is emptied while it is audited: what is missing then is not there yet."""

    class Emptied(EmbeddedStore):
        def rows(self, _selection=None):
            view = json.loads((scene.data / "view.json").read_text())
            (scene.data / "view.json").write_text(json.dumps(view | {"cursor": 0}))
            return iter(())

    with Emptied(scene.data, readonly=True) as store, pytest.raises(UserError, match="made again"):
        scene.audit(store=store)


def test_payload_that_is_another_at_the_second_look_proves_nothing(scene, monkeypatch):
    """It was shown to lead to the log once; what it says later has to be shown again."""
    looks = []
    honest = Private.payload

    def payload(self, index):
        looks.append(index)
        data = honest(self, index)
        return data.replace(b"\x3c", b"\x3d") if index == BATCH and looks.count(index) > 1 else data

    monkeypatch.setattr(Private, "payload", payload)
    outcome = scene.audit()
    assert (found(outcome), outcome.is_proven) == ({}, False)
    assert outcome.gaps == [f"12 readings: their payload was changed while it was audited (entries {BATCH})"]


def test_checkpoint_as_published_that_the_policy_does_not_take_is_no_tampering(scene):
    """Witnesses change, and old checkpoints have the lines of the old ones: not changed, and not proven."""
    with closing(sqlite3.connect(scene.data / "readings.db")) as db, db:
        (note,) = db.execute("SELECT note FROM checkpoints WHERE size = 8").fetchone()
        text, lines = note.split(b"\n\n")
        alone = text + b"\n\n" + lines.split(b"\n")[0] + b"\n"
        db.execute("UPDATE checkpoints SET note = ? WHERE size = 8", (alone,))
    assert found(scene.audit()) == {(About.CHECKPOINT, 8): What.CHANGED}
    with closing(sqlite3.connect(scene.data / SEQUENCER)) as db, db:
        db.execute("UPDATE checkpoints SET note = ? WHERE size = 8", (alone,))
    outcome = scene.audit()
    assert (found(outcome), outcome.is_proven) == ({}, False)
    assert outcome.gaps[0].startswith("1 checkpoint record is as published, and this policy does not take it (8)")


@pytest.mark.parametrize("line", ['{"log_index": Infinity, "ref": null, "why": "x"}', "[1]", "{}", "[" * 100_000])
def test_list_of_refused_points_that_is_none_is_one_line(line, scene):
    """It is nobody's finding, and nothing to end with a traceback for."""
    (scene.data / "refused-points.ndjson").write_text(line + "\n")
    with pytest.raises(UserError, match="refused-points"):
        scene.audit()
