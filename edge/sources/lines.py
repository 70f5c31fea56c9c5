"""Source `lines`: a file of JSON objects, one a line, read as it grows.

    {"kind": "heart_rate", "value": "72", "time": "2026-11-21T10:00:00.5Z"}
    {"kind": "body_temperature", "value": 36.60, "time": 1795255200500000000, "zone_offset_min": 60}
    {"kind": "spo2", "absent": "not_measured", "time": "2026-11-21T10:00:01Z", "quality": ["contact_lost"]}

    kind              name from `ledger.kinds`; waveforms cannot be given as lines
    value             number, or the same as a string; its digits are kept exactly (36.60 is not 36.6)
    absent            instead of a value: why there is none (`ledger.reading.Absence`, lower case)
    time              of the sensor: RFC 3339, up to nanoseconds; or whole ns since 1970
    ordinal           optional; tells apart readings of one kind and time, default 0
    zone_offset_min   optional; minutes east of UTC, default that of `time` when it has one other than Z
    quality           optional; list of `ledger.reading.Quality` names, lower case

A value outside the kind's plausible range is kept and marked questionable. A line that is none of this is counted,
named once per kind of fault in the log (never with its content), and does not stop the ones behind it. A line
that has no newline yet waits for it; at the end of a file to which nothing more can come (it was replaced, or
`follow` is false) it is a line like any other.

Where we are = byte offset and a hash of the bytes just before it. A file is the one that we know by these bytes,
whatever its inode: it may be copied, restored from an archive, or replaced by an editor, and goes on where it was read.
(The inode only tells while we run that another file has come; a deleted file's is used again.) A file that
is renamed and made anew is read to its end, then the new one from its beginning; so rotate by renaming, and keep the
old file until we have read it: what was still unread in a file that was moved while the agent was down is not found
again. A file that holds other bytes before our place than we had read there, or is shorter, is a new one and read from
its beginning.
"""

import asyncio
import hashlib
import json
import logging
import os
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

from edge.source import Chunk, Measured, read_options
from ledger.errors import MalformedError
from ledger.kinds import BY_NAME
from ledger.reading import Absence, Absent, Quality, ReadingValue, Scalar
from vitalseal.errors import UserError

BLOCK = 64 * 1024  # bytes read at a time; also the longest line
MARK_BYTES = 256  # before our place, hashed; some lines, so that times in them tell one file from another
_MAX_NUMBER = 48  # digits, sign and exponent of any decimal that fits a reading

_KEYS = {"kind", "value", "absent", "time", "ordinal", "zone_offset_min", "quality"}
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})", re.ASCII)
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII,
)
_CURSOR = re.compile(rb"([0-9]{1,20}) ([0-9]{1,20}) ([0-9a-f]{16}) ([01])")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LinesOptions:
    """Options of a `lines` source.

    Attributes:
        path: the file; it may appear later.
        poll_s: seconds between looks at a file that does not grow; default 0.5.
        follow: whether to wait for more at the end of the file; default true. If false the source is finished there,
            and the end of the file also ends its last line.
        description: make and model of the sensor, printable ASCII, at most 64 bytes; default "lines of JSON".
    """

    path: Path
    poll_s: float = 0.5
    follow: bool = True
    description: str = "lines of JSON"

    def __post_init__(self) -> None:
        """Polling is not hot; raises ValueError."""
        if not 0.01 <= self.poll_s <= 3600.0:
            raise ValueError(f"poll_s: {self.poll_s} is not from 0.01 to 3600")


class _Refused(Exception):  # noqa: N818 - not an error of ours: a line that makes no reading
    """Why a line makes no reading, in words that hold nothing of it."""


class _Number(str):
    """The digits of a JSON number, apart from those of a string."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class _Position:
    """Up to where the file is read; `inside`: within a line that is too long and being passed over."""

    inode: int
    offset: int
    mark: str  # hash of the bytes before `offset`; see `_mark`
    inside: bool = False

    def encode(self) -> bytes:
        return f"{self.inode} {self.offset} {self.mark} {self.inside:d}".encode()

    @classmethod
    def decode(cls, cursor: bytes) -> "_Position":
        match = _CURSOR.fullmatch(cursor)
        if match is None:
            raise UserError("its cursor is not that of a lines source; was the source's type changed?")
        return cls(int(match[1]), int(match[2]), match[3].decode(), match[4] == b"1")


class LinesSource:
    """See the module."""

    replays = True

    def __init__(self, *, name: str, source_id: bytes, options: Mapping[str, Any], directory: Path) -> None:
        self.name = name
        self.source_id = source_id
        self._options = read_options(options, LinesOptions, name=name, directory=directory)
        self.description = self._options.description
        self.trouble = ""
        self._named: set[str] = set()

    async def readings(self, cursor: bytes | None) -> AsyncIterator[Chunk]:
        """The file's readings from `cursor` on, as they are written."""
        position = _Position.decode(cursor) if cursor else None
        while True:
            file = await asyncio.to_thread(self._open)
            if file is None:
                if not self._options.follow:
                    return
                await asyncio.sleep(self._options.poll_s)
                continue
            with file:
                position = self._start(file, position)
                async for chunk, reached in self._until_replaced(file, position):
                    position = reached
                    yield chunk
            if not self._options.follow:
                return

    async def _until_replaced(self, file: BinaryIO, position: _Position) -> AsyncIterator[tuple[Chunk, _Position]]:
        """Chunks and where they end, until another file has the name; without `follow` until the file's end."""
        ended = not self._options.follow
        while True:
            chunk, position = await asyncio.to_thread(self._read, file, position, ended=ended)
            if chunk is not None:
                yield chunk, position
            elif ended:
                return
            elif await asyncio.to_thread(self._replaced, position):
                # One more look: something may have been written between the last one and the renaming.
                ended = True
            else:
                await asyncio.sleep(self._options.poll_s)

    def _open(self) -> BinaryIO | None:
        try:
            file = self._options.path.open("rb")
        except FileNotFoundError:
            self.trouble = f"{self._options.path} is not there; it is waited for"
            self._name_once("the file is not there yet; it is waited for")
            return None
        self.trouble = ""
        return file

    def _start(self, file: BinaryIO, position: _Position | None) -> _Position:
        """Where to begin in a file that was just opened."""
        status = os.fstat(file.fileno())
        if position is not None and position.offset:
            if status.st_size >= position.offset and position.mark == _mark(file, position.offset):
                return replace(position, inode=status.st_ino)
            _log.warning("source %s: %s is another file than before; read from its beginning", self.name, file.name)
        return _Position(status.st_ino, 0, _mark(file, 0))

    def _replaced(self, position: _Position) -> bool:
        """The name now stands for another file, or the file became shorter."""
        try:
            status = self._options.path.stat()
        except FileNotFoundError:
            self.trouble = f"{self._options.path} is not there any more; it is waited for"
            return False  # renamed, and the new one not made yet
        self.trouble = ""
        return status.st_ino != position.inode or status.st_size < position.offset

    def _read(self, file: BinaryIO, position: _Position, *, ended: bool) -> tuple[Chunk | None, _Position]:
        """The whole lines in the next block, and where they end; None when there is no whole line.

        `ended`: nothing more will be written, so the end of the file ends a line, too.
        """
        file.seek(position.offset)
        block = file.read(BLOCK)
        end = block.rfind(b"\n") + 1
        if not end and len(block) == BLOCK:
            position = _moved(file, position, BLOCK, inside=True)
            return Chunk(cursor=position.encode()), position
        if not end and ended and (block or position.inside):
            end = len(block)
        elif not end:
            return None, position
        lines = block[:end].removesuffix(b"\n").split(b"\n")
        refused = 0
        if position.inside:
            refused += 1
            self._name_once(f"a line is longer than {BLOCK} bytes")
            del lines[0]
        readings = []
        for line in lines:
            if line.strip():
                try:
                    readings.append(parse_line(line))
                except _Refused as fault:
                    refused += 1
                    self._name_once(str(fault))
        position = _moved(file, position, end, inside=False)
        return Chunk(tuple(readings), position.encode(), refused), position

    def _name_once(self, fault: str) -> None:
        if fault not in self._named:
            self._named.add(fault)
            _log.warning("source %s: %s: %s (said once)", self.name, self._options.path, fault)


def _moved(file: BinaryIO, position: _Position, by: int, *, inside: bool) -> _Position:
    offset = position.offset + by
    return _Position(position.inode, offset, _mark(file, offset), inside)


def _mark(file: BinaryIO, offset: int) -> str:
    """What tells `file` from another one that has come to the same inode, if it was read up to `offset`."""
    start = max(0, offset - MARK_BYTES)
    file.seek(start)
    return hashlib.sha256(file.read(offset - start)).hexdigest()[:16]


def parse_line(line: bytes) -> Measured:
    """The reading that `line` states; raises _Refused."""
    try:
        item = json.loads(
            line.decode("utf-8"),
            parse_float=_Number,
            parse_int=_Number,
            parse_constant=_no_constant,
            object_pairs_hook=_distinct,
        )
    except (ValueError, RecursionError):
        raise _Refused("a line is not JSON") from None
    if not isinstance(item, dict):
        raise _Refused("a line is not a JSON object")
    if not item.keys() <= _KEYS:
        # Never which one: nobody knows what is in it.
        raise _Refused(f"a line has an unknown key; known are {', '.join(sorted(_KEYS))}")
    if missing := [key for key in ("kind", "time") if key not in item]:
        raise _Refused(f"the key {missing[0]} is missing")
    kind = BY_NAME.get(item["kind"]) if isinstance(item.get("kind"), str) else None
    if kind is None or kind.waveform:
        raise _Refused("a kind is unknown or a waveform")
    value = _value(item)
    quality = _quality(item.get("quality", []))
    low, high = kind.plausible
    if isinstance(value, Scalar) and not low <= Decimal(value.mantissa).scaleb(value.exponent) <= high:
        quality |= Quality.QUESTIONABLE
    time_ns, zone = _time(item.get("time"))
    if "zone_offset_min" in item:
        zone = _integer(item["zone_offset_min"], "a zone offset")
    ordinal = _integer(item.get("ordinal", _Number("0")), "an ordinal")
    return Measured(kind.code, time_ns, value, ordinal, zone, quality)


def _value(item: dict[str, Any]) -> ReadingValue:
    if ("value" in item) == ("absent" in item):
        raise _Refused("a line has not exactly one of value and absent")
    if "absent" in item:
        reasons = {reason.name.lower(): reason for reason in Absence}
        reason = reasons.get(item["absent"]) if isinstance(item["absent"], str) else None
        if reason is None:
            raise _Refused("a reason for absence is unknown")
        return Absent(reason)
    value = item["value"]
    if not isinstance(value, str) or len(value) > _MAX_NUMBER or not _NUMBER.fullmatch(value):
        raise _Refused("a value is not a decimal number")
    try:
        return Scalar.parse(value)
    except MalformedError:
        raise _Refused("a value is not a decimal number") from None


def _time(value: object) -> tuple[int, int | None]:
    """Nanoseconds since 1970, and the zone's minutes if the text names one."""
    if isinstance(value, _Number):
        return _integer(value, "a time"), None
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    try:
        at = datetime.fromisoformat(match[1] + match[3]) if match else None
    except ValueError:
        at = None
    if match is None or at is None:
        raise _Refused("a time is neither RFC 3339 nor whole nanoseconds")
    seconds = (at - _EPOCH) // timedelta(seconds=1)
    zone = None if match[3] == "Z" else (at.utcoffset() or timedelta()) // timedelta(minutes=1)
    return seconds * 10**9 + int((match[2] or "").ljust(9, "0")), zone


def _quality(value: object) -> int:
    bits = {bit.name.lower(): bit for bit in Quality if bit.name}
    if not isinstance(value, list) or not all(isinstance(name, str) and name in bits for name in value):
        raise _Refused("a quality is not a list of known names")
    total = 0
    for name in value:
        total |= bits[name]
    return total


def _integer(value: object, what: str) -> int:
    if not isinstance(value, _Number) or not _INTEGER.fullmatch(value):
        raise _Refused(f"{what} is not a whole number")
    return int(value)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError
    return table


def _no_constant(_: str) -> None:
    raise ValueError
