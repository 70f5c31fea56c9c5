"""`vitalseal ledger monitor` as a program: exit codes, what it prints, servers that lie, kill -9, SIGTERM."""

import json
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from ledger.service.http_log import Patience
from ledger.service.witness_store import log_id
from tests.ledger import builders as b
from tests.service.monitoring import commitments, convicts, showing, signed_notes, write
from tests.service.servers import Scripted, answer, ok, say_for_ever, say_nothing_more
from tests.service.witnessing import wait_for
from tests.vectors import logs
from vitalseal.cli import main

METRIC = re.compile(r'vitalseal_monitor_[a-z_]+(\{[a-z]+="([^"\\]|\\.)*"\})? [0-9]+')


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "policy.txt"
    path.write_text(b.policy_text())
    return path


@contextmanager
def process(*arguments):
    """The monitor as a process, with its stdout; killed at the end if it is still there."""
    command = [sys.executable, "-m", "vitalseal", "ledger", "monitor", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def once(place, policy, *more):
    """The exit code of one round over `place`."""
    return main(["ledger", "monitor", str(place), "--policy", str(policy), "--once", *map(str, more)])


def stalled_never(state):
    """Our logs are of 2025."""
    return ["--state", state, "--stalled-after", 99_999_999]


def test_once_of_a_sound_log(tmp_path, policy, capsys):
    """Exit code 0, and where it stands; again from there when the log has grown."""
    log = write(tmp_path / "log", b.log_files(commitments(300)))
    assert once(log, policy, *stalled_never(tmp_path / "state")) == 0
    assert "followed from entry 0 on, in 1 views" in capsys.readouterr().out
    write(log, b.log_files(commitments(700)))
    assert once(log, policy, *stalled_never(tmp_path / "state")) == 0
    out = capsys.readouterr().out
    assert "followed from entry 300 on" in out
    assert f"size 700, root {b.naive_root(list(map(b.hash_entry, commitments(700)))).hex()}" in out
    assert "alarms that stand: none" in out


def test_once_with_an_alarm(tmp_path, policy, capsys):
    """Exit code 1 as long as the evidence is there, whatever is seen now; 0 when it was removed."""
    log = write(tmp_path / "log", b.log_files(commitments(5)))
    fork = write(tmp_path / "fork", b.log_files(commitments(5, "fork")))
    state = tmp_path / "state"
    assert once(log, policy, "--also", fork, "--json", *stalled_never(state)) == 1
    begin, end = map(json.loads, capsys.readouterr().out.splitlines())
    assert (begin["event"], begin["kind"], begin["subject"]) == ("begin", "split-view", str(fork))
    evidence = state / "evidence" / begin["evidence"]
    assert convicts(evidence)
    assert (end["event"], [alarm["kind"] for alarm in end["alarms"]]) == ("state", ["split-view"])
    assert once(log, policy, *stalled_never(state)) == 1
    evidence.unlink()
    assert once(log, policy, *stalled_never(state)) == 0


def test_once_of_a_log_that_cannot_be_read(tmp_path, policy, capsys):
    """Exit code 2 and one line more than the alarm."""
    with Scripted(b"") as script:
        pass
    assert once(script.url, policy, *stalled_never(tmp_path / "state")) == 2
    assert f"vitalseal: {script.url}: cannot be read:" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert once(tmp_path / "empty", policy, *stalled_never(tmp_path / "state")) == 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"log": "nowhere"}, "is neither a directory nor an http"),
        ({"--also": "nowhere"}, "is neither a directory nor an http"),
        ({"--also": "log"}, "is named twice"),
        ({"--also": "http://a b/"}, "is not the URL of a log"),
        ({"--policy": "nowhere"}, "No such file"),
        ({"--policy": "log/checkpoint"}, "policy: line"),
        ({"--trust": "policy.txt"}, "trust: line"),
        ({"--state": "policy.txt"}, "File exists"),
        ({"--metrics": ""}, "is a directory"),
        ({"--metrics": "/"}, "is a directory"),
        ({"--metrics": ".."}, "is a directory"),
        ({"--metrics": "log"}, "is a directory"),
    ],
)
def test_wrong_call(tmp_path, policy, capsys, monkeypatch, changes, says):
    """Exit code 2 and one line that names what is wrong."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "log", b.log_files(commitments(5)))
    options = {"--policy": "policy.txt", "--state": "state"} | changes
    place = options.pop("log", "log")
    assert main(["ledger", "monitor", place, "--once", *[word for pair in options.items() for word in pair]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_witness_that_the_policy_names(tmp_path, capsys):
    """A witness is asked at its URL for what it cosigned last of this log."""
    entries, fork = commitments(5), commitments(4, "fork")
    note = b.checkpoint_note(4, b.naive_root(list(map(b.hash_entry, fork))), cosigned=[(b.HOSPITAL, b.NOW)])
    log = write(tmp_path / "log", b.log_files(entries, cosigned=[(b.HOSPITAL, b.NOW)]))
    path = f"add/{log_id(b.ORIGIN)}/checkpoint"
    with showing({path: note.encode()}) as shown:
        policy = tmp_path / "policy.txt"
        policy.write_text(f"log {b.log_signer().verifier}\nwitness h {b.HOSPITAL.vkey} {shown.url}add/\nquorum h\n")
        assert once(log, policy, *stalled_never(tmp_path / "state")) == 1
    assert shown.asked == [path]
    assert f"split-view ({shown.url}add)" in capsys.readouterr().out


def test_policy_of_several_logs(tmp_path, capsys):
    """The log that is followed is the one whose checkpoint is there."""
    log = write(tmp_path / "log", b.log_files(commitments(5)))
    policy = tmp_path / "policy.txt"
    policy.write_text(f"log {b.log_signer('other.example.org', 'other').verifier}\n{b.policy_text()}")
    assert once(log, policy, *stalled_never(tmp_path / "state")) == 0
    (log / "checkpoint").unlink()
    assert once(log, policy, *stalled_never(tmp_path / "state")) == 2
    assert "the policy names several logs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\x00" * 1000,
        answer("200 OK"),
        answer("500 Internal Server Error"),
        answer("301 Moved", "Location: /checkpoint"),
        answer("200 OK", "Content-Encoding: gzip") + b"?",
        ok(b"?" * 1000),
        ok(b"\n\n\xe2\x80\x94 x AAAA\n"),
        ok(b"\xff" * 300_000),
        say_for_ever(answer("200 OK"), b"x" * 65536),
        say_for_ever(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000),
        say_nothing_more(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
    ],
)
def test_hostile_servers(tmp_path, policy, monkeypatch, reply):
    """Whatever a mirror or the log itself answers, the round comes to its end, and the sound one is followed."""
    monkeypatch.setattr("ledger.service.monitor_views.PATIENCE", Patience(timeout_s=0.2, attempts=1))
    log = write(tmp_path / "log", b.log_files(commitments(5)))
    with Scripted(reply) as script:
        assert once(log, policy, "--also", script.url, *stalled_never(tmp_path / "state")) == 1
        assert once(script.url, policy, "--also", log, *stalled_never(tmp_path / "other")) in (1, 2)
    assert once(log, policy, *stalled_never(tmp_path / "state")) == 0


def test_server_whose_tiles_are_hostile(tmp_path, policy):
    """A sound checkpoint with garbage behind it is broken, and nothing else happens."""
    files = b.log_files(commitments(700))
    for wrong in (b"", b"?", bytes(9000), b"\xff" * 20_000_000):
        with showing({path: files[path] if path == "checkpoint" else wrong for path in files}) as shown:
            assert once(shown.url, policy, *stalled_never(tmp_path / "state")) in (1, 2)
            shown.files = files
            assert once(shown.url, policy, *stalled_never(tmp_path / "state")) == 0
        (tmp_path / "state" / "state.json").unlink()


@pytest.mark.parametrize("held", ["tile/entries/020", "tile/0/011", "tile/entries/039.p/16"])
def test_killed_in_the_middle_of_catching_up(tmp_path, policy, held):
    """After kill -9 it goes on where it was saved last, and comes to the same end as one that was never killed."""
    files = b.log_files(commitments(10_000))
    state = tmp_path / "state"
    with showing(files) as shown:
        shown.held.add(held)
        with process(shown.url, "--policy", policy, *stalled_never(state)) as monitor:
            wait_for(lambda: held in shown.asked and (state / "state.json").exists())
            monitor.kill()
            monitor.wait()
        shown.release()
        saved = json.loads(json.loads(json.loads((state / "state.json").read_text())["entries"])["log"])["size"]
        assert 0 < saved < 10_000
        shown.asked.clear()
        assert once(shown.url, policy, *stalled_never(state)) == 0
        before = [f"tile/entries/{number:03d}" for number in range(saved // 256)]
        assert not set(before) & set(shown.asked)
    assert once(write(tmp_path / "log", files), policy, *stalled_never(tmp_path / "other")) == 0
    ends = [json.loads((tmp_path / name / "state.json").read_text()) for name in ("state", "other")]
    logs_at = [json.loads(json.loads(end["entries"])["log"]) for end in ends]
    assert logs_at[0] == logs_at[1]


def test_runs_until_it_is_asked_to_stop(tmp_path, policy):
    """Rounds go on by themselves, alarms begin and end on stdout, and SIGTERM is exit code 0."""
    metrics = tmp_path / "monitor.prom"
    with showing(b.log_files(commitments(5))) as shown:
        options = ["--interval", "0.05", "--json", "--metrics", metrics, *stalled_never(tmp_path / "state")]
        with process(shown.url, "--policy", policy, *options) as monitor:
            wait_for(lambda: metrics.exists() and "followed_entries 5\n" in metrics.read_text())
            shown.files = b.log_files([*commitments(5), logs.B0])
            begun = json.loads(monitor.stdout.readline())
            assert (begun["event"], begun["kind"]) == ("begin", "signature")
            shown.files = {}
            assert json.loads(monitor.stdout.readline())["kind"] == "unreachable"
            shown.files = b.log_files([*commitments(5), logs.B0, *commitments(3)])
            assert json.loads(monitor.stdout.readline())["event"] == "end"
            wait_for(lambda: "followed_entries 9\n" in metrics.read_text())
            monitor.send_signal(signal.SIGTERM)
            assert monitor.wait(timeout=20) == 0
            assert monitor.stdout.read() == ""
            assert "Traceback" not in monitor.stderr.read()


def test_stopped_while_the_log_hangs(tmp_path, policy):
    """SIGTERM in the middle of a read ends it when the read is over; a second one at once."""
    with showing(b.log_files(commitments(600))) as shown:
        shown.held.add("tile/entries/001")
        with process(shown.url, "--policy", policy, *stalled_never(tmp_path / "state")) as monitor:
            wait_for(lambda: "tile/entries/001" in shown.asked)
            monitor.send_signal(signal.SIGTERM)
            shown.release()
            assert monitor.wait(timeout=20) == 0


def test_metrics_are_well_formed(tmp_path, policy):
    """Every line is a type or a sample; alarms are there when they stand and at zero when they do not."""
    fork = write(tmp_path / 'fo"rk', b.log_files(commitments(5, "fork")))
    log = write(tmp_path / "log", b.log_files(commitments(5)))
    metrics = tmp_path / "monitor.prom"
    once(log, policy, "--also", fork, "--metrics", metrics, *stalled_never(tmp_path / "state"))
    lines = metrics.read_text().splitlines()
    samples = [line for line in lines if not line.startswith("# TYPE vitalseal_monitor_")]
    assert [line for line in samples if not METRIC.fullmatch(line)] == []
    assert 'vitalseal_monitor_alarms{kind="split-view"} 1' in samples
    assert 'vitalseal_monitor_alarms{kind="stalled"} 0' in samples
    assert f'vitalseal_monitor_view_entries{{view="{tmp_path}/fo\\"rk"}} 5' in samples
    assert "vitalseal_monitor_followed_entries 5" in samples
    assert {line.split(" ")[3] for line in lines if line.startswith("# TYPE")} == {"gauge", "counter"}


def test_help_says_what_monitors_check_that_witnesses_do_not(capsys):
    """Whoever asks what it is for learns that a cosignature says nothing about entries."""
    with pytest.raises(SystemExit):
        main(["ledger", "monitor", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "A monitor checks what witnesses do not" in told
    assert "roots over all keys' states are recomputed by monitors and by `fsck` alone" in told


def test_evidence_is_by_the_log_alone(tmp_path, policy):
    """The file holds notes, proofs and public entries, and verifies with the policy's log key."""
    log = write(tmp_path / "log", b.log_files([logs.B0]))
    assert once(log, policy, *stalled_never(tmp_path / "state")) == 1
    (path,) = (tmp_path / "state" / "evidence").iterdir()
    assert len(signed_notes(path.read_text())) == 1
