"""A fleet's files are those of real devices, enrolled, with a life of their own."""

import stat
import subprocess
import sys
import time

import pytest

from aggregator.authority import FOLDER
from aggregator.setup import Identity, initialise
from aggregator.status import read_status
from edge.config import load
from edge.source import make_source
from ledger.entry import parse_entry
from ledger.events import Enrolment
from ledger.policy import parse_trust
from simulators.broker import free_port, start_broker
from simulators.fleet import MODELS, Target, lay_out, plan
from simulators.recordings import names
from simulators.synthetic import SIGNALS
from vitalseal.errors import UserError

ORIGIN = "fleet.example/log"
DAY_NS = 86_400 * 10**9


@pytest.fixture
def data(tmp_path):
    """An aggregator's data directory."""
    initialise(tmp_path / "a" / "aggregator.toml", tmp_path / "a", ORIGIN, "127.0.0.1", 1883)
    return tmp_path / "a"


@pytest.fixture
def fleet(data):
    """Eight devices, one of each model, none started."""
    target = Target(data, ORIGIN, "127.0.0.1", 18830, "3.1.1")
    return lay_out(data / "devices", target, count=8, speed=3.0, loop=True)


def test_every_device_is_configured_and_has_a_key_of_its_own(fleet, data):
    """What `vitalseal edge run` reads, and a private key that only its owner may read."""
    configs = [load(device.config) for device in fleet.devices]
    assert [config.device for config in configs] == [device.name for device in fleet.devices]
    assert [device.name for device in fleet.devices] == [f"{name}-{at:02d}" for at, (name, _) in enumerate(MODELS, 1)]
    assert len({device.key_id for device in fleet.devices}) == 8
    for config in configs:
        assert (config.broker.host, config.broker.port, config.broker.protocol) == ("127.0.0.1", 18830, "3.1.1")
        assert config.origin == ORIGIN
        assert config.policy == data / "policy.txt"
        assert stat.S_IMODE(config.key.stat().st_mode) == 0o600
    ids = [source.id for config in configs for source in config.sources]
    assert len(set(ids)) == len(ids)


def test_every_source_can_be_made_from_its_table(fleet):
    """All source types and options are ones that work."""
    for config in (load(device.config) for device in fleet.devices):
        for item in config.sources:
            source = make_source(
                item.type, name=item.name, source_id=item.source_id, options=item.options, directory=config.directory
            )
            assert source.name == item.name


def test_every_device_is_enrolled_by_the_registrar(fleet, data):
    """Both signatures hold, and the registrar is the one that the trust file names."""
    (registrar,) = parse_trust((data / "trust.txt").read_bytes())
    for device in fleet.devices:
        enrolment = parse_entry((data / "enrolments" / f"{device.name}.enrol").read_bytes())
        assert isinstance(enrolment, Enrolment)
        enrolment.check()
        assert enrolment.key_id == device.key_id
        assert enrolment.registrar_key == registrar.public_key


def test_recordings_begin_about_a_month_ago(fleet):
    """Nothing runs into the future, however fast."""
    for device in fleet.devices:
        for source in load(device.config).sources:
            age_ns = time.time_ns() - source.options["start_ns"]
            assert 30 * DAY_NS - 3600 * 10**9 < age_ns < 30 * DAY_NS + 60 * 10**9


def test_finish_is_seen_by_every_source(fleet):
    """The file that `finish` makes is the one that the sources look for."""
    fleet.finish()
    for device in fleet.devices:
        config = load(device.config)
        assert all((config.directory / source.options["stop"]).exists() for source in config.sources)


def test_fleet_is_not_laid_over_another(fleet, data):
    """Keys are never overwritten; the message says what to do."""
    before = {device.config: device.config.read_bytes() for device in fleet.devices}
    with pytest.raises(UserError, match="devices are there already; run them one by one"):
        lay_out(data / "devices", Target(data, ORIGIN, "127.0.0.1", 1), count=1, speed=1.0, loop=True)
    assert {path: path.read_bytes() for path in before} == before


def test_models_show_every_recording_and_signal():
    """A large enough fleet replays all there is."""
    contents = [content for _, contents in MODELS for content in contents]
    assert set(contents) == set(names()) | set(SIGNALS)


@pytest.mark.parametrize("loop", [True, False])
def test_fleet_ends_by_itself_exactly_if_nothing_loops(loop):
    """Made-up signals have no end of their own, so without loops they are given one."""
    options = [source.options for number in range(8) for source in plan(number, start_ns=0, speed=1.0, loop=loop)[1]]
    assert all(("count" in item) is not loop for item in options if "signal" in item)
    assert all(item["loop"] is loop for item in options if "recording" in item)


def test_devices_of_one_model_do_not_measure_in_step():
    """Two straps that replay one ride are minutes apart, and two made-up patients are not one."""
    (_, first), (_, second) = (plan(number, start_ns=0, speed=1.0, loop=True) for number in (2, 2 + len(MODELS)))
    for one, other in zip(first, second, strict=True):
        assert one.options["start_ns"] != other.options["start_ns"]
        assert one.options["seed"] != other.options["seed"]


@pytest.fixture
def serving(tmp_path):
    """Configuration of an aggregator that runs and is connected, with a desk."""
    data, port = tmp_path / "a", free_port()
    identity = Identity(desk_port=free_port())
    initialise(data / "aggregator.toml", data, ORIGIN, "127.0.0.1", port, quiet_interval_s=1.0, identity=identity)
    broker = start_broker(tmp_path, port=port, made=data / FOLDER)
    command = [sys.executable, "-m", "vitalseal", "aggregator", "run", "--config", str(data / "aggregator.toml")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as aggregator:
        for line in aggregator.stderr:
            if "connected to broker" in line:
                break
        while not (data / "status.json").exists():
            assert aggregator.poll() is None
        yield data / "aggregator.toml"
        aggregator.terminate()
        aggregator.communicate()
    broker.stop()


def simulate(*arguments, cwd=None):
    command = [sys.executable, "-P", "-m", "vitalseal", "simulate", "fleet", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=100)


def test_simulate_fleet_delivers_every_reading_and_ends(serving):
    """Recordings played once, at high speed: exit code 0 means that all of it has verified receipts."""
    run = simulate("--config", serving, "--devices", 3, "--speed", 5000, "--exit-when-done")
    assert run.returncode == 0, run.stderr
    # 8,357 heart rates, 4,684 intervals, 23 seconds of ECG, an hour of what is made up.
    made_up = 360 + 3600 + 720 + 3 * 60
    assert run.stdout == f"fleet: devices=3 accepted={17_924} receipted={17_924}\n"
    assert 8357 + 4684 + 23 + made_up == 17_924
    assert read_status(serving.parent).devices_enrolled == 3


def test_simulate_fleet_stops_after_its_seconds(serving):
    """Endless sources are stopped, and drained."""
    run = simulate("--config", serving, "--devices", 1, "--speed", 50, "--seconds", 3)
    assert run.returncode == 0, run.stderr
    _, accepted, receipted = (part.partition("=")[2] for part in run.stdout.split()[1:])
    assert accepted == receipted
    assert int(accepted) > 0


def test_simulate_fleet_without_an_aggregator_is_one_line(data):
    """Nothing is laid out that nobody would enrol."""
    run = simulate("--config", data / "aggregator.toml", "--devices", 1)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "no aggregator has run here yet" in run.stderr
    assert not (data / "devices").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--devices", "0"), "0 is not from 1 to 1000"),
        (("--speed", "-2"), "-2 is not above 0"),
        (("--seconds", "x"), "invalid"),
        ((), "aggregator.toml: there is no such configuration file"),
    ],
)
def test_simulate_fleet_called_wrongly_is_one_line(arguments, said, tmp_path):
    """What is wrong, and where to read more."""
    run = simulate(*arguments, cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert said in run.stderr
