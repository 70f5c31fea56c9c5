"""What a reader is told: which database it was, whose word a name is, what was erased, and in plain words."""

import hashlib
import os
import re
import sqlite3
from contextlib import closing
from html import unescape

import pytest

from aggregator.audit import audited
from aggregator.audit.findings import What
from aggregator.audit.sources import Call
from aggregator.config import AggregatorConfig, InfluxConfig
from aggregator.timeseries.embedded import EmbeddedStore
from ledger.writer.database import DATABASE as SEQUENCER
from tests.ledger.builders import device
from tests.ledger.past import Past, id_of
from tests.writer.written import Written
from vitalseal.cli import main

from .scene import project, readings
from .test_command import Command, Page
from .test_judging import catch_up, do, past, ref_of  # noqa: F401 - a fixture

WRIST = device("wrist-1")


@pytest.fixture
def command(scene, capsys):
    return Command(scene, capsys)


def key_of(name):
    return id_of(device(name)).hex()[:16]


def test_swapped_names_stand_beside_the_keys_that_signed(command, tmp_path):
    """A database alone names devices as it likes: nothing can be wrong with that, so the keys are beside the names."""
    for table in ("readings", "batches"):
        for old, new in (("wrist-1", "x"), ("wrist-2", "wrist-1"), ("x", "wrist-2")):
            command.do(f"UPDATE {table} SET device = ? WHERE device = ?", new, old)  # noqa: S608 - ours
    page = tmp_path / "report.html"
    assert command(*command.alone, "--html", page)[0] == 0
    assert "device, as the database names its key" in command.out
    assert f"wrist-1 (key {key_of('wrist-2')})" in command.out
    text = page.read_text()
    assert "device, as the database names its key" in text
    assert f'wrist-1 <span class="of">(key {key_of("wrist-2")})</span>' in text
    assert command(*command.whole)[0] == 1
    assert "device, as the directory's registry names its key" in command.out
    assert f"wrist-1 (key {key_of('wrist-1')})" in command.out


def test_erasures_are_told_and_the_sums_add_up(command, scene, past, tmp_path):  # noqa: F811 - the fixture
    """How many, by how many entries, and by whom: the log's operator, of whom the page says so too."""
    with Written(scene.data, past) as log:
        log.erase(WRIST, 0, [1, 3])
        log.erase(WRIST, 1, [2])
        log.publish()
    catch_up(scene)
    page = tmp_path / "report.html"
    for way in (command.whole, command.alone):
        assert command(*way, "--html", page)[0] == 0
        for text in (command.out, unescape(page.read_text())):
            assert "3 readings were erased, by 2 entries of the log's operator" in text
            assert "144: 141 looked at, 3 erased, 0 not checked" in text
        assert "2 erased" not in page.read_text()
        _, report = command.report(*way)
        assert report["log"]["notices"] == {}
    do(scene.data / "readings.db", "UPDATE batches SET leaf_hashes = x'' WHERE log_index = 9")
    do(scene.data / "readings.db", "DELETE FROM readings WHERE ref = ?", ref_of(8, 1))
    _, report = command.report(*command.alone)
    entries, rows = report["entries"], report["rows"]
    missing = sum(finding["what"] == What.MISSING for finding in report["findings"])
    assert entries["looked_at"] == rows["reading"] + missing
    assert entries["looked_at"] + entries["erased"] + entries["not_checked"] == entries["readings"]


def test_database_of_another_log_is_told_in_one_line(command, tmp_path):
    """Not as thousands of findings; one record of this log is enough to look on."""
    other = Past("other.example/log")
    with Written(tmp_path / "other", other) as log:
        other.enrol(WRIST)
        other.state()
        other.seal(*readings(0, 0), signer=WRIST)
        log.publish()
    with EmbeddedStore(tmp_path / "other") as store:
        project(tmp_path / "other", store)
    (command.data / "readings.db").write_bytes((tmp_path / "other" / "readings.db").read_bytes())
    for way in (command.whole, command.alone):
        assert command(*way) == (2, None)
        assert "is a database of another log: of 'other.example/log'" in command.err
        assert len(command.err.splitlines()) == 1


def test_other_sqlite_file_is_no_database_of_readings(command):
    """Nobody is told that a running aggregator would make it again."""
    words = ["--database", command.data / "registry.db", *command.alone[2:]]
    assert command(*words) == (2, None)
    assert command.err.endswith("registry.db: is some other database, and not one of readings\n")


def test_page_is_readable_by_its_owner_only(command, tmp_path):
    """It may hold values; one that was there already is not left open to others."""
    page = tmp_path / "report.html"
    page.write_text("x" * 10**6)
    page.chmod(0o644)
    assert command(*command.whole, "--html", page)[0] == 0
    assert page.stat().st_mode & 0o777 == 0o600
    assert page.read_text().rstrip().endswith("</html>")


def test_report_says_which_file_it_was(command, tmp_path, monkeypatch):
    """Path, size, time and hash; on the terminal and on the page."""
    with closing(sqlite3.connect(command.data / "readings.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path = (command.data / "readings.db").resolve()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    page = tmp_path / "report.html"
    monkeypatch.chdir(command.data)
    assert command("--data", ".", "--html", page)[0] == 0
    for text in (command.out, unescape(page.read_text())):
        for shown in (str(path), str(command.data / "log"), f"{path.stat().st_size} bytes", digest, "vitalseal "):
            assert shown in text
    monkeypatch.setattr(audited, "MAX_HASHED", 10)
    _, report = command.report(*command.alone)
    assert report["audited"]["sha256"] is None
    assert report["audited"]["notes"] == ["larger than 10 bytes, so it was not hashed"]


def test_report_says_which_server_it_was(tmp_path):
    """Host and bucket; no password that somebody wrote into the URL."""
    config = InfluxConfig("https://user:secret@influx.clinic.example:8086", "vitals", "clinic")
    config = AggregatorConfig(tmp_path, influx=config)
    call = Call(None, "https://log.clinic.example/", config, None, tmp_path, None, None, remembers=False)
    where = "https://influx.clinic.example:8086, bucket vitals, organisation clinic"
    assert audited.Audited(call).fields() == {"where": where, "log": "https://log.clinic.example/"}


def test_file_that_changes_under_the_audit_is_told(command, monkeypatch):
    """What was hashed is what it was before."""
    rows = EmbeddedStore.rows

    def touched(self, selection=None):
        os.utime(command.data / "readings.db", (1, 1))
        return rows(self, selection)

    monkeypatch.setattr(EmbeddedStore, "rows", touched)
    _, report = command.report(*command.whole)
    assert any("was written to while it was audited" in note for note in report["audited"]["notes"])


def test_page_has_what_step_seven_needs(command, scene, past, tmp_path):  # noqa: F811 - the fixture
    """Saved under its name beside a proof, the status of the key lets `vitalseal verify` check every step."""
    with Written(scene.data, past) as log:
        past.state()
        log.publish()
    catch_up(scene)
    command.do("UPDATE readings SET value = 1 WHERE ref = 4 * 4096 + 1")
    page = tmp_path / "report.html"
    assert command(*command.whole, "--html", page)[0] == 1
    names = re.findall(r"key-[0-9a-f]{16}\.tlog-proof", page.read_text())
    proof, status = (text for text in Page(page.read_text()).pre if text.startswith("c2sp.org/tlog-proof"))
    (tmp_path / "reading.tlog-proof").write_text(proof)
    words = ["verify", str(tmp_path / "reading.tlog-proof"), "--policy", str(scene.data / "policy.txt")]
    words += ["--trust", str(scene.data / "trust.txt"), "--strict"]
    assert main(words) == 1
    (tmp_path / names[0]).write_text(status)
    assert main(words) == 0
    assert command(*command.alone, "--html", page)[0] == 1
    assert "none, so step 7 is not checked for this key" in page.read_text()


def test_values_are_told_in_words(command):
    """None is not a value, and a time is a time."""
    command.do("UPDATE readings SET value = NULL WHERE ref = 4 * 4096 + 1")
    command.do("UPDATE readings SET sensor_time_ns = sensor_time_ns + 1 WHERE ref = 4 * 4096 + 2")
    assert command(*command.whole)[0] == 1
    assert "value: none where the device's signed reading says 60 /min" in command.out
    time = "2025-06-15T14:06:41"
    assert f"time: {time}.000000001Z where the device's signed reading says {time}Z" in command.out


def test_leaves_of_a_damaged_payload_that_are_whole_name_their_readings(scene):
    """One byte of one leaf costs that leaf: of the others, kind and time are known though their rows are gone."""
    index = 4
    with closing(sqlite3.connect(scene.data / SEQUENCER, isolation_level=None)) as db:
        (payload,) = db.execute("SELECT payload FROM payloads WHERE idx = ?", (index,)).fetchone()
        changed = payload[:-1] + bytes([payload[-1] ^ 1])
        db.execute("UPDATE payloads SET payload = ? WHERE idx = ?", (changed, index))
    with closing(sqlite3.connect(scene.data / "readings.db", isolation_level=None)) as db:
        db.execute("DELETE FROM readings WHERE ref / 4096 = ?", (index,))
    findings = [item for item in scene.audit().book.findings if item.what is What.MISSING]
    assert len(findings) == 12
    assert [item.number for item in findings if item.kind is None] == [ref_of(index, 12)]
