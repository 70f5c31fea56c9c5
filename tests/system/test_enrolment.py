"""A gateway's life with real processes and the generated configuration: enrolled, rotated, revoked, back, renewed."""

import shutil
import subprocess
import sys
import time

import pytest

from edge import identity
from edge.config import load
from edge.key import load_key
from edge.renewal import renew
from edge.status import read_report
from ledger.entry import parse_entry
from ledger.events import Enrolment, Revocation, Rotation
from ledger.keys import key_id
from ledger.writer.reader import LocalReader
from simulators.process import Child
from tests.aggregator.broker import TlsMosquitto
from tests.brokers import HOST, free_port
from vitalseal.errors import UserError

ORIGIN = "life.example/log"
PATIENCE_S = 60
LOOK_S = 0.1
# Past two thirds of a gateway's certificate, and within it and the server's.
AHEAD = "+61d"


def vitalseal(*words):
    command = [sys.executable, "-m", "vitalseal", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(room, config):
    return [sys.executable, "-m", "vitalseal", room, "run", "--config", str(config)]


class Site:
    """An aggregator with its desk, its broker, and one gateway that reads a file of lines."""

    def __init__(self, directory):
        self.data, self.config = directory / "data", directory / "aggregator.toml"
        self.edge = directory / "gateway" / "edge.toml"
        self.lines = directory / "gateway" / "wrist.ndjson"
        self.lines.parent.mkdir()
        self.lines.touch()
        self.written = 0
        port = free_port()
        where = ("--host", HOST, "--broker", f"{HOST}:{port}", "--desk-port", free_port())
        vitalseal("aggregator", "init", "--config", self.config, "--data", self.data, "--origin", ORIGIN, *where)
        self.broker = TlsMosquitto(self.data / "broker", port)
        text = self.config.read_text()
        assert "quiet_interval_s = 10.0" in text
        self.config.write_text(text.replace("quiet_interval_s = 10.0", "quiet_interval_s = 1.0"))
        self.aggregator = Child("aggregator", run("aggregator", self.config), directory / "aggregator.log")
        self.agent = Child("edge", run("edge", self.edge), directory / "edge.log")
        self.directory = directory

    def token(self, *more):
        return vitalseal("aggregator", "token", "wrist-1", *more, "--config", self.config).strip()

    def measure(self, count):
        """The gateway is given `count` more readings."""
        with self.lines.open("a") as file:
            file.writelines(
                f'{{"kind":"steps","value":{at},"time":{at}}}\n' for at in range(self.written, self.written + count)
            )
        self.written += count

    def status(self):
        return read_report(load(self.edge), self.key())

    def until(self, condition, what):
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"{what}\n{self.said()}"
            time.sleep(LOOK_S)  # between two looks: processes tell nobody how far they are

    def said(self):
        logs = [self.directory / f"{room}.log" for room in ("edge", "aggregator")]
        return "\n".join(path.read_text() for path in logs if path.exists())[-6000:]

    def receipted(self):
        """Every reading so far has a verified receipt."""

        def all_there():
            return load(self.edge).outbox_file.exists() and self.status().counts.receipted == self.written

        self.until(all_there, "not everything is receipted")

    def entries(self):
        with LocalReader(self.data) as log:
            return [parse_entry(entry) for entry in log.entries(0, log.size())]

    def key(self):
        signer = load_key(load(self.edge).key)
        return key_id(signer.algorithm, signer.public_key)


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    site.broker.start()
    site.aggregator.start()
    yield site
    site.agent.stop(20)
    site.aggregator.stop(20)
    site.broker.stop()


def enrolled(site):
    """The gateway has what it needs; the desk takes some moments to come up."""
    token = site.token()
    arguments = ["edge", "enroll", token, "--config", site.edge, "--source", f"wrist=lines:path={site.lines}"]
    command = [sys.executable, "-m", "vitalseal", *map(str, arguments)]
    site.until(lambda: subprocess.run(command, capture_output=True, check=False).returncode == 0, "not enrolled")


@pytest.mark.timeout(180)
def test_gateway_is_enrolled_rotated_revoked_and_renewed(site):
    """One token, one receipt; a rotation while it runs, one while it does not; revoked, and back; a renewal."""
    enrolled(site)
    site.measure(100)
    site.agent.start()
    site.receipted()
    first = site.key()

    # A new key while readings flow.
    site.measure(500)
    assert "done: key" in vitalseal("edge", "rotate", "--config", site.edge)
    site.measure(100)
    site.receipted()
    second = site.key()
    # And one while no agent runs.
    site.agent.stop(20)
    site.measure(50)
    assert "done: key" in vitalseal("edge", "rotate", "--config", site.edge)
    third = site.key()
    events = [entry for entry in site.entries() if isinstance(entry, Enrolment | Rotation)]
    assert [entry.key_id for entry in events] == [first, second, third]
    assert len({first, second, third}) == 3

    # Revoked: out within seconds, also with a session that stands, and neither desk nor broker take it back.
    site.agent.start()
    site.until(lambda: site.status().connected, "not connected")
    vitalseal("aggregator", "revoke", "wrist-1", "--config", site.config)

    def out():
        site.measure(1)  # until it is out, whatever is read still arrives
        report = site.status()
        return report.key_ended or report.broker == "refused"

    site.until(out, "nothing came of the revocation")
    assert any(isinstance(entry, Revocation) for entry in site.entries())
    with pytest.raises(UserError, match="wrist-1 is revoked"):
        renew(load(site.edge))

    # Back with a new key: what had been read is not lost.
    site.agent.stop(20)
    vitalseal("edge", "enroll", site.token("--again"), "--again", "--config", site.edge)
    site.agent.start()
    site.receipted()
    assert site.key() not in (first, second, third)

    # Sixty-one days later: the certificate renews itself, and what was read meanwhile arrives.
    config = load(site.edge)
    before = identity.validity(config.broker.tls.certificate)
    ahead = {"FAKETIME": AHEAD, "FAKETIME_DONT_FAKE_MONOTONIC": "1", "LD_PRELOAD": faketime()}
    command = ["env", *(f"{key}={value}" for key, value in ahead.items()), *run("edge", site.edge)]
    renewing = Child("renewing", command, site.directory / "edge.log")
    site.agent.stop(20)
    site.measure(10)
    renewing.start()
    try:
        site.until(lambda: identity.validity(config.broker.tls.certificate) != before, "not renewed")
        site.receipted()
    finally:
        renewing.stop(20)


def faketime():
    """The library that shows programs another clock."""
    program = shutil.which("faketime")
    assert program, "faketime is missing: run  apt-get install faketime  (`make test` does)"
    told = subprocess.run([program, "now", "env"], capture_output=True, text=True, check=True).stdout
    return dict(line.partition("=")[::2] for line in told.splitlines())["LD_PRELOAD"]
