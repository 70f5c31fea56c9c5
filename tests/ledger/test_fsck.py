"""The whole-truth checker: what a sound log reports, and every way in which a log can be unsound."""

import dataclasses

import pytest

from ledger.batch import Anchor, Notice, header_hash
from ledger.entry import BatchEntry, commit_assignment, parse_entry
from ledger.errors import LedgerError, MalformedError, VerificationError
from ledger.events import Enrolment, enrol
from ledger.follow import Follower
from ledger.fsck import fsck, open_log, read_checkpoint
from ledger.keys import Ed25519Signer
from tests.vectors import logs

from . import builders as b

POLICY = b.policy(b.policy_text())


def commitments(count):
    """`count` cheap entries."""
    return [commit_assignment(bytes(16), b"%d" % at).encode() for at in range(count)]


def checked(entries):
    """The report on a log of `entries`, all of its files listed."""
    files = b.log_files(entries)
    return fsck(files.get, POLICY, paths=list(files))


def refused(entries, match):
    """The log of `entries`, soundly hashed and signed, is refused for what its entries say."""
    with pytest.raises(LedgerError, match=match):
        checked(entries)


def test_log_sound():
    """A sound log's report counts its entries, readings, keys and chains."""
    report = checked([*b.small_log(6), *commitments(2), b"\x93\x4d\x02\xc0"])
    assert report.log.entries == {"enrolments": 1, "batches": 6, "commitments": 2, "entries of other versions": 1}
    assert report.log.readings == 8
    assert [record.enrolled for record in report.log.keys] == [0]
    (chain,) = report.log.chains.values()
    assert (chain.epoch, chain.seq, chain.hash) == (0, 5, header_hash(b.chain(6)[5].header))


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537])
def test_log_of_size(size):
    """Logs at the edges of tiles are sound, and progress ends at their size."""
    seen = []
    files = b.log_files(commitments(size))
    report = fsck(files.get, POLICY, paths=list(files), progress=lambda done, total: seen.append((done, total)))
    assert report.log.entries["commitments"] == size
    assert report.checkpoint.checkpoint.size == size
    assert seen[-1:] == ([(size, size)] if size else [])


def test_log_without_a_listing():
    """Without a list of files, what the size implies is checked all the same."""
    files = b.log_files(commitments(300))
    assert fsck(files.get, POLICY).log.entries["commitments"] == 300


def test_log_with_left_over_partial_tiles():
    """Partial tiles of earlier sizes may stay, as long as they are the beginning of what is there now."""
    entries = commitments(515)
    files = b.log_files(entries)
    for size in (1, 7, 255, 300, 513):
        old = b.tile_files(entries[:size])
        fsck((old | files).get, POLICY, paths=list(old | files))
        for path in old.keys() - files.keys():
            for wrong in (old[path][:-1] + b"?", old[path] + b"?", b"", old[path][:-32]):
                changed = old | {path: wrong} | files
                with pytest.raises(LedgerError, match=path):
                    fsck(changed.get, POLICY, paths=list(changed))


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/000.p/6",
        "tile/0/000",
        "tile/entries/000.p/6",
        "tile/entries/000.p/4",
        "README",
        "tile/0/000.p/5.tmp",
        "checkpoint.tmp",
        "tile/0/000.p/300",
    ],
)
def test_log_with_a_file_that_does_not_follow(path):
    """A file that is no tile, or disagrees with the tree where it overlaps it, is refused."""
    files = b.log_files(commitments(5)) | {path: bytes(32)}
    with pytest.raises(LedgerError):
        fsck(files.get, POLICY, paths=list(files))


@pytest.mark.parametrize("path", ["tile/0/001", "tile/entries/001.p/1", "tile/1/000.p/1", "tile/7/999"])
def test_log_with_tiles_behind_the_right_edge(path):
    """Tiles of a checkpoint that is not published yet are counted; of what they hold only the form is known."""
    data = {"tile/entries/001.p/1": b"\x00\x01a", "tile/1/000.p/1": bytes(32)}.get(path, bytes(8192))
    files = b.log_files(commitments(5)) | {path: data}
    assert fsck(files.get, POLICY, paths=list(files)).ahead == 1
    for wrong in (data[:-1], data + b"?", b""):
        with pytest.raises(MalformedError):
            fsck((files | {path: wrong}).get, POLICY, paths=list(files))


def test_log_with_the_tiles_of_a_later_size():
    """The tiles of a larger tree over the same entries agree with a checkpoint of the smaller one."""
    entries = commitments(300)
    old = b.log_files(entries[:200])
    files = b.tile_files(entries) | old
    assert fsck(files.get, POLICY, paths=list(files)).ahead == 3
    for path in ("tile/0/000", "tile/entries/000"):
        data = files[path]
        changed = files | {path: bytes([data[0] ^ 1]) + data[1:]}
        with pytest.raises(LedgerError, match=path):
            fsck(changed.get, POLICY, paths=list(changed))


def test_log_with_entries_exchanged():
    """Two entries exchanged in the bundle alone no longer lead to the tile; in the whole log, to the chain."""
    entries = b.small_log(3)
    exchanged = [entries[0], entries[2], entries[1], entries[3]]
    files = b.log_files(entries) | {"tile/entries/000.p/4": b.tile_files(exchanged)["tile/entries/000.p/4"]}
    with pytest.raises(LedgerError):
        fsck(files.get, POLICY)
    refused(exchanged, r"entry 1: batch by key [0-9a-f]*: epoch 0 seq 1 follows epoch 0 seq -1")
    both = b.tile_files(exchanged) | {"checkpoint": b.log_files(entries)["checkpoint"]}
    with pytest.raises(LedgerError):
        fsck(both.get, POLICY)


def test_log_whose_checkpoint_is_of_other_entries():
    """Tiles and bundles that agree with each other but not with the signed root are refused."""
    files = b.log_files(commitments(300)) | {"checkpoint": b.log_files([*commitments(299), b"\x92c\x01"])["checkpoint"]}
    with pytest.raises(VerificationError, match="do not lead to the root of the checkpoint of size 300"):
        fsck(files.get, POLICY)


@pytest.mark.parametrize("size", [4, 6])
def test_log_whose_checkpoint_is_of_another_size(size):
    """Files of five entries under a checkpoint of four or six are refused."""
    files = b.log_files(commitments(5)) | {"checkpoint": b.log_files(commitments(size))["checkpoint"]}
    with pytest.raises(LedgerError):
        fsck(files.get, POLICY, paths=list(files))


def batch(seq=0, **fields):
    """One entry of the default device."""
    return b.entry_of(b.sealed([b.scalar()], seq=seq, **fields))


def enrolment(**changes):
    """The default device's enrolment, some fields changed after signing."""
    return dataclasses.replace(enrol(b.device(), Ed25519Signer(b.seed("registrar")), b.ORIGIN), **changes)


ENROL = enrolment().encode()
FIRST = b.sealed([b.scalar()])
SECOND = b.sealed([b.scalar()], seq=1, previous=header_hash(FIRST.header))


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ([b.entry_of(FIRST)], "not enrolled before it"),
        ([b.entry_of(FIRST), ENROL], "not enrolled before it"),
        ([ENROL, ENROL], "enrolled already"),
        ([ENROL, b.entry_of(FIRST), b.entry_of(FIRST)], "seq 0 follows epoch 0 seq 0"),
        ([ENROL, b.entry_of(SECOND)], "seq 1 follows epoch 0 seq -1"),
        ([ENROL, b.entry_of(FIRST), batch(2, previous=header_hash(FIRST.header))], "seq 2 follows epoch 0 seq 0"),
        ([ENROL, b.entry_of(FIRST), batch(1, previous=bytes(32))], "does not continue"),
        ([ENROL, b.entry_of(FIRST), batch(1, previous=header_hash(SECOND.header))], "does not continue"),
        ([ENROL, batch(origin="other.example.org")], "batch for the log 'other.example.org'"),
        ([ENROL, batch(signer=b.device("thief"))], "not enrolled"),
        ([ENROL, BatchEntry(FIRST.header, SECOND.signature).encode()], "signature does not verify"),
        ([enrolment(device_signature=bytes(64)).encode()], "signature does not verify"),
        ([enrolment(registrar_signature=bytes(64)).encode()], "signature does not verify"),
        ([enrolment(origin="other.example.org").encode()], "a key event for the log"),
        ([enrol(b.device(), b.device("registrar"), "other.example.org").encode()], "a key event for the log"),
        ([b""], "entry 0: entry: not msgpack"),
        ([b"\xc0"], "not an array that begins"),
        ([b"\x91\x01"], "not an array that begins"),
        ([b"\x93\x06\x01\xc4\x1f" + bytes(31)], "not a byte string of 32"),
        ([b"\x93\x06\x01\xc5\x00\x20" + bytes(32)], "not the canonical encoding"),
        ([b"\x92\xcd\x00\x63\x01"], "not the canonical encoding"),
        ([b"\x92\x63\x01\x00"], "not msgpack"),
    ],
)
def test_log_with_an_entry_that_does_not_follow(entries, match):
    """Each rule between entries is checked, by index."""
    refused(entries, match)


def test_log_with_an_entry_in_the_middle_dropped():
    """A device's chain shows what is missing, wherever it is."""
    entries = b.small_log(6)
    for at in range(1, 6):
        refused([*entries[:at], *entries[at + 1 :]], "follows" if at < 6 else "")


def test_log_with_epochs():
    """A new epoch begins at sequence number 0 with its notice, may skip numbers, and never goes back."""
    lost = [b.sealed(epoch=epoch, notice=Notice(3)) for epoch in range(1, 5)]
    report = checked([ENROL, b.entry_of(FIRST), b.entry_of(lost[0]), b.entry_of(lost[3])])
    assert [chain.epoch for chain in report.log.chains.values()] == [4]
    refused([ENROL, b.entry_of(lost[3]), b.entry_of(lost[0])], "epoch 1 seq 0 follows epoch 4 seq 0")
    refused([ENROL, b.entry_of(lost[0]), b.entry_of(lost[0])], "follows")
    refused([ENROL, b.entry_of(lost[0]), b.entry_of(SECOND)], "follows")


def test_log_with_two_devices():
    """Chains of two devices run side by side, each with its own enrolment."""
    other = b.device("other")
    enrolled = enrol(other, Ed25519Signer(b.seed("registrar")), b.ORIGIN).encode()
    mine, theirs = map(b.entry_of, b.chain(3)), map(b.entry_of, b.chain(3, signer=other))
    woven = [entry for pair in zip(mine, theirs, strict=True) for entry in pair]
    assert checked([ENROL, enrolled, *woven]).log.entries["batches"] == 6
    assert parse_entry(enrolled) != parse_entry(ENROL)


def test_log_under_another_policy():
    """A checkpoint that the policy does not accept ends the check before any tile is read."""
    files = b.log_files(commitments(3))
    with pytest.raises(VerificationError, match="is not reached"):
        fsck({"checkpoint": files["checkpoint"]}.get, b.policy(b.two_of_three()))
    with pytest.raises(VerificationError, match="checkpoint: missing"):
        read_checkpoint({}.get, POLICY)
    with pytest.raises(MalformedError, match="checkpoint"):
        read_checkpoint({"checkpoint": b"?"}.get, POLICY)


def test_log_opened():
    """Opening a log gives a reader of exactly the tree that its checkpoint commits to."""
    entries = commitments(9)
    verified, tree = open_log(b.log_files(entries).get, POLICY)
    assert (tree.size, tree.root) == (9, verified.checkpoint.root)
    assert tree.entry(8) == entries[8]


@pytest.mark.timeout(10)
def test_log_that_states_an_enormous_size():
    """A signed checkpoint of 2^60 entries over an almost empty directory is refused at once."""
    files = {"checkpoint": b.checkpoint_note(2**60, bytes(32)).encode(), "tile/0/000": bytes(8192)}
    with pytest.raises(LedgerError):
        fsck(files.get, POLICY, paths=list(files))


@pytest.mark.parametrize(
    ("anchor", "match"),
    [
        (Anchor(1, bytes(32)), "another root for size 1: a split view"),
        (Anchor(0, bytes(32)), "another root for size 0: a split view"),
        (Anchor(2, b.naive_root([b.hash_entry(ENROL)])), "anchored to size 2, which came after it"),
        (Anchor(2**64 - 1, bytes(32)), "which came after it"),
    ],
)
def test_log_with_an_anchor_to_another_history(anchor, match):
    """A device that had verified another root, or a size beyond its own entry, is evidence against the log."""
    refused([ENROL, b.entry_of(b.sealed([b.scalar()], anchor=anchor))], match)


@pytest.mark.parametrize("size", [0, 1, 200, 255, 256, 257])
def test_log_with_an_anchor_to_its_own_history(size):
    """An anchor to any earlier size of this log is sound, up to the entry's own place."""
    earlier = [ENROL, *commitments(256)]
    anchor = Anchor(size, b.naive_root([b.hash_entry(entry) for entry in earlier[:size]]))
    assert checked([*earlier, b.entry_of(b.sealed([b.scalar()], anchor=anchor))]).log.readings == 1


WHOLE = [*logs.whole().entries[:-1], *commitments(540), logs.CLOSING]


def checked_by(entries, resume=None, extra=(), **how):
    """The report on a log of `entries`, resumed from saved text if given, and the last state that was saved."""
    saved = []
    files = b.log_files(entries) | dict(extra)
    follower = None if resume is None else Follower.load(resume)
    report = fsck(
        files.get, POLICY, paths=list(files), resume=follower, save=lambda log: saved.append(log.dump()), **how
    )
    return report, saved


def test_log_with_every_type_of_entry():
    """What a log properly reports is counted and told, each once, and is no fault."""
    told = []
    report, _ = checked_by(WHOLE, tell=told.append)
    expected = {"gap": 1, "outbox-lost": 1, "equivocation": 1, "revoked": 1, "closed": 1, "erased": 1}
    assert report.notices == expected
    assert [finding.kind for finding in told] == ["gap", "outbox-lost", "equivocation", "revoked", "erased", "closed"]
    assert not any(finding.fault for finding in told)
    assert report.log.entries == {
        "openings": 1,
        "enrolments": 2,
        "key states": 4,
        "batches": 6,
        "rotations": 1,
        "entries of other versions": 1,
        "equivocations": 1,
        "revocations": 1,
        "commitments": 541,
        "erasures": 1,
        "closings": 1,
    }


@pytest.mark.parametrize("size", [*range(20), 100, 255, 256, 257, 511, 512, 513, len(WHOLE) - 1, len(WHOLE)])
def test_log_checked_again_from_any_size(size):
    """A check that is resumed from a smaller log reports, in sum, what one of the whole log does."""
    whole, states = checked_by(WHOLE)
    early, saved = checked_by(WHOLE[:size])
    late, resaved = checked_by(WHOLE, saved[-1])
    assert resaved[-1] == states[-1] == late.log.dump()
    assert early.notices + late.notices == whole.notices
    assert late.log.root() == whole.checkpoint.checkpoint.root
    assert late.ahead == whole.ahead == 0


def test_log_checked_again_with_its_anchors():
    """Anchors in what is new are held against the tree, also to sizes before the place of resumption."""
    anchor = Anchor(5, b.naive_root([b.hash_entry(entry) for entry in [ENROL, *commitments(300)][:5]]))
    entries = [ENROL, *commitments(300), b.entry_of(b.sealed([b.scalar()], anchor=anchor))]
    wrong = Anchor(5, bytes(32))
    split = [*entries[:-1], b.entry_of(b.sealed([b.scalar()], anchor=wrong))]
    _, saved = checked_by(entries[:290])
    assert checked_by(entries, saved[-1])[0].log.readings == 1
    with pytest.raises(VerificationError, match=r"entry 301: .*a split view"):
        checked_by(split, saved[-1])


@pytest.mark.parametrize("size", [1, 200, 256, 300, 512, 515])
def test_log_checked_again_with_left_over_tiles(size):
    """Left-over partial tiles count for ahead of the checkpoint neither in a whole check nor in a resumed one."""
    entries = commitments(515)
    left = [item for old in (7, 255, 300, 513) for item in b.tile_files(entries[:old]).items()]
    _, saved = checked_by(entries[:size])
    assert checked_by(entries, extra=left)[0].ahead == 0
    assert checked_by(entries, saved[-1], left)[0].ahead == 0


def test_log_checked_again_that_shrank_or_changed():
    """A saved state of more entries, of other entries or of another log is no beginning of this one."""
    _, saved = checked_by(commitments(300))
    with pytest.raises(VerificationError, match="shrank"):
        checked_by(commitments(299), saved[-1])
    other = [logs.UNKNOWN, *commitments(300)]
    with pytest.raises(LedgerError):
        checked_by(other, saved[-1])
    alien = Follower("other.example.org").dump()
    with pytest.raises(VerificationError, match="is of the log"):
        checked_by(commitments(3), alien)


def test_log_saved_after_every_tile():
    """The follower is handed out after every full tile and at the end."""
    _, saved = checked_by(commitments(515))
    assert [Follower.load(text).size for text in saved] == [256, 512, 515]


def movable():
    """The faulty logs in which nothing says at which index it is."""
    fixed = (logs.OPENING, logs.CLOSING)
    found = {name: log for name, log in logs.unsound().items() if not any(entry in fixed for entry in log.entries)}
    pointing = ("key state", "anchor", "erased")
    return [name for name in found if not any(word in name for word in pointing)]


@pytest.mark.parametrize("name", movable())
def test_log_with_a_fault_behind_others(name):
    """Each fault between entries is found behind a tile of other entries too, whole and resumed."""
    log = logs.unsound()[name]
    before = commitments(255)
    signers = [b.NoteSigner("r", b.seed(who)) for who in ("registrar", "other registrar")]
    keys = {signer.verifier.public_key: signer.verifier for signer in signers}
    trust = None if log.trust is None else [keys[who.public_key] for who in log.trust]
    _, saved = checked_by(before)
    for resume in (None, saved[-1]):
        follower = resume and Follower.load(resume, trust and frozenset(key.public_key for key in trust))
        files = b.log_files([*before, *log.entries])
        with pytest.raises(LedgerError, match=rf"^entry {255 + log.fault}: "):
            fsck(files.get, POLICY, trust=trust, paths=list(files), resume=follower or None)


def test_enrolment_is_what_the_log_says():
    """An enrolment out of a log is the one that was made."""
    assert isinstance(parse_entry(ENROL), Enrolment)
