"""Programs of this house as systemd would run them: the unit's command, a NOTIFY_SOCKET, signals."""

import re
import signal
import subprocess
import sys
from pathlib import Path

DEPLOY = Path(__file__).parents[2] / "deploy"


def setting(unit: str, name: str) -> str:
    """The value of a setting in a unit of ours."""
    [value] = re.findall(rf"^{name}=(.*)$", (DEPLOY / unit).read_text(), re.MULTILINE)
    return value


class Program:
    """One process with `words` after `vitalseal`; its log is in `said`."""

    def __init__(self, words, said, environment=None):
        self._said = said
        with said.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vitalseal", *map(str, words)],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self, limit_s=60.0):
        """Its exit code after SIGTERM; it ends within the limit."""
        self.signal(signal.SIGTERM)
        return self.process.wait(limit_s)

    def kill(self):
        """It is gone, if it was not before."""
        self.process.kill()
        self.process.wait()

    def said(self):
        return self._said.read_text()
