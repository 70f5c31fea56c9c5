"""What a scenario is given: programs that are started and killed, waits with a deadline, and the account of it.

A scenario is a function of a `Trial`; its docstring says what it tries. It starts real programs, breaks something, and
states what has to hold; what does not hold is unexplained. Whatever it started has ended when it is over.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ledger.errors import LedgerError
from ledger.writer.storage import StorageError
from simulators.broker import HOST
from simulators.process import Child
from vitalseal.errors import UserError

LOOK_EVERY_S = 0.05
STOP_WITHIN_S = 10.0
COMMAND_WITHIN_S = 60.0


class UnexplainedError(Exception):
    """Something did not come out as it has to; one line."""


class NotRunError(Exception):
    """The scenario needs what this machine has not; one line that says what, and how to get it."""


@dataclass(slots=True)
class Outcome:
    """What came of one scenario. `unexplained` is empty exactly if everything held.

    `accepted` and `in_log` count readings, `gaps` those that a device declared lost; `times_s` are measured. A scenario
    with `not_run` was not tried at all, and has not passed.
    """

    name: str
    said: list[str] = field(default_factory=list)
    kills: int = 0
    accepted: int = 0
    in_log: int = 0
    gaps: int = 0
    times_s: dict[str, float] = field(default_factory=dict)
    not_run: str | None = None
    unexplained: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is tried.

    Attributes:
        seconds: for which devices measure in one scenario, all its phases together, at the least.
        kills: how many programs are killed where a scenario is about killing.
        seed: of every random choice; the moments at which programs are hit remain the machine's.
    """

    seconds: float
    kills: int
    seed: int


class Trial:
    """One run of one scenario in `directory`; used from the main thread."""

    def __init__(self, directory: Path, bounds: Bounds, outcome: Outcome, say: Callable[[str], None]) -> None:
        """`say` hears what is done as it is done."""
        self.directory = directory
        self.seconds = bounds.seconds
        self.kills = bounds.kills
        # A string seeds through SHA-512: the same on every machine and Python.
        self.rng = random.Random(f"{bounds.seed}:{outcome.name}")
        self.outcome = outcome
        self.stack = ExitStack()
        self._say = say

    def tell(self, text: str) -> None:
        """`text` is part of what is shown of the scenario."""
        self.outcome.said.append(text)
        self._say(text)

    def expect(self, held: object, what: str) -> None:
        """`what` holds and is told; raises UnexplainedError if it does not."""
        if not held:
            raise UnexplainedError(f"not so: {what}")
        self.tell(what)

    def run(self, name: str, *arguments: object) -> Child:
        """`vitalseal` with `arguments` runs until the trial is over; what it says is in <name>.log."""
        command = [sys.executable, "-P", "-m", "vitalseal", *map(str, arguments)]
        child = Child(name, command, self.directory / f"{name}.log")
        self.stack.callback(child.stop, STOP_WITHIN_S)
        child.start()
        return child

    def call(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """`vitalseal` with `arguments`, which has ended."""
        command = [sys.executable, "-P", "-m", "vitalseal", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_WITHIN_S)  # noqa: S603 - our own programs

    def kill(self, child: Child) -> None:
        """`child`, which ran, was ended by SIGKILL."""
        if child.pid is None or child.code() is not None:
            raise UnexplainedError(f"{child.name} had ended by itself: {child.last_words()}")
        os.kill(child.pid, signal.SIGKILL)
        self.outcome.kills += 1
        self.wait(lambda: child.code() is not None, STOP_WITHIN_S, f"{child.name} is gone")

    def wait(
        self,
        condition: Callable[[], object],
        within_s: float,
        what: str,
        *,
        meanwhile: Callable[[], None] = lambda: time.sleep(LOOK_EVERY_S),
    ) -> float:
        """How long, in seconds, until `condition` held, which is looked at again after each `meanwhile`.

        Raises:
            UnexplainedError: it did not hold in time.
        """
        began_s = time.monotonic()
        while not condition():
            if time.monotonic() - began_s > within_s:
                raise UnexplainedError(f"not within {within_s:.0f} s: {what}")
            meanwhile()
        return time.monotonic() - began_s

    def wait_for_port(self, port: int, child: Child) -> None:
        """`child` answers on its loopback port."""

        def answers() -> bool:
            if child.code() is not None:
                raise UnexplainedError(f"{child.name} ended: {child.last_words()}")
            with socket.socket() as probe:
                probe.settimeout(1.0)
                return probe.connect_ex((HOST, port)) == 0

        self.wait(answers, 30.0, f"{child.name} answers on port {port}")


Scenario = Callable[[Trial], None]


def run_scenario(name: str, scenario: Scenario, directory: Path, bounds: Bounds, say: Callable[[str], None]) -> Outcome:
    """What came of `scenario`, in its own directory below `directory`; nothing that it started is left."""
    outcome = Outcome(name)
    trial = Trial(directory / name, bounds, outcome, say)
    trial.directory.mkdir(parents=True)
    began_s = time.monotonic()
    try:
        with trial.stack:
            scenario(trial)
    except NotRunError as error:
        outcome.not_run = str(error)
    except (UnexplainedError, UserError, LedgerError, StorageError, OSError) as error:
        outcome.unexplained.append(str(error))
    except subprocess.TimeoutExpired as error:
        outcome.unexplained.append(f"did not end: {' '.join(map(str, error.cmd[3:]))}")
    missing = outcome.accepted - outcome.in_log - outcome.gaps
    if missing and not outcome.unexplained:
        outcome.unexplained.append(f"{missing} readings are neither in the log nor declared lost")
    outcome.times_s["all"] = time.monotonic() - began_s
    return outcome


def room_for_data(wanted: Path | None) -> Path:
    """An empty directory: the one that is wanted, or a temporary one; raises UserError."""
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="vitalseal-faults-"))
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        if any(wanted.iterdir()):
            raise UserError(f"{wanted}: is not empty; name another directory with --data, or remove this one")
    except OSError as error:
        raise UserError(f"{wanted}: {error.strerror or error}; name a directory with --data") from None
    return wanted


def summary(outcomes: Sequence[Outcome]) -> str:
    """The line that scripts read."""
    kills, accepted, in_log, gaps = (
        sum(getattr(outcome, name) for outcome in outcomes) for name in ("kills", "accepted", "in_log", "gaps")
    )
    unexplained = sum(len(outcome.unexplained) for outcome in outcomes)
    run = sum(outcome.not_run is None for outcome in outcomes)
    return (
        f"faults: scenarios={run} kills={kills} accepted={accepted} in_log={in_log} gaps={gaps} "
        f"unexplained={unexplained}"
    )


def fields_of(outcome: Outcome) -> Mapping[str, Any]:
    """An outcome as a JSON object."""
    return {name: getattr(outcome, name) for name in Outcome.__slots__}
