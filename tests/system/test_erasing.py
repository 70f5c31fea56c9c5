"""A wearer is forgotten, end to end: real processes, one command, and not a byte of him left in any file of theirs."""

import re
import subprocess
import sys
import time

import pytest

from aggregator.setup import initialise
from aggregator.timeseries.embedded import EmbeddedStore
from ledger.entry import BatchEntry, parse_entry
from ledger.fsck import fsck
from ledger.leaves import Leaf
from ledger.policy import parse_policy
from ledger.reading import Reading
from ledger.writer.create import POLICY
from ledger.writer.files import list_files, read_file
from ledger.writer.payload import parse_payload
from ledger.writer.reader import PUBLIC, LocalReader
from simulators.fleet import Target, lay_out, wait_until_enrolled
from simulators.process import Child

ORIGIN = "forgotten.example/log"
PATIENCE_S = 60
LOOK_S = 0.05


@pytest.fixture
def house(tmp_path, mosquitto):
    """An aggregator and a device, running; ended by their process ids."""
    data, config = tmp_path / "data", tmp_path / "aggregator.toml"
    initialise(config, data, ORIGIN, mosquitto.host, mosquitto.port, quiet_interval_s=1.0)
    command = [sys.executable, "-m", "vitalseal", "aggregator", "run", "--config", str(config)]
    aggregator = Child("aggregator", command, tmp_path / "aggregator.log")
    target = Target(data, ORIGIN, mosquitto.host, mosquitto.port)
    fleet = lay_out(tmp_path / "devices", target, count=1, speed=300.0, loop=True)
    aggregator.start()
    try:
        wait_until_enrolled(fleet, data)
        fleet.start()
        yield config, data, fleet
    finally:
        fleet.stop(10)
        aggregator.stop(20)


def until(condition, told=lambda: ""):
    """`condition()` holds within our patience."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(LOOK_S)  # between two looks: processes tell nobody how far they are


def leaves_of(data):
    """Salt and bytes of every reading that is in the payloads, by ref."""
    with LocalReader(data) as log:
        return {
            index * 4096 + number: (leaf.salt, leaf.body)
            for index, entry in enumerate(log.entries(0, log.size()))
            if isinstance(parse_entry(entry), BatchEntry)
            for number, leaf in enumerate(parse_payload(log.payload(index) or b"\x90"))
            if number and isinstance(leaf, Leaf)
        }


def in_files(folder, secrets):
    """How many of these are in a file below `folder`, whole."""
    content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    return sum(secret in content for secret in secrets)


@pytest.mark.timeout(120)
def test_wearer_is_forgotten_everywhere(house):
    """Payloads, reading database and outbox have nothing of what was erased; log, neighbours and device go on."""
    config, data, fleet = house
    (device,) = fleet.devices
    until(lambda: device.outbox.exists() and len(leaves_of(data)) > 200, lambda: "nothing comes in")
    before = leaves_of(data)
    with EmbeddedStore(data, readonly=True) as store:
        until(lambda: store.cursor() * 4096 > max(before), lambda: "the view is behind")
        assert before.keys() <= {item.ref for item in store.readings()}
    times = sorted(Reading.decode(body).sensor_time_ns for _, body in before.values())

    done = subprocess.run(
        [
            *(sys.executable, "-m", "vitalseal", "erase", "--config", str(config), "--device", device.name),
            *("--to", _rfc3339(times[100]), "--reason", "consent withdrawn", "--yes"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = re.fullmatch(r"erase: readings=(\d+) batches=(\d+) entries=(\d+) state=done", done.stdout.splitlines()[-1])
    readings, batches, entries = map(int, said.groups())
    assert readings >= 90
    assert batches == entries >= 1

    after = leaves_of(data)
    gone = [secrets for ref, secrets in before.items() if ref not in after]
    assert len(gone) >= readings > 0
    with EmbeddedStore(data, readonly=True) as store:
        assert not {item.ref for item in store.readings()} & (before.keys() - after.keys())
    assert in_files(data, [part for secrets in gone for part in secrets]) == 0
    policy = parse_policy((data / POLICY).read_bytes())
    public = data / PUBLIC
    report = fsck(lambda path: read_file(public, path), policy, paths=list_files(public))
    assert report.notices["erased"] == entries
    assert report.log.erased >= readings
    until(lambda: in_files(device.outbox.parent, [body for _, body in gone]) == 0, lambda: "the outbox remembers")
    size = report.log.size
    with LocalReader(data) as log:
        until(lambda: log.size() > size, lambda: "the device is silent")


def _rfc3339(at_ns):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_ns // 10**9 + 1))
