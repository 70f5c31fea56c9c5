"""SIGHUP: what can change does, the rest is named, and a wrong file changes nothing."""

import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from vitalseal import config as configuration
from vitalseal.errors import UserError
from vitalseal.reload import Reload


@dataclass(frozen=True)
class Config:
    name: str
    pause_s: float = 1.0

    def __post_init__(self):
        if self.pause_s <= 0:
            raise ValueError(f"pause_s: {self.pause_s} is not above 0")


class Program:
    def __init__(self, path):
        self.path = Path(path)
        self.write('name = "a"\n')
        self.config = self.load(self.path)
        self.applied = []
        self.refuses = False
        self.reload = Reload(self.path, self.load, self.config, frozenset({"pause_s"}), self.apply)

    def load(self, path):
        return configuration.load(path, Config)

    def write(self, text):
        self.path.write_text(text)

    def apply(self, config):
        if self.refuses:
            raise UserError("policy.txt: is gone")
        self.applied.append(config)


@pytest.fixture
def program(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    return Program(tmp_path / "p.toml")


def test_live_keys_change_and_others_are_named(program, caplog):
    """One line says what takes a restart; it stays as it was."""
    program.write('name = "b"\npause_s = 2.0\n')
    program.reload()
    assert program.applied == [Config("a", 2.0)]
    assert f"{program.path} was read again; changed: pause_s" in caplog.messages
    assert f"{program.path}: name changed, which takes a restart" in caplog.messages
    program.write('name = "b"\npause_s = 3.0\n')
    program.reload()
    assert program.applied[-1] == Config("a", 3.0)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("pause_s = 0\nname = 'a'", "pause_s: 0.0 is not above 0"),
        ("name = 'a'\npauses = 1", "unknown key 'pauses'"),
        ("[[", "not TOML"),
    ],
)
def test_wrong_file_changes_nothing(program, caplog, text, why):
    """One line says what is wrong with it; the next good one counts."""
    program.write(text)
    program.reload()
    assert program.applied == []
    [line] = caplog.messages
    assert line.startswith("the configuration stays as it was: ")
    assert why in line
    program.write('name = "a"\npause_s = 5.0\n')
    program.reload()
    assert program.applied == [Config("a", 5.0)]


def test_what_cannot_be_applied_stays(program, caplog):
    """A file that the configuration names may be wrong, too."""
    program.write('name = "a"\npause_s = 2.0\n')
    program.refuses = True
    program.reload()
    assert caplog.messages == ["the configuration stays as it was: policy.txt: is gone"]
    program.refuses = False
    program.reload()
    assert program.applied == [Config("a", 2.0)]


def test_files_that_the_configuration_names_are_read_again_without_a_change_in_it(program):
    """A policy has a new line, and its path is the same."""
    program.reload()
    assert program.applied == [program.config]


def test_systemd_hears_the_beginning_and_the_end(program, systemd, monkeypatch):
    """Also of a reload that failed: the program goes on."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(systemd.path))
    program.write("[[")
    program.reload()
    assert systemd.hear()[0] == "RELOADING=1"
    assert systemd.hear() == ["READY=1"]


def test_hangup_reloads(program, systemd, monkeypatch):
    """In a thread of its own, because a handler interrupts whoever is about to log."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(systemd.path))
    before = signal.getsignal(signal.SIGHUP)
    try:
        program.reload.on_hangup()
        os.kill(os.getpid(), signal.SIGHUP)
        systemd.hear_until("READY=1")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert program.applied == [program.config]
