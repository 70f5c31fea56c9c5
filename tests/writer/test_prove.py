"""Proofs from a log's own data, held against those that the words of the format give, and through the verifier."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.checkpoint import parse_checkpoint
from ledger.completeness import MAX_BATCHES, Disclosed, verify_range
from ledger.errors import LedgerError, MalformedError, VerificationError
from ledger.policy import Policy, parse_policy, parse_trust
from ledger.proof import ProofFile, read_proof
from ledger.status import verify_status
from ledger.verify import verify_leaf
from ledger.writer.create import POLICY, POLICY_PQ
from ledger.writer.prove import Prover
from ledger.writer.reader import LocalReader
from tests.ledger import builders as b
from tests.ledger.past import Past, id_of

from .written import TRUST, Written

ONE, TWO, CHIP = b.device("one"), b.device("two"), b.SecureElement()
KEY = id_of(ONE)


def readings(count: int, seq: int) -> list[b.Reading]:
    return [b.scalar(60 + seq, at_ns=b.NOW_NS + seq * 1000 + at, ordinal=at) for at in range(count)]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Written]:
    """Five batches of one device and two of a secure element, published in three steps: 6, 10 and 13 entries."""
    past = Past()
    with Written(tmp_path / "data", past) as written:
        past.enrol(ONE)
        past.state()
        for seq in range(4):
            past.seal(*readings(seq + 1, seq), signer=ONE)
        assert written.publish() == 6
        past.enrol(CHIP)
        past.state()
        past.seal(*readings(2, 0), signer=CHIP)
        past.seal(signer=CHIP)
        assert written.publish() == 10
        past.seal(*readings(5, 4), signer=ONE)
        past.fill(1)
        past.state()
        assert written.publish() == 13
        yield written


@pytest.fixture
def prover(log: Written) -> Iterator[Prover]:
    with LocalReader(log.data) as reader:
        yield Prover(reader, log.past.origin)


@pytest.fixture(params=[POLICY, POLICY_PQ])
def policy(log: Written, request: pytest.FixtureRequest) -> Policy:
    return parse_policy((log.data / request.param).read_bytes())


def size_of(file: ProofFile) -> int:
    return parse_checkpoint(file.checkpoint.text).size


def statuses(prover: Prover, policy: Policy, *signers: b.Device) -> dict:
    """What `verify_*` need for step 7."""
    proven = [verify_status(prover.status(id_of(signer)), policy) for signer in signers]
    return {"trust": parse_trust(TRUST.encode()), "statuses": proven}


@pytest.mark.parametrize(("signer", "sizes"), [(ONE, [6, 6, 6, 6, 13]), (CHIP, [10, 10])], ids=["Ed25519", "P-256"])
def test_leaf_is_proven_by_all_steps_in_the_first_checkpoint(log, prover, policy, signer, sizes):
    """Every leaf of every batch that is a reading passes all eight steps; its time is the earliest that was shown."""
    known = statuses(prover, policy, signer)
    for (index, batch), size in zip(log.past.chains[id_of(signer)], sizes, strict=True):
        assert prover.leaves(index) == list(range(1, len(batch.readings) + 1))
        for leaf in prover.leaves(index):
            file = prover.leaf(index, leaf)
            assert (size_of(file), file.extra) == (size, b.leaf_proof(batch, leaf, signer=signer).encode())
            proven = verify_leaf(read_proof(file), policy, **known, strict=True)
            assert proven.reading.encode() == batch.readings[leaf - 1]
            assert proven.logged_by == b.NOW + 60


def test_batch_info_is_proven_without_a_plausible_time(log, prover, policy):
    """It is no reading, so the last step has nothing to look at."""
    proven = verify_leaf(read_proof(prover.leaf(3, 0)), policy, **statuses(prover, policy, ONE))
    assert proven.info.encode() == log.past.chains[KEY][1][1].info
    assert [step.result for step in proven.steps] == ["passed"] * 7 + ["not checked"]


@pytest.mark.parametrize("disclose", [True, False])
@pytest.mark.parametrize(("first", "last", "size"), [(0, 0, 6), (2, 2, 6), (1, 3, 6), (0, 4, 13), (4, 4, 13)], ids=str)
def test_range_is_what_the_format_says(log, prover, policy, first, last, size, *, disclose):
    """One batch, some, all: byte for byte, in the first checkpoint that covers the last; every step that can passes."""
    file = prover.range(KEY, 0, first, last, disclose=disclose)
    expected = log.past.range_fields(ONE, range(first, last + 1), None if disclose else ())
    assert (size_of(file), file.extra) == (size, b.pack(expected))
    assert list(file.inclusion) == b.naive_path(file.index, [b.hash_entry(e) for e in log.past.entries[:size]])
    proven = verify_range(file, policy, **statuses(prover, policy, ONE))
    counts = range(first + 1, last + 2)
    assert (proven.first, proven.last, proven.readings, proven.gaps) == (first, last, sum(counts), 0)
    shown = [
        Disclosed(seq, leaf, reading)
        for seq, count in enumerate(counts, first)
        for leaf, reading in enumerate(readings(count, seq), 1)
    ]
    assert list(proven.disclosed) == (shown if disclose else [])
    assert [step.result for step in proven.steps] == ["passed"] * 8


def test_range_across_a_leaf_that_was_erased(log, prover, policy):
    """An erased leaf leaves its hash: it is counted, its neighbours are shown, and it alone cannot be."""
    whole = prover.range(KEY, 0, 0, 4, disclose=False)
    log.erase(ONE, 2, [2])
    log.erase(ONE, 4, [0, 1, 5])
    file = prover.range(KEY, 0, 0, 4, disclose=True)
    gone = {(2, 2), (4, 0), (4, 1), (4, 5)}
    every = {(number, leaf) for number in range(5) for leaf in range(number + 2)}
    assert file.extra == b.pack(log.past.range_fields(ONE, range(5), every - gone))
    proven = verify_range(file, policy, **statuses(prover, policy, ONE))
    assert (proven.readings, len(proven.disclosed)) == (15, 12)
    assert prover.range(KEY, 0, 0, 4, disclose=False) == whole
    assert prover.leaves(4) == [1, 3]
    verify_leaf(read_proof(prover.leaf(4, 3)), policy)
    with pytest.raises(VerificationError, match="leaf 2 was erased"):
        prover.leaf(4, 2)


def test_payload_that_is_not_the_batchs_is_not_handed_out(log, prover):
    """A leaf hash that was put in wrongly is found before anything is made of it."""
    log.erase(ONE, 2, [2])
    payload = log.storage.payload(4)
    wrong = payload[:-40] + bytes([payload[-40] ^ 1]) + payload[-39:]
    log.storage._writing.execute("UPDATE later SET payload = ? WHERE idx = 4", (wrong,))
    for ask in (lambda: prover.leaf(4, 1), lambda: prover.range(KEY, 0, 1, 3, disclose=False)):
        with pytest.raises(LedgerError):
            ask()


@pytest.mark.parametrize(
    ("key", "epoch", "first", "last", "error", "says"),
    [
        (KEY, 0, 3, 5, VerificationError, "no batch with epoch 0 seq 5 by key"),
        (KEY, 1, 0, 0, VerificationError, "no batch with epoch 1 seq 0 by key"),
        (id_of(TWO), 0, 0, 0, VerificationError, "no batch with epoch 0 seq 0 by key"),
        (KEY, 0, -1, 0, VerificationError, "no batch with epoch 0 seq -1 by key"),
        (KEY, 0, 2**63, 2**63 + 1, VerificationError, f"no batch with epoch 0 seq {2**63} by key"),
        (KEY, 0, 3, 2, MalformedError, "--from 3 lies after --to 2"),
        (KEY, 0, 0, MAX_BATCHES, MalformedError, "4097 batches; one file holds at most 4096: divide the range"),
        (KEY, 0, 0, 10**30, MalformedError, "divide the range"),
        (KEY, 0, 0, MAX_BATCHES - 1, VerificationError, "no batch with epoch 0 seq 5 by key"),
    ],
    ids=["after the last", "epoch", "stranger", "negative", "huge", "empty", "too long", "endless", "longest"],
)
def test_range_of_what_is_not_there(prover, key, epoch, first, last, error, says):
    """A missing batch is never passed over, and a range too long is refused before it is looked up."""
    with pytest.raises(error, match=says):
        prover.range(key, epoch, first, last, disclose=True)


@pytest.mark.parametrize(
    ("index", "leaf", "error", "says"),
    [
        (0, 0, MalformedError, "entry 0 is not a batch with readings"),
        (1, 0, MalformedError, "entry 1 is not a batch with readings"),
        (99, 0, VerificationError, "entry 99 is not on the log"),
        (-1, 0, VerificationError, "entry -1 is not on the log"),
        (2, 2, VerificationError, "leaf 2: the batch has leaves 0 to 1"),
        (2, -1, VerificationError, "leaf -1: the batch has leaves 0 to 1"),
    ],
)
def test_leaf_of_what_is_not_there(prover, index, leaf, error, says):
    """What was asked for, and why it cannot be had."""
    with pytest.raises(error, match=says):
        prover.leaf(index, leaf)


def test_what_waits_for_its_quorum_has_no_proof_yet(log, prover, policy):
    """A signed checkpoint without its cosignatures proves nothing to anyone."""
    log.quorum.silent = {0x04}
    log.past.seal(*readings(1, 5), signer=ONE)
    log.commit()
    assert not log.writer.publish()
    for ask in (lambda: prover.leaf(13, 1), lambda: prover.range(KEY, 0, 0, 5, disclose=False)):
        with pytest.raises(VerificationError, match="entry 13 is not published yet"):
            ask()
    verify_range(prover.range(KEY, 0, 0, 4, disclose=False), policy, **statuses(prover, policy, ONE))
    log.quorum.silent = frozenset()
    log.writer.publish()
    assert size_of(prover.leaf(13, 1)) == 14


def test_status_after_rotation_and_revocation(log, policy):
    """Each key's record under the newest state that is published: byte for byte what the format says."""
    past = log.past
    past.rotate(ONE, TWO, (0, 5))
    past.state()
    log.publish()
    assert_statuses(log, policy, {ONE: ((0, 5), None), TWO: (None, None), CHIP: (None, None)})
    past.seal(*readings(1, 0), signer=TWO)
    past.revoke(CHIP, (0, 1))
    past.revoke(TWO, (0, 0))
    past.state()
    past.fill(3)
    log.publish()
    revoked = {ONE: ((0, 5), None), TWO: ((0, 0), 17), CHIP: ((0, 1), 16)}
    assert_statuses(log, policy, revoked)
    log.quorum.silent = {0x06}
    past.revoke(ONE, (0, 0))
    past.state()
    log.commit()
    log.writer.publish()
    assert_statuses(log, policy, revoked, at=18)


def assert_statuses(log, policy, ends, at=None):
    with LocalReader(log.data) as reader:
        prover = Prover(reader, log.past.origin)
        published = log.writer.checkpoint.size
        for signer, (until, revoked) in ends.items():
            file = prover.status(id_of(signer))
            entries, log.past.entries[published:] = log.past.entries[published:], []
            assert file.extra == b.pack(log.past.status_fields(signer, at))
            log.past.entries += entries
            assert size_of(file) == published
            record = verify_status(file, policy).record
            assert (record.until, record.revoked) == (until, revoked)


def test_status_before_there_is_a_state(tmp_path):
    """An empty log, and one whose only event has no state yet."""
    past = Past()
    with Written(tmp_path / "data", past) as log, LocalReader(log.data) as reader:
        with pytest.raises(VerificationError, match="no key state is published yet"):
            Prover(reader, past.origin).status(KEY)
        past.enrol(ONE)
        log.publish()
        with pytest.raises(VerificationError, match="no key state is published yet"):
            Prover(reader, past.origin).status(KEY)


def test_status_of_a_key_that_the_newest_state_does_not_know(log):
    """Enrolled after it, or never."""
    log.past.enrol(TWO)
    log.publish()
    with LocalReader(log.data) as reader:
        for key in (id_of(TWO), bytes(32)):
            with pytest.raises(VerificationError, match="was enrolled after the newest key state"):
                Prover(reader, log.past.origin).status(key)


def test_status_grows_with_the_logarithm_of_the_number_of_keys(tmp_path, policy):
    """A record among 300 takes nine hashes more than one that is alone."""
    past = Past()
    devices = [b.device(f"device {number}") for number in range(300)]
    with Written(tmp_path / "many", past) as log, LocalReader(log.data) as reader:
        for device in devices:
            past.enrol(device)
        past.state()
        log.publish()
        many = parse_policy((log.data / POLICY).read_bytes())
        prover = Prover(reader, past.origin)
        for device in devices[::50]:
            file = prover.status(id_of(device))
            assert file.extra == b.pack(past.status_fields(device))
            assert verify_status(file, many).record.key_id == id_of(device)
            assert len(file.encode()) < 16 * 1024
