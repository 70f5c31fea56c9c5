"""Following a log: written down and taken up again at any entry, it ends the same."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.batch import Anchor, Notice
from ledger.errors import MalformedError, VerificationError
from ledger.follow import STATE_VERSION, Follower
from ledger.merkle import tree_root
from ledger.tiles import TileReader
from tests.vectors import logs

from . import builders as b
from . import past as p
from .strategies import examples

ENTRIES = [*logs.whole().entries[:-1], *(b.pack([6, 1, b.seed(f"{at}")]) for at in range(600)), logs.CLOSING, logs.B0]


def follow(entries, follower=None):
    """A follower that has seen `entries`, and all that it found."""
    follower = follower or Follower(b.ORIGIN)
    return follower, [finding for entry in entries for finding in follower.add(entry)]


def judge(log):
    """A follower that has seen the vector `log`, and all that it found, of what points back too."""
    registrars = None if log.trust is None else frozenset(who.public_key for who in log.trust)
    follower, found = follow(log.entries, Follower(b.ORIGIN, registrars))
    return follower, [*found, *follower.look_back(tree_of(log.entries, follower))]


def tree_of(entries, follower):
    """The tree of `entries`."""
    return TileReader(b.log_files(entries).get, len(entries), follower.root())


@pytest.mark.parametrize("size", [*range(22), 100, 254, 255, 256, 257, 511, 512, 513, len(ENTRIES) - 1, len(ENTRIES)])
def test_follower_taken_up_again(size):
    """Dumped and loaded after any number of entries, it finds and holds in the end what an unbroken one does."""
    whole, found = follow(ENTRIES)
    before, early = follow(ENTRIES[:size])
    loaded = Follower.load(before.dump())
    assert loaded.dump() == before.dump()
    after, late = follow(ENTRIES[size:], loaded)
    assert early + late == found
    assert after.dump() == whole.dump()
    assert after.root() == whole.root() == tree_root([b.hash_entry(entry) for entry in ENTRIES])
    assert list(after.partial_tiles()) == list(whole.partial_tiles())


def test_follower_taken_up_again_everywhere():
    """The same with a dump after every single entry."""
    whole, found = follow(ENTRIES[:40])
    follower, again = Follower(b.ORIGIN), []
    for entry in ENTRIES[:40]:
        follower = Follower.load(follower.dump())
        again += follower.add(entry)
    assert (again, follower.dump()) == (found, whole.dump())


def test_follower_root_at_every_size():
    """The root is that of the entries so far."""
    follower, hashes = Follower(b.ORIGIN), []
    for entry in ENTRIES[:300]:
        assert follower.root() == b.naive_root(hashes)
        follower.add(entry)
        hashes.append(b.hash_entry(entry))


@pytest.mark.parametrize("name", logs.sound())
def test_follower_of_a_sound_log(name):
    """A sound log has no fault, and its notices are those that it should have."""
    log = logs.sound()[name]
    _, found = judge(log)
    assert [finding for finding in found if finding.fault] == []
    kinds = [finding.kind for finding in found]
    assert {kind: kinds.count(kind) for kind in kinds} == log.notices


@pytest.mark.parametrize("name", logs.unsound())
def test_follower_of_an_unsound_log(name):
    """Every fault is found at its entry, and what follows is still taken in."""
    log = logs.unsound()[name]
    follower, found = judge(log)
    first = next(finding for finding in found if finding.fault)
    assert (first.index, first.malformed) == (log.fault, log.malformed)
    assert follower.size == len(log.entries)
    assert isinstance(first.error(), MalformedError) == log.malformed


@pytest.mark.parametrize("name", [*logs.sound(), *logs.unsound()])
def test_follower_of_any_log_taken_up_again(name):
    """What a follower finds in an entry does not hang on when it was last written down."""
    log = (logs.sound() | logs.unsound())[name]
    registrars = None if log.trust is None else frozenset(who.public_key for who in log.trust)
    whole, found = follow(log.entries, Follower(b.ORIGIN, registrars))
    follower, again = Follower(b.ORIGIN, registrars), []
    for entry in log.entries:
        follower = Follower.load(follower.dump(), registrars)
        again += follower.add(entry)
    assert (again, follower.dump()) == (found, whole.dump())


places = st.tuples(st.integers(0, 2), st.integers(0, 4))


@examples
@given(st.lists(st.integers(0, 3), max_size=3), places, places, st.booleans())
def test_follower_of_a_rotation_from_any_place(lengths, until, again, revoked):
    """A rotation is a fault exactly if its place is logged or a second one; a revocation from any place is none."""
    past = p.Past()
    past.enrol(logs.DEVICE)
    logged = [(epoch, seq) for epoch, length in enumerate(lengths) for seq in range(length)]
    for epoch, seq in logged:
        begun = {} if seq else {"epoch": epoch, "seq": 0, "notice": Notice(3) if epoch else None}
        past.seal(signer=logs.DEVICE, **begun)
    rotated = past.rotate(logs.DEVICE, logs.NEXT, until)
    last = past.revoke(logs.DEVICE, again) if revoked else past.add(p.rotation(logs.DEVICE, logs.THIRD, again))
    _, found = follow(past.entries)
    faults = [(finding.index, finding.kind, finding.key_id) for finding in found if finding.fault]
    expected = [rotated] if any(until <= place for place in logged) else []
    assert faults == [(index, "key-event", logs.OLD) for index in expected + ([] if revoked else [last])]


def test_follower_whose_findings_of_anchors_are_not_taken():
    """An anchor goes on waiting until its finding was dealt with, and is then not told again."""
    wrong = b.entry_of(logs.beat(anchor=Anchor(1, b.seed("another root"))))
    entries = [logs.ENROL, wrong]
    follower, _ = follow(entries)
    tree = tree_of(entries, follower)
    told = [next(follower.look_back(tree)) for _ in range(2)]
    assert [(finding.index, finding.kind) for finding in told] == [(1, "split-view")] * 2
    assert list(follower.look_back(tree)) == told[:1]
    assert list(follower.look_back(tree)) == []


def test_follower_whose_findings_of_erasures_are_not_taken():
    """So does an erasure; what it tells names the key, and how many readings of how many."""
    entries = [logs.ENROL, logs.FULL, logs.erased(1, 0, 2)]
    follower, _ = follow(entries)
    told = [next(follower.look_back(tree_of(entries, follower))) for _ in range(2)]
    assert list(follower.look_back(tree_of(entries, follower))) == told[:1]
    assert list(follower.look_back(tree_of(entries, follower))) == []
    what = f"key {logs.OLD.hex()} epoch 0 seq 0: 1 of 2 readings and the batch info were erased (entry 1)"
    assert [(item.index, item.kind, item.fault, item.message) for item in told] == [(2, "erased", False, what)] * 2


def test_follower_counts_what_was_erased():
    """Every leaf that an entry names; what is written down knows it, and what was written before there were any."""
    follower, _ = follow(logs.sound()["a reading erased twice"].entries)
    assert follower.erased == 4
    assert Follower.load(follower.dump()).erased == 4
    state = json.loads(follower.dump())
    del state["erased"]
    assert Follower.load(json.dumps(state)).erased == 0


@pytest.mark.parametrize("size", [0, 1, 5, 255, 256, 300])
def test_follower_shown_entries_again(size):
    """Those of the unfinished bundle are known again, and one that is another is named."""
    follower, _ = follow(ENTRIES[:size])
    first = size - size % 256
    follower.check_again(ENTRIES[first:size])
    for index in {first, size - 1} if size > first else ():
        other = [entry if at != index else b"other" for at, entry in enumerate(ENTRIES[:size])]
        with pytest.raises(VerificationError, match=f"^entry {index}: "):
            follower.check_again(other[first:])


def test_follower_of_a_closing_with_wrong_keys():
    """Each key that is none, or is not the successor's, is a fault; the log is closed all the same."""
    other = b.log_signer(b.ORIGIN).verifier
    follower, found = follow([logs.closing("", logs.HEIR, other, logs.HEIR)])
    assert [(finding.kind, finding.fault, finding.malformed) for finding in found] == [
        ("malformed", True, True),
        ("closed", True, False),
        ("closed", False, False),
    ]
    assert follower.closed.successor == logs.SUCCESSOR


def saved():
    """A saved state with keys, chains and a closing."""
    return json.loads(follow([*ENTRIES[:30], logs.CLOSING])[0].dump())


@pytest.mark.parametrize("field", saved())
@pytest.mark.parametrize(
    "value", [None, "x", -1, 1.5, float("inf"), [1], [[]], [None], {}, {"a": None}, [["zz", 1, 2, 3]], True]
)
def test_saved_state_with_another_field(field, value):
    """A saved state whose field is of another shape is malformed, or goes on without another exception."""
    state = saved() | {field: value}
    try:
        follower = Follower.load(json.dumps(state))
    except MalformedError:
        return
    follower.add(logs.B0)
    follower.add(p.enrolment(b.device("yet another")))
    follower.root()
    follower.dump()


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "1", '"x"', "{}", "{", "[" * 100_000, '{"version": 1}', "NaN", '{"a":' * 50_000, "1" * 5000],
)
def test_saved_state_that_is_none(text):
    """What is no saved state is malformed."""
    with pytest.raises(MalformedError):
        Follower.load(text)


@pytest.mark.parametrize("levels", [[], [[]], [[], []], [["00" * 32] * 30], [["00" * 32] * 31, ["00" * 32]]])
def test_saved_state_with_tiles_of_another_size(levels):
    """The unfinished tiles of a saved state are those of its size: of 31 entries one tile of 31 hashes."""
    with pytest.raises(MalformedError, match="not those of a log of size 31"):
        Follower.load(json.dumps(saved() | {"levels": levels}))
    with pytest.raises(MalformedError, match="not those of a log of size 0"):
        Follower.load(json.dumps(json.loads(Follower(b.ORIGIN).dump()) | {"levels": []}))


def test_saved_state_of_another_version():
    """A saved state of another version of the program is not read."""
    with pytest.raises(MalformedError, match=f"is not this program's {STATE_VERSION}"):
        Follower.load(json.dumps(saved() | {"version": STATE_VERSION + 1}))
