"""A store in whose bucket every one of our fields has other types too, in weeks of their own: it does what it did."""

import pytest

from aggregator.timeseries.base import Selection, row_of
from aggregator.timeseries.columns import columns_of
from aggregator.timeseries.influx import InfluxStore
from aggregator.timeseries.influxql import FIELDS, READING
from ledger.errors import MalformedError
from tests.ledger import builders as b
from tests.timeseries.conftest import batch_of, shown, stored
from tests.timeseries.test_contract import SECOND, at, put, wave

WEEK_NS = 7 * 86_400 * SECOND
VALUES = {"float": ("0.5", "1e3"), "integer": ("7i",), "string": ('"x"',), "boolean": ("true",)}
SERIES = f"device=wrist-1,source={b.SOURCE.hex()}"


@pytest.fixture
def config(influx_server):
    """A bucket that somebody has filled; the last of it is later than anything of ours."""
    config = influx_server.config(influx_server.fresh_database())
    lines = []
    for measurement, fields in FIELDS.items():
        for number, (kind, (value, *_)) in enumerate(VALUES.items(), 3):
            foreign = [f"{name}={value}" for name, ours in fields.items() if ours != kind]
            for side in (-1, 1):
                at_ns = b.NOW_NS + side * number * WEEK_NS
                tags = "" if measurement in ("ledger_checkpoint", "ledger_cursor") else f",{SERIES},kind=heart_rate"
                lines += [f"{measurement}{tags} {','.join(foreign)} {at_ns}"] * bool(foreign)
                # Fields that are called as our tags, in our weeks too.
                lines.append(f'{measurement},x=y device="wrist-1",source=5,copy=true {at_ns}')
        lines.append(f'{measurement},x=y device="wrist-1",source=5,copy=true {b.NOW_NS}')
    influx_server.write("\n".join(lines), config.bucket)
    return config


@pytest.fixture
def store(config):
    """The store in it."""
    with InfluxStore(config) as store:
        yield store


def ours(store):
    """What of its rows is genuine."""
    return shown(row for row in store.rows() if row.ref is not None)


def test_readings_keep_their_places_and_come_back(store, config):
    """Written forwards, backwards and again: nobody overwrites anybody, and nothing foreign counts as a neighbour."""
    items = put(store, 0, [at(0), at(0, 73), wave(5), at(60)])
    late = put(store, 1, [at(0, 74, quality=3), wave(5.5), at(-60)])
    with InfluxStore(config) as again:
        put(again, 2, [at(0, 75)])
        again.write([], items, 3)
        rows = [row for row in again.rows() if row.ref is not None]
        assert sorted(row.copy for row in rows if row.time_ns == b.NOW_NS) == [0, 1, 2, 3]
        assert len(rows) == len(items + late) + 1
        assert all(row.more == "" for row in rows)
        known = {item.ref: item for item in items + late}
        assert all(row == row_of(known[row.ref], row.copy, row.where) for row in rows if row.ref in known)
        assert {sample.copy for sample in again.samples() if sample.ref == late[1].ref} == {1}
        assert list(again.readings())[: len(known)] == [*items, *late]
        assert again.cursor() == 3


def test_chart_counts_what_is_a_number(store):
    """Text in that series is none."""
    put(store, 0, [at(0, 60), at(1, 80)])
    times = b.NOW_NS - 10 * WEEK_NS, b.NOW_NS + 10 * WEEK_NS
    selection = Selection("wrist-1", b.SOURCE, 1, *times)
    drawn = [bucket for bucket in store.chart(selection, WEEK_NS) if bucket.greatest == 80]
    assert [(bucket.count, bucket.least, bucket.mean) for bucket in drawn] == [(2, 60.0, 70.0)]


@pytest.mark.parametrize("known", [True, False])
def test_erased_is_gone_and_nothing_else_is(store, config, influx_server, known):
    """With the batch record and without."""
    items = put(store, 0, [at(0), wave(5), at(60)])
    foreign = [row.where for row in store.rows() if row.ref is None]
    if not known:
        influx_server.query("DROP MEASUREMENT ledger_batch", config.bucket)
    store.erase(0, [1, 2])
    assert list(store.readings()) == items[2:]
    assert items[1].ref not in {sample.ref for sample in store.samples()}
    assert [row.where for row in store.rows() if row.ref is None] == foreign


def test_records_are_read_and_strange_ones_are_listed(store):
    """Each batch and checkpoint record of ours as it was written, and every other one as what cannot be read."""
    items = stored(4, [at(0)])
    batch = batch_of(4, items)
    store.write([batch], items, 5)
    assert store.batch(4) == batch
    strange = [index for index in store.batch_indexes() if index != 4]
    assert len(strange) >= 7
    for index in strange:
        with pytest.raises(MalformedError):
            store.batch(index)
    notes = dict(store.checkpoints())
    assert notes.pop(5) == batch.checkpoint
    assert len(notes) >= 7
    assert set(notes.values()) == {b""}


def test_rows_of_others_say_what_they_are(store):
    """Every foreign row is one, and names its fields and their types."""
    rows = [row for row in store.rows() if row.ref is None]
    told = " ".join(row.more for row in rows)
    for name in ("seal as float", "value as string", "quality as boolean", "copy as boolean", "device as string"):
        assert name in told


def test_sound_database_is_asked_for_its_fields_once_a_walk(influx_server, monkeypatch):
    """And for no column but ours."""
    config = influx_server.config(influx_server.fresh_database())
    with InfluxStore(config) as store:
        items = put(store, 0, [at(0), wave(1, 2)])
        assert not columns_of(store._query, READING).others
        asked = []
        query = store._query
        monkeypatch.setattr(store, "_query", lambda text, **how: asked.append(text) or query(text, **how))
        assert sorted(row.ref for row in store.rows()) == [item.ref for item in items]
        assert len(list(store.samples())) == 2
        assert len(asked) == 4
        assert "c1" not in asked[-1]
