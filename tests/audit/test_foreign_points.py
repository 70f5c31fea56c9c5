"""Points in the bucket whose fields have other types than ours: each is named, and none hides one of ours.

InfluxQL reads a field as one type in all shards of a query; a shard is a week, so what is written into an empty one may
have any type.
"""

from dataclasses import replace

import pytest

from aggregator.audit.findings import About, What
from aggregator.timeseries.influx import InfluxStore

from .test_tampering import found

EMPTY_NS = 1_000_000_000 * 10**9  # of a week in which nothing of ours lies
SERIES = "device=bed-12,source=07,kind=heart_rate"
EXTRA_ROW, EXTRA_FRAME = {(About.READING, None): What.EXTRA}, {(About.FRAMES, None): What.EXTRA}
EXTRA_BATCH, EXTRA_CHECKPOINT = ({(about, EMPTY_NS): What.EXTRA} for about in (About.BATCH, About.CHECKPOINT))


@pytest.fixture
def opened(scene, influx_server, influx_tamperer):
    """What opens the store for one audit."""
    return lambda: InfluxStore(influx_server.config(influx_tamperer.database.name), readonly=True)


def audits(scene, opened):
    """What is found by an audit with the directory, and by one with the database alone."""
    for alone in (False, True):
        with opened() as store:
            yield scene.audit(store=store, alone=alone)


@pytest.mark.parametrize(
    ("line", "expected", "where"),
    [
        (f"reading,{SERIES} seal=5i,value=182", EXTRA_ROW, "seal as integer"),
        (f"reading,{SERIES} seal=5.5,value=true", EXTRA_ROW, "seal as float, value as boolean"),
        (f'reading,{SERIES} value="180"', EXTRA_ROW, "value as string"),
        (f"reading,{SERIES} value=true", EXTRA_ROW, "value as boolean"),
        (f"reading,{SERIES} value=180i", EXTRA_ROW, "value=180i"),
        (f"reading,{SERIES} quality=0.5", EXTRA_ROW, "quality as float"),
        (f'reading,{SERIES} note="x"', EXTRA_ROW, "note as string"),
        ('reading,x=y device="bed-12",kind=5', EXTRA_ROW, "device as string, kind as float"),
        (f'reading,{SERIES} odd\\ "name=5', EXTRA_ROW, 'odd "name as float'),
        (f'waveform,{SERIES} c0="1"', EXTRA_FRAME, "c0 as string"),
        (f'waveform,{SERIES} ref="1"', EXTRA_FRAME, "ref as string"),
        (f"waveform,{SERIES} c40=1", EXTRA_FRAME, "c40 as float"),
        ('ledger_batch,device=d checkpoint="1"', EXTRA_BATCH, ""),
        ("ledger_batch,device=d key=5,header=5i,leaves0=true", EXTRA_BATCH, ""),
        ("ledger_batch first=true", EXTRA_BATCH, ""),
        ("ledger_checkpoint note=5i", EXTRA_CHECKPOINT, ""),
        ("ledger_checkpoint other=5i", EXTRA_CHECKPOINT, ""),
        ('ledger_cursor entries="5"', {}, ""),
    ],
)
def test_foreign_point_is_extra_and_hides_nothing(line, expected, where, scene, influx_server, influx_tamperer, opened):
    """One finding that names it; deleted again, what is left of it is its type, which is no matter."""
    name = influx_tamperer.database.name
    influx_server.write(f"{line} {EMPTY_NS}", name)
    for outcome in audits(scene, opened):
        assert found(outcome) == expected
        assert outcome.book.counts()["ok"] == 162
        assert all(where in str(finding.where) or where in line for finding in outcome.book.findings)
    measurement = line.replace(" ", ",").partition(",")[0]
    influx_server.query(f"DELETE FROM {measurement} WHERE time = {EMPTY_NS}", name)  # noqa: S608 - the name is ours
    for outcome in audits(scene, opened):
        assert not found(outcome)
        assert outcome.book.counts()["ok"] == 162


def test_field_more_in_a_point_of_ours_is_a_change(scene, influx_tamperer, opened):
    """A row, a frame, a batch record and a checkpoint record: each is named, and nothing else is."""
    database = influx_tamperer.database
    row = next(ref for ref, row in sorted(influx_tamperer.rows.items()) if row.kind == "heart_rate")
    drawn = next(ref for ref, row in sorted(influx_tamperer.rows.items()) if row.kind == "ecg")
    batch, note = (
        next(p for p in database.good if p.measurement == f"ledger_{name}") for name in ("batch", "checkpoint")
    )
    for point in (database.points[row], database.frames(drawn)[0], batch, note):
        database.write(replace(point, fields=point.fields | {"remark": "x"}))
    for outcome in audits(scene, opened):
        assert found(outcome) == {
            (About.READING, row): What.CHANGED,
            (About.READING, drawn): What.CHANGED,
            (About.BATCH, batch.time_ns): What.CHANGED,
            (About.CHECKPOINT, note.time_ns): What.CHANGED,
        }
        (finding,) = [finding for finding in outcome.book.findings if finding.kind == "heart_rate"]
        assert "remark as string" in finding.where
