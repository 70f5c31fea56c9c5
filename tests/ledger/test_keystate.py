"""The states of all keys against a naive model, and the proofs made from them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import merkle
from ledger.entry import KeyStateEntry
from ledger.errors import VerificationError
from ledger.events import enrol, revoke, rotate
from ledger.keystate import KeyStates, parse_record

from . import builders as b
from . import past as p
from . import strategies as s
from .strategies import examples

DEVICES = s.devices
REGISTRAR = p.registrar()

numbers = st.integers(0, len(DEVICES) - 1)
small_places = st.tuples(st.integers(0, 2), st.integers(0, 3))
steps = st.lists(
    st.tuples(st.just("enrol"), numbers)
    | st.tuples(st.just("rotate"), numbers, numbers, small_places)
    | st.tuples(st.just("revoke"), numbers, small_places),
    max_size=12,
)


def event_of(step):
    """The event of a step."""
    match step:
        case ("enrol", number):
            return enrol(DEVICES[number], REGISTRAR, b.ORIGIN)
        case ("rotate", old, new, until):
            return rotate(DEVICES[old], DEVICES[new], REGISTRAR, b.ORIGIN, until)
        case ("revoke", number, until):
            return revoke(p.id_of(DEVICES[number]), REGISTRAR, b.ORIGIN, until, 1)


def allowed(step, past):
    """Whether a step may come next, by the words of FORMAT.md section 7.6."""
    ended, begun = {"enrol": (None, 1), "rotate": (1, 2), "revoke": (1, None)}[step[0]]
    if begun is not None and p.id_of(DEVICES[step[begun]]) in past.records:
        return False
    if ended is None:
        return True
    _, until, revoked = past.records.get(p.id_of(DEVICES[step[ended]]), [None, None, 0])
    return revoked is None and (until is None or step[0] == "revoke")


def play(step, past):
    """The step in the model."""
    match step:
        case ("enrol", number):
            past.enrol(DEVICES[number])
        case ("rotate", old, new, until):
            past.rotate(DEVICES[old], DEVICES[new], until)
        case ("revoke", number, until):
            past.revoke(DEVICES[number], until)


@examples
@given(steps)
def test_states_follow_the_model(played):
    """Any events: taken or refused as the words of the format say, and the key state is the model's after each."""
    states, past = KeyStates(b.ORIGIN), p.Past()
    for step in played:
        event = event_of(step)
        if not allowed(step, past):
            with pytest.raises(VerificationError):
                states.check(event)
            past.fill(1)
            continue
        states.check(event)
        states.apply(len(past.entries), event)
        play(step, past)
        size = len(past.entries)
        assert states.entry(size).encode() == p.state_entry(size, past.sorted_records())
    assert sorted(record.encode() for record in states) == sorted(past.sorted_records())
    loaded = KeyStates(b.ORIGIN)
    loaded.load(states.dump(), states.last_event)
    assert loaded.entry(0) == states.entry(0)
    assert loaded.dump() == states.dump()
    for key in past.records:
        record, position, path = states.prove(key)
        entry = states.entry(0)
        assert position == sorted(past.records).index(key)
        merkle.check_inclusion(position, entry.count, record.leaf_hash(), path, entry.root)
        assert path == b.naive_path(position, [p.record_hash(data) for data in past.sorted_records()])


@examples
@given(st.integers(0, 20), st.integers(0, 20), st.integers(-1, 19), st.sampled_from(("", "count", "root")))
def test_key_state_entry_checked(index, size, last, wrong):
    """A key state holds exactly if it is right and no key event lies between its size and its index."""
    states = KeyStates(b.ORIGIN)
    if last >= 0:
        states.apply(last, event_of(("enrol", 0)))
    right = states.entry(size)
    changes = {
        "count": KeyStateEntry(size, right.count + 1, right.root),
        "root": KeyStateEntry(size, right.count, bytes(32)),
    }
    stated = changes.get(wrong, right)
    if size <= index and last < size and not wrong:
        states.check_entry(index, stated)
    else:
        with pytest.raises(VerificationError):
            states.check_entry(index, stated)


@examples
@given(s.records(), s.chain_places, s.uint64)
def test_record_good_as_the_format_says(record, place, index):
    """A record is good exactly after the enrolment, before the place, not after the revocation; at each bound too."""
    places, indexes = {place}, {index}
    if record.until is not None:
        epoch, seq = record.until
        places |= {record.until, (epoch, max(seq - 1, 0)), (epoch, seq + 1), (max(epoch - 1, 0), seq)}
    for at in (record.enrolled, record.revoked):
        indexes |= set() if at is None else {at, at + 1, max(at - 1, 0)}
    for where in places:
        for at in indexes:
            good = record.enrolled < at and (record.until is None or where < record.until)
            good = good and (record.revoked is None or record.revoked >= at)
            try:
                record.check_good(where, at)
                found = True
            except VerificationError:
                found = False
            assert found == good


def test_proof_of_a_key_that_is_not_there():
    """There is no proof of a key that was never enrolled."""
    states = KeyStates(b.ORIGIN)
    with pytest.raises(KeyError):
        states.prove(bytes(32))


def test_record_of_the_longest_fits():
    """The longest record fits a key-status proof."""
    data = b.pack([b"\xff" * 32, 2**64 - 2, [2**32 - 1, 2**64 - 1], 2**64 - 1])
    assert parse_record(data).encode() == data
    assert len(data) == 68
