"""docs/aggregator.md, edge.md, audit.md, erasure.md and keys.md, typed one after the other on one machine.

`world` describes it.

The broker runs as whoever runs the test, so `--broker-group` is left out; a checkpoint is published every second.
"""

import contextlib
import re
import time
from pathlib import Path

import pytest

from edge.config import load
from edge.database import Owner
from edge.key import load_key
from edge.outbox import Outbox
from edge.seal import Sealer
from ledger.keys import key_id
from ledger.messages import Reason
from tests.brokers import free_port
from tests.docs.world import World, commands

DOCS = Path(__file__).parents[2] / "docs"
PATIENCE_S = 30
# What is looked at until it is so, because a page says "within seconds"; the rest has to succeed at once.
LATER = re.compile(r" status|curl| token | devices ")
# What a command says, in the order in which the pages come to it.
SAYS = [
    ("aggregator init", "made the log clinic.example/vitalseal"),
    ("aggregator status", "clinic.example/vitalseal, running"),
    ("systemctl status vitalseal-aggregator", "active"),
    ("journalctl -u vitalseal-aggregator", "log clinic.example/vitalseal at size"),
    ("aggregator token bed-12", "vst1."),
    ("/healthz", '"healthy": true'),
    ("/metrics", "vitalseal_broker_connected 1.0"),
    ("install-edge.sh", "is installed; next it enrols"),
    ("edge enroll TOKEN", "bed-12"),
    ("edge status", "receipted 1 readings"),
    ("systemctl status vitalseal-edge", "active"),
    ("install-edge.sh", "is running"),
    ("edge recover", "epoch 1 begins"),
    ("aggregator revoke bed-12", "takes it within seconds"),
    ("aggregator token bed-12", "vst1."),
    ("vitalseal audit --config", "missing=0 changed=0 extra=0 moved=0"),
    ("audit --database", "missing=0 changed=0 extra=0 moved=0"),
    ("--incremental", "missing=0 changed=0 extra=0 moved=0"),
    ("--dry-run", "state=dry-run"),
    ("consent withdrawn", "state=done"),
    ("erase --list", "consent withdrawn"),
    ("edge rotate", ""),
    ("edge status", "connected"),
    ("aggregator revoke bed-12", "takes it within seconds"),
    ("aggregator devices", "REVOKED at entry"),
    ("enddate", "notAfter="),
    ("nextupdate", "nextUpdate="),
    ("log-key --add", "give this line to every witness"),
    ("aggregator token bed-13", "vst1."),
    ("edge enroll TOKEN", "bed-13"),
    ("edge status --config bed-13", "bed-13"),
]


@pytest.fixture
def world(tmp_path):
    """A machine with nothing on it."""
    places = {port: str(free_port()) for port in ("8883", "8884", "9464")}
    places |= {"log.clinic.example": "localhost", " --broker-group mosquitto": ""}
    # Ports that the pages leave to the defaults.
    places["clinic.example/vitalseal --host"] = (
        f"clinic.example/vitalseal --broker localhost:{places['8883']} --desk-port {places['8884']} --host"
    )
    world = World(tmp_path, places)
    yield world
    world.end()


def outdate(config):
    """The outbox has been told that the log has another batch in the place of its last one."""
    signer = load_key(config.key)
    owner = Owner(config.device, config.origin, key_id(signer.algorithm, signer.public_key), config.key)
    with contextlib.closing(Outbox(config.outbox_file, owner)) as outbox:
        at = outbox.next_place()
        outbox.heartbeat(Sealer(signer, config.origin))
        outbox.record_reject(at, Reason.EQUIVOCATION, "another header")


def unexpected(page, command, says, done, logs):
    """What was typed last, what came of it, and what every process said: whole, where pytest would shorten a tuple."""
    parts = {"it said": done.stdout, "and, as errors": done.stderr, **logs}
    told = "".join(f"\n----- {name}\n{text}" for name, text in parts.items())
    return f"docs/{page}.md: {command}\nended with {done.returncode}; to be said was {says!r}{told}"


@pytest.mark.timeout(180)
def test_pages_work_as_they_are_written(world):
    """Each command succeeds; those in SAYS say what is expected, each of them once, in this order."""
    expected, token = list(SAYS), "none yet"
    for page in ("aggregator", "edge", "audit", "erasure", "keys"):
        for command in commands(DOCS / f"{page}.md"):
            says = expected[0][1] if expected and expected[0][0] in command else None
            typed = re.sub(r"\bTOKEN\b", token, command)
            if "edge recover" in command:
                outdate(load(world.directory / "var/lib/vitalseal-edge/edge.toml"))
            end = time.monotonic() + PATIENCE_S
            while True:
                done = world.type(typed)
                right = done.returncode == 0 and (says is None or says in " ".join(done.stdout.split()))
                if right or not LATER.search(command) or time.monotonic() > end:
                    break
            if not right:
                pytest.fail(unexpected(page, command, says, done, world.logs()))
            if says is not None:
                expected.pop(0)
            if " token " in command and done.stdout.startswith("vst1."):
                token = done.stdout.strip()
            if "aggregator init" in command:
                config = world.directory / "var/lib/vitalseal-aggregator/aggregator.toml"
                config.write_text(config.read_text().replace("quiet_interval_s = 10.0", "quiet_interval_s = 1.0"))
    assert expected == []
    assert world.type("systemctl start vitalseal-broker.service").returncode == 0
    called = world.called()
    for call in (
        "apt-get install -y mosquitto python3-venv curl",
        "pip install --require-hashes -r requirements/aggregator.txt",
        "useradd --system --groups mosquitto --shell /usr/sbin/nologin vitalseal-aggregator",
        f"ufw allow {world.here('8883')}/tcp",
        "pipx install .[edge]",
        "systemctl restart vitalseal-edge.service",
        "systemctl --no-block try-reload-or-restart mosquitto.service",
    ):
        assert call in called
