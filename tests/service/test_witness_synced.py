"""A cosignature leaves the machine only after the disk has what it implies."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ledger.service.witness_keys import create_witness
from tests.service.witnessing import NAME, Client, Log

CALLS = "pwrite64,write,sendto,sendmsg,fdatasync,fsync"


@pytest.mark.skipif(shutil.which("strace") is None and os.environ.get("CI") != "true", reason="strace is not installed")
def test_answer_is_sent_after_the_commit_was_synced(tmp_path: Path) -> None:
    """In the order of system calls: the write-ahead log is written, synced, and only then the socket is written to."""
    log, data, trace = Log(), tmp_path / "w", tmp_path / "trace"
    create_witness(data, NAME, None)
    (tmp_path / "logs").write_text(f"{log.vkeys[0]}\n")
    command = [sys.executable, "-m", "vitalseal", "ledger", "witness", "run", "--data", data]
    command += ["--logs", tmp_path / "logs", "--port", "0"]
    tracing = ["strace", "-f", "-y", "-s", "40", "-e", f"trace={CALLS}", "-o", trace]
    with subprocess.Popen([*tracing, *command], stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().split()[-1]
            with Client(url) as client:
                for old in range(3):
                    assert client.request("POST", "add-checkpoint", log.body(old, old + 1))[0] == 200
        finally:
            # The witness is strace's child, and strace ends with it.
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            for child in children:
                os.kill(int(child), signal.SIGTERM)
    steps = "".join(step_of(line) for line in trace.read_text().splitlines())
    assert re.search("S(W+SA){3}S*$", steps), steps


def step_of(line: str) -> str:
    """W for a write to the write-ahead log, S for its sync, A for a cosignature on its way; else nothing."""
    if "witness.db-wal" in line:
        return "W" if "pwrite64(" in line else "S"
    return "A" if "HTTP/1.1 200" in line else ""
