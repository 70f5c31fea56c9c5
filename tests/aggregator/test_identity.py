"""The whole of it, on real processes: token, desk, broker with TLS, aggregator; a revoked device is out in seconds."""

import signal
import subprocess
import sys

import pytest

from aggregator.setup import Identity, initialise
from aggregator.upkeep import read_broker_state
from ledger.messages import Reject, Stored, parse_message
from tests.brokers import free_port
from vitalseal import topics

from .broker import TlsMosquitto
from .devices import ORIGIN
from .gateway import Client, Gateway, until


@pytest.fixture
def place(tmp_path):
    """A log with a CA, its broker and its aggregator, all running; the ports are the fixture's."""
    desk_port, broker_port = free_port(), free_port()
    config = tmp_path / "aggregator.toml"
    initialise(config, tmp_path / "data", ORIGIN, "127.0.0.1", broker_port, identity=Identity((), desk_port))
    config.write_text(config.read_text().replace("interval_s = 1.0", "interval_s = 0.1", 1))
    broker = TlsMosquitto(tmp_path / "data" / "broker", broker_port)
    broker.start()
    log = (tmp_path / "aggregator.log").open("wb")
    running = subprocess.Popen([sys.executable, "-m", "vitalseal", "aggregator", "run", "--config", config], stderr=log)
    try:
        yield tmp_path, broker
    finally:
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0
        broker.kill()
        log.close()
        sys.stderr.write((tmp_path / "aggregator.log").read_text())
        sys.stderr.write(broker.log())


def command(directory, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "vitalseal", "aggregator", *arguments, "--config", directory / "aggregator.toml"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_device_from_token_to_revocation_and_back(place):
    """Signed in by a token it is admitted; revoked it is refused by all three; signed in again it is admitted again."""
    directory, broker = place
    data = directory / "data"
    log = directory / "aggregator.log"
    until(
        lambda: "the desk is at" in log.read_text() and "connected to broker" in log.read_text(), "a running aggregator"
    )
    code, token, _ = command(directory, "token", "wrist-1")
    assert code == 0
    gateway = Gateway(directory, token.strip(), 1)
    gateway.enrol()
    batch, receipts = topics.batch("wrist-1"), topics.receipt("wrist-1")

    def heard(kind):
        return [m for _, payload in client.messages if isinstance(m := parse_message(payload), kind)]

    with Client(broker.port, gateway.context()) as client:
        client.subscribe(receipts)
        assert client.publish(batch, gateway.device.batch()) == "Success"
        until(lambda: heard(Stored), "stored")

        assert command(directory, "token", "wrist-1")[0] == 2
        assert command(directory, "token", "wrist-7")[0] == 0
        assert command(directory, "token", "--list")[1].startswith("wrist-7  good until 2")
        assert "signs nobody in" in command(directory, "token", "--withdraw", "wrist-7")[1]
        assert command(directory, "token", "--list")[1] == "no token is open\n"
        assert command(directory, "token", "--withdraw", "wrist-7")[0] == 2
        code, said, _ = command(directory, "revoke", "wrist-1", "--reason", "compromised")
        assert (code, said.count("wrote")) == (0, 1)
        # The connection stands, and nothing comes of it any more.
        until(lambda: client.publish(batch, gateway.device.batch()) == "Not authorized", "a refusal")
        assert client.connected
    assert read_broker_state(data).untold is None
    until(lambda: read_broker_state(data).unseen is None, "the sight of a broker that goes by its lists")
    with Client(broker.port, gateway.context()) as client:
        until(lambda: "gone" in client.said, "the end of a new connection")
    assert gateway.renew()[0] == 403

    code, token, _ = command(directory, "token", "wrist-1")
    assert code == 0
    back = Gateway(directory, token.strip(), 2)
    back.enrol()
    with Client(broker.port, back.context()) as client:
        client.subscribe(receipts)
        assert client.publish(batch, back.device.batch()) == "Success"
        until(lambda: heard(Stored), "stored")
        assert client.publish(batch, gateway.device.batch()) == "Success"
        until(lambda: heard(Reject), "the word of admission on the revoked key")
    code, said, _ = command(directory, "status")
    assert (code, "WARNING" in said) == (0, False)


def test_log_without_tls_has_no_tokens(tmp_path):
    """It says why; options that contradict `--plain` are refused before anything is made."""
    made = ("init", "--data", tmp_path / "data", "--origin", ORIGIN, "--plain")
    assert (command(tmp_path, *made, "--host", "x")[0], (tmp_path / "data").exists()) == (2, False)
    assert command(tmp_path, *made)[0] == 0
    code, said, told = command(tmp_path, "token", "wrist-1")
    assert (code, said, "init --plain" in told, len(told.splitlines())) == (2, "", True, 1)
