"""What has to hold when things break holds, on real processes; and a scenario in which it does not says so."""

import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from edge.key import load_key
from ledger.keys import key_id
from simulators.faults import trial as faults
from simulators.faults.reckoning import Ledgered, reckon
from simulators.faults.table import SCENARIOS
from simulators.faults.trial import (
    Bounds,
    NotRunError,
    Outcome,
    Trial,
    UnexplainedError,
    fields_of,
    run_scenario,
    summary,
)
from simulators.process import Child
from tests.simulators.test_demo import programs, vitalseal

SUMMARY = re.compile(
    r"faults: scenarios=(?P<scenarios>\d+) kills=(?P<kills>\d+) accepted=(?P<accepted>\d+) in_log=(?P<in_log>\d+)"
    r" gaps=(?P<gaps>\d+) unexplained=0"
)
BOUNDS = Bounds(seconds=1.0, kills=1, seed=0)


def run(name, data, *more):
    """The outcome of one scenario that came out as it has to, and the numbers of the last line."""
    done = vitalseal("simulate", "faults", name, "--json", "--data", data, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    outcome, last = done.stdout.splitlines()
    assert "Traceback" not in done.stderr
    assert not programs(data)
    return json.loads(outcome), {key: int(value) for key, value in SUMMARY.fullmatch(last).groupdict().items()}


def test_kills(tmp_path):
    """Each part is killed twice while devices measure, and nothing is lost; recovery is measured for each."""
    outcome, numbers = run("kills", tmp_path / "data", "--kills", 8, "--seed", 8)
    assert (numbers["scenarios"], numbers["kills"]) == (1, 8)
    assert numbers["accepted"] == numbers["in_log"] + numbers["gaps"] > 300
    measured = {
        f"{part} {which}" for part in ("agent", "broker", "aggregator", "witness") for which in ("median", "worst")
    }
    assert measured <= outcome["times_s"].keys()


def test_delivery_and_an_account_that_can_fail(tmp_path):
    """What comes twice and out of order is on the log once; an outbox or a log that lies about it is found out."""
    data = tmp_path / "data"
    outcome, numbers = run("delivery", data, "--seconds", 2)
    assert numbers["accepted"] == numbers["in_log"] > 100
    assert "copies more" in "\n".join(outcome["said"])

    data /= "delivery"
    folder = data / "devices" / "bedside-03"

    def problems(lie, *, config=folder / "edge.toml"):
        """What the account says of one device whose outbox was changed by the statement `lie`."""
        copy = tmp_path / "outbox.db"
        shutil.copy(folder / "data" / "outbox.db", copy)
        with closing(sqlite3.connect(copy)) as outbox, outbox:
            outbox.execute(lie)
        device = Ledgered("bedside-03", key_of(folder), config, (copy,))
        others = [
            Ledgered(path.name, key_of(path), path / "edge.toml", (path / "data" / "outbox.db",))
            for path in folder.parent.iterdir()
            if path.is_dir() and path != folder
        ]
        return reckon(data, [device, *others]).problems

    assert problems("SELECT 1") == []
    assert problems(
        "INSERT INTO readings (sensor, sensor_time_ns, body) SELECT sensor, 1, body FROM readings LIMIT 1"
    ) == ["bedside-03: 1 accepted readings are in no leaf"]
    # A reading that is gone was deleted after its receipt, or it was dropped, and then its device has to say so.
    assert problems("DELETE FROM readings WHERE id = 7") == []
    assert problems("UPDATE state SET dropped = dropped + 1") == [
        "bedside-03: 1 readings on the log that it never accepted",
        "bedside-03: 1 readings were dropped, 0 are declared lost",
    ]
    assert problems("UPDATE sqlite_sequence SET seq = seq + 1") == [
        "bedside-03: 1 readings that it deleted are in no leaf"
    ]
    other = folder / "other.toml"
    other.write_text((folder / "edge.toml").read_text().replace('signal = "spo2"', 'signal = "body_temperature"'))
    (problem,) = problems("SELECT 1", config=other)
    assert problem.endswith("readings on the log that no sensor stated")


def key_of(folder):
    """The id of the device key in `folder`."""
    signer = load_key(folder / "edge.key")
    return frozenset({key_id(signer.algorithm, signer.public_key)})


@pytest.mark.timeout(240)
def test_outbox_restored(tmp_path):
    """A device whose outbox was set back is found out, told what to do, and loses nothing once that is done."""
    outcome, numbers = run("outbox-restored", tmp_path / "data", "--seconds", 2)
    assert numbers["accepted"] == numbers["in_log"] > 100
    said = "\n".join(outcome["said"])
    assert "THIS OUTBOX IS NOT THE LATEST ONE OF ITS KEY" in said
    assert "signed two headers for epoch 0" in said
    assert "the log holds the evidence" in said


@pytest.mark.timeout(240)
def test_cloned_key(tmp_path):
    """Two gateways with one key are found out; the log goes on with one, and what the other accepted is counted."""
    outcome, numbers = run("cloned-key", tmp_path / "data", "--seconds", 2)
    assert numbers["accepted"] == numbers["in_log"] > 100
    said = "\n".join(outcome["said"])
    assert "signed two headers for epoch 0" in said
    assert "the log holds the evidence" in said


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_the_simulator(tmp_path, number):
    """However it ends, so do all programs that it started."""
    data = tmp_path / "data"
    command = [sys.executable, "-m", "vitalseal", "simulate", "faults", "delivery", "--data", data]
    with (tmp_path / "out").open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as simulator:
        wait_until(lambda: any(" edge run " in line for line in programs(data).values()))
        simulator.send_signal(number)
        assert simulator.wait(30) == (130 if number == signal.SIGTERM else -number)
    wait_until(lambda: not programs(data))


def wait_until(condition):
    """`condition` holds, within half a minute."""
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)  # between two looks: a process tells nobody that it has ended


def tried(scenario, directory):
    """The outcome of a scenario that is made up here."""
    return run_scenario("made-up", scenario, directory, BOUNDS, lambda _text: None)


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


def test_scenario_that_cannot_be_run(tmp_path, monkeypatch, capsys):
    """It is named with what is missing, is not counted as run, and alone it is no success."""
    from vitalseal.cli import main

    def scenario(trial: Trial) -> None:
        """Needs the moon."""
        raise NotRunError("the moon is missing")

    monkeypatch.setitem(SCENARIOS, "made-up", scenario)
    assert main(["simulate", "faults", "made-up", "--data", str(tmp_path / "data")]) == 2
    out = capsys.readouterr().out
    assert "NOT RUN: the moon is missing" in out
    assert out.splitlines()[-1].startswith("faults: scenarios=0 ")


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
        "not_run": None,
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


def test_page_names_every_scenario():
    """`docs/faults.md` has a row for each, in their order, and for nothing else."""
    page = (Path(__file__).parents[2] / "docs" / "faults.md").read_text()
    table = page.partition("## The scenarios")[2].partition("## A full run")[0]
    assert re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE) == list(SCENARIOS)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nonsense",), "nonsense: is not a scenario; there are kills, broker-forgets, "),
        (("--seconds", "0"), "is not above 0"),
        (("--kills", "0"), "is not from 1 to"),
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
