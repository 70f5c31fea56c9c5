"""The place between network and ingest: a share for each device, served in turn, and an end to all of it."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator import intake as intake_module
from aggregator.intake import Intake, Verdict
from aggregator.mqtt import Message
from aggregator.seldom import Seldom
from ledger.envelope import MAX_ENVELOPE

TAKEN, OVER, FULL = Verdict.TAKEN, Verdict.OVER_QUOTA, Verdict.FULL


def message(device, payload=b"x"):
    return Message(device, "batch", payload, lambda: None)


@pytest.fixture
def intake():
    """All but `stranger-...` are enrolled."""
    return Intake(lambda device: not device.startswith("stranger"))


def order(group):
    return [item.device for item in group]


def test_messages_are_served_one_of_each_device_in_turn(intake):
    """Whoever has much waiting goes to the end of the row after each."""
    for _ in range(5):
        intake.put(message("flood"), 0)
    for device in ("a", "b", "a"):
        intake.put(message(device), 0)
    assert order(intake.take(0)) == ["flood", "a", "b", "flood", "a", "flood", "flood", "flood"]
    assert (len(intake), intake.size) == (0, 0)
    assert intake.take(0) == []


def test_device_beyond_its_share_is_refused_and_others_are_not(intake, monkeypatch):
    """By messages or by bytes; what was taken of it stays, and is served."""
    monkeypatch.setattr(intake_module, "SHARE_MESSAGES", 3)
    monkeypatch.setattr(intake_module, "SHARE_BYTES", 100)
    assert [intake.put(message("flood"), 0) for _ in range(4)] == [TAKEN, TAKEN, TAKEN, OVER]
    assert [intake.put(message("large", bytes(60)), 0) for _ in range(2)] == [TAKEN, OVER]
    assert intake.put(message("other"), 0) == TAKEN
    assert intake.over_quota() == {"over_quota": 2}
    assert len(intake.take(0)) == 5
    assert intake.put(message("flood"), 0) == TAKEN


def test_share_of_a_device_holds_all_that_an_honest_one_has_under_way(intake):
    """256 batches or 4 MB, delivered twice."""
    for size in (100, 4 * 1024 * 1024 // 256):
        name = f"wrist-{size}"
        assert {intake.put(message(name, bytes(size)), 0) for _ in range(512)} == {TAKEN}


def test_unknown_devices_share_one_small_place(intake, monkeypatch):
    """As many names as anyone can think of take no more memory than one."""
    monkeypatch.setattr(intake_module, "STRANGERS_MESSAGES", 4)
    assert [intake.put(message(f"stranger-{number}"), 0) for number in range(6)] == [TAKEN] * 4 + [OVER] * 2
    intake.put(message("a"), 0)
    assert order(intake.take(0))[:2] == ["stranger-0", "a"]
    assert intake.over_quota() == {"over_quota_unknown": 2}


def test_group_is_bounded_by_messages_and_bytes(intake):
    """A commit holds up those who come after it for no longer than this takes."""
    for number in range(300):
        intake.put(message(f"a{number}"), 0)
    assert len(intake.take(0)) == intake_module.GROUP_MESSAGES
    intake.take(0)
    for number in range(20):
        intake.put(message(f"a{number}", bytes(MAX_ENVELOPE)), 0)
    group = intake.take(0)
    assert sum(len(item.payload) for item in group) == intake_module.GROUP_BYTES
    assert len(intake.take(0)) == 20 - len(group) - 4
    assert len(intake.take(0)) == 4


def test_full_intake_makes_the_caller_wait_until_something_is_taken(intake, monkeypatch):
    """Back-pressure: nothing is refused for want of room among all devices, and nothing is lost."""
    monkeypatch.setattr(intake_module, "TOTAL_BYTES", 10)
    assert intake.put(message("a", bytes(10)), 0) == TAKEN
    assert intake.put(message("b"), 0) == FULL
    verdicts = []
    waiting = threading.Thread(target=lambda: verdicts.append(intake.put(message("b"), 20)))
    waiting.start()
    assert order(intake.take(20)) == ["a"]
    waiting.join(20)
    assert verdicts == [TAKEN]
    assert order(intake.take(0)) == ["b"]


steps = st.lists(st.tuples(st.sampled_from(["a", "b", "c", "stranger-1", "stranger-2"]), st.integers(0, 40)))


@settings(max_examples=200, deadline=None)
@given(steps, st.integers(1, 5))
def test_each_devices_messages_leave_in_the_order_they_came(arrivals, group):
    """Nothing that was taken is lost, doubled or overtaken by its own device's, and the counts are right."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("SHARE_MESSAGES", 4),
            ("SHARE_BYTES", 90),
            ("TOTAL_MESSAGES", 9),
            ("GROUP_MESSAGES", group),
        ):
            patch.setattr(intake_module, name, value)
        intake = Intake(lambda device: not device.startswith("stranger"))
        waiting, came, left = [], [], []
        for number, (device, size) in enumerate(arrivals):
            item = message(device, bytes([number % 256]) * size)
            verdict = intake.put(item, 0)
            if verdict is TAKEN:
                waiting.append(item)
                came.append(item)
            elif verdict is FULL:
                for gone in (taken := intake.take(0)):
                    waiting.remove(gone)
                left += taken
            assert (len(intake), intake.size) == (len(waiting), sum(len(item.payload) for item in waiting))
            assert len(waiting) <= 9
        while taken := intake.take(0):
            left += taken
    for owner in (("a",), ("b",), ("c",), ("stranger-1", "stranger-2")):
        assert [item for item in left if item.device in owner] == [item for item in came if item.device in owner]


def test_seldom_lets_each_name_through_once_in_a_while_and_remembers_few():
    """The oldest name is forgotten when there are too many."""
    now = 0.0
    seldom = Seldom(10.0, 2, lambda: now)
    assert [seldom.may("a"), seldom.may("a"), seldom.may("b")] == [True, False, True]
    now = 9.0
    assert not seldom.may("a")
    now = 10.0
    assert seldom.may("a")
    assert seldom.may("c")
    assert len(seldom._last) == 2
    assert not seldom.may("a")
