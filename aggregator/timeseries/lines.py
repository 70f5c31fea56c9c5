"""What the store writes to InfluxDB: line protocol, and nothing that is sent from here.

    reading,device=D,source=HEX,kind=NAME[,copy=N] seal="BASE64"[,value=V][,quality=Qi] TIME
        seal = base64(ref as u64be || salt[16] || body); value = a scalar's number; quality unless it is 0
    waveform,<the same tags> c0=V[,c1=V ...],ref=Ri TIME
        a point for each frame; a frame's time is the reading's + floor(frame x period / divisor). Where several frames
        of one waveform fall on one nanosecond, the last of them stands there.
    ledger_batch,device=D key="BASE64",header=...,signature=...,leaves0=...,inclusion=...,checkpoint=Ni[,first=,last=]
        time = the log index; key = algorithm as u8 || public key; leaves0, leaves1, ... = leaf hashes, MAX_HASHES each;
        first and last are the span of the sensor times; first > last: every reading of it was erased
    ledger_checkpoint note="BASE64"                                                            time = the size
    ledger_cursor entries=Ni                                                                   time = 0

No other tag and no number in one but `copy`, so series are as few as sensors. An empty tag is left out, as InfluxDB
wants it. A decimal is written as it was stated, mantissa and exponent; InfluxDB makes it the nearest float.
"""

import re
from binascii import b2a_base64
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias, cast

from aggregator.timeseries.base import Refused, Sample, StoredBatch, StoredReading
from aggregator.timeseries.influxql import BATCH, CHECKPOINT, CURSOR, MAX_HASHES, MAX_TIME, MIN_TIME, READING, WAVEFORM
from ledger import canonical
from ledger.batch import LEAVES_PER_BATCH
from ledger.kinds import kind_name
from ledger.merkle import join_path
from ledger.reading import Reading, Waveform, check_fields

KNOWN_SERIES = 65_536  # whose tags are kept ready: more sensors than one aggregator has

UNWRITABLE = "its device's name cannot stand in a tag"
# In a tag a line break cannot be written at all, nor a backslash at its end; a zero byte could not be asked for.
_UNWRITABLE = re.compile(r"[\0\r\n]|\\\Z")
_ESCAPED = str.maketrans({",": "\\,", " ": "\\ ", "=": "\\="})

Owner: TypeAlias = tuple[int, int | None]  # whose point it is: log index, and the ref of a reading
Line: TypeAlias = tuple[bytes, Owner]


class Series(NamedTuple):
    """One sensor's readings of one kind, as its tags have it."""

    device: str
    source: str
    kind: str


class Point(NamedTuple):
    """A reading on its way: all of its lines but the `copy`, which is not known yet."""

    ref: int
    series: Series
    start_ns: int
    end_ns: int  # time of a waveform's last frame; else as `start_ns`
    tail: bytes  # fields and time of its `reading` point
    waveform: Waveform | None


def make_point(stored: StoredReading) -> Point | Refused:
    """`stored` to be written, or why InfluxDB cannot hold it; raises MalformedError if it is no reading."""
    fields = cast("tuple[Any, ...]", canonical.unpack(stored.body, "reading"))
    check_fields(fields)
    source, kind, start_ns, _, _, _, value, quality = fields
    series = _series(stored.device, source, kind)
    if series is None:
        return _refused(stored, UNWRITABLE)
    end_ns, waveform = start_ns, None
    seal = b2a_base64(stored.ref.to_bytes(8, "big") + stored.salt + stored.body, newline=False)
    marks = b",quality=%di %d" % (quality, start_ns) if quality else b" %d" % start_ns
    if value[0] == 0:
        tail = b'seal="%b",value=%de%d%b' % (seal, value[1], value[2], marks)
    else:
        tail = b'seal="%b"%b' % (seal, marks)
        if value[0] == 1:
            waveform = Waveform(value[1], value[2], value[3:5], value[5:7], *value[7:])
            end_ns = last_frame_ns(start_ns, waveform)
    if not MIN_TIME <= start_ns <= end_ns <= MAX_TIME:
        return _refused(stored, "its time lies outside what InfluxDB can hold")
    return Point(stored.ref, series, start_ns, end_ns, tail, waveform)


def last_frame_ns(start_ns: int, waveform: Waveform) -> int:
    """Time of a waveform's last frame."""
    return start_ns + (len(waveform) - 1) * waveform.period_ns // waveform.period_divisor


def point_lines(point: Point, copy: int) -> Iterator[Line]:
    """The line of `point`, and those of its frames."""
    owner = (point.ref // LEAVES_PER_BATCH, point.ref)
    yield _head(READING, point.series, copy) + point.tail, owner
    if point.waveform is not None:
        head = _head(WAVEFORM, point.series, copy)
        for time_ns, values in frames(point.start_ns, point.waveform):
            fields = ",".join([f"c{channel}={value}" for channel, value in enumerate(values)])
            yield b"%b%b,ref=%di %d" % (head, fields.encode("ascii"), point.ref, time_ns), owner


def frames(start_ns: int, waveform: Waveform) -> Iterator[tuple[int, list[str]]]:
    """Each frame's time, and its physical values by channel, as decimals; one frame for each nanosecond."""
    (scale, scale_exponent), (origin, origin_exponent) = waveform.scale, waveform.origin
    exponent = min(scale_exponent, origin_exponent)
    scale *= 10 ** (scale_exponent - exponent)
    origin *= 10 ** (origin_exponent - exponent)
    integers, channels = waveform.integers(), waveform.channels
    for frame in range(len(waveform)):
        time_ns = start_ns + frame * waveform.period_ns // waveform.period_divisor
        next_ns = start_ns + (frame + 1) * waveform.period_ns // waveform.period_divisor
        # Sent all the same, it would depend on the order of requests which of them stands there in the end.
        if time_ns == next_ns and frame + 1 < len(waveform):
            continue
        values = integers[frame * channels : (frame + 1) * channels]
        yield time_ns, [f"{origin + value * scale}e{exponent}" for value in values]


def point_count(waveform: Waveform | None) -> int:
    """How many points a reading is: its row, and the frames that are drawn of it."""
    if waveform is None:
        return 1
    return 2 + (len(waveform) - 1) * min(waveform.period_ns, waveform.period_divisor) // waveform.period_divisor


def samples_of(stored: StoredReading, copy: int = 0, where: str = "") -> list[Sample]:
    """The frames that are drawn for `stored`, as long as nobody touches them; raises MalformedError."""
    reading = Reading.decode(stored.body)
    if not isinstance(reading.value, Waveform):
        return []
    series = (stored.device, reading.source.hex(), kind_name(reading.kind))
    return [
        Sample(where, *series, time_ns, copy, stored.ref, tuple(map(float, values)))
        for time_ns, values in frames(reading.sensor_time_ns, reading.value)
    ]


def batch_line(batch: StoredBatch, size: int) -> Line | Refused:
    """The record of `batch`, whose checkpoint stands under `size`."""
    if _UNWRITABLE.search(batch.device):
        return Refused(batch.log_index, None, UNWRITABLE)
    hashes = batch.leaf_hashes
    leaves = [hashes[at : at + MAX_HASHES] for at in range(0, len(hashes), MAX_HASHES)]
    fields = [
        b"key=%b" % _text(bytes([batch.algorithm]) + batch.public_key),
        b"header=%b" % _text(batch.header),
        b"signature=%b" % _text(batch.signature),
        *(b"leaves%d=%b" % (number, _text(join_path(part))) for number, part in enumerate(leaves)),
        b"inclusion=%b" % _text(join_path(batch.inclusion)),
        b"checkpoint=%di" % size,
    ]
    if batch.span_ns is not None:
        fields.append(b"first=%di,last=%di" % batch.span_ns)
    tags = _tags(BATCH, (("device", batch.device),))
    return tags + b",".join(fields) + b" %d" % batch.log_index, (batch.log_index, None)


def span_line(batch: StoredBatch, span_ns: tuple[int, int] | None) -> bytes:
    """Replaces the span in the record of `batch`; a field cannot be taken away, so none left is `first` > `last`."""
    return _tags(BATCH, (("device", batch.device),)) + b"first=%di,last=%di %d" % (
        *(span_ns or (1, 0)),
        batch.log_index,
    )


def checkpoint_line(size: int, note: bytes) -> bytes:
    """The record of the checkpoint over `size` entries."""
    return b"%b note=%b %d" % (CHECKPOINT.encode(), _text(note), size)


def cursor_line(entries: int) -> bytes:
    """The cursor's one point."""
    return b"%b entries=%di 0" % (CURSOR.encode(), entries)


@lru_cache(KNOWN_SERIES)
def _series(device: str, source: bytes, kind: int) -> Series | None:
    """The series, None if the device's name cannot be written."""
    if _UNWRITABLE.search(device):
        return None
    return Series(device, source.hex(), kind_name(kind))


@lru_cache(KNOWN_SERIES)
def _head(measurement: str, series: Series, copy: int) -> bytes:
    """A point's measurement and tags, with the space before its fields."""
    return _tags(measurement, (*series._asdict().items(), ("copy", str(copy) if copy else "")))


def _tags(measurement: str, tags: Sequence[tuple[str, str]]) -> bytes:
    given = [f",{name}={value.translate(_ESCAPED)}" for name, value in tags if value]
    return f"{measurement}{''.join(given)} ".encode()


def _text(data: bytes) -> bytes:
    return b'"%b"' % b2a_base64(data, newline=False)


def _refused(stored: StoredReading, why: str) -> Refused:
    return Refused(stored.log_index, stored.ref, why)
