"""What every reading store does, on each of them: the embedded one and a real InfluxDB."""

import contextlib
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from aggregator.timeseries.base import Selection, row_of
from aggregator.timeseries.influxql import MAX_TIME, MIN_TIME
from aggregator.timeseries.lines import samples_of
from ledger.batch import LEAVES_PER_BATCH, MAX_READINGS
from ledger.reading import Absent, Quality, Reading, Scalar, Waveform, pack_samples
from tests.ledger import builders as b
from tests.ledger.strategies import readings as any_reading
from tests.timeseries.conftest import batch_of, shown, stored

SECOND = 10**9
FIRST, LAST = -(2**63), 2**63 - 1


def at(seconds, mantissa=72, *, kind=1, source=b.SOURCE, quality=0, ordinal=0):
    return Reading(source, kind, b.NOW_NS + int(seconds * SECOND), ordinal, None, 0, Scalar(mantissa, 0), quality)


def wave(seconds, frames=50, *, channels=1):
    """A waveform of 50 frames a second."""
    samples = pack_samples([(7 * number) % 2000 - 1000 for number in range(frames * channels)], 2)
    value = Waveform(20_000_000, 1, (1, -3), (0, 0), channels, 2, samples)
    return Reading(b.SOURCE, 14, b.NOW_NS + int(seconds * SECOND), 0, None, 0, value)


def put(store, log_index, readings, device="wrist-1"):
    """One entry's readings written, the cursor behind it; returns what was written."""
    items = stored(log_index, readings, device)
    assert store.write([batch_of(log_index, items, device)], items, log_index + 1) == ()
    return items


def expected(items):
    """The rows of `items`, all of them copy 0."""
    return shown(row_of(item) for item in items)


def without_copies(rows):
    return [(row[0], *row[2:]) for row in shown(rows)]


def check_copies(rows):
    """No two rows of one series and time share a copy, and none has a greater one than it needs."""
    places = defaultdict(list)
    for row in rows:
        places[row.device, row.source, row.kind, row.time_ns].append(row.copy)
    for copies in places.values():
        assert len(set(copies)) == len(copies)


def test_new_store_holds_nothing(store):
    """Cursor 0 and no row of any kind."""
    assert store.cursor() == 0
    assert list(store.rows()) == list(store.readings()) == list(store.samples()) == []
    assert list(store.batch_indexes()) == list(store.checkpoints()) == []
    assert store.batch(0) is None


def test_readings_come_back_as_written(store):
    """Scalars, absences, waveforms, every quality bit, a kind nobody knows: each row shows its body."""
    items = put(
        store,
        3,
        [
            b.scalar(),
            b.scalar(-720, -1, kind=4),
            b.scalar(2**63 - 1, 127, kind=10),
            b.scalar(-(2**63), -128, kind=13),
            b.scalar(0, 5, kind=9),
            at(1, quality=int(sum(Quality))),
            at(2, kind=40_000),
            b.absent(),
            b.waveform(),
            b.waveform((1, 2, 3, 4, 5, 6), kind=16, channels=3),
        ],
    )
    assert shown(store.rows()) == expected(items)
    assert list(store.readings()) == items
    assert store.cursor() == 4


def test_reopened_store_holds_the_same(place):
    """Readonly as well, beside the one that writes."""
    with place.open() as store:
        items = put(store, 0, [at(0), at(1)])
        with place.open(readonly=True) as beside:
            assert (beside.cursor(), list(beside.readings())) == (1, items)
    with place.open() as store:
        assert (store.cursor(), list(store.readings())) == (1, items)


def test_writing_again_changes_nothing(place):
    """By the same process, and by the next one, with other entries around."""
    with place.open() as store:
        items = stored(7, [at(0), at(0, 73), at(0, 74, ordinal=1), wave(1), wave(1.5), at(2)])
        batch = batch_of(7, items)
        for _ in range(2):
            store.write([batch], items, 8)
        before = list(store.rows()), list(store.samples()), store.batch(7)
    with place.open() as store:
        store.write([batch], items, 8)
        put(store, 8, [at(0), at(3)])
        store.write([batch], items, 9)
        rows = [row for row in store.rows() if row.ref // LEAVES_PER_BATCH == 7]
        assert (shown(rows), store.batch(7)) == (shown(before[0]), before[2])
        assert list(store.samples()) == before[1]


def test_portion_may_be_empty(store):
    """A cursor can move over entries that have nothing to store."""
    assert store.write([], [], 5) == ()
    assert store.cursor() == 5


def test_equal_readings_of_one_batch_are_all_kept(store):
    """One identity stated three times, and ordinals of one notification: as many rows as readings."""
    items = put(store, 0, [at(0), at(0), at(0), *(at(1, ordinal=number) for number in range(12))])
    rows = list(store.rows())
    assert without_copies(rows) == without_copies(map(row_of, items))
    assert list(store.readings()) == items


@pytest.mark.parametrize("reopened", [False, True])
def test_equal_readings_across_batches_are_all_kept(place, reopened):
    """Whether the store remembers who is there or has to ask; those that were there stay as they are."""
    with place.open() as store:
        items = put(store, 0, [at(second) for second in range(30)])
        if not reopened:
            items += put(store, 1, [at(second, 80) for second in range(30)])
    with place.open() as store:
        if reopened:
            items += put(store, 1, [at(second, 80) for second in range(30)])
        items += put(store, 2, [at(2), at(2), at(31), at(-500)])
        store.write([], items, 3)
        rows = list(store.rows())
    assert without_copies(rows) == without_copies(map(row_of, items))
    if store.keeps_samples:
        assert {row.ref: row.copy for row in rows if row.time_ns == b.NOW_NS + 2 * SECOND} == {
            3: 0,
            LEAVES_PER_BATCH + 3: 1,
            2 * LEAVES_PER_BATCH + 1: 2,
            2 * LEAVES_PER_BATCH + 2: 3,
        }


@pytest.mark.parametrize("reopened", [False, True])
def test_overlapping_waveforms_keep_all_their_frames(place, reopened):
    """In order, overlapping by a few frames; one that lies across two; one at a time that has a scalar of its kind."""
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(place.open())
        items = put(store, 0, [wave(0), wave(0.9), wave(1.8), wave(5), at(7, kind=14)])
        if reopened:
            store = stack.enter_context(place.open())
        items += put(store, 1, [wave(0.5), wave(0), wave(4.99, 200), wave(7)])
        store.write([], items, 2)
        rows, samples = list(store.rows()), list(store.samples())
    assert without_copies(rows) == without_copies(map(row_of, items))
    if store.keeps_samples:
        copies = {row.ref: row.copy for row in rows}
        assert [copies[item.ref] for item in items] == [0, 1, 0, 0, 0, 2, 3, 1, 2]
        due = [sample for item in items for sample in samples_of(item, copies[item.ref])]
        assert sorted(map(frame, samples)) == sorted(map(frame, due))


def frame(sample):
    return (sample.copy, sample.time_ns, sample.ref, sample.values, sample.device, sample.source, sample.kind)


def test_samples_are_the_physical_values(store):
    """Each frame at its time, by channel, as near to the decimal as a float can be."""
    reading = b.waveform((0, 1, -1, 300, 2, 5), channels=2)
    items = put(store, 0, [reading])
    due = samples_of(items[0]) if store.keeps_samples else []
    assert sorted(map(frame, store.samples())) == sorted(map(frame, due))
    if due:
        assert [sample.values for sample in due] == [(0.0, 0.001), (-0.001, 0.3), (0.002, 0.005)]
        assert [sample.time_ns - b.NOW_NS for sample in due] == [0, 7_692_307, 15_384_615]


def test_batch_records_come_back_as_written(store):
    """The largest there is, one without readings, and the checkpoint that two of them share."""
    items = stored(5, [at(0), at(10)])
    small = batch_of(6, [], size=7)
    large = replace(batch_of(5, items, leaves=MAX_READINGS + 1), checkpoint=small.checkpoint)
    store.write([large, small], items, 7)
    assert store.batch(5) == large
    assert store.batch(6) == small
    assert store.batch(5).checkpoint_at == 7
    assert list(store.batch_indexes()) == [5, 6]
    assert list(store.checkpoints()) == [(7, small.checkpoint)]
    assert store.batch(4) is None
    assert store.batch(2**40) is None


def test_checkpoint_signed_again_takes_the_place_of_the_first(store):
    """Both batches have the later note."""
    first, second = batch_of(0, [], size=9), batch_of(1, [], size=9)
    store.write([first], [], 1)
    assert store.batch(0).checkpoint == first.checkpoint
    store.write([second], [], 2)
    assert [store.batch(index).checkpoint for index in (1, 0)] == [second.checkpoint] * 2
    assert list(store.checkpoints()) == [(9, second.checkpoint)]


def test_batch_indexes_are_in_order(store):
    """Whatever the order in which they were written, and across devices."""
    for index, device in ((200, "b"), (3, "c"), (100, "a")):
        store.write([batch_of(index, [], device)], [], index)
    assert list(store.batch_indexes()) == [3, 100, 200]
    assert store.batch(100).device == "a"


def test_readings_are_by_ref(store):
    """Across devices, kinds and times that go the other way."""
    items = [put(store, index, [at(-index, kind=1 + index % 3)], f"dev-{index % 4}")[0] for index in range(20)]
    assert list(store.readings()) == items


@pytest.mark.parametrize(
    ("condition", "refs"),
    [
        ({}, {1, 2, 3, 4, 4097, 4098}),
        ({"device": "wrist-1"}, {1, 2, 3, 4}),
        ({"device": "wrist"}, set()),
        ({"source": b"\x07"}, {3}),
        ({"source": b.SOURCE}, {1, 2, 4, 4097, 4098}),
        ({"kind": 2}, {2, 4098}),
        ({"kind": 999}, set()),
        ({"from_ns": b.NOW_NS + 2 * SECOND}, {3, 4, 4098}),
        ({"to_ns": b.NOW_NS + 2 * SECOND}, {1, 2, 4097}),
        ({"from_ns": b.NOW_NS + SECOND, "to_ns": b.NOW_NS + 3 * SECOND, "device": "wrist-1"}, {2, 3}),
        ({"from_ns": FIRST, "to_ns": LAST}, {1, 2, 3, 4, 4097, 4098}),
        ({"from_ns": LAST}, set()),
        ({"to_ns": FIRST}, set()),
        ({"device": "ghost-2", "source": b.SOURCE, "kind": 1, "from_ns": 0, "to_ns": LAST}, {4097}),
    ],
)
def test_selection_is_what_meets_every_condition(filled, condition, refs):
    """By `select` and by `rows`."""
    selection = Selection(**condition)
    assert {item.ref for item in filled.select(selection)} == refs
    assert {row.ref for row in filled.rows(selection)} == refs


@pytest.fixture
def filled(store):
    put(store, 0, [at(0), at(1, kind=2), at(2, source=b"\x07"), at(3)])
    put(store, 1, [at(1), at(9, kind=2)], "ghost-2")
    return store


def test_selection_is_by_series_and_time(store):
    """Of one time by ref, although the later one was stated first."""
    put(store, 0, [at(5, 80), at(1), at(5, 81), at(3, kind=2), at(2, kind=2)])
    put(store, 1, [at(1), at(5), at(0, kind=2)])
    refs = [item.ref for item in store.select(Selection(device="wrist-1"))]
    first = [2, 4097, 1, 3, 4098]
    second = [4099, 5, 4]
    assert refs in (first + second, second + first)


@pytest.mark.parametrize("start", [0, 1, 7, -3])
@pytest.mark.parametrize("width_ns", [1, 10**9, 7 * 10**9 + 1, 3600 * 10**9])
def test_chart_counts_stretches_from_its_start(store, start, width_ns):
    """Count, least, mean and greatest of every stretch that has a number; absences and waveforms have none."""
    values = [(0, 72), (0.5, 80), (1, 60), (7, 1), (7, 1), (8, -5), (20, 2**53 + 1)]
    readings = [at(second, value) for second, value in values]
    put(store, 0, [*readings, Reading(b.SOURCE, 1, b.NOW_NS, 0, None, 0, Absent(6)), at(0, 5, kind=2)])
    from_ns, to_ns = b.NOW_NS + start * SECOND, b.NOW_NS + 20 * SECOND + 1
    groups = defaultdict(list)
    for second, value in values:
        time_ns = b.NOW_NS + int(second * SECOND)
        if from_ns <= time_ns < to_ns:
            groups[from_ns + (time_ns - from_ns) // width_ns * width_ns].append(float(value))
    chart = store.chart(Selection("wrist-1", b.SOURCE, 1, from_ns, to_ns), width_ns)
    assert [(bucket.start_ns, bucket.count, bucket.least, bucket.greatest) for bucket in chart] == [
        (start_ns, len(group), min(group), max(group)) for start_ns, group in sorted(groups.items())
    ]
    means = [sum(group) / len(group) for _, group in sorted(groups.items())]
    assert [bucket.mean for bucket in chart] == pytest.approx(means, rel=1e-12)


def test_erased_readings_are_gone(place):
    """A scalar, a waveform with its frames, one of two that are alike; what lies around them stays."""
    with place.open() as store:
        items = put(store, 4, [at(0), at(0, 73), wave(1), wave(1.5), at(9), at(10)])
        others = put(store, 5, [at(0), wave(1.2), at(10)], "wrist-2")
        frames = list(store.samples())
        batch = store.batch(4)
    with place.open() as store:
        store.erase(4, [2, 3, 6])
        kept = [items[0], items[3], items[4], *others]
        gone = {items[1].ref, items[2].ref, items[5].ref}
        assert list(store.readings()) == kept
        assert {row.ref for row in store.rows()} == {item.ref for item in kept}
        assert list(store.samples()) == [sample for sample in frames if sample.ref not in gone]
        assert store.batch(4).span_ns == (b.NOW_NS, b.NOW_NS + 9 * SECOND)
        assert store.batch(4).leaf_hashes == batch.leaf_hashes
        assert store.cursor() == 6
        store.erase(4, [2, 3, 6])
        store.erase(4, [1, 4, 5])
        assert list(store.readings()) == others
        assert store.batch(4).span_ns is None
        assert {row.ref for row in store.rows()} == {item.ref for item in others}


def test_erased_waveform_is_gone_however_far_it_reaches(place):
    """Its last frame lies months behind all that its batch record speaks of."""
    monthly = replace(wave(0), value=replace(wave(0, 12).value, period_ns=30 * 24 * 3600 * SECOND))
    with place.open() as store:
        items = put(store, 4, [monthly, at(1)])
        frames = len(list(store.samples()))
        assert frames == (12 if store.keeps_samples else 0)
        store.erase(4, [1])
        assert list(store.readings()) == items[1:]
        assert list(store.samples()) == []


def test_write_may_leave_the_cursor(store):
    """It stands where it stood, or is 0."""
    items = stored(3, [at(0)])
    store.write([], items, None)
    assert (store.cursor(), list(store.readings())) == (0, items)
    store.write([], [], 4)
    store.write([], items, None)
    assert store.cursor() == 4


def test_erasing_what_is_not_there_is_fine(store):
    """Neither an entry of which nothing is known, nor leaves without a row, nor a store that is empty."""
    store.erase(4, [1, 2])
    items = put(store, 0, [at(0)])
    store.erase(9, [1])
    store.erase(0, [7])
    assert list(store.readings()) == items
    assert store.batch(0).span_ns == (b.NOW_NS, b.NOW_NS)


def test_what_was_erased_can_be_written_again(store):
    """As a restored backup does, before it hears of the erasure."""
    items = put(store, 0, [at(0), at(0), wave(1)])
    store.erase(0, [1, 3])
    store.write([], items, 1)
    assert list(store.readings()) == items


def test_cleared_store_is_as_new(place):
    """Cursor, rows, frames and records are gone, and it can be filled again."""
    with place.open() as store:
        items = put(store, 0, [at(0), at(0), wave(1)])
        store.clear()
        assert store.cursor() == 0
        assert list(store.rows()) == list(store.samples()) == list(store.checkpoints()) == []
        assert store.batch(0) is None
        store.write([], items, 1)
        assert list(store.readings()) == items
    with place.open() as store:
        store.clear()
        store.clear()
        assert (store.cursor(), list(store.rows())) == (0, [])


ODD = ["a", "x" * 64, "with space", "comma,equals=", "back\\slash", "quote\"'s", "#hash", "tab\there", "ünï/ö", "*"]


@pytest.mark.parametrize("device", ODD)
def test_device_names_may_hold_anything_printable(store, device):
    """In rows, in selections, in batch records, and when erased."""
    items = put(store, 0, [at(0), at(1)], device)
    put(store, 1, [at(0)], "other")
    assert list(store.select(Selection(device=device))) == items
    assert store.batch(0).device == device
    store.erase(0, [1])
    assert list(store.select(Selection(device=device))) == items[1:]


def test_times_may_be_odd(store):
    """1970, before it, the year 2250, the ends of what both stores can hold: clocks that were never set."""
    times = [0, 1, -1, -(10**18), 7 * 10**18 + 1, MIN_TIME, MAX_TIME]
    readings = [Reading(b.SOURCE, 1, time_ns, 0, None, 0, Scalar(5, 0)) for time_ns in times]
    items = put(store, 0, readings)
    assert shown(store.rows()) == expected(items)
    assert list(store.readings()) == items
    assert store.batch(0).span_ns == (MIN_TIME, MAX_TIME)
    store.erase(0, [1, 5])
    assert list(store.readings()) == [*items[1:4], *items[5:]]


def test_title_names_no_secret(place):
    """It is for people."""
    with place.open() as store:
        assert {"embedded": "SQLite", "influx": "InfluxDB"}[place.name] in store.title


few_sources = st.sampled_from([b"\x01", b"\x02"])
times = st.integers(-3, 3).map(lambda number: b.NOW_NS + number * 40_000_000)
values = (
    st.builds(Scalar, st.integers(-(2**63), 2**63 - 1), st.integers(-128, 127))
    | st.builds(Absent, st.integers(1, 255))
    | st.integers(1, 5).map(lambda frames: wave(0, frames).value)
)
kinds, qualities = st.sampled_from([1, 14, 60_000]), st.integers(0, 3)
colliding = st.builds(Reading, few_sources, kinds, times, st.just(0), st.none(), st.just(0), values, qualities)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True, database=None)
@given(data=st.data())
def test_random_readings_in_random_portions_come_back(place, data):
    """Readings that collide as often as they can, written in portions, some again, with the store reopened between."""
    with place.open() as store:
        store.clear()
    written = []
    for log_index in range(data.draw(st.integers(1, 4))):
        readings = data.draw(st.lists(colliding | any_reading, max_size=8))
        assume(all(reading.sensor_time_ns >= MIN_TIME and reading.end_ns <= MAX_TIME for reading in readings))
        items = stored(log_index, readings, data.draw(st.sampled_from("ab")))
        with place.open() as store:
            for _ in range(data.draw(st.integers(1, 2))):
                cut = data.draw(st.integers(0, len(items)))
                assert store.write([], items[:cut], log_index) == ()
                assert store.write([batch_of(log_index, items)], items, log_index + 1) == ()
        written += items
    with place.open(readonly=True) as store:
        rows = list(store.rows())
        assert without_copies(rows) == without_copies(map(row_of, written))
        assert list(store.readings()) == written
        if store.keeps_samples:
            check_copies(rows)
            copies = {row.ref: row.copy for row in rows}
            due = [sample for item in written for sample in samples_of(item, copies[item.ref])]
            assert sorted(map(frame, store.samples())) == sorted(map(frame, due))
