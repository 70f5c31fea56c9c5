"""Disks that are full: small file systems in memory, filled on purpose.

They are mounted in a mount namespace of our own: nobody else ever sees them, and the kernel takes them away with the
last of our processes, however that ends.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from simulators.demo import DEVICES
from simulators.faults.stage import Places, Stage, start_mosquitto
from simulators.faults.trial import NotRunError, Trial
from simulators.process import Child

ROUNDS = 2
EDGE_MIB, AGGREGATOR_MIB = 48, 96
BALLAST = "ballast"
NOTICED_WITHIN_S = 60.0
# Programs that find the disk full end, and somebody (systemd, we) starts them again and again.
RETRY_S = 2.0

_CLONE_NEWNS = 0x00020000  # linux/sched.h
_BLOCK = 64 * 1024


def disk_full_edge(trial: Trial) -> None:
    """The disk under the devices fills up while they measure, again and again, and has room again.

    While it is full nothing more is accepted, and what was accepted stays, even if the agents are killed in that state.
    """
    disk = _mount(trial, EDGE_MIB)
    stage = Stage(trial, Places(start_mosquitto(trial), devices=disk / DEVICES))
    stage.start()
    device = stage.devices[0]

    def noticed() -> str:
        if device.agent.code() is not None:
            return device.agent.last_words()
        said = trial.call("edge", "status", "--config", device.config).stdout.partition("\n")[0]
        return said if "disk full" in said else ""

    _fill_and_clear(trial, stage, disk, [device.agent for device in stage.devices], noticed)


def disk_full_aggregator(trial: Trial) -> None:
    """The disk under the log fills up while devices measure, again and again, and has room again.

    While it is full nothing is stored and nothing published; devices keep what they have.
    """
    disk = _mount(trial, AGGREGATOR_MIB)
    stage = Stage(trial, Places(start_mosquitto(trial), data=disk / "aggregator"))
    stage.start()
    aggregator = stage.aggregator
    _fill_and_clear(trial, stage, disk, [aggregator], lambda: aggregator.last_words() if aggregator.code() else "")


def _fill_and_clear(trial: Trial, stage: Stage, disk: Path, children: list[Child], noticed: Callable[[], str]) -> None:
    """The disk is filled while `children` use it, and cleared; then everything goes on, and is settled.

    `noticed` says in whose words that somebody has found the disk full.
    """
    for number in range(ROUNDS):
        with stage.away(*children):
            _fill(disk)
            words = ""

            def told() -> bool:
                nonlocal words
                words = words or noticed()
                return bool(words)

            stage.wait(told, NOTICED_WITHIN_S, "a full disk is noticed")
            trial.tell(f"disk full: {words}")
            for child in children:
                if child.code() is None:
                    trial.kill(child)
            # Whoever is started finds a little room at times: what ended has left some.
            for _ in range(max(1, round(trial.seconds / ROUNDS / RETRY_S))):
                for child in children:
                    if child.code() is not None:
                        child.start()
                stage.measure(RETRY_S)
                _fill(disk)
            (disk / BALLAST).unlink()
        took_s = stage.wait_for_receipts("each device has a receipt again")
        trial.outcome.times_s[f"recovery {number + 1}"] = took_s
        trial.tell(f"room again; receipts after {took_s:.1f} s")
    stage.drain()
    stage.settle()


def _fill(disk: Path) -> None:
    """Not a byte more fits on `disk`, for now."""
    with (disk / BALLAST).open("ab", buffering=0) as file:
        for size in (_BLOCK, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


def _mount(trial: Trial, size_mib: int) -> Path:
    """An empty file system in memory until the trial is over; what is on it is kept if that goes wrong."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise NotRunError("a small file system can be mounted by root on Linux only; run it as root")
    disk = trial.directory / "disk"
    disk.mkdir()
    try:
        _leave_namespace()
        _run("mount", "--make-rprivate", "/")
        _run("mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(disk))
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotRunError(
            f"a small file system cannot be mounted here ({error}); a container needs CAP_SYS_ADMIN"
        ) from None

    def unmount(kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        if kind is not None or trial.outcome.unexplained:
            (disk / BALLAST).unlink(missing_ok=True)
            shutil.copytree(disk, trial.directory / "disk-kept")
        _run("umount", "--lazy", str(disk))

    trial.stack.push(unmount)
    return disk


def _leave_namespace() -> None:
    """Mounts of this thread and of the processes that it starts are seen by nobody else; raises OSError."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "no mount namespace of our own")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - our own words
