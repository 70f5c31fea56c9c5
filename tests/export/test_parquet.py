"""The Parquet file: every column equals what the proof beside it proves."""

import hashlib
import json
from datetime import UTC, datetime

import pyarrow.compute as pc
import pyarrow.parquet as pq

from aggregator.export import parquet
from ledger.reading import Absent, Scalar, Waveform
from ledger.verify import verify_proof

from .ward import LOGGED_BY, ORIGIN


def test_rows_are_what_their_proofs_prove(full, export):
    """Read back with the library: nanoseconds, exact decimals, samples, and the proof, verified from its column."""
    file = export(full, "parquet")
    table = pq.read_table(file)
    assert str(table.schema.field("sensor_time").type) == "timestamp[ns, tz=UTC]"
    times = pc.cast(table["sensor_time"], "int64").to_pylist()
    assert len(times) == len(full.stored())
    for row, time_ns in zip(table.drop_columns(["sensor_time"]).to_pylist(), times, strict=True):
        proven = verify_proof(row["proof"], full.policy())
        reading = proven.reading
        value = reading.value
        assert time_ns == reading.sensor_time_ns
        assert (row["device"], row["source"]) == ("bedside-1", reading.source.hex())
        assert (row["ordinal"], row["zone_min"], row["quality"]) == (
            reading.ordinal,
            reading.zone_offset_min,
            reading.quality,
        )
        assert (row["ref"], row["log_index"], row["leaf_index"]) == (
            proven.index * 4096 + proven.leaf_index,
            proven.index,
            proven.leaf_index,
        )
        assert (row["key_id"], row["epoch"], row["seq"]) == (proven.header.key_id.hex(), 0, proven.header.seq)
        assert row["logged_by"] == datetime.fromtimestamp(LOGGED_BY, UTC)
        scalar = (row["value"], row["mantissa"], row["exponent"])
        if isinstance(value, Scalar):
            assert scalar == (float(str(value)), value.mantissa, value.exponent)
        else:
            assert scalar == (None, None, None)
        assert (row["absent"] is not None) == isinstance(value, Absent)
        if isinstance(value, Waveform):
            assert (row["wave_period_ns"], row["wave_period_divisor"]) == (value.period_ns, value.period_divisor)
            assert row["wave_channels"] == value.channels
            assert row["wave_samples"] == [-2.0 + sample * 0.005 for sample in value.integers()]
        else:
            assert row["wave_samples"] is None


def test_file_says_where_it_is_from(full, export):
    """Origin, the policy by its hash, and the units."""
    about = pq.read_schema(export(full, "parquet")).metadata
    assert about[b"vitalseal.origin"].decode() == ORIGIN
    policy = (full.data / "policy.txt").read_bytes()
    assert about[b"vitalseal.policy_sha256"].decode() == hashlib.sha256(policy).hexdigest()
    assert json.loads(about[b"vitalseal.units"])["heart_rate"] == "/min"


def test_row_groups_are_bounded(full, export, monkeypatch):
    """So that who writes and who reads needs little memory; cut anywhere, the rows are the same."""
    whole = pq.read_table(export(full, "parquet"))
    monkeypatch.setattr(parquet, "ROWS_PER_GROUP", 4)
    cut = pq.ParquetFile(export(full, "parquet"))
    assert cut.metadata.num_row_groups == 6
    assert cut.metadata.row_group(0).column(0).compression == "ZSTD"
    assert cut.read() == whole
