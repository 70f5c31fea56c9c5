"""The same tamperings at a real InfluxDB, and those that only a store that is keyed by position knows."""

import copy
from dataclasses import replace

import pytest

from aggregator.audit.auditor import Range
from aggregator.audit.findings import About, What
from aggregator.timeseries.influx import InfluxStore
from tests.ledger.builders import device
from tests.writer.written import Written
from vitalseal.cli import main

from .scene import chances, project, readings
from .tampering import Tamperer
from .test_tampering import check, found

MIXED = 12


@pytest.fixture
def opened(scene, influx_server, influx_tamperer):
    """What opens the store for one audit."""
    return lambda: InfluxStore(influx_server.config(influx_tamperer.database.name), readonly=True)


def test_tamperings_at_influxdb_are_named_exactly(scene, influx_tamperer, opened, tamperings):
    """Each kind by itself and some of them together; undone, nothing is found."""
    plans = [[name] for name in Tamperer.all] + [None] * tamperings(MIXED)
    for plan, chance in zip(plans, chances(4, len(plans)), strict=True):
        done, expected = influx_tamperer.tamper(chance, chance.randrange(2, 9), plan)
        with opened() as store:
            check(scene, expected, done, store)
        influx_tamperer.database.restore()
    with opened() as store:
        assert not found(scene.audit(store=store))
        assert not found(scene.audit(store=store, alone=True))


def waveforms(tamperer):
    """The refs of the waveforms there are."""
    return [ref for ref, row in sorted(tamperer.rows.items()) if row.kind == "ecg"]


def edit_frame(database, ref, chance):
    point = chance.choice(database.frames(ref))
    database.write(replace(point, fields=point.fields | {"c1": point.fields["c1"] + 0.001}))


def edit_frame_with_equal_hash(database, ref, chance):
    """Python's own hash of the two numbers is one."""
    point = chance.choice([point for point in database.frames(ref) if point.fields["c1"]])
    database.write(replace(point, fields=point.fields | {"c1": point.fields["c1"] * 2.0**61}))


def delete_frames(database, ref, chance):
    for point in chance.sample(database.frames(ref), 2):
        database.remove(point)


def disown_frame(database, ref, chance):
    point = chance.choice(database.frames(ref))
    database.write(replace(point, fields=point.fields | {"ref": chance.choice([ref + 1, 0, 2**50])}))


def add_channel(database, ref, chance):
    point = chance.choice(database.frames(ref))
    database.write(replace(point, fields=point.fields | {"c2": 0.0}))


def shift_frame(database, ref, chance):
    database.exchange(point := database.frames(ref)[1], time_ns=point.time_ns + 3)


@pytest.mark.parametrize(
    "change", [edit_frame, edit_frame_with_equal_hash, delete_frames, disown_frame, add_channel, shift_frame]
)
def test_frames_are_part_of_their_reading(change, scene, influx_tamperer, opened):
    """What is drawn is not what was measured: that waveform was changed, and a frame that is nobody's is extra."""
    for chance in chances(5, 2):
        ref = chance.choice(waveforms(influx_tamperer))
        change(influx_tamperer.database, ref, chance)
        expected = {(About.READING, ref): What.CHANGED}
        if change is shift_frame:
            expected[About.FRAMES, None] = What.EXTRA
        for alone in (False, True):
            with opened() as store:
                outcome = scene.audit(store=store, alone=alone)
            assert found(outcome) == expected
            assert outcome.book.counts()["ok"] == 161
        influx_tamperer.database.restore()


@pytest.mark.parametrize("changes", [{"tags": {"copy": "7"}}, {"tags": {"site": "x"}}, {"time_ns": 7}])
def test_frames_that_claim_a_reading_do_not_accuse_it(changes, scene, influx_tamperer, opened):
    """All of its own are in place; those beside them are extra, and nothing else is found."""
    database = influx_tamperer.database
    for point in database.frames(waveforms(influx_tamperer)[0]):
        there = point.time_ns + changes.get("time_ns", 0)
        database.write(replace(point, tags=point.tags | changes.get("tags", {}), time_ns=there))
    for alone in (False, True):
        with opened() as store:
            outcome = scene.audit(store=store, alone=alone)
        assert found(outcome) == {(About.FRAMES, None): What.EXTRA}
        assert outcome.book.counts()["ok"] == 162


def test_drawing_that_is_gone_is_missed(scene, influx_tamperer, opened):
    """Every waveform is named, once."""
    influx_tamperer.database.drop("waveform")
    with opened() as store:
        outcome = scene.audit(store=store)
    assert found(outcome) == {(About.READING, ref): What.CHANGED for ref in waveforms(influx_tamperer)}
    assert {finding.detail for finding in outcome.book.findings} == {"2 of 2 drawn frames are missing"}


def test_frames_of_nothing_are_extra_by_runs(scene, influx_tamperer, opened):
    """One finding for each stretch of one series."""
    database, ref = influx_tamperer.database, waveforms(influx_tamperer)[0]
    point = database.frames(ref)[0]
    strange = [
        replace(point, tags=point.tags | {"device": device}, time_ns=point.time_ns + at)
        for device in ("a", "b")
        for at in range(5)
    ]
    database.write(*(replace(item, fields=item.fields | {"ref": 1}) for item in strange))
    with opened() as store:
        extra = scene.audit(store=store).book.sorted_findings()
    assert [(item.about, item.what, item.device) for item in extra] == [
        (About.FRAMES, What.EXTRA, device) for device in ("a", "b")
    ]
    assert all(item.detail.startswith("5 frames") for item in extra)


def test_copy_of_a_row_is_extra_and_the_row_is_not(scene, influx_tamperer, opened):
    """Whichever of the two comes first: the one in its own place is the reading."""
    database, refs = influx_tamperer.database, sorted(influx_tamperer.rows)[:3]
    for ref, changes in zip(refs, ({"time_ns": 1}, {"time_ns": 2**62}, {}), strict=True):
        point = database.points[ref]
        database.write(replace(point, tags=point.tags | {"device": "a"} if not changes else point.tags, **changes))
    for alone in (False, True):
        with opened() as store:
            outcome = scene.audit(store=store, alone=alone)
        assert found(outcome) == {(About.READING, ref): What.EXTRA for ref in refs}
        assert outcome.book.counts()["ok"] == 162


def test_copy_number_that_no_neighbour_explains_is_a_move(scene, influx_tamperer, opened):
    """A reading alone in its place has no number; one that is there twice has a small one, or a tag that is ours."""
    database = influx_tamperer.database
    lonely = next(ref for ref, row in influx_tamperer.rows.items() if row.kind == "heart_rate")
    twice = next(ref for ref, row in influx_tamperer.rows.items() if row.kind == "spo2" and row.copy == 1)
    other = next(ref for ref, row in influx_tamperer.rows.items() if row.kind == "rr_interval" and row.copy == 2)
    database.exchange(point := database.points[lonely], tags=point.tags | {"copy": "1"})
    database.exchange(point := database.points[twice], tags=point.tags | {"copy": "2"})
    database.exchange(point := database.points[other], tags=point.tags | {"site": "ward 3"})
    for alone in (False, True):
        with opened() as store:
            outcome = scene.audit(store=store, alone=alone)
        assert found(outcome) == {(About.READING, ref): What.MOVED for ref in (lonely, twice, other)}


def test_copy_number_is_explained_by_a_reading_that_is_gone(scene, influx_tamperer, opened):
    """Of two readings in one place the first is deleted: the second keeps its number, and nobody accuses it."""
    first, second = (
        next(ref for ref, row in influx_tamperer.rows.items() if row.kind == "spo2" and row.copy == number)
        for number in (0, 1)
    )
    assert influx_tamperer.rows[first].time_ns == influx_tamperer.rows[second].time_ns
    influx_tamperer.database.delete(first)
    for alone in (False, True):
        with opened() as store:
            assert found(scene.audit(store=store, alone=alone)) == {(About.READING, first): What.MISSING}


def test_copy_number_is_explained_by_a_row_that_is_not_judged(scene, influx_server):
    """A reading that is stated once more in a later batch: an audit from there on, or to there, accuses nobody."""
    past = scene.past = copy.deepcopy(scene.past)
    with Written(scene.data, past) as log:
        index = past.seal(*readings(0, 0), signer=device("wrist-1"))
        log.publish()
    name = influx_server.fresh_database()
    with InfluxStore(influx_server.config(name)) as store:
        project(scene.data, store)
        assert {row.copy for row in store.rows() if row.ref // 4096 == index} >= {1, 2, 3, 5}
        for span in (Range(), Range(index), Range(0, index)):
            assert not found(scene.audit(store=store, span=span))
            assert not found(scene.audit(store=store, span=span, alone=True))
        influx_server.query("DELETE FROM ledger_batch WHERE time = 4", name)  # of those that were stated first
        assert found(scene.audit(store=store, alone=True)) == {(About.BATCH, 4): What.MISSING}


def test_seal_that_cannot_be_read_is_paired_by_place(scene, influx_tamperer, opened):
    """It tells no ref any more; what ought to stand there is known from the payload."""
    ref = min(influx_tamperer.rows)
    point = influx_tamperer.database.points[ref]
    influx_tamperer.database.write(replace(point, fields=point.fields | {"seal": "!"}))
    with opened() as store:
        assert found(scene.audit(store=store)) == {(About.READING, ref): What.CHANGED}
        alone = {(About.READING, ref): What.MISSING, (About.READING, None): What.EXTRA}
        assert found(scene.audit(store=store, alone=True)) == alone


def test_command_audits_an_influxdb(scene, influx_server, influx_tamperer, capsys):
    """Payloads of a directory against a database elsewhere; and that database alone."""
    place = ["--influx-url", influx_server.url, "--bucket", influx_tamperer.database.name]
    log = ["--log", str(scene.data / "log"), "--policy", str(scene.data / "policy.txt")]
    for words in (["--data", str(scene.data), *place], [*place, *log]):
        assert main(["audit", *words]) == 0
        said = capsys.readouterr().out.splitlines()
        assert said[-1] == "audit: checked=162 ok=162 missing=0 changed=0 extra=0 moved=0"
    assert main(["audit", "--influx-url", influx_server.url, "--bucket", "nowhere", *log]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
