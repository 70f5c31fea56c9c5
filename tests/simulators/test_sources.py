"""Simulated sensors: the same readings at every replay, resumed anywhere, released when due and never early."""

from array import array
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.source import make_source
from ledger.kinds import BY_CODE, BY_NAME
from ledger.reading import MAX_WAVEFORM, Absent, Quality, Scalar, Waveform
from simulators import recordings
from simulators.recorded import recorded_series
from simulators.recordings import WaveformRecording
from simulators.replay import MAX_CHUNK, MAX_WAIT_S, MIN_WAIT_S, format_cursor, parse_cursor
from simulators.sources import RecordingSource, SyntheticSource
from simulators.synthetic import SIGNALS
from vitalseal.errors import UserError

SECOND = 10**9
NOW_NS = int(datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()) * SECOND
DAY_AGO_NS = NOW_NS - 86_400 * SECOND


class FakeClock:
    """Time that passes only in `sleep`."""

    def __init__(self, wall_ns=NOW_NS):
        self.wall = wall_ns
        self.monotonic = 77
        self.naps = []

    def wall_ns(self):
        return self.wall

    def monotonic_ns(self):
        return self.monotonic

    async def sleep(self, seconds):
        self.naps.append(seconds)
        self.pass_ns(round(seconds * SECOND))

    def pass_ns(self, ns):
        self.wall += ns
        self.monotonic += ns


def recording_source(name="multisport_forerunner935", clock=None, **options):
    options = {"recording": name, "start_ns": DAY_AGO_NS} | options
    return RecordingSource(
        name="strap", source_id=bytes(16), options=options, directory=Path("/nowhere"), clock=clock or FakeClock()
    )


def synthetic_source(signal="spo2", clock=None, **options):
    options = {"signal": signal, "start_ns": DAY_AGO_NS} | options
    return SyntheticSource(
        name="clip", source_id=bytes(16), options=options, directory=Path("/nowhere"), clock=clock or FakeClock()
    )


async def chunks_of(source, cursor=None):
    return [chunk async for chunk in source.readings(cursor)]


async def readings_of(source, cursor=None):
    return [reading for chunk in await chunks_of(source, cursor) for reading in chunk.readings]


def identities(readings):
    return [(reading.kind, reading.sensor_time_ns, reading.ordinal) for reading in readings]


@pytest.mark.parametrize("name", recordings.names())
async def test_recording_comes_whole_and_in_order(name):
    """Every point once, in the order of its time, with an identity of its own, all in the past."""
    readings = await readings_of(recording_source(name, speed=5000.0))
    recording = recordings.load(name)
    if isinstance(recording, WaveformRecording):
        samples = [number for reading in readings for number in reading.value.integers()]
        assert samples == [number for _, segment in recording.segments for number in segment]
    else:
        assert [(r.sensor_time_ns - DAY_AGO_NS, str(r.value)) for r in readings] == list(recording.points)
    times = [reading.sensor_time_ns for reading in readings]
    assert times == sorted(times)
    assert len(set(identities(readings))) == len(readings)
    assert times[-1] < NOW_NS


async def test_recording_repeated_times_differ_by_ordinal():
    """The seven points that the source states twice are two readings each."""
    readings = await readings_of(recording_source("laps_forerunner935", speed=5000.0))
    assert sum(reading.ordinal for reading in readings) == 7
    assert {reading.ordinal for reading in readings} == {0, 1}


@pytest.mark.parametrize(("name", "frames", "channels"), [("ecg_bitalino", 1000, 1), ("walk_daphnet", 64, 3)])
async def test_waveform_comes_in_stretches_of_a_second(name, frames, channels):
    """The samples keep their period, scale and channels; only the last stretch is shorter."""
    recording = recordings.load(name)
    readings = await readings_of(recording_source(name, speed=100.0))
    for at, reading in enumerate(readings):
        value = reading.value
        assert isinstance(value, Waveform)
        assert (value.period_ns, value.period_divisor) == (recording.period_ns, recording.period_divisor)
        assert (value.scale, value.origin, value.channels, value.width) == (
            recording.scale,
            recording.origin,
            channels,
            2,
        )
        assert len(value) == frames or at == len(readings) - 1
        assert reading.sensor_time_ns == DAY_AGO_NS + at * SECOND


def test_waveform_stretches_stop_at_breaks_and_at_the_size_limit():
    """No reading reaches over a gap, and none is larger than the format allows."""
    fast = recordings.WaveformRecording(
        name="made",
        kind="ecg",
        start_ns=None,
        device=None,
        period_ns=10_000,
        period_divisor=3,
        channels=("a", "b"),
        scale=(1, -3),
        origin=(0, 0),
        segments=((0, struct_array(range(9000))), (5 * SECOND, struct_array(range(40)))),
    )
    series = recorded_series(fast, start_ns=0, loop=False)
    steps = list(iter_steps(series))
    sizes = [len(step.readings[0].value.samples) for step in steps]
    assert sizes == [MAX_WAVEFORM, 2 * 9000 - MAX_WAVEFORM, 80]
    assert steps[1].readings[0].sensor_time_ns == 4096 * 10_000 // 3
    assert steps[2].readings[0].sensor_time_ns == 5 * SECOND
    assert steps[2].due_ns == 5 * SECOND + 20 * 10_000 // 3


def struct_array(numbers):
    return array("h", numbers)


def iter_steps(series):
    position = 0
    while (step := series.step(position)) is not None:
        yield step
        position += 1


@pytest.mark.parametrize(
    "name", ["multisport_forerunner935", "indoor_forerunner935", "laps_forerunner935", "ecg_bitalino"]
)
def test_looped_recording_never_repeats_an_identity(name):
    """Each lap lies behind the last, by a step that the recording could have had."""
    series = recorded_series(recordings.load(name), start_ns=DAY_AGO_NS, loop=True)
    once = list(iter_steps(recorded_series(recordings.load(name), start_ns=DAY_AGO_NS, loop=False)))
    thrice = [series.step(position) for position in range(3 * len(once))]
    assert thrice[: len(once)] == once
    readings = [reading for step in thrice for reading in step.readings]
    assert len(set(identities(readings))) == len(readings)
    times = [reading.sensor_time_ns for reading in readings]
    assert times == sorted(times)
    assert [step.readings[0].value for step in thrice[len(once) : 2 * len(once)]] == [s.readings[0].value for s in once]


@pytest.mark.parametrize(
    "make",
    [
        lambda clock: recording_source(clock=clock, speed=4.0),
        lambda clock: recording_source("indoor_forerunner935", clock=clock, speed=50.0),
        lambda clock: recording_source("walk_daphnet", clock=clock, speed=30.0),
        lambda clock: synthetic_source(clock=clock, count=70, speed=10.0),
        lambda clock: synthetic_source("blood_pressure", clock=clock, count=20, speed=500.0),
    ],
)
async def test_source_resumed_from_every_cursor_goes_on_exactly(make):
    """Whatever chunk was the last to be committed: no reading is lost, none repeated, none changed."""
    clock = FakeClock()
    chunks = await chunks_of(make(clock))
    whole = [reading for chunk in chunks for reading in chunk.readings]
    for number, chunk in enumerate(chunks):
        before = [reading for earlier in chunks[: number + 1] for reading in earlier.readings]
        after = await readings_of(make(FakeClock(clock.wall)), chunk.cursor)
        assert before + after == whole


@settings(max_examples=40, deadline=None)
@given(
    speed=st.floats(0.5, 5000.0),
    down_s=st.lists(st.floats(0.0, 200.0), max_size=6),
    chunks_each=st.integers(1, 4),
)
async def test_source_crashing_again_and_again_loses_and_repeats_nothing(speed, down_s, chunks_each):
    """A crash after some chunks, a pause, a restart from the committed cursor; over and over."""
    clock = FakeClock()
    seen, cursor = [], None
    for pause_s in down_s:
        running = recording_source("indoor_forerunner935", clock=clock, speed=speed).readings(cursor)
        taken = 0
        async for chunk in running:
            seen += chunk.readings
            cursor = chunk.cursor
            taken += 1
            if taken == chunks_each:
                break
        await running.aclose()
        clock.pass_ns(round(pause_s * SECOND))
    seen += await readings_of(recording_source("indoor_forerunner935", clock=clock, speed=speed), cursor)
    assert seen == await readings_of(recording_source("indoor_forerunner935", speed=5000.0))


@pytest.mark.parametrize("speed", [0.5, 1.0, 7.0, 100.0])
async def test_recording_keeps_its_schedule(speed):
    """At each moment exactly those points are out whose time, at this speed, has come."""
    clock = FakeClock()
    points = recordings.load("indoor_forerunner935").points
    released = 0
    async for chunk in recording_source("indoor_forerunner935", clock=clock, speed=speed).readings(None):
        released += len(chunk.readings)
        elapsed_ns = clock.wall - NOW_NS
        assert released == sum(offset_ns <= elapsed_ns * speed for offset_ns, _ in points)
    # The last nap may be as long as the shortest, and no longer.
    assert clock.wall - NOW_NS == pytest.approx(points[-1][0] / speed, abs=2 * MIN_WAIT_S * SECOND)


async def test_recording_at_high_speed_releases_many_points_a_wake_up():
    """A hundred thousand times life still takes as long as it should, in bounded chunks and few wake-ups."""
    clock = FakeClock()
    chunks = await chunks_of(recording_source("ride_edge1000", clock=clock, speed=100_000.0, start_ns=DAY_AGO_NS))
    assert sum(len(chunk.readings) for chunk in chunks) == 8357
    assert max(len(chunk.readings) for chunk in chunks) == MAX_CHUNK
    assert len(clock.naps) < 10


async def test_recording_is_never_ahead_of_its_own_sensor_time():
    """A recording that began just now comes no faster than life, however fast it may."""
    clock = FakeClock()
    async for chunk in recording_source(clock=clock, start_ns=NOW_NS, speed=1000.0).readings(None):
        assert all(reading.sensor_time_ns <= clock.wall for reading in chunk.readings)
    assert clock.wall - NOW_NS >= 59 * SECOND


async def test_restart_releases_at_once_what_fell_due_meanwhile():
    """The schedule is that of the first start: a source that was away catches up."""
    clock = FakeClock()
    first = [chunk async for chunk in take(recording_source(clock=clock).readings(None), 5)]
    clock.pass_ns(20 * SECOND)
    naps = len(clock.naps)
    chunk = await anext(recording_source(clock=clock).readings(first[-1].cursor))
    assert clock.naps[naps:] == []
    assert len(chunk.readings) == 20


async def take(chunks, count):
    for _ in range(count):
        yield await anext(chunks)


async def test_wall_clock_set_while_running_changes_no_schedule():
    """A clock that is set back an hour holds nothing up, for sensor times are a day old."""
    clock = FakeClock()
    chunks = recording_source(clock=clock).readings(None)
    await anext(chunks)
    clock.wall -= 3600 * SECOND
    before_ns = clock.monotonic
    await anext(chunks)
    assert clock.monotonic - before_ns <= 1.1 * SECOND


async def test_source_ends_once_its_stop_file_is_there(tmp_path):
    """An endless source ends in good order, and sees the file within a moment."""
    clock = FakeClock()
    source = RecordingSource(
        name="strap",
        source_id=bytes(16),
        options={"recording": "run_polar_m400", "start_ns": DAY_AGO_NS, "loop": True, "stop": "stop"},
        directory=tmp_path,
        clock=clock,
    )
    chunks = source.readings(None)
    await anext(chunks)
    (tmp_path / "stop").touch()
    assert [chunk async for chunk in chunks] == []
    assert max(clock.naps, default=0.0) <= MAX_WAIT_S


@pytest.mark.parametrize("signal", SIGNALS)
def test_synthetic_readings_are_demo_data_and_plausible(signal):
    """Every reading is marked, has a value that a body can have, or says that the contact was lost."""
    readings = synthetic_readings(signal, 3000)
    assert all(reading.quality & Quality.DEMO_DATA for reading in readings)
    for reading in readings:
        low, high = BY_CODE[reading.kind].plausible
        if isinstance(reading.value, Absent):
            assert reading.quality & Quality.CONTACT_LOST
        else:
            assert isinstance(reading.value, Scalar)
            assert low <= float(str(reading.value)) <= high
    lost = sum(isinstance(reading.value, Absent) for reading in readings)
    assert (0 < lost < len(readings) / 50) == SIGNALS[signal].loses_contact


def test_synthetic_readings_follow_from_the_seed():
    """The same patient twice is the same; another is another."""
    assert synthetic_readings("spo2", 200, seed=3) == synthetic_readings("spo2", 200, seed=3)
    assert synthetic_readings("spo2", 200, seed=3) != synthetic_readings("spo2", 200, seed=4)


def test_synthetic_values_wander_rather_than_jump():
    """From one second to the next a temperature changes by a tenth at most."""
    values = [float(str(r.value)) for r in synthetic_readings("body_temperature", 600) if isinstance(r.value, Scalar)]
    assert max(abs(late - early) for early, late in pairwise(values)) <= 0.3
    assert len(set(values)) > 3


async def test_blood_pressure_is_three_readings_of_one_moment():
    """Systolic, diastolic and mean share a sensor time, and are in order."""
    chunk = await anext(synthetic_source("blood_pressure").readings(None))
    systolic, diastolic, mean = (float(str(reading.value)) for reading in chunk.readings)
    assert diastolic < mean < systolic
    assert [reading.kind for reading in chunk.readings] == [
        BY_NAME[name].code for name in ("systolic_pressure", "diastolic_pressure", "mean_pressure")
    ]
    assert {reading.sensor_time_ns for reading in chunk.readings} == {DAY_AGO_NS}


def synthetic_readings(signal, count, **options):
    series = synthetic_source(signal, **options)._series
    return [reading for at in range(count) for reading in series.step(at).readings]


async def test_synthetic_period_and_count_are_as_configured():
    """Five readings, two and a half seconds apart."""
    readings = await readings_of(synthetic_source(period_s=2.5, count=5))
    times = [reading.sensor_time_ns - DAY_AGO_NS for reading in readings]
    assert times == [0, 2_500_000_000, 5_000_000_000, 7_500_000_000, 10_000_000_000]


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("recording", {"recording": "nobody"}, "no recording is named 'nobody'"),
        ("recording", {"recording": "ecg_bitalino", "speed": 0}, "speed: 0.0 is not above 0"),
        ("recording", {"recording": "ecg_bitalino", "sped": 2}, "did you mean 'speed'"),
        ("synthetic", {"signal": "glucose"}, "signal: 'glucose' is not one of"),
        ("synthetic", {"signal": "spo2", "period_s": -1}, "period_s: -1.0 is not above 0"),
        ("synthetic", {"signal": "spo2", "count": -1}, "count: -1 is below 0"),
    ],
)
def test_source_options_that_cannot_work_are_named(kind, options, said):
    """A mistake in `edge.toml` is one line with source and key."""
    with pytest.raises(UserError, match=said) as error:
        make_source(
            kind, name="strap", source_id=bytes(16), options={"start_ns": 0} | options, directory=Path("/nowhere")
        )
    assert "source 'strap'" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["recording", "synthetic"])
def test_sources_are_found_by_their_entry_points(kind):
    """`edge.toml` names them by type, and their descriptions fit a batch info."""
    options = {"recording": {"recording": "laps_forerunner935"}, "synthetic": {"signal": "respiratory_rate"}}[kind]
    source = make_source(
        kind, name="s", source_id=b"12345678", options=options | {"start_ns": 5}, directory=Path("/nowhere")
    )
    assert source.source_id == b"12345678"
    assert len(source.description.encode()) <= 64
    assert source.description.isascii()
    assert source.description.isprintable()


@given(st.integers(0, 10**18 - 1), st.integers(0, 2**63 - 1))
def test_cursor_round_trip(position, origin_ns):
    """What was written is read."""
    assert parse_cursor(format_cursor(position, origin_ns)) == (position, origin_ns)


@pytest.mark.parametrize("cursor", [b"", b"1", b"1 2 3", b"-1 2", b"1  2", b"x y", b"1 2\n"])
async def test_cursor_of_another_source_is_refused(cursor):
    """A source whose type was changed says so, rather than to begin anew and repeat everything."""
    with pytest.raises(UserError, match="was the source's type changed"):
        await anext(recording_source().readings(cursor))
