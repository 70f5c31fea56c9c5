"""`vitalseal ledger witness`: from an empty directory to a witness that runs, reloads, rotates its keys and stops."""

import http.client
import json
import resource
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ledger.note import ML_DSA_44, parse_vkey
from ledger.policy import parse_policy
from ledger.service.witness_keys import create_witness
from tests.service.servers import make_certificate
from tests.service.witnessing import NAME, Client, Log, cosigned_at, own_keys, wait_for
from vitalseal.cli import main

URL = "https://w1.example"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    create_witness(tmp_path / "w", NAME, URL)
    return tmp_path / "w"


class Run:
    """`vitalseal ledger witness run` as a process; its stderr is in a file."""

    def __init__(self, data: Path, logs: Path, *options: object) -> None:
        command = [sys.executable, "-m", "vitalseal", "ledger", "witness", "run", "--data", data, "--logs", logs]
        self._errors = data / "stderr"
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [*map(str, command), "--port", "0", *map(str, options)],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.line = self.process.stdout.readline()
        assert self.line, self.said()
        self.url = self.line.split()[-1]

    def said(self) -> str:
        """What it has logged."""
        return self._errors.read_text()

    def ask(self, request: bytes) -> tuple[int, str]:
        """Status and body of an answer."""
        with Client(self.url) as client:
            return client.request("POST", "add-checkpoint", request)[::2]


@contextmanager
def running(*arguments: object) -> Iterator[Run]:
    """A witness that runs until the context is left."""
    run = Run(*arguments)
    try:
        yield run
    finally:
        run.process.kill()
        run.process.communicate()


def known(path: Path, *logs: Log) -> Path:
    """A file that names `logs`."""
    path.write_text("# logs to witness\n" + "".join(f"log {key}\n" for log in logs for key in log.vkeys))
    return path


def call(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    code = main(["ledger", "witness", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_init_makes_private_keys_and_the_lines_that_log_operators_paste(tmp_path, capsys):
    """The lines are a policy's, each key of its own type, nested as the hint says."""
    data = tmp_path / "new" / "w"
    code, out, err = call(capsys, "init", "--data", data, "--name", NAME, "--url", URL)
    assert (code, err) == (0, "")
    modes = {str(path.relative_to(data)): path.stat().st_mode & 0o777 for path in (data, *data.rglob("*"))}
    assert modes == {
        ".": 0o700,
        "keys": 0o700,
        "keys/ed25519.key": 0o600,
        "keys/ml-dsa-44.key": 0o600,
        "witness.db": 0o600,
        "witness.txt": 0o644,
    }
    lines = (data / "witness.txt").read_text()
    assert lines in out
    group = next(line.strip() for line in out.splitlines() if line.strip().startswith("group"))
    policy = parse_policy(f"{lines}{group}\nquorum NAME\n".encode())
    assert [(witness.name, witness.key.type, witness.url) for witness in policy.witnesses] == [
        ("w1-ed25519", 4, URL),
        ("w1-ml-dsa-44", 6, URL),
    ]


def test_init_overwrites_nothing(data, capsys):
    """A second one changes no byte."""
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    code, out, err = call(capsys, "init", "--data", data, "--name", NAME)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "words", [("--name", "two words"), ("--name", "w" * 256), ("--name", "w", "--url", "ftp://w"), ("--name", "")]
)
def test_name_or_url_that_cannot_stand_in_a_policy_is_refused(tmp_path, capsys, words):
    """One line, and nothing is made."""
    code, out, err = call(capsys, "init", "--data", tmp_path / "w", *words)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert not (tmp_path / "w").exists()


def test_run_answers_status_tells_and_sigterm_ends(data, tmp_path, capsys):
    """The way of the docs: run, a log asks, status shows it beside the running witness, SIGTERM exits 0."""
    log = Log()
    with running(data, known(tmp_path / "logs", log)) as run:
        assert run.line == f"witness {NAME} of 1 logs at {run.url}\n"
        status, lines = run.ask(log.body(0, 5))
        assert status == 200
        times = cosigned_at(lines, own_keys(data), log, 5)
        code, out, _ = call(capsys, "status", "--data", data, "--json")
        assert code == 0
        assert json.loads(out) == {
            "name": NAME,
            "url": URL,
            "keys": [str(key) for key in own_keys(data)],
            "logs": [{"origin": log.origin, "size": 5, "root": log.root(5).hex(), "time": times[0]}],
        }
        assert f"{log.origin}: size 5, cosigned 20" in call(capsys, "status", "--data", data)[1]
        run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(20) == 0
        assert run.said() == ""


def test_ctrl_c_exits_0(data, tmp_path):
    """Ending a witness is no failure."""
    with running(data, known(tmp_path / "logs", Log())) as run:
        run.process.send_signal(signal.SIGINT)
        assert run.process.wait(20) == 0


def test_second_run_on_one_directory_is_refused(data, tmp_path, capsys):
    """While one runs, neither another nor add-key may write."""
    logs = known(tmp_path / "logs", Log())
    with running(data, logs):
        for words in (("run", "--data", data, "--logs", logs), ("add-key", "--data", data, "--type", "ed25519")):
            code, _, err = call(capsys, *words)
            assert (code, len(err.splitlines())) == (2, 1)
            assert "another process" in err


def test_hangup_reads_the_lists_again_and_a_wrong_one_changes_nothing(data, tmp_path):
    """A log is known from the next request on; after a bad file the old ones are, and the file is named."""
    first, second = Log("log.example/a"), Log("log.example/b")
    logs = known(tmp_path / "logs", first)
    with running(data, logs) as run:
        assert run.ask(second.body(0, 5))[0] == 404
        known(logs, first, second)
        run.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "2 logs are known now" in run.said())
        assert run.ask(second.body(0, 5))[0] == 200
        logs.write_text("nonsense\n")
        run.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "the logs stay as they were" in run.said())
        assert f"{logs}: policy: line 1" in run.said()
        assert run.ask(second.body(5, 9))[0] == 200
        assert run.ask(first.body(0, 5))[0] == 200


def test_tls_is_served_directly(data, tmp_path):
    """The printed URL is https, and the certificate is the one that was named."""
    log, tls = Log(), make_certificate(tmp_path)
    options = ("--tls-cert", tls["tls_cert"], "--tls-key", tls["tls_key"])
    with running(data, known(tmp_path / "logs", log), *options) as run:
        assert run.url.startswith("https://")
        context = ssl.create_default_context(cafile=tls["tls_cert"])
        connection = http.client.HTTPSConnection(urlsplit(run.url).netloc, context=context, timeout=20)
        connection.request("POST", "/add-checkpoint", log.body(0, 5))
        with connection.getresponse() as answer:
            assert cosigned_at(answer.read().decode(), own_keys(data), log, 5)
        connection.close()


def test_rate_is_an_option(data, tmp_path):
    """One step in a thousand seconds: the second is told to wait."""
    log = Log()
    with running(data, known(tmp_path / "logs", log), "--rate", "0.001") as run:
        assert [run.ask(log.body(old, old + 1))[0] for old in (0, 1)] == [200, 429]


def test_disk_that_refuses_a_write_ends_the_witness_with_exit_2(data, tmp_path):
    """No cosignature for that request, one line, and the state before it after a restart."""
    log = Log()
    logs = known(tmp_path / "logs", log)
    with running(data, logs) as run:
        assert run.ask(log.body(0, 5))[0] == 200
        # No file of the process may grow: what a full disk does, made by the kernel.
        resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        status, answer = run.ask(log.body(5, 9))
        assert (status, "\u2014" in answer) == (500, False)
        assert run.process.wait(20) == 2
    with running(data, logs) as run:
        assert run.ask(log.body(0, 9)) == (409, "5\n")
        assert run.ask(log.body(5, 9))[0] == 200


def test_keys_are_rotated_by_adding_one_and_removing_another(data, tmp_path, capsys):
    """All keys sign from the next start on; the new line names the new key, which old policies ignore."""
    log = Log()
    logs = known(tmp_path / "logs", log)
    before = own_keys(data)
    with running(data, logs) as run:
        assert run.ask(log.body(0, 5))[0] == 200
        run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(20) == 0
    code, out, _ = call(capsys, "add-key", "--data", data, "--type", "ml-dsa-44")
    assert code == 0
    new = parse_vkey(out.split(" ")[2])
    assert (new.name, new.type) == (NAME, ML_DSA_44)
    assert own_keys(data) == [*before, new]
    assert parse_policy((data / "witness.txt").read_bytes() + b"quorum none\n").witnesses[2].url == URL
    (data / "keys" / "ed25519.key").unlink()
    with running(data, logs) as run:
        status, lines = run.ask(log.body(5, 9))
        assert status == 200
        assert len(cosigned_at(lines, [before[1], new], log, 9)) == 2


def test_run_refuses_what_could_sign_a_second_history(data, tmp_path, capsys):
    """Keys without their database, a key of another witness, the same key twice, none, one that others may read."""
    logs = known(tmp_path / "logs", Log())

    def refused(where: Path) -> str:
        code, out, err = call(capsys, "run", "--data", where, "--logs", logs)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        return err

    shutil.copytree(data, tmp_path / "copy", ignore=shutil.ignore_patterns("witness.db*"))
    assert "no witness's database" in refused(tmp_path / "copy")
    create_witness(tmp_path / "other", NAME, None)
    shutil.copy2(data / "keys" / "ed25519.key", tmp_path / "other" / "keys" / "old.key")
    assert "old.key" in refused(tmp_path / "other")
    shutil.copy2(data / "keys" / "ed25519.key", data / "keys" / "again.key")
    assert "twice" in refused(data)
    (data / "keys" / "again.key").chmod(0o644)
    assert "chmod 600" in refused(data)
    shutil.rmtree(data / "keys")
    assert "0 files" in refused(data)
    assert "no witness's database" in refused(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--rate", "0"), "above 0"),
        (("--rate", "nan"), "above 0"),
        (("--stranger-rate", "many"), "above 0"),
    ],
)
def test_rate_that_is_none_is_refused(data, capsys, options, says):
    """The call is wrong, in one line."""
    with pytest.raises(SystemExit):
        call(capsys, "run", "--data", data, "--logs", "x", *options)
    assert says in capsys.readouterr().err


def test_missing_list_port_or_certificate_is_one_line(data, tmp_path, capsys):
    """What cannot be read or bound is named."""
    logs = known(tmp_path / "logs", Log())
    empty = tmp_path / "empty"
    empty.write_text("# none\n")
    for words, says in (
        (("--logs", tmp_path / "none"), "No such file"),
        (("--logs", empty), "no log is named"),
        (("--logs", logs, "--port", "70000"), "port 70000"),
        (("--logs", logs, "--tls-cert", logs), "key"),
    ):
        code, out, err = call(capsys, "run", "--data", data, *words)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert says in err


def test_missing_library_is_named_with_its_extra(data, tmp_path, capsys, monkeypatch):
    """Only `run` needs it; init and status are the bare install's."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "ledger.service.http", raising=False)
    code, _, err = call(capsys, "run", "--data", data, "--logs", known(tmp_path / "logs", Log()))
    assert code == 2
    assert err.endswith("needs uvicorn: in vitalseal's clone, type  pip install '.[witness]'\n")
    assert call(capsys, "status", "--data", data)[0] == 0
