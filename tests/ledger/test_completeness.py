"""Completeness: whatever is left out of, put into or exchanged in a range, it is not proven as if it were whole."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import verify_cli
from ledger.completeness import MAX_RANGE_FILE, Disclosed, parse_range_proof, verify_range
from ledger.errors import MalformedError
from ledger.proof import MAX_PROOF_FILE, parse_proof_file
from ledger.report import UnprovenError
from tests.vectors import completeness as vectors

from . import builders as b
from . import past as p
from .strategies import examples

POLICY = b.policy(b.policy_text())
DEVICE = b.device()


def chain(count=7):
    """A log with one device's chain."""
    past = p.Past()
    past.enrol(DEVICE)
    for number in range(count):
        past.seal(*(b.scalar(60 + number, ordinal=at) for at in range(number % 4)), signer=DEVICE)
    return past


PAST = chain()
WHOLE = PAST.range_fields(DEVICE, range(7))
HIDDEN = PAST.range_fields(DEVICE, range(7), ())
LAST = PAST.chains[p.id_of(DEVICE)][-1][0]


def proven(fields, index=LAST):
    """What a range of these fields proves, None if nothing."""
    try:
        return verify_range(PAST.file(b.pack(fields), index, ()), POLICY)
    except UnprovenError:
        return None


@examples
@given(st.lists(st.integers(0, 6), min_size=1, max_size=8))
def test_range_of_any_batches(numbers):
    """Any choice of batches is proven exactly if it is unbroken up to the last, and then it says where it begins."""
    found = proven([*WHOLE[:3], [WHOLE[3][number] for number in numbers]])
    unbroken = numbers == list(range(numbers[0], 7))
    assert (found is not None) == unbroken
    if found is not None:
        assert (found.first, found.last) == (numbers[0], 6)
        assert found.readings == sum(number % 4 for number in numbers)


@examples
@given(st.data())
def test_range_with_batches_left_out(data):
    """Whichever batches between the first and the last are left out, the range is not proven."""
    kept = data.draw(st.sets(st.integers(1, 5), max_size=4).filter(lambda found: len(found) < 5))
    numbers = [0, *sorted(kept), 6]
    assert proven([*WHOLE[:3], [WHOLE[3][number] for number in numbers]]) is None


@examples
@given(st.data(), st.booleans(), st.sampled_from((1, 2, 3, 5, 6)))
def test_range_with_other_leaves(data, shown, number):
    """Whatever leaves of a batch are left out, doubled or exchanged, the range is not proven."""
    fields = WHOLE if shown else HIDDEN
    leaves = fields[3][number][2]
    chosen = data.draw(st.lists(st.integers(0, len(leaves) - 1), max_size=len(leaves) + 1))
    changed = [leaves[at] for at in chosen]
    if changed and shown and chosen[0]:
        return  # a reading in the place of the info is malformed
    batches = [*fields[3]]
    batches[number] = [*batches[number][:2], changed]
    try:
        found = proven([*fields[:3], batches])
    except MalformedError:
        assert shown
        assert 0 in chosen[1:]
        return
    assert (found is not None) == (chosen == list(range(len(leaves))))


@examples
@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 3))))
def test_range_disclosed_in_any_part(disclosed):
    """Whatever is disclosed, the count of readings is the same, and exactly those are shown."""
    found = proven(PAST.range_fields(DEVICE, range(7), disclosed))
    assert found.readings == 9
    shown = [(number, at) for number, at in sorted(disclosed) if 0 < at <= number % 4]
    assert found.disclosed == tuple(Disclosed(*place, b.scalar(60 + place[0], ordinal=place[1] - 1)) for place in shown)
    assert found.steps[7].result == ("not checked" if shown else "passed")


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("beyond", [-1, 0, 1, 2**63])
def test_range_with_an_anchor(number, beyond):
    """Only the last header's anchor counts, and of it only that it is not beyond the proof's index."""
    past = p.Past()
    for seq in range(3):
        past.seal(signer=DEVICE, anchor=b.Anchor(2 + beyond, bytes(32)) if seq == number else None)
    file = past.range(DEVICE, range(3), cosigned=())
    if number == 2 and beyond > 0:
        with pytest.raises(UnprovenError, match=f"step 4 .*anchored to size {2 + beyond}, which came after index 2"):
            verify_range(file, POLICY)
    else:
        assert verify_range(file, POLICY).last == 2


def test_range_file_longer_than_other_proofs():
    """A range may have more than 512 KB, to the bound of its own; another form may not."""
    past = p.Past()
    past.seal(*(b.waveform([at] * 8000) for at in range(15)), signer=DEVICE)
    past.seal(*(b.waveform([at] * 8001) for at in range(15)), signer=DEVICE)
    data = past.range(DEVICE, (0, 1), cosigned=()).encode()
    assert len(data) > MAX_PROOF_FILE
    file = parse_proof_file(data, limit=MAX_RANGE_FILE)
    assert verify_range(file, POLICY).readings == 30
    with pytest.raises(MalformedError, match="more than the 524288 allowed"):
        parse_proof_file(data)


@pytest.mark.parametrize("form", [1, 2])
def test_long_file_by_the_form_of_its_extra(form):
    """What verifies any file takes a range above 512 KB, and no other form."""
    past = p.Past()
    past.seal(*(b.waveform([at] * 8000) for at in range(15)), signer=DEVICE)
    past.seal(*(b.waveform([at] * 8001) for at in range(15)), signer=DEVICE)
    file = past.range(DEVICE, (0, 1), cosigned=())
    data = file.encode()
    assert len(data) > MAX_PROOF_FILE
    assert verify_cli._parse(data) == file
    other = dataclasses.replace(file, extra=file.extra[:1] + bytes([form]) + file.extra[2:])
    with pytest.raises(MalformedError, match="more than the 524288 allowed"):
        verify_cli._parse(other.encode())
    assert verify_cli._parse(dataclasses.replace(other, extra=other.extra[:1000]).encode()).form == form


def test_range_of_too_many_batches():
    """4096 batches are as many as a file holds."""
    heartbeat = PAST.range_fields(DEVICE, (0,), ())[3][0]
    assert len(parse_range_proof(b.pack([*WHOLE[:3], [heartbeat] * 4096])).batches) == 4096
    with pytest.raises(MalformedError):
        parse_range_proof(b.pack([*WHOLE[:3], [heartbeat] * 4097]))


def test_range_of_a_long_chain():
    """A chain of some hundred batches is proven."""
    file = dataclasses.replace(vectors.long_chain(300))
    found = verify_range(file, b.policy(b.two_of_three()))
    assert (found.first, found.last, found.readings) == (0, 299, 150)
