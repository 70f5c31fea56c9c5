"""The demo keeps its promise, programs killed in the middle or not, and says so when a promise is broken."""

import json
import os
import re
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from aggregator.timeseries.embedded import EmbeddedStore
from ledger.checkpoint import Checkpoint
from ledger.entry import BatchEntry
from ledger.kinds import BY_NAME
from ledger.merkle import hash_leaf, hash_node
from ledger.writer.create import load_log_keys, load_signer
from simulators.account import settle
from simulators.broker import HOST, free_port

KINDS = {
    "acceleration",
    "body_temperature",
    "diastolic_pressure",
    "ecg",
    "heart_rate",
    "mean_pressure",
    "respiratory_rate",
    "rr_interval",
    "spo2",
    "systolic_pressure",
}
SUMMARY = re.compile(
    r"demo: readings=(?P<readings>\d+) batches=(?P<batches>\d+) entries=(?P<entries>\d+) verified=(?P<verified>\d+)"
    r" lost=(?P<lost>\d+) duplicates=(?P<duplicates>\d+)"
)
README = Path(__file__).parents[2] / "README.md"
DEVICES = 6
WITNESSES = 3


def vitalseal(*arguments, **options):
    command = [sys.executable, "-m", "vitalseal", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **options)


def summary(stdout):
    """The numbers of the last line, which is the only one."""
    (line,) = stdout.splitlines()
    return {name: int(number) for name, number in SUMMARY.fullmatch(line).groupdict().items()}


def outboxes(data):
    return {path.parent.parent.name: path for path in data.glob("devices/*/data/outbox.db")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A demo of five seconds, over."""
    data = tmp_path_factory.mktemp("demo") / "data"
    return vitalseal("demo", "--seconds", 5, "--no-browser", "--data", data, "--port", free_port()), data


@pytest.fixture
def copy(finished, tmp_path):
    """What the demo left, to be spoilt."""
    shutil.copytree(finished[1], tmp_path / "data")
    return tmp_path / "data"


def account_of(data):
    return settle(data, outboxes(data), lambda _done, _all: None)


def test_demo_accounts_for_every_reading(finished):
    """Exit code 0, and a summary in which everything was verified, nothing lost, nothing there twice."""
    run, _ = finished
    assert run.returncode == 0, run.stderr
    numbers = summary(run.stdout)
    assert numbers["readings"] == numbers["verified"] > 500
    assert numbers["lost"] == numbers["duplicates"] == 0
    # Besides batches: an enrolment and a key state for each device, and the key state at the end.
    assert numbers["entries"] == numbers["batches"] + 2 * DEVICES + 1
    assert "Traceback" not in run.stderr


def test_demo_leaves_a_proof_of_every_kind_that_verifies(finished):
    """The files stand alone: the auditor's command proves each."""
    _, data = finished
    proofs = sorted((data / "proofs").iterdir())
    readings = [path for path in proofs if not path.name.startswith("key-")]
    assert {path.name for path in readings} == {f"{kind}.tlog-proof" for kind in KINDS}
    assert len(proofs) - len(readings) == DEVICES
    run = vitalseal("verify", *proofs, "--policy", data / "policy.txt", "--json")
    assert run.returncode == 0, run.stderr
    reports = [json.loads(line) for line in run.stdout.splitlines()]
    assert {report["result"] for report in reports} == {"proven"}


@pytest.mark.parametrize("policy", ["policy.txt", "policy-pq.txt"])
def test_demo_proofs_pass_every_step_under_both_policies(finished, policy):
    """Witnesses, registrar, key status, times: `--strict` demands all eight, classical and post-quantum."""
    _, data = finished
    proofs = [path for path in (data / "proofs").iterdir() if not path.name.startswith("key-")]
    words = ("--policy", data / policy, "--trust", data / "trust.txt", "--strict", "--json")
    run = vitalseal("verify", *proofs, *words)
    assert run.returncode == 0, run.stderr
    for report in map(json.loads, run.stdout.splitlines()):
        assert [step["result"] for step in report["steps"]] == ["passed"] * 8
        assert len(report["witnesses"]) >= 2
        assert report["logged_by"] is not None


def test_demo_leaves_a_log_that_follows_from_its_entries(finished):
    """`vitalseal ledger fsck` agrees with the summary."""
    run, data = finished
    check = vitalseal("ledger", "fsck", data / "log", "--policy", data / "policy.txt")
    assert check.returncode == 0, check.stderr
    assert f"readings committed to: {summary(run.stdout)['readings']}, by {DEVICES} of {DEVICES}" in check.stdout


def test_demo_prints_commands_that_work(finished):
    """What a user copies from the end of the demo runs."""
    run, _ = finished
    commands = re.findall(r"^  vitalseal (.*)$", run.stderr, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        assert vitalseal(*command.split()).returncode == 0


def test_row_that_the_readme_changes_is_the_only_one_that_the_audit_names(copy, tmp_path):
    """Its lines as they stand there, typed into a shell."""
    (block,) = re.findall(r"^```\n(python3 -c .*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    change_it, audit = block.replace("DIR", str(copy)).splitlines()
    subprocess.run(["sh", "-c", change_it.replace("python3", sys.executable, 1)], check=True)
    run = vitalseal(*audit.split()[1:], cwd=tmp_path)
    assert run.returncode == 1, run.stderr
    assert re.fullmatch(r"audit: .* missing=0 changed=1 extra=0 moved=0", run.stdout.splitlines()[-1])
    assert "heart_rate" in (tmp_path / "report.html").read_text()


def test_demo_shows_no_health_value_in_any_log(finished):
    """What programs say is about batches and connections."""
    _, data = finished
    logs = [path.read_text() for path in [*data.glob("**/*.log")]]
    assert len(logs) == DEVICES + 2 + WITNESSES
    assert not re.search(r"/min|mm\[Hg\]|\bCel\b|value", "".join(logs))


def test_demo_refuses_a_directory_with_something_in_it(finished):
    """A second run does not touch the first."""
    run, data = finished
    again = vitalseal("demo", "--seconds", 1, "--no-browser", "--data", data)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == f"vitalseal: {data}: is not empty; name another directory with --data, or remove this one\n"
    assert account_of(data).line() == run.stdout.strip().removeprefix("demo: ")


def test_demo_that_cannot_write_says_so_in_one_line(tmp_path):
    """A file where the directory should be."""
    (tmp_path / "file").touch()
    run = vitalseal("demo", "--seconds", 1, "--no-browser", "--data", tmp_path / "file" / "data")
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "Not a directory" in run.stderr


def test_demo_on_a_busy_port_says_so_in_one_line(tmp_path):
    """A port that was asked for is that port or nothing, and nothing is left behind."""
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        run = vitalseal("demo", "--seconds", 1, "--no-browser", "--port", port, "--data", tmp_path / "data")
    assert run.returncode == 2
    assert run.stderr.startswith(f"vitalseal: port {port} on 127.0.0.1 cannot be used")
    assert run.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_account_of_a_store_that_misses_a_reading(copy):
    """One row less is one reading lost, and named."""
    change(copy, "DELETE FROM readings WHERE ref = (SELECT max(ref) FROM readings)")
    account = account_of(copy)
    assert (account.lost, account.duplicates) == (1, 0)
    assert any(problem.startswith("lost: 1 of ") for problem in account.problems)
    assert any("the log commits to" in problem for problem in account.problems)


def test_account_of_a_store_with_an_altered_salt(copy):
    """A reading whose proof does not hold is not verified, though it is neither lost nor there twice."""
    change(copy, "UPDATE readings SET salt = zeroblob(16) WHERE ref = (SELECT min(ref) FROM readings)")
    account = account_of(copy)
    assert account.verified == account.readings - 1
    assert any("is not proven" in problem for problem in account.problems)


def test_account_of_a_store_with_a_reading_twice(copy):
    """The same bytes in a second place are a duplicate, and the place is not proven."""
    change(
        copy,
        "INSERT INTO readings SELECT ref + 4095, device, source, kind, sensor_time_ns, quality, value, body,"
        " salt FROM readings ORDER BY ref LIMIT 1",
    )
    account = account_of(copy)
    assert (account.lost, account.duplicates) == (0, 1)
    assert account.verified == account.readings - 1
    assert any(problem.startswith("logged more than once: 1") for problem in account.problems)


def test_account_of_a_store_with_a_reading_that_nobody_accepted(copy):
    """Bytes that no outbox holds are neither lost nor duplicates, and a problem."""
    change(copy, "UPDATE readings SET device = 'stranger' WHERE ref = (SELECT min(ref) FROM readings)")
    account = account_of(copy)
    assert (account.lost, account.duplicates) == (1, 0)
    assert "1 readings that no device accepted" in account.problems


def test_account_of_a_kind_without_a_proof(copy):
    """Every kind that was accepted has its file, or it is said."""
    change(copy, "DELETE FROM readings WHERE kind = ?", BY_NAME["ecg"].code)
    account = account_of(copy)
    assert "no proof of ecg" in account.problems


def test_account_of_a_log_that_was_altered(copy):
    """What `fsck` finds is part of the account."""
    bundle = next(path for path in (copy / "log" / "tile" / "entries").rglob("*") if path.is_file())
    data = bytearray(bundle.read_bytes())
    data[-1] ^= 1
    bundle.write_bytes(data)
    assert any(problem.startswith("fsck: ") for problem in account_of(copy).problems)


def test_account_of_a_store_that_tells_another_history(copy):
    """A checkpoint of another history, signed by the log and by every witness, makes a proof, and is still found."""
    with EmbeddedStore(copy, readonly=True) as store:
        batch = store.batch(next(store.readings()).log_index)
    size = batch.log_index + 1  # a tree in which the batch is last, so each hash of the path is a left sibling
    path = [bytes([number]) * 32 for number in range(batch.log_index.bit_count())]
    root = hash_leaf(BatchEntry(batch.header, batch.signature).encode())
    for sibling in path:
        root = hash_node(sibling, root)
    signers = load_log_keys(copy).signers
    witnesses = [load_signer(path) for path in copy.glob("witnesses/*/keys/*.key")]
    forged = Checkpoint(signers[0].verifier.name, size, root).sign(*signers, *witnesses, time=2**31).encode()
    change(copy, "INSERT INTO checkpoints VALUES (99999, ?)", forged)
    statement = "UPDATE batches SET checkpoint = 99999, inclusion = ? WHERE log_index = ?"
    change(copy, statement, b"".join(path), batch.log_index)
    account = account_of(copy)
    assert account.verified == account.readings
    assert account.problems == (f"the store holds a checkpoint of size {size} that is not of this log's history",)


def change(data, statement, *values):
    with closing(sqlite3.connect(data / "readings.db")) as store, store:
        assert store.execute(statement, values).rowcount > 0


class Watched:
    """A running demo, seen through its status page's events."""

    def __init__(self, data, *arguments):
        port = free_port()
        command = ["demo", "--no-browser", "--port", port, "--data", data, *arguments]
        self.data = data
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vitalseal", *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said = []
        # Blocks until the page is up, which the demo says.
        for line in self.process.stderr:
            self.said.append(line)
            if "status page:" in line:
                break
        url = f"http://{HOST}:{port}/events"
        self._events = urllib.request.urlopen(url, timeout=60)

    def wait_for(self, condition):
        """The first status that satisfies `condition`."""
        for line in self._events:
            if line.startswith(b"data: ") and condition(status := json.loads(line.removeprefix(b"data: "))):
                return status
        raise AssertionError("the demo ended: " + "".join(self.said) + self.process.stderr.read())

    def end(self):
        """Exit code, stdout, stderr."""
        self._events.close()
        out, err = self.process.communicate(timeout=300)
        return self.process.returncode, out, "".join(self.said) + err


@pytest.fixture
def watch(tmp_path):
    """Starts a demo; kills it if the test leaves it running (its children die with it)."""
    demos = []

    def started(*arguments):
        demos.append(Watched(tmp_path / "data", *arguments))
        return demos[-1]

    yield started
    for demo in demos:
        demo._events.close()
        demo.process.kill()
        demo.process.communicate()


def programs(data):
    """Process id and command line of every running program that was given a path in `data`."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(data) in command and " demo " not in command:
                found[int(entry.name)] = command
    return found


@pytest.mark.timeout(300)
def test_demo_loses_nothing_when_aggregator_and_devices_are_killed(watch):
    """SIGKILL for the aggregator, its projection and a device, in the middle: they come back, and all is there."""
    demo = watch("--seconds", "8")
    demo.wait_for(lambda status: status["receipted"] > 300)
    aggregator = json.loads((demo.data / "status.json").read_text())["pid"]
    victims = {
        pid: command
        for pid, command in programs(demo.data).items()
        if pid == aggregator or "aggregator.projection" in command or "chest-strap-01" in command
    }
    assert len(victims) == 3
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    code, out, err = demo.end()
    assert code == 0, err
    numbers = summary(out)
    assert numbers["readings"] == numbers["verified"] > 1000
    assert numbers["lost"] == numbers["duplicates"] == 0
    assert "aggregator was killed by SIGKILL; starting it again" in err
    assert "chest-strap-01 was killed by SIGKILL; starting it again" in err
    assert not programs(demo.data)


@pytest.mark.timeout(200)
def test_demo_without_seconds_ends_well_when_asked_to(watch):
    """The first Ctrl-C is the end of the sources, not of the account."""
    demo = watch("--devices", "2")
    demo.wait_for(lambda status: status["receipted"] > 50)
    demo.process.send_signal(signal.SIGINT)
    code, out, err = demo.end()
    assert code == 0, err
    assert summary(out)["lost"] == 0
    assert not programs(demo.data)


def test_demo_that_is_killed_leaves_nothing_running(watch):
    """Not one of its programs outlives it."""
    demo = watch("--devices", "2")
    demo.wait_for(lambda status: status["accepted"] > 0)
    running = {pid: os.pidfd_open(pid) for pid in programs(demo.data)}
    assert len(running) >= 4
    demo.process.kill()
    for pid, descriptor in running.items():
        wait_for_end(pid, descriptor)


def wait_for_end(pid, descriptor):
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    ended = poll.poll(20_000)
    os.close(descriptor)
    assert ended, f"process {pid} is still there"
