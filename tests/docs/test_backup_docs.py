"""docs/backup.md, typed on the machine of docs/aggregator.md, which `world` describes, by whoever runs a log there.

The broker runs as whoever runs the test, so `--broker-group` is left out.
"""

import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from aggregator.config import AggregatorConfig
from aggregator.lifecycle import open_log
from ledger.writer.keybook import KeyBook
from tests.aggregator.devices import Device
from tests.aggregator.estate import Running
from tests.brokers import free_port
from tests.docs.world import World, commands
from vitalseal import config as configuration

DOCS = Path(__file__).parents[2] / "docs"
ORIGIN = "clinic.example/vitalseal"
PATIENCE_S = 30
BATCHES = 5
# What a command says, in the order in which the page comes to it. The aggregator itself may add an entry meanwhile.
SAYS = [
    ("backup --verify", "checkpoint of size [78]"),
    ("fsck", f"{BATCHES} batches"),
    ("aggregator restore", f"{ORIGIN} is at size 1[23] again, [56] entries of it from the log"),
    ("aggregator status", "broker connected"),
    ("/frozen.toml", "FROZEN at size [78]"),
    ("aggregator succeed", f"{ORIGIN} was last seen at size [78]"),
]


@contextmanager
def writing(config):
    """The log of `config` is open, and nobody else's."""
    settings = configuration.load(config, AggregatorConfig)
    with open_log(settings) as log:
        yield Running(settings.data, log.storage, log.writer, KeyBook(log.writer, log.storage, time.monotonic))


def grow(config, device):
    """There are some batches more on the log, which nobody writes."""
    with writing(config) as log:
        log.log(*[device.batch() for _ in range(BATCHES)])
        log.publish()


@pytest.fixture
def device():
    return Device("wrist-1", 1, ORIGIN)


@pytest.fixture
def config(world):
    """The aggregator's configuration on that machine."""
    return world.directory / "var/lib/vitalseal-aggregator/aggregator.toml"


@pytest.fixture
def world(tmp_path):
    """A machine with nothing on it."""
    places = {port: str(free_port()) for port in ("8883", "8884")}
    places |= {
        "log.clinic.example": "localhost",
        " --broker-group mosquitto": "",
        "/var/backups": f"{tmp_path}/backups",
    }
    places[f"{ORIGIN} --host"] = f"{ORIGIN} --broker localhost:{places['8883']} --desk-port {places['8884']} --host"
    world = World(tmp_path, places)
    yield world
    world.end()


@pytest.fixture
def running(world, config, device):
    """The aggregator and its broker, as docs/aggregator.md starts them, with some batches on the log."""
    for command in commands(DOCS / "aggregator.md"):
        done = world.type(command)
        assert done.returncode == 0, (command, done.stderr, world.logs())
        if "aggregator init" in command:
            with writing(config) as log:
                log.enrol(device)
            grow(config, device)
        if "enable --now" in command:
            break


@pytest.mark.usefixtures("running")
def test_backup_page_works_as_it_is_written(world, config, device):
    """Each command succeeds; the one that freezes says so. After the backup the log goes on, so it is an old one."""
    expected = list(SAYS)
    for command in commands(DOCS / "backup.md"):
        says = expected[0][1] if expected and expected[0][0] in command else None
        code = 2 if "/frozen --config" in " ".join(command.split()) else 0
        end = time.monotonic() + PATIENCE_S
        while True:
            done = world.type(command)
            said = " ".join((done.stdout + done.stderr).split())
            right = done.returncode == code and (says is None or re.search(says, said) is not None)
            if right or " status " not in command or time.monotonic() > end:
                break
        assert right, (says, done.returncode, done.stdout, done.stderr, command, world.logs())
        if says is not None:
            expected.pop(0)
        if "systemctl stop vitalseal-aggregator" in command:
            grow(config, device)  # what came after the backup
    assert expected == []
    calls = world.called()
    assert calls.index("systemctl stop vitalseal-aggregator mosquitto") < calls.index(
        "systemctl restart mosquitto", calls.index("systemctl stop vitalseal-aggregator mosquitto")
    )


def test_backup_page_names_every_option_of_its_commands():
    """What `--help` lists is on the page, but for the configuration."""
    text = (DOCS / "backup.md").read_text()
    for command in ("backup", "restore", "succeed"):
        done = subprocess.run(
            [sys.executable, "-m", "vitalseal", "aggregator", command, "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        for option in set(re.findall(r"--[a-z]+", done.stdout)) - {"--help"}:
            assert option in text, (command, option)
