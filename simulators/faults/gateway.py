"""`vitalseal edge run` on a gateway that believes of its clock what a file says: a program of its own.

    python -m simulators.faults.gateway FILE edge run ...

libfaketime makes the wall clock wrong. Two things it leaves as they are, and they come from FILE: whether the kernel
calls the clock synchronised, and which boot this is. Everything else is the agent as it always is.
"""

import json
import sys
import time
from pathlib import Path
from unittest import mock

from edge import agent
from edge.clock import Moment
from ledger.info import Clock
from vitalseal.cli import main


class ToldClock:
    """An `edge.clock.ClockReader` that looks into the file each time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Moment:
        """The clocks as they are now."""
        told = json.loads(self._path.read_bytes())
        clock = Clock.SYNCHRONISED if told["synchronised"] else Clock.UNSYNCHRONISED
        return Moment(time.time_ns(), time.monotonic_ns(), bytes.fromhex(told["boot"]), clock, None)


if __name__ == "__main__":
    with mock.patch.object(agent, "SystemClock", return_value=ToldClock(Path(sys.argv[1]))):
        sys.exit(main(sys.argv[2:]))
