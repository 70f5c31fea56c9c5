"""Requests to erase, carried out by the running aggregator: on the log once, everywhere gone, and devices are told."""

import time
from contextlib import closing

import pytest

from aggregator import erased_notices
from aggregator import erasures as erasures_module
from aggregator.backup_keys import DATABASE as BACKUP_KEYS
from aggregator.backup_keys import Keyring
from aggregator.config import AggregatorConfig
from aggregator.erasures import Target, record, requests
from aggregator.notices import ERASURE, describe, notices
from aggregator.registry import Registry
from ledger.batch import Anchor
from ledger.entry import Erased
from ledger.leaves import Leaf
from ledger.messages import ErasedNotice, Receipt, parse_message
from ledger.policy import parse_policy
from ledger.receipt import verify_erased, verify_receipt
from ledger.writer.create import POLICY
from ledger.writer.local import LocalStorage
from ledger.writer.payload import parse_payload
from ledger.writer.storage import Place, StorageError
from vitalseal.errors import UserError

from .devices import ORIGIN
from .hands import by_hand

REASON = "withdrawn"


@pytest.fixture(autouse=True)
def long_memory(monkeypatch):
    """The log of these tests was published long ago."""
    monkeypatch.setattr(erased_notices, "TELL_FOR_NS", 2**62)


@pytest.fixture
def batches(hands, device):
    """Three batches of three readings of one device on the log, published; their indexes."""
    hands.take(device, *(device.batch(value=70 + at) for at in range(3)))
    indexes = [message.index for _, message in hands.told]
    hands.service._publish_once()
    return indexes


def target(hands, device, index, *leaves):
    place = next(
        Place(device.key_id, 0, seq)
        for seq in range(device.seq)
        if hands.storage.find(Place(device.key_id, 0, seq))[0] == index
    )
    return Target(place, index, leaves, frozenset({device.source}))


def ask(hands, device, *wanted):
    """These leaves of these batches are requested."""
    targets = [target(hands, device, index, *leaves) for index, *leaves in wanted]
    return record(hands.service._registry, targets, REASON, time.time_ns())


def shown(hands, index):
    leaves = parse_payload(hands.storage.payload(index))
    return [number for number, leaf in enumerate(leaves) if isinstance(leaf, Leaf)]


def entries(hands):
    return [(entry.log_index, entry.leaves) for entry in hands.entries(Erased)]


def undone(hands):
    return [request.id for request in requests(hands.service._registry) if request.done_at_ns is None]


def test_request_is_carried_out_and_done_once(hands, device, batches):
    """The entry, then the payload, then done; the next turns find nothing to do."""
    (number,) = ask(hands, device, (batches[1], 2))
    for _ in range(3):
        hands.service._publish_once()
    assert entries(hands) == [(batches[1], (2,))]
    assert shown(hands, batches[1]) == [0, 1, 3]
    (request,) = requests(hands.service._registry)
    assert (request.id, request.entry_index, request.reason) == (number, hands.writer.size - 1, REASON)
    assert request.done_at_ns is not None
    assert hands.check(erased=1).erased == 1


def test_last_readings_of_a_batch_take_its_info_along(hands, device, batches):
    """Its times and sources say something of who wore it; the first of two requests leaves it, the second does not."""
    ask(hands, device, (batches[0], 1), (batches[0], 2, 3), (batches[1], 1, 2, 3))
    hands.service._publish_once()
    hands.service._publish_once()
    assert sorted(entries(hands)) == [(batches[0], (0, 2, 3)), (batches[0], (1,)), (batches[1], (0, 1, 2, 3))]
    assert (shown(hands, batches[0]), shown(hands, batches[1])) == ([], [])
    assert undone(hands) == []
    hands.check(erased=3)


def test_same_readings_requested_twice_are_one_entry(hands, device, batches):
    """Twice at once, and once more later: the entry that names them is everyone's."""
    ask(hands, device, (batches[0], 1, 2), (batches[0], 2))
    hands.service._publish_once()
    ask(hands, device, (batches[0], 1))
    hands.service._publish_once()
    hands.service._publish_once()
    assert entries(hands) == [(batches[0], (1, 2))]
    assert undone(hands) == []
    assert {request.entry_index for request in requests(hands.service._registry)} == {hands.writer.size - 1}


def test_request_of_what_a_batch_does_not_have_is_never_on_the_log(hands, device, batches, caplog):
    """Whoever edits the registry can make no entry that breaks the log; those behind it are carried out."""
    ask(hands, device, (batches[0], 4), (batches[0], 0, 1), (batches[0],), (batches[1], 1))
    stranger = Target(Place(bytes(32), 0, 0), 3, (1,), frozenset())
    record(hands.service._registry, [stranger], REASON, 1)
    hands.service._publish_once()
    hands.service._publish_once()
    assert entries(hands) == [(batches[1], (1,))]
    assert len(undone(hands)) == 4
    assert caplog.text.count("names readings that entry") == 3  # each once
    hands.check(erased=1)


def test_requests_that_have_to_wait_hold_up_nobody(hands, device, batches, monkeypatch):
    """More of them than a portion: each turn looks at the next ones."""
    monkeypatch.setattr(erasures_module, "PORTION", 2)
    ask(hands, device, *((batches[0], 9) for _ in range(5)), (batches[2], 3))
    for _ in range(4):
        hands.service._publish_once()
    assert entries(hands) == [(batches[2], (3,))]


@pytest.mark.parametrize("after", [False, True], ids=["not applied", "applied"])
@pytest.mark.parametrize("name", ["append", "erase"])
def test_killed_anywhere_it_is_finished_at_the_next_start(hands, data, device, batches, monkeypatch, name, after):
    """Before or behind the entry, before or behind the payload: one entry in the end, nothing in clear, done."""

    def fails(call):
        def work(*args):
            if after:
                call(*args)
            raise StorageError("injected")

        return work

    ask(hands, device, (batches[0], 1), (batches[1], 1, 2, 3))
    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, name, fails(getattr(LocalStorage, name)))
        with pytest.raises(StorageError, match="injected"):
            hands.service._publish_once()
    hands.storage.close()
    with by_hand(data) as again:
        again.service._publish_once()
        again.service._publish_once()
        assert sorted(entries(again)) == [(batches[0], (1,)), (batches[1], (0, 1, 2, 3))]
        assert (shown(again, batches[0]), shown(again, batches[1])) == ([0, 2, 3], [])
        assert undone(again) == []
        again.check(erased=2)


@pytest.mark.parametrize("fail_at", range(1, 4))
def test_registry_that_fails_at_any_write_changes_nothing_but_the_time(hands, device, batches, monkeypatch, fail_at):
    """What could not be noted is found out again: no second entry."""
    ask(hands, device, (batches[0], 1), (batches[1], 2))
    transaction, left = Registry.transaction, [fail_at]

    def failing(self):
        left[0] -= 1
        if left[0] == 0:
            raise UserError("locked")
        return transaction(self)

    monkeypatch.setattr(Registry, "transaction", failing)
    for _ in range(4):
        monkeypatch.setattr(hands.service._publisher, "_registry_away_until_s", None)
        hands.service._publish_once()
    assert left[0] < 1
    assert entries(hands) == [(batches[0], (1,)), (batches[1], (2,))]
    assert undone(hands) == []


def test_request_is_done_only_when_its_entry_is_published(hands, device, batches, monkeypatch):
    """Until then nobody else has it: a restore would know of neither entry nor request."""
    ask(hands, device, (batches[0], 1))
    with monkeypatch.context() as patch:
        patch.setattr(hands.writer, "publish", lambda: False)
        hands.service._publish_once()
        hands.service._publish_once()
        assert shown(hands, batches[0]) == [0, 2, 3]
        assert undone(hands)
    hands.service._publish_once()
    hands.service._publish_once()
    assert not undone(hands)


def test_entry_that_was_lost_with_the_end_of_the_log_is_committed_again(hands, device, batches):
    """The registry of a later moment than the log that was restored: its word on entries is looked up."""
    ask(hands, device, (batches[0], 1))
    with hands.service._registry.transaction() as database:
        database.execute("UPDATE erasures SET entry_index = ?", (batches[1],))
    hands.service._publish_once()
    hands.service._publish_once()
    hands.service._publish_once()
    assert entries(hands) == [(batches[0], (1,))]
    assert undone(hands) == []


def test_keys_of_backups_are_destroyed_before_it_is_done(hands, data, device, batches):
    """Those of the sources, and of the device's infos where the info went."""
    with closing(Keyring(data / BACKUP_KEYS)) as keys:
        subjects = (device.source, device.key_id, b"another")
        before = {subject: key.number for subject, key in keys.of(subjects).items()}
    ask(hands, device, (batches[0], 1))
    for _ in range(2):
        hands.service._publish_once()
    with closing(Keyring(data / BACKUP_KEYS)) as keys:
        after = {subject: key.number for subject, key in keys.of(subjects).items()}
    assert [subject for subject in subjects if before[subject] != after[subject]] == [device.source]
    ask(hands, device, (batches[1], 1, 2, 3))
    for _ in range(2):
        hands.service._publish_once()
    with closing(Keyring(data / BACKUP_KEYS)) as keys:
        last = {subject: key.number for subject, key in keys.of(subjects).items()}
    assert [subject for subject in subjects if after[subject] != last[subject]] == [device.source, device.key_id]


def test_keys_that_are_away_delay_the_end_alone(hands, device, batches, monkeypatch, caplog):
    """The volume is not mounted: erased, told of once, done when it is back."""

    def away(_config, _subjects):
        raise UserError("keys: is not there")

    caplog.set_level("INFO")
    ask(hands, device, (batches[0], 1))
    with monkeypatch.context() as patch:
        patch.setattr(erasures_module, "destroy", away)
        for _ in range(3):
            hands.service._publish_once()
    assert shown(hands, batches[0]) == [0, 2, 3]
    assert undone(hands)
    assert caplog.text.count("keys: is not there; erasures wait for it") == 1
    monkeypatch.setattr(hands.service._publisher._erasures, "_keys_away_until_s", 0.0)
    hands.service._publish_once()
    assert not undone(hands)
    assert "the keys of backups are there again" in caplog.text


def test_erasure_is_a_notice_of_its_device(hands, device, batches):
    """Derived from the log, as gaps are: who erased is not on it."""
    ask(hands, device, (batches[2], 1, 2, 3))
    hands.service._publish_once()
    (noted,) = notices(hands.service._registry)
    assert (noted.kind, noted.key_id, noted.seq, noted.lost) == (ERASURE, device.key_id, 2, 3)
    assert describe(noted) == f"3 readings were erased (epoch 0 seq 2, entry {noted.index})"


def told_of(hands, device):
    """The notices that the device was sent, and forgets those."""
    found = [message for name, message in hands.told if name == device.name and isinstance(message, ErasedNotice)]
    hands.told.clear()
    return found


def online(hands, device):
    """The device says that it is there, and has its receipts."""
    hands.status(device, hands.writer.checkpoint.size)


def published(hands):
    """What the device would verify now."""
    checkpoint = hands.writer.checkpoint
    return Anchor(checkpoint.size, checkpoint.root)


def test_device_is_told_when_the_entry_is_published_and_verifies_it(hands, data, device, other, batches):
    """By its policy, from the checkpoint that it stated; another device hears nothing."""
    policy = parse_policy((data / POLICY).read_bytes())
    for each in (device, other):
        online(hands, each)
    hands.service._tell()
    last = published(hands)
    ask(hands, device, (batches[0], 1, 2, 3), (batches[2], 3))
    hands.told.clear()
    hands.service._publish_once()
    hands.service._tell()
    assert not [name for name, message in hands.told if name == other.name]
    (notice,) = told_of(hands, device)
    assert parse_message(notice.encode()) == notice
    assert notice.old_size == last.size
    checkpoint = verify_receipt(notice, policy, ORIGIN, last)
    assert checkpoint.size == hands.writer.checkpoint.size
    for item in notice.batches:
        verify_erased(item, checkpoint)
    assert [(item.seq, item.entry.log_index, item.entry.leaves) for item in notice.batches] == [
        (0, batches[0], (0, 1, 2, 3)),
        (2, batches[2], (3,)),
    ]
    hands.service._tell()
    assert told_of(hands, device) == []


def test_device_is_told_again_whenever_it_connects(hands, data, device, batches):
    """It answers nothing; over a restart of the aggregator too, and from where it stands."""
    ask(hands, device, (batches[0], 1))
    hands.service._publish_once()
    assert told_of(hands, device) == []
    for size in (0, hands.writer.checkpoint.size):
        hands.status(device, size)
        hands.told.clear()
        for _ in range(3):
            hands.service._tell()
        kinds = [type(message) for _, message in hands.told]
        assert kinds == ([ErasedNotice] if size else [Receipt, ErasedNotice])
        assert [notice.old_size for notice in told_of(hands, device)] == [hands.writer.checkpoint.size]
    hands.storage.close()
    with by_hand(data) as again:
        again.status(device, 2)
        for _ in range(2):
            again.service._tell()
        assert [notice.old_size for notice in told_of(again, device)] == [again.writer.checkpoint.size]


def test_device_with_very_many_is_told_at_an_easy_pace(hands, device, batches, monkeypatch):
    """A portion a turn; one that connects anew meanwhile goes on, and then hears of all once more."""
    monkeypatch.setattr(erased_notices, "AT_ONCE", 2)
    hands.take(device, *(device.batch(value=80 + at) for at in range(6)))
    every = [hands.storage.find(Place(device.key_id, 0, seq))[0] for seq in range(9)]
    ask(hands, device, *((index, 1) for index in every))
    hands.service._publish_once()
    hands.service._publish_once()
    online(hands, device)
    hands.told.clear()
    heard = []
    for turn in range(12):
        if turn == 1:
            online(hands, device)
        hands.service._tell()
        heard.append([item.seq for notice in told_of(hands, device) for item in notice.batches])
    once = [[0, 1], [2, 3], [4, 5], [6, 7], [8]]
    assert heard == [*once, *once, [], []]


def test_device_that_went_away_is_not_told_and_nobody_is_kept_waiting(hands, device, other, batches):
    """Nothing is sent to who is not there; what waits for him stays."""
    ask(hands, device, (batches[0], 1))
    online(hands, device)
    hands.service._publisher._meter.heard(device.name, online=False)
    hands.told.clear()
    hands.service._publish_once()
    hands.service._tell()
    assert told_of(hands, device) == []
    online(hands, device)
    hands.service._tell()
    assert len(told_of(hands, device)) == 1


def test_device_is_not_told_of_what_is_long_ago(hands, device, batches, monkeypatch):
    """No outbox keeps a batch for that long; and a broker that takes no more is left alone."""
    ask(hands, device, (batches[0], 1))
    hands.service._publish_once()
    online(hands, device)
    hands.told.clear()
    hands.connected = False
    hands.service._tell()
    hands.connected = True
    with monkeypatch.context() as patch:
        patch.setattr(erased_notices, "TELL_FOR_NS", 400 * 86_400 * 10**9)
        hands.service._tell()
    assert told_of(hands, device) == []
    online(hands, device)
    hands.service._tell()
    assert len(told_of(hands, device)) == 1


def test_receipts_and_notices_lead_a_device_on_in_the_order_in_which_they_come(hands, data, device, batches):
    """Each starts where the one before it led: a device that verifies them one after another finds none stale."""
    policy = parse_policy((data / POLICY).read_bytes())
    hands.status(device, 0)
    last = None
    ask(hands, device, (batches[0], 1))
    hands.told.clear()
    kinds = set()
    for value in range(90, 94):
        hands.take(device, device.batch(value=value))
        ask(hands, device, (batches[1], value % 3 + 1))
        hands.service._publish_once()
        hands.service._tell()
        for message in [message for _, message in hands.told if isinstance(message, Receipt | ErasedNotice)]:
            checkpoint = verify_receipt(message, policy, ORIGIN, last)
            last = Anchor(checkpoint.size, checkpoint.root)
            kinds.add(type(message))
    assert kinds == {Receipt, ErasedNotice}


def test_configuration_is_the_aggregators_own(hands, data):
    """Backups' keys are found by it."""
    assert hands.service._publisher._erasures._config == AggregatorConfig(data)
