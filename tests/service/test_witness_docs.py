"""docs/witness.md and the systemd unit: the commands in them are ones that work."""

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ledger.policy import parse_policy
from tests.service.witnessing import Log

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "witness.md"
UNIT = ROOT / "deploy" / "vitalseal-witness.service"
STATE, LOGS = "/var/lib/vitalseal-witness", "/etc/vitalseal/witness-logs"


def commands(page: str) -> list[list[str]]:
    """The words of every `vitalseal` command in the shell blocks of `page`, without whom they are run as."""
    blocks = "".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL)).replace("\\\n", " ")
    lines = [line.removeprefix("sudo -u vitalseal-witness ") for line in blocks.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("vitalseal ")]


@pytest.fixture
def typed(tmp_path):
    """A command's words as they are typed here, the directories being ours."""

    def change(words: list[str]) -> list[str]:
        places = {STATE: str(tmp_path / "w"), LOGS: str(tmp_path / "logs"), "8081": "0"}
        return [sys.executable, "-m", "vitalseal", *(places.get(word, word) for word in words[1:])]

    return change


def test_page_and_unit_lead_to_a_witness_that_runs(typed, tmp_path):
    """Each command of the page in its order, then the unit's: a witness that knows a log and ends on SIGTERM."""
    said = {}
    for words in commands(PAGE.read_text()):
        done = subprocess.run(typed(words), capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        said[words[3]] = done.stdout
    assert list(said) == ["init", "status", "add-key"]
    (tmp_path / "logs").write_text(f"log {Log().vkeys[0]}\n")
    (command,) = re.findall(r"^ExecStart=(.*)$", UNIT.read_text(), re.MULTILINE)
    with subprocess.Popen(typed(shlex.split(command)), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("witness witness.example/w1 of 1 logs at http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    names = [
        witness.name
        for witness in parse_policy((tmp_path / "w" / "witness.txt").read_bytes() + b"quorum none").witnesses
    ]
    page = PAGE.read_text()
    assert all(f"witness {name} " in page for name in names[:2])
    assert f"group w1 any {names[0]} {names[1]}" in page
