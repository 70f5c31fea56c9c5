"""Payloads that the log lost come back from the devices that still keep them, and from nobody else."""

import pytest

from aggregator.mqtt import Message
from aggregator.publisher import ASK_FOR
from aggregator.status import glance, read_status
from ledger.messages import Reason, Status, Stored, Wanted

from .devices import Device


def lose(hands, *indexes):
    """The payloads of these entries are gone, as after replaying a log from its public files."""
    database = hands.storage._writing
    for index in indexes:
        database.execute("INSERT INTO missing SELECT chain, epoch, seq FROM entries WHERE idx = ?", (index,))
        database.execute("DELETE FROM payloads WHERE idx = ?", (index,))


def online(hands, device):
    """The device says that it is there."""
    status = Status(online=True, size=0).encode()
    hands.service._ingest._hear(Message(device.name, "status", status, lambda: None))


@pytest.fixture
def lost(hands, device):
    """Four batches on the log, two of which have lost their payload; their envelopes, and their indexes."""
    envelopes = [device.batch() for _ in range(4)]
    hands.take(device, *envelopes)
    indexes = [message.index for _, message in hands.told]
    kept = [hands.storage.payload(index) for index in indexes]
    lose(hands, *indexes[1:3])
    return envelopes, indexes, kept


def test_repeated_batch_whose_payload_is_lost_brings_it_back(hands, device, lost):
    """It is answered like any that is sent again, logged no second time, and counted."""
    envelopes, indexes, kept = lost
    size = hands.writer.size
    assert hands.take(device, *envelopes) == [Stored] * 4
    assert [message.index for _, message in hands.told] == indexes
    assert [hands.storage.payload(index) for index in indexes] == kept
    assert hands.counts == {"admitted": 4, "repeated": 2, "returned": 2}
    assert (hands.writer.size, hands.storage.missing_payload_count()) == (size, 0)
    hands.check()


def test_payload_that_does_not_lead_to_the_root_is_not_put_back(hands, device, lost):
    """The envelope is checked as ever: readings and salts that nobody signed do not become the log's."""
    envelopes, indexes, _ = lost
    flipped = envelopes[1][:-1] + bytes([envelopes[1][-1] ^ 1])
    assert hands.take(device, flipped) == [Reason.BAD_ROOT]
    assert hands.take(device, envelopes[1] + b"\x00") == [Reason.MALFORMED]
    assert hands.storage.payload(indexes[1]) is None


def test_only_the_device_itself_brings_a_payload_back(hands, device, other, lost):
    """Another device that holds the envelope has no business with it."""
    envelopes, indexes, _ = lost
    assert hands.take(other, envelopes[1]) == [Reason.WRONG_DEVICE]
    assert hands.take(device, Device(device.name, device.number).batch(value=99)) == [Reason.EQUIVOCATION]
    assert hands.storage.payload(indexes[1]) is None


def test_same_payload_twice_in_a_group_is_put_back_once(hands, device, lost):
    """Both copies are answered."""
    envelopes, indexes, kept = lost
    assert hands.take(device, envelopes[1], envelopes[1]) == [Stored, Stored]
    assert hands.storage.payload(indexes[1]) == kept[1]
    hands.service._tell()
    assert read_status(hands.data).returned_payloads == 1


def test_devices_that_are_there_are_asked_now_and_then(hands, device, other, lost):
    """A bounded number at a time, newest first, by `wanted`; status says how many are missing."""
    for _ in range(ASK_FOR + 5):
        hands.take(device, device.batch())
        lose(hands, hands.told[0][1].index)
    hands.take(other, other.batch())
    lose(hands, hands.told[0][1].index)
    online(hands, device)
    hands.told.clear()
    hands.service._tell()
    wanted = [(name, message) for name, message in hands.told if isinstance(message, Wanted)]
    assert [name for name, _ in wanted] == ["wrist-1"]
    assert wanted[0][1].places == tuple((0, seq) for seq in range(ASK_FOR + 8, 8, -1))
    status = read_status(hands.data)
    assert status.missing_payloads == ASK_FOR + 5 + 2 + 1
    assert "40 batches have LOST readings; devices are asked for them, but for" in glance(status)["missing"]
    hands.told.clear()
    hands.service._tell()
    assert not [message for _, message in hands.told if isinstance(message, Wanted)]
    hands.service._publisher._asked_s = float("-inf")
    hands.service._tell()
    assert [message for _, message in hands.told if isinstance(message, Wanted)]


def test_nobody_is_asked_where_nothing_is_missing(hands, device):
    """The usual case."""
    hands.take(device, device.batch())
    online(hands, device)
    hands.told.clear()
    hands.service._tell()
    assert not [message for _, message in hands.told if isinstance(message, Wanted)]
    assert "missing" not in glance(read_status(hands.data))
