"""A backup: whole or not there, of one moment, private, and known to be what it was."""

import json
import os
import resource
import sqlite3
import stat
from contextlib import ExitStack, closing

import pytest

from aggregator.backup import DATA, MANIFEST, check_backup, make_backup
from aggregator.backup_keys import KeyReader
from aggregator.enrolment import FOLDER
from aggregator.registry import Registry
from aggregator.sequencer_copy import copy_unsealed, fill_payloads
from ledger.writer.database import DATABASE, copy_database
from ledger.writer.reader import LocalReader
from ledger.writer.storage import StorageError
from vitalseal.cli import main
from vitalseal.errors import UserError

from .devices import Device
from .estate import ORIGIN, Estate, quiet


@pytest.fixture
def estate(tmp_path):
    """A log without witnesses, with one device and some of its batches."""
    with ExitStack() as opened:
        estate = Estate(tmp_path, opened, names=())
        estate.device = Device("wrist-1", 1, ORIGIN)
        with estate.writing() as log:
            log.enrol(estate.device)
            log.log(*[estate.device.batch() for _ in range(10)])
            log.publish()
            log.log(estate.device.batch())
        yield estate


def copied(estate):
    """Entries and payloads in the backup."""
    opened = estate.directory / "opened"
    copy_unsealed(estate.backup / DATA / DATABASE, opened.with_suffix(".db"))
    with KeyReader(estate.keys) as keys:
        fill_payloads(estate.backup / DATA / DATABASE, opened.with_suffix(".db"), keys.key, quiet)
    opened.mkdir()
    opened.with_suffix(".db").rename(opened / DATABASE)
    with LocalReader(opened) as log:
        size = log.size()
        return list(log.entries(0, size)), [log.payload(index) for index in range(size)]


def test_backup_holds_what_nobody_else_has(estate):
    """Keys, policies, registry, payloads, configuration, and the broker's files; nothing that others have."""
    (estate.data / "broker" / "state").mkdir(parents=True)
    (estate.data / "broker" / "state" / "mosquitto.db").write_bytes(b"theirs")
    (estate.data / "broker" / "server.key").write_bytes(b"a key")
    (estate.data / "readings.db").write_bytes(b"made again")
    (estate.data / "status.json").write_text("{}")
    estate.back_up()
    names = {path.name for path in (estate.backup / DATA).iterdir()}
    assert names == {"broker", "keys", "policy.txt", "policy-pq.txt", "registry.db", DATABASE, "trust.txt"}
    found = sorted(str(path.relative_to(estate.backup / DATA)) for path in (estate.backup / DATA / "broker").rglob("*"))
    assert found == ["broker/server.key", "broker/state"]
    with LocalReader(estate.data) as log:
        assert copied(estate) == (list(log.entries(0, 13)), [log.payload(index) for index in range(13)])
    manifest = check_backup(estate.backup, quiet)
    assert (manifest.origin, manifest.entries, manifest.checkpoint) == (ORIGIN, 13, 12)
    assert manifest.data == str(estate.data)


def test_backup_is_private(estate):
    """Whoever reads it can sign for the log: only its owner may; the permissions that things had are written down."""
    estate.back_up()
    for path in (estate.backup, *estate.backup.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    files = check_backup(estate.backup, quiet).files
    assert files["data/policy.txt"][2] == stat.S_IMODE((estate.data / "policy.txt").stat().st_mode)


def test_backup_is_taken_while_the_log_is_written(estate):
    """Its database is that of one moment, however much is appended between two of its pages."""
    with estate.writing() as log:
        shown = []

        def more(what, done, total):
            if what == DATABASE:
                shown.append((done, total))
                log.log(*[estate.device.batch() for _ in range(20)])
                log.publish()

        log.log(*[estate.device.batch(200) for _ in range(200)])
        size = log.writer.size
        make_backup(estate.config, estate.settings, estate.backup, more)
        assert log.writer.size > size
    assert len(shown) > 1
    assert shown[-1][0] == shown[-1][1]
    manifest = check_backup(estate.backup, quiet)
    assert manifest.entries == size
    entries, payloads = copied(estate)
    assert len(entries) == size
    assert all(payloads[13:])


def test_enrolment_that_the_log_has_is_in_the_backup(estate):
    """One that comes while the database is copied leaves its file too, with its device's name."""
    (estate.data / FOLDER).mkdir()

    def enrol(what, _done, _total):
        if what == DATABASE:
            (estate.data / FOLDER / "wrist-2.enrol").write_bytes(b"signed")

    make_backup(estate.config, estate.settings, estate.backup, enrol)
    assert (estate.backup / DATA / FOLDER / "wrist-2.enrol").read_bytes() == b"signed"


def test_assignment_that_the_backup_calls_committed_is_on_its_log(estate):
    """The registry is copied before the log, so that what is committed in between counts as open."""
    with closing(Registry(estate.data)) as registry:
        registry.assign(bytes(8), "patient-7", 0, None, now_ns=0)

        def commit(what, _done, _total):
            if what == DATABASE:
                registry.mark_committed(1, 99)

        make_backup(estate.config, estate.settings, estate.backup, commit)
    with closing(Registry(estate.backup / DATA)) as registry:
        assert [number for number, _ in registry.uncommitted()] == [1]


def test_backup_that_is_broken_off_is_not_there(estate):
    """What was begun is nothing, and the next one is whole."""

    def fails(_what, _done, _total):
        raise OSError("the disk is full")

    with pytest.raises(StorageError, match="the disk is full"):
        make_backup(estate.config, estate.settings, estate.backup, fails)
    assert not estate.backup.exists()
    estate.back_up()
    check_backup(estate.backup, quiet)


def test_backup_goes_over_nothing_and_not_into_the_data(estate):
    """A backup is new, and elsewhere."""
    estate.back_up()
    before = (estate.backup / MANIFEST).read_bytes()
    with pytest.raises(UserError, match="is there already"):
        estate.back_up()
    assert (estate.backup / MANIFEST).read_bytes() == before
    with pytest.raises(UserError, match="lies in the data directory"):
        make_backup(estate.config, estate.settings, estate.data / "broker" / "backup", quiet)


def test_changed_backup_is_found_out(estate):
    """A bit, a file more, a file less, another manifest: each is named."""
    estate.back_up()
    database = estate.backup / DATA / DATABASE
    good = database.read_bytes()
    database.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(UserError, match=r"sequencer.db: is not as it was"):
        check_backup(estate.backup, quiet)
    database.write_bytes(good)
    extra = estate.backup / DATA / "keys" / "log-00000000.key"
    extra.write_bytes(b"")
    with pytest.raises(UserError, match="is not in its manifest"):
        check_backup(estate.backup, quiet)
    extra.unlink()
    trust = (estate.backup / DATA / "trust.txt").read_bytes()
    (estate.backup / DATA / "trust.txt").unlink()
    with pytest.raises(UserError, match=r"trust.txt: is missing"):
        check_backup(estate.backup, quiet)
    (estate.backup / DATA / "trust.txt").write_bytes(trust)
    table = json.loads((estate.backup / MANIFEST).read_text())
    for changed, says in [
        ({"root": "00" * 32}, "do not lead to its checkpoint's root"),
        ({"format": 3}, "of format 3"),
        ({"format": 1}, "does not fit"),
        ({"keys": None}, "does not fit"),
        ({"keys": "no"}, "is not what"),
        ({"files": {"x": [1]}}, "is not what"),
        ({"files": []}, "is not what"),
        ({"folders": {}}, "is not what"),
        ({"data": 7}, "is not what"),
        ({"what": 1}, "is not what"),
    ]:
        (estate.backup / MANIFEST).write_text(json.dumps(table | changed))
        with pytest.raises(UserError, match=says):
            check_backup(estate.backup, quiet)
    for garbage in (b"", b"\xff\xfe", b"[" * 100_000, b"7"):
        (estate.backup / MANIFEST).write_bytes(garbage)
        with pytest.raises(UserError, match="is not what"):
            check_backup(estate.backup, quiet)
    (estate.backup / MANIFEST).unlink()
    with pytest.raises(UserError, match="there is none"):
        check_backup(estate.backup, quiet)


def test_copy_of_a_database_that_is_none_is_one_line(tmp_path):
    """A source that is garbage or missing is told with its path."""
    (tmp_path / "garbage.db").write_bytes(b"garbage" * 1000)
    for name in ("garbage.db", "missing.db"):
        with pytest.raises(StorageError, match=r"copy.db"):
            copy_database(tmp_path / name, tmp_path / "copy.db", quiet)


def test_backup_command_says_what_it_did(estate, capsys):
    """`backup` and `backup --verify`, and their mistakes, in one line each."""

    def run(*words):
        code = main(["aggregator", "backup", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out + said.err

    code, said = run(estate.backup, "--config", estate.config)
    assert (code, len(said.splitlines())) == (0, 2)
    assert f"holds {ORIGIN} with 13 entries" in said
    code, said = run("--verify", estate.backup)
    assert code == 0
    assert f"is whole: {ORIGIN}" in said
    os.truncate(estate.backup / DATA / DATABASE, 4096)
    code, said = run("--verify", estate.backup)
    assert (code, len(said.splitlines())) == (2, 1)
    assert "use another backup" in said


def test_backup_on_a_full_disk_is_one_line_and_nothing(estate, capsys):
    """A limit on the size of files stands for the disk: the database does not fit, and no backup is there."""
    with estate.writing() as log:
        log.log(*[estate.device.batch(200) for _ in range(50)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        code = main(["aggregator", "backup", str(estate.backup), "--config", str(estate.config)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 2
    assert "sequencer.db: cannot be copied" in capsys.readouterr().err
    assert not estate.backup.exists()
    estate.back_up()
    check_backup(estate.backup, quiet)


def test_copies_can_be_opened_by_sqlite_read_only(estate):
    """One file each: whoever reads a backup leaves nothing beside it."""
    estate.back_up()
    for path in (estate.backup / DATA).glob("*.db"):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check_backup(estate.backup, quiet)
