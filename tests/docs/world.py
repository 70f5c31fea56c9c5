"""A machine for the commands of the pages on operating: what needs root, systemd or a network is stood in for.

    paths           /opt/vitalseal, /var/lib, /etc and /usr/local/bin are directories of the test; ports are free ones
    sudo, runuser   run what they are given, as whoever runs the test
    systemctl       `standin_systemctl.py`: starts what the unit's ExecStart says, a real process, and waits for READY=1
    journalctl      shows what that process said
    apt-get, pip, pipx, useradd, chown, ufw, ...   do nothing; that they were called, and how, is in `calls`
    vitalseal       the program of this tree, wherever a page has installed it

Everything else is what it is: mosquitto, install, cp, mv, curl, and the shell itself.
"""

import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECORDED = ("apt-get", "pip", "pipx", "useradd", "usermod", "chown", "ufw", "reboot", "git")
HERE = ("/opt/vitalseal", "/var/lib", "/etc", "/usr/local/bin", "/media")

_RECORD = '#!/bin/sh\necho "{name} $*" >>{calls}\n'
_SCRIPTS = {
    "sudo": '#!/bin/sh\n[ "$1" = -u ] && shift 2\nexec "$@"\n',
    "runuser": '#!/bin/sh\nshift 3\nexec "$@"\n',
    # Without the owners, who are not there.
    "install": "#!/bin/sh\nfor word; do shift; case $word in -o | -g) skip=1 ;; *) "
    '[ -n "$skip" ] || set -- "$@" "$word"; skip= ;; esac; done\nexec /usr/bin/install "$@"\n',
    "id": "#!/bin/sh\ncase $* in *vitalseal*) exit 1 ;; *) echo 0 ;; esac\n",
    "journalctl": '#!/bin/sh\nwhile [ "$1" != -u ]; do shift; done\ncat {run}/"$2".service.log\n',
    "systemctl": '#!/bin/sh\nexec {python} {here}/standin_systemctl.py {run} {units} {calls} "$@"\n',
    "python3": '#!/bin/sh\nif [ "$1 $2" = "-m venv" ]; then\nmkdir -p "$3/bin"\ncp {bin}/vitalseal {bin}/pip "$3/bin"\n'
    'cp {bin}/python3 "$3/bin/python"\nexit\nfi\n'
    '[ "$1 $2" = \'-m pip\' ] && shift 2 && exec pip "$@"\nexec {python} "$@"\n',
    "vitalseal": '#!/bin/sh\nexec {python} -m vitalseal "$@"\n',
}


def commands(page: Path) -> list[str]:
    """Every command of the shell blocks of `page`, one or several lines each, comments left out."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


class World:
    """The machine; `type` runs a command on it. `places` are further texts of the pages and what they are here."""

    def __init__(self, directory: Path, places: dict[str, str]) -> None:
        self.directory = directory
        self.calls = directory / "calls"
        self.run = directory / "processes"
        self.bin = directory / "bin"
        self._places = places | {place: f"{directory}{place}" for place in HERE}
        for name in (
            ".",
            "bin",
            "processes",
            "home",
            "etc/systemd/system",
            "usr/local/bin",
            "opt",
            "var/lib",
            "media/stick",
            "hsm",
        ):
            (directory / name).mkdir(parents=True, exist_ok=True)
        facts = {
            "calls": self.calls,
            "run": self.run,
            "bin": self.bin,
            "python": sys.executable,
            "here": Path(__file__).parent,
            "units": directory / "etc/systemd/system",
        }
        (directory / "hsm.conf").write_text(f"directories.tokendir = {directory}/hsm\nlog.level = ERROR\n")
        for name in RECORDED:
            self._script(name, _RECORD.format(name=name, **facts))
        for name, text in _SCRIPTS.items():
            self._script(name, text.format(**facts))
        self._clone()

    def _script(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def _clone(self) -> None:
        """A clone of the repository, whose deploy/ names the places of this machine."""
        clone = self.directory / "home" / "vitalseal"
        (clone / "deploy").mkdir(parents=True)
        for path in ROOT.iterdir():
            if path.name not in {"deploy", ".git", ".venv", "dist"}:
                (clone / path.name).symlink_to(path)
        for path in (ROOT / "deploy").iterdir():
            copy = clone / "deploy" / path.name
            if path.is_dir():  # containers' and Grafana's, which name no place of a machine
                copy.symlink_to(path)
                continue
            copy.write_text(self.here(path.read_text()))
            copy.chmod(stat.S_IMODE(path.stat().st_mode))

    def here(self, text: str) -> str:
        """`text` with the places that it has on this machine."""
        # A whole word or path, not a part of one.
        begins = {place: r"(?<![\w}.])" if place[0] != " " else "" for place in self._places}
        pattern = "|".join(rf"{begins[place]}{re.escape(place)}(?!\w)" for place in sorted(self._places, reverse=True))
        return re.sub(pattern, lambda found: self._places[found[0]], text)

    def type(self, command: str) -> subprocess.CompletedProcess[str]:
        """What becomes of `command`, typed into a shell in the clone."""
        path = f"{self.bin}:{self.directory}/usr/local/bin:{os.environ['PATH']}:/usr/sbin"
        return subprocess.run(
            ["sh", "-c", self.here(command)],
            cwd=self.directory / "home" / "vitalseal",
            env={
                **os.environ,
                "PATH": path,
                "HOME": str(self.directory / "home"),
                "SOFTHSM2_CONF": f"{self.directory}/hsm.conf",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def called(self) -> list[str]:
        """What was called of what does nothing here, in order."""
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def logs(self) -> dict[str, str]:
        """What every process said, by unit and whether it runs: one that crashed has said nothing of it."""
        units = {path: path.name.removesuffix(".log") for path in self.run.glob("*.log")}
        states = {path: self.type(f"systemctl is-active {unit}").stdout.strip() for path, unit in units.items()}
        return {f"{unit}, {states[path]}": path.read_text()[-4000:] for path, unit in units.items()}

    def end(self) -> None:
        """No process of this machine is left."""
        for pid in self.run.glob("*.pid"):
            self.type(f"systemctl stop {pid.name.removesuffix('.pid')}")
        for pid in self.run.glob("*.pid"):  # what did not stop in good order
            os.kill(int(pid.read_text()), signal.SIGKILL)
