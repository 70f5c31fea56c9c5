"""The reading view on a real InfluxDB beside SQLite: what proofs cost beside points, on the wire and on disk; a chart.

The server is `simulators.influx`: Debian's influxd behind nginx, which syncs its write-ahead log before it answers.
"""

import os
import statistics
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from aggregator.config import InfluxConfig
from aggregator.timeseries.base import ReadingStore, Selection, StoredBatch, StoredReading, number
from aggregator.timeseries.copies import Copies
from aggregator.timeseries.embedded import DATABASE, EmbeddedStore
from aggregator.timeseries.influx import Connection, InfluxStore
from aggregator.timeseries.lines import Point, Series, point_lines
from aggregator.timeseries.requests import Requests
from bench.samples import ORIGIN, READINGS, START_NS, Sealer, directory_size
from bench.table import median_s, row, seconds, section
from ledger import canonical
from ledger.batch import LEAVES_PER_BATCH
from ledger.checkpoint import Checkpoint
from ledger.envelope import format_envelope, parse_envelope
from ledger.kinds import kind_name
from ledger.note import ED25519_COSIGNATURE, ED25519_NOTE, NoteSigner
from ledger.reading import Reading, check_fields
from simulators.influx import InfluxServer

T = TypeVar("T")

_DEVICES = 16
_PORTION = 128  # batches in one write, as the projection makes them
_ROUNDS, _PORTIONS = 5, 8
_WEIGHED = 4096  # batches whose bytes on disk are counted: 262,144 readings
_DAY_S, _BUCKETS = 86_400, 1000
_PATH = 20  # hashes of an inclusion proof in a log of a million entries
_S = 10**9
# influxd keeps what is new in its write-ahead log for ten minutes, and compacts what is old after four hours.
_AT_ONCE = ('cache-snapshot-write-cold-duration = "1s"', 'compact-full-write-cold-duration = "1s"')
_SETTLED_S, _SETTLE_WITHIN_S = 5.0, 120.0


@dataclass(frozen=True, slots=True)
class _Portion:
    """What one call of `ReadingStore.write` gets."""

    batches: list[StoredBatch]
    readings: list[StoredReading]
    cursor: int


def measure_influx(scratch: Path) -> None:
    """Prints what the view costs with proofs and without, and how long a chart of a day takes."""
    section(f"the view in InfluxDB, batches of {READINGS}, {_PORTION} batches a write, {_DEVICES} devices")
    for name in ("rate", "weight"):
        (scratch / f"influx-{name}").mkdir()
    with InfluxServer(scratch / "influx-rate") as server:
        _measure_rate(server)
        _measure_chart(server, scratch)
    with InfluxServer(scratch / "influx-weight", *_AT_ONCE) as server:
        _measure_weight(server, scratch)


def _measure_rate(server: InfluxServer) -> None:
    """Three ways in turns, each time with later readings of the same series."""
    log = _log(_DEVICES)
    with _store(server, "proofs") as store, _Plain(server, "plain") as plain, _Plain(server, "bare") as bare:
        runs = []
        for _ in range(_ROUNDS):
            portions = [next(log) for _ in range(_PORTIONS)]
            points = [_points(portion.readings) for portion in portions]
            runs.append(
                (
                    _timed(server, plain.write, portions),
                    _timed(server, _writer(store), portions),
                    _timed(server, bare.write_points, points),
                )
            )
    written = _PORTIONS * _PORTION * READINGS
    for way, what in enumerate(("values alone, of the same readings", "with proofs", "values alone, decoded already")):
        wall_s, own_s, server_s = (statistics.median(run[way][part] for run in runs) for part in range(3))
        row(f"written, {what}", written / wall_s, "readings/s")
        row("    CPU time of the writer", own_s / written * 1e6, "us a reading")
        row("    CPU time of influxd, its collector included", server_s / written * 1e6, "us a reading")
    for way, what, budget in ((0, "of the same readings", 0.55), (2, "decoded already", None)):
        ratio = statistics.median(run[way][0] / run[1][0] for run in runs)
        row(f"with proofs / values alone, {what}", ratio, "", budget, floor=True)


def _writer(store: ReadingStore) -> Callable[[_Portion], object]:
    """`store.write` of one portion."""
    return lambda portion: store.write(portion.batches, portion.readings, portion.cursor)


def _timed(server: InfluxServer, write: Callable[[T], object], portions: Sequence[T]) -> tuple[float, float, float]:
    """Seconds that writing takes: by the clock, of our CPU, of influxd's."""
    ours, its = time.process_time(), _cpu_s(server.pid)
    wall_s = sum(seconds(write, portion) for portion in portions)
    return wall_s, time.process_time() - ours, _cpu_s(server.pid) - its


def _measure_weight(server: InfluxServer, scratch: Path) -> None:
    """Bytes on disk when everything is in compacted files."""
    log, written = _log(_DEVICES), _WEIGHED * READINGS
    embedded = scratch / "embedded-weight"
    embedded.mkdir()
    with (
        _store(server, "proofs") as store,
        _Plain(server, "plain") as plain,
        EmbeddedStore(embedded) as sqlite,
    ):
        for _ in range(_WEIGHED // _PORTION):
            portion = next(log)
            _writer(store)(portion)
            _writer(sqlite)(portion)
            plain.write(portion)
    _settle(server)
    proven, without = (_files_size(server.directory / "data" / bucket) for bucket in ("proofs", "plain"))
    row(f"InfluxDB on disk, {written:,} readings, without proofs", without / written, "bytes/reading")
    row("    with proofs", proven / written, "bytes/reading")
    row("    overhead of proofs", (proven - without) / written, "bytes/reading")
    row("readings.db, with proofs", (embedded / DATABASE).stat().st_size / written, "bytes/reading")


def _measure_chart(server: InfluxServer, scratch: Path) -> None:
    """One series, once a second for a day, as a chart and whole."""
    embedded = scratch / "embedded-chart"
    embedded.mkdir()
    log = _log(1)
    with _store(server, "day") as influx, EmbeddedStore(embedded) as sqlite:
        stores: dict[str, ReadingStore] = {"InfluxDB": influx, "SQLite": sqlite}
        readings: list[StoredReading] = []
        while len(readings) < _DAY_S:
            portion = next(log)
            readings += portion.readings
            for store in stores.values():
                _writer(store)(portion)
        source = Reading.decode(readings[0].body).source
        day = Selection(readings[0].device, source, 1, START_NS, START_NS + _DAY_S * _S)
        width_ns = _DAY_S * _S // _BUCKETS
        for name, store in stores.items():
            buckets, drawn = len(store.chart(day, width_ns)), sum(1 for _ in store.select(day))
            if (buckets, drawn) != (_BUCKETS + (_DAY_S * _S % width_ns > 0), _DAY_S):
                raise RuntimeError(f"{name}: a day of {buckets} buckets and {drawn} readings")
            chart_s = median_s(lambda store=store: store.chart(day, width_ns), 9)  # type: ignore[misc]
            whole_s = median_s(lambda store=store: sum(1 for _ in store.select(day)), 3)  # type: ignore[misc]
            row(f"a day at 1 Hz, {buckets:,} buckets, {name}", chart_s * 1e3, "ms")
            row(f"    its {drawn:,} readings with their salts", whole_s * 1e3, "ms")


class _Plain:
    """What the store does with readings, but for what proves them: no seal, no record, no cursor."""

    def __init__(self, server: InfluxServer, bucket: str) -> None:
        _create(server, bucket)
        self._server = Connection(InfluxConfig(server.url, bucket), bucket)
        self._requests = Requests(self._server.post)
        self._copies = Copies()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def write(self, portion: _Portion) -> None:
        """The readings are decoded, each has its copy number, and its value is written."""
        points = [_bare_point(stored) for stored in portion.readings]
        taken = [(point, self._copies.take(point)) for point in points]
        self._requests.send(line for point, copy in taken for line in point_lines(point, copy or 0))
        self._copies.settle()

    def write_points(self, points: Sequence[tuple[str, str, str, float, int]]) -> None:
        """Values that somebody has at hand, in one request."""
        lines = [
            f"reading,device={device},source={source},kind={kind} value={value} {time_ns}"
            for device, source, kind, value, time_ns in points
        ]
        self._server.post("\n".join(lines).encode())


def _bare_point(stored: StoredReading) -> Point:
    """As `make_point`, without a seal; every reading here is a scalar of good quality."""
    fields = cast("tuple[Any, ...]", canonical.unpack(stored.body, "reading"))
    check_fields(fields)
    source, kind, start_ns, _, _, _, value, _ = fields
    tail = b"value=%de%d %d" % (value[1], value[2], start_ns)
    return Point(stored.ref, _series(stored.device, source, kind), start_ns, start_ns, tail, None)


@cache
def _series(device: str, source: bytes, kind: int) -> Series:
    return Series(device, source.hex(), kind_name(kind))


def _log(devices: int) -> Iterator[_Portion]:
    """A log on which `devices` take turns, as the projection hands it to a store, without end."""
    sealers = [Sealer() for _ in range(devices)]
    log = NoteSigner(ORIGIN, os.urandom(32), ED25519_NOTE)
    witnesses = [NoteSigner(f"witness-{at}.example", os.urandom(32), ED25519_COSIGNATURE) for at in range(3)]
    for low in count(0, _PORTION):
        portion = _Portion([], [], low + _PORTION)
        note = Checkpoint(ORIGIN, portion.cursor, os.urandom(32)).sign(log, *witnesses, time=START_NS // _S).encode()
        for index in range(low, portion.cursor):
            _add(portion, index, f"bench-{index % devices}", sealers[index % devices], note)
        yield portion


def _add(portion: _Portion, index: int, device: str, sealer: Sealer, note: bytes) -> None:
    """The next batch of `sealer` is in `portion`, as entry `index`."""
    envelope = parse_envelope(format_envelope(sealer.seal(sealer.encoded())))
    leaves = list(enumerate(zip(envelope.salts, envelope.bodies, strict=True)))[1:]
    portion.readings.extend(
        StoredReading(index * LEAVES_PER_BATCH + at, device, body, salt) for at, (salt, body) in leaves
    )
    times = [Reading.decode(body).sensor_time_ns for _, (_, body) in leaves]
    record = StoredBatch(
        index,
        device,
        sealer.key.algorithm,
        sealer.key.public_key,
        envelope.header_bytes,
        envelope.signature,
        tuple(envelope.check_root()),
        tuple(os.urandom(32) for _ in range(_PATH)),
        note,
        (min(times), max(times)),
    )
    portion.batches.append(record)


def _points(readings: Sequence[StoredReading]) -> list[tuple[str, str, str, float, int]]:
    """Device, source, kind, value and time of each: what somebody without proofs has at hand."""
    decoded = [(stored.device, Reading.decode(stored.body)) for stored in readings]
    return [
        (device, reading.source.hex(), kind_name(reading.kind), number(reading) or 0.0, reading.sensor_time_ns)
        for device, reading in decoded
    ]


def _store(server: InfluxServer, bucket: str) -> InfluxStore:
    _create(server, bucket)
    return InfluxStore(InfluxConfig(server.url, bucket))


def _create(server: InfluxServer, bucket: str) -> None:
    body = f"q=CREATE DATABASE {bucket}".replace(" ", "+").encode()
    with urllib.request.urlopen(f"{server.url}/query", body, timeout=30):  # noqa: S310 - our own address
        pass


def _cpu_s(pid: int) -> float:
    """CPU seconds that process `pid` has used."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _files_size(database: Path) -> int:
    """Bytes of a database's compacted files; its list of series takes 32 MB from the start, mostly holes."""
    return sum(file.stat().st_size for file in database.rglob("*.tsm"))


def _settle(server: InfluxServer) -> None:
    """Nothing is in the write-ahead log any more, and nothing is being compacted."""
    deadline_s, since_s, last = time.monotonic() + _SETTLE_WITHIN_S, time.monotonic(), (0, 0)
    while time.monotonic() - since_s < _SETTLED_S or last[0]:
        now = directory_size(server.directory / "wal"), directory_size(server.directory / "data")
        if now != last:
            since_s, last = time.monotonic(), now
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"influxd still has {last[0]:,} bytes in its write-ahead log")
        time.sleep(0.2)
