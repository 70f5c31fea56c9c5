"""The source formats: an archive member in, a series without anything that identifies its wearer out.

Only the named columns are ever picked out, so positions and serial numbers are dropped by not being read.
Members are pinned by the hash of their archive; an assumption that does not hold raises `ValueError`, because
it means that the pin was changed and the assumption has to be looked at again.
"""

import ast
import csv
import io
import json
import re
import sys
from array import array
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from xml.etree import ElementTree as ET

_TCX = "{http://www.garmin.com/xmlschemas/TrainingCenterDatabase/v2}"
_NS_PER_MS = 1_000_000

Moment = tuple[datetime, int]
"""A time with its zone, and the value measured then."""

Samples = list[tuple[int, ...]]
"""Raw integers, one per channel."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """Single values as (ns since the first point, decimal text), and what is known about their origin.

    `start` is ISO 8601, without a zone if the source has none; it and the names are None if unknown.
    """

    points: list[tuple[int, str]]
    start: str | None = None
    device: str | None = None
    sensor: str | None = None


@dataclass(frozen=True, slots=True)
class Waveform:
    """Unbroken runs as (ns since the first sample, samples), and their origin as in `Scalar`."""

    segments: list[tuple[int, Samples]]
    start: str | None = None
    device: str | None = None
    sensor: str | None = None


def heart_rate_from_fit(data: bytes) -> tuple[list[Moment], str | None]:
    """The heart rates in /min of a FIT activity, and the sensor if it is the device's own on the wrist."""
    try:
        import fitdecode
    except ModuleNotFoundError:
        raise SystemExit("deriving the recordings needs fitdecode: pip install fitdecode") from None
    moments: list[Moment] = []
    sensor = None
    with fitdecode.FitReader(io.BytesIO(data)) as frames:
        for frame in frames:
            if not isinstance(frame, fitdecode.FitDataMessage):
                continue
            if frame.name == "record" and frame.get_value("heart_rate", fallback=None) is not None:
                moments.append((frame.get_value("timestamp"), frame.get_value("heart_rate")))
            # "whr" is how Garmin's profile names a wrist heart-rate sensor.
            if frame.name == "device_info" and frame.get_value("local_device_type", fallback=None) == "whr":
                sensor = "wrist sensor of the device"
    return moments, sensor


def heart_rate_from_tcx(data: bytes) -> list[Moment]:
    """The heart rates in /min of a TCX activity; a track point without one is a gap like any other."""
    moments: list[Moment] = []
    # The bytes are pinned by hash, so no hostile XML can arrive here.
    for point in ET.fromstring(data).iter(_TCX + "Trackpoint"):  # noqa: S314
        time = point.findtext(_TCX + "Time")
        rate = point.findtext(f"{_TCX}HeartRateBpm/{_TCX}Value")
        if time is not None and rate is not None:
            moments.append((datetime.fromisoformat(time), int(rate)))
    return moments


def scalar(moments: list[Moment], device: str | None, sensor: str | None) -> Scalar:
    """The same series relative to its first point."""
    first = moments[0][0].astimezone(UTC)
    offsets = [(time - first) // timedelta(microseconds=1) * 1000 for time, _ in moments]
    if offsets != sorted(offsets):
        raise ValueError("time runs backwards")
    values = (str(value) for _, value in moments)
    start = first.isoformat().replace("+00:00", "Z")
    return Scalar(list(zip(offsets, values, strict=True)), start, device, sensor)


def devices_from_sweat_index(text: str, file: str) -> tuple[str | None, str | None]:
    """The recording device and the heart-rate sensor that the package's index.yml names for a sample file."""
    # Two scalars of a pinned file do not justify a YAML parser.
    entry = next((part for part in text.split("- path: ") if part.startswith(f"'{file}'")), "")
    device = re.search(r"recording_device: '(.+)'", entry)
    sensor = re.search(r"- name: '(.+)'\n +data_types:\n +- 'heartrate'", entry)
    return device and device[1], sensor and sensor[1]


def intervals_from_npy(data: bytes) -> Scalar:
    """The intervals in ms of a NumPy file, each placed at its end, so at the sum of those after the first."""
    header_end = 10 + int.from_bytes(data[8:10], "little")
    header = ast.literal_eval(data[10:header_end].decode("ascii"))
    if data[:8] != b"\x93NUMPY\x01\x00" or header["descr"] != "<i8" or len(header["shape"]) != 1:
        raise ValueError("not a version 1 NumPy file with one row of 64-bit integers")
    values = array("q", data[header_end:])
    if sys.byteorder == "big":
        values.byteswap()
    offsets = accumulate((value * _NS_PER_MS for value in values[1:]), initial=0)
    return Scalar(list(zip(offsets, map(str, values), strict=True)))


def ecg_from_opensignals(data: bytes, period_ns: int) -> Waveform:
    """The raw 10-bit ECG channel of a BITalino, as OpenSignals saved it; a jump in the sequence is a gap."""
    magic, description, end, *lines = data.decode("utf-8").splitlines()
    header = next(iter(json.loads(description.removeprefix("# ")).values()))
    column = (header["device"], header["sensor"], header["column"][-1], header["resolution"][-1])
    if (magic, end) != ("# OpenSignals Text File Format", "# EndOfHeader") or (
        column != ("bitalino", ["ECG"], "A2", 10) or header["sampling rate"] * period_ns != 10**9
    ):
        raise ValueError("not an OpenSignals file with one 10-bit BITalino ECG channel at the expected rate")
    year, month, day = (int(part) for part in header["date"].split("-"))
    # "7:3:47.29" pads nothing, so that .29 may be 29 or 290 ms: only the second is certain.
    hour, minute, second = (int(part) for part in header["time"].partition(".")[0].split(":"))
    # No zone is known, and to state one would be to invent it.
    start = datetime(year, month, day, hour, minute, second).isoformat()  # noqa: DTZ001
    rows = [[int(field) for field in line.split()] for line in lines]
    return Waveform(split_by_sequence([(row[0], (row[-1],)) for row in rows], period_ns), start, "BITalino")


def split_by_sequence(rows: list[tuple[int, tuple[int, ...]]], period_ns: int) -> list[tuple[int, Samples]]:
    """Runs of samples whose 4-bit sequence numbers follow on; what was lost counts into the next offset."""
    segments: list[tuple[int, Samples]] = [(0, [])]
    place, expected = 0, rows[0][0]
    for sequence, sample in rows:
        if lost := (sequence - expected) % 16:
            place += lost
            segments.append((place * period_ns, []))
        segments[-1][1].append(sample)
        place += 1
        expected = (sequence + 1) % 16
    return segments


def acceleration_from_daphnet(data: bytes, period_ns: int) -> Waveform:
    """The hip sensor in mg, once the ms time column is seen to be an unbroken run with the given period."""
    rows = list(csv.DictReader(io.StringIO(data.decode("ascii"))))
    first = datetime.fromisoformat(rows[0]["timestamp"])
    for i, row in enumerate(rows):
        since_first = datetime.fromisoformat(row["timestamp"]) - first
        # The source cuts to whole ms; a lost sample would shift every time after it.
        if since_first // timedelta(milliseconds=1) != i * period_ns // _NS_PER_MS:
            raise ValueError(f"sample {i} is not where even spacing puts it")
    axes = ("trunk_horiz_fwd", "trunk_vert", "trunk_horiz_lateral")
    return Waveform([(0, [tuple(int(row[axis]) for axis in axes) for row in rows])])
