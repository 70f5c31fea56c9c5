"""`vitalseal erase`: what a person sees before and after, mistakes included; nothing goes without being asked for."""

import io
import re
import sqlite3
import sys
import time
from contextlib import closing

import pytest

from aggregator.erasures import requests
from aggregator.registry import Registry
from aggregator.status import FILE as STATUS
from aggregator.view import ViewRecord
from ledger.entry import Erased
from ledger.leaves import Leaf
from ledger.reading import format_time
from ledger.writer.database import DATABASE
from ledger.writer.payload import parse_payload
from tests.aggregator.devices import START_NS, Device
from tests.aggregator.hands import by_hand

from .test_lifecycle import new_log

ONE_S = 10**9
WHY = ("--reason", "consent withdrawn")


class HandClock:
    """The command's clock: a second goes by whenever it sleeps, however long this machine takes, and `meanwhile`."""

    time, time_ns = time.time, time.time_ns

    def __init__(self):
        self.now, self.meanwhile = 0.0, lambda: None

    def monotonic(self):
        return self.now

    def sleep(self, _seconds):
        self.now += 1
        self.meanwhile()


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Where nothing gets on, that is seen after a few looks."""
    clock = HandClock()
    monkeypatch.setattr("aggregator.erasures_cli.PATIENCE_S", 2.5)
    monkeypatch.setattr("aggregator.erasures_cli.time", clock)
    return clock


@pytest.fixture
def log(vitalseal, tmp_path):
    """Two devices, two batches of three readings of each, published; a patient wore the first one's sensor for a while.

    A device's batches are a thousand seconds from each other, its readings one second.
    """
    log = new_log(vitalseal, tmp_path, "erasing")
    log.devices = [Device(f"wrist-{number}", number, log.origin) for number in (1, 2)]
    for device in log.devices:
        device.enrol(log.data)
    with by_hand(log.data) as hands:
        hands.scan()
        for value in (70, 71):
            hands.take_all((device, device.batch(value=value)) for device in log.devices)
        hands.service._publish_once()
        log.indexes = {
            device.name: [hands.storage.last_batches(device.key_id, 9)[at][0] for at in (0, 1)]
            for device in log.devices
        }
    (log.data / STATUS).unlink()  # this process is no running aggregator
    until = format_time(START_NS + 2 * ONE_S)
    words = ("--from", format_time(START_NS), "--to", until)
    assert vitalseal("aggregator", "assign", "--config", log.config, "01" * 8, "patient-7", *words).code == 0
    return log


def erase(vitalseal, log, *words):
    return vitalseal("erase", "--config", log.config, *words)


def recorded(log):
    with closing(Registry(log.data)) as registry:
        return [(request.target.log_index, request.target.leaves) for request in requests(registry)]


def recorded_entries(log):
    """How many requests are on the log."""
    with closing(Registry(log.data)) as registry:
        return len([1 for request in requests(registry) if request.entry_index is not None])


def carry_out(log):
    """The aggregator has run; the leaves of each batch that are there whole, and the entries."""
    with by_hand(log.data) as hands:
        for _ in range(3):
            hands.service._publish_once()
        hands.check(**({"erased": len(entries)} if (entries := hands.entries(Erased)) else {}))
        shown = {
            index: [
                number
                for number, leaf in enumerate(parse_payload(hands.storage.payload(index)))
                if isinstance(leaf, Leaf)
            ]
            for indexes in log.indexes.values()
            for index in indexes
        }
    (log.data / STATUS).unlink()
    return shown, entries


def test_dry_run_says_what_is_there_and_changes_nothing(vitalseal, log):
    """By device, source and kind, with the first and the last time."""
    done = erase(vitalseal, log, "--device", "wrist-1", "--dry-run")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "wrist-1  source 0101010101010101  heart_rate: 6 readings",
        f"6 readings in 2 batches, from {format_time(START_NS)} to {format_time(START_NS + 1002 * ONE_S)}",
        "erase: readings=6 batches=2 entries=0 state=dry-run",
    ]
    assert recorded(log) == []


def test_erase_without_a_running_aggregator_is_done_at_its_next_start(vitalseal, log):
    """Recorded in one piece; then gone, with the info of a batch of which nothing is left, and nobody else's."""
    done = erase(vitalseal, log, "--device", "wrist-1", *WHY, "--yes")
    assert (done.code, done.err) == (0, "")
    assert "no aggregator runs here, so it is done when one is started" in done.out
    for what in ("gateways: told", "take a backup with", "proofs that were handed out", "mirrors of the log"):
        assert what in done.out
    assert "InfluxDB" not in done.out
    assert done.out.splitlines()[-1] == "erase: readings=6 batches=2 entries=0 state=recorded"
    first, second = log.indexes["wrist-1"]
    assert recorded(log) == [(first, (1, 2, 3)), (second, (1, 2, 3))]
    assert "6 readings in 2 batches: WAITING: 2 batches, 2 not on the log" in erase(vitalseal, log, "--list").out
    shown, entries = carry_out(log)
    others = log.indexes["wrist-2"]
    assert shown == {first: [], second: [], others[0]: [0, 1, 2, 3], others[1]: [0, 1, 2, 3]}
    assert [entry.leaves for entry in entries] == [(0, 1, 2, 3)] * 2
    listed = erase(vitalseal, log, "--list").out
    assert re.search(r"Z  6 readings in 2 batches, entries \d+ to \d+: done \(consent withdrawn\)\n$", listed)
    again = erase(vitalseal, log, "--device", "wrist-1", *WHY, "--yes")
    assert (again.code, again.out.splitlines()[-1]) == (0, "erase: readings=0 batches=0 entries=0 state=done")
    proof = vitalseal(
        "ledger", "proof", "--data", log.data, "--ref", first * 4096 + 2, "-o", log.data.parent / "x.proof"
    )
    assert proof.code != 0
    assert "was erased" in proof.err


CHOICES = [
    (["--patient", "patient-7"], [(1, 2)]),
    (["--patient", "patient-7", "--from", format_time(START_NS + ONE_S)], [(2,)]),
    (["--device", "wrist-1", "--from", format_time(START_NS + 2 * ONE_S)], [(3,), (1, 2, 3)]),
    (["--device", "wrist-1", "--to", format_time(START_NS + ONE_S)], [(1,)]),
    (["--device", "wrist-1", "--source", "01" * 8, "--kind", "heart_rate"], [(1, 2, 3), (1, 2, 3)]),
    (["--device", "wrist-1", "--source", "02" * 8], []),
    (["--device", "wrist-1", "--kind", "spo2", "--kind", "body_temperature"], []),
]


def test_erase_takes_what_was_chosen(vitalseal, log):
    """No more and no less; a patient is what he wore while he wore it. Without an aggregator requests only add up."""
    before = []
    for words, leaves in CHOICES:
        done = erase(vitalseal, log, *words, *WHY, "--yes")
        assert (done.code, done.err) == (0, "")
        before += zip(log.indexes["wrist-1"], leaves, strict=False)
        assert recorded(log) == before
        assert ("who wore which sensor when: it stays" in done.out) == ("--patient" in words)
        count = sum(map(len, leaves))
        assert done.out.splitlines()[-1].startswith(f"erase: readings={count} batches={len(leaves)} entries=0 state=")


MISTAKES = [
    ([], "--patient or --device says whose"),
    (["--device", "wrist-9", *WHY, "--yes"], "no device 'wrist-9' is enrolled"),
    (["--patient", "nobody", *WHY, "--yes"], "no standing assignment"),
    (["--device", "wrist-1", "--yes"], "--reason is wanted"),
    (["--device", "wrist-1", "--yes", "--reason", ""], "--reason: not 1 to 200"),
    (["--device", "wrist-1", "--yes", "--reason", "a\nb"], "--reason: not 1 to 200"),
    (["--device", "wrist-1", *WHY], "cannot be undone: --yes"),
    (["--device", "wrist-1", "--patient", "patient-7", *WHY], "not allowed with"),
    (["--patient", "patient-7", "--source", "01", *WHY], "--source goes with --device"),
    (["--device", "wrist-1", "--kind", "mood", *WHY], "--kind 'mood'"),
    (["--device", "wrist-1", "--from", "today", *WHY], "--from 'today'"),
    (["--device", "wrist-1", "--source", "xyz", *WHY], "--source 'xyz'"),
]


def test_mistakes_are_one_line_and_erase_nothing(vitalseal, log):
    """Exit code 2."""
    for words, says in MISTAKES:
        done = erase(vitalseal, log, *words)
        assert (done.code, len(done.err.splitlines())) == (2, 1), words
        assert says in done.err
    assert recorded(log) == []


def test_nothing_is_made_where_there_is_no_aggregator(vitalseal, tmp_path):
    """Not even a registry."""
    (tmp_path / "a.toml").write_text('data = "data"\n')
    done = vitalseal("erase", "--config", tmp_path / "a.toml", "--list")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("answer", "code"), [("erase\n", 0), ("yes\n", 2), ("", 2)])
def test_on_a_terminal_it_asks(vitalseal, log, monkeypatch, answer, code):
    """One word, typed; anything else erases nothing."""
    terminal = io.StringIO(answer)
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    done = erase(vitalseal, log, "--device", "wrist-1", *WHY)
    assert done.code == code
    assert "Type erase to erase these 6 readings" in done.out
    assert bool(recorded(log)) == (code == 0)


def test_log_that_is_closed_is_erased_with_its_directory(vitalseal, log, tmp_path):
    """Nothing can be put on it any more."""
    successor = new_log(vitalseal, tmp_path, "successor")
    done = vitalseal("aggregator", "close", "--config", log.config, "--successor", successor.config)
    assert done.code == 0
    done = erase(vitalseal, log, "--device", "wrist-1", *WHY, "--yes")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "is closed" in done.err


def test_closing_a_log_carries_out_what_was_requested(vitalseal, log, tmp_path):
    """Afterwards it could not."""
    erase(vitalseal, log, "--device", "wrist-2", *WHY, "--yes")
    successor = new_log(vitalseal, tmp_path, "successor")
    assert vitalseal("aggregator", "close", "--config", log.config, "--successor", successor.config).code == 0
    fsck = vitalseal("ledger", "fsck", log.data / "log", "--policy", log.data / "policy.txt")
    assert "2 erasures" in fsck.out
    assert "leaves erased by the operator: 8" in fsck.out
    assert "2 erased" in fsck.out
    assert ": done (" in erase(vitalseal, log, "--list").out


def test_log_that_is_closed_while_a_backup_reads_has_every_entry(vitalseal, log, tmp_path, monkeypatch):
    """What cannot be overwritten now holds up no entry, for none can follow; and nobody would go on: so it is said."""
    with closing(Registry(log.data)) as registry:
        for name in ("wrist-1", "wrist-2"):  # a portion that waits, before those that need not
            erase(vitalseal, log, "--device", name, *WHY, "--yes")
        assert len(requests(registry)) == 4
    successor = new_log(vitalseal, tmp_path, "successor")
    close = ("aggregator", "close", "--config", log.config, "--successor", successor.config)
    with (
        closing(sqlite3.connect(log.data / DATABASE, isolation_level=None)) as backup,
        pytest.MonkeyPatch.context() as m,
    ):
        m.setattr("aggregator.erasures.PORTION", 2)
        backup.execute("BEGIN")
        backup.execute("SELECT count(*) FROM payloads").fetchone()
        done = vitalseal(*close)
        assert (done.code, len(done.err.splitlines())) == (2, 1)
        assert "the log is closed, and 4 erasures are not finished" in done.err
    assert recorded_entries(log) == 4
    assert vitalseal(*close).code == 0
    assert erase(vitalseal, log, "--list").out.count(": done (") == 2


def test_payload_that_is_damaged_or_missing_is_named(vitalseal, log):
    """What is in it nobody can say; and it is not called done in silence."""
    first, second = log.indexes["wrist-1"]
    with by_hand(log.data) as hands:
        database = hands.storage._writing
        database.execute("UPDATE payloads SET payload = x'c1' WHERE idx = ?", (first,))
        database.execute("DELETE FROM payloads WHERE idx = ?", (second,))
        database.execute("INSERT INTO missing SELECT chain, epoch, seq FROM entries WHERE idx = ?", (second,))
    done = erase(vitalseal, log, "--device", "wrist-1", "--dry-run")
    assert done.out.splitlines()[:3] == [
        "no reading that is here matches",
        "1 batches have lost readings since a restore; what comes back of them has to be erased anew",
        f"entry {first}: its payload is not what its device sealed; nobody can say what is in it",
    ]


def test_running_aggregator_that_does_not_get_on_is_waited_for_in_vain(vitalseal, log):
    """A backup is being taken, say: after a while it says what it waits for, and that it goes on."""
    with by_hand(log.data) as hands:
        hands.service._tell()
    done = erase(vitalseal, log, "--device", "wrist-1", *WHY, "--yes")
    assert done.code == 1
    assert "recorded, and not done yet: not all of it is on the log; the aggregator goes on" in done.out
    assert done.out.splitlines()[-1] == "erase: readings=6 batches=2 entries=0 state=recorded"


def test_reading_database_that_is_away_is_said(vitalseal, log, clock):
    """Everything else was erased, and it will be there: but it is not done."""

    def carried_out():
        with by_hand(log.data) as hands:
            hands.service._publish_once()
            hands.service._publish_once()

    with by_hand(log.data) as hands:
        hands.service._tell()
    clock.meanwhile = carried_out
    ViewRecord(log.data).note(away_since=1.8e9, why="it is off", store="a store")
    done = erase(vitalseal, log, "--device", "wrist-1", *WHY, "--yes")
    assert done.code == 1
    assert "the reading database still has them: a store is away since 2027-01-15T08:00:00Z: it is off" in done.out
    assert done.out.splitlines()[-1] == "erase: readings=6 batches=2 entries=2 state=recorded"
    ViewRecord(log.data).note(away_since=None, cursor=100)
    done = erase(vitalseal, log, "--device", "wrist-2", *WHY, "--yes")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1] == "erase: readings=6 batches=2 entries=2 state=done"
