"""The power goes after every operation of a recorded program: how many disks were tried, and which broke a promise.

The programs are `workload` (the log's writer) and `edge_workload` (the outbox); each has promises of its own.
"""

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from tests.crash import strace, trace, workload
from tests.crash.disk import Disk, State, choices, digest, materialise
from tests.crash.operations import Mark, Operation, snapshot
from tests.crash.strace import Kill

MEMORY = Path("/dev/shm")  # noqa: S108 - disks live there while they are checked: fsync costs nothing


class Promises(Protocol):
    """What a program has promised so far; its text tells two of them apart."""

    def note(self, operation: Operation, disk: Disk) -> None:
        """Adds what `operation`, which `disk` has taken already, promised."""
        ...


# Raises where a state of the data directory's parent breaks the promises made before it.
Check = Callable[[Path, Any], None]


@dataclass(frozen=True, slots=True)
class Run:
    """One process: what it does, and how it is harmed or killed. `program` takes what `workload` takes."""

    script: str
    harm: str | None = None
    kill: Kill | None = None
    program: str = workload.__file__


@dataclass(frozen=True, slots=True)
class Recording:
    """All operations of a log's life so far; the power is cut from the `start`-th on."""

    operations: Sequence[Operation]
    start: int


@dataclass(frozen=True, slots=True)
class Violation:
    """A disk that broke a promise, and how to make it again."""

    prefix: int
    last: Operation
    choice: str
    reason: str
    state: State = field(repr=False)

    def __str__(self) -> str:
        files = "\n".join(f"    {path}{'/' if data is None else f' {len(data)}'}" for path, data in self.state.items())
        return f"after operation {self.prefix} ({_short(self.last)}), {self.choice} survived:\n  {self.reason}\n{files}"


@dataclass(slots=True)
class Outcome:
    """What came of cutting the power everywhere."""

    prefixes: int = 0
    states: int = 0
    violations: list[Violation] = field(default_factory=list)

    def add(self, other: "Outcome") -> None:
        """Counts `other` in."""
        self.prefixes += other.prefixes
        self.states += other.states
        self.violations += other.violations

    def __str__(self) -> str:
        return f"{self.prefixes} prefixes, {self.states} distinct states, {len(self.violations)} violations"


def record(root: Path, runs: Sequence[Run], *, cut_from: int = 0) -> Recording:
    """What `runs` do, one after the other, below `root`; the power is cut from run `cut_from` on.

    What is there before the first of them is durable.
    """
    operations = snapshot(root)
    start = len(operations)
    marks = root.with_name("marks")
    for number, run in enumerate(runs):
        if number == cut_from:
            start = len(operations)
        operations += trace.record(_command(run, root, marks), root, marks, operations, run.kill)
    return Recording(operations, start)


def kills(root: Path, whole: Run) -> list[Run]:
    """Runs like `whole`, each killed in place of another of its syncs, found by running it below `root`.

    Syncs of staged files are left out: before the next sync of a directory or a database, nothing refers to them.
    """
    log = root.with_name("whole.strace")
    strace.run(_command(whole, root, root.with_name("marks")), log)
    found = []
    counts: Counter[str] = Counter()
    with log.open(encoding="ascii") as lines:
        for _, call in strace.calls(lines):
            counts[call.name] += 1
            if call.name == "fdatasync" or (call.name == "fsync" and Path(strace.parse_handle(call.text)[1]).is_dir()):
                found.append(replace(whole, kill=Kill(call.name, counts[call.name])))
    return found


def _command(run: Run, root: Path, marks: Path) -> list[str]:
    harm = ["--harm", run.harm] if run.harm else []
    return [sys.executable, "-P", run.program, str(root), str(marks), run.script, *harm]


def cut_everywhere(
    recording: Recording, check: Check, promised: Callable[[], Promises], *, mixtures: int, at_most: int = 20
) -> Outcome:
    """Checks every distinct disk that a power loss after each operation may leave, up to `at_most` violations."""
    outcome = Outcome()
    tried: set[tuple[bytes, str]] = set()
    for prefix, operation, disk, promises in _prefixes(recording, promised()):
        outcome.prefixes += 1
        for name, choice in choices(str(prefix), mixtures):
            state = disk.state(choice)
            key = digest(state), str(promises)
            if key in tried:
                continue
            tried.add(key)
            try:
                _checked(state, promises, check)
            except Exception as error:  # noqa: BLE001 - whatever recovery raises is what a violation is
                reason = f"{type(error).__name__}: {error}"
                outcome.violations.append(Violation(prefix, operation, name, reason, state))
                if len(outcome.violations) == at_most:
                    break
        if len(outcome.violations) == at_most:
            break
    outcome.states = len({state for state, _ in tried})
    return outcome


def _prefixes(recording: Recording, promises: Promises) -> Iterator[tuple[int, Operation, Disk, Promises]]:
    """Disk and promises after each operation from the recording's start on."""
    disk = Disk()
    for prefix, operation in enumerate(recording.operations, 1):
        disk.apply(operation)
        promises.note(operation, disk)
        if prefix >= recording.start:
            yield prefix, operation, disk, promises


def _checked(state: State, promises: Promises, check: Check) -> None:
    folder = Path(tempfile.mkdtemp(dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
    try:
        materialise(state, folder)
        check(folder, promises)
    finally:
        shutil.rmtree(folder)


def _short(operation: Operation) -> str:
    text = str(operation)
    return text if isinstance(operation, Mark) or len(text) < 160 else f"{text[:160]}..."
