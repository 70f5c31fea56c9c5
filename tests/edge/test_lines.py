"""The `lines` source: digits kept, places remembered, bad lines counted and never in the way."""

import asyncio
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.sources import lines
from edge.sources.lines import LinesSource, _Refused, parse_line
from ledger.kinds import BY_NAME
from ledger.reading import Absence, Absent, Quality, Scalar
from tests.edge.conftest import SOURCE_ID
from vitalseal.errors import UserError

SECOND = 10**9
AT = 1_795_255_200 * SECOND  # 2026-11-21T10:00:00Z


def make(directory, **options):
    options = {"path": "in.ndjson", "follow": False, "poll_s": 0.01, **options}
    return LinesSource(name="wrist", source_id=SOURCE_ID, options=options, directory=directory)


def line(value=72, at=0, **others):
    return (json.dumps({"kind": "heart_rate", "value": value, "time": AT + at, **others}) + "\n").encode()


def write(directory, *parts, mode="ab"):
    with (directory / "in.ndjson").open(mode) as file:
        file.write(b"".join(parts))


async def collect(source, cursor=None):
    """Readings, last cursor and refused count of all chunks until the source is finished."""
    readings, refused = [], 0
    async for chunk in source.readings(cursor):
        readings += chunk.readings
        refused += chunk.refused
        cursor = chunk.cursor or cursor
    return readings, cursor, refused


def values(readings):
    return [str(reading.value) for reading in readings]


@pytest.mark.parametrize(
    ("text", "scalar"),
    [
        ("72", Scalar(72, 0)),
        ("72.0", Scalar(720, -1)),
        ('"72.00"', Scalar(7200, -2)),
        ("-0.5", Scalar(-5, -1)),
        ("1e2", Scalar(1, 2)),
        ("36.60", Scalar(3660, -2)),
    ],
)
def test_value_keeps_its_digits(text, scalar):
    """Numbers and strings alike: trailing zeros are a statement about precision."""
    measured = parse_line(f'{{"kind":"body_temperature","value":{text},"time":0}}'.encode())
    assert measured.value == scalar


@given(st.integers(-(10**12), 10**12), st.integers(0, 9))
def test_value_of_any_decimal_is_exact(mantissa, places):
    """No float on the way."""
    text = str(Scalar(mantissa, -places))
    assert parse_line(f'{{"kind":"steps","value":{text},"time":1}}'.encode()).value == Scalar(mantissa, -places)


@pytest.mark.parametrize(
    ("text", "time_ns", "zone"),
    [
        ('"2026-11-21T10:00:00Z"', AT, None),
        ('"2026-11-21T10:00:00.5Z"', AT + SECOND // 2, None),
        ('"2026-11-21T10:00:00.123456789Z"', AT + 123456789, None),
        ('"2026-11-21T11:30:00+01:30"', AT, 90),
        ('"2026-11-21T04:00:00-06:00"', AT, -360),
        ('"1969-12-31T23:59:59.75Z"', -SECOND // 4, None),
        ("1795255200000000001", AT + 1, None),
    ],
)
def test_time_is_exact_to_the_nanosecond(text, time_ns, zone):
    """RFC 3339 or whole nanoseconds; a numeric zone is kept."""
    measured = parse_line(f'{{"kind":"heart_rate","value":60,"time":{text}}}'.encode())
    assert (measured.sensor_time_ns, measured.zone_offset_min) == (time_ns, zone)


def test_optional_fields_are_kept():
    """Ordinal, zone, quality and absence arrive as they were given."""
    given_line = b"""{"kind":"spo2","absent":"not_measured","time":"2026-11-21T11:00:00+01:00","ordinal":3,
        "zone_offset_min":-30,"quality":["demo_data","contact_lost"]}"""
    measured = parse_line(given_line)
    assert measured.value == Absent(Absence.NOT_MEASURED)
    assert (measured.ordinal, measured.zone_offset_min) == (3, -30)
    assert measured.quality == Quality.DEMO_DATA | Quality.CONTACT_LOST


def test_implausible_value_is_kept_and_marked():
    """Flagged questionable, never altered."""
    measured = parse_line(line(900))
    assert (measured.value, measured.quality) == (Scalar(900, 0), Quality.QUESTIONABLE)


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"[]",
        b"72",
        b"{",
        b"\xff\xfe",
        b'{"kind":"heart_rate","kind":"heart_rate","value":72,"time":0}',
        b'{"kind":"heart_rate","value":NaN,"time":0}',
        b'{"kind":"heart_rate","value":Infinity,"time":0}',
        b'{"kind":"heart_rate","value":"1_0","time":0}',
        b'{"kind":"heart_rate","value":" 72","time":0}',
        '{"kind":"heart_rate","value":"\uff17\uff12","time":0}'.encode(),
        b'{"kind":"heart_rate","value":"072","time":0}',
        b'{"kind":"heart_rate","value":"0x10","time":0}',
        b'{"kind":"heart_rate","value":true,"time":0}',
        b'{"kind":"heart_rate","value":' + b"9" * 100 + b',"time":0}',
        b'{"kind":"heart_rate","value":72}',
        b'{"kind":"heart_rate","time":0}',
        b'{"kind":"heart_rate","value":72,"absent":"not_measured","time":0}',
        b'{"kind":"heart_rate","absent":"because","time":0}',
        b'{"kind":"heart_rate","value":72,"time":0.5}',
        b'{"kind":"heart_rate","value":72,"time":"0"}',
        b'{"kind":"heart_rate","value":72,"time":"2026-13-01T00:00:00Z"}',
        b'{"kind":"heart_rate","value":72,"time":"2026-11-21 10:00:00Z"}',
        b'{"kind":"heart_rate","value":72,"time":"2026-11-21T10:00:00"}',
        b'{"kind":"pulse","value":72,"time":0}',
        b'{"kind":["heart_rate"],"value":72,"time":0}',
        b'{"kind":"ecg","value":72,"time":0}',
        b'{"kind":"heart_rate","value":72,"time":0,"patient":"x"}',
        b'{"kind":"heart_rate","value":72,"time":0,"ordinal":"1"}',
        b'{"kind":"heart_rate","value":72,"time":0,"ordinal":1.0}',
        b'{"kind":"heart_rate","value":72,"time":0,"quality":"demo_data"}',
        b'{"kind":"heart_rate","value":72,"time":0,"quality":[[]]}',
        b"[" * 100_000,
    ],
)
def test_bad_line_is_refused(bad):
    """Whatever it is, it is refused by the one exception, whose words hold nothing of it."""
    with pytest.raises(_Refused) as caught:
        parse_line(bad)
    assert "72" not in str(caught.value)


@given(st.binary(max_size=200))
def test_any_bytes_make_a_reading_or_are_refused(data):
    """No other exception leaves the parser."""
    with contextlib.suppress(_Refused):
        parse_line(data)


@given(
    st.dictionaries(st.sampled_from(sorted(lines._KEYS)), st.none() | st.integers() | st.text() | st.lists(st.text()))
)
def test_any_object_makes_a_reading_or_is_refused(item):
    """The same for objects with the right keys and anything in them."""
    with contextlib.suppress(_Refused):
        assert parse_line(json.dumps({"kind": "heart_rate", **item}).encode()).kind in {
            kind.code for kind in BY_NAME.values()
        }


async def test_good_lines_pass_bad_ones(tmp_path, caplog):
    """Bad lines are counted, named once per kind of fault without their content, and stop nothing."""
    write(tmp_path, line(61), b"{secret 123}\n", b"\n", line(62), b"{secret 124}\n", b'{"kind":"?"}\n', line(63))
    readings, _, refused = await collect(make(tmp_path))
    assert (values(readings), refused) == (["61", "62", "63"], 3)
    assert len(caplog.records) == 2
    assert "secret" not in caplog.text


async def test_cursor_resumes_behind_the_last_line(tmp_path):
    """Nothing twice, nothing left out, across restarts."""
    write(tmp_path, line(61), line(62))
    readings, cursor, _ = await collect(make(tmp_path))
    write(tmp_path, line(63))
    again, last, _ = await collect(make(tmp_path), cursor)
    assert (values(readings), values(again)) == (["61", "62"], ["63"])
    assert await collect(make(tmp_path), last) == ([], last, 0)


async def test_line_without_newline_waits(tmp_path):
    """Half a line is no line; it is read when it is whole."""
    whole = line(62)
    write(tmp_path, line(61), whole[:20])
    chunks = make(tmp_path, follow=True).readings(None)
    async with asyncio.timeout(10):
        first = await anext(chunks)
        write(tmp_path, whole[20:])
        second = await anext(chunks)
    await chunks.aclose()
    assert [values(chunk.readings) for chunk in (first, second)] == [["61"], ["62"]]
    assert (first.refused, second.refused) == (0, 0)


@pytest.mark.parametrize(
    ("rest", "read", "refused"),
    [(line(62)[:-1], ["61", "62"], 0), (line(62)[:20], ["61"], 1), (b'"' + b"y" * (2 * lines.BLOCK), ["61"], 1)],
    ids=["whole", "cut", "too long"],
)
async def test_last_line_of_a_file_that_is_not_followed_is_read_or_counted(tmp_path, rest, read, refused):
    """Nothing more can come, so the end of the file ends the line; a second run finds nothing left."""
    write(tmp_path, line(61), rest)
    readings, cursor, count = await collect(make(tmp_path))
    assert (values(readings), count) == (read, refused)
    assert await collect(make(tmp_path), cursor) == ([], cursor, 0)


async def test_file_larger_than_a_block_is_read_in_chunks(tmp_path):
    """Every chunk's cursor is a place to resume from."""
    write(tmp_path, *(line(40 + at % 100, at) for at in range(3000)))
    chunks = [chunk async for chunk in make(tmp_path).readings(None)]
    assert len(chunks) > 2
    assert [item.sensor_time_ns - AT for chunk in chunks for item in chunk.readings] == list(range(3000))
    rest = await collect(make(tmp_path), chunks[0].cursor)
    assert len(rest[0]) == 3000 - len(chunks[0].readings)


async def test_line_longer_than_a_block_is_passed_over(tmp_path):
    """It counts as one refused line, however often we are restarted inside it."""
    write(tmp_path, line(61), b'{"x":"' + b"y" * (3 * lines.BLOCK) + b'"}\n', line(62))
    cursor, readings, refused = None, [], 0
    while True:
        chunks = make(tmp_path).readings(cursor)
        chunk = await anext(chunks, None)
        await chunks.aclose()
        if chunk is None:
            break
        cursor = chunk.cursor
        readings += chunk.readings
        refused += chunk.refused
    assert (values(readings), refused) == (["61", "62"], 1)


async def test_growing_file_is_followed(tmp_path):
    """The file may not be there yet, and grows line by line."""
    seen = []

    async def follow():
        async for chunk in make(tmp_path, follow=True).readings(None):
            seen.extend(values(chunk.readings))
            arrived.set()

    arrived = asyncio.Event()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = group.create_task(follow())
        for number in range(61, 65):
            arrived.clear()
            write(tmp_path, line(number))
            await arrived.wait()
        task.cancel()
    assert seen == ["61", "62", "63", "64"]


async def test_rotated_file_is_read_to_its_end_then_the_new_one(tmp_path):
    """What was written to the old file before and after the renaming arrives before the new file's lines."""
    write(tmp_path, line(61))
    chunks = make(tmp_path, follow=True).readings(None)
    async with asyncio.timeout(10):
        assert values((await anext(chunks)).readings) == ["61"]
        write(tmp_path, line(62))
        (tmp_path / "in.ndjson").rename(tmp_path / "in.ndjson.1")
        write(tmp_path, line(63))
        assert [values((await anext(chunks)).readings) for _ in range(2)] == [["62"], ["63"]]
    await chunks.aclose()


async def test_truncated_file_is_read_from_its_beginning(tmp_path):
    """A file that shrank is a new file."""
    write(tmp_path, line(61), line(62))
    _, cursor, _ = await collect(make(tmp_path))
    write(tmp_path, line(63), mode="wb")
    assert values((await collect(make(tmp_path), cursor))[0]) == ["63"]


async def test_last_line_of_a_replaced_file_is_read(tmp_path):
    """What a writer left without a newline when its file was rotated away is not dropped in silence."""
    write(tmp_path, line(61))
    chunks = make(tmp_path, follow=True).readings(None)
    async with asyncio.timeout(10):
        await anext(chunks)
        write(tmp_path, line(62)[:-1])
        (tmp_path / "in.ndjson").rename(tmp_path / "in.ndjson.1")
        write(tmp_path, line(63))
        assert [values((await anext(chunks)).readings) for _ in range(2)] == [["62"], ["63"]]
    await chunks.aclose()


async def test_copied_file_goes_on_where_it_was_read(tmp_path, caplog):
    """Another inode and the same bytes: an archive was unpacked, or an editor put a new file in its place."""
    write(tmp_path, line(61), line(62))
    _, cursor, _ = await collect(make(tmp_path))
    path = tmp_path / "in.ndjson"
    (tmp_path / "copy").write_bytes(path.read_bytes() + line(63))
    (tmp_path / "copy").rename(path)
    readings, again, _ = await collect(make(tmp_path), cursor)
    assert values(readings) == ["63"]
    assert again.split()[0] == str(path.stat().st_ino).encode() != cursor.split()[0]
    assert "another file" not in caplog.text


async def test_file_exchanged_for_its_copy_while_it_is_followed_goes_on(tmp_path):
    """`sed -i` on lines behind our place, say."""
    write(tmp_path, line(61))
    chunks = make(tmp_path, follow=True).readings(None)
    async with asyncio.timeout(10):
        assert values((await anext(chunks)).readings) == ["61"]
        (tmp_path / "copy").write_bytes(line(61) + line(62))
        (tmp_path / "copy").rename(tmp_path / "in.ndjson")
        assert values((await anext(chunks)).readings) == ["62"]
    await chunks.aclose()


async def test_missing_file_is_a_trouble_until_it_is_there(tmp_path):
    """Which status names."""
    source = make(tmp_path)
    assert source.trouble == ""
    await collect(source)
    assert "in.ndjson is not there" in source.trouble
    write(tmp_path, line(61))
    await collect(source)
    assert source.trouble == ""


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b'{"kind":"heart_rate","value":72}', "the key time is missing"),
        (b'{"value":72,"time":0}', "the key kind is missing"),
        (b'{"kind":"heart_rate","value":72,"time":0,"unit":"bpm"}', "an unknown key; known are absent, kind, ordinal"),
    ],
)
def test_refusal_says_what_is_wrong(bad, said):
    """And never what stood there."""
    with pytest.raises(_Refused, match=said):
        parse_line(bad)


async def test_new_file_with_an_old_inode_is_read_from_its_beginning(tmp_path, caplog):
    """File systems hand out the inode of a deleted file again; the bytes before our place tell the two apart.

    Writing into the same file makes the one case that matters certain: same inode, at least as long as before.
    """
    write(tmp_path, line(61), line(62))
    _, cursor, _ = await collect(make(tmp_path))
    write(tmp_path, line(71), line(72), line(73), mode="wb")
    assert values((await collect(make(tmp_path), cursor))[0]) == ["71", "72", "73"]
    assert "another file than before" in caplog.text


@pytest.mark.parametrize("cursor", [b"x", b"1 2", b"1 2 0", b"1 -2 0123456789abcdef 0", b"1 2 0123456789abcdef 0\n"])
async def test_cursor_of_another_source_is_refused(tmp_path, cursor):
    """A source whose type was changed says so, rather than to begin anew and repeat everything."""
    write(tmp_path, line(61))
    with pytest.raises(UserError, match="was the source's type changed"):
        await collect(make(tmp_path), cursor)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({}, "missing key 'path'"),
        ({"path": "x", "pol_s": 1}, "did you mean 'poll_s'"),
        ({"path": 5}, "not of type"),
        ({"path": "x", "poll_s": 0}, "poll_s: 0.0 is not from"),
    ],
)
def test_wrong_options_are_the_users_mistake(tmp_path, options, fault):
    """One line that names the source and the key."""
    with pytest.raises(UserError, match=fault) as caught:
        LinesSource(name="wrist", source_id=SOURCE_ID, options=options, directory=tmp_path)
    assert "source 'wrist'" in str(caught.value)
