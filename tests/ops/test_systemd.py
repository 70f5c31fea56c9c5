"""What programs tell systemd, and that the units are ones that it takes."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vitalseal.systemd import FEEDINGS, Heart, notify, reloading, watchdog_s

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted(path.name for path in DEPLOY.iterdir() if path.suffix in {".service", ".path"})
PROGRAMS = ["vitalseal-aggregator.service", "vitalseal-edge.service", "vitalseal-witness.service"]


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_notify_sends_one_message_with_a_line_for_each_state(systemd, monkeypatch):
    """As sd_notify(3) has it."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(systemd.path))
    notify("READY=1", "STATUS=all is well")
    assert systemd.hear() == ["READY=1", "STATUS=all is well"]


def test_notify_reaches_an_abstract_socket(monkeypatch):
    """Systemd's own begins with a zero byte, which the variable writes as @."""
    import socket

    name = f"vitalseal-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify("READY=1")
        listening.settimeout(10)
        assert listening.recv(100) == b"READY=1"


@pytest.mark.parametrize("where", [None, "", "/nowhere/at/all"])
def test_notify_without_systemd_does_nothing(monkeypatch, where):
    """Neither without the variable nor where nobody listens."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if where is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", where)
    notify("READY=1")


def test_reloading_says_since_when():
    """Systemd wants the monotonic time in microseconds beside it."""
    first, second = reloading()
    assert first == "RELOADING=1"
    assert re.fullmatch(r"MONOTONIC_USEC=\d+", second)


@pytest.mark.parametrize(
    ("usec", "process", "expected"),
    [
        ("60000000", None, 60.0),
        ("60000000", "ours", 60.0),
        ("60000000", "1", None),
        ("x", None, None),
        ("0", None, None),
    ],
)
def test_watchdog_is_ours_only(monkeypatch, usec, process, expected):
    """A child inherits the variables and is not meant."""
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if process is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if process == "ours" else process)
    assert watchdog_s() == expected


def test_heart_feeds_only_while_every_part_beats(monkeypatch):
    """One part that stands still starves the watchdog, however often the other beats."""
    monkeypatch.setenv("WATCHDOG_USEC", "40000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    clock, told = Clock(), []
    heart = Heart("ingest", "publisher", clock=clock, tell=told.append)
    clock.now += 40 / FEEDINGS
    for _ in range(5):
        heart.beat("ingest")
    assert told == []
    heart.beat("publisher")
    assert told == ["WATCHDOG=1"]
    clock.now += 40 / FEEDINGS - 1
    heart.beat("ingest")
    heart.beat("publisher")
    assert len(told) == 1  # not oftener than it must be
    clock.now += 1
    heart.beat("publisher")
    assert len(told) == 2
    clock.now += 1000
    heart.beat("publisher")
    assert len(told) == 2  # `ingest` has not beaten since


def test_heart_without_a_watchdog_says_nothing(monkeypatch):
    """Outside systemd it costs nothing."""
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    told = []
    heart = Heart("only", tell=told.append)
    heart.beat("only")
    assert told == []


needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze (package systemd) is not installed"
)


@pytest.fixture
def units(tmp_path):
    """Every unit, with the programs it starts being ones that are here."""
    for name in UNITS:
        text = (DEPLOY / name).read_text()
        (tmp_path / name).write_text(re.sub(r"/opt/vitalseal/\S+", shutil.which("true"), text))
    return tmp_path


@needs_analyze
def test_units_are_ones_that_systemd_takes(units):
    """No unknown setting, no missing value: not one word of complaint."""
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(units / name) for name in UNITS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_analyze
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_are_shut_in(units, name):
    """Below 2 of 10 on systemd's scale of exposure."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(units / name)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_are_watched_and_reloaded(name):
    """Each says when it is ready, is started again when it hangs, and reads its configuration again on reload."""
    text = (DEPLOY / name).read_text()
    for line in ("Type=notify", "NotifyAccess=main", "ExecReload=/bin/kill -HUP $MAINPID", "Restart=on-failure"):
        assert f"\n{line}\n" in text
    assert re.search(r"\nWatchdogSec=\d+\n", text)
    assert re.search(r"\nTimeoutStopSec=\d+\n", text)
