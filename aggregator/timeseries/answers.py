"""What InfluxDB answers, read: pure functions from series of rows to what `base` names. Nothing is believed.

Whoever may write to the bucket may have written any of it, so nothing that stands there is an error here, except in
what proves: a batch record that cannot be read is a MalformedError.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any, TypeAlias, TypeVar

from aggregator.timeseries.base import Bucket, Row, Sample, StoredBatch, StoredReading
from aggregator.timeseries.influxql import READING, WAVEFORM, tagged
from ledger.batch import SALT_SIZE
from ledger.errors import MalformedError
from ledger.merkle import split_path
from ledger.reading import MAX_CHANNELS, MAX_INT64, MIN_INT64
from ledger.strict import decode_base64

# What stands in place of a copy where a row has tags that no row of ours has: one more, or a `copy` that is no number.
FOREIGN = -1

# One document of an answer in memory at once: three times what `CHUNK_ROWS` of the largest waveforms are.
MAX_DOCUMENT = 64 * 2**20

_COPY = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_OURS = frozenset({"device", "source", "kind", "copy"})

T = TypeVar("T")
Record: TypeAlias = tuple[Mapping[str, str], Mapping[str, Any]]  # a row with its tags


@dataclass(frozen=True, slots=True)
class Found:
    """Rows with equal tags, as one piece of an answer has them; a long series comes in several pieces.

    `statement` is the number, from 0, of the statement that they answer.
    """

    statement: int
    tags: Mapping[str, str]
    columns: Sequence[str]
    values: Sequence[Sequence[Any]]

    def dicts(self) -> Iterator[dict[str, Any]]:
        """The rows, by name of column."""
        return (dict(zip(self.columns, row, strict=True)) for row in self.values)

    def columned(self, *names: str) -> Iterator[list[Any]]:
        """What the rows have in these columns, None in one that there is not."""
        return ([row.get(name) for name in names] for row in self.dicts())


class CutShortError(Exception):
    """An answer ended before its end."""


class StrangeAnswerError(Exception):
    """An answer that no InfluxDB gives."""


class StatementError(Exception):
    """What the server says is wrong with a statement."""


def parse_answer(pieces: Iterator[bytes], *, timed: bool = True) -> Iterator[Found]:
    """The series in an answer to /query, chunked or whole; `timed`: each row begins with a time, as of a SELECT.

    Raises:
        StatementError: the server's own words for why it does not answer.
        CutShortError: it stops in the middle.
        StrangeAnswerError: this is no InfluxDB.
    """
    partial = False
    for line in _lines(pieces):
        for result in _results(line):
            if "error" in result:
                raise StatementError(str(result["error"]))
            statement = _are(int, result.get("statement_id", 0))
            for series in _list_of(dict, result.get("series", [])):
                yield _found(statement, series, timed=timed)
            partial = bool(result.get("partial"))
    if partial:
        raise CutShortError


def read_rows(found: Found) -> Iterator[Row]:
    """Rows of `reading`, selected with every field and by every tag."""
    tags, copy = found.tags, copy_of(found.tags)
    place = f"{READING} WHERE {tagged(tags)} AND time = " if tags else f"{READING} WHERE time = "
    series = _series(tags)
    others = [name for name in found.columns if name not in {"time", "seal", "value", "quality"}]
    for row in found.dicts():
        opened = open_seal(row.get("seal"))
        more = [name for name in others if row[name] is not None]
        where = f"{place}{row['time']}" + (f" (which also has {', '.join(sorted(more))})" if more else "")
        numbers = _quality(row.get("quality")), _number(row.get("value"))
        if opened is None:
            yield Row(where, *series, row["time"], copy, *numbers, None, None, None)
        else:
            ref, salt, body = opened
            yield Row(where, *series, row["time"], copy, *numbers, ref, body, salt)


def read_samples(found: Found) -> Iterator[Sample]:
    """Rows of `waveform`, selected with every field and by every tag."""
    tags, copy = found.tags, copy_of(found.tags)
    place = f"{WAVEFORM} WHERE {tagged(tags)} AND time = " if tags else f"{WAVEFORM} WHERE time = "
    series = _series(tags)
    channels = [f"c{channel}" for channel in range(MAX_CHANNELS)]
    others = set(found.columns) - {"time", "ref", *channels}
    for row in found.dicts():
        values = [_number(row.get(name)) for name in channels]
        while values and values[-1] is None:
            values.pop()
        more = sorted(name for name in others if row[name] is not None)
        where = f"{place}{row['time']}" + (f" (which also has {', '.join(more)})" if more else "")
        yield Sample(where, *series, row["time"], copy, _integer(row.get("ref")), tuple(values))


def read_stored(found: Found) -> Iterator[tuple[int, StoredReading]]:
    """The readings of those rows whose seal can be read, each with its row's time."""
    device = found.tags.get("device", "")
    for row in found.dicts():
        if opened := open_seal(row.get("seal")):
            ref, salt, body = opened
            yield row["time"], StoredReading(ref, device, body, salt)


def open_seal(seal: object) -> tuple[int, bytes, bytes] | None:
    """The ref, the salt and the body in `seal`, or None if it is none."""
    if not isinstance(seal, str):
        return None
    try:
        data = decode_base64(seal, "seal")
    except MalformedError:
        return None
    ref = int.from_bytes(data[:8], "big")
    if len(data) <= 8 + SALT_SIZE or ref > MAX_INT64:
        return None
    return ref, data[8 : 8 + SALT_SIZE], data[8 + SALT_SIZE :]


def copy_of(tags: Mapping[str, str]) -> int:
    """The copy that `tags` say, FOREIGN if we would not have written them."""
    copy = tags.get("copy", "")
    if any(value and name not in _OURS for name, value in tags.items()) or not (not copy or _COPY.fullmatch(copy)):
        return FOREIGN
    return int(copy or "0")


def read_batch(log_index: int, records: Sequence[Record]) -> StoredBatch | None:
    """The batch record in what was found at `log_index`, its checkpoint not fetched yet; raises MalformedError."""
    if not records:
        return None
    what = f"batch record {log_index}"
    if len(records) > 1:
        raise MalformedError(f"{what}: there are {len(records)} of it")
    tags, row = records[0]
    if any(value for name, value in tags.items() if name != "device"):
        raise MalformedError(f"{what}: has tags that are not ours")
    key = _binary(row, "key", what)
    if len(key) < 2:
        raise MalformedError(f"{what}: key is too short")
    hashes = _leaf_hashes(row, what)
    size, first_ns, last_ns = (_integer(row.get(name)) for name in ("checkpoint", "first", "last"))
    if size is None:
        raise MalformedError(f"{what}: names no checkpoint")
    if first_ns is None or last_ns is None:
        if row.get("first") is not None or row.get("last") is not None:
            raise MalformedError(f"{what}: one end of its span without the other")
        span_ns = None
    else:
        span_ns = (first_ns, last_ns) if first_ns <= last_ns else None
    return StoredBatch(
        log_index,
        tags.get("device", ""),
        key[0],
        key[1:],
        _binary(row, "header", what),
        _binary(row, "signature", what),
        tuple(hashes[at : at + 32] for at in range(0, len(hashes), 32)),
        tuple(split_path(_binary(row, "inclusion", what), what)),
        b"",
        span_ns,
        size,
    )


def read_buckets(found: Found) -> Iterator[Bucket]:
    """The stretches of a chart."""
    for start_ns, count, *numbers in found.columned("time", "count", "min", "mean", "max"):
        least, mean, greatest = (nan if number is None else number for number in map(_number, numbers))
        yield Bucket(start_ns, _integer(count) or 0, least, mean, greatest)


def read_note(row: Mapping[str, Any]) -> bytes:
    """The note of a checkpoint record, empty if it cannot be read."""
    try:
        return _binary(row, "note", "checkpoint record")
    except MalformedError:
        return b""


def _series(tags: Mapping[str, str]) -> tuple[str, str, str]:
    return tags.get("device", ""), tags.get("source", ""), tags.get("kind", "")


def _results(line: bytes) -> list[dict[str, Any]]:
    """The results in one document of an answer; a fault of the whole request stands beside where they would."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        raise StrangeAnswerError from None
    if not isinstance(document, dict):
        raise StrangeAnswerError
    return [document] if "error" in document else _list_of(dict, document.get("results"))


def _found(statement: int, series: Mapping[str, Any], *, timed: bool) -> Found:
    """A series as it came: rows as long as there are columns, each with a time of 64 bits if it is to have one."""
    tags, columns = _are(dict, series.get("tags", {})), _list_of(str, series.get("columns"))
    values = _list_of(list, series.get("values", []))
    _list_of(str, list(tags.values()))
    fits = len(set(columns)) == len(columns) and all(len(row) == len(columns) for row in values)
    if not fits or (timed and columns[:1] != ["time"]):
        raise StrangeAnswerError
    if timed and not all(MIN_INT64 <= _are(int, row[0]) <= MAX_INT64 for row in values):
        raise StrangeAnswerError
    # Half a character, as JSON can have it, could be shown and stored nowhere.
    shown = {_whole(name): _whole(value) for name, value in tags.items()}
    return Found(statement, shown, [_whole(name) for name in columns], values)


def _whole(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _are(kind: type[T], value: object) -> T:
    if type(value) is not kind:
        raise StrangeAnswerError
    return value


def _list_of(kind: type[T], values: object) -> list[T]:
    return [_are(kind, value) for value in _are(list, values)]


def _leaf_hashes(row: Mapping[str, Any], what: str) -> bytes:
    names = sorted((name for name in row if name.startswith("leaves") and row[name] is not None), key=_by_number)
    if names != [f"leaves{number}" for number in range(len(names))]:
        raise MalformedError(f"{what}: not all of its leaf hashes are there")
    hashes = b"".join(_binary(row, name, what) for name in names)
    if len(hashes) % 32:
        raise MalformedError(f"{what}: {len(hashes)} bytes are no leaf hashes")
    return hashes


def _by_number(name: str) -> tuple[int, str]:
    return len(name), name


def _binary(row: Mapping[str, Any], name: str, what: str) -> bytes:
    text = row.get(name)
    if not isinstance(text, str):
        raise MalformedError(f"{what}: no {name}")
    return decode_base64(text, f"{what}: {name}")


def _integer(value: object) -> int | None:
    return value if type(value) is int else None


def _number(value: object) -> float | None:
    """None for nothing, and what is there but no number as one that equals no other."""
    if value is None:
        return None
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else nan
    except OverflowError:
        return nan


def _quality(value: object) -> int | None:
    """Nothing there is 0, as written; None for what is no whole number."""
    return 0 if value is None else _integer(value)


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest: list[bytes] = []
    size = 0
    for piece in pieces:
        *whole, last = piece.split(b"\n")
        for line in whole:
            if joined := b"".join((*rest, line)).strip():
                yield joined
            rest, size = [], 0
        rest.append(last)
        size += len(last)
        if size > MAX_DOCUMENT:
            raise StrangeAnswerError
    if joined := b"".join(rest).strip():
        yield joined
