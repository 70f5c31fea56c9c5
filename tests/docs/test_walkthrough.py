"""docs/walkthrough.md, as a reader would type it."""

import re
import shlex
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "walkthrough.md"
PATIENCE_S = 30


def commands():
    """Every line of every shell block."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


class Reader:
    """Types commands into a shell in `directory`; what he put into the background ends with him."""

    def __init__(self, directory, port):
        self._directory = directory
        self._port = port
        self._background = []

    def type(self, line):
        line = line.replace("127.0.0.1:1883", f"127.0.0.1:{self._port}")
        if "0123456789abcdef" in line:
            config = tomllib.loads((self._directory / "edge.toml").read_text())
            line = line.replace("0123456789abcdef", config["sources"][0]["id"])
        words = shlex.split(line.removesuffix("&"))
        if words[0] == "vitalseal":
            words[:1] = [sys.executable, "-m", "vitalseal"]
        if line.endswith("&"):
            log = (self._directory / f"{words[3]}.log").open("w")
            self._background.append((subprocess.Popen(words, cwd=self._directory, stderr=log), log))
            return subprocess.CompletedProcess(words, 0, "", "")
        if words[0] == "echo":
            return subprocess.run(line, shell=True, cwd=self._directory, capture_output=True, text=True, check=False)  # noqa: S602
        return subprocess.run(words, cwd=self._directory, capture_output=True, text=True, check=False)

    def leave(self):
        for process, log in reversed(self._background):
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
            log.close()


@pytest.fixture
def reader(tmp_path, mosquitto):
    reader = Reader(tmp_path, mosquitto.port)
    yield reader
    reader.leave()


def test_walkthrough_works_as_it_is_written(reader, tmp_path):
    """Each command succeeds; where the page says "a second later", we look again until it is so."""
    said = {}
    for line in commands():
        deadline = time.monotonic() + PATIENCE_S
        while True:
            done = reader.type(line)
            later = " proof " in line or " status" in line
            if done.returncode == 0 or not later or time.monotonic() > deadline:
                break
        assert done.returncode == 0, (line, done.stderr, [(p.name, p.read_text()) for p in tmp_path.glob("*.log")])
        said[" ".join(line.split()[1:3])] = done.stdout
    assert "heart_rate 72 /min at 2026-11-21T10:00:00Z" in said["verify reading.tlog-proof"]
    assert "PROVEN" in said["verify reading.tlog-proof"]
    assert "1 batches, 1 enrolments" in said["ledger fsck"]
    assert "patient-7" in said["aggregator assign"]
