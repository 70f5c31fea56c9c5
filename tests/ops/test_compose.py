"""deploy/compose.yaml and what it mounts: no container engine is here, so its form; the two scripts in it are run."""

import argparse
import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from aggregator.config import AggregatorConfig
from tests.brokers import free_port
from vitalseal import config as configuration
from vitalseal.cli import COMMANDS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PAGE = ROOT / "docs" / "influx.md"
# Beside those that compose itself knows, what a service may have here: a slip of the pen is in no engine's eyes yet.
KEYS = {
    *("build", "cap_drop", "command", "depends_on", "entrypoint", "environment", "healthcheck", "image", "mem_limit"),
    *("network_mode", "networks", "ports", "profiles", "read_only", "restart", "secrets", "security_opt"),
    *("stop_grace_period", "tmpfs", "ulimits", "user", "volumes"),
}
PUBLIC = {"8883:8883", "8884:8884"}


@pytest.fixture(scope="module")
def compose():
    """The file as YAML has it."""
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def services(compose):
    return compose["services"]


def understood(words):
    """`vitalseal WORDS...` is a call that the command line takes; else it ends the test."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(COMMANDS[words[0]][0]).register(parser)
    parser.parse_args(words[1:])


def mounts(service):
    """Source and target of each volume, written short or long."""
    for volume in service.get("volumes", []):
        if isinstance(volume, str):
            yield tuple(volume.split(":")[:2])
        else:
            assert set(volume) <= {"type", "source", "target", "read_only", "volume"}
            yield volume["source"], volume["target"]


def test_what_is_asked_for_is_there(compose, services):
    """Every volume, secret, file and service that a service names; nothing is declared that nobody names."""
    assert set(compose) == {"name", "services", "volumes", "secrets"}
    volumes, secrets = set(), set()
    for service in services.values():
        assert set(service) <= KEYS
        assert set(service.get("depends_on", [])) <= set(services)
        secrets |= set(service.get("secrets", []))
        for source, target in mounts(service):
            assert target.startswith("/")
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
            else:
                volumes.add(source)
    assert volumes == set(compose["volumes"])
    assert secrets == set(compose["secrets"])
    named = [secret["file"] for secret in compose["secrets"].values()]
    assert named == [f"./secrets/{name}" for name in compose["secrets"]]
    assert "deploy/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_images_are_pinned_and_programs_shut_in(services):
    """By a whole version; not as root, on a file system that cannot be written, without capabilities."""
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    for image in [service["image"] for service in services.values()] + re.findall(
        "^FROM (\\S+)", dockerfile, re.MULTILINE
    ):
        assert image == "vitalseal:local" or re.search(r":\d+\.\d+\.\d+(-[\w-]+)?$", image), image
    assert re.search(r"^USER vitalseal$", dockerfile, re.MULTILINE)
    for name, service in services.items():
        ours = service["image"] == "vitalseal:local"
        assert ours or not service["user"].startswith("0"), name
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert name == "setup" or {"healthcheck", "restart"} <= set(service), name


def test_two_ports_are_public(services):
    """The broker's and the desk's, both TLS; the rest is on the loopback address."""
    ports = {port for service in services.values() for port in service.get("ports", [])}
    assert {port for port in ports if not port.startswith("127.0.0.1:")} == PUBLIC


def test_no_secret_is_written_down(services):
    """What the file says of passwords and tokens are paths."""
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|TOKEN", name):
                assert value.startswith("/run/secrets/"), name
                assert value.rpartition("/")[2] in service["secrets"]


def test_dockerfile_takes_what_there_is():
    """By hash, from no index that it names; and what the package is built from is not left out."""
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert "--require-hashes -r requirements/aggregator.txt" in dockerfile
    assert not re.search(r"index-url|https?:", dockerfile + (ROOT / "requirements/aggregator.txt").read_text())
    taken = set(re.findall("^!(.*)", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE))
    assert all((ROOT / path).exists() for path in taken)
    project = (ROOT / "pyproject.toml").read_text()
    packages = re.search(r"^packages = (\[.*)$", project, re.MULTILINE)[1]
    assert {*yaml.safe_load(packages), "pyproject.toml", "README.md", "LICENSE", "requirements/aggregator.txt"} == taken


def test_commands_are_ones_that_there_are(services):
    """Those of the services, of the set-up and of the page, each with its options."""
    started = [
        service["command"] for service in services.values() if "vitalseal" in service["image"] and "command" in service
    ]
    assert len(started) == 2
    setup = (DEPLOY / "compose/setup.sh").read_text().replace("\\\n", " ")
    blocks = "".join(re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)).replace("\\\n", " ")
    typed = re.findall(
        r"(?:^|[ /])vitalseal ((?:aggregator|audit|ledger|erase|export) .*)$", setup + blocks, re.MULTILINE
    )
    assert len(typed) > 5
    for words in [*started, *map(shlex.split, typed)]:
        understood(words)


def test_setup_makes_a_log_that_runs(tmp_path, monkeypatch):
    """The script of the one-shot service, at other places: its configuration is one, and the witness knows the log."""
    text = (DEPLOY / "compose/setup.sh").read_text().replace(" --broker-group mosquitto", "")
    text = text.replace("/var/lib", str(tmp_path)).replace("/sections.toml", str(DEPLOY / "compose/sections.toml"))
    for name in ("vitalseal-aggregator", "vitalseal-witness"):
        (tmp_path / name).mkdir()
    program = tmp_path / "vitalseal"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m vitalseal "$@"\n')
    program.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "VITALSEAL_ORIGIN": "clinic.example/log",
        "VITALSEAL_HOST": "log.clinic.example",
    }
    done = subprocess.run(["sh", "-c", text], env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    config = configuration.load(tmp_path / "vitalseal-aggregator/aggregator.toml", AggregatorConfig)
    assert config.influx.url == "http://influxdb:8086"
    assert (config.broker.host, config.desk.host) == ("log.clinic.example", "log.clinic.example")
    assert (tmp_path / "vitalseal-witness/logs").read_bytes() == (config.data / "policy.txt").read_bytes()
    again = subprocess.run(["sh", "-c", text], env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert again.returncode != 0


@pytest.fixture
def broker(tmp_path):
    """The broker's script on a folder of its own, and what Mosquitto says."""
    (tmp_path / "mosquitto.conf").write_text(
        f"listener {free_port()} 127.0.0.1\nallow_anonymous true\nacl_file {tmp_path}/acl\nuser root\n"
        f"pid_file {tmp_path}/pid\n"
    )
    for name in ("acl", "crl.pem", "server.crt"):
        (tmp_path / name).write_text("# first\n")
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        ["sh", DEPLOY / "compose/broker.sh", tmp_path],
        env={"PATH": f"{os.environ['PATH']}:/usr/sbin"},
        stdout=log,
        stderr=log,
    )
    yield process
    process.kill()
    process.wait()
    log.close()


def says(folder, text):
    """The broker has said it, within a limit."""
    end = time.monotonic() + 10
    while text not in (said := (folder / "log").read_text()):
        assert time.monotonic() < end, said
        time.sleep(0.02)


def test_broker_reads_again_what_the_aggregator_rewrote(broker, tmp_path):
    """Without being told by anybody else; ended in good order, both are gone."""
    says(tmp_path, " running")
    (tmp_path / "new").write_text("# second\n")
    (tmp_path / "new").rename(tmp_path / "acl")
    says(tmp_path, "Reloading config")
    broker.send_signal(signal.SIGTERM)
    assert broker.wait(10) == 0
    says(tmp_path, " terminating")


def test_broker_that_dies_takes_its_container_along(broker, tmp_path):
    """So that the engine starts both again."""
    says(tmp_path, " running")
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert broker.wait(10) == 128 + signal.SIGKILL
