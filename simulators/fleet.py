"""Many devices under one directory, each a production agent in a process of its own.

    <directory>/stop                    once it is there, every source ends, and the agents drain and exit
    <directory>/<device>/edge.toml      as `vitalseal edge init` writes it; edge.key and data/ beside it
    <directory>/<device>/agent.log      what the agent says

Devices are signed in as real ones are: each by a token of its own at the aggregator's desk, once that runs. Where there
is no desk (`init --plain`), the registrar's key signs them in by hand.

Every agent runs with `--exit-when-done`: exit code 0 means that each of its readings has a receipt that it has
verified. An agent that ends otherwise is started again, and goes on where its outbox stands.
"""

import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from sys import executable

from aggregator.enrolment import FOLDER as ENROLMENTS
from edge.key import load_key
from edge.outbox_reader import Counts, OutboxReader
from edge.setup import SourceSpec, enrolment, initialise, registrar_signer, write_enrolment
from ledger.entry import parse_entry
from ledger.events import KEY_EVENT, Enrolment
from ledger.keys import key_id
from ledger.writer.create import POLICY, REGISTRAR_KEY
from ledger.writer.reader import LocalReader
from ledger.writer.storage import StorageError
from simulators.process import Child, stop_all
from simulators.synthetic import SIGNALS
from vitalseal.errors import UserError

STOP = "stop"
CONFIG = "edge.toml"
# Recordings are moved so that they began a month ago: the past is long enough that no replay runs into the future.
BEGAN_S = 30 * 86_400
# Devices of one model do not measure in step.
STAGGER_NS, STAGGERED = 61 * 10**9, 60
ENROLLED_WITHIN_S = 15.0
# The desk of an aggregator that has just started is a moment behind it.
DESK_WITHIN_S = 30.0
AT_THE_DESK = 3  # devices signed in at a time: each is a program that starts

# Device models, in the order in which a fleet is filled; each source a recording or a made-up signal.
MODELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("chest-strap", ("ride_edge1000", "nn_nsrdb")),
    ("ecg-patch", ("ecg_bitalino", "body_temperature")),
    ("bedside", ("spo2", "respiratory_rate", "blood_pressure")),
    ("running-watch", ("laps_forerunner935",)),
    ("hip-sensor", ("walk_daphnet",)),
    ("heart-belt", ("run_polar_m400",)),
    ("gym-watch", ("indoor_forerunner935", "body_temperature")),
    ("swim-watch", ("multisport_forerunner935", "spo2")),
)
# How long, on the sensor's clock, a made-up signal goes on where recordings end by themselves.
SIGNALS_S = 3600.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where a fleet delivers: the aggregator's data directory, its log's origin, the broker.

    `protocol` is the MQTT version as `edge.toml` spells it, `desk` the configuration of an aggregator that has a desk.
    """

    data: Path
    origin: str
    host: str
    port: int
    protocol: str = "auto"
    desk: Path | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """One device of a fleet: its name, its files, its process."""

    name: str
    config: Path
    outbox: Path
    key_id: bytes
    agent: Child

    def counts(self) -> Counts:
        """How far its readings have come; raises UserError while there is no outbox."""
        with OutboxReader(self.outbox) as reader:
            return reader.counts()


class Fleet:
    """Devices that are kept running until all are done; used from one thread."""

    def __init__(self, directory: Path, devices: Sequence[Device], desk: Path | None = None) -> None:
        self.directory = directory
        self.devices = tuple(devices)
        self._desk = desk

    @property
    def done(self) -> bool:
        """Every agent has ended by itself, so every reading has its verified receipt."""
        return all(device.agent.code() == 0 for device in self.devices)

    def enrol(self) -> None:
        """Every device is signed in at the desk, if there is one; the aggregator runs. Raises UserError."""
        if self._desk is None:
            return
        with ThreadPoolExecutor(AT_THE_DESK) as pool:
            for _ in pool.map(self._enrol, self.devices):
                pass

    def _enrol(self, device: Device) -> None:
        token = _command("aggregator", "token", device.name, "--config", self._desk)
        _command("edge", "enroll", "-", "--config", device.config, said=token)

    def start(self) -> None:
        """Every agent runs."""
        for device in self.devices:
            device.agent.start()

    def supervise(self) -> None:
        """Agents that died run again; raises UserError for one that will not stay up."""
        for device in self.devices:
            if device.agent.code() != 0:
                device.agent.revive()

    def finish(self) -> None:
        """Sources end within a moment; the agents go on until what was accepted has its receipts."""
        (self.directory / STOP).touch()

    def stop(self, timeout_s: float) -> None:
        """No agent runs any more; what is not done stays in the outboxes."""
        stop_all([device.agent for device in self.devices], timeout_s)

    def unfinished(self) -> str:
        """Which devices hold how many readings without a verified receipt, in words."""
        missing = []
        for device in self.devices:
            counts = device.counts()
            if open_readings := counts.accepted - counts.receipted:
                missing.append(f"{device.name} {open_readings} of {counts.accepted} readings")
        return ", ".join(missing) or "none"


def lay_out(directory: Path, target: Target, *, count: int, speed: float, loop: bool) -> Fleet:
    """`count` devices in `directory`, their enrolments with the target's log, nothing started yet.

    `speed` is how much faster than life the sources go; without `loop` they end with their recordings.

    Raises:
        UserError: devices are there already, or a file cannot be read or written.
    """
    if directory.exists() and any(directory.iterdir()):
        raise UserError(
            f"{directory}: devices are there already; run them one by one (vitalseal edge run --config "
            f"{directory}/<device>/{CONFIG}), or move the directory away"
        )
    start_ns = (int(time.time()) - BEGAN_S) * 10**9
    devices = []
    for number in range(count):
        name, sources = plan(number, start_ns=start_ns, speed=speed, loop=loop)
        config = initialise(
            directory / name / CONFIG,
            device=name,
            origin=target.origin,
            policy=target.data / POLICY,
            broker_host=target.host,
            broker_port=target.port,
            broker_protocol=target.protocol,
            sources=sources,
        )
        if target.desk is None:
            registrar = registrar_signer(target.data / REGISTRAR_KEY)
            write_enrolment(target.data / ENROLMENTS, name, enrolment(config, registrar))
        signer = load_key(config.key)
        key = key_id(signer.algorithm, signer.public_key)
        command = [executable, "-P", "-m", "vitalseal", "edge", "run", "--exit-when-done"]
        agent = Child(name, [*command, "--config", str(directory / name / CONFIG)], directory / name / "agent.log")
        devices.append(Device(name, directory / name / CONFIG, config.outbox_file, key, agent))
    return Fleet(directory, devices, target.desk)


def plan(number: int, *, start_ns: int, speed: float, loop: bool) -> tuple[str, tuple[SourceSpec, ...]]:
    """Name and sources of the fleet's device `number`, from 0, whose first reading is of about `start_ns`."""
    model, contents = MODELS[number % len(MODELS)]
    shared = {"start_ns": start_ns + number % STAGGERED * STAGGER_NS, "speed": speed, "stop": f"../{STOP}"}
    sources = []
    for content in contents:
        if content in SIGNALS:
            own = {"signal": content, "seed": number}
            if not loop:
                own["count"] = round(SIGNALS_S / SIGNALS[content].period_s)
            sources.append(SourceSpec(content, "synthetic", shared | own))
        else:
            sources.append(SourceSpec(content, "recording", shared | {"recording": content, "loop": loop}))
    return f"{model}-{number + 1:02d}", tuple(sources)


def _command(*words: object, said: str = "") -> str:
    """What `vitalseal` says for `words`, given `said` on standard input; tried again while it fails, for a while."""
    deadline_s = time.monotonic() + DESK_WITHIN_S
    while True:
        done = subprocess.run(  # noqa: S603 - our own programs
            [executable, "-P", "-m", "vitalseal", *map(str, words)],
            input=said,
            capture_output=True,
            text=True,
            check=False,
            timeout=DESK_WITHIN_S,
        )
        if not done.returncode:
            return done.stdout
        if time.monotonic() > deadline_s:
            raise UserError(done.stderr.strip().removeprefix("vitalseal: "))
        time.sleep(0.2)


def wait_until_enrolled(fleet: Fleet, data: Path) -> None:
    """The log has every device's enrolment.

    Before that a batch would be rejected, and a device asks again only after a long pause.

    Raises:
        UserError: the aggregator has not taken them in time.
    """
    deadline_s = time.monotonic() + ENROLLED_WITHIN_S
    missing = {device.key_id for device in fleet.devices}
    while missing:
        try:
            with LocalReader(data) as log:
                entries = (parse_entry(body) for _, body in log.of_type(KEY_EVENT))
                missing -= {entry.key_id for entry in entries if isinstance(entry, Enrolment)}
        except StorageError as error:
            raise UserError(f"{error}") from None
        if missing and time.monotonic() > deadline_s:
            raise UserError(f"the aggregator on {data} has not taken {len(missing)} enrolments; is it running?")
        time.sleep(0.1)
