"""Aggregator and witness as systemd runs them: ready, watched, reloaded, stopped; the agent is in test_agent."""

import signal
import threading
import time
from contextlib import closing

import pytest

from aggregator.config import AggregatorConfig, BrokerConfig
from aggregator.registry import Registry
from aggregator.service import Service
from ledger.service.witness_keys import create_witness
from ledger.writer.create import create_log, load_log_keys
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter
from tests.ops.programs import Program, setting
from tests.service.witnessing import NAME, Log

WATCHDOG_S = 1.0  # instead of the unit's, so that a test sees it being fed


def written(path, data, more=""):
    path.write_text(f'data = "{data}"\ninterval_s = 0.1\nquiet_interval_s = 0.1\n{more}\n[broker]\nport = 1\n')
    return path


@pytest.fixture
def aggregator(tmp_path, systemd):
    """A running aggregator, with no broker, and its configuration."""
    create_log(tmp_path / "data", "a.example/log")
    config = written(tmp_path / "aggregator.toml", tmp_path / "data")
    program = Program(
        ["aggregator", "run", "--config", config], tmp_path / "aggregator.log", systemd.environment(WATCHDOG_S)
    )
    program.config = config
    yield program
    program.kill()


@pytest.fixture
def witness(tmp_path, systemd):
    """A running witness of one log, and its list of logs."""
    create_witness(tmp_path / "w", NAME, None)
    logs = tmp_path / "logs"
    logs.write_text(f"log {Log().vkeys[0]}\n")
    words = ["ledger", "witness", "run", "--data", tmp_path / "w", "--logs", logs, "--port", 0]
    program = Program(words, tmp_path / "witness.log", systemd.environment(WATCHDOG_S))
    program.logs = logs
    yield program
    program.kill()


def test_aggregator_is_ready_watched_reloaded_and_stopped(aggregator, systemd, tmp_path):
    """In this order; a wrong file leaves the old configuration in force, and what takes a restart is named."""
    assert systemd.hear() == ["READY=1", "STATUS=a.example/log"]
    systemd.hear_until("WATCHDOG=1")
    for more, line in (
        ("nonsense = 1", "the configuration stays as it was: "),
        ("witness_timeout_s = 2.0", "was read again; changed: witness_timeout_s"),
        ("guard = 'elsewhere'", "guard changed, which takes a restart"),
    ):
        written(aggregator.config, tmp_path / "data", more)
        aggregator.signal(signal.SIGHUP)
        systemd.hear_until("RELOADING=1")
        systemd.hear_until("READY=1")
        assert line in aggregator.said()
    assert aggregator.stop(float(setting("vitalseal-aggregator.service", "TimeoutStopSec"))) == 0
    systemd.hear_until("STOPPING=1")


def test_aggregator_that_stands_still_is_not_fed(tmp_path, systemd, monkeypatch):
    """A publisher or an ingest that hangs starves the watchdog; it would be killed, which loses nothing."""
    create_log(tmp_path / "data", "a.example/log")
    monkeypatch.setenv("NOTIFY_SOCKET", str(systemd.path))
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    config = AggregatorConfig(tmp_path / "data", BrokerConfig(port=1), interval_s=0.1, quiet_interval_s=0.1)
    with LocalStorage(config.data) as storage, closing(Registry(config.data)) as registry:
        writer = LogWriter(storage, load_log_keys(config.data).signers, time.time_ns)
        service = Service(config, storage, writer, registry)
        running = threading.Thread(target=service.run)
        running.start()
        try:
            systemd.hear_until("WATCHDOG=1")
            with service._order, pytest.raises(TimeoutError):
                # What was on its way arrives; then nothing does, for ten periods.
                systemd.hear_until("nothing of the kind", limit_s=2.0)
            systemd.hear_until("WATCHDOG=1")
        finally:
            service.stop()
            running.join()


def test_witness_is_ready_watched_reloaded_and_stopped(witness, systemd):
    """As long as it serves and its state can be read."""
    assert systemd.hear() == ["READY=1", "STATUS=witness of 1 logs"]
    systemd.hear_until("WATCHDOG=1")
    witness.logs.write_text("nonsense\n")
    witness.signal(signal.SIGHUP)
    systemd.hear_until("RELOADING=1")
    systemd.hear_until("READY=1")
    assert "the logs stay as they were" in witness.said()
    witness.logs.write_text(f"log {Log().vkeys[0]}\n")
    witness.signal(signal.SIGHUP)
    systemd.hear_until("STATUS=witness of 1 logs")
    assert "1 logs are known now" in witness.said()
    assert witness.stop(float(setting("vitalseal-witness.service", "TimeoutStopSec"))) == 0
