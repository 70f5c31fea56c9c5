"""`python -m bench`: the figures of docs/benchmarks.md, on this machine; `python -m bench log`: those of one part.

Medians of one run; fsync is on wherever the product has it on. Nothing is asserted: times on a shared machine are
noisy, so a figure beyond its budget is marked for a person to look at. `BENCH_DIR` names the disk to write to.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.edge import measure_agent
from bench.influx import measure_influx
from bench.log import measure_log
from bench.rebuild import measure_rebuild
from bench.samples import ORIGIN, READINGS, Sealer, directory_size, ingest, witnessed_million
from bench.storage import measure_checkpoints
from bench.table import heading, median_s, row, section
from ledger.fsck import fsck
from ledger.policy import parse_policy
from ledger.verify import verify_proof
from ledger.writer.create import POLICY, create_log, load_log_keys
from ledger.writer.files import read_file
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter
from ledger.writer.reader import PUBLIC

BATCHES = 4000
GROUP = 64  # batches in one commit, as the service makes them under load
KB = 1000


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="The figures of docs/benchmarks.md.")
    parts = ("pipeline", "log", "checkpoints", "influx", "rebuild")
    parser.add_argument("part", nargs="?", choices=parts, help="only this table")
    parser.add_argument("--entries", type=int, default=1_000_000, help="length of the long log (%(default)s)")
    parser.add_argument("--readings", type=int, default=1_000_000, help="of the part `rebuild` (%(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vitalseal-bench-", dir=os.environ.get("BENCH_DIR")) as name:
        scratch = Path(name)
        heading(scratch)
        if arguments.part in {None, "pipeline"}:
            _pipeline(scratch)
        if arguments.part in {None, "log"}:
            measure_log(scratch, arguments.entries)
        if arguments.part in {None, "checkpoints"}:
            measure_checkpoints(scratch)
        if arguments.part in {None, "influx"}:
            measure_influx(scratch)
        if arguments.part == "rebuild":  # not among the others: it takes minutes
            measure_rebuild(scratch, arguments.readings)


def _pipeline(scratch: Path) -> None:
    section("readings, batches, proofs")
    data = scratch / "log"
    create_log(data, ORIGIN)
    sealer = Sealer()
    _sealing()
    _writing(data, sealer)
    _reading(data, scratch)
    drained = measure_agent(scratch)
    row("edge agent, peak resident, draining 100,000 readings", drained.resident_bytes / 2**20, "MB", 64)
    row("edge agent, a backlog drained and stored", drained.rate, "readings/s")
    row("    the oldest live reading waited meanwhile, at the worst", drained.live_worst_s, "s")


def _sealing() -> None:
    sealer = Sealer()
    readings = sealer.encoded()
    row(f"seal {READINGS} readings", median_s(lambda: sealer.seal(readings), 400) * 1e3, "ms", 1)


def _writing(data: Path, sealer: Sealer) -> None:
    envelopes = list(sealer.envelopes(BATCHES))
    with LocalStorage(data) as storage:
        writer = LogWriter(storage, load_log_keys(data).signers, time.time_ns)
        started, cpu = time.perf_counter(), time.process_time()
        ingest(storage, writer, sealer, envelopes, GROUP)
        took, used = time.perf_counter() - started, time.process_time() - cpu
        row(f"admission + sequencing, {READINGS} readings a batch", BATCHES / took, "batches/s", 1300, floor=True)
        row("    CPU time in it (one thread)", 100 * used / took, "%")
        row(f"publish {BATCHES} entries (tiles, checkpoint)", median_s(writer.publish, 1) * 1e3, "ms")
    row(f"envelope of {READINGS} readings", len(envelopes[0]), "bytes")
    row("public log, a batch", directory_size(data / PUBLIC) / BATCHES, "bytes")
    row("public log and database with payloads, a batch", directory_size(data) / BATCHES, "bytes")


def _reading(data: Path, scratch: Path) -> None:
    policy = parse_policy((data / POLICY).read_bytes())
    took = median_s(lambda: fsck(lambda path: read_file(data / PUBLIC, path), policy), 3)
    row("fsck, device signatures included", BATCHES / took, "entries/s")
    proof, witnessed_policy = witnessed_million()
    parsed = parse_policy(witnessed_policy)
    verify_proof(proof, parsed)
    row("verify one proof, three witnesses, warm", median_s(lambda: verify_proof(proof, parsed), 300) * 1e3, "ms", 2)
    files = scratch / "one.tlog-proof", scratch / "policy.txt"
    files[0].write_bytes(proof)
    files[1].write_bytes(witnessed_policy)
    command = [str(Path(sys.executable).with_name("vitalseal")), "verify", str(files[0]), "--policy", str(files[1])]
    cold = median_s(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL), 9)  # noqa: S603 - ourselves
    row("vitalseal verify, from a cold shell", cold * 1e3, "ms", 300)
    row(".tlog-proof: heart rate, log of 10^6 batches, 3 witnesses", len(proof) / KB, "KB", 2.7)


main()
