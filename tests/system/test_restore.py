"""The machine burned, end to end: real processes, an old backup, and a log that goes on without a fork."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from aggregator.config import AggregatorConfig
from aggregator.setup import initialise
from ledger import merkle
from ledger.fsck import open_log
from ledger.policy import parse_policy
from ledger.writer.create import POLICY
from ledger.writer.files import read_file
from ledger.writer.reader import PUBLIC, LocalReader
from simulators.account import settle
from simulators.fleet import Target, lay_out, wait_until_enrolled
from simulators.process import Child
from simulators.witnesses import lay_out_witnesses, stop_witnesses
from vitalseal import config as configuration
from vitalseal.errors import UserError

ORIGIN = "burned.example/log"
PATIENCE_S = 90
LOOK_S = 0.05
READINGS_BETWEEN = 200  # accepted from one act of the test to the next


@pytest.fixture
def house(tmp_path, mosquitto):
    """An aggregator, three witnesses and two devices, all running; ended by their process ids."""
    data, config = tmp_path / "data", tmp_path / "aggregator.toml"
    witnesses = lay_out_witnesses(tmp_path / "witnesses", [data / POLICY])
    lines = [witness.lines for witness in witnesses]
    initialise(config, data, ORIGIN, mosquitto.host, mosquitto.port, witnesses=lines, quiet_interval_s=1.0)
    command = [sys.executable, "-m", "vitalseal", "aggregator", "run", "--config", str(config)]
    aggregator = Child("aggregator", command, tmp_path / "aggregator.log")
    target = Target(data, ORIGIN, mosquitto.host, mosquitto.port)
    fleet = lay_out(tmp_path / "devices", target, count=2, speed=100.0, loop=True)
    for witness in witnesses:
        witness.child.start()
    aggregator.start()
    wait_until_enrolled(fleet, data)
    fleet.start()
    yield aggregator, fleet, data
    fleet.stop(10)
    aggregator.stop(20)
    stop_witnesses(witnesses)


def until(condition, told):
    """`condition()` holds within our patience; `told()` says how things stand if not."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(LOOK_S)  # between two looks: processes tell nobody how far they are


def more(fleet):
    """So many readings more have a verified receipt."""

    def receipted():
        return sum(device.counts().receipted for device in fleet.devices)

    def begun():
        try:
            return receipted() >= 0
        except UserError:  # an outbox that is not there, or just being made
            return False

    until(begun, lambda: "an agent has no outbox")
    goal = receipted() + READINGS_BETWEEN
    until(lambda: receipted() >= goal, fleet.unfinished)


def vitalseal(*words):
    command = [sys.executable, "-m", "vitalseal", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def published(public, data):
    """The published checkpoint, under the log's policy, and its tree."""
    verified, tree = open_log(lambda path: read_file(public, path), parse_policy((data / POLICY).read_bytes()))
    return verified.checkpoint, tree


@pytest.mark.timeout(180)
def test_burned_machine_is_restored_from_an_old_backup_without_a_fork(house, tmp_path):
    """Every accepted reading is in exactly one leaf, every payload is back, the witnesses go on cosigning."""
    aggregator, fleet, data = house
    config, mirror, lost = tmp_path / "aggregator.toml", tmp_path / "mirror", tmp_path / "lost"
    more(fleet)
    vitalseal("aggregator", "backup", tmp_path / "backup", "--config", config, "--keys-copy", tmp_path / "keys")
    more(fleet)
    os.kill(aggregator.pid, signal.SIGKILL)
    aggregator.stop(10)
    (data / PUBLIC).rename(mirror)
    data.rename(lost)
    before, _ = published(mirror, lost)
    with LocalReader(lost) as log:
        committed = log.size()
    shutil.rmtree(lost)

    said = vitalseal(
        "aggregator", "restore", "--from", tmp_path / "backup", "--data", data, "--config", tmp_path / "new.toml",
        "--log", mirror, "--keys", tmp_path / "keys",
    )  # fmt: skip
    assert f"{ORIGIN} is at size {before.size} again" in said
    assert "batches have no payload" in said
    assert configuration.load(tmp_path / "new.toml", AggregatorConfig).data == data
    aggregator.start()

    with LocalReader(data) as log:
        until(lambda: log.missing_payload_count() == 0, lambda: f"{log.missing_payload_count()} payloads are missing")
    more(fleet)
    fleet.finish()
    until(lambda: fleet.done or fleet.supervise(), fleet.unfinished)
    aggregator.stop(30)

    after, tree = published(data / PUBLIC, data)
    assert after.size > committed
    proof = merkle.prove_consistency(before.size, after.size, tree.hash_at)
    merkle.check_consistency(before.size, after.size, before.root, after.root, proof)
    account = settle(data, {device.name: device.outbox for device in fleet.devices}, lambda _done, _all: None)
    assert account.problems == ()
    assert (account.lost, account.duplicates) == (0, 0)
