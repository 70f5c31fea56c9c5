"""Witnesses on this machine, each a process of its own with its own keys and state, as three organisations would run.

    <directory>/<name>/        a witness's data, as `vitalseal ledger witness init` makes it
    <directory>/<name>.log     what it says

On one machine they show how things go together; they show nothing about independence.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ledger.errors import MalformedError
from ledger.service.witness_keys import LINES, create_witness
from ledger.writer.storage import StorageError
from simulators.broker import HOST, free_port
from simulators.process import Child, stop_all
from vitalseal.errors import UserError

NAMES = ("hospital", "regulator", "patients")
QUORUM = 2
STOP_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class WitnessProcess:
    """One witness: its name, where it is, and the program."""

    name: str
    data: Path
    url: str
    child: Child

    @property
    def lines(self) -> Path:
        """The file with its policy lines, for whoever runs a log."""
        return self.data / LINES


def lay_out_witnesses(directory: Path, logs: Sequence[Path], names: Sequence[str] = NAMES) -> list[WitnessProcess]:
    """A witness for each of `names`, nothing started yet; each will cosign the logs of the policy files `logs`.

    Raises:
        UserError: they are there already, or the directory cannot be written.
    """
    witnesses = []
    for name in names:
        port = free_port()
        data, url = directory / name, f"http://{HOST}:{port}"
        try:
            create_witness(data, f"witness.example/{name}", url)
        except (MalformedError, StorageError) as error:
            raise UserError(str(error)) from None
        command = [sys.executable, "-P", "-m", "vitalseal", "ledger", "witness", "run", "--data", str(data)]
        command += ["--port", str(port), "--logs", *map(str, logs)]
        child = Child(f"witness {name}", command, directory / f"{name}.log")
        witnesses.append(WitnessProcess(name, data, url, child))
    return witnesses


def stop_witnesses(witnesses: Sequence[WitnessProcess]) -> None:
    """None of them runs any more."""
    stop_all([witness.child for witness in witnesses], STOP_WITHIN_S)
