"""Enrolment: a registrar signs devices in; everything else in the folder is named and left alone."""

import logging
from contextlib import closing

import pytest

from aggregator.enrolment import FOLDER, Keys
from aggregator.registry import Registry
from ledger.entry import Commitment, KeyStateEntry, parse_entry
from ledger.events import Enrolment, enrol
from ledger.keys import Ed25519Signer
from ledger.writer.create import REGISTRAR_KEY, load_log_keys, load_signer
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter

from .devices import ORIGIN, Device


def start(data, storage, registry):
    writer = LogWriter(storage, load_log_keys(data).signers, lambda: 2**60)
    return writer, Keys(data, writer, storage, registry)


def kinds(storage, writer):
    return [type(parse_entry(entry)) for entry in storage.entries(0, writer.size)]


def test_enrolment_is_one_entry_however_often_it_is_read(data, device):
    """A restart finds the key in the log and enrols nobody twice."""
    for _ in range(3):
        with LocalStorage(data) as storage, closing(Registry(data)) as registry:
            writer, keys = start(data, storage, registry)
            keys.scan()
            assert kinds(storage, writer) == [Enrolment, KeyStateEntry]
            assert keys.find(device.key_id).device == "wrist-1"


def test_enrolment_dropped_while_running_is_taken(data, device):
    """The folder is looked at again and again."""
    with LocalStorage(data) as storage, closing(Registry(data)) as registry:
        writer, keys = start(data, storage, registry)
        late = Device("wrist-3", 3)
        assert keys.find(late.key_id) is None
        late.enrol(data)
        keys.scan()
        assert keys.find(late.key_id).device == "wrist-3"
        assert kinds(storage, writer) == [Enrolment, KeyStateEntry] * 2


def test_registry_that_was_lost_is_filled_again(data, device):
    """A crash between log and registry heals, because the file is still in the folder."""
    with LocalStorage(data) as storage, closing(Registry(data)) as registry:
        start(data, storage, registry)
        registry._db.execute("DELETE FROM devices")
    with LocalStorage(data) as storage, closing(Registry(data)) as registry:
        writer, keys = start(data, storage, registry)
        assert keys.find(device.key_id).device == "wrist-1"
        assert kinds(storage, writer) == [Enrolment, KeyStateEntry]


def forged(data):
    good = enrol(Ed25519Signer(b"\x05" * 32), load_signer(data / REGISTRAR_KEY).key, ORIGIN)
    stranger = enrol(Ed25519Signer(b"\x05" * 32), Ed25519Signer(b"\x06" * 32), ORIGIN)
    elsewhere = enrol(Ed25519Signer(b"\x05" * 32), load_signer(data / REGISTRAR_KEY).key, "other.example/log")
    flipped = good.encode()[:-1] + bytes([good.encode()[-1] ^ 1])
    return {
        "garbage": b"garbage",
        "empty": b"",
        "stranger": stranger.encode(),
        "elsewhere": elsewhere.encode(),
        "flipped": flipped,
        "commitment": Commitment(bytes(32)).encode(),
        "Bad Name": good.encode(),
    }


@pytest.mark.parametrize("case", ["garbage", "empty", "stranger", "elsewhere", "flipped", "commitment", "Bad Name"])
def test_enrolment_that_is_no_good_is_named_and_left(data, device, case, caplog):
    """Nothing but an enrolment by a trusted registrar, for this log, enters it; the good one beside it does."""
    (data / FOLDER / f"{case}.enrol").write_bytes(forged(data)[case])
    with LocalStorage(data) as storage, closing(Registry(data)) as registry, caplog.at_level(logging.WARNING):
        writer, keys = start(data, storage, registry)
        keys.scan()
        assert len(keys) == 1
        assert kinds(storage, writer) == [Enrolment, KeyStateEntry]
    assert [f"{case}.enrol not taken" in record.message for record in caplog.records] == [True]
