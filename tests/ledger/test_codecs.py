"""Every codec of ours: what is written is read back, and what is read is written back, byte for byte."""

import hashlib

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import canonical
from ledger.add_checkpoint import parse_add_checkpoint
from ledger.batch import Anchor, Header, Notice, expand_salts, header_hash, leaf_hash
from ledger.checkpoint import parse_checkpoint
from ledger.completeness import parse_range_proof
from ledger.entry import UnknownEntry, commit_assignment, parse_entry
from ledger.envelope import MAX_ENVELOPE, format_envelope, parse_envelope
from ledger.errors import MalformedError, VerificationError
from ledger.events import Enrolment, enrol, revoke, rotate
from ledger.info import MAX_DESCRIPTION, MAX_SOURCES, BatchInfo, Source
from ledger.keys import Ed25519Signer
from ledger.keystate import parse_record
from ledger.leaves import MAX_BODY
from ledger.messages import MAX_MESSAGE, parse_message, parse_status
from ledger.note import NoteSigner, parse_note, parse_vkey
from ledger.proof import parse_leaf_proof, parse_proof, parse_proof_file
from ledger.reading import Reading, Scalar, Waveform, format_time, pack_samples
from ledger.splitting import split_receipts
from ledger.status import parse_status_proof
from ledger.strict import decode_base64, encode_base64, parse_decimal
from ledger.tiles import Tile, format_bundle, format_tile, parse_bundle, parse_tile, parse_tile_path
from tests.vectors import mldsa

from . import builders as b
from . import past as p
from . import strategies as s
from .strategies import examples


@examples
@given(s.canonical_values)
def test_canonical_round_trip(value):
    """Every value of the subset is read back from its encoding."""
    assert canonical.decode(canonical.encode(value), "x") == value


@examples
@given(st.lists(s.canonical_values, max_size=20) | st.just([None] * 70_000))
def test_canonical_array_of_encodings(values):
    """An array put together from encoded items is the encoding of the array."""
    assert canonical.array([canonical.encode(value) for value in values]) == canonical.encode(tuple(values))


@examples
@given(s.readings)
def test_reading_round_trip(reading):
    """A reading is read back from its bytes, and its bytes are those of plain msgpack of its fields."""
    data = reading.encode()
    assert Reading.decode(data) == reading
    assert msgpack.packb(msgpack.unpackb(data)) == data


@examples
@given(s.infos)
def test_info_round_trip(info):
    """A batch info is read back from its bytes."""
    assert BatchInfo.decode(info.encode()) == info


@examples
@given(s.headers())
def test_header_round_trip(header):
    """A header is read back from its bytes."""
    assert Header.decode(header.encode()) == header


@examples
@given(s.all_entries)
def test_entry_round_trip(entry):
    """An entry of any type is read back from its bytes."""
    assert parse_entry(entry.encode()) == entry


@examples
@given(s.records())
def test_record_round_trip(record):
    """A key's record is read back from its bytes, which fit a key-status proof."""
    assert parse_record(record.encode()) == record
    assert len(record.encode()) <= 128


@examples
@given(s.status_proofs)
def test_status_proof_round_trip(proof):
    """A key-status proof is read back from its bytes."""
    assert parse_status_proof(proof.encode()) == proof


@examples
@given(s.range_proofs)
def test_range_proof_round_trip(proof):
    """A completeness proof is read back from its bytes."""
    assert parse_range_proof(proof.encode()) == proof


@examples
@given(s.proof_files)
def test_proof_file_round_trip(file):
    """A proof file of any form is read back from its bytes, and knows its form."""
    assert parse_proof_file(file.encode()) == file
    parse = {2: parse_status_proof, 3: parse_range_proof}[file.form]
    assert parse(file.extra).encode() == file.extra


@examples
@given(s.add_checkpoints)
def test_add_checkpoint_round_trip(request):
    """What a witness is sent is read back from its bytes."""
    assert parse_add_checkpoint(request.encode()) == request


CODECS = {
    "entry": (s.all_entries, parse_entry),
    "record": (s.records(), parse_record),
    "status proof": (s.status_proofs, parse_status_proof),
    "range proof": (s.range_proofs, parse_range_proof),
    "proof file": (s.proof_files, parse_proof_file),
    "add-checkpoint": (s.add_checkpoints, parse_add_checkpoint),
}


@pytest.mark.parametrize("name", CODECS)
@examples
@given(st.data())
def test_codec_given_mutated_bytes(name, data):
    """Mutated bytes are refused as malformed, or are the one spelling of another value."""
    values, parse = CODECS[name]
    encoded = bytearray(data.draw(values).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(encoded)))
        piece = data.draw(st.binary(max_size=3))
        encoded[at : at + data.draw(st.integers(0, 3))] = piece
    try:
        value = parse(bytes(encoded))
    except MalformedError:
        return
    if not isinstance(value, UnknownEntry):
        assert value.encode() == encoded


@examples
@given(s.keys, s.keys, s.origins, s.chain_places, st.integers(1, 255))
def test_key_events_signed(old, new, origin, until, reason):
    """Events made by our signers hold, are read back, and are those that the words of the format make."""
    signers = {(device.algorithm, device.public_key): device for device in s.devices}
    registrar = p.registrar()
    events = {
        enrol(signers[old], registrar, origin): p.enrolment(signers[old], registrar, origin),
        revoke(b.key_id(*old), registrar, origin, until, reason): p.revocation(
            b.key_id(*old), until, reason, registrar, origin
        ),
    }
    if old != new:
        made = p.rotation(signers[old], signers[new], until, registrar, origin)
        events[rotate(signers[old], signers[new], registrar, origin, until)] = made
    for event, entry in events.items():
        event.check()
        parsed = parse_entry(event.encode())
        assert parsed == event
        assert event.encode() == entry


@examples
@given(st.binary(min_size=32, max_size=32), s.origins)
def test_enrolment_round_trip(private, origin):
    """An enrolment is read back from its bytes, and its two signatures hold."""
    enrolment = enrol(Ed25519Signer(private), Ed25519Signer(b.seed("registrar")), origin)
    parsed = parse_entry(enrolment.encode())
    assert parsed == enrolment
    parsed.check()


@examples
@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.lists(s.canonical_values, max_size=3))
def test_entry_of_another_type_or_version(kind, version, rest):
    """An entry of an unknown type or version is carried, whatever follows the two numbers."""
    if version == 1 and kind in (1, 2, 3, 4, 6, 7, 8):
        version = 2
    data = canonical.encode((kind, version, *rest))
    assert parse_entry(data) == UnknownEntry(kind, version)


@examples
@given(st.lists(s.readings, max_size=6), st.binary(min_size=32, max_size=32))
def test_envelope_round_trip(readings, secret):
    """An envelope gives back header, readings, info and salts, and its leaves lead to the signed root."""
    batch = b.sealed(readings)
    parsed = parse_envelope(format_envelope(batch))
    assert parsed.header_bytes == batch.header
    assert parsed.signature == batch.signature
    assert parsed.bodies == (batch.info, *batch.readings)
    assert [Reading.decode(body) for body in parsed.bodies[1:]] == readings
    assert list(parsed.salts) == expand_salts(batch.secret, len(readings) + 1)
    assert b.naive_root(parsed.check_root()) == parsed.header.root


@examples
@given(s.notes)
def test_note_round_trip(note):
    """A note is read back from its bytes."""
    assert parse_note(note.encode()) == note


@examples
@given(s.checkpoints)
def test_checkpoint_round_trip(checkpoint):
    """A checkpoint is read back from its text."""
    assert parse_checkpoint(checkpoint.text()) == checkpoint


@examples
@given(s.names, st.binary(min_size=32, max_size=32), st.sampled_from((1, 4, 6)))
def test_keys_round_trip(name, private, kind):
    """A note signer of any type and its vkey are read back from their text."""
    signer = NoteSigner(name, private, kind)
    assert NoteSigner.parse(signer.skey()).skey() == signer.skey()
    assert parse_vkey(str(signer.verifier)) == signer.verifier


@examples
@given(s.checkpoints.filter(lambda found: len(found.origin.encode()) < 256), s.names, st.integers(0, 2**63 - 1))
def test_post_quantum_line_round_trip(checkpoint, name, time):
    """A line of type 0x06 gives back its time, and is signed over what the words of the format make."""
    signer = NoteSigner(name, b.seed(name), 6)
    line = checkpoint.signature(signer, time)
    assert checkpoint.check(line, signer.verifier) == time
    signed = mldsa.message(name, checkpoint.text(), time)
    assert line.signature[:8] == time.to_bytes(8, "big")
    signer.verifier.check(line.signature[8:], signed)


@examples
@given(s.tiles)
def test_tile_path_round_trip(tile):
    """A tile is read back from its path, which is the one that the specification's words give."""
    level = "entries" if tile.level < 0 else str(tile.level)
    assert tile.path == b.naive_tile_path(level, tile.index, tile.width)
    assert parse_tile_path(tile.path) == tile


@examples
@given(st.lists(s.hashes, min_size=1, max_size=256))
def test_tile_round_trip(hashes):
    """A tile's hashes are read back."""
    assert parse_tile(format_tile(hashes), Tile(0, 0, len(hashes))) == hashes


@examples
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=30))
def test_bundle_round_trip(entries):
    """A bundle's entries are read back, empty ones included."""
    assert parse_bundle(format_bundle(entries), Tile(-1, 0, len(entries))) == entries


def test_bundle_with_the_longest_entry():
    """An entry of 65,535 bytes fits a bundle."""
    entries = [b"", bytes(65_535), b"x"]
    assert parse_bundle(format_bundle(entries), Tile(-1, 0, 3)) == entries


@examples
@given(s.proofs)
def test_proof_round_trip(proof):
    """A proof file is read back from its bytes, its `extra` too."""
    assert parse_proof(proof.encode()) == proof
    assert parse_leaf_proof(proof.leaf.encode()) == proof.leaf


@examples
@given(s.messages)
def test_message_round_trip(message):
    """Stored, receipt, reject and wanted are read back from their bytes."""
    assert parse_message(message.encode()) == message


@examples
@given(s.statuses)
def test_status_round_trip(status):
    """A status is read back from its bytes."""
    assert parse_status(status.encode()) == status


@examples
@given(st.lists(s.placed, max_size=1), st.integers(1, 900), st.lists(s.hashes, max_size=63))
def test_receipts_split_to_the_size_of_a_message(pattern, count, consistency):
    """However many batches there are, each receipt fits a message and together they hold all, in order."""
    every = pattern * count
    receipts = split_receipts(bytes(20_000), 5, consistency, every)
    assert [item for receipt in receipts for item in receipt.placed] == every
    assert max(len(receipt.encode()) for receipt in receipts) <= MAX_MESSAGE
    assert [parse_message(receipt.encode()) for receipt in receipts] == receipts


@examples
@given(st.binary(max_size=50))
def test_base64_round_trip(data):
    """Bytes are read back from their base64."""
    assert decode_base64(encode_base64(data), "x") == data


@examples
@given(st.integers(0, 2**64 - 1))
def test_decimal_round_trip(number):
    """A number is read back from its digits."""
    assert parse_decimal(str(number), "x") == number


@examples
@given(s.int64, st.integers(-128, 127))
def test_scalar_text_round_trip(mantissa, exponent):
    """A scalar's text gives back its very digits, whatever the exponent."""
    scalar = Scalar(mantissa, exponent)
    assert Scalar.parse(str(scalar)) == scalar


def test_scalar_keeps_its_trailing_zeros():
    """2, 2.0 and 2.00 are three statements."""
    parsed = [Scalar.parse(text) for text in ("2", "2.0", "2.00")]
    assert parsed == [Scalar(2, 0), Scalar(20, -1), Scalar(200, -2)]
    assert [str(scalar) for scalar in parsed] == ["2", "2.0", "2.00"]


@examples
@given(st.sampled_from((1, 2, 4)), st.data())
def test_samples_round_trip(width, data):
    """Samples are read back from their packed bytes, as big-endian two's complement."""
    limit = 1 << (8 * width - 1)
    samples = data.draw(st.lists(st.integers(-limit, limit - 1), min_size=1, max_size=20))
    packed = pack_samples(samples, width)
    assert packed == b"".join(sample.to_bytes(width, "big", signed=True) for sample in samples)
    assert list(Waveform(1, 1, (1, 0), (0, 0), 1, width, packed).integers()) == samples


@examples
@given(s.int64)
def test_time_never_fails(at_ns):
    """Every 64-bit time has a line of text."""
    assert "\n" not in format_time(at_ns)


@pytest.mark.parametrize(
    ("at_ns", "expected"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (1_500_000_000, "1970-01-01T00:00:01.5Z"),
        (b.NOW_NS, "2025-06-15T15:06:40Z"),
        (-62_135_596_800 * 10**9, "0001-01-01T00:00:00Z"),
        (-62_135_596_801 * 10**9, "-62135596801000000000 ns since 1970"),
        (2**64 * 10**9, "18446744073709551616000000000 ns since 1970"),
    ],
)
def test_time_at(at_ns, expected):
    """A time is RFC 3339 in UTC, plain nanoseconds where there is no such date."""
    assert format_time(at_ns) == expected


def test_salts_and_leaves_follow_their_definition():
    """Salts are one SHAKE-256 call cut in order; a leaf binds key, epoch, sequence number, index and salt."""
    secret = bytes(range(32))
    stream = hashlib.shake_256(b"vitalseal/v1/salts\n" + secret).digest(48)
    salts = expand_salts(secret, 3)
    assert salts == [stream[:16], stream[16:32], stream[32:]]
    key = bytes(32)
    place = key + bytes.fromhex("00000001") + bytes.fromhex("0000000000000002") + bytes.fromhex("00000003")
    expected = hashlib.sha256(b"\x00vitalseal/v1/leaf\n" + place + salts[0] + b"body").digest()
    assert leaf_hash(key, 1, 2, 3, salts[0], b"body") == expected
    assert header_hash(b"h") == hashlib.sha256(b"vitalseal/v1/previous\nh").digest()
    digest = hashlib.sha256(b"vitalseal/v1/assignment\n" + bytes(16) + b"s").digest()
    assert commit_assignment(bytes(16), b"s").digest == digest


def test_envelope_of_the_most_readings():
    """4095 scalar readings fit one envelope, and the header counts them."""
    batch = b.sealed([b.scalar(at_ns=b.NOW_NS + at, ordinal=at) for at in range(4095)])
    data = format_envelope(batch)
    assert len(data) < MAX_ENVELOPE
    assert parse_envelope(data).header.count == 4095


def test_envelope_of_too_many_readings():
    """4096 readings make no batch."""
    with pytest.raises((MalformedError, ValueError), match="4096"):
        b.sealed([b.scalar(ordinal=at) for at in range(4096)])


def test_envelope_too_large():
    """A batch that no receiver would take is refused before it is sent."""
    batch = b.sealed([b.waveform([0] * 8192) for _ in range(17)])
    with pytest.raises(MalformedError, match="more than the 262144 allowed"):
        format_envelope(batch)


def test_envelope_of_another_root():
    """Readings exchanged between two leaves no longer lead to the signed root."""
    batch = b.sealed([b.scalar(60), b.scalar(61)])
    swapped = type(batch)(batch.header, batch.signature, batch.secret, batch.info, batch.readings[::-1])
    with pytest.raises(VerificationError, match="do not lead to the root"):
        parse_envelope(format_envelope(swapped)).check_root()


@pytest.mark.parametrize(
    "changes",
    [
        {"first_ns": b.NOW_NS - 1},
        {"last_ns": b.NOW_NS + 1},
        {"first_ns": None, "last_ns": None, "sources": ()},
        {"sources": (Source(b"\x01", ""),)},
        {"sources": (Source(b"\x00", ""), Source(b.SOURCE, ""))},
    ],
)
def test_envelope_whose_info_does_not_fit(changes):
    """An info with other times or sources than the readings' makes the envelope malformed."""
    readings = [b.scalar()]
    batch = b.sealed(readings, batch_info=b.info(readings, **changes))
    with pytest.raises(MalformedError, match="are not those of the readings"):
        parse_envelope(format_envelope(batch))


def test_envelope_of_no_readings_with_the_info_of_some():
    """A heartbeat's info has no times and no sources."""
    batch = b.sealed(batch_info=b.info([b.scalar()]))
    with pytest.raises(MalformedError, match="are not those of the readings"):
        parse_envelope(format_envelope(batch))


@pytest.mark.parametrize("window", [None, (b.NOW_NS, b.NOW_NS), (-(2**63), 2**63 - 1)])
def test_envelope_of_a_gap(window):
    """A gap may say between which times readings are missing."""
    batch = b.sealed(notice=Notice(2, 1, None), batch_info=b.info(window_ns=window))
    assert parse_envelope(format_envelope(batch)).info.window_ns == window


@pytest.mark.parametrize(
    ("readings", "fields"),
    [([b.scalar()], {}), ([], {}), ([], {"notice": Notice(1)}), ([], {"epoch": 1, "notice": Notice(3)})],
)
def test_envelope_with_a_window_but_no_gap(readings, fields):
    """A window stands beside a gap only: not beside readings, a heartbeat, a lost outbox."""
    batch = b.sealed(readings, batch_info=b.info(readings, window_ns=(0, 1)), **fields)
    with pytest.raises(MalformedError, match="a window without a gap"):
        parse_envelope(format_envelope(batch))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first_ns": b.NOW_NS + 1}, "first time is after the last"),
        ({"last_ns": b.NOW_NS - 1}, "first time is after the last"),
        ({"first_ns": None}, "one of first and last time is nil"),
        ({"last_ns": None}, "one of first and last time is nil"),
        ({"first_ns": None, "last_ns": None}, "sources without times"),
        ({"sources": ()}, "times without sources"),
        ({"window_ns": (1, 0)}, "start is after its end"),
        ({"window_ns": (2**63 - 1, -(2**63))}, "start is after its end"),
        ({"sources": (Source(b"\x01\x00", ""), Source(b"\x01", ""))}, "not sorted"),
        ({"sources": (Source(b"\x02", ""), Source(b"\x01\x00", ""))}, "not sorted"),
        ({"sources": (Source(b"\x01", "a"), Source(b"\x01", "b"))}, "not sorted and distinct"),
    ],
)
def test_info_that_contradicts_itself(changes, message):
    """Fields that are well formed one by one, but not beside each other, are refused by writer and reader alike."""
    info = b.info([b.scalar()], **changes)
    with pytest.raises(MalformedError, match=message):
        info.encode()
    sources = [[source.source, source.description] for source in info.sources]
    window = info.window_ns
    times = [info.first_ns, info.last_ns]
    with pytest.raises(MalformedError, match=message):
        BatchInfo.decode(msgpack.packb([info.boot_id, 0, 0, 0, None, *times, sources, window]))


def test_info_with_an_id_that_begins_another():
    """Source ids are in the order of their bytes, the shorter first where it begins the longer."""
    sources = (Source(b"\x01", ""), Source(b"\x01\x00", ""), Source(b"\x02", ""))
    info = b.info([b.scalar()], sources=sources)
    assert BatchInfo.decode(info.encode()) == info


def test_waveform_reading_at_its_limit_fits_a_proof():
    """The largest waveform reading fits the body of a proof."""
    reading = b.waveform([0] * 8192)
    assert len(reading.encode()) <= MAX_BODY


def test_info_at_its_limit_fits_a_proof():
    """The largest batch info (as many sources as may be, longest ids and descriptions) fits the body of a proof."""
    readings = [Reading(bytes(15) + bytes([at]), 1, b.NOW_NS, 0, None, 0, Scalar(1, 0)) for at in range(MAX_SOURCES)]
    longest = tuple(Source(reading.source, "d" * MAX_DESCRIPTION) for reading in readings)
    batch = b.sealed(readings, batch_info=b.info(readings, sources=longest))
    parse_envelope(format_envelope(batch))
    proof = b.leaf_proof(batch, 0)
    assert parse_leaf_proof(proof.encode()) == proof


def test_enrolment_by_another_holder():
    """An enrolment whose device or registrar signature is another's does not hold."""
    good = enrol(b.device(), Ed25519Signer(b.seed("registrar")), b.ORIGIN)
    for changed in (
        Enrolment(*[*_fields(good)[:4], good.registrar_signature, good.registrar_signature]),
        Enrolment(*[*_fields(good)[:4], good.device_signature, good.device_signature]),
        Enrolment("other.example.org", *_fields(good)[1:]),
    ):
        with pytest.raises(VerificationError):
            changed.check()


def test_header_with_an_origin_that_is_not_unicode():
    """A lone surrogate is no printable text: the encoder says so in our error."""
    with pytest.raises(MalformedError):
        Header("\udcff", bytes(32), 0, 0, None, 1, bytes(32), None, None).encode()


def test_notice_keeps_what_it_was_given():
    """A heartbeat that was given a reason is refused rather than written without it."""
    with pytest.raises(MalformedError):
        Header(b.ORIGIN, bytes(32), 0, 0, None, 0, bytes(32), Anchor(0, bytes(32)), Notice(1, 7, 7)).encode()


def _fields(enrolment: Enrolment) -> list:
    return [
        enrolment.origin,
        enrolment.algorithm,
        enrolment.public_key,
        enrolment.registrar_key,
        enrolment.device_signature,
        enrolment.registrar_signature,
    ]
