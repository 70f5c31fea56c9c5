"""The view on a real InfluxDB, lost and made again: `DROP DATABASE`, `aggregator rebuild`, every row compared.

    python -m bench rebuild --readings 1000000

Not among the tables of `python -m bench`, because a million readings take minutes. It ends with an error if a single
row is not what it was.
"""

import hashlib
import re
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

from aggregator.config import AggregatorConfig, InfluxConfig
from aggregator.rebuild import rebuild
from aggregator.registry import Registry
from aggregator.timeseries.base import Row
from aggregator.timeseries.opening import open_store
from bench.samples import ORIGIN, READINGS, Sealer, directory_size, ingest
from bench.table import row, seconds, section
from ledger.writer.create import REGISTRAR_KEY, create_log, load_log_keys, load_signer
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter
from simulators.broker import HOST
from simulators.influx import InfluxServer

_BUCKET = "bench"
_DEVICES = 16
_GROUP = 64  # batches in one commit
_LAST = re.compile(r"rebuild: entries=[0-9]+ readings=([0-9]+) seconds=([0-9.]+) rate=[0-9]+/s")


def measure_rebuild(scratch: Path, readings: int) -> None:
    """Prints rates; raises RuntimeError if the view is not the same afterwards."""
    section(f"{readings:,} readings in batches of {READINGS} by {_DEVICES} devices, InfluxDB lost and made again")
    data = scratch / "rebuild"
    row("sealed, admitted, logged", readings / seconds(_fill, data, readings), "readings/s")
    (scratch / "rebuild-influx").mkdir()
    with InfluxServer(scratch / "rebuild-influx") as server:
        config = AggregatorConfig(data, influx=InfluxConfig(server.url, _BUCKET))
        path = scratch / "rebuild.toml"
        path.write_text(f'data = "{data}"\n[influx]\nurl = "{server.url}"\nbucket = "{_BUCKET}"\n', encoding="utf-8")
        _ask(server, f"CREATE DATABASE {_BUCKET}")
        done = rebuild(config, lambda *_: None, threading.Event())
        row("projected into an empty database", done.readings / done.seconds, "readings/s")
        row("    its files", directory_size(scratch / "rebuild-influx") / done.readings, "bytes/reading")
        started = time.perf_counter()
        count, before = _digest(config)
        row("every row read back", count / (time.perf_counter() - started), "rows/s")
        if count != done.readings:
            raise RuntimeError(f"{done.readings} readings were projected, {count} rows are there")
        _ask(server, f"DROP DATABASE {_BUCKET}")
        made, took_s = _rebuild(path)
        row("DROP DATABASE, then `vitalseal aggregator rebuild`", made / took_s, "readings/s")
        row("    in all", took_s, "s")
        if _digest(config) != (count, before):
            raise RuntimeError("the rows are not those of before")
        row("    rows that are not as they were", 0, "")
        _audit(path)


def _fill(data: Path, readings: int) -> None:
    create_log(data, ORIGIN)
    batches = -(-readings // READINGS // _DEVICES)
    with LocalStorage(data) as storage:
        writer = LogWriter(storage, load_log_keys(data).signers, time.time_ns)
        registry, registrar = Registry(data), load_signer(data / REGISTRAR_KEY).key
        for _ in range(_DEVICES):
            sealer = Sealer()
            registry.add_device(sealer.key_id, sealer.key)
            ingest(storage, writer, sealer, list(sealer.envelopes(batches)), _GROUP, registrar)
            writer.publish()
        registry.close()


def _ask(server: InfluxServer, statement: str) -> None:
    form = urllib.parse.urlencode({"q": statement}).encode()
    with urllib.request.urlopen(f"http://{HOST}:{server.backend}/query", form, timeout=60) as answer:
        if b"error" in answer.read():
            raise RuntimeError(f"{statement} failed")


def _rebuild(config: Path) -> tuple[int, float]:
    """Readings, and seconds of the whole command."""
    command = [sys.executable, "-m", "vitalseal", "aggregator", "rebuild", "--config", str(config)]
    started = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - ourselves
    took_s = time.perf_counter() - started
    print(done.stdout, end="")
    found = _LAST.fullmatch(done.stdout.strip())
    if found is None:
        raise RuntimeError(f"the last line is {done.stdout!r}")
    return int(found[1]), took_s


def _digest(config: AggregatorConfig) -> tuple[int, int]:
    """How many rows there are, and a number that no other rows have, in whatever order they come."""
    count = total = 0
    with open_store(config, readonly=True) as store:
        for item in store.rows():
            count += 1
            total += int.from_bytes(hashlib.sha256(_bytes(item)).digest(), "big")
    return count, total % 2**256


def _bytes(item: Row) -> bytes:
    shown = (item.device, item.source, item.kind, item.time_ns, item.copy, item.quality, item.value)
    return repr((*shown, item.ref, item.body, item.salt)).encode()


def _audit(config: Path) -> None:
    command = [sys.executable, "-m", "vitalseal", "audit", "--config", str(config)]
    started = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - ourselves
    took_s = time.perf_counter() - started
    print((done.stdout.splitlines() or [done.stderr.strip()])[-1])
    row("`vitalseal audit`, all of it", took_s, "s")
    if done.returncode:
        raise RuntimeError(f"the audit ended with exit code {done.returncode}")
