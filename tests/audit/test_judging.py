"""What an audit makes of what is no tampering: erasures, losses, a view that is behind; and of payloads."""

import copy
import json
import sqlite3
from contextlib import closing

import pytest

from aggregator.audit.auditor import Public, Range, audit
from aggregator.audit.findings import About, What
from aggregator.audit.private import Private
from aggregator.timeseries.base import StoredReading, prove
from aggregator.timeseries.embedded import EmbeddedStore
from ledger import canonical
from ledger.batch import LEAVES_PER_BATCH
from ledger.errors import LedgerError
from ledger.fsck import CHECKPOINT_PATH
from ledger.leaves import Leaf, leaves_value
from ledger.policy import parse_policy
from ledger.reading import Reading, Scalar
from ledger.verify import verify_proof
from ledger.writer.database import DATABASE as SEQUENCER
from ledger.writer.files import list_files, read_file
from ledger.writer.payload import parse_payload
from tests.ledger.builders import NOW_NS, device, leaves_of
from tests.ledger.past import id_of
from tests.writer.written import Written

from .scene import chances, project, readings
from .test_tampering import found

WRIST = device("wrist-1")


@pytest.fixture
def past(scene):
    """What the scene's log says, to be gone on with."""
    scene.past = copy.deepcopy(scene.past)
    return scene.past


def catch_up(scene):
    """The embedded store has everything published."""
    with EmbeddedStore(scene.data) as store:
        project(scene.data, store)


def do(path, query, *values):
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        assert db.execute(query, values).rowcount == 1


def rewrite_payload(scene, index, change):
    """The payload of entry `index` has other leaves."""
    with closing(sqlite3.connect(scene.data / SEQUENCER, isolation_level=None)) as db:
        (payload,) = db.execute("SELECT payload FROM payloads WHERE idx = ?", (index,)).fetchone()
        leaves = list(parse_payload(payload))
        change(leaves)
        data = canonical.encode(leaves_value(leaves))
        db.execute("UPDATE payloads SET payload = ? WHERE idx = ?", (data, index))


def ref_of(index, leaf):
    return index * LEAVES_PER_BATCH + leaf


def test_erased_readings_are_not_missing(scene, past):
    """Salt and bytes are gone everywhere, the log says so: nothing is wrong with that, of the whole or alone."""
    with Written(scene.data, past) as log:
        log.erase(WRIST, 0, [1, 3])
        log.publish()
    catch_up(scene)
    for alone in (False, True):
        outcome = scene.audit(alone=alone)
        assert (found(outcome), outcome.is_proven) == ({}, True)
        assert outcome.book.sound[About.READING] == 142


def test_erased_reading_that_is_still_there_is_extra(scene, past):
    """An old copy brings it back; the finding names the entry that says that it was erased."""
    before = (scene.data / "readings.db").read_bytes()
    index = past.chains[id_of(WRIST)][0][0]
    with Written(scene.data, past) as log:
        log.erase(WRIST, 0, [2])
        size = log.publish()
    catch_up(scene)
    (scene.data / "readings.db").write_bytes(before)
    for alone in (False, True):
        outcome = scene.audit(alone=alone)
        assert found(outcome) == {(About.READING, ref_of(index, 2)): What.EXTRA}
        assert outcome.book.findings[0].detail == f"was erased by entry {size - 1}"


@pytest.mark.parametrize("published", [True, False])
def test_erasure_that_the_view_has_not_come_to_is_no_finding(scene, past, published):
    """Neither the row that is still there, nor the one that is gone by now."""
    with Written(scene.data, past) as log:
        log.erase(WRIST, 0, [2, 3])
        if published:
            log.publish()
    do(scene.data / "readings.db", "DELETE FROM readings WHERE ref = ?", ref_of(past.chains[id_of(WRIST)][0][0], 3))
    assert found(scene.audit()) == {}


def test_erasure_meanwhile_accuses_nobody(scene, past):
    """Between the look at the payloads and that at the rows a reading is erased everywhere."""
    index = past.chains[id_of(WRIST)][0][0]

    class Meanwhile(EmbeddedStore):
        def rows(self, selection=None):
            with Written(scene.data, past) as log:
                log.erase(WRIST, 0, [2])
            with EmbeddedStore(scene.data) as store:
                store.erase(index, [2])
            return super().rows(selection)

    with Meanwhile(scene.data, readonly=True) as store:
        assert found(scene.audit(store=store)) == {}


def test_leaf_that_was_taken_out_of_a_payload_is_found(scene, past):
    """No entry says that it was erased: its row is still proven, by its hash; without the row it is missing."""
    index, batch = past.chains[id_of(WRIST)][0]
    rewrite_payload(scene, index, lambda leaves: leaves.__setitem__(4, leaves_of(batch)[4]))
    payload = {(About.PAYLOAD, index): What.CHANGED}
    assert found(scene.audit()) == payload
    do(scene.data / "readings.db", "DELETE FROM readings WHERE ref = ?", ref_of(index, 4))
    assert found(scene.audit()) == payload | {(About.READING, ref_of(index, 4)): What.MISSING}


def test_tampered_payload_is_found_and_rows_rest_on_the_record(scene, past):
    """Payload and database disagree: the log says which of them is right."""
    index, _ = past.chains[id_of(WRIST)][1]

    def change(leaves):
        leaves[1] = Leaf(leaves[1].salt, leaves[2].body)

    rewrite_payload(scene, index, change)
    assert found(scene.audit()) == {(About.PAYLOAD, index): What.CHANGED}
    do(scene.data / "readings.db", "UPDATE readings SET value = 7 WHERE ref = ?", ref_of(index, 1))
    payload_and_row = {(About.PAYLOAD, index): What.CHANGED, (About.READING, ref_of(index, 1)): What.CHANGED}
    assert found(scene.audit()) == payload_and_row


def test_payload_and_record_both_tampered_leave_rows_unjudged(scene, past):
    """Nothing is left that the rows could be held against, and that is said."""
    index, _ = past.chains[id_of(WRIST)][1]
    rewrite_payload(scene, index, lambda leaves: leaves.pop())
    do(scene.data / "readings.db", "UPDATE batches SET leaf_hashes = x'' WHERE log_index = ?", index)
    outcome = scene.audit()
    assert found(outcome) == {(About.PAYLOAD, index): What.CHANGED, (About.BATCH, index): What.CHANGED}
    assert outcome.gaps == [f"12 readings: their batch record was tampered with (entries {index})"]


def test_lost_payload_is_told_and_what_is_shown_is_proven_all_the_same(scene, past):
    """After a restore: a batch that the view still has is proven by its record; one that it has not is not expected."""
    shown, gone = (past.chains[id_of(WRIST)][number][0] for number in (0, 1))
    for index in (shown, gone):
        do(scene.data / SEQUENCER, "DELETE FROM payloads WHERE idx = ?", index)
    do(scene.data / "readings.db", "DELETE FROM batches WHERE log_index = ?", gone)
    with closing(sqlite3.connect(scene.data / "readings.db", isolation_level=None)) as db:
        db.execute("DELETE FROM readings WHERE ref / 4096 = ?", (gone,))
    outcome = scene.audit()
    assert (found(outcome), outcome.is_proven) == ({}, False)
    assert outcome.book.sound[About.READING] == 132
    assert outcome.gaps[0].startswith("1 batch whose payload is lost")


def test_view_that_is_behind_is_expected_to_have_no_more(scene):
    """The aggregator's own word on how far the view has come; not the database's, which can be rolled back."""
    view = json.loads((scene.data / "view.json").read_text())
    (scene.data / "readings.db").write_bytes(scene.older.read_bytes())
    assert scene.audit().book.counts()["missing"] == 6 * 12 + 6 + 2
    (scene.data / "view.json").write_text(json.dumps(view | {"cursor": scene.cut}))
    outcome = scene.audit()
    assert (found(outcome), outcome.until) == ({}, scene.cut)
    assert f"entries {scene.cut} to 20 is there: the view has not come to them yet" in outcome.not_checked[0]
    (scene.data / "view.json").write_text(json.dumps(view | {"cursor": scene.cut, "store": "InfluxDB, there"}))
    assert scene.audit().book.counts()["missing"] == 6 * 12 + 6 + 2
    (scene.data / "view.json").unlink()
    assert scene.audit().book.counts()["missing"] == 6 * 12 + 6 + 2


def test_log_that_grows_meanwhile_accuses_nobody(scene, past):
    """Rows and records of entries that were published after the audit had begun are not looked at."""
    public = scene.data / "log"
    old = {path: (public / path).read_bytes() for path in list_files(public)}
    with Written(scene.data, past) as log:
        past.seal(*readings(6, 0), signer=WRIST)
        log.publish()
    catch_up(scene)
    asked = []

    def fetch(path):
        asked.append(path)
        return old.get(path) if asked.count(CHECKPOINT_PATH) < 2 else read_file(public, path)

    (scene.data / "view.json").unlink()
    policy = parse_policy((scene.data / "policy.txt").read_bytes())
    with EmbeddedStore(scene.data, readonly=True) as store, Private(scene.data) as private:
        for beside in (None, private):
            asked.clear()
            outcome = audit(Public(fetch, (), policy, None), store, beside)
            assert (found(outcome), outcome.is_proven, outcome.until) == ({}, True, 21)
            assert "12 rows of entries before 0 or from 21 on" in outcome.not_checked


@pytest.mark.parametrize("alone", [False, True])
def test_rows_of_entries_published_under_the_audit_accuse_nobody(alone, scene, past):
    """However often the log grows meanwhile, between one row and the next."""

    class Growing(EmbeddedStore):
        def rows(self, selection=None):
            last = -1
            for number in (5, 6, 7):
                with Written(scene.data, past) as log:
                    past.seal(*readings(number, 0), signer=WRIST)
                    log.publish()
                catch_up(scene)
                for row in [row for row in super().rows(selection) if row.ref > last]:
                    yield row
                    last = row.ref

    (scene.data / "view.json").unlink()
    with Growing(scene.data, readonly=True) as store:
        outcome = scene.audit(store=store, alone=alone)
    assert not found(outcome)
    assert "36 rows of entries before 0 or from 21 on" in outcome.not_checked


def test_row_of_an_entry_that_will_never_be_is_extra(scene):
    """No log that grows makes it otherwise."""
    query = "INSERT INTO readings SELECT {}, device, source, kind, 1, 0, 1, body, salt FROM readings WHERE ref = 16385"
    for ref in (-5, ref_of(21, 1), 2**62):
        do(scene.data / "readings.db", query.format(ref))
    for alone in (False, True):
        assert set(found(scene.audit(alone=alone)).values()) == {What.EXTRA}


def test_log_that_shows_two_histories_is_found_out(scene):
    """Whoever serves the log gives other bytes at the second reading: nothing is held against those."""
    public = scene.data / "log"
    policy = parse_policy((scene.data / "policy.txt").read_bytes())
    past = copy.deepcopy(scene.past)
    with Written(scene.data, past) as log:
        past.fill(300)
        log.publish()
    full = "tile/entries/000"
    asked = []

    def fetch(path):
        asked.append(path)
        data = read_file(public, path)
        return data[:-1] + b"!" if data and path == full and asked.count(full) > 1 else data

    with EmbeddedStore(scene.data, readonly=True) as store, pytest.raises(LedgerError, match="changed while"):
        audit(Public(fetch, (), policy, None), store, None)


def test_refused_points_explain_what_is_missing(scene):
    """It is missing all the same; the reason is the store's."""
    points = [
        {"log_index": 4, "ref": ref_of(4, 2), "why": "time out of range"},
        {"log_index": 5, "ref": None, "why": "field too long"},
    ]
    (scene.data / "refused-points.ndjson").write_text("".join(json.dumps(point) + "\n" for point in points))
    do(scene.data / "readings.db", "DELETE FROM readings WHERE ref = ?", ref_of(4, 2))
    do(scene.data / "readings.db", "DELETE FROM batches WHERE log_index = 5")
    reading, record = scene.audit().book.sorted_findings()
    assert (reading.number, record.number) == (ref_of(4, 2), 5)
    assert "the store refused it: time out of range" in reading.detail
    assert "the store refused it (field too long)" in record.detail


def test_reading_from_the_future_is_as_logged_and_not_proven(scene, past):
    """Its row is no finding; but `verify` does not prove it, so neither does the audit."""
    with Written(scene.data, past) as log:
        late = Reading(bytes(8), 1, NOW_NS + 86_400 * 10**9, 0, None, 0, Scalar(60, 0), 0)
        index = past.seal(late, signer=WRIST)
        log.publish()
    catch_up(scene)
    for alone in (False, True):
        outcome = scene.audit(alone=alone)
        assert (found(outcome), outcome.is_proven) == ({}, False)
        assert [(item.ref, item.step) for item in outcome.book.unproven] == [(ref_of(index, 1), 8)]


def test_audit_of_a_database_alone_proves_what_the_verifier_proves(scene, sqlite_tamperer):
    """Reading by reading, whatever was done to the bytes of rows: the same outcome as `vitalseal verify`."""
    policy = parse_policy((scene.data / "policy.txt").read_bytes())
    for chance in chances(7, 8):
        sqlite_tamperer.tamper(chance, 5, ["corrupt", "corrupt", "delete", "swap all", "edit batch", "insert"])
        wrong = {number for (about, number) in found(scene.audit(alone=True)) if about is About.READING}
        records = {number for (about, number) in found(scene.audit(alone=True)) if about is About.BATCH}
        with EmbeddedStore(scene.data, readonly=True) as store:
            for row in store.rows():
                if row.ref // LEAVES_PER_BATCH in records:
                    continue
                proven = is_proven(store, StoredReading(row.ref, row.device, row.body, row.salt), policy)
                assert proven is (row.ref not in wrong)
        sqlite_tamperer.database.restore()
    with EmbeddedStore(scene.data, readonly=True) as store:
        assert all(is_proven(store, stored, policy) for stored in store.readings())


def is_proven(store, stored, policy):
    record = store.batch(stored.log_index)
    try:
        if record is None:
            return False
        verify_proof(prove(stored, record).encode(), policy)
    except (LedgerError, IndexError):
        return False
    return True


def test_row_that_claims_another_ref_is_named_once(scene, sqlite_tamperer):
    """Of the whole it is one changed row; the database alone cannot know whose it was."""
    for new in (ref_of(4, 500), ref_of(0, 1), ref_of(900, 3)):
        sqlite_tamperer.database.renumber(ref_of(7, 1), new)
        assert found(scene.audit()) == {(About.READING, ref_of(7, 1)): What.CHANGED}
        alone = {(About.READING, ref_of(7, 1)): What.MISSING, (About.READING, new): What.EXTRA}
        assert found(scene.audit(alone=True)) == alone
        sqlite_tamperer.database.restore()


def test_checkpoint_under_another_size_was_moved(scene):
    """Its note is genuine: it is named by the size that it is of."""
    do(scene.data / "readings.db", "UPDATE checkpoints SET size = 99 WHERE size = 21")
    for alone in (False, True):
        assert found(scene.audit(alone=alone)) == {(About.CHECKPOINT, 21): What.MOVED}


def test_findings_come_by_place(scene, sqlite_tamperer):
    """Whatever order the database has its rows in."""
    for chance in chances(8, 3):
        sqlite_tamperer.tamper(chance, 8)
        places = [item.place for item in scene.audit().book.sorted_findings() if item.place]
        assert places == sorted(places)
        sqlite_tamperer.database.restore()


def test_range_leaves_both_ends_out(scene):
    """Start and end of what is looked at are entries."""
    outcome = scene.audit(span=Range(4, 13))
    assert (outcome.start, outcome.until, outcome.readings, found(outcome)) == (4, 13, 72, {})
