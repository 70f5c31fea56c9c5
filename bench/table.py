"""How figures are taken and shown: the machine, the disk, one row each, beside its budget."""

import os
import platform
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ParamSpec

import cryptography

P = ParamSpec("P")

_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


def heading(scratch: Path) -> None:
    """Prints what the figures depend on; `scratch` is on the disk that is written to."""
    print(f"machine: {os.cpu_count()} cores, {_processor()}, {platform.system()} {platform.release()}")
    versions = f"Python {platform.python_version()}, cryptography {cryptography.__version__}"
    print(f"{versions}, SQLite {sqlite3.sqlite_version}")
    print(f"disk: {_file_system(scratch)}; 4 KB appended and synced in {_fsync_s(scratch) * 1e3:.2f} ms")
    print("fsync: SQLite WAL with synchronous=FULL at every commit; every public file and its directory")


def section(title: str) -> None:
    """Prints the head of a table."""
    print(f"\n{title}\n{'':<62}{'measured':>20}{'budget':>14}")


def row(figure: str, value: float, unit: str, budget: float | None = None, *, floor: bool = False) -> None:
    """Prints one figure, marked if it is beyond `budget`: the most it may be, with `floor` the least."""
    shown = (f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}").rstrip()
    if budget is None:
        print(f"{figure:<62}{shown:>20}", flush=True)
        return
    missed = value < budget if floor else value > budget
    bound = f"{'>=' if floor else '<='} {budget:,g}"
    print(f"{figure:<62}{shown:>20}{bound:>14}{'   BEYOND' if missed else ''}", flush=True)


def seconds(work: Callable[P, object], *arguments: P.args, **named: P.kwargs) -> float:
    """Seconds that `work` takes, once."""
    started = time.perf_counter()
    work(*arguments, **named)
    return time.perf_counter() - started


def median_s(work: Callable[[], object], times: int) -> float:
    """Seconds that `work` takes."""
    return statistics.median(seconds(work) for _ in range(times))


def latency(figure: str, taken_s: Iterable[float], budget_ms: float | None = None) -> None:
    """Prints median and 99th percentile of what was `taken_s`; the budget is for the median."""
    values = list(taken_s)
    row(figure, statistics.median(values) * 1e3, "ms", budget_ms)
    row("    99th percentile", statistics.quantiles(values, n=100)[98] * 1e3, "ms")


def _processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _file_system(scratch: Path) -> str:
    """The type of the file system that `scratch` is on; ends the program if an fsync there means nothing."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    kinds = {Path(point): kind for point, kind in mounts}
    kind = next(kinds[folder] for folder in (scratch.resolve(), *scratch.resolve().parents) if folder in kinds)
    if kind in _IN_MEMORY:
        raise SystemExit(f"{scratch} is in memory ({kind}), where nothing is synced: name a disk in BENCH_DIR")
    return kind


def _fsync_s(scratch: Path) -> float:
    with (scratch / "synced").open("wb", buffering=0) as file:

        def synced() -> None:
            file.write(bytes(4096))
            os.fsync(file.fileno())

        return median_s(synced, 100)
