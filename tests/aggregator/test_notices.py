"""What devices declare, and what they do wrong, is known by device, whatever was killed when, and in plain words."""

import dataclasses
import json
import re
import sqlite3
import time
from contextlib import closing

import pytest

from aggregator import notices as notices_module
from aggregator.config import AggregatorConfig
from aggregator.faults import CLOCK_AHEAD, CLOCK_BEHIND, Clocks
from aggregator.notices import Notices, activity, describe, faults, notices
from aggregator.registry import Registry
from aggregator.status import glance, read_status, write_status
from ledger.batch import Notice, NoticeKind
from ledger.info import BatchInfo, Clock
from ledger.messages import Reason, Stored
from vitalseal.cli import main

from .devices import START_NS, Device
from .hands import by_hand

GAP = Notice(NoticeKind.GAP, 1, 5000)
HOUR_NS = 3600 * 10**9


def gap(device, lost=5000, reason=1, window=(START_NS, START_NS + HOUR_NS)):
    return device.batch(0, notice=Notice(NoticeKind.GAP, reason, lost), window=window)


def begin_again(device):
    device.epoch, device.seq, device.previous = device.epoch + 1, 0, None
    return device.batch(0, notice=Notice(NoticeKind.OUTBOX_LOST))


@pytest.fixture
def devices(data, tmp_path, capsys):
    """What `vitalseal aggregator devices` prints."""
    config = tmp_path / "aggregator.toml"
    config.write_text(f'data = "{data}"\n')

    def call(*words, code=0):
        capsys.readouterr()
        assert main(["aggregator", "devices", "--config", str(config), *words]) == code
        shown = capsys.readouterr()
        return shown.out + shown.err

    return call


def lived(hands, data, device, other):
    """Everything that can happen to a device."""
    hands.take(device, device.batch(), gap(device), gap(device, None, 2, None), device.batch())
    hands.take(device, begin_again(device), device.batch(0, notice=Notice(NoticeKind.HEARTBEAT)), device.batch(2))
    hands.take(other, other.batch())
    hands.take(other, Device(other.name, other.number).batch(value=99))
    hands.service._tell()  # before it is published, which it is by a test's clock
    hands.service._publish_once()


def test_devices_shows_gaps_epochs_and_clones_in_plain_words(hands, data, device, other, devices, caplog):
    """Device, range and count of each gap; what a second header means; nothing of it is only in a log file."""
    lived(hands, data, device, other)
    shown = devices()
    first, second = shown.split("wrist-2 ")
    assert first.startswith("wrist-1  8 readings in 7 batches, heard ")
    assert f"key {device.key_id.hex()}  enrolled at entry 0, last epoch 1 seq 2 as entry 10" in first
    assert (
        "5000 readings lost between 2025-11-24T16:00:00Z and 2025-11-24T17:00:00Z, disk budget (epoch 0 seq 1, entry 5)"
        in first
    )
    assert "an unknown number of readings lost, unclean stop (epoch 0 seq 2, entry 6)" in first
    assert "a new epoch: it lost its outbox, and what was not logged by then (epoch 1 seq 0, entry 8)" in first
    assert "two headers signed for one place: a cloned key, or an outbox restored from an old copy" in second
    assert "1 batches with another header for a place that is taken" in second
    gaps = [record.message for record in caplog.records if "declares a gap" in record.message]
    assert len(gaps) == 2
    assert gaps[0].startswith("wrist-1 declares a gap: 5000 readings lost between 2025-11-24T16:00:00Z")


def test_devices_in_json_has_all_of_it(hands, data, device, other, devices):
    """For programs: keys, last place, notices, faults."""
    lived(hands, data, device, other)
    one, two = json.loads(devices("--json"))
    assert (one["device"], one["batches"], one["readings"], one["overdue"]) == ("wrist-1", 7, 8, False)
    assert time.time() - one["heard_at"] < 60
    assert one["keys"] == [
        {
            "key_id": device.key_id.hex(),
            "enrolled": 0,
            "until": None,
            "revoked": None,
            "last": {"epoch": 1, "seq": 2, "index": 10},
        }
    ]
    assert [(item["kind"], item["lost"], item["index"]) for item in one["notices"]] == [
        (2, 5000, 5),
        (2, None, 6),
        (3, None, 8),
    ]
    assert two["faults"]["second_header"]["count"] == 1
    assert [item["kind"] for item in two["notices"]] == [0]


def test_last_batches_of_a_device_give_the_refs_that_a_proof_takes(hands, data, device, other, devices, tmp_path):
    """From a device's name to the proof of its last reading in two commands."""
    lived(hands, data, device, other)
    last = json.loads(devices("wrist-1", "--last", "3", "--json"))[0]["last"]
    assert [(row["epoch"], row["seq"], row["count"]) for row in last] == [(1, 0, 0), (1, 1, 0), (1, 2, 2)]
    assert f"refs {last[2]['first_ref']} to {last[2]['last_ref']}" in devices("wrist-1", "--last", "1")
    out = tmp_path / "one.tlog-proof"
    assert main(["ledger", "proof", "--data", str(data), "--ref", str(last[2]["last_ref"]), "-o", str(out)]) == 0
    assert main(["verify", str(out), "--policy", str(data / "policy.txt")]) == 0


def test_calls_that_make_no_sense_are_told_in_one_line(hands, devices):
    """Bad input gets one line that says what to do."""
    assert "no device 'wrist-9' is enrolled" in devices("wrist-9", code=2)
    assert "--last takes 1 to 10000, and goes with the name of a device" in devices("--last", "3", code=2)
    assert "--last takes" in devices("wrist-1", "--last", "0", code=2)


def test_keys_that_ended_are_shown_so(hands, data, device, other, devices):
    """A device keeps its name over all its keys; each says how it ended."""
    hands.take(device, device.batch())
    device.rotate(data, 7, (0, 1))
    other.revoke(data, (0, 0))
    hands.scan()
    hands.service._tell()
    shown = devices()
    assert re.search(rf"{device.key_id.hex()}  enrolled at entry 0, rotated away from epoch 0 seq 1 on, last", shown)
    assert re.search(rf"{other.key_id.hex()}  enrolled at entry \d, REVOKED at entry \d", shown)
    assert shown.count("wrist-1 ") == 1


def test_registry_that_missed_commits_is_completed_at_the_next_start(data, device, other, monkeypatch):
    """Killed between commit and walk, or started with a registry from before: the same tables in the end."""
    monkeypatch.setattr(notices_module, "PORTION", 3)
    with by_hand(data) as hands:
        hands.take(device, device.batch(), gap(device), device.batch())
    with by_hand(data) as hands, closing(Registry(data)) as looking:
        assert notices(looking) == []
        hands.take(device, gap(device, 7), device.batch())
        while notices_module.Notices(hands.service._publisher._registry, hands.storage).walk(str):
            pass
        assert [(item.seq, item.lost) for item in notices(looking)] == [(1, 5000), (3, 7)]
        [chain] = activity(looking).values()
        assert (chain.seq, chain.batches, chain.readings) == (4, 5, 9)
        hands.service._tell()
        assert activity(looking) == {device.key_id: chain}


def test_walk_that_fails_in_the_middle_is_taken_up_where_it_was(hands, device, monkeypatch):
    """Tables and cursor are one transaction."""
    walking = Notices(hands.service._publisher._registry, hands.storage)
    hands.take(device, gap(device), device.batch())
    heard_ns = walking._heard_ns
    monkeypatch.setattr(walking, "_heard_ns", lambda *_: (_ for _ in ()).throw(RuntimeError("killed")))
    with pytest.raises(RuntimeError):
        walking.walk(str)
    monkeypatch.setattr(walking, "_heard_ns", heard_ns)
    walking.walk(str)
    [chain] = activity(walking._registry).values()
    assert (chain.batches, len(notices(walking._registry))) == (2, 1)


def test_payload_that_is_lost_costs_a_gap_its_range_only(hands, device):
    """The header is on the log for ever; the window was in the batch info."""
    hands.take(device, gap(device))
    hands.storage._writing.execute("DELETE FROM payloads")
    hands.service._tell()
    [item] = notices(hands.service._publisher._registry)
    assert describe(item).startswith("5000 readings lost, disk budget (epoch 0 seq 0")


def test_clocks_that_are_wrong_are_counted_and_their_batches_taken(data, device, other, devices):
    """Devices' clocks lie, which changes nothing about what they measured."""
    with by_hand(data) as hands:
        hands.service._publish_once()  # the log begins, by its test's clock in 2006
        assert hands.take(device, device.batch(), device.batch(at_ns=time.time_ns() + HOUR_NS)) == [Stored, Stored]
        assert hands.take(device, device.batch(at_ns=10**9)) == [Stored]
        hands.service._tell()
        assert {what: count for what, (count, _) in faults(hands.service._publisher._registry)["wrist-1"].items()} == {
            CLOCK_AHEAD: 1,
            CLOCK_BEHIND: 1,
        }
        assert "1 batches whose times are ahead of this clock; last " in devices("wrist-1")
        hands.take(device, device.batch(at_ns=10**9))
        hands.service._tell()
        assert "2 batches sealed, by their device's clock, before this log began" in devices("wrist-1")


def test_late_batch_is_no_clock_fault(hands):
    """A gateway may have been without a network for months."""
    hands.service._publish_once()
    clocks = Clocks(hands.storage)

    def info(sealed_ns, last_ns=None):
        return BatchInfo(bytes(16), sealed_ns, 0, Clock.UNKNOWN, None, last_ns, last_ns, ())

    now_ns = START_NS
    assert clocks.fault(info(now_ns - 90 * 24 * HOUR_NS), now_ns) is None
    assert clocks.fault(info(now_ns + 299 * 10**9), now_ns) is None
    assert clocks.fault(info(now_ns, now_ns + 301 * 10**9), now_ns) == CLOCK_AHEAD
    assert clocks.fault(info(-(2**63), -(2**63)), now_ns) == CLOCK_BEHIND
    assert clocks.fault(info(2**63 - 1), now_ns) == CLOCK_AHEAD


def test_device_that_says_nothing_for_too_long_is_overdue(data, device, other, devices, tmp_path, monkeypatch):
    """Heartbeats count as signs of life; a device that was never heard, or whose key ended, is not missed."""
    with by_hand(data) as hands:
        hands.take(device, device.batch(0, notice=Notice(NoticeKind.HEARTBEAT)))
        hands.service._tell()
        assert read_status(data).overdue == 0
        (tmp_path / "aggregator.toml").write_text(f'data = "{data}"\nsilent_after_s = 0.000001\n')
        assert "s ago: OVERDUE" in devices("wrist-1")
        assert [each["overdue"] for each in json.loads(devices("--json"))] == [True, False]
        hands.service.reconfigure(AggregatorConfig(data, silent_after_s=1e-6))
        hands.service._publisher._known_s = float("-inf")
        hands.service._tell()
        assert read_status(data).overdue == 1
        device.revoke(data, (0, 1))
        hands.scan()
        assert [each["overdue"] for each in json.loads(devices("--json"))] == [False, False]


def test_status_has_the_totals_at_a_glance(hands, data, device, other):
    """On a good day nothing; on a bad one how much of what, and where to look."""
    hands.service._tell()
    assert glance(read_status(data)) == {"waiting": "nothing", "notices": "none"}
    lived(hands, data, device, other)
    for _ in range(2):
        device.batch()
    assert hands.take(device, device.batch()) == []
    hands.service._publisher._known_s = float("-inf")
    hands.service._tell()
    status = read_status(data)
    assert (status.gaps, status.second_headers, status.new_epochs, status.parked) == (2, 1, 1, 1)
    lines = glance(status)
    assert lines["waiting"] == "1 parked batches for the one before them"
    assert lines["notices"] == (
        "2 gaps, 1 lost outboxes, 1 CLONES or outboxes restored from an old copy;"
        " `vitalseal aggregator devices` names them"
    )
    assert status.limits["parked_batches_per_device"] == 256


def test_stranger_counts_against_no_device(hands, data, device, other):
    """Only what the device's own key signed says anything about it."""
    forged = Device("wrist-1", 99)
    forged.batch()
    hands.take(device, forged.batch())
    assert hands.take(other, device.batch()) == [Reason.WRONG_DEVICE]
    hands.service._tell()
    assert faults(hands.service._publisher._registry) == {}


def test_registry_that_is_locked_holds_up_nothing_but_itself(hands, data, device, caplog, monkeypatch):
    """Somebody's shell has it: batches are published and receipted, one line says what waits, and later it is there."""
    hands.service._registry._db.execute("PRAGMA busy_timeout = 0")
    caplog.set_level("INFO")
    with closing(sqlite3.connect(data / "registry.db", isolation_level=None)) as somebody:
        somebody.execute("BEGIN IMMEDIATE")
        for _ in range(3):
            hands.take(device, gap(device))
            hands.service._publish_once()
    assert hands.writer.checkpoint.size == hands.writer.size
    assert hands.placed() == [2]
    assert activity(hands.service._registry) == {}
    monkeypatch.setattr(hands.service._publisher, "_registry_away_until_s", 0.0)
    hands.service._tell()
    assert activity(hands.service._registry)[device.key_id].batches == 3
    said = [record.message for record in caplog.records if "registry" in record.message]
    assert said[0].endswith("database is locked; assignments, erasures and notices wait, the log does not")
    assert said[1:] == ["the registry is there again"]


def test_gap_whose_payload_is_damaged_is_a_gap_without_a_window(hands, device):
    """What is wrong with the payload the audit names; the log does not stop for it."""
    hands.take(device, gap(device))
    hands.storage._writing.execute("UPDATE payloads SET payload = x'c1'")
    hands.service._publish_once()
    [noted] = notices(hands.service._registry)
    assert (noted.lost, noted.from_ns) == (5000, None)


def test_device_was_heard_when_its_own_batch_was_published(hands, device, other):
    """Walked anew, it is not heard again because somebody else's batch has just come and waits."""
    hands.take(device, device.batch())
    hands.service._publish_once()
    first = hands.storage.published()
    with hands.service._registry.transaction() as database:
        database.execute("DELETE FROM activity")
        database.execute("DELETE FROM walked")
    hands.take(other, other.batch())
    Notices(hands.service._registry, hands.storage).walk(lambda key_id: key_id.hex())
    found = activity(hands.service._registry)
    assert found[device.key_id].heard_ns == first.recorded_at_ns
    assert found[other.key_id].heard_ns > first.recorded_at_ns


def test_status_says_why_it_is_not_connected_and_who_is_not_known(hands, data, tmp_path, capsys):
    """The names on whose topics batches by unknown keys came are told, and they are not without bound."""
    for device in (Device(f"bed-{number}", number) for number in range(10, 31)):
        hands.take(device, device.batch())
    look = hands.service._publisher.status(hands.service._intake, hands.service._ingest)
    assert look.strangers == [f"bed-{number}" for number in range(10, 26)]
    assert (look.devices_enrolled, look.broker_fault) == (2, "not connected yet")
    changes = {"broker_fault": "did not answer", "broker_contested": True, "strangers": ["bed-10"]}
    write_status(data, dataclasses.replace(look, **changes))
    config = tmp_path / "status.toml"
    config.write_text(f'data = "{data}"\n')
    assert main(["aggregator", "status", "--config", str(config)]) == 0
    said = capsys.readouterr().out
    assert "NOT CONNECTED: did not answer; it ends our connection again and again" in said
    assert "unknown_key 21 (as bed-10: not enrolled here" in said
