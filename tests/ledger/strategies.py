"""Hypothesis strategies for every format, and the settings that keep them repeatable and short."""

import dataclasses
import os

from hypothesis import settings
from hypothesis import strategies as st

from ledger.add_checkpoint import AddCheckpoint
from ledger.batch import Anchor, Header, Notice
from ledger.checkpoint import Checkpoint
from ledger.completeness import RangeBatch, RangeProof
from ledger.entry import BatchEntry, Closing, Commitment, Erased, KeyStateEntry, Opening, equivocation
from ledger.events import Enrolment, Revocation, Rotation
from ledger.info import BatchInfo, Source
from ledger.keystate import KeyRecord
from ledger.leaves import Leaf
from ledger.messages import ErasedBatch, ErasedNotice, Placed, Receipt, Reject, Status, Stored, Wanted
from ledger.note import Note, Signature
from ledger.proof import LeafProof, ProofFile, ReadingProof
from ledger.reading import Absent, Reading, Scalar, Waveform
from ledger.status import StatusProof
from ledger.tiles import ENTRIES, Tile

from . import builders as b

SECONDS = float(os.environ.get("VITALSEAL_FUZZ_SECONDS", "0"))

# The same examples on every run; a longer fuzzing time buys more and other ones.
examples = settings(max_examples=100 + int(50 * SECONDS), deadline=None, derandomize=not SECONDS, database=None)

hashes = st.binary(min_size=32, max_size=32)
paths = st.lists(hashes, max_size=8).map(tuple)
signatures = st.binary(min_size=64, max_size=64)
int64 = st.integers(-(2**63), 2**63 - 1)
uint64 = st.integers(0, 2**64 - 1)
uint32 = st.integers(0, 2**32 - 1)
sources = st.binary(min_size=1, max_size=16)
origins = st.text("abcXYZ019./-_~!", min_size=1, max_size=255)
names = origins | st.text("ab./é語\u200b\u00ad\U0001fae9", min_size=1, max_size=40)
printable = st.text("abc XYZ019+/~", max_size=64)


def maybe(strategy):
    """Something of `strategy`, or None."""
    return st.none() | strategy


decimals = st.tuples(int64, st.integers(-128, 127))


@st.composite
def waveforms(draw):
    """A waveform of whole frames whose period is in lowest terms."""
    width = draw(st.sampled_from((1, 2, 4)))
    channels = draw(st.integers(1, 32))
    frames = draw(st.integers(1, 5))
    divisor = draw(st.sampled_from((1, 13, 2**61 - 1)))
    period = draw(st.integers(1, 2**63 - 1).filter(lambda number: divisor == 1 or number % divisor))
    samples = draw(st.binary(min_size=frames * width * channels, max_size=frames * width * channels))
    return Waveform(period, divisor, draw(decimals), draw(decimals), channels, width, samples)


values = st.builds(Scalar, int64, st.integers(-128, 127)) | waveforms() | st.builds(Absent, st.integers(1, 255))
readings = st.builds(
    Reading,
    sources,
    st.integers(1, 0xFFFF),
    int64,
    st.integers(0, 0xFFFF),
    maybe(st.integers(-1080, 1080)),
    int64,
    values,
    st.integers(0, 0xFFFF),
)

described = st.dictionaries(sources, printable, max_size=5).map(
    lambda found: tuple(Source(source, text) for source, text in sorted(found.items()))
)
spans = st.tuples(int64, int64).map(sorted).map(tuple)
infos = st.builds(
    lambda boot, sealed, mono, clock, error, span, found, window: BatchInfo(
        boot, sealed, mono, clock, error, *(span if found else (None, None)), found, window
    ),
    st.binary(min_size=16, max_size=16),
    int64,
    uint64,
    st.integers(0, 2),
    maybe(uint64),
    spans,
    described,
    maybe(spans),
)

notices = st.just(Notice(1)) | st.builds(Notice, st.just(2), st.integers(1, 255), maybe(st.integers(1, 2**64 - 1)))


@st.composite
def headers(draw):
    """A header that keeps the rules between its fields."""
    epoch, seq = draw(uint32), draw(uint64)
    if not draw(st.integers(0, 3)):
        seq = 0
    if epoch and not seq:
        count, notice = 0, Notice(3)
    elif draw(st.booleans()):
        count, notice = 0, draw(notices)
    else:
        count, notice = draw(st.integers(1, 4095)), None
    previous = draw(hashes) if seq else None
    anchor = draw(maybe(st.builds(Anchor, uint64, hashes)))
    return Header(draw(origins), draw(hashes), epoch, seq, previous, count, draw(hashes), anchor, notice)


batch_entries = st.builds(lambda header, signature: BatchEntry(header.encode(), signature), headers(), signatures)
commitments = st.builds(Commitment, hashes)

devices = [*(b.device(f"device {number}") for number in range(4)), *(b.SecureElement(f"{at}") for at in range(2))]
keys = st.sampled_from([(device.algorithm, device.public_key) for device in devices])
registrar_keys = st.sampled_from([device.public_key for device in devices if device.algorithm == 1])
chain_places = st.tuples(uint32, uint64)
enrolments = st.builds(
    lambda origin, key, *rest: Enrolment(origin, *key, *rest), origins, keys, registrar_keys, signatures, signatures
)
rotations = st.builds(
    lambda origin, pair, place, *rest: Rotation(origin, *pair[0], place, *pair[1], *rest),
    origins,
    st.tuples(keys, keys).filter(lambda pair: pair[0] != pair[1]),
    chain_places,
    registrar_keys,
    signatures,
    signatures,
    signatures,
)
revocations = st.builds(Revocation, origins, hashes, chain_places, st.integers(1, 255), registrar_keys, signatures)
key_events = enrolments | rotations | revocations
key_states = st.builds(KeyStateEntry, uint64, uint32, hashes)


@st.composite
def equivocations(draw):
    """Two headers that differ in their roots alone."""
    header = draw(headers())
    other = dataclasses.replace(header, root=draw(hashes.filter(lambda root: root != header.root)))
    return equivocation(*(BatchEntry(item.encode(), draw(signatures)) for item in (header, other)))


closings = st.builds(Closing, origins, st.lists(printable, min_size=1, max_size=16).map(tuple))
openings = st.builds(Opening, origins, uint64, hashes)
leaf_numbers = st.sets(st.integers(0, 4095), min_size=1, max_size=20).map(lambda leaves: tuple(sorted(leaves)))
erasures = st.builds(Erased, uint64, leaf_numbers)
all_entries = batch_entries | commitments | key_events | key_states | equivocations() | erasures | closings | openings


@st.composite
def records(draw):
    """A key's record that keeps the rules between its items."""
    enrolled, until = draw(st.integers(0, 2**64 - 2)), draw(maybe(chain_places))
    revoked = None if until is None else draw(maybe(st.integers(enrolled + 1, 2**64 - 1)))
    return KeyRecord(draw(hashes), enrolled, until, revoked)


status_proofs = st.builds(StatusProof, records(), uint32, paths, key_states, uint64, enrolments | rotations, paths)
leaves = st.builds(Leaf, st.binary(min_size=16, max_size=16), st.binary(min_size=1, max_size=99)) | hashes
range_batches = st.builds(
    RangeBatch, st.binary(min_size=1, max_size=896), signatures, st.lists(leaves, max_size=5).map(tuple)
)
range_proofs = st.builds(
    RangeProof,
    st.integers(0, 255),
    st.binary(min_size=1, max_size=128),
    st.lists(range_batches, min_size=1, max_size=4).map(tuple),
)

note_lines = st.builds(Signature, names, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=90))
note_texts = st.text("ab \n—é\u2028", max_size=40).map(lambda text: text + "\n")
notes = st.builds(Note, note_texts, st.lists(note_lines, min_size=1, max_size=6).map(tuple))
checkpoints = st.builds(Checkpoint, names | origins, uint64, hashes)

tiles = st.builds(Tile, st.integers(ENTRIES, 7), st.integers(0, 2**56), st.integers(1, 256))

leaf_proofs = st.builds(
    LeafProof,
    st.integers(0, 255),
    st.binary(min_size=1, max_size=128),
    st.binary(min_size=1, max_size=896),
    signatures,
    st.integers(0, 4095),
    st.binary(min_size=16, max_size=16),
    paths,
    st.binary(min_size=1, max_size=300),
)
proofs = st.builds(ReadingProof, leaf_proofs, uint64, paths, notes)
proof_files = st.builds(
    ProofFile, (status_proofs | range_proofs).map(lambda proof: proof.encode()), uint64, paths, notes
)
add_checkpoints = st.builds(AddCheckpoint, uint64, paths, notes)

placed = st.builds(Placed, uint32, uint64, uint64, paths)
erased = st.builds(ErasedBatch, uint32, uint64, uint64, erasures, paths)
signed = st.binary(min_size=1, max_size=99)
places = st.just((None, None)) | st.tuples(uint32, uint64)
messages = (
    st.builds(Stored, uint32, uint64, uint64)
    | st.builds(Receipt, signed, uint64, paths, st.lists(placed, max_size=4).map(tuple))
    | st.builds(lambda at, why, text: Reject(*at, why, text), places, st.integers(1, 255), printable)
    | st.builds(Wanted, st.lists(st.tuples(uint32, uint64), min_size=1, max_size=4).map(tuple))
    | st.builds(ErasedNotice, signed, uint64, paths, st.lists(erased, min_size=1, max_size=4).map(tuple))
)
statuses = st.builds(Status, st.booleans(), uint64)

canonical_values = st.recursive(
    st.none() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=5).map(tuple),
    max_leaves=12,
).filter(lambda value: nesting(value) <= 8)


def nesting(value):
    """How many arrays lie within one another."""
    return 1 + max(map(nesting, value), default=0) if isinstance(value, tuple) else 0
