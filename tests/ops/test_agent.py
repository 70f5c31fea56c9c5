"""The agent as systemd runs it, and how it is watched."""

import dataclasses
import json
import signal

import pytest

from aggregator.setup import initialise
from edge import files
from edge.config import load
from edge.database import Owner
from edge.health import AWAY_S, ReportCollector, faults
from edge.key import load_key
from edge.outbox import Outbox
from edge.setup import SourceSpec, enrolment, registrar_signer, write_enrolment
from edge.setup import initialise as initialise_edge
from edge.status import read_report
from ledger.batch import Header
from ledger.entry import BatchEntry, parse_entry
from ledger.keys import key_id
from ledger.writer.create import POLICY, REGISTRAR_KEY
from ledger.writer.reader import LocalReader
from tests.brokers import free_port
from tests.ops.programs import Program, setting
from tests.ops.test_health import ask
from tests.service.witnessing import wait_for

ORIGIN = "ops.example/log"


@pytest.fixture
def gateway(tmp_path, mosquitto):
    """An aggregator's data and an enrolled gateway that reads lines; nothing runs yet."""
    initialise(
        tmp_path / "aggregator.toml", tmp_path / "data", ORIGIN, mosquitto.host, mosquitto.port, quiet_interval_s=1
    )
    (tmp_path / "wrist.ndjson").touch()
    config = initialise_edge(
        tmp_path / "edge.toml",
        device="bed-1",
        origin=ORIGIN,
        policy=tmp_path / "data" / POLICY,
        broker_host=mosquitto.host,
        broker_port=mosquitto.port,
        sources=[SourceSpec("wrist", "lines", {"path": "wrist.ndjson"})],
    )
    registrar = registrar_signer(tmp_path / "data" / REGISTRAR_KEY)
    write_enrolment(tmp_path / "data" / "enrolments", "bed-1", enrolment(config, registrar))
    return tmp_path


@pytest.fixture
def start(gateway, systemd):
    """Starts a program of the gateway under the test's systemd; none is left."""
    started = []

    def begin(*words, watchdog_s=1.0):
        program = Program(words, gateway / f"{words[0]}.log", systemd.environment(watchdog_s))
        started.append(program)
        systemd.hear_until("READY=1")
        return program

    yield begin
    for program in started:
        program.kill()


def test_agent_is_ready_watched_reloaded_and_stopped(gateway, start, systemd):
    """In this order, with no aggregator there; what a reload may change it changes, its pages included."""
    config = gateway / "edge.toml"
    agent = start("edge", "run", "--config", config)
    systemd.hear_until("WATCHDOG=1")
    text, port = config.read_text(), free_port()
    for changed, line in (
        ("nonsense = 1\n" + text, "the configuration stays as it was: "),
        (f'heartbeat_s = 60.0\n{text}[health]\nlisten = "127.0.0.1:{port}"\n', "changed: health, heartbeat_s"),
        (text.replace('device = "bed-1"', 'device = "bed-2"'), "device changed, which takes a restart"),
    ):
        config.write_text(changed)
        agent.signal(signal.SIGHUP)
        systemd.hear_until("RELOADING=1")
        systemd.hear_until("READY=1")
        assert line in agent.said()
        if "heartbeat" in changed:
            wait_for(lambda: f"answered on port {port}" in agent.said())
            status, body = ask(port)
            assert (status, json.loads(body)["healthy"]) == (200, True)
            metrics = ask(port, "/metrics")[1]
            assert "vitalseal_edge_up 1.0" in metrics
            assert "bed-1" not in metrics
    assert agent.stop(float(setting("vitalseal-edge.service", "TimeoutStopSec"))) == 0
    systemd.hear_until("STOPPING=1")


def test_port_that_is_taken_does_not_stop_the_agent(gateway, start, mosquitto):
    """Readings are worth more than being watched."""
    config = gateway / "edge.toml"
    config.write_text(f'{config.read_text()}[health]\nlisten = "127.0.0.1:{mosquitto.port}"\n')
    agent = start("edge", "run", "--config", config)
    wait_for(lambda: "the agent goes on without it" in agent.said())
    assert agent.stop() == 0


# In no log line, whatever becomes of the reading that has it.
VALUE = "71.0731"


def line(at, value=VALUE):
    """One reading, as the source takes it."""
    time = f"2026-11-21T{at // 3600 + 8:02}:{at // 60 % 60:02}:{at % 60:02}Z"
    return json.dumps({"kind": "heart_rate", "value": value, "time": time}) + "\n"


def test_stopping_under_load_loses_and_doubles_nothing_and_logs_no_value(gateway, start):
    """SIGTERM to both in the middle, within the units' limits; then every reading is in the log, once."""
    total, source = 6_000, gateway / "wrist.ndjson"
    words = {name: (name, "run", "--verbose", "--config", gateway / f"{name}.toml") for name in ("aggregator", "edge")}
    aggregator, agent = start(*words["aggregator"]), start(*words["edge"])
    # What is refused is named in the log, and what is beyond all bounds is marked: neither with its value.
    refused = [line(1, f"x{VALUE}"), f'{{"kind": "heart_rate", "value": {VALUE}\n', f"{VALUE}\n"]
    source.write_text("".join([*refused, line(total, f"9999{VALUE}"), *map(line, range(total // 2))]))
    wait_for(lambda: in_log(gateway) > 1000)
    assert aggregator.stop(float(setting("vitalseal-aggregator.service", "TimeoutStopSec"))) == 0
    assert agent.stop(float(setting("vitalseal-edge.service", "TimeoutStopSec"))) == 0
    with source.open("a") as file:
        file.writelines(map(line, range(total // 2, total)))
    aggregator, agent = start(*words["aggregator"]), start(*words["edge"])
    wait_for(lambda: in_log(gateway) > total, limit_s=60)
    assert (agent.stop(), aggregator.stop()) == (0, 0)
    assert in_log(gateway) == total + 1
    said = agent.said() + aggregator.said()
    assert "wrist" in said  # the refused lines are spoken of
    assert VALUE not in said


def in_log(gateway):
    """How many readings the batches in the log have."""
    with LocalReader(gateway / "data") as log:
        entries = [parse_entry(entry) for entry in log.entries(0, log.size())]
    return sum(Header.decode(entry.header).count for entry in entries if isinstance(entry, BatchEntry))


@pytest.fixture
def report(gateway):
    """The report of a gateway that is well."""
    config = load(gateway / "edge.toml")
    files.make_directory(config.data)
    signer = load_key(config.key)
    key = key_id(signer.algorithm, signer.public_key)
    Outbox(config.outbox_file, Owner(config.device, config.origin, key, config.key)).close()
    return dataclasses.replace(read_report(config, key), running=True, connected=True)


@pytest.mark.parametrize(
    ("change", "state", "why"),
    [
        ({}, None, None),
        ({"outdated": True}, "outbox", "is not the latest one of its key; `vitalseal edge status` says what to do"),
        ({"key_ended": True}, "key", "the log takes nothing more of it"),
        ({"disk_full": True}, "disk", "is full: nothing is accepted"),
        ({"over_budget": True}, "disk", "the outbox is over its budget: readings are dropped"),
        ({"connected": False, "oldest_unstored_s": AWAY_S}, None, None),
        (
            {"connected": False, "broker_why": "gone", "oldest_unstored_s": AWAY_S + 1},
            "broker",
            "gone; a reading has waited for 901 s",
        ),
    ],
)
def test_faults_of_the_agent(report, change, state, why):
    """Each has its name, and nothing else is wrong."""
    found = faults(dataclasses.replace(report, **change))
    assert {name: text for name, text in found.items() if text} == ({state: why} if state else {})


def test_report_is_what_the_metrics_say(report):
    """Each family has help, and none a device's or a patient's name."""
    families = list(ReportCollector(lambda: dataclasses.replace(report, refused_input={"wrist": 3})).collect())
    assert all(family.documentation.endswith(".") for family in families)
    labels = [sample.labels for family in families for sample in family.samples if sample.labels]
    assert labels == [{"source": "wrist"}]
    assert [family.name for family in ReportCollector(lambda: None).collect()] == ["vitalseal_edge_up"]
