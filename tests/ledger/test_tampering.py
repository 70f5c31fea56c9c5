"""Must-show 4: whatever single byte of a proof or of a log is changed, nothing false is ever proven."""

import dataclasses
import itertools
import re

import pytest

from ledger.completeness import VerifiedRange, verify_range
from ledger.errors import LedgerError, MalformedError, VerificationError
from ledger.fsck import fsck
from ledger.note import Note
from ledger.proof import ProofFile, ReadingProof, parse_proof, parse_proof_file, read_proof
from ledger.report import UnprovenError
from ledger.status import KeyStatus, verify_status
from ledger.verify import VerifiedReading, Verifier, verify_leaf, verify_proof
from tests.vectors import logs, postquantum, texts

from . import builders as b
from . import past as p

MASKS = (0x01, 0x80, 0xFF)
WITNESSES = (b.HOSPITAL, b.REGULATOR, b.PATIENTS)
TIMES = (b.NOW + 10, b.NOW + 20, b.NOW + 30)


def tampered(data):
    """Every change of one byte of `data` by a mask, with its offset."""
    for at in range(len(data)):
        for mask in MASKS:
            yield at, data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


def statement(proven: VerifiedReading):
    """All that a proof states."""
    return (
        (proven.reading, proven.info, proven.header, proven.algorithm, proven.public_key),
        (proven.index, proven.leaf_index, proven.checkpoint),
    )


def status_statement(proven: KeyStatus):
    """All that a key-status proof states but its time."""
    return proven.record, proven.registrar_key, proven.origin, proven.size


def range_statement(proven: VerifiedRange):
    """All that a completeness proof states but its time."""
    place = (proven.key_id, proven.algorithm, proven.epoch, proven.first, proven.last)
    return *place, proven.readings, proven.disclosed, proven.gaps, proven.index, proven.checkpoint


def unchanged_but_lines(file: ProofFile, verify, stated, samples=None):
    """No byte of a file but those of signature lines can be changed, and then what is stated is the same.

    `samples` are the offsets to change; all if not given. The names on the lines that could be changed are returned.
    """
    data = file.encode()
    good = stated(verify(parse_proof_file(data)))
    first = data.rindex(b"\n\n") + 2
    names = [line.name for line in file.checkpoint.signatures]
    free = set()
    for at in range(len(data)) if samples is None else samples:
        for mask in MASKS:
            changed = data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]
            try:
                got = verify(parse_proof_file(changed))
            except (MalformedError, VerificationError):
                continue
            assert at >= first, f"byte {at} is not in a signature line"
            assert stated(got) == good
            free.add(names[data[first:at].count(b"\n")])
    return free


def record_past():
    """A log with a key rotated to, one rotated away and one revoked."""
    past = p.Past()
    for device in (b.device(), b.SecureElement()):
        past.enrol(device)
    past.seal(b.scalar(), b.absent(), signer=b.device())
    past.seal(signer=b.device())
    past.rotate(b.device(), b.device("next"), (0, 9))
    past.seal(b.scalar(61), signer=b.device())
    past.revoke(b.SecureElement(), (0, 1))
    past.state()
    return past


STRANGERS = [(b.STRANGER, b.NOW)]
NO_WITNESS = b.policy(b.policy_text())


@pytest.mark.parametrize("device", [b.device(), b.SecureElement(), b.device("next")], ids=["ended", "revoked", "good"])
def test_key_status_with_any_byte_changed(device):
    """Of a key-status proof, only bytes of a stranger's line may change, and then the same record is proven."""
    file = record_past().status(device, cosigned=STRANGERS)
    free = unchanged_but_lines(file, lambda found: verify_status(found, NO_WITNESS), status_statement)
    assert free == {b.STRANGER.name}


def test_key_status_with_any_byte_changed_and_all_witnesses_needed():
    """Under a quorum of all three, no byte may change at all."""
    policy = b.policy(b.policy_text("group all3 all hospital regulator patients\nquorum all3", witnesses=WITNESSES))
    file = record_past().status(b.SecureElement(), cosigned=list(zip(WITNESSES, TIMES, strict=True)))
    assert unchanged_but_lines(file, lambda found: verify_status(found, policy), status_statement) == set()


@pytest.mark.parametrize("disclosed", [None, (), ((0, 1), (2, 0))], ids=["all", "nothing", "some"])
def test_range_with_any_byte_changed(disclosed):
    """Of a completeness proof, only bytes of a stranger's line may change, and then the same range is proven."""
    file = record_past().range(b.device(), range(3), disclosed, STRANGERS)
    free = unchanged_but_lines(file, lambda found: verify_range(found, NO_WITNESS), range_statement)
    assert free == {b.STRANGER.name}


def test_proof_of_a_secure_element_with_any_byte_changed():
    """The same of a proof that a P-256 key signed: one signature, one spelling."""
    element = b.SecureElement()
    batch = b.sealed([b.scalar()], signer=element)
    proof = b.reading_proof(batch, 1, [b.entry_of(batch)], 0, cosigned=STRANGERS, signer=element)
    _, proven = outcomes(proof, NO_WITNESS)
    assert proven == {b.STRANGER.name: {(None, ())}}


def post_quantum(file):
    """`file` with lines of type 0x06 by log and witnesses alone."""
    text = file.checkpoint.text
    lines = [texts.PQ_LOG.cosign(text, b.NOW), *(witness.cosign(text, at) for witness, at in postquantum.PQ_SEEN)]
    return dataclasses.replace(file, checkpoint=Note(text, tuple(lines)))


def sampled(file):
    """Every byte before the signature lines, of each line all but the signature, and every 61st byte of that."""
    data = file.encode()
    first = data.rindex(b"\n\n") + 2
    return [at for at in range(len(data)) if at < first or (at - first) % 3300 < 80 or not at % 61]


def test_proof_with_post_quantum_lines_with_bytes_changed():
    """Under ML-DSA-44 keys alone, only a witness's line that the quorum can do without may be lost."""
    proof = postquantum.lines()[0]
    file = post_quantum(ProofFile(proof.leaf.encode(), proof.index, proof.inclusion, proof.checkpoint))
    policy = b.policy(postquantum.PQ_ONLY)
    free = unchanged_but_lines(file, lambda found: verify_leaf(read_proof(found), policy), statement, sampled(file))
    assert free == {witness.name for witness in WITNESSES}


def test_proof_with_post_quantum_lines_with_bytes_changed_and_no_witness():
    """Under the log's ML-DSA-44 key alone, no byte of its line may change, not even of its time."""
    proof = postquantum.lines()[0]
    note = Note(proof.checkpoint.text, (texts.PQ_LOG.cosign(proof.checkpoint.text, b.NOW),))
    file = ProofFile(proof.leaf.encode(), proof.index, proof.inclusion, note)
    policy = b.policy(postquantum.LOG_ONLY)
    free = unchanged_but_lines(file, lambda found: verify_leaf(read_proof(found), policy), statement, sampled(file))
    assert free == set()


def proof_of(leaf_index, cosigned, size=4):
    """A proof out of a log of a few entries."""
    return b.reading_proof(b.chain(4)[1], leaf_index, b.small_log(4)[:size], 2, cosigned=cosigned)


def outcomes(proof: ReadingProof, policy):
    """What becomes of every tampered copy: by the line it was tampered in, those that were still proven."""
    data = proof.encode()
    good = verify_proof(data, policy)
    first = data.rindex(b"\n\n") + 2
    names = [line.name for line in proof.checkpoint.signatures]
    proven = {}
    for at, changed in tampered(data):
        try:
            got = verify_proof(changed, policy)
        except (MalformedError, VerificationError):
            continue
        assert at >= first, f"byte {at} is not in a signature line"
        assert statement(got) == statement(good)
        proven.setdefault(names[data[first:at].count(b"\n")], set()).add((got.logged_by, got.witnesses))
    return good, proven


def test_what_a_verifier_remembers_changes_no_outcome():
    """One that verified good proofs of the batch before says of every tampered copy what one that saw none says."""
    policy = b.policy(b.two_of_three())
    verifier = Verifier(policy)
    seen = list(zip(WITNESSES, TIMES, strict=True))

    def outcome(verify, data):
        try:
            return verify(parse_proof(data))
        except LedgerError as error:
            return type(error), str(error), getattr(error, "steps", None)

    good = [proof_of(leaf, seen).encode() for leaf in (1, 2)]
    results = [outcome(verifier.verify, data) for data in good]
    for _, changed in itertools.islice(tampered(good[0]), 0, None, 4):
        results += [outcome(verifier.verify, changed), outcome(verifier.verify, good[1])]
        assert results[-2] == outcome(lambda found: verify_leaf(found, policy), changed)
    assert all(isinstance(found, VerifiedReading) for found in results[1::2])
    assert {found[0] for found in results if isinstance(found, tuple)} == {MalformedError, UnprovenError}


@pytest.mark.parametrize("leaf_index", [0, 1, 2])
def test_proof_with_any_byte_changed(leaf_index):
    """Under `quorum none`, only bytes of a stranger's line may change, and then all that is proven is the same."""
    proof = proof_of(leaf_index, [(b.STRANGER, b.NOW)])
    good, proven = outcomes(proof, b.policy(b.policy_text()))
    assert proven == {b.STRANGER.name: {(None, ())}}
    assert good.logged_by is None


def test_proof_with_any_byte_changed_and_all_witnesses_needed():
    """Under a quorum of all three, no byte may change at all."""
    quorum = "group quorate all hospital regulator patients\nquorum quorate"
    policy = b.policy(b.policy_text(quorum, witnesses=WITNESSES))
    good, proven = outcomes(proof_of(1, zip(WITNESSES, TIMES, strict=True)), policy)
    assert proven == {}
    assert good.logged_by == TIMES[2]


def test_proof_with_any_byte_changed_and_two_of_three_witnesses():
    """Under two of three, a witness's line may be lost; the quorum is that of the other two, and so its time.

    Losing the latest line keeps the logged-by time. Losing one of the two earlier ones makes it later: still true,
    since two witnesses had seen the checkpoint by then, but a weaker bound. It never becomes earlier.
    """
    good, proven = outcomes(proof_of(1, zip(WITNESSES, TIMES, strict=True)), b.policy(b.two_of_three()))
    assert (good.logged_by, good.witnesses) == (TIMES[1], ("hospital", "regulator", "patients"))
    assert proven == {
        b.HOSPITAL.name: {(TIMES[2], ("regulator", "patients"))},
        b.REGULATOR.name: {(TIMES[2], ("hospital", "patients"))},
        b.PATIENTS.name: {(TIMES[1], ("hospital", "regulator"))},
    }


def test_proof_whose_earliest_witness_is_cut_off():
    """A reading from after the quorum's time is refused; without the earliest line the later time lets it pass.

    This is what a k-th smallest time means to whoever holds the file: lines can be left out, so only "not later than
    T" is shown, and step 8 is a check of plausibility, not of evidence.
    """
    late = b.scalar(at_ns=(b.NOW + 1000) * 10**9)
    batch = b.sealed([late])
    times = zip(WITNESSES, (b.NOW, b.NOW + 10, b.NOW + 2000), strict=True)
    proof = b.reading_proof(batch, 1, [b.entry_of(batch)], 0, cosigned=list(times))
    policy = b.policy(b.two_of_three())
    with pytest.raises(VerificationError, match="step 8"):
        verify_proof(proof.encode(), policy)
    log, _, *rest = proof.checkpoint.signatures
    cut = ReadingProof(proof.leaf, proof.index, proof.inclusion, Note(proof.checkpoint.text, (log, *rest)))
    assert verify_proof(cut.encode(), policy).logged_by == b.NOW + 2000


def test_proof_with_any_line_dropped_doubled_or_moved():
    """No line but a signature line may be dropped, doubled or moved, and then the statement is the same."""
    data = proof_of(1, zip(WITNESSES, TIMES, strict=True)).encode()
    policy = b.policy(b.two_of_three())
    good = verify_proof(data, policy)
    lines = data.decode().splitlines(keepends=True)
    first = max(at for at, line in enumerate(lines) if line == "\n") + 1
    for at, line in enumerate(lines):
        rest = [*lines[:at], *lines[at + 1 :]]
        moved = [[*rest[:to], line, *rest[to:]] for to in range(len(rest) + 1) if to != at]
        for changed in (rest, [*lines[:at], line, *lines[at:]], *moved):
            text = "".join(changed).encode()
            if text == data:
                continue
            try:
                got = verify_proof(text, policy)
            except (MalformedError, VerificationError):
                continue
            assert at >= first
            assert statement(got) == statement(good)


def test_proof_with_anything_inserted():
    """One inserted byte is never accepted outside of the signature lines."""
    data = proof_of(1, [(b.STRANGER, b.NOW)]).encode()
    policy = b.policy(b.policy_text())
    end = data.rindex(b"\n\n") + 2
    for at in [*range(end), len(data)]:
        for byte in b"\n 0A=+":
            with pytest.raises((MalformedError, VerificationError)):
                verify_proof(data[:at] + bytes([byte]) + data[at:], policy)


def test_proof_put_together_from_two():
    """No part of one proof stands in for that of another, of another leaf, batch, device, log or checkpoint."""
    policy = b.policy(b.policy_text())
    entries = b.small_log(7)
    other_log = b.log_files([])
    assert other_log
    batches = b.chain(7)
    proofs = [
        b.reading_proof(batches[1], 1, entries, 2),
        b.reading_proof(batches[1], 2, entries, 2),
        b.reading_proof(batches[3], 1, entries, 4),
        b.reading_proof(batches[3], 1, entries[:6], 4),
    ]
    good = {proof.encode(): verify_proof(proof.encode(), policy) for proof in proofs}
    for one in proofs:
        for two in proofs:
            for leaf in (one.leaf, *_mixed_leaves(one.leaf, two.leaf)):
                for index in (one.index, two.index):
                    for inclusion in (one.inclusion, two.inclusion):
                        mixed = ReadingProof(leaf, index, inclusion, two.checkpoint).encode()
                        try:
                            got = verify_proof(mixed, policy)
                        except (MalformedError, VerificationError):
                            continue
                        assert mixed in good or got.reading in {proven.reading for proven in good.values()}
                        assert mixed in good


def _mixed_leaves(one, two):
    fields = [(getattr(one, name), getattr(two, name)) for name in one.__slots__]
    for at in range(len(fields)):
        yield type(one)(*[pair[number == at] for number, pair in enumerate(fields)])
        yield type(one)(*[pair[number >= at] for number, pair in enumerate(fields)])


def check_log(files, policy):
    """Runs fsck over a whole directory; True where it found nothing."""
    try:
        fsck(files.get, policy, paths=list(files))
    except LedgerError:
        return False
    return True


def test_log_with_any_byte_changed():
    """Fsck refuses every change of a byte of any file, but for those in a stranger's line of the checkpoint."""
    policy = b.policy(b.policy_text())
    files = b.log_files(b.small_log(4), cosigned=[(b.STRANGER, b.NOW)])
    assert check_log(files, policy)
    free = files["checkpoint"].index(b.STRANGER.name.encode()) - 4
    for path, data in files.items():
        for at, changed in tampered(data):
            if check_log(files | {path: changed}, policy):
                assert path == "checkpoint"
                assert at >= free


def test_log_of_every_entry_with_any_byte_changed():
    """The same for a log with every type of entry."""
    files = b.log_files(logs.whole().entries)
    assert check_log(files, NO_WITNESS)
    for path, data in files.items():
        for at, changed in tampered(data):
            if at % 7 == 0 or path == "checkpoint":
                assert not check_log(files | {path: changed}, NO_WITNESS), (path, at)


def test_log_of_300_with_bytes_changed():
    """The same for a log of two tiles on the lowest level and one above, a few bytes of every hash and entry."""
    policy = b.policy(b.policy_text())
    entries = [*b.small_log(3), *(b"\x93\x06\x01\xc4\x20" + b.seed(str(at)) for at in range(296))]
    files = b.log_files(entries)
    assert check_log(files, policy)
    assert len(files) == 6
    for path, data in files.items():
        for at in range(0, len(data), 1 if len(data) < 300 else 173):
            assert not check_log(files | {path: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]}, policy)


def test_log_with_a_file_missing_or_cut():
    """Fsck names the first file that is missing, and refuses one that is cut short, longer or empty."""
    policy = b.policy(b.policy_text())
    files = b.log_files(b.small_log(4))
    for path, data in files.items():
        rest = {other: content for other, content in files.items() if other != path}
        with pytest.raises(VerificationError, match=re.escape(f"{path}: missing")):
            fsck(rest.get, policy, paths=list(rest))
        for changed in (b"", data[:-1], data + b"\0", data + data, data[1:]):
            assert not check_log(files | {path: changed}, policy)
