"""Child processes that never outlive us, and that are started again when they die.

A child begins as this module, run as a program: it asks the kernel to be killed when its parent dies (Linux), makes
sure that the parent did not die before that, and becomes the command. It has a session of its own, so Ctrl-C reaches
the parent only, which then ends things in order. Elsewhere than on Linux a SIGKILL of the parent leaves children.
"""

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vitalseal.errors import UserError

logger = logging.getLogger(__name__)

# A program that dies this often in a row, each time within QUICK_S of its start, will not get better by itself.
MAX_QUICK_DEATHS = 5
QUICK_S = 10.0
LOG_TAIL_BYTES = 4096

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Child:
    """One program that is kept running; used from one thread, which must live as long as the child.

    (Linux sends the death signal when the *thread* that started the child ends.)
    """

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        """Nothing runs before `start`. What the program says goes to the end of the file `log`."""
        self.name = name
        self.restarts = 0
        self.log = log
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._quick_deaths = 0

    @property
    def pid(self) -> int | None:
        """The process id, None before the start."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """The program runs, or will say in its log why not."""
        launcher = [sys.executable, "-P", "-m", __name__, str(os.getpid()), *self._command]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own programs
                launcher, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._started_s = time.monotonic()

    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.poll() if self._process else None

    def revive(self) -> bool:
        """Starts the program again if it has ended, whatever its code; true if it had.

        Raises:
            UserError: it dies again and again; with the last line of its log.
        """
        code = self.code()
        if code is None:
            return False
        quick = time.monotonic() - self._started_s < QUICK_S
        self._quick_deaths = self._quick_deaths + 1 if quick else 0
        if self._quick_deaths >= MAX_QUICK_DEATHS:
            raise UserError(f"{self.name} does not stay up: {self.last_words()} (see {self.log})")
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        logger.warning("%s %s; starting it again", self.name, how)
        self.restarts += 1
        self.start()
        return True

    def terminate(self) -> None:
        """Asks the program to end in good order."""
        # `poll` first: a process id that was waited for may belong to somebody else by now.
        if self._process and self.code() is None:
            self._process.terminate()

    def stop(self, timeout_s: float) -> None:
        """The program has ended: by itself within `timeout_s` of being asked, or killed."""
        if self._process is None:
            return
        self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        if self.code() is None:
            logger.warning("%s did not end within %.0f s and is killed", self.name, timeout_s)
            self._process.kill()
            self._process.wait()

    def last_words(self) -> str:
        """The last line of its log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
                lines = file.read().decode("utf-8", "replace").split("\n")
        except OSError:
            return "no log"
        return next((line for line in reversed(lines) if line.strip()), "nothing in its log")


def stop_all(children: Sequence[Child], timeout_s: float) -> None:
    """All have ended, asked at the same time and given `timeout_s` together."""
    deadline_s = time.monotonic() + timeout_s
    for child in children:
        child.terminate()
    for child in children:
        child.stop(max(0.0, deadline_s - time.monotonic()))


def _become(parent: int, command: Sequence[str]) -> None:
    """This process is `command`, and dies with `parent`."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == parent:  # else it died before the kernel knew, and nobody will tell us
        os.execvp(command[0], list(command))  # noqa: S606 - the command is our parent's


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
