"""Parquet: one row a reading, its proof in the last column; for whoever computes with readings."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from aggregator.export.evidence import Evidence
from aggregator.export.proven import Proven
from aggregator.timeseries.base import number
from ledger.kinds import BY_CODE, KINDS, kind_name, kind_unit
from ledger.reading import Absent, ReadingValue, Scalar, Waveform

# Rows written at a time. With proofs of 17 KB a row group is some 9 MB, in memory here and at the reader's.
ROWS_PER_GROUP = 512

_SCHEMA = pa.schema(
    [
        ("device", pa.string()),
        ("source", pa.string()),
        ("kind", pa.string()),
        ("loinc", pa.list_(pa.string())),
        ("unit", pa.string()),
        ("sensor_time", pa.timestamp("ns", tz="UTC")),
        ("ordinal", pa.uint16()),
        ("zone_min", pa.int16()),
        ("value", pa.float64()),
        ("mantissa", pa.int64()),
        ("exponent", pa.int8()),
        ("absent", pa.string()),
        ("quality", pa.uint16()),
        ("wave_period_ns", pa.int64()),
        ("wave_period_divisor", pa.int64()),
        ("wave_channels", pa.uint8()),
        ("wave_samples", pa.list_(pa.float64())),
        ("ref", pa.int64()),
        ("log_index", pa.int64()),
        ("leaf_index", pa.int16()),
        ("key_id", pa.string()),
        ("epoch", pa.uint32()),
        ("seq", pa.uint64()),
        ("logged_by", pa.timestamp("s", tz="UTC")),
        ("proof", pa.binary()),
    ]
)


def write_parquet(file: BinaryIO, readings: Iterable[Proven], evidence: Evidence) -> None:
    """The table is in `file`; a row group of it is in memory at a time."""
    about = {
        "vitalseal.origin": evidence.origin,
        "vitalseal.policy_sha256": evidence.policy_hash,
        "vitalseal.units": json.dumps({kind.name: kind.unit for kind in KINDS}),
    }
    schema = _SCHEMA.with_metadata(about)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for rows in _groups(readings):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _groups(readings: Iterable[Proven]) -> Iterator[list[dict[str, Any]]]:
    rows = []
    for proven in readings:
        rows.append(_row(proven))
        if len(rows) == ROWS_PER_GROUP:
            yield rows
            rows = []
    if rows:
        yield rows


def _row(proven: Proven) -> dict[str, Any]:
    reading, stored, header = proven.reading, proven.stored, proven.verified.header
    kind = BY_CODE.get(reading.kind)
    return {
        "device": stored.device,
        "source": reading.source.hex(),
        "kind": kind_name(reading.kind),
        "loinc": list(kind.loinc) if kind else [],
        "unit": kind_unit(reading.kind),
        "sensor_time": reading.sensor_time_ns,
        "ordinal": reading.ordinal,
        "zone_min": reading.zone_offset_min,
        "value": number(reading),
        "quality": int(reading.quality),
        **_value(reading.value),
        "ref": stored.ref,
        "log_index": stored.log_index,
        "leaf_index": stored.leaf_index,
        "key_id": header.key_id.hex(),
        "epoch": header.epoch,
        "seq": header.seq,
        "logged_by": proven.verified.logged_by,
        "proof": proven.file,
    }


def _value(value: ReadingValue) -> dict[str, Any]:
    """The columns that only one form of value has; the others are null."""
    match value:
        case Scalar(mantissa, exponent):
            return {"mantissa": mantissa, "exponent": exponent}
        case Absent():
            return {"absent": str(value).removeprefix("absent: ")}
        case Waveform():
            scale, origin = (float(str(Scalar(*pair))) for pair in (value.scale, value.origin))
            return {
                "wave_period_ns": value.period_ns,
                "wave_period_divisor": value.period_divisor,
                "wave_channels": value.channels,
                "wave_samples": [origin + sample * scale for sample in value.integers()],
            }
