"""A systemctl for tests: `standin_systemctl.py RUN UNITS CALLS WORDS...`.

It knows start, stop, restart, reload, try-reload-or-restart, enable [--now], disable [--now], status, is-active and
daemon-reload, for services whose units, or whose drop-ins, are in UNITS. A service is a real process: what the unit's
ExecStart says, started after its ExecStartPre; for `Type=notify` "started" means that it has said READY=1. Its process
id and what it says are in RUN. Sandboxing, users, watchdogs and restarts are not stood in for.
"""

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

LIMIT_S = 30.0


class Unit:
    """One unit's files and process."""

    def __init__(self, run: Path, units: Path, name: str) -> None:
        self.name = name if "." in name else f"{name}.service"
        files = [units / self.name, *sorted((units / f"{self.name}.d").glob("*.conf"))]
        self.text = "\n".join(path.read_text() for path in files if path.exists())
        if not self.text:
            sys.exit(f"Unit {self.name} could not be found.")
        self.pid_file, self.log, self.socket = run / f"{self.name}.pid", run / f"{self.name}.log", run / "notify"

    def values(self, setting: str) -> list[list[str]]:
        """The words of each value of a setting; an empty one forgets those before it."""
        found: list[list[str]] = []
        for value in re.findall(rf"^{setting}=(.*)$", self.text, re.MULTILINE):
            found = [*found, shlex.split(value.lstrip("+-"))] if value else []
        return found

    def pid(self) -> int | None:
        """Its process, if it runs."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pid = int(self.pid_file.read_text())
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] if pid else "Z"
            if state != "Z":
                os.kill(pid, 0)
                return pid
        return None

    def start(self) -> None:
        """It runs, and has said so."""
        if self.name.endswith(".path") or self.pid():
            return
        for words in self.values("ExecStartPre"):
            subprocess.run(words, check=True)
        if self.values("Type") == [["oneshot"]]:
            for words in self.values("ExecStart"):
                subprocess.run([word.removeprefix("/bin/") for word in words], check=True)
            return
        notifies = "READY=1" if self.values("Type") == [["notify"]] or "mosquitto" in self.name else None
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening, self.log.open("ab") as log:
            self.socket.unlink(missing_ok=True)
            listening.bind(str(self.socket))
            process = subprocess.Popen(
                self.values("ExecStart")[-1],
                env={**os.environ, "NOTIFY_SOCKET": str(self.socket)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            self.pid_file.write_text(str(process.pid))
            listening.settimeout(0.1)
            end = time.monotonic() + LIMIT_S
            while notifies:
                if process.poll() is not None or time.monotonic() > end:
                    self.pid_file.unlink()
                    sys.exit(f"{self.name} did not start:\n{self.log.read_text()}")
                with contextlib.suppress(TimeoutError):
                    if notifies in listening.recv(4096).decode().split("\n"):
                        return

    def stop(self) -> None:
        """It has ended in good order."""
        if pid := self.pid():
            os.kill(pid, signal.SIGTERM)
            end = time.monotonic() + LIMIT_S
            while self.pid():
                if time.monotonic() > end:
                    sys.exit(f"{self.name} does not stop")
                time.sleep(0.02)
        self.pid_file.unlink(missing_ok=True)

    def reload(self) -> None:
        """It was told to read its files again."""
        if pid := self.pid():
            os.kill(pid, signal.SIGHUP)


def main() -> int:
    run, units, calls = map(Path, sys.argv[1:4])
    with calls.open("a") as file:
        print("systemctl", *sys.argv[4:], file=file)
    words = [word for word in sys.argv[4:] if word not in {"--now", "--quiet", "--no-block"}]
    verb, names = words[0], words[1:]
    if verb == "daemon-reload":
        return 0
    for unit in [Unit(run, units, name) for name in names]:
        if verb in {"stop", "restart"} or (verb == "disable" and "--now" in sys.argv):
            unit.stop()
        if verb in {"start", "restart"} or (verb == "enable" and "--now" in sys.argv):
            unit.start()
        if verb in {"reload", "try-reload-or-restart"}:
            unit.reload()
        if verb in {"status", "is-active"}:
            sys.stdout.write("active\n" if unit.pid() else "inactive\n")
            return 0 if unit.pid() else 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
