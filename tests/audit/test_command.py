"""`vitalseal audit`: how it is called, what it says, and with which exit code it ends."""

import copy
import html.parser
import json
import re
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from aggregator.timeseries.embedded import EmbeddedStore
from ledger.note import NoteSigner
from ledger.policy import parse_policy
from ledger.verify import verify_proof
from simulators.broker import free_port
from tests.ledger.builders import device, two_of_three
from tests.writer.written import Written
from vitalseal.cli import main

from .scene import project, readings

LAST = re.compile(r"audit: checked=(\d+) ok=(\d+) missing=(\d+) changed=(\d+) extra=(\d+) moved=(\d+)")


class Command:
    """The command on one scene, and what it printed."""

    def __init__(self, scene, capsys):
        self.data = scene.data
        self._capsys = capsys

    @property
    def whole(self):
        return ["--data", str(self.data)]

    @property
    def alone(self):
        return [
            "--database",
            str(self.data / "readings.db"),
            "--log",
            str(self.data / "log"),
            "--policy",
            str(self.data / "policy.txt"),
        ]

    def __call__(self, *words):
        """The exit code and the counts of the last line."""
        code = main(["audit", *map(str, words)])
        self.out, self.err = self._capsys.readouterr()
        match = LAST.fullmatch(self.out.splitlines()[-1]) if self.out else None
        return code, tuple(map(int, match.groups())) if match else None

    def report(self, *words):
        """The exit code and the object of --json."""
        code = main(["audit", *map(str, words), "--json"])
        self.out, self.err = self._capsys.readouterr()
        return code, json.loads(self.out)

    def do(self, query, *values):
        """SQL on the database."""
        with closing(sqlite3.connect(self.data / "readings.db", isolation_level=None)) as db:
            assert db.execute(query, values).rowcount


@pytest.fixture
def command(scene, capsys):
    return Command(scene, capsys)


@pytest.fixture
def grow(scene):
    """Puts one more batch of each device on the log, published and in the database."""

    def more():
        past = scene.past = copy.deepcopy(scene.past)
        with Written(scene.data, past) as log:
            for at, name in enumerate(("wrist-1", "wrist-2")):
                past.seal(*readings(5, at), signer=device(name))
            log.publish()
        with EmbeddedStore(scene.data) as store:
            project(scene.data, store)

    return more


@pytest.mark.parametrize("way", ["whole", "alone"])
def test_untouched_database_is_proven(way, command):
    """All rows are counted: readings, batch records, checkpoint records."""
    assert command(*getattr(command, way)) == (0, (162, 162, 0, 0, 0, 0))
    assert command.err == ""
    assert command.out.splitlines()[0] == "AS LOGGED: all of 162 rows are as the log says."
    code, report = command.report(*getattr(command, way))
    assert (code, report["result"], report["findings"]) == (0, "proven", [])
    assert report["rows"] == {"batch record": 13, "checkpoint record": 5, "reading": 144}


def test_configuration_names_the_store(command, scene):
    """--config is the data directory with the store that it names."""
    config = scene.data.parent / "aggregator.toml"
    config.write_text(f'data = "{scene.data}"\n')
    assert command("--config", config)[0] == 0


def test_finding_says_what_and_where(command):
    """A changed value is named with device, kind, time and both values; nothing of it is in the error stream."""
    command.do("UPDATE readings SET value = 199.5 WHERE ref = 4 * 4096 + 1")
    assert command(*command.whole) == (1, (162, 161, 0, 1, 0, 0))
    verdict = "NOT AS LOGGED: 1 of 162 rows, there or missing, is not as the log says: 1 changed."
    assert command.out.splitlines()[0] == verdict
    [line] = [line for line in command.out.splitlines() if "CHANGED" in line]
    for part in (
        "reading 16385 (entry 4, leaf 1)",
        "wrist-1 heart_rate at 2025-06-15T14:06:40Z",
        "199.5 where the device's signed reading says 60 /min",
    ):
        assert part in line
    _, report = command.report(*command.whole)
    [finding] = report["findings"]
    assert (finding["what"], finding["number"], finding["device"]) == ("changed", 16385, "wrist-1")
    assert command.err == ""


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "name what to audit"),
        (("--data", "{data}", "--log", "x"), "--data has its own log"),
        (("--data", "{data}", "--bucket", "x"), "--influx-url"),
        (("--data", "{data}/nowhere"), "is not there"),
        (("--database", "{data}/readings.db"), "--log and --policy"),
        (("--database", "{data}/nowhere", "--log", "x", "--policy", "y"), "is not there"),
        (("--database", "{data}/readings.db", "--influx-url", "http://x"), "audit one at a time"),
        (("--influx-url", "x", "--log", "y", "--policy", "z"), "http://"),
        (("--config", "{data}/a.toml", "--data", "{data}"), "--config says that"),
        (("--config", "{data}/a.toml"), "no such configuration"),
        (("--data", "{data}", "--html", "{data}/no/where.html"), "no such directory"),
        (("--data", "{data}", "--policy", "{data}/nowhere"), "No such file"),
        (("--data", "{data}", "--policy", "{data}/readings.db"), "policy"),
        (("--data", "{data}", "--trust", "{data}/policy.txt"), "trust"),
        (("--data", "{data}/log"), "policy.txt"),
        (
            ("--database", "{data}/readings.db", "--log", "{data}/no", "--policy", "{data}/policy.txt"),
            "neither a directory nor",
        ),
    ],
)
def test_wrong_call_is_one_line(words, why, command):
    """What, where, what to do; exit code 2."""
    assert command(*(word.format(data=command.data) for word in words)) == (2, None)
    assert why in command.err
    assert len(command.err.splitlines()) == 1


def test_store_that_is_away_is_one_line(command):
    """An InfluxDB that does not answer is no finding."""
    words = ["--influx-url", f"http://127.0.0.1:{free_port()}", *command.alone[2:]]
    assert command(*words) == (2, None)
    assert len(command.err.splitlines()) == 1


def test_garbage_for_a_database_is_one_line(command):
    """So is a file that is no database."""
    (command.data / "readings.db").write_bytes(b"garbage" * 1000)
    assert command(*command.whole) == (2, None)
    assert len(command.err.splitlines()) == 1


def test_policy_of_another_log_proves_nothing(command, tmp_path):
    """The log is judged first; no row is looked at that nothing vouches for."""
    policy = tmp_path / "policy.txt"
    policy.write_text(two_of_three())
    page = tmp_path / "report.html"
    assert command(*command.whole, "--policy", policy, "--html", page) == (1, (0, 0, 0, 0, 0, 0))
    assert "THE LOG IS NOT SOUND" in command.out
    assert "THE LOG IS NOT SOUND" in page.read_text()
    code, report = command.report(*command.whole, "--policy", policy)
    assert (code, report["log"], report["findings"]) == (1, None, [])


def test_registrar_whom_nobody_trusts_enrols_nobody(command, tmp_path):
    """Whose enrolments count is said by --trust: under another, the log's own first entry is no enrolment."""
    trust = tmp_path / "trust.txt"
    trust.write_text(f"{NoteSigner('stranger.example', bytes(32)).verifier}\n")
    assert command(*command.whole, "--trust", trust) == (1, (0, 0, 0, 0, 0, 0))
    assert command(*command.alone, "--trust", trust) == (1, (0, 0, 0, 0, 0, 0))
    assert "a registrar that is not trusted" in command.out


def test_damaged_log_is_the_finding(command):
    """A tile that does not follow from the entries: rows would be held against nothing."""
    [tile] = (command.data / "log" / "tile" / "0").rglob("*.p/21")
    data = bytearray(tile.read_bytes())
    data[40] ^= 1
    tile.write_bytes(data)
    assert command(*command.whole) == (1, (0, 0, 0, 0, 0, 0))


def test_log_behind_a_url(command):
    """A database alone is held against a log wherever that is published."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=command.data / "log")) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            words = [*command.alone[:2], "--log", f"http://127.0.0.1:{server.server_port}/", *command.alone[4:]]
            assert command(*words) == (0, (162, 162, 0, 0, 0, 0))
        finally:
            server.shutdown()
            thread.join()


def test_incremental_audit_begins_where_the_last_ended(command, grow):
    """It says that older rows were not looked at; a full one looks at them."""
    assert command(*command.whole, "--incremental") == (0, (162, 162, 0, 0, 0, 0))
    grow()
    command.do("UPDATE readings SET value = 1 WHERE ref = 4 * 4096 + 1")
    assert command(*command.whole, "--incremental") == (0, (27, 27, 0, 0, 0, 0))
    assert "entries before 21: an earlier audit passed there, and THEIR ROWS WERE NOT LOOKED AT AGAIN" in command.out
    verdict = (
        "AS LOGGED, OF WHAT IS NEW: all of 27 rows of 2 new entries are as the log says. Older rows were not looked at."
    )
    assert command.out.splitlines()[0] == verdict
    assert json.loads((command.data / "audit-state.json").read_text())["size"] == 23
    assert command(*command.whole, "--incremental") == (0, (0, 0, 0, 0, 0, 0))
    assert command.out.startswith("NOTHING NEW: ")


def test_incremental_audit_begins_again_after_a_whole_one_found_something(command):
    """Nothing that was found is passed over; a state of another database is not this one's."""
    state = command.data / "audit-state.json"
    assert command(*command.whole, "--incremental")[0] == 0
    command.do("UPDATE readings SET value = 1 WHERE ref = 4 * 4096 + 1")
    assert command(*command.whole, "--incremental")[0] == 0
    kept = json.loads(state.read_text())
    state.write_text(json.dumps(kept | {"store": "SQLite, other.db"}))
    assert command(*command.whole)[0] == 1
    assert state.exists()
    state.write_text(json.dumps(kept))
    assert command(*command.whole)[0] == 1
    assert not state.exists()
    for _ in range(2):
        assert command(*command.whole, "--incremental") == (1, (162, 161, 0, 1, 0, 0))


def test_incremental_audit_that_fails_is_not_remembered(command, grow):
    """What was found is found again until it is mended."""
    assert command(*command.whole, "--incremental")[0] == 0
    grow()
    command.do("DELETE FROM readings WHERE ref = 22 * 4096 + 1")
    for _ in range(2):
        assert command(*command.whole, "--incremental") == (1, (27, 26, 1, 0, 0, 0))


@pytest.mark.parametrize(
    ("field", "value", "code", "why"),
    [
        ("root", "00" * 32, 1, "A SPLIT VIEW"),
        ("size", 22, 1, "the log shrank"),
        ("origin", "other.example/log", 2, "is of an audit of"),
        ("store", "SQLite, other.db", 2, "is of an audit of"),
        ("keys", "", 2, "another policy"),
        ("version", 2, 2, "is no state"),
        ("size", "x", 2, "is no state"),
        ("size", 21.0, 2, "is no state"),
    ],
)
def test_incremental_audit_goes_on_from_its_own_state_only(field, value, code, why, command):
    """A state of something else is refused; a log that does not go on from it is the finding."""
    assert command(*command.whole, "--incremental")[0] == 0
    path = command.data / "audit-state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    assert command(*command.whole, "--incremental")[0] == code
    assert why in command.out + command.err


def test_database_alone_is_remembered_where_it_is_told(command, tmp_path):
    """Without a directory of its own, an incremental audit has to be told where."""
    assert command(*command.alone, "--incremental") == (2, None)
    for checked in (162, 0):
        words = [*command.alone, "--incremental", "--state", tmp_path / "state.json"]
        assert command(*words) == (0, (checked, checked, 0, 0, 0, 0))


@pytest.mark.parametrize("way", ["whole", "alone"])
def test_until_leaves_out_what_comes_later(way, command):
    """Neither is it missing, nor extra, nor looked at; and that is said."""
    command.do("DELETE FROM readings WHERE ref >= 13 * 4096")
    assert command(*getattr(command, way), "--until", 13) == (0, (84, 84, 0, 0, 0, 0))
    assert "entries 13 to 20" in command.out
    assert command(*getattr(command, way))[0] == 1


def test_rolled_back_database_says_where_it_ends(command, scene):
    """A database alone is believed in that: everything since is missing, and that it knows no more is said."""
    (command.data / "readings.db").write_bytes(scene.older.read_bytes())
    code, counts = command(*command.alone)
    assert (code, counts[2]) == (1, 6 * 12 + 6)
    assert "why everything from entry 13 on is missing" in command.out


class Page(html.parser.HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.pre, self._open = [], [], [], []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in {"meta", "br"}:
            self._open.append(tag)
        if tag == "pre":
            self.pre.append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] == "pre":
            self.pre[-1] += data


def test_page_holds_a_proof_for_each_finding(command, scene, tmp_path):
    """Nothing outside it, no script; each proof in it verifies, and is of the reading that ought to be there."""
    command.do("UPDATE readings SET value = 1 WHERE ref = 4 * 4096 + 1")
    command.do("DELETE FROM readings WHERE ref = 5 * 4096 + 2")
    command.do("UPDATE batches SET signature = zeroblob(64) WHERE log_index = 7")
    path = tmp_path / "report.html"
    assert command(*command.whole, "--html", path)[0] == 1
    page = Page(path.read_text())
    assert "script" not in page.tags
    assert not [value for name, value in page.attributes if name in {"src", "href", "onclick", "onload"}]
    policy = parse_policy((scene.data / "policy.txt").read_bytes())
    files = [text.encode() for text in page.pre if text.startswith("c2sp.org/tlog-proof")]
    proven = [verify_proof(file, policy) for file in files[:3]]
    assert [(item.index, item.leaf_index) for item in proven] == [(4, 1), (5, 2), (7, 0)]
    text = unescape(path.read_text())
    values = "value: 1 where the device's signed reading says 60 /min"
    for shown in ("wrist-1", "hospital", "logged by", values, "What was not checked"):
        assert shown in text


@pytest.mark.parametrize("way", ["whole", "alone"])
def test_hostile_names_stay_names(way, command, tmp_path):
    """Whatever somebody wrote into a column, neither a browser nor a terminal obeys it."""
    for leaf, name in enumerate(
        ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "\x1b[2J\u202e", "{{ 7*7 }}"), 1
    ):
        command.do("UPDATE readings SET device = ? WHERE ref = 4 * 4096 + ?", name, leaf)
    command.do("UPDATE readings SET device = CAST(x'ff2620' AS TEXT) WHERE ref = 4 * 4096 + 5")
    insert = "INSERT INTO readings SELECT 4 * 4096 + 99, '<b>nobody', source, kind, 1, 0, 1, body, salt FROM readings"
    command.do(f"{insert} WHERE ref = 4 * 4096 + 6")
    path = tmp_path / "report.html"
    code, counts = command(*getattr(command, way), "--html", path)
    assert (code, counts) == (1, (163, 157, 0, 0, 1, 5))
    page = Page(path.read_text())
    assert not {"script", "img", "b"} & set(page.tags)
    assert "{{ 7*7 }}" in path.read_text()
    assert not set("\x1b\u202e") & set(command.out + path.read_text())
    assert len(command.report(*getattr(command, way))[1]["findings"]) == 6


def test_many_findings_are_counted_though_not_all_are_told(command, monkeypatch, tmp_path):
    """A terminal shows some, the page says what it leaves out, --json has all."""
    monkeypatch.setattr("aggregator.audit.page.MAX_FINDINGS", 20)
    monkeypatch.setattr("aggregator.audit.page.MAX_PROOFS", 2)
    command.do("DELETE FROM readings")
    path = tmp_path / "report.html"
    assert command(*command.whole, "--html", path) == (1, (162, 18, 144, 0, 0, 0))
    assert "and 94 more: --json lists all of them" in command.out
    assert "124 more findings are left out" in path.read_text()
    assert path.read_text().count("c2sp.org/tlog-proof") == 3  # two, and the status of their one key
    assert len(command.report(*command.whole)[1]["findings"]) == 144


def test_command_loads_no_server_and_no_broker(scene):
    """The audit is for a machine that has neither."""
    code = (
        "import sys; from vitalseal.cli import main;"
        f"assert main(['audit', '--data', {str(scene.data)!r}]) == 0;"
        "print(sorted({'paho', 'starlette', 'uvicorn', 'aiomqtt'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
