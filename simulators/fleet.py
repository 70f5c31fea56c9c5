"""Many devices under one directory, each a production agent in a process of its own.

    <directory>/stop                    once it is there, every source ends, and the agents drain and exit
    <directory>/<device>/edge.toml      as `vitalseal edge init` writes it; edge.key and data/ beside it
    <directory>/<device>/agent.log      what the agent says

Every agent runs with `--exit-when-done`: exit code 0 means that each of its readings has a receipt that it has
verified. An agent that ends otherwise is started again, and goes on where its outbox stands.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import executable

from aggregator.enrolment import FOLDER as ENROLMENTS
from edge.outbox_reader import Counts, OutboxReader
from edge.setup import SourceSpec, enrolment, initialise, registrar_signer, write_enrolment
from ledger.entry import parse_entry
from ledger.events import KEY_EVENT, Enrolment
from ledger.writer.create import POLICY, REGISTRAR_KEY
from ledger.writer.local import LocalReader
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

    `protocol` is the MQTT version as `edge.toml` spells it.
    """

    data: Path
    origin: str
    host: str
    port: int
    protocol: str = "auto"


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

    def __init__(self, directory: Path, devices: Sequence[Device]) -> None:
        self.directory = directory
        self.devices = tuple(devices)

    @property
    def done(self) -> bool:
        """Every agent has ended by itself, so every reading has its verified receipt."""
        return all(device.agent.code() == 0 for device in self.devices)

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
    registrar = registrar_signer(target.data / REGISTRAR_KEY)
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
        enrolled = enrolment(config, registrar)
        write_enrolment(target.data / ENROLMENTS, name, enrolled)
        command = [executable, "-P", "-m", "vitalseal", "edge", "run", "--exit-when-done"]
        agent = Child(name, [*command, "--config", str(directory / name / CONFIG)], directory / name / "agent.log")
        devices.append(Device(name, directory / name / CONFIG, config.outbox, enrolled.key_id, agent))
    return Fleet(directory, devices)


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
