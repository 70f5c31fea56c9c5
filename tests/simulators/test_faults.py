"""What has to hold when things break holds, on real processes; and a scenario in which it does not says so."""

import json
import re
import sys
import time
from pathlib import Path

import pytest

from simulators.faults import trial as faults
from simulators.faults.table import SCENARIOS
from simulators.faults.trial import Outcome, Trial, UnexplainedError, fields_of, run_scenario, summary
from simulators.process import Child
from tests.simulators.test_demo import programs, vitalseal

SUMMARY = re.compile(
    r"faults: scenarios=(?P<scenarios>\d+) kills=(?P<kills>\d+) accepted=(?P<accepted>\d+) in_log=(?P<in_log>\d+)"
    r" gaps=(?P<gaps>\d+) unexplained=0"
)


def run(name, data, *more):
    """The outcome of one scenario that came out as it has to, and the numbers of the last line."""
    done = vitalseal("simulate", "faults", name, "--json", "--data", data, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    outcome, last = done.stdout.splitlines()
    assert "Traceback" not in done.stderr
    assert not programs(data)
    return json.loads(outcome), {key: int(value) for key, value in SUMMARY.fullmatch(last).groupdict().items()}


def test_split_view(tmp_path):
    """Witnesses refuse the second history, its client rejects it, a monitor convicts the log in both ways."""
    outcome, numbers = run("split-view", tmp_path / "data")
    assert numbers == {"scenarios": 1, "kills": 1, "accepted": 0, "in_log": 0, "gaps": 0}
    said = "\n".join(outcome["said"])
    assert said.count("refuses the second history: 409 and 422") == 2
    assert "quorum quorate is not reached" in said
    assert said.count("both notes verify under the log's vkeys, and exclude each other") == 2
    assert len(list((tmp_path / "data").glob("split-view/monitor-*/evidence/split-view-*.txt"))) >= 2


@pytest.mark.timeout(240)
def test_witnesses_down(tmp_path):
    """Nothing is published without a quorum, nothing is refused, and nothing is lost."""
    outcome, numbers = run("witnesses-down", tmp_path / "data", "--seconds", 2)
    assert numbers["kills"] == 2
    assert numbers["accepted"] == numbers["in_log"] > 300
    assert outcome["times_s"]["recovery"] < 60
    said = "\n".join(outcome["said"])
    assert "the public checkpoint stays as it was" in said
    assert "receipts are withheld" in said
    assert "lost=0 duplicates=0" in said


def tried(scenario, directory):
    """The outcome of a scenario that is made up here."""
    return run_scenario("made-up", scenario, directory, 1.0, lambda _text: None)


def test_scenario_that_does_not_come_out(tmp_path):
    """What does not hold is unexplained, with its words; what was told before stays."""

    def scenario(trial: Trial) -> None:
        """Tries nothing."""
        trial.expect(1 + 1 == 2, "two is two")
        trial.expect(1 + 1 == 3, "two is three")

    outcome = tried(scenario, tmp_path)
    assert outcome.said == ["two is two"]
    assert outcome.unexplained == ["not so: two is three"]
    assert summary([outcome]).endswith("unexplained=1")


def test_scenario_that_waits_in_vain(tmp_path):
    """A condition that does not come true in its time is unexplained."""
    outcome = tried(lambda trial: trial.wait(lambda: False, 0.0, "the sun rises"), tmp_path)
    assert outcome.unexplained == ["not within 0 s: the sun rises"]


def test_scenario_that_loses_readings(tmp_path):
    """Readings that were accepted are in the log, or declared lost, or unexplained."""

    def scenario(trial: Trial) -> None:
        """Counts."""
        trial.outcome.accepted, trial.outcome.in_log, trial.outcome.gaps = 10, 7, 1

    assert tried(scenario, tmp_path).unexplained == ["2 readings are neither in the log nor declared lost"]


def test_programs_of_a_scenario(tmp_path):
    """What a scenario starts runs until it is over, a kill is counted, and a program that ended before is no kill."""
    children: list[Child] = []

    def scenario(trial: Trial) -> None:
        """Starts and kills."""
        for _ in range(2):
            child = Child("sleeper", [sys.executable, "-c", "import time; time.sleep(100)"], trial.directory / "log")
            trial.stack.callback(child.stop, 5.0)
            child.start()
            children.append(child)
        trial.kill(children[0])
        with pytest.raises(UnexplainedError, match="had ended by itself"):
            trial.kill(children[0])
        assert children[1].code() is None

    outcome = tried(scenario, tmp_path)
    assert (outcome.kills, outcome.unexplained) == (1, [])
    assert [child.code() for child in children] == [-9, -15]


def test_outcome_as_json():
    """Every field of an outcome is one that JSON can hold."""
    assert json.loads(json.dumps(fields_of(Outcome("x")))) == {
        "name": "x",
        "said": [],
        "kills": 0,
        "accepted": 0,
        "in_log": 0,
        "gaps": 0,
        "times_s": {},
        "unexplained": [],
    }


def test_failure_is_exit_code_1_and_keeps_the_data(tmp_path, monkeypatch, capsys):
    """The last line counts it, and the directory is named and left."""
    from vitalseal.cli import main

    monkeypatch.setitem(SCENARIOS, "made-up", lambda trial: trial.expect(held=False, what="it holds"))
    monkeypatch.setattr(faults.tempfile, "tempdir", str(tmp_path))
    assert main(["simulate", "faults", "made-up"]) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == ("faults: scenarios=1 kills=0 accepted=0 in_log=0 gaps=0 unexplained=1")
    assert "vitalseal: faults: made-up: not so: it holds" in captured.err
    (kept,) = tmp_path.glob("vitalseal-faults-*")
    assert f"everything is in {kept}" in captured.err
    monkeypatch.setitem(SCENARIOS, "made-up", lambda trial: trial.tell("nothing"))
    kept.rename(tmp_path / "old")
    assert main(["simulate", "faults", "made-up"]) == 0
    assert not list(tmp_path.glob("vitalseal-faults-*"))


def test_list_names_every_scenario():
    """Each with the first sentence of what it tries."""
    done = vitalseal("simulate", "faults", "--list")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[::2] == list(SCENARIOS)
    assert all(line.startswith("  ") and line.endswith(".") for line in lines[1::2])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nonsense",), "nonsense: is not a scenario; there are split-view, witnesses-down"),
        (("--seconds", "0"), "is not above 0"),
        (("--data", str(Path(__file__).parent)), "is not empty"),
    ],
)
def test_wrong_call_is_one_line_and_exit_2(words, says):
    """Nothing is started."""
    began_s = time.monotonic()
    done = vitalseal("simulate", "faults", *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert says in done.stderr
    assert time.monotonic() - began_s < 30
