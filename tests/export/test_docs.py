"""docs/export.md, as a reader would type it."""

import os
import re
import subprocess
import sys
from pathlib import Path

from .ward import SECOND, START_NS

PAGE = Path(__file__).parents[2] / "docs" / "export.md"


def test_commands_of_the_page_work(full, device, tmp_path):
    """All of them, in order, in one shell that stops at the first failure; then the Python."""
    (tmp_path / "aggregator.toml").write_text('data = "data"\n')
    full.assign(device.source, "patient-7", START_NS - SECOND)
    shell, python = (
        "".join(re.findall(rf"```{word}\n(.*?)```", PAGE.read_text(), re.DOTALL)) for word in ("sh", "python")
    )
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    results = [
        subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        for command in (["sh", "-ec", shell], [sys.executable, "-c", python])
    ]
    assert [(done.returncode, done.stderr) for done in results] == [(0, ""), (0, "")]
    assert re.findall("^export: .*$", results[0].stdout, re.MULTILINE) == [
        "export: readings=21 refused=0 file=patient-7.zip",
        "export: readings=21 refused=0 file=patient-7.json",
        "export: readings=4 refused=0 file=heart.parquet",
    ]
    assert results[0].stdout.count("PROVEN") == 22
    assert [line.split(" at ")[0] for line in results[1].stdout.splitlines()] == [
        "heart_rate 72 /min",
        "heart_rate 72.00 /min",
        "heart_rate 72.0 /min",
        "ecg 3 samples x 1 in mV",
    ]


def test_options_of_the_page_are_those_of_the_command():
    """Every option is on the page."""
    done = subprocess.run(
        [sys.executable, "-m", "vitalseal", "export", "--help"], capture_output=True, text=True, check=True
    )
    assert set(re.findall(r"--[a-z]+", done.stdout)) - {"--help"} <= set(re.findall(r"--[a-z]+", PAGE.read_text()))
