"""Log lines: for people, as JSON, and for systemd's journal; never a health value in one."""

import json
import os
import subprocess
import sys

import pytest

SPEAK = """
import logging
from vitalseal import log
log.set_up()
logger = logging.getLogger("edge.test")
logger.debug("nobody sees it")
logger.info("one")
logger.critical("two")
logging.getLogger("paho").info("nobody sees it")
try:
    {}["x"]
except KeyError:
    logger.exception("three")
"""


def speak(environment=None):
    """What a program says on stderr, line by line."""
    given = {name: value for name, value in os.environ.items() if name not in {"VITALSEAL_LOG", "JOURNAL_STREAM"}}
    done = subprocess.run(
        [sys.executable, "-c", SPEAK],
        env=given | (environment or {}),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr.splitlines()


def journalled(tmp_path, more=None):
    """What it says where stderr is the journal's."""
    with (tmp_path / "journal").open("w+") as journal:
        found = os.fstat(journal.fileno())
        subprocess.run(
            [sys.executable, "-c", SPEAK],
            env=os.environ | {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"} | (more or {}),
            stderr=journal,
            check=True,
        )
        journal.seek(0)
        return journal.read().splitlines()


def test_people_get_time_level_and_who():
    """And a traceback where something of ours broke."""
    lines = speak()
    assert lines[0].endswith(" INFO    edge.test: one")
    assert lines[1].endswith(" CRITICAL edge.test: two")
    assert "KeyError: 'x'" in lines


def test_json_is_one_object_a_line():
    """The traceback of a fault is in it, so that a line stays one event."""
    first, second, third = map(json.loads, speak({"VITALSEAL_LOG": "json"}))
    assert (first["level"], first["logger"], first["message"]) == ("info", "edge.test", "one")
    assert second["level"] == "critical"
    assert "KeyError: 'x'" in third["exception"]
    assert third["time"].endswith("Z")


def test_journal_gets_the_priority_on_every_line_and_no_time(tmp_path):
    """The journal has the time itself."""
    lines = journalled(tmp_path)
    assert lines[:3] == ["<6>edge.test: one", "<2>edge.test: two", "<3>edge.test: three"]
    assert all(line.startswith("<3>") for line in lines[2:])


def test_journal_gets_json_behind_the_priority(tmp_path):
    """Both can be asked for."""
    first = journalled(tmp_path, {"VITALSEAL_LOG": "json"})[0]
    assert first[:3] == "<6>"
    assert json.loads(first[3:])["message"] == "one"


@pytest.mark.parametrize("stream", ["1:2", "nonsense", ""])
def test_stderr_that_is_not_the_journals_is_for_people(stream):
    """A child whose stderr is somewhere else inherits the variable."""
    assert speak({"JOURNAL_STREAM": stream})[0].endswith(" INFO    edge.test: one")
