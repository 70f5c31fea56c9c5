"""Who floods is shut out, here and in the broker's lists; an honest gateway, however fast it catches up, is not."""

import logging

import pytest

from aggregator import mqtt as mqtt_module
from aggregator.config import BrokerConfig
from aggregator.floods import BURST, FILE, RATE, SHUT_OUT_S, Floods, read_floods
from aggregator.mqtt import BrokerConnection, Message
from ledger.messages import Reason
from vitalseal.errors import UserError

from .offices import Office


class Times:
    """Both clocks."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def times():
    return Times()


def test_flood_is_found_and_ends(tmp_path, times):
    """After the burst; for ten minutes; the file says until when, and forgets who is back."""
    floods = Floods(tmp_path, times, times)
    sent = 1
    while not floods.found("evil", 0):
        sent += 1
    assert sent == BURST + 1
    assert (floods.is_shut_out("evil"), floods.is_shut_out("good")) == (True, False)
    assert read_floods(tmp_path, times.now_s) == {"evil": times.now_s + SHUT_OUT_S}
    times.now_s += SHUT_OUT_S - 1
    assert floods.is_shut_out("evil")
    while not floods.found("worse", 0):
        pass
    assert set(read_floods(tmp_path, times.now_s)) == {"evil", "worse"}
    times.now_s += 1
    assert not floods.is_shut_out("evil")
    assert set(read_floods(tmp_path, times.now_s)) == {"worse"}
    assert not floods.found("evil", 0)


def test_gateway_that_catches_up_is_no_flood(tmp_path, times):
    """Hundreds of batches a second, or megabytes, for as long as it takes; a few bytes more a second are too many."""
    floods = Floods(tmp_path, times, times)
    for _ in range(60):
        times.now_s += 1
        assert not any(floods.found("busy", 0) for _ in range(int(RATE)))
        assert not any(floods.found("large", 250_000) for _ in range(50))
    found = False
    for _ in range(10):
        times.now_s += 1
        found = found or any(floods.found("busy", 0) for _ in range(2 * int(RATE)))
    assert found


@pytest.mark.parametrize("content", ["x", "[]", '{"a": "b"}', "[" * 100_000])
def test_file_that_is_broken_is_one_line(tmp_path, content):
    """It names the file; a time that is too far away counts for nothing."""
    (tmp_path / FILE).write_text(content)
    with pytest.raises(UserError, match=FILE):
        read_floods(tmp_path, 0)
    (tmp_path / FILE).write_text('{"a": 1e9}')
    assert read_floods(tmp_path, 0) == {}


def test_flood_is_thrown_away_counted_and_told(hands, device, other, caplog):
    """Acknowledged at once, so that the broker can hand over what others sent; a strange name is not remembered."""
    service = hands.service
    service._floods = Floods(hands.data, lambda: 0.0)
    acknowledged = []

    def receive(name):
        service._receive(Message(name, "batch", b"x", lambda: acknowledged.append(name)))

    with caplog.at_level(logging.CRITICAL):
        while "wrist-1" not in read_floods(hands.data, service._floods._clock()):
            receive("wrist-1")
            service._intake.take(0)
            receive("nobody")
            service._intake.take(0)
        receive("wrist-2")
    assert len(service._intake) == 1
    assert acknowledged == ["wrist-1"]
    assert service._intake.over_quota() == {"over_quota": 1}
    [(name, reject)] = hands.told
    assert (name, reject.reason) == ("wrist-1", Reason.OVER_QUOTA)
    assert [record.message for record in caplog.records] == [
        "wrist-1 FLOODS and is shut out for 600 s; what it sends is thrown away"
    ]
    assert set(service._floods._levels) == {"wrist-2"}
    assert service._faults.drain() == {("wrist-1", "flood"): 1}


def test_broken_file_does_not_let_a_flood_in(hands, device, caplog, monkeypatch):
    """It is shut out here; that the broker is not told is said."""
    (hands.data / FILE).write_text("broken")
    service = hands.service
    monkeypatch.setattr("aggregator.floods.BURST", 0.0)
    service._receive(Message("wrist-1", "batch", b"x", lambda: None))
    assert service._floods.is_shut_out("wrist-1")
    assert "the broker cannot be told to shut wrist-1 out" in caplog.text
    assert "wrist-1 FLOODS" in caplog.text


def test_broker_is_told_of_who_floods(data):
    """The desk's process denies it every topic, and takes that back."""
    with Office(data) as office:
        floods = Floods(data, clock=lambda: office.now().timestamp())
        office.desk.keep()
        while not floods.found("wrist-1", 0):
            pass
        assert office.desk.keep() is True
        acl = data / "broker" / "acl"
        assert "\nuser wrist-1\ntopic deny #\n" in acl.read_text()
        office.later(seconds=SHUT_OUT_S)
        assert office.desk.keep() is True
        assert "wrist-1" not in acl.read_text()


def test_answers_to_one_device_leave_room_for_others(monkeypatch):
    """What one device is told about its flood costs no other its answer."""
    monkeypatch.setattr(mqtt_module, "OUTGOING_PER_DEVICE", 2)
    connection = BrokerConnection(BrokerConfig(), lambda _: None)
    connection._client = connection._make_client()
    connection.connected.set()
    sent = []

    class Info:
        def is_published(self):
            return len(sent) > 4

    monkeypatch.setattr(connection._client, "publish", lambda *a, **_: (sent.append(a), Info())[1])
    for _ in range(3):
        connection.send("evil", b"x")
    connection.send("good", b"x")
    assert (len(sent), connection.dropped) == (3, 1)
    sent += [(), ()]
    connection.send("evil", b"x")
    assert (len(sent), connection.outgoing(), dict(connection._outgoing_to)) == (6, 0, {})
