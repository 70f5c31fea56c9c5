"""`aggregator init | run | status | assign`: what a person sees, mistakes included."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from aggregator.registry import Registry


@pytest.fixture
def config(vitalseal, tmp_path):
    """A fresh aggregator."""
    path = tmp_path / "aggregator.toml"
    done = vitalseal("aggregator", "init", "--config", path, "--data", tmp_path / "data", "--origin", "a.example/log")
    assert (done.code, done.err) == (0, "")
    assert "vitalseal aggregator run" in done.out
    assert "NOBODY WITNESSES this log" in done.out
    return path


def test_init_twice_changes_nothing(vitalseal, config, tmp_path):
    """A key is made once."""
    before = contents(tmp_path / "data")
    for other in (config, tmp_path / "other.toml"):
        done = vitalseal(
            "aggregator", "init", "--config", other, "--data", tmp_path / "data", "--origin", "b.example/log"
        )
        assert (done.code, len(done.err.splitlines())) == (2, 1)
        assert "nothing was changed" in done.err
    assert contents(tmp_path / "data") == before


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "ä", "x" * 256])
def test_init_refuses_an_origin_that_is_none(vitalseal, tmp_path, origin):
    """A name that no checkpoint can carry is refused before anything is made."""
    done = vitalseal("aggregator", "init", "--config", tmp_path / "c", "--data", tmp_path / "d", "--origin", origin)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert not (tmp_path / "d").exists()


def test_init_in_a_directory_that_cannot_be_written(vitalseal, tmp_path):
    """One line that names it; nobody, root included, can write below a file or in /proc."""
    (tmp_path / "file").write_text("")
    for where in (tmp_path / "file" / "data", Path("/proc/vitalseal")):
        done = vitalseal("aggregator", "init", "--config", tmp_path / "c", "--data", where, "--origin", "a.example")
        assert (done.code, len(done.err.splitlines())) == (2, 1)
        assert str(where.parent) in done.err


def test_status_before_the_first_run(vitalseal, config):
    """There is nothing to see yet, and it says so."""
    done = vitalseal("aggregator", "status", "--config", config)
    assert done.code == 2
    assert "no aggregator has run here yet" in done.err


def test_run_without_a_broker_waits_and_stops_cleanly(config, tmp_path, vitalseal):
    """A broker that is away is said once; SIGTERM ends with exit 0 and a status that says so."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        config.write_text(f'data = "data"\ninterval_s = 0.1\nquiet_interval_s = 0.1\n[broker]\nport = {port}\n')
        child = subprocess.Popen(
            [sys.executable, "-m", "vitalseal", "aggregator", "run", "--config", str(config)],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert child.stderr
        lines = []
        for line in child.stderr:
            lines.append(line)
            if "trying again" in line:
                break
        child.terminate()
        rest = child.stderr.read()
        child.stderr.close()
        assert child.wait() == 0
    text = "".join(lines) + rest
    assert text.count("trying again") == 1
    assert "Traceback" not in text
    done = vitalseal("aggregator", "status", "--config", config)
    assert done.code == 0
    assert "NOT RUNNING" in done.out
    assert "NONE: nobody but its operator vouches" in done.out


def test_run_twice_is_refused(config, tmp_path):
    """One writer per log: the second says what to do."""
    from ledger.writer.local import LocalStorage

    with LocalStorage(tmp_path / "data"):
        done = subprocess.run(
            [sys.executable, "-m", "vitalseal", "aggregator", "run", "--config", str(config)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("vitalseal: ")
    assert "another process has it" in done.stderr
    assert "Traceback" not in done.stderr


def test_assign_records_lists_and_corrects(vitalseal, config):
    """From the command line to the private record; a correction keeps what it corrects."""
    call = ("aggregator", "assign", "--config", config)
    first = (
        "aabbccdd",
        "patient-7",
        "--unknown",
        "--from",
        "2026-11-01T00:00:00Z",
        "--to",
        "2026-11-10T00:00:00+01:00",
    )
    assert vitalseal(*call, *first).code == 0
    clash = vitalseal(*call, "aabbccdd", "patient-8", "--from", "2026-11-05T00:00:00Z")
    assert (clash.code, len(clash.err.splitlines())) == (2, 1)
    assert "--correct 1" in clash.err
    fix = (*call, "aabbccdd", "patient-8", "--from", "2026-11-01T00:00:00Z", "--correct", "1", "--reason", "swapped")
    assert vitalseal(*fix).code == 0
    listed = vitalseal(*call)
    assert [line.split()[:3] for line in listed.out.splitlines()] == [
        ["1", "aabbccdd", "patient-7"],
        ["2", "aabbccdd", "patient-8"],
    ]
    assert "corrects 1: swapped" in listed.out
    assert "not on the log yet" in listed.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["xyz", "p", "--from", "2026-11-01T00:00:00Z"], "SOURCE"),
        (["aa", "p"], "--from"),
        (["aa", "p", "--from", "yesterday"], "--from 'yesterday'"),
        (["aa", "p", "--from", "9999-12-31T23:59:59Z"], "between 1900 and 2262"),
        (["aa", "p", "--from", "0001-01-01T00:00:00Z"], "between 1900 and 2262"),
        (["aa", "", "--from", "2026-11-01T00:00:00Z"], "PATIENT"),
        (["aa", "p\x1b[31m", "--from", "2026-11-01T00:00:00Z"], "PATIENT"),
        (["aa", "\udcff", "--from", "2026-11-01T00:00:00Z"], "PATIENT"),
        (["--from", "2026-11-01T00:00:00Z"], "belong together"),
        (["aa", "p", "--from", "2026-11-01T00:00:00Z", "--correct", str(10**30), "--reason", "r"], "no standing"),
        (["aa", "p", "--from", "2026-11-01"], "has no zone"),
        (["aa", "p", "--unknown", "--from", "2026-11-02T00:00:00Z", "--to", "2026-11-01T00:00:00Z"], "not after"),
        (["aa", "p", "--from", "2026-11-01T00:00:00Z", "--correct", "4"], "belong together"),
        (["ab", "p", "--unknown", "--from", "2026-11-01T00:00:00Z", "--correct", "4", "--reason", "r"], "no standing"),
    ],
)
def test_assign_mistakes_are_one_line(vitalseal, config, words, says):
    """What is wrong, where."""
    done = vitalseal("aggregator", "assign", "--config", config, *words)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert says in done.err


def test_running_aggregator_commits_an_assignment_to_the_log(vitalseal, config, mosquitto, tmp_path):
    """Each change of who wears a sensor becomes a salted hash on the log."""
    config.write_text(f'data = "data"\ninterval_s = 0.1\nquiet_interval_s = 0.1\n[broker]\nport = {mosquitto.port}\n')
    words = ("aa", "p", "--from", "2026-11-01T00:00:00Z", "--unknown")
    assert vitalseal("aggregator", "assign", "--config", config, *words).code == 0
    child = subprocess.Popen(
        [sys.executable, "-m", "vitalseal", "aggregator", "run", "--config", str(config)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr
    next(line for line in child.stderr if "connected to broker" in line)
    child.terminate()
    child.communicate()
    assert child.returncode == 0
    registry = Registry(tmp_path / "data")
    assert [item.log_index for item in registry.assignments()] == [0]
    registry.close()
    done = vitalseal("ledger", "fsck", tmp_path / "data/log", "--policy", tmp_path / "data/policy.txt")
    assert "1 commitment" in done.out
