"""One reading: what a source measured, when, how well (FORMAT.md section 4).

A reading is a canonical array by position. `check_fields` is the only place that knows which arrays are
readings; it works on plain tuples, because admission runs it on every reading of every batch. The dataclasses
below are for everyone who wants names.
"""

import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import IntEnum, IntFlag
from typing import Any, TypeAlias, cast

from ledger import canonical
from ledger.errors import MalformedError, VerificationError
from ledger.kinds import kind_name, kind_unit

MAX_SOURCE = 16  # bytes of a source id: room for a random 128-bit number
MAX_WAVEFORM = 16 * 1024  # bytes of samples: fifteen of them still fit one envelope
MAX_CHANNELS = 32  # more than a 12-lead ECG or a 9-axis motion sensor has
MAX_ZONE = 18 * 60  # minutes: beyond every zone offset ever used
MIN_INT64, MAX_INT64 = -(2**63), 2**63 - 1

_DECIMAL = re.compile(r"(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]{1,3}))?", re.ASCII)


# A wearable's clock may run ahead of the witnesses' by this much before its reading counts as from the future.
CLOCK_TOLERANCE_NS = 300 * 10**9
# Nothing of ours was measured before this; a clock that says so was never set (1970 after a boot without RTC).
EARLIEST_TIME_NS = 946_684_800 * 10**9  # 2000-01-01T00:00:00Z


class Quality(IntFlag):
    """Measurement status bits of the medical-device profiles; 0 is a good reading."""

    INVALID = 1
    QUESTIONABLE = 2
    CALIBRATION = 4
    TEST_DATA = 8
    DEMO_DATA = 16
    ONGOING = 32
    CONTACT_LOST = 64
    EARLY_INDICATION = 128


class Absence(IntEnum):
    """Why there is no value (IEEE 11073-20601 special values)."""

    NOT_A_NUMBER = 1
    NOT_AT_THIS_RESOLUTION = 2
    POSITIVE_INFINITY = 3
    NEGATIVE_INFINITY = 4
    RESERVED = 5
    NOT_MEASURED = 6


@dataclass(frozen=True, slots=True)
class Scalar:
    """mantissa x 10^exponent in the kind's unit; 2, 2.0 and 2.00 are different statements."""

    mantissa: int
    exponent: int

    def __str__(self) -> str:
        if -20 <= self.exponent <= 0:
            return format(Decimal(self.mantissa).scaleb(self.exponent), "f")
        return f"{self.mantissa}e{self.exponent}"

    @classmethod
    def parse(cls, text: str) -> "Scalar":
        """The decimal that `text` spells, its trailing zeros kept: "72", "-0.50", "1e-3"; raises MalformedError."""
        match = _DECIMAL.fullmatch(text)
        if not match or len(text) > 40:
            raise MalformedError(f"value: {text[:40]!a} is not a decimal number")
        sign, whole, fraction, exponent = match.groups(default="")
        return cls(int(sign + whole + fraction), int(exponent or "0") - len(fraction))


@dataclass(frozen=True, slots=True)
class Waveform:
    """Evenly spaced samples; sample i lies at the reading's sensor time + i x period_ns / period_divisor.

    A physical value is origin + sample x scale, both decimals (mantissa, exponent) in the kind's unit.
    `samples` are big-endian signed integers of `width` bytes, channels interleaved.
    """

    period_ns: int
    period_divisor: int
    scale: tuple[int, int]
    origin: tuple[int, int]
    channels: int
    width: int
    samples: bytes

    def __len__(self) -> int:
        return len(self.samples) // (self.width * self.channels)

    @property
    def duration_ns(self) -> int:
        """Time from the first sample to one period past the last, rounded down."""
        return len(self) * self.period_ns // self.period_divisor

    def integers(self) -> tuple[int, ...]:
        """The raw samples, channels interleaved."""
        letter = {1: "b", 2: "h", 4: "i"}[self.width]
        return struct.unpack(f">{len(self.samples) // self.width}{letter}", self.samples)


@dataclass(frozen=True, slots=True)
class Absent:
    """No value, and why; never a number."""

    reason: int

    def __str__(self) -> str:
        known = self.reason in set(Absence)
        return "absent: " + (_words(Absence(self.reason).name) if known else f"reason {self.reason}")


ReadingValue: TypeAlias = Scalar | Waveform | Absent


@dataclass(frozen=True, slots=True)
class Reading:
    """What a source stated. Identity = device, source, kind, sensor_time_ns, ordinal.

    Attributes:
        source: stable random id of the physical sensor, 1 to 16 bytes.
        kind: code from `ledger.kinds`.
        sensor_time_ns: as the sensor reported it, ns since 1970-01-01T00:00Z; never rewritten.
        ordinal: tells apart readings that arrived together (several RR intervals in one notification).
        zone_offset_min: minutes east of UTC at the wearer, or None when unknown.
        gateway_offset_ns: gateway receipt time minus sensor time.
        value: a scalar, a waveform, or an absence with its reason.
        quality: `Quality` bits.
    """

    source: bytes
    kind: int
    sensor_time_ns: int
    ordinal: int
    zone_offset_min: int | None
    gateway_offset_ns: int
    value: ReadingValue
    quality: int = 0

    def encode(self) -> bytes:
        """The canonical bytes of this reading.

        Raises:
            MalformedError: a field is out of the format's range.
        """
        fields = (
            self.source,
            self.kind,
            self.sensor_time_ns,
            self.ordinal,
            self.zone_offset_min,
            self.gateway_offset_ns,
            _value_fields(self.value),
            int(self.quality),
        )
        check_fields(fields)
        return canonical.encode(fields)

    @classmethod
    def decode(cls, data: bytes) -> "Reading":
        """The reading that `data` encodes; raises MalformedError."""
        fields = cast("tuple[Any, ...]", canonical.decode(data, "reading"))
        check_fields(fields)
        source, kind, sensor_time, ordinal, zone, offset, value, quality = fields
        return cls(source, kind, sensor_time, ordinal, zone, offset, _value(value), quality)

    @property
    def end_ns(self) -> int:
        """Sensor time of the last thing this reading speaks of."""
        return self.sensor_time_ns + (self.value.duration_ns if isinstance(self.value, Waveform) else 0)

    def describe(self) -> str:
        """One line for people: kind, value, unit, time, quality."""
        unit = kind_unit(self.kind)
        if isinstance(self.value, Absent):
            shown = str(self.value)
        elif isinstance(self.value, Waveform):
            shown = f"{len(self.value)} samples x {self.value.channels} in {unit}".rstrip()
        else:
            shown = f"{self.value} {unit}".rstrip()
        marks = ", ".join(_words(bit.name) for bit in Quality if bit & self.quality if bit.name)
        line = f"{kind_name(self.kind)} {shown} at {format_time(self.sensor_time_ns)}"
        return f"{line} ({marks})" if marks else line


def format_time(at_ns: int) -> str:
    """RFC 3339 UTC with exactly the sub-second digits there are; plain ns outside the years 1 to 9999."""
    seconds, fraction = divmod(at_ns, 10**9)
    try:
        stamp = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    except OverflowError:
        return f"{at_ns} ns since 1970"
    digits = f".{fraction:09d}".rstrip("0") if fraction else ""
    return f"{stamp.rjust(19, '0')}{digits}Z"


def check_plausible(reading: Reading, logged_by: int) -> None:
    """A reading may be older than its batch's anchor (a backlog is sealed late), never from the future.

    `logged_by` is in Unix seconds. Raises VerificationError.
    """
    if reading.sensor_time_ns < EARLIEST_TIME_NS:
        raise VerificationError("sensor time lies before the year 2000: its clock was not set")
    if reading.end_ns > logged_by * 10**9 + CLOCK_TOLERANCE_NS:
        raise VerificationError("sensor time lies more than 5 minutes after the logged-by time")


def check_fields(fields: object) -> None:  # noqa: C901, PLR0912 - one flat check per field, in field order
    """`fields`, decoded from canonical msgpack, are a reading; raises MalformedError naming the first fault."""
    if type(fields) is not tuple or len(fields) != 8:
        raise MalformedError("reading: not an array of 8")
    source, kind, sensor_time, ordinal, zone, offset, value, quality = fields
    if type(source) is not bytes or not 1 <= len(source) <= MAX_SOURCE:
        raise MalformedError(f"reading: source is not 1 to {MAX_SOURCE} bytes")
    if type(kind) is not int or not 1 <= kind <= 0xFFFF:
        raise MalformedError("reading: kind is not an integer from 1 to 65535")
    if type(sensor_time) is not int or not MIN_INT64 <= sensor_time <= MAX_INT64:
        raise MalformedError("reading: sensor time is not a 64-bit integer")
    if type(ordinal) is not int or not 0 <= ordinal <= 0xFFFF:
        raise MalformedError("reading: ordinal is not an integer from 0 to 65535")
    if zone is not None and (type(zone) is not int or not -MAX_ZONE <= zone <= MAX_ZONE):
        raise MalformedError(f"reading: zone offset is neither nil nor within {MAX_ZONE} minutes")
    if type(offset) is not int or not MIN_INT64 <= offset <= MAX_INT64:
        raise MalformedError("reading: gateway offset is not a 64-bit integer")
    if type(quality) is not int or not 0 <= quality <= 0xFFFF:
        raise MalformedError("reading: quality is not an integer from 0 to 65535")
    if type(value) is not tuple or not value:
        raise MalformedError("reading: value is not an array")
    if value[0] == 0 and len(value) == 3:
        _check_decimal(value[1], value[2])
    elif value[0] == 1 and len(value) == 10:
        _check_waveform(value)
    elif value[0] == 2 and len(value) == 2:
        if type(value[1]) is not int or not 1 <= value[1] <= 0xFF:
            raise MalformedError("reading: absence reason is not an integer from 1 to 255")
    else:
        raise MalformedError("reading: value is neither a scalar, a waveform nor an absence")
    if type(value[0]) is not int:
        raise MalformedError("reading: value form is not an integer")


def pack_samples(samples: Sequence[int], width: int) -> bytes:
    """`samples` as big-endian signed integers of `width` bytes (1, 2 or 4)."""
    letter = {1: "b", 2: "h", 4: "i"}[width]
    return struct.pack(f">{len(samples)}{letter}", *samples)


def _words(name: str) -> str:
    return name.lower().replace("_", " ")


def _check_decimal(mantissa: object, exponent: object) -> None:
    if type(mantissa) is not int or not MIN_INT64 <= mantissa <= MAX_INT64:
        raise MalformedError("reading: mantissa is not a 64-bit integer")
    if type(exponent) is not int or not -128 <= exponent <= 127:
        raise MalformedError("reading: exponent is not an integer from -128 to 127")


def _check_waveform(value: tuple[Any, ...]) -> None:
    _, period, divisor, scale, scale_exponent, origin, origin_exponent, channels, width, samples = value
    for number in (period, divisor):
        if type(number) is not int or not 1 <= number <= MAX_INT64:
            raise MalformedError("reading: waveform period is not a positive 64-bit fraction")
    if math.gcd(period, divisor) != 1:
        raise MalformedError("reading: waveform period is not in lowest terms")
    _check_decimal(scale, scale_exponent)
    _check_decimal(origin, origin_exponent)
    if type(channels) is not int or not 1 <= channels <= MAX_CHANNELS:
        raise MalformedError(f"reading: waveform has not 1 to {MAX_CHANNELS} channels")
    if type(width) is not int or width not in (1, 2, 4):
        raise MalformedError("reading: waveform samples are not 1, 2 or 4 bytes wide")
    if type(samples) is not bytes or not 1 <= len(samples) <= MAX_WAVEFORM or len(samples) % (width * channels):
        raise MalformedError(f"reading: waveform samples are not 1 to {MAX_WAVEFORM} bytes of whole frames")


def _value_fields(value: ReadingValue) -> tuple[int | bytes, ...]:
    match value:
        case Scalar(mantissa, exponent):
            return (0, mantissa, exponent)
        case Waveform():
            rest = (value.channels, value.width, value.samples)
            return (1, value.period_ns, value.period_divisor, *value.scale, *value.origin, *rest)
        case Absent(reason):
            return (2, int(reason))


def _value(fields: tuple[Any, ...]) -> ReadingValue:
    if fields[0] == 0:
        return Scalar(fields[1], fields[2])
    if fields[0] == 1:
        return Waveform(fields[1], fields[2], fields[3:5], fields[5:7], *fields[7:])
    return Absent(fields[1])
