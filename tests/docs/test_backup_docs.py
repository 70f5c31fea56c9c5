"""docs/backup.md, as whoever runs a log would type it, on a log that is written meanwhile."""

import dataclasses
import re
import shlex
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from aggregator.config import BrokerConfig
from aggregator.relocation import format_config
from tests.aggregator.devices import Device
from tests.aggregator.estate import ORIGIN, Estate

PAGE = Path(__file__).parents[2] / "docs" / "backup.md"
PATIENCE_S = 30


def commands():
    """Every line of every shell block."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@contextmanager
def running(words, directory):
    """A program in the background, which does not outlive the test."""
    with subprocess.Popen(words, cwd=directory, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def opened():
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def estate(tmp_path, mosquitto, opened):
    """An aggregator's directory, without witnesses, with one device and some of its batches."""
    estate = Estate(tmp_path, opened, names=())
    estate.settings = dataclasses.replace(estate.settings, broker=BrokerConfig(mosquitto.host, mosquitto.port))
    estate.config.write_text(format_config(estate.settings))
    estate.device = Device("wrist-1", 1, ORIGIN)
    (tmp_path / "backups").mkdir()
    with estate.writing() as log:
        log.enrol(estate.device)
    grow(estate)
    return estate


def grow(estate):
    with estate.writing() as log:
        log.log(*[estate.device.batch() for _ in range(5)])
        log.publish()


def test_backup_page_works_as_it_is_written(estate, tmp_path, opened):
    """Each command succeeds; the one that freezes says so. After the backup the log goes on, so it is an old one."""
    said, aggregator = {}, None
    for line in commands():
        words = shlex.split(line.removesuffix("&"))
        if words[0] == "vitalseal":
            words[:1] = [sys.executable, "-m", "vitalseal"]
        if line.endswith("&"):
            aggregator = opened.enter_context(running(words, tmp_path))
            continue
        deadline = time.monotonic() + PATIENCE_S
        while True:
            done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
            if done.returncode == 0 or " status " not in line or time.monotonic() > deadline:
                break
        assert done.returncode == (2 if "--data frozen" in line else 0), (line, done.stdout, done.stderr)
        said[line] = done.stdout + done.stderr
        if line.startswith("vitalseal aggregator backup --verify"):
            grow(estate)
        if " status " in line:
            aggregator.terminate()
            assert aggregator.wait(PATIENCE_S) == 0
    assert f"{ORIGIN} is at size 12 again, 5 entries of it from the log" in "".join(said.values())
    assert "FROZEN at size 7" in "".join(said.values())
    assert f"{ORIGIN} was last seen at size 7" in "".join(said.values())


def test_backup_page_names_every_option_of_its_commands():
    """What `--help` lists is on the page, but for the configuration."""
    text = PAGE.read_text()
    for command in ("backup", "restore", "succeed"):
        done = subprocess.run(
            [sys.executable, "-m", "vitalseal", "aggregator", command, "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        for option in set(re.findall(r"--[a-z]+", done.stdout)) - {"--help"}:
            assert option in text, (command, option)
