"""What InfluxDB answers, read: pure functions from series of rows to what `base` names. Nothing is believed.

Whoever may write to the bucket may have written any of it, so nothing that stands there is an error here, except in
what proves: a batch record that cannot be read is a MalformedError.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from math import nan
from typing import Any, TypeAlias

from aggregator.timeseries.base import Bucket, Row, Sample, StoredBatch, StoredReading
from aggregator.timeseries.influxql import BATCH, CHECKPOINT, FIELDS, READING, WAVEFORM, tagged
from aggregator.timeseries.parsing import Found
from ledger.batch import SALT_SIZE
from ledger.errors import MalformedError
from ledger.merkle import split_path
from ledger.reading import MAX_CHANNELS, MAX_INT64
from ledger.strict import decode_base64

# What stands in place of a copy where a row has tags that no row of ours has: one more, or a `copy` that is no number.
FOREIGN = -1

_COPY = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_OURS = frozenset({"device", "source", "kind", "copy"})

Record: TypeAlias = tuple[Mapping[str, str], Mapping[str, Any]]  # a row with its tags


def read_rows(found: Found) -> Iterator[Row]:
    """Rows of `reading`, in `Columns` and by every tag."""
    tags, copy = found.tags, copy_of(found.tags)
    place = f"{READING} WHERE {tagged(tags)} AND time = " if tags else f"{READING} WHERE time = "
    series = _series(tags)
    others = sorted(set(found.columns) - {"time", *FIELDS[READING]})
    for row in found.dicts():
        opened = open_seal(row.get("seal"))
        more = ", ".join(name for name in others if row[name] is not None)
        where = f"{place}{row['time']}" + (f" (which also has {more})" if more else "")
        numbers = _quality(row.get("quality")), _number(row.get("value"))
        if opened is None:
            yield Row(where, *series, row["time"], copy, *numbers, None, None, None, more)
        else:
            ref, salt, body = opened
            yield Row(where, *series, row["time"], copy, *numbers, ref, body, salt, more)


def read_samples(found: Found) -> Iterator[Sample]:
    """Rows of `waveform`, in `Columns` and by every tag; what no frame of ours has is one value more, and no number."""
    tags, copy = found.tags, copy_of(found.tags)
    place = f"{WAVEFORM} WHERE {tagged(tags)} AND time = " if tags else f"{WAVEFORM} WHERE time = "
    series = _series(tags)
    at = {name: number for number, name in enumerate(found.columns)}
    channels = [f"c{channel}" for channel in range(MAX_CHANNELS)]
    others = sorted(at.keys() - {"time", *FIELDS[WAVEFORM]})
    # There are millions of frames: what is the same for all of them is looked up once.
    last = max((number for number, name in enumerate(channels) if name in at), default=-1)
    picked = [at.get(name) for name in channels[: last + 1]]
    time_at, ref_at = at["time"], at.get("ref")
    for row in found.values:
        values = tuple([None if number is None else _number(row[number]) for number in picked])
        while values and values[-1] is None:
            values = values[:-1]
        where = f"{place}{row[time_at]}"
        if more := [name for name in others if row[at[name]] is not None]:
            where += f" (which also has {', '.join(more)})"
            values = (*values, nan)
        ref = None if ref_at is None else _integer(row[ref_at])
        yield Sample(where, *series, row[time_at], copy, ref, values)


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
    _check_fields(BATCH, row, what)
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
        _check_fields(CHECKPOINT, row, "checkpoint record")
        return _binary(row, "note", "checkpoint record")
    except MalformedError:
        return b""


def _check_fields(measurement: str, row: Mapping[str, Any], what: str) -> None:
    """A record has no field but ours, of our types; raises MalformedError."""
    others = sorted(name for name in row if row[name] is not None and name not in {"time", *FIELDS[measurement]})
    if others:
        raise MalformedError(f"{what}: also has {', '.join(others)}")


def _series(tags: Mapping[str, str]) -> tuple[str, str, str]:
    return tags.get("device", ""), tags.get("source", ""), tags.get("kind", "")


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
    if value is None or type(value) is float:
        return value
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else nan
    except OverflowError:
        return nan


def _quality(value: object) -> int | None:
    """Nothing there is 0, as written; None for what is no whole number."""
    return 0 if value is None else _integer(value)
