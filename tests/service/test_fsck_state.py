"""`vitalseal ledger fsck --state`: a check that is stopped and goes on, and says what it did not look at again."""

import json
import signal
import subprocess
import sys

import pytest

from tests.ledger import builders as b
from tests.ledger import past as p
from tests.service.monitoring import commitments, showing, write
from tests.service.witnessing import wait_for
from tests.vectors import logs
from vitalseal.cli import main

TRUST = f"{b.NoteSigner('registrar.example.org', b.seed('registrar')).verifier}\n"


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "policy.txt"
    path.write_text(b.policy_text())
    return path


@pytest.fixture
def check(tmp_path, policy):
    """Checks the log at a place with the state in tmp_path/state; the exit code."""

    def call(place, *more):
        words = ["ledger", "fsck", place, "--policy", policy, "--state", tmp_path / "state", *more]
        return main([str(word) for word in words])

    return call


def at(path):
    """The size that a state file has come to."""
    return json.loads(json.loads(path.read_text())["log"])["size"]


def test_check_that_goes_on(tmp_path, check, capsys):
    """The second run begins where the first ended, reads nothing before it, and says so."""
    log = write(tmp_path / "log", b.log_files([logs.ENROL, logs.B0, *commitments(598)]))
    assert check(log) == 0
    assert "were checked by an earlier run" not in capsys.readouterr().out
    assert at(tmp_path / "state") == 600
    write(log, b.log_files([logs.ENROL, logs.B0, *commitments(598), logs.B1, *commitments(299, "more")]))
    for path in ("tile/entries/000", "tile/entries/001", "tile/0/000", "tile/0/001"):
        (log / path).write_bytes(b"nobody reads this")
    assert check(log) == 0
    out = capsys.readouterr().out
    assert f"{b.ORIGIN}: goes on at entry 600 of {tmp_path / 'state'}" in out
    assert "entries before 600 and their tiles were checked by an earlier run, and not again" in out
    assert "1 enrolments" in out
    assert "897 commitments" in out
    assert "2 batches" in out


def test_check_that_goes_on_finds_what_comes_after(tmp_path, check, capsys):
    """A fault behind the state is found in each run, and a history that changed before it does not fit the root."""
    log = write(tmp_path / "log", b.log_files(commitments(600)))
    assert check(log) == 0
    write(log, b.log_files([*commitments(600), logs.B0, *commitments(300)]))
    for _ in range(2):
        assert check(log) == 1
        assert "entry 600: batch by key" in capsys.readouterr().err
    write(log, b.log_files(commitments(900, "fork", shared=100)))
    assert check(log) == 1
    assert f"(entries before 600 are as {tmp_path / 'state'} has them)" in capsys.readouterr().err


@pytest.mark.parametrize("size", [150, 256, 300])
def test_check_that_goes_on_in_a_bundle_that_was_made_anew(tmp_path, check, capsys, size):
    """A bundle that became wider is another file: its entries from before the state are held against it."""
    entries = commitments(size)
    log = write(tmp_path / "log", b.log_files(entries[:100]))
    assert check(log) == 0
    forged = b.tile_files([*entries[:7], logs.B0, *entries[8:]])
    sound = b.log_files(entries)
    bundle = next(path for path in sound if path.startswith("tile/entries/000"))
    write(log, sound | {bundle: forged[bundle]})
    assert check(log) == 1
    assert "entry 7: " in capsys.readouterr().err
    write(log, sound)
    assert check(log) == 0


def test_check_that_goes_on_remembers_what_was_reported(tmp_path, check, capsys):
    """Notices are those of the whole log."""
    entries = [logs.ENROL, p.revocation(logs.OLD, (0, 0)), *commitments(300)]
    log = write(tmp_path / "log", b.log_files(entries))
    assert check(log) == 0
    write(log, b.log_files([*entries, *commitments(300, "more")]))
    assert check(log) == 0
    assert capsys.readouterr().out.count("reported: 1 revoked") == 2


def test_check_of_a_log_that_shrank(tmp_path, check, capsys):
    """A log that is shorter than what was checked is refused."""
    log = write(tmp_path / "log", b.log_files(commitments(600)))
    assert check(log) == 0
    write(log, b.log_files(commitments(500)))
    assert check(log) == 1
    assert "the log shrank from size 600" in capsys.readouterr().err


def test_state_that_does_not_belong(tmp_path, check, policy, capsys):
    """Another log's, another version's, another --trust's or no state at all is one line and exit code 2."""
    state = tmp_path / "state"
    log = write(tmp_path / "log", b.log_files(commitments(5)))
    other = write(tmp_path / "other", b.tile_files(commitments(5)))
    note = b.checkpoint_note(5, b.naive_root(list(map(b.hash_entry, commitments(5)))), origin="other.example.org")
    (other / "checkpoint").write_bytes(note.encode())
    assert check(log) == 0
    good = state.read_text()
    capsys.readouterr()
    policy.write_text(f"log {b.log_signer('other.example.org').verifier}\nquorum none\n")
    refused(check(other), capsys, f"is a state of the log {b.ORIGIN}, this is other.example.org")
    policy.write_text(b.policy_text())
    (tmp_path / "trust.txt").write_text(TRUST)
    refused(check(log, "--trust", tmp_path / "trust.txt"), capsys, "was made under another --trust")
    for wrong, says in (
        (good.replace('"fsck": 1', '"fsck": 2'), "version 2"),
        (good[:-1], "is not a state"),
        ("{}", "is not a state"),
        (good.replace('"notices": {}', '"notices": {"gap": 1e400}'), "is not a state"),
        (good.replace('\\"size\\": 5', '\\"size\\": 1e400'), "saved state"),
        ("[" * 100_000, "is not a state"),
        (good.replace('\\"size\\": 5', '\\"size\\": 6'), "saved state"),
    ):
        state.write_text(wrong)
        refused(check(log), capsys, says)
        assert state.read_text() == wrong
    state.write_text(good)
    assert check(log) == 0


def refused(code, capsys, says):
    """Exit code 2, and one line that `says` why."""
    captured = capsys.readouterr()
    assert (code, captured.out, captured.err.count("\n")) == (2, "", 1)
    assert says in captured.err


def test_state_where_no_directory_is(tmp_path, policy, capsys):
    """Found out before hours of work, not after."""
    log = write(tmp_path / "log", b.log_files(commitments(5)))
    words = ["ledger", "fsck", log, "--policy", policy, "--state", tmp_path / "nowhere" / "state"]
    refused(main([str(word) for word in words]), capsys, "there is no such directory")


def test_left_over_partial_tiles_before_the_state(tmp_path, check, capsys):
    """Old partial tiles of what was checked are neither read again nor taken for tiles ahead."""
    log = write(tmp_path / "log", b.log_files(commitments(700)))
    write(log, b.tile_files(commitments(200)))
    assert check(log) == 0
    write(log, b.log_files(commitments(900)))
    capsys.readouterr()
    assert check(log) == 0
    assert "ahead" not in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_check_that_is_interrupted(tmp_path, policy, check, capsys, number):
    """Stopped, it has saved where it is; killed, where it was a moment ago; and the next run ends all the same."""
    files = b.log_files(commitments(10_000))
    state = tmp_path / "state"
    with showing(files) as shown:
        shown.held.add("tile/entries/020")
        command = ["ledger", "fsck", shown.url, "--policy", policy, "--state", state]
        with subprocess.Popen(
            [sys.executable, "-m", "vitalseal", *map(str, command)], stderr=subprocess.PIPE, text=True
        ) as running:
            wait_for(lambda: "tile/entries/020" in shown.asked and state.exists())
            running.send_signal(number)
            if number == signal.SIGKILL:
                running.wait()
            shown.release()
            code, err = running.wait(timeout=30), running.stderr.read()
        saved = at(state)
        assert 0 < saved < 10_000
        if number == signal.SIGKILL:
            assert code == -signal.SIGKILL
        else:
            assert code == 130
            assert f"stopped; goes on at entry {saved}" in err
        shown.asked.clear()
        assert check(shown.url) == 0
        assert not {f"tile/entries/{index:03d}" for index in range(saved // 256)} & set(shown.asked)
    assert "10000 commitments" in capsys.readouterr().out


def test_check_that_an_error_interrupts(tmp_path, check, capsys):
    """What was checked before something was missing is not checked again."""
    files = b.log_files(commitments(2_000))
    log = write(tmp_path / "log", files)
    (log / "tile/entries/005").unlink()
    assert check(log) == 1
    assert at(tmp_path / "state") == 5 * 256
    write(log, files)
    assert check(log) == 0
    assert "goes on at entry 1280" in capsys.readouterr().out
