"""`python -m bench`: the figures of docs/benchmarks.md, on this machine.

Medians of one run; fsync is on wherever the product has it on. Nothing is asserted: times on a shared machine are
noisy, so a figure beyond its budget is marked for a person to look at. `BENCH_DIR` names the disk to write to.
"""

import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cryptography

from bench.edge import measure_agent
from bench.samples import ORIGIN, READINGS, Sealer, directory_size, ingest, witnessed_million
from ledger.fsck import fsck
from ledger.policy import parse_policy
from ledger.verify import verify_proof
from ledger.writer.create import POLICY, create_log, load_log_keys
from ledger.writer.files import read_file
from ledger.writer.local import PUBLIC, LocalStorage
from ledger.writer.log import LogWriter

BATCHES = 4000
GROUP = 64  # batches in one commit, as the service makes them under load
KB = 1000


def main() -> None:
    """Prints the table."""
    versions = f"Python {platform.python_version()}, cryptography {cryptography.__version__}"
    print(f"machine: {os.cpu_count()} cores, {_processor()}, {platform.system()} {platform.release()}")
    print(f"{versions}, SQLite {sqlite3.sqlite_version}; one log key and one device key, Ed25519")
    print("fsync: SQLite WAL with synchronous=FULL at every commit; every public file and its directory\n")
    print(f"{'figure':<62}{'measured':>14}{'budget':>14}")
    with tempfile.TemporaryDirectory(prefix="vitalseal-bench-", dir=os.environ.get("BENCH_DIR")) as scratch:
        data = Path(scratch) / "log"
        create_log(data, ORIGIN)
        sealer = Sealer()
        _sealing()
        _writing(data, sealer)
        _reading(data, Path(scratch))
        resident, drained = measure_agent(Path(scratch))
    _row("edge agent, peak resident, draining 100,000 readings", resident / 2**20, "MB", 64)
    _row("edge agent, drained to verified receipts", drained, "readings/s")


def _sealing() -> None:
    sealer = Sealer()
    readings = sealer.encoded()
    _row(f"seal {READINGS} readings", _median(lambda: sealer.seal(readings), 400) * 1e3, "ms", 1)


def _writing(data: Path, sealer: Sealer) -> None:
    envelopes = list(sealer.envelopes(BATCHES))
    with LocalStorage(data) as storage:
        writer = LogWriter(storage, load_log_keys(data).signers, time.time_ns)
        started, cpu = time.perf_counter(), time.process_time()
        ingest(storage, writer, sealer, envelopes, GROUP)
        took, used = time.perf_counter() - started, time.process_time() - cpu
        _row(f"admission + sequencing, {READINGS} readings a batch", BATCHES / took, "batches/s", 1300, floor=True)
        _row("    CPU time in it (one thread)", 100 * used / took, "%")
        _row(f"publish {BATCHES} entries (tiles, checkpoint)", _median(writer.publish, 1) * 1e3, "ms")
    _row(f"envelope of {READINGS} readings", len(envelopes[0]), "bytes")
    _row("public log, a batch", directory_size(data / PUBLIC) / BATCHES, "bytes")
    _row("public log and database with payloads, a batch", directory_size(data) / BATCHES, "bytes")


def _reading(data: Path, scratch: Path) -> None:
    policy = parse_policy((data / POLICY).read_bytes())
    took = _median(lambda: fsck(lambda path: read_file(data / PUBLIC, path), policy), 3)
    _row("fsck, device signatures included", BATCHES / took, "entries/s")
    proof, witnessed_policy = witnessed_million()
    parsed = parse_policy(witnessed_policy)
    verify_proof(proof, parsed)
    _row("verify one proof, three witnesses, warm", _median(lambda: verify_proof(proof, parsed), 300) * 1e3, "ms", 2)
    files = scratch / "one.tlog-proof", scratch / "policy.txt"
    files[0].write_bytes(proof)
    files[1].write_bytes(witnessed_policy)
    command = [str(Path(sys.executable).with_name("vitalseal")), "verify", str(files[0]), "--policy", str(files[1])]
    cold = _median(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL), 9)  # noqa: S603 - ourselves
    _row("vitalseal verify, from a cold shell", cold * 1e3, "ms", 300)
    _row(".tlog-proof: heart rate, log of 10^6 batches, 3 witnesses", len(proof) / KB, "KB", 2.7)


def _median(work: Callable[[], object], times: int) -> float:
    """Seconds that `work` takes."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _row(figure: str, value: float, unit: str, budget: float | None = None, *, floor: bool = False) -> None:
    shown = f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    if budget is None:
        print(f"{figure:<62}{shown:>14}", flush=True)
        return
    missed = value < budget if floor else value > budget
    bound = f"{'>=' if floor else '<='} {budget:,g}"
    print(f"{figure:<62}{shown:>14}{bound:>14}{'   BEYOND' if missed else ''}", flush=True)


def _processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


main()
