"""Real recordings, derived from packages on PyPI, to be replayed offline.

`index.toml` says of each recording where it came from, under what licence, and the SHA-256 of its file;
`load` refuses a file that differs. Two shapes, both gzip'd text:

    scalar    header `offset_ns,value`, then a line per point: ns since the first point, exact decimal text
    waveform  header with the channel names, then a line of raw integers per sample; `gap,<offset_ns>` where
              sampling broke, with the offset at which the next line was taken

Decimal text and raw integers, because nothing may be rounded on the way: a value is stated as its device
stated it. Standard library only.
"""

import gzip
import hashlib
import io
import tomllib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import resources
from importlib.resources.abc import Traversable
from sys import intern
from typing import Any

_FOLDER: Traversable = resources.files(__name__)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ScalarRecording:
    """A series of single values, in the unit of its kind: `heart_rate` in /min, `rr_interval` in ms.

    Attributes:
        name: Name in the index.
        kind: Kind of reading.
        start_ns: When the first point was measured, Unix ns; None if the source gives no absolute time.
        device: Make and model of the device that recorded it; None if unknown.
        points: (ns since the first point, exact decimal text). Offsets never fall; one repeats where the
            source states a time twice, and a jump is a real gap.
    """

    name: str
    kind: str
    start_ns: int | None
    device: str | None
    points: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class WaveformRecording:
    """Evenly sampled raw integers: `ecg` in mV and `acceleration` in m/s2 once scaled.

    Sample i of a segment was taken at its offset + i * period_ns / period_divisor. The physical value is
    origin + sample * scale, where both are decimals (mantissa, exponent) = mantissa * 10**exponent.

    Attributes:
        name: Name in the index.
        kind: Kind of reading.
        start_ns: When the first sample was taken, Unix ns; None if the source gives no absolute time.
        device: Make and model of the device that recorded it; None if unknown.
        period_ns: Numerator of the sampling period in ns, a reduced fraction.
        period_divisor: Its denominator.
        channels: Channel names, in the order in which samples are interleaved.
        scale: Physical units per step, (mantissa, exponent).
        origin: Physical value of sample 0, (mantissa, exponent).
        segments: (ns since the first sample, int16 samples interleaved by channel), one per unbroken stretch.
    """

    name: str
    kind: str
    start_ns: int | None
    device: str | None
    period_ns: int
    period_divisor: int
    channels: tuple[str, ...]
    scale: tuple[int, int]
    origin: tuple[int, int]
    segments: tuple[tuple[int, "array[int]"], ...]


def names() -> tuple[str, ...]:
    """The names that `load` knows, in the order of the index."""
    return tuple(entry["name"] for entry in _index())


def load(name: str) -> ScalarRecording | WaveformRecording:
    """The recording of that name, from a file that matches its hash in the index.

    Raises:
        ValueError: no recording has that name, or its file is not the one that the index describes.
    """
    entry = next((entry for entry in _index() if entry["name"] == name), None)
    if entry is None:
        raise ValueError(f"no recording is named {name!r}; there are: {', '.join(names())}")
    packed = _FOLDER.joinpath(entry["file"]).read_bytes()
    found = hashlib.sha256(packed).hexdigest()
    if found != entry["sha256"]:
        raise ValueError(
            f"{entry['file']} has SHA-256 {found}, the index says {entry['sha256']}: "
            "restore it, or derive it again with python -m simulators.recordings.derive"
        )
    common = {
        "name": name,
        "kind": entry["kind"],
        "start_ns": _unix_ns(entry.get("start")),
        "device": entry.get("device"),
    }
    # Decompressed line by line: the edge agent has 64 MB for everything.
    with gzip.open(io.BytesIO(packed), "rt", encoding="ascii", newline="\n") as lines:
        header = next(lines).rstrip("\n")
        if "channels" not in entry:
            return ScalarRecording(points=tuple(_points(lines)), **common)
        channels = tuple(entry["channels"])
        if header != ",".join(channels):
            raise ValueError(f"{entry['file']} has the channels {header}, the index says {channels}")
        return WaveformRecording(
            period_ns=entry["period_ns"],
            period_divisor=entry["period_divisor"],
            channels=channels,
            scale=(entry["scale_mantissa"], entry["scale_exponent"]),
            origin=(entry["origin_mantissa"], entry["origin_exponent"]),
            segments=_segments(lines),
            **common,
        )


def _index() -> list[dict[str, Any]]:
    text = _FOLDER.joinpath("index.toml").read_text(encoding="utf-8")
    entries: list[dict[str, Any]] = tomllib.loads(text)["recording"]
    return entries


def _unix_ns(start: str | None) -> int | None:
    """Unix ns of an ISO 8601 time; None if it has no zone, since a guess would make an invented time."""
    if start is None:
        return None
    moment = datetime.fromisoformat(start)
    if moment.tzinfo is None:
        return None
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def _points(lines: Iterator[str]) -> Iterator[tuple[int, str]]:
    for line in lines:
        offset_ns, _, value = line.rstrip("\n").partition(",")
        # A ride of hours has some hundred distinct heart rates: one string each, not one per point.
        yield int(offset_ns), intern(value)


def _segments(lines: Iterator[str]) -> tuple[tuple[int, "array[int]"], ...]:
    segments = [(0, array("h"))]
    for line in lines:
        fields = line.split(",")
        if fields[0] == "gap":
            segments.append((int(fields[1]), array("h")))
        else:
            segments[-1][1].extend(map(int, fields))
    return tuple(segments)
