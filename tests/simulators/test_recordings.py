"""The recordings are what the index says, real gaps included, and identify nobody."""

import gzip
import hashlib
import re
import shutil
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from simulators import recordings
from simulators.recordings import readers
from simulators.recordings.catalogue import ARCHIVES, SOURCES
from simulators.recordings.derive import _pack
from simulators.recordings.describe import licence_file

FOLDER = Path(recordings.__file__).parent
INDEX = {entry["name"]: entry for entry in tomllib.loads((FOLDER / "index.toml").read_text("utf-8"))["recording"]}
SECOND = 10**9
SIZE_BUDGET = 500_000  # bytes; the recordings travel in every wheel


@pytest.fixture(params=recordings.names())
def name(request):
    """Each recording in turn."""
    return request.param


def scalars(kind):
    return [recordings.load(name) for name, entry in INDEX.items() if entry["kind"] == kind]


def test_index_lists_every_file_and_no_other():
    """A file without an account of its origin may not lie here."""
    assert {entry["file"] for entry in INDEX.values()} == {path.name for path in FOLDER.glob("*.gz")}
    assert recordings.names() == tuple(INDEX) == tuple(source.name for source in SOURCES)


def test_file_has_its_hash(name):
    """What is committed is what the index describes."""
    packed = (FOLDER / INDEX[name]["file"]).read_bytes()
    assert hashlib.sha256(packed).hexdigest() == INDEX[name]["sha256"]


def test_points_and_duration_are_those_of_the_index(name):
    """The measurements in the index can be made again on the loaded recording."""
    entry, loaded = INDEX[name], recordings.load(name)
    if isinstance(loaded, recordings.ScalarRecording):
        measured = (len(loaded.points), loaded.points[-1][0])
    else:
        counts = [len(samples) // len(loaded.channels) for _, samples in loaded.segments]
        last = loaded.segments[-1][0] + (counts[-1] - 1) * loaded.period_ns // loaded.period_divisor
        measured = (sum(counts), last)
    assert measured == (entry["points"], entry["duration_ns"])
    assert loaded.kind == entry["kind"]


@pytest.mark.parametrize(
    ("name", "points"), [("ride_edge1000", 8357), ("laps_forerunner935", 5166), ("run_polar_m400", 3507)]
)
def test_heart_rates_are_complete(name, points):
    """Nothing of the long recordings was thinned out."""
    assert len(recordings.load(name).points) == points


@pytest.mark.parametrize(
    ("name", "gaps_ns"),
    [
        ("ride_edge1000", []),
        ("run_polar_m400", [398_719_000_000]),
        ("indoor_forerunner935", [13 * SECOND, 115 * SECOND]),
    ],
)
def test_real_gaps_are_kept(name, gaps_ns):
    """Pauses of the wearer are still there, to the millisecond."""
    steps = [after - before for (before, _), (after, _) in pairwise(recordings.load(name).points)]
    assert [step for step in steps if step > SECOND] == gaps_ns == INDEX[name]["gaps_ns"]


def test_times_stated_twice_are_kept():
    """The lap boundaries of the export repeat a time with the same value: two statements of one reading."""
    points = recordings.load("laps_forerunner935").points
    repeats = [(before, after) for before, after in pairwise(points) if before[0] == after[0]]
    assert len(repeats) == 7 == INDEX["laps_forerunner935"]["repeated_times"]
    assert all(before == after for before, after in repeats)


def test_heart_rates_are_plausible():
    """Each rate is one that a heart can have; how fast it changes is for the sensor to answer for."""
    rates = [int(value) for recording in scalars("heart_rate") for _, value in recording.points]
    assert (min(rates), max(rates)) == (45, 190)


def test_intervals_add_up_to_their_offsets():
    """An interval ends where its point stands."""
    (recording,) = scalars("rr_interval")
    for (before_ns, _), (after_ns, value) in pairwise(recording.points):
        assert after_ns - before_ns == int(value) * 1_000_000
    assert all(400 <= int(value) <= 1500 for _, value in recording.points)


def test_ecg_in_millivolt_is_within_the_range_of_its_sensor():
    """Scale and origin turn 10 bits into plus or minus 1.5 mV, and a heart fills a good part of it."""
    ecg = recordings.load("ecg_bitalino")
    ((_, samples),) = ecg.segments
    scale, origin = (mantissa * 10.0**exponent for mantissa, exponent in (ecg.scale, ecg.origin))
    assert origin + 1024 * scale == pytest.approx(1.5)
    lowest, highest = origin + min(samples) * scale, origin + max(samples) * scale
    assert -1.5 < lowest < -0.3
    assert 0.3 < highest < 1.5


def test_acceleration_in_metres_per_second_squared_is_about_gravity():
    """The median length of the vector is that of somebody standing on this planet, so mg was the unit."""
    recording = recordings.load("walk_daphnet")
    ((_, samples),) = recording.segments
    x, y, z = (samples[axis::3] for axis in range(3))
    lengths = sorted((a * a + b * b + c * c) ** 0.5 for a, b, c in zip(x, y, z, strict=True))
    mantissa, exponent = recording.scale
    assert lengths[len(lengths) // 2] * mantissa * 10.0**exponent == pytest.approx(9.80665, rel=0.02)


def test_start_is_known_only_where_the_source_gives_a_zone():
    """A local time in an unknown zone does not become a Unix time."""
    assert recordings.load("ride_edge1000").start_ns == 1_568_988_603 * SECOND  # 2019-09-20T14:10:03Z
    assert INDEX["ecg_bitalino"]["start"] == "2016-06-11T07:03:47"
    assert recordings.load("ecg_bitalino").start_ns is None
    assert recordings.load("walk_daphnet").start_ns is None


def test_files_have_no_room_for_a_position(name):
    """Every line is an offset and a whole number, or a raw integer per channel; nothing else was kept."""
    header, *lines = gzip.decompress((FOLDER / INDEX[name]["file"]).read_bytes()).decode("ascii").splitlines()
    channels = INDEX[name].get("channels")
    assert header == (",".join(channels) if channels else "offset_ns,value")
    line_format = re.compile(r"\d+,\d{2,4}" if not channels else ",".join([r"-?\d{1,4}"] * len(channels)))
    assert all(line_format.fullmatch(line) for line in lines)


def test_index_names_no_single_device():
    """No Bluetooth address, and no key under which a serial number or a position could be stated."""
    text = (FOLDER / "index.toml").read_text("utf-8")
    assert not re.search(r"\b[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}\b", text)
    keys = {key for entry in INDEX.values() for key in entry}
    assert not [key for key in keys if re.search(r"serial|unit_?id|lat|lon|address", key)]


def test_tcx_position_and_serial_are_not_read():
    """Of a track point, time and heart rate come out; of the device, nothing."""
    tcx = b"""<TrainingCenterDatabase xmlns="http://www.garmin.com/xmlschemas/TrainingCenterDatabase/v2">
        <Trackpoint><Time>2019-01-29T10:25:13.000Z</Time>
            <Position><LatitudeDegrees>48.0</LatitudeDegrees><LongitudeDegrees>6.9</LongitudeDegrees></Position>
            <HeartRateBpm><Value>109</Value></HeartRateBpm></Trackpoint>
        <Trackpoint><Time>2019-01-29T10:25:14.000Z</Time></Trackpoint>
        <Trackpoint><Time>2019-01-29T10:25:15.719Z</Time>
            <HeartRateBpm><Value>110</Value></HeartRateBpm></Trackpoint>
        <Creator><UnitId>1234567890</UnitId></Creator></TrainingCenterDatabase>"""
    series = readers.scalar(readers.heart_rate_from_tcx(tcx), None, None)
    assert series == readers.Scalar([(0, "109"), (2_719_000_000, "110")], "2019-01-29T10:25:13Z")


def test_jump_in_the_sequence_is_a_gap_of_that_many_samples():
    """0 follows 15; after 1 comes 4, so two samples are missing and the next one is at its true place."""
    rows = [(15, (7,)), (0, (8,)), (1, (9,)), (4, (5,))]
    assert readers.split_by_sequence(rows, 1000) == [(0, [(7,), (8,), (9,)]), (5000, [(5,)])]


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The folder, copied to where a test may damage it."""
    folder = tmp_path / "recordings"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(recordings, "_FOLDER", folder)
    return folder


def test_gap_line_opens_a_segment_at_its_offset(copy):
    """Sampling that broke off is not glued together."""
    packed = gzip.compress(b"x,y,z\n1,2,3\n4,5,6\ngap,90000000\n-7,-8,-9\n")
    (copy / "walk_daphnet.csv.gz").write_bytes(packed)
    index = (copy / "index.toml").read_text("utf-8")
    hashed = hashlib.sha256(packed).hexdigest()
    (copy / "index.toml").write_text(index.replace(INDEX["walk_daphnet"]["sha256"], hashed), "utf-8")
    segments = recordings.load("walk_daphnet").segments
    assert [(offset, list(run)) for offset, run in segments] == [
        (0, [1, 2, 3, 4, 5, 6]),
        (90_000_000, [-7, -8, -9]),
    ]


def test_changed_file_is_refused(copy, name):
    """One bit is enough, and the message says which file and what to do."""
    path = copy / INDEX[name]["file"]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{path.name} has SHA-256 .* derive it again"):
        recordings.load(name)


def test_unknown_name_is_refused():
    """The message lists the names that exist."""
    with pytest.raises(ValueError, match="no recording is named 'ride'; there are: ride_edge1000"):
        recordings.load("ride")


def test_every_source_has_its_licence_notice():
    """The licences require their text to stay with the data."""
    for archive in ARCHIVES:
        assert "copyright" in (FOLDER / licence_file(archive)).read_text("utf-8").lower()
    assert {entry["licence_file"] for entry in INDEX.values()} == {licence_file(archive) for archive in ARCHIVES}


def test_folder_is_small():
    """The whole folder, code and notices included, stays within its budget."""
    files = [path for path in FOLDER.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) < SIZE_BUDGET


def test_packing_gives_the_same_bytes_each_time(tmp_path):
    """Neither time nor file name gets into the file."""
    assert _pack(b"72\n", tmp_path / "first") == _pack(b"72\n", tmp_path / "second")


def test_packing_keeps_a_file_that_has_the_right_content(tmp_path):
    """Another zlib's bytes for the same content are not a difference; other content and damage are."""
    path = tmp_path / "file"
    other = gzip.compress(b"72\n" * 99, compresslevel=1, mtime=1)
    path.write_bytes(other)
    assert _pack(b"72\n" * 99, path) == other
    assert gzip.decompress(_pack(b"73\n" * 99, path)) == b"73\n" * 99
    path.write_bytes(other[:-9])
    assert gzip.decompress(_pack(b"72\n" * 99, path)) == b"72\n" * 99
