"""Programs of ours that run beside the service, for as long as it runs: the projection, the desk.

Each is a process of its own, so that none of them can slow the log down or take it along when it fails.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Self

logger = logging.getLogger(__name__)

RESTART_AFTER_S = 5.0
MAX_RESTART_AFTER_S = 60.0  # for one that fails each time: a port that is taken, a full disk
STEADY_S = 60.0  # one that has run for this long had a good start


class SideProcess:
    """A context manager: `python -m MODULE ARGUMENTS...` runs, and is started again if it ends by itself.

    Its standard input is the string that ties it to us: it closes when we end, however that happens.
    """

    def __init__(self, name: str, module: str, *arguments: str, if_it_ends: str) -> None:
        """`if_it_ends` says in the log what does not happen meanwhile."""
        self._name = name
        self._command = [sys.executable, "-P", "-m", module, *arguments]
        self._if_it_ends = if_it_ends
        self._leaving = threading.Event()
        self._lock = threading.Lock()  # guards _process against being replaced while it is ended
        self._process = self._start()
        self._watcher = threading.Thread(target=self._watch, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        with self._lock:
            if self._process.stdin:
                self._process.stdin.close()
        self._watcher.join()

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(self._command, stdin=subprocess.PIPE)  # noqa: S603 - ourselves

    def _watch(self) -> None:
        wait_s = RESTART_AFTER_S
        while True:
            started = time.monotonic()
            code = self._process.wait()
            if self._leaving.is_set():
                return
            logger.error("the %s ended with exit code %d: %s", self._name, code, self._if_it_ends)
            wait_s = RESTART_AFTER_S if time.monotonic() - started >= STEADY_S else wait_s
            self._leaving.wait(wait_s)
            wait_s = min(2 * wait_s, MAX_RESTART_AFTER_S)
            with self._lock:
                if self._leaving.is_set():
                    return
                if self._process.stdin:
                    self._process.stdin.close()
                self._process = self._start()


def parent_gone() -> threading.Event:
    """Called in such a process: is set when whoever started it has ended."""
    # Ctrl-C on a terminal reaches us too, and so does systemd's SIGTERM; when to end is our parent's word alone.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    gone = threading.Event()

    def watch() -> None:
        while os.read(0, 1024):
            pass
        gone.set()

    threading.Thread(target=watch, daemon=True).start()
    return gone
