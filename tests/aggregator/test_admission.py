"""Admission: each bad envelope gets its reason, changes nothing, and stops no one else."""

from contextlib import closing

import pytest

from aggregator.admission import Admission
from aggregator.decisions import Admitted, Rejected, Repeated
from aggregator.enrolment import Keys
from aggregator.registry import Registry
from ledger.batch import Anchor, Notice, NoticeKind
from ledger.envelope import MAX_ENVELOPE
from ledger.merkle import hash_leaf, tree_root
from ledger.messages import Reason
from ledger.writer.create import load_log_keys
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter
from ledger.writer.storage import Place
from tests.ledger import builders as b

from .devices import ORIGIN, Device


class Gate:
    """Admission over a real log; `take` admits and commits one envelope."""

    def __init__(self, data, storage, registry):
        self.writer = LogWriter(storage, load_log_keys(data).signers, lambda: 2**60)
        self.keys = Keys(data, self.writer, storage, registry)
        self.admission = Admission(ORIGIN, storage, self.keys.find, self.keys.record)

    def take(self, device, envelope):
        decision = self.admission.admit(device, envelope)
        if isinstance(decision, Admitted):
            self.writer.append([decision.submission])
            self.admission.committed()
        return decision


@pytest.fixture
def gate(data, device, other):
    with LocalStorage(data) as storage, closing(Registry(data)) as registry:
        yield Gate(data, storage, registry)


def reason(decision):
    assert isinstance(decision, Rejected), decision
    return decision.reason


def test_batches_in_order_are_admitted(gate, device):
    """A chain grows batch by batch, heartbeats and gaps included."""
    for envelope in (
        device.batch(),
        device.batch(),
        device.batch(0, notice=Notice(NoticeKind.HEARTBEAT)),
        device.batch(),
    ):
        assert isinstance(gate.take(device.name, envelope), Admitted)
    assert gate.admission.counts == {"admitted": 4}


def test_several_batches_of_a_device_fit_one_group(gate, device):
    """Within one group commit a batch may continue one that is not durable yet."""
    decisions = [gate.admission.admit(device.name, device.batch()) for _ in range(3)]
    assert [type(decision) for decision in decisions] == [Admitted] * 3


def test_same_batch_twice_in_a_group_is_one_entry(gate, device):
    """The second copy gets no index yet: the first one's commit will answer."""
    envelope = device.batch()
    assert isinstance(gate.admission.admit(device.name, envelope), Admitted)
    assert gate.admission.admit(device.name, envelope) == Repeated(Place(device.key_id, 0, 0), None)


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_replayed_batch_gets_its_answer_again(data, device, *, restart):
    """A batch that the log has is not appended twice, before and after a restart."""
    first, second = device.batch(), device.batch()
    with LocalStorage(data) as storage, closing(Registry(data)) as registry:
        gate = Gate(data, storage, registry)
        gate.take(device.name, first)
        gate.take(device.name, second)
        size = gate.writer.size
        if not restart:
            assert gate.take(device.name, first) == Repeated(Place(device.key_id, 0, 0), size - 2)
    with LocalStorage(data) as storage, closing(Registry(data)) as registry:
        gate = Gate(data, storage, registry)
        assert gate.take(device.name, second) == Repeated(Place(device.key_id, 0, 1), size - 1)
        assert gate.writer.size == size
        assert isinstance(gate.take(device.name, device.batch()), Admitted)


def test_envelope_of_any_bytes_is_rejected(gate, device):
    """Whatever is published on a batch topic, admission answers with a reason."""
    good = device.batch()
    for bad in (b"", b"\x00", b"hello", good[:-1], good + b"\x00", good[:50], b"\xff" * 1000):
        assert reason(gate.take(device.name, bad)) == Reason.MALFORMED
    assert reason(gate.take(device.name, bytes(MAX_ENVELOPE + 1))) == Reason.TOO_LARGE
    assert isinstance(gate.take(device.name, good), Admitted)


def test_every_flipped_byte_of_an_envelope_is_rejected(gate, device):
    """No single byte of an envelope can change and still be admitted; the original is."""
    good = device.batch(2)
    seen = set()
    for at in range(len(good)):
        bad = good[:at] + bytes([good[at] ^ 0x01]) + good[at + 1 :]
        seen.add(reason(gate.take(device.name, bad)))
    assert {Reason.MALFORMED, Reason.BAD_SIGNATURE, Reason.BAD_ROOT, Reason.UNKNOWN_KEY} <= seen
    assert isinstance(gate.take(device.name, good), Admitted)


def test_envelope_that_is_not_canonical_is_rejected(gate, device):
    """A longer spelling of the same value is another file with the same meaning."""
    good = device.batch()
    assert good[0] == 0x96
    assert reason(gate.take(device.name, b"\xdc\x00\x06" + good[1:])) == Reason.MALFORMED


def test_unknown_key_is_rejected(gate):
    """A device that no registrar signed in has no place on the log."""
    assert reason(gate.take("wrist-9", Device("wrist-9", 9).batch())) == Reason.UNKNOWN_KEY


def test_batch_on_another_devices_topic_is_rejected(gate, device, other):
    """A replay by another device is not taken, and does not disturb the chain."""
    envelope = device.batch()
    assert reason(gate.take(other.name, envelope)) == Reason.WRONG_DEVICE
    assert isinstance(gate.take(device.name, envelope), Admitted)


def test_batch_for_another_log_is_rejected(gate, device):
    """The origin in the header stops replay into another log."""
    device.origin = "other.example/log"
    assert reason(gate.take(device.name, device.batch())) == Reason.WRONG_ORIGIN


def test_another_header_for_a_place_is_equivocation(gate, device):
    """Two headers for one place are refused, in the log and within a group."""
    twin = Device(device.name, device.number)
    gate.take(device.name, device.batch(value=70))
    assert reason(gate.take(device.name, twin.batch(value=71))) == Reason.EQUIVOCATION
    gate.admission.admit(device.name, device.batch(value=72))
    assert reason(gate.admission.admit(device.name, twin.batch(value=73))) == Reason.EQUIVOCATION


def test_batch_that_does_not_continue_its_chain_is_rejected(gate, device):
    """The right number behind the wrong predecessor is not the device's history."""
    gate.take(device.name, device.batch())
    device.previous = b"\x07" * 32
    assert reason(gate.take(device.name, device.batch())) == Reason.BROKEN_CHAIN


def test_device_that_lost_its_outbox_begins_an_epoch(gate, device):
    """A new epoch begins at 0 and says so; the one before it is over."""
    gate.take(device.name, device.batch())
    late = device.batch()
    device.epoch, device.seq, device.previous = 1, 0, None
    assert isinstance(gate.take(device.name, device.batch(0, notice=Notice(NoticeKind.OUTBOX_LOST))), Admitted)
    assert isinstance(gate.take(device.name, device.batch()), Admitted)
    assert reason(gate.take(device.name, late)) == Reason.BROKEN_CHAIN


def test_good_device_goes_on_beside_a_bad_one(gate, device, other):
    """Rejects of one device change nothing for another; each is counted by its reason."""
    for _ in range(5):
        assert reason(gate.take(other.name, b"garbage")) == Reason.MALFORMED
        assert isinstance(gate.take(device.name, device.batch()), Admitted)
    assert gate.admission.counts == {"malformed": 5, "admitted": 5}


def test_secret_is_not_kept(data, gate, device):
    """The batch secret would bring an erased salt back; no file of the log has it."""
    gate.take(device.name, device.batch(value=70))
    secret = device.sealed[0].secret
    assert [path for path in data.rglob("*") if path.is_file() and secret in path.read_bytes()] == []


def test_batch_anchored_to_another_history_is_rejected(gate, device):
    """What `fsck` would refuse for ever does not enter: an anchor is a checkpoint that this log signed."""
    signed = gate.writer.checkpoint
    for anchor in (Anchor(10**6, bytes(32)), Anchor(signed.size, bytes(32)), Anchor(2**64 - 1, bytes(32))):
        device.seq, device.previous = 0, None
        device.anchor = anchor
        assert reason(gate.take(device.name, device.batch())) == Reason.WRONG_ANCHOR
    device.seq, device.previous = 0, None
    device.anchor = Anchor(signed.size, signed.root)
    assert isinstance(gate.take(device.name, device.batch()), Admitted)


def test_place_beyond_the_database_is_rejected(gate, device):
    """A validly signed sequence number that no chain reaches stops nobody."""
    device.epoch = 1
    gate.take(device.name, device.batch(0, notice=Notice(NoticeKind.OUTBOX_LOST)))
    device.epoch, device.seq, device.previous = 0, 2**64 - 1, bytes(32)
    assert reason(gate.take(device.name, device.batch())) == Reason.BROKEN_CHAIN


def test_anchor_that_one_device_guessed_shuts_out_no_other(gate, device, other):
    """Who names a checkpoint before it is signed is refused; who has verified it afterwards is not."""
    first = device.batch()
    entries = [*gate.admission._storage.entries(0, gate.writer.size), b.entry_of(device.sealed[0])]
    coming = Anchor(len(entries), tree_root([hash_leaf(entry) for entry in entries]))
    assert isinstance(gate.take(device.name, first), Admitted)
    device.anchor = other.anchor = coming
    assert reason(gate.take(device.name, device.batch())) is Reason.WRONG_ANCHOR
    gate.writer.publish()
    assert (gate.writer.checkpoint.size, gate.writer.checkpoint.root) == (coming.size, coming.root)
    assert isinstance(gate.take(other.name, other.batch()), Admitted)
