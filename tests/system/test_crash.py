"""The promise, end to end: SIGKILL anything in the middle; every accepted reading is in exactly one leaf."""

import itertools
import os
import random
import signal
import sys
import time
from collections import Counter

import pytest

from aggregator.setup import initialise
from aggregator.timeseries.embedded import EmbeddedStore
from ledger.kinds import BY_CODE
from ledger.reading import Reading
from simulators.account import settle
from simulators.fleet import Target, lay_out, wait_until_enrolled
from simulators.process import Child
from simulators.recordings import load
from vitalseal.errors import UserError

ORIGIN = "crash.example/log"
PATIENCE_S = 100
KILL_EVERY = 1700  # accepted readings between two kills
LOOK_S = 0.05


@pytest.fixture
def pipeline(tmp_path, mosquitto):
    """An aggregator and four devices that replay recordings to their end; everything ended by its process id."""
    data, config = tmp_path / "data", tmp_path / "aggregator.toml"
    initialise(config, data, ORIGIN, mosquitto.host, mosquitto.port)
    command = [sys.executable, "-m", "vitalseal", "aggregator", "run", "--config", str(config)]
    aggregator = Child("aggregator", command, tmp_path / "aggregator.log")
    target = Target(data, ORIGIN, mosquitto.host, mosquitto.port)
    fleet = lay_out(tmp_path / "devices", target, count=4, speed=1500.0, loop=False)
    aggregator.start()
    wait_until_enrolled(fleet, data)
    fleet.start()
    yield aggregator, fleet, data
    fleet.stop(10)
    aggregator.stop(20)


def accepted(fleet):
    """How many readings all outboxes have accepted, as far as they can be opened at this moment."""
    total = 0
    for device in fleet.devices:
        try:
            total += device.counts().accepted
        except UserError:
            continue
    return total


@pytest.mark.timeout(180)
def test_killed_in_the_middle_again_and_again_loses_and_doubles_nothing(pipeline):
    """Aggregator and agents die by SIGKILL while readings flow; recordings still arrive whole, each reading once."""
    aggregator, fleet, data = pipeline
    victims = itertools.cycle([aggregator, fleet.devices[0].agent, fleet.devices[3].agent])
    kills = Counter()
    due = KILL_EVERY
    deadline = time.monotonic() + PATIENCE_S
    pause = random.Random(7)
    while not fleet.done:
        assert time.monotonic() < deadline, fleet.unfinished()
        if accepted(fleet) >= due:
            victim = next(victims)
            if victim.code() is None:
                os.kill(victim.pid, signal.SIGKILL)
                kills[victim.name] += 1
            due += KILL_EVERY + pause.randrange(KILL_EVERY)
        aggregator.revive()
        fleet.supervise()
        time.sleep(LOOK_S)  # between two looks: processes tell nobody how far they are
    aggregator.stop(30)
    assert kills["aggregator"] >= 2
    assert len(kills) == 3

    account = settle(data, {device.name: device.outbox for device in fleet.devices}, lambda _done, _all: None)
    assert account.problems == ()
    assert (account.lost, account.duplicates) == (0, 0)
    assert account.verified == account.readings == accepted(fleet)

    stored = Counter()
    with EmbeddedStore(data, readonly=True) as store:
        for item in store.readings():
            stored[item.device, BY_CODE[Reading.decode(item.body).kind].name] += 1
    chest, watch = fleet.devices[0].name, fleet.devices[3].name
    assert stored[chest, "heart_rate"] == len(load("ride_edge1000").points)
    assert stored[chest, "rr_interval"] == len(load("nn_nsrdb").points)
    assert stored[watch, "heart_rate"] == len(load("laps_forerunner935").points)
