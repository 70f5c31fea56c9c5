"""The stage of a scenario: broker, witnesses, aggregator and devices, each a process of its own.

    <directory>/broker/, <directory>/devices/, <directory>/witnesses/     what each of them keeps and says
    <directory>/, or `data`                                              the aggregator's data

What dies is started again at the next look, unless a scenario has taken it away. At the end sources stop, devices drain
until each accepted reading has a receipt that they have verified, and the account is made.
"""

import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from aggregator.setup import CONFIG, initialise
from aggregator.status import Status, read_status
from ledger.checkpoint import parse_checkpoint
from ledger.fsck import CHECKPOINT_PATH
from ledger.note import parse_note
from ledger.writer.create import POLICY, POLICY_PQ
from ledger.writer.files import read_file
from ledger.writer.reader import PUBLIC
from simulators.broker import HOST, Broker, start_broker
from simulators.demo import DEVICES, SPEED, WITNESSES
from simulators.faults.reckoning import Ledgered, Reckoning, reckon
from simulators.faults.trial import NotRunError, Trial
from simulators.fleet import CONFIG as CONFIG_OF_DEVICE
from simulators.fleet import Device, Target, lay_out, wait_until_enrolled
from simulators.process import Child, stop_all
from simulators.witnesses import QUORUM, lay_out_witnesses
from vitalseal.errors import UserError

DEVICE_COUNT = 3
BROKER = "broker"
VITALSEAL = (sys.executable, "-P", "-m", "vitalseal")
SERVES_WITHIN_S = 60.0
RECEIPT_WITHIN_S = 90.0
# What went astray is asked for again within half a minute, again within another; a busy machine takes its time, too.
DRAIN_WITHIN_S = 240.0
STOP_WITHIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are, for scenarios that put something of their own in between or underneath.

    Attributes:
        broker: that of the aggregator.
        devices_port, aggregator_port: where they find it; default its own.
        data, devices: directories, default in the trial's own.
    """

    broker: Broker
    devices_port: int | None = None
    aggregator_port: int | None = None
    data: Path | None = None
    devices: Path | None = None


def start_mosquitto(trial: Trial, name: str = BROKER, settings: Sequence[str] = ()) -> Broker:
    """Mosquitto runs until the trial is over, with more lines of configuration; raises NotRunError without it."""
    folder = trial.directory / name
    folder.mkdir()
    try:
        broker = start_broker(folder, choice="mosquitto", settings=settings)
    except UserError as error:
        raise NotRunError(f"{error}; install it with  apt-get install mosquitto") from None
    trial.stack.callback(broker.stop)
    return broker


class Stage:
    """All programs of one scenario; used from the main thread.

    Attributes:
        data: the aggregator's directory.
        devices: those of the fleet, and what a scenario adds.
    """

    def __init__(
        self, trial: Trial, places: Places | None = None, *, devices: int = DEVICE_COUNT, speed: float = SPEED
    ) -> None:
        """Everything is laid out, and `start` starts it. Sensors are `speed` times faster than life."""
        self.trial = trial
        places = places or Places(start_mosquitto(trial))
        self.broker = places.broker
        self.data = places.data or trial.directory
        origin = f"faults.vitalseal.example/{secrets.token_hex(6)}"
        self.witnesses = lay_out_witnesses(trial.directory / WITNESSES, [self.data / POLICY, self.data / POLICY_PQ])
        protocol = self.broker.protocol
        initialise(
            self.data / CONFIG,
            self.data,
            origin,
            HOST,
            places.aggregator_port or self.broker.port,
            protocol,
            witnesses=[witness.lines for witness in self.witnesses],
            quorum=QUORUM,
            quiet_interval_s=1.0,
        )
        command = [*VITALSEAL, "aggregator", "run", "--config", str(self.data / CONFIG)]
        self.aggregator = Child("aggregator", command, trial.directory / "aggregator.log")
        self._away: set[str] = set()
        target = Target(self.data, origin, HOST, places.devices_port or self.broker.port, protocol)
        self.fleet = lay_out(places.devices or trial.directory / DEVICES, target, count=devices, speed=speed, loop=True)
        self.devices = list(self.fleet.devices)

    def start(self, *, receipts: bool = True) -> None:
        """The aggregator serves, devices run, and each has a first receipt unless `receipts` are not waited for."""
        self.trial.stack.callback(self.stop)
        for witness in self.witnesses:
            witness.child.start()
        for witness in self.witnesses:
            self.trial.wait_for_port(urlsplit(witness.url).port or 0, witness.child)
        self.aggregator.start()
        self.wait(self.serving, SERVES_WITHIN_S, "the aggregator serves")
        wait_until_enrolled(self.fleet, self.data)
        for device in self.devices:
            device.agent.start()
        if receipts:
            self.wait_for_receipts("each device has a receipt")

    def stop(self) -> None:
        """Nothing of it runs any more but the broker; witnesses last, so that the last checkpoint is cosigned."""
        stop_all([device.agent for device in self.devices], STOP_WITHIN_S)
        self.aggregator.stop(STOP_WITHIN_S)
        stop_all([witness.child for witness in self.witnesses], STOP_WITHIN_S)

    # What runs, and what does not.

    @property
    def children(self) -> dict[str, list[Child]]:
        """Every program by its part."""
        return {
            "agent": [device.agent for device in self.devices],
            "broker": [self.broker.child],
            "aggregator": [self.aggregator],
            "witness": [witness.child for witness in self.witnesses],
        }

    def look(self) -> None:
        """What died runs again, but for what is away; then some time passes."""
        for children in self.children.values():
            for child in children:
                # An agent that ends well has no more to do.
                if child.name not in self._away and child.pid is not None and child.code() != 0:
                    child.revive()
        time.sleep(0.1)

    @contextmanager
    def away(self, *children: Child) -> Iterator[None]:
        """`children`, which do not run or soon will not, stay away inside, and run afterwards."""
        names = {child.name for child in children}
        self._away |= names
        try:
            yield
        finally:
            self._away -= names
        for child in children:
            if child.pid is None or child.code() is not None:
                child.start()

    # Waiting.

    def wait(self, condition: Callable[[], object], within_s: float, what: str) -> float:
        """As `Trial.wait`, and what dies meanwhile runs again."""
        return self.trial.wait(condition, within_s, what, meanwhile=self.look)

    def measure(self, seconds: float) -> None:
        """Devices have measured for so long."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self.look()

    def wait_for_receipts(self, what: str, devices: Sequence[Device] | None = None) -> float:
        """Each device has a verified receipt for a reading that it accepts from now on; how long that took."""
        waiting = {device.name: (device, accepted(device)) for device in devices or self.devices}

        def given() -> bool:
            for name, (device, before) in list(waiting.items()):
                if receipted(device) > before:
                    del waiting[name]
            return not waiting

        return self.wait(given, RECEIPT_WITHIN_S, what)

    # What is true now.

    def accepted(self) -> int:
        """Readings in all outboxes together."""
        return sum(map(accepted, self.devices))

    def receipted(self) -> int:
        """Those of them with a verified receipt."""
        return sum(map(receipted, self.devices))

    def status(self) -> Status:
        """What the aggregator last said of itself."""
        return read_status(self.data)

    def serving(self) -> bool:
        """The aggregator that runs now has subscribed."""
        try:
            status = self.status()
        except UserError:  # it has not said anything yet
            return False
        return status.connected and status.pid == self.aggregator.pid

    def published_size(self) -> int:
        """Entries that the public checkpoint covers."""
        note = read_file(self.data / PUBLIC, CHECKPOINT_PATH)
        return parse_checkpoint(parse_note(note, "checkpoint").text).size if note else 0

    # How it ends.

    def drain(self) -> float:
        """Every accepted reading has a receipt that its device has verified; how long that took."""
        self.fleet.finish()

        def done() -> bool:
            return all(device.agent.code() == 0 for device in self.devices)

        took_s = self.wait(done, DRAIN_WITHIN_S, "every reading has its verified receipt")
        self.trial.outcome.times_s["drained"] = took_s
        return took_s

    def settle(self, devices: Sequence[Ledgered] | None = None, *, twice: bool = False) -> Reckoning:
        """Everything has ended, and the account is part of the outcome; see `reckon`."""
        self.stop()
        self.broker.stop()
        found = reckon(self.data, devices or [ledgered(device) for device in self.devices], twice=twice)
        outcome = self.trial.outcome
        outcome.accepted += found.accepted
        outcome.in_log += found.in_log
        outcome.gaps += found.gaps
        outcome.unexplained += found.problems
        self.trial.tell(f"settled: {found.line()}")
        return found


def ledgered(device: Device, *more: Path) -> Ledgered:
    """`device` for the account, with `more` outboxes that were its."""
    return Ledgered(device.name, frozenset({device.key_id}), device.config, (device.outbox, *more))


def agent(name: str, folder: Path, launcher: Sequence[str] = VITALSEAL) -> Child:
    """The agent of a device that is laid out in `folder`, as a fleet would run it; not started."""
    command = [*launcher, "edge", "run", "--exit-when-done", "--config", str(folder / CONFIG_OF_DEVICE)]
    return Child(name, command, folder / "agent.log")


def accepted(device: Device) -> int:
    """Readings in its outbox; 0 while there is none that can be opened."""
    try:
        return device.counts().accepted
    except UserError:
        return 0


def receipted(device: Device) -> int:
    """Those of them with a verified receipt."""
    try:
        return device.counts().receipted
    except UserError:
        return 0
