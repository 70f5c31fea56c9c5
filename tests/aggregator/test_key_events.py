"""Keys that end, clones, and the other algorithm: what the running service makes of them, and what it logs."""

import logging
import sqlite3
from collections import Counter
from contextlib import closing

import pytest

from aggregator.enrolment import FOLDER
from aggregator.mqtt import Message
from aggregator.registry import Registry
from aggregator.status import read_status
from ledger.batch import Notice, NoticeKind
from ledger.entry import Equivocation
from ledger.errors import VerificationError
from ledger.events import enrol, revoke, rotate
from ledger.keys import ECDSA_P256, Ed25519Signer
from ledger.messages import Reason, Receipt, Status, Stored
from ledger.policy import parse_policy, parse_trust
from ledger.proof import read_proof
from ledger.status import verify_status
from ledger.verify import verify_leaf
from ledger.writer.create import POLICY, POLICY_PQ, TRUST, create_log
from ledger.writer.prove import Prover
from ledger.writer.reader import LocalReader
from tests.writer.logs import commitments
from tests.writer.quorum import BOTH, WITNESSES, Cosigners
from vitalseal.errors import UserError

from .devices import ORIGIN, Device, drop, registrar
from .hands import by_hand


def test_batch_of_a_revoked_key_is_rejected_within_one_scan(hands, data, device, other):
    """From the scan that finds the file on nothing of that key is taken; what was taken before stays good."""
    assert hands.take(device, device.batch(), device.batch()) == [Stored, Stored]
    late = device.batch()
    device.revoke(data, (0, 3))
    hands.scan()
    assert hands.take(device, late, device.batch()) == [Reason.ENDED_KEY, Reason.ENDED_KEY]
    assert "revoked at index" in hands.told[0][1].detail
    assert hands.take(device, late) == [Reason.ENDED_KEY]
    assert hands.take(other, other.batch()) == [Stored]
    log = hands.check(revoked=1)
    assert log.chains[device.key_id].seq == 1
    assert hands.service._ingest.admission.counts == {"admitted": 3, "ended_key": 3}


def test_batch_that_the_log_has_is_answered_after_its_keys_revocation(hands, data, device):
    """A device whose receipt was lost is told where its batch is, even if its key ended meanwhile."""
    first = device.batch()
    hands.take(device, first)
    device.revoke(data, (0, 1))
    hands.scan()
    assert hands.take(device, first) == [Stored]
    hands.check(revoked=1)
    assert [type(message) for _, message in hands.told] == [Stored, Receipt]


def test_revocation_holds_after_a_restart_and_is_one_entry(data, device):
    """The file stays in the folder; the log knows already."""
    device.revoke(data, (0, 0))
    late = device.batch()
    for _ in range(2):
        with by_hand(data) as hands:
            hands.scan()
            assert hands.take(device, late) == [Reason.ENDED_KEY]
            log = hands.check(revoked=1)
            assert log.entries == {"enrolments": 1, "revocations": 1, "key states": 2}


@pytest.mark.parametrize("name", ["aaa", "wrist-1", "zzz"])
def test_order_of_events_is_not_that_of_their_file_names(data, device, name):
    """Enrolment, rotation and revocation found at once are taken in the order in which they make sense."""
    new = device.rotate(data, 7, (0, 0))
    new.revoke(data, (0, 0), name)
    with by_hand(data) as hands:
        assert hands.take(new, new.batch()) == [Reason.ENDED_KEY]
        assert hands.check(revoked=1).entries["revocations"] == 1


def test_rotated_device_goes_on_under_its_name(hands, data, device):
    """The new key begins a chain; the old one's batches from before its end may still come, and none after."""
    early, late, last, beyond = (device.batch() for _ in range(4))
    hands.take(device, early)
    new = device.rotate(data, 7, (0, 3))
    first = new.batch()
    assert hands.take(new, first) == [Reason.UNKNOWN_KEY]
    hands.scan()
    assert hands.take(new, first, new.batch()) == [Stored, Stored]
    assert hands.take(device, late, last) == [Stored, Stored]
    assert hands.take(device, beyond, device.batch()) == [Reason.ENDED_KEY, Reason.ENDED_KEY]
    assert "the key ended at epoch 0 seq 3 of its chain" in hands.told[0][1].detail
    device.epoch, device.seq, device.previous = 1, 0, None
    assert hands.take(device, device.batch(0, notice=Notice(NoticeKind.OUTBOX_LOST))) == [Reason.ENDED_KEY]
    log = hands.check()
    assert (log.chains[device.key_id].seq, log.chains[new.key_id].seq) == (2, 1)
    assert log.entries["rotations"] == 1
    assert sorted(hands.service._keys.of("wrist-1")) == sorted([device.key_id, new.key_id])


def test_rotation_holds_after_a_restart(data, device):
    """Both keys are the device's, from the log and the registry."""
    new = device.rotate(data, 7, (0, 1))
    for seq in range(2):
        with by_hand(data) as hands:
            assert hands.take(new, new.batch()) == [Stored]
            if seq == 0:
                assert hands.take(device, device.batch()) == [Stored]
            assert hands.take(device, device.batch())[0] == Reason.ENDED_KEY
            assert hands.check().entries["rotations"] == 1


def test_rotation_from_a_place_that_is_logged_already_is_not_taken(hands, data, device, caplog):
    """What is on the log was good when it came: a rotation that says otherwise is named, and the key goes on."""
    hands.take(device, device.batch(), device.batch())
    new = device.rotate(data, 7, (0, 1))
    with caplog.at_level(logging.WARNING):
        hands.scan()
    assert "wrist-1.rotate not taken: its old key's chain is longer already" in caplog.text
    assert hands.take(new, new.batch()) == [Reason.UNKNOWN_KEY]
    assert hands.take(device, device.batch()) == [Stored]
    device.rotate(data, 7, (0, 3))
    hands.scan()
    assert hands.take(new, Device("wrist-1", 7).batch()) == [Stored]
    assert hands.check().entries["rotations"] == 1


def bad_events(data, device, other):
    """Key events by file name, none of which may be taken."""
    stranger, by = Ed25519Signer(b"\x09" * 32), registrar(data)
    stolen = rotate(other.signer, stranger, by, ORIGIN, (0, 0))
    twice = rotate(device.signer, other.signer, by, ORIGIN, (0, 0))
    good = revoke(device.key_id, by, ORIGIN, (0, 0), 1)
    return {
        "wrist-9.rotate": stolen,
        "wrist-1.rotate": stolen,
        "unknown-key.revoke": revoke(bytes(32), by, ORIGIN, (0, 0), 1),
        "by-a-stranger.revoke": revoke(device.key_id, stranger, ORIGIN, (0, 0), 1),
        "elsewhere.revoke": revoke(device.key_id, by, "other.example/log", (0, 0), 1),
        "wrist-2.rotate": twice,
        "misnamed.enrol": good,
        "wrist-3.rotate": enrol(stranger, by, ORIGIN),
    }


@pytest.mark.parametrize("case", range(8))
def test_key_event_that_is_no_good_is_named_and_left(hands, data, device, other, case, caplog):
    """Nobody ends or takes over a key without its registrar, its holder and its log; batches go on as before."""
    name, event = list(bad_events(data, device, other).items())[case]
    size = hands.writer.size
    drop(data, name, event)
    with caplog.at_level(logging.WARNING):
        hands.scan()
        hands.scan()
    assert [f"key event {name} not taken" in record.message for record in caplog.records] == [True]
    assert hands.writer.size == size
    assert (data / FOLDER / name).exists()
    for each in (device, other):
        assert hands.take(each, each.batch()) == [Stored]
    hands.check()


def clone_of(device):
    return Device(device.name, device.number)


def test_clone_is_rejected_and_convicted_once(hands, device, other, caplog):
    """Two headers for one place: the first stays, every other is refused, and the log shows one piece of evidence."""
    hands.take(device, device.batch(value=70), device.batch(value=70))
    with caplog.at_level(logging.CRITICAL):
        for value in (71, 72, 73):
            assert hands.take(device, clone_of(device).batch(value=value)) == [Reason.EQUIVOCATION]
    assert len(caplog.records) == 1
    [evidence] = hands.entries(Equivocation)
    held = device.sealed[0]
    assert held.header in {evidence.first.header, evidence.second.header}
    assert evidence.header.key_id == device.key_id
    assert hands.take(device, device.batch()) == [Stored]
    assert hands.take(other, other.batch()) == [Stored]
    assert hands.check(equivocation=1).entries["equivocations"] == 1


def test_clone_within_one_group_is_convicted_with_it(hands, device):
    """Both headers come at once: the first is logged, and behind it the evidence, in one commit."""
    answers = hands.take(device, device.batch(value=70), clone_of(device).batch(value=71), device.batch())
    assert Counter(answers) == Counter({Stored: 2, Reason.EQUIVOCATION: 1})
    assert len(hands.entries(Equivocation)) == 1
    assert hands.check(equivocation=1).chains[device.key_id].seq == 1


def test_conviction_is_remembered_by_the_log(data, device, other):
    """After a restart the clone is refused as ever and adds nothing; another key's clone has its own entry."""
    twin = clone_of(other)
    with by_hand(data) as hands:
        hands.take(device, device.batch())
        hands.take(other, other.batch())
        hands.take(device, clone_of(device).batch(value=71))
        hands.check(equivocation=1)
    with by_hand(data) as hands:
        assert hands.take(device, clone_of(device).batch(value=72)) == [Reason.EQUIVOCATION]
        hands.check(equivocation=1)
        assert hands.take(other, twin.batch(value=71)) == [Reason.EQUIVOCATION]
        hands.check(equivocation=2)
        assert len(hands.entries(Equivocation)) == 2


def test_header_that_its_key_did_not_sign_convicts_nobody(hands, device):
    """Evidence needs two signatures: a forged one is only rejected."""
    hands.take(device, device.batch())
    forger = clone_of(device)
    forger.signer = Ed25519Signer(b"\x0a" * 32)
    assert hands.take(device, forger.batch(value=71))[0] in {Reason.BAD_SIGNATURE, Reason.UNKNOWN_KEY}
    hands.check()


@pytest.fixture
def cosigned(tmp_path):
    """A log with a witness, and that witness."""
    create_log(tmp_path / "cosigned", ORIGIN, witnesses=WITNESSES)
    return tmp_path / "cosigned", Cosigners(2_000_000_000)


@pytest.mark.parametrize("policy", [POLICY, POLICY_PQ])
def test_p256_device_from_enrolment_to_a_proof_by_all_steps(cosigned, policy):
    """A secure element's signatures go all the way: enrolled, admitted, receipted, proven, strictly."""
    data, quorum = cosigned
    element, plain = Device("chip-1", 5, algorithm=ECDSA_P256), Device("wrist-1", 1)
    element.enrol(data)
    plain.enrol(data)
    with by_hand(data, quorum) as hands:
        assert hands.take(element, element.batch(), element.batch()) == [Stored, Stored]
        assert hands.take(plain, plain.batch()) == [Stored]
        assert hands.take(plain, element.batch()) == [Reason.WRONG_DEVICE]
        forged = clone_of(plain)
        assert hands.take(element, forged.batch(value=99)) == [Reason.WRONG_DEVICE]
        hands.service._keys.renew(now=True)
        hands.check()
    rules, trust = parse_policy((data / policy).read_bytes()), parse_trust((data / TRUST).read_bytes())
    with LocalReader(data) as log:
        prover = Prover(log, ORIGIN)
        known = [verify_status(prover.status(element.key_id), rules)]
        proven = verify_leaf(read_proof(prover.leaf(5, 2)), rules, trust=trust, statuses=known, strict=True)
    assert (proven.algorithm, proven.header.seq) == (ECDSA_P256, 1)
    assert proven.reading.encode() == element.sealed[1].readings[1]


def test_receipts_wait_for_the_quorum_and_status_says_so(cosigned, vitalseal_status):
    """Batches are committed and answered, nothing more; status and metrics name the witness and what waits."""
    data, quorum = cosigned
    device = Device("wrist-1", 1)
    device.enrol(data)
    with by_hand(data, quorum) as hands:
        quorum.silent = BOTH
        for size in (3, 4):
            assert hands.take(device, device.batch()) == [Stored]
            assert not hands.service._publish_once()
            assert [type(message) for _, message in hands.told] == [Stored]
            status = read_status(data)
            assert (status.log_size, status.published_size, status.waiting_for_quorum) == (size, 0, 3)
            assert status.without_receipt == size - 2
        [witness] = status.witnesses
        assert (witness["name"], witness["ok"], witness["size"]) == ("hospital", False, 0)
        shown = vitalseal_status(data)
        assert "0 of 1 answer; hospital: gave no answer in time" in shown
        assert "NO QUORUM, checkpoint of size 3 waits and receipts are withheld" in shown
        metrics = vitalseal_status(data, "--metrics").splitlines()
        assert {"vitalseal_waiting_for_quorum 1.0", 'vitalseal_witness_ok{witness="hospital"} 0.0'} <= set(metrics)
        quorum.silent = frozenset()
        assert hands.service._publish_once()
        assert hands.service._publish_once()
        assert [type(message) for _, message in hands.told] == [Stored, Receipt, Receipt]
        status = read_status(data)
        assert (status.published_size, status.waiting_for_quorum, status.without_receipt) == (4, None, 0)
        assert "1 of 1 answer" in vitalseal_status(data)
        metrics = vitalseal_status(data, "--metrics").splitlines()
        assert {
            "vitalseal_waiting_for_quorum 0.0",
            'vitalseal_witness_ok{witness="hospital"} 1.0',
            'vitalseal_witness_size{witness="hospital"} 4.0',
            "vitalseal_log_entries 4.0",
            "vitalseal_published_entries 4.0",
            "vitalseal_devices_enrolled 1.0",
            'vitalseal_decisions_total{decision="admitted"} 2.0',
        } <= set(metrics)
        assert all("wrist" not in line for line in metrics)


@pytest.fixture
def vitalseal_status(tmp_path, capsys):
    """What `vitalseal aggregator status` prints."""
    from vitalseal.cli import main

    def call(data, *words):
        config = tmp_path / "aggregator.toml"
        config.write_text(f'data = "{data}"\n')
        assert main(["aggregator", "status", "--config", str(config), *words]) == 0
        return capsys.readouterr().out

    return call


def test_damaged_public_tree_is_made_again_and_receipts_go_out(hands, data, device):
    """A missing full tile that a receipt needs ends nobody: the database has what the tree is made of."""
    hands.take(device, device.batch())
    hands.writer.append(commitments(0, 300))
    hands.service._publish_once()
    hands.told.clear()
    (data / "log" / "tile" / "0" / "000").write_bytes(bytes(8192))
    status = Status(online=True, size=1).encode()
    hands.service._ingest._hear(Message(device.name, "status", status, lambda: None))
    hands.take(device, device.batch())
    while hands.service._publish_once():
        pass
    hands.service._tell()
    assert Receipt in [type(message) for _, message in hands.told]
    hands.check()


def test_damage_that_comes_back_ends_the_service(hands, data, device, monkeypatch):
    """Making the tree again is tried once: what is still wrong then is not the tree."""
    hands.take(device, device.batch())
    outgoing = hands.service._publisher._outgoing
    monkeypatch.setattr(outgoing, "due", lambda *_: (_ for _ in ()).throw(VerificationError("no")))
    assert hands.service._publish_once()
    with pytest.raises(VerificationError, match="no"):
        hands.service._tell()


def test_key_is_the_one_on_the_log_whatever_the_registry_says(data, device):
    """Who edits the registry gains no key: it is believed the device's name alone."""
    with by_hand(data):
        pass
    thief = Ed25519Signer(bytes([77]) * 32)
    with closing(sqlite3.connect(data / "registry.db")) as registry, registry:
        registry.execute("UPDATE devices SET public_key = ?", (thief.public_key,))
    with by_hand(data) as hands:
        assert hands.take(device, device.batch()) == [Stored]
        hands.check()


def test_enrolment_is_taken_when_the_registry_can_be_written_again(hands, data, caplog, monkeypatch):
    """What failed for the registry's sake is tried again, and told once."""
    late = Device("late-1", 9)
    late.enrol(data)
    add_device = Registry.add_device
    monkeypatch.setattr(Registry, "add_device", lambda *_: (_ for _ in ()).throw(UserError("database is locked")))
    hands.scan()
    hands.scan()
    assert caplog.text.count("late-1.enrol not taken: database is locked") == 1
    monkeypatch.setattr(Registry, "add_device", add_device)
    hands.scan()
    assert hands.take(late, late.batch()) == [Stored]
    hands.check()
