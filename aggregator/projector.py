"""Keeps a projection process beside the service, for as long as the service runs."""

import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

logger = logging.getLogger(__name__)

RESTART_AFTER_S = 5.0


class ProjectionProcess:
    """A context manager: the projection of the log in `data` runs, and is started again if it ends by itself.

    Its standard input is the string that ties it to us: it closes when we end, however that happens.
    """

    def __init__(self, data: Path) -> None:
        self._command = [sys.executable, "-P", "-m", "aggregator.projection", str(data)]
        self._leaving = threading.Event()
        self._lock = threading.Lock()  # guards _process against being replaced while it is ended
        self._process = self._start()
        self._watcher = threading.Thread(target=self._watch, name="projection", daemon=True)

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
        while True:
            code = self._process.wait()
            if self._leaving.is_set():
                return
            logger.error("the projection ended with exit code %d: the view stands still, the log does not", code)
            self._leaving.wait(RESTART_AFTER_S)
            with self._lock:
                if self._leaving.is_set():
                    return
                if self._process.stdin:
                    self._process.stdin.close()
                self._process = self._start()
