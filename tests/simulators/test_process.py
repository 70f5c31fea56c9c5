"""Children are started again when they die, and die when we do."""

import os
import select
import signal
import subprocess
import sys

import pytest

from simulators.process import MAX_QUICK_DEATHS, Child, stop_all
from vitalseal.errors import UserError

FOREVER = [sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()",
]
# Starts a child, tells its pid, and waits to be killed.
PARENT = """
import sys
from pathlib import Path
from simulators.process import Child
child = Child("child", [sys.executable, "-c", "import signal; signal.pause()"], Path(sys.argv[1]))
child.start()
print(child.pid, flush=True)
sys.stdin.read()
"""
WITHIN_MS = 20_000


@pytest.fixture
def start(tmp_path):
    """Starts a child that is gone at the end."""
    children = []

    def started(command, name="child"):
        child = Child(name, command, tmp_path / f"{name}.log")
        children.append(child)
        child.start()
        return child

    yield started
    stop_all(children, 0.0)


def wait_for_end(pid):
    """Blocks until the process is gone; fails if it stays."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        assert poll.poll(WITHIN_MS), f"process {pid} did not end"
    finally:
        os.close(descriptor)


def kill(child):
    os.kill(child.pid, signal.SIGKILL)
    child._process.wait(20)


def test_child_that_was_killed_is_started_again(start):
    """Another process runs the same command, and it is counted."""
    child = start(FOREVER)
    first = child.pid
    assert not child.revive()
    kill(child)
    assert child.code() == -signal.SIGKILL
    assert child.revive()
    assert child.pid != first
    assert (child.code(), child.restarts) == (None, 1)


def test_child_that_will_not_stay_up_ends_in_one_line(start):
    """After some quick deaths the last line of its log is what the user reads."""
    child = start([sys.executable, "-c", "raise SystemExit('the disk is full')"])
    for _ in range(MAX_QUICK_DEATHS - 1):
        child._process.wait(20)
        assert child.revive()
    child._process.wait(20)
    with pytest.raises(UserError, match=r"child does not stay up: the disk is full \(see ") as error:
        child.revive()
    assert "\n" not in str(error.value)


def test_child_dies_with_a_parent_that_was_killed(tmp_path):
    """No orphan survives a SIGKILL of whoever started it."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "log")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    wait_for_end(pid)


def test_child_of_a_parent_that_is_gone_does_not_begin(tmp_path):
    """A parent that died before the kernel knew whose death to watch leaves nothing running."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    marker = tmp_path / "begun"
    command = [sys.executable, "-m", "simulators.process", str(dead.pid), "/usr/bin/touch", str(marker)]
    assert subprocess.run(command, check=False).returncode == 0
    assert not marker.exists()


def test_stop_asks_first_and_kills_after_the_time(start, tmp_path):
    """One that ends by itself is not killed; one that will not is."""
    polite, stubborn = start(FOREVER, "polite"), start(STUBBORN, "stubborn")
    for name in ("polite", "stubborn"):
        with (tmp_path / f"{name}.log").open() as log:
            while not log.readline():  # it must be up before it can ignore anything
                pass
    stop_all([stubborn, polite], 1.0)
    assert (polite.code(), stubborn.code()) == (-signal.SIGTERM, -signal.SIGKILL)


def test_stop_of_a_child_that_never_ran_does_nothing(tmp_path):
    """So that a set-up that failed half way can be taken down."""
    child = Child("child", FOREVER, tmp_path / "log")
    child.stop(1.0)
    assert (child.pid, child.code()) == (None, None)


def test_child_does_not_look_for_modules_where_it_is_started(start, tmp_path, monkeypatch):
    """A file in the user's directory that is named like a module of the library is not ours to run."""
    (tmp_path / "ctypes.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    child = start(["true"])
    assert child._process.wait(WITHIN_MS / 1000) == 0
