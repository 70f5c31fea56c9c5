"""Whatever bytes arrive, only MalformedError and VerificationError leave a parser, and one value has one spelling.

A few seconds by default. `VITALSEAL_FUZZ_SECONDS=60` spends that long on each parser, from a seed that it prints.
"""

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import msgpack
import pytest

from ledger import canonical
from ledger.add_checkpoint import AddCheckpoint, parse_add_checkpoint
from ledger.batch import Anchor, Header, Notice
from ledger.checkpoint import parse_checkpoint
from ledger.completeness import parse_range_proof, verify_range
from ledger.entry import Erased, commit_assignment, parse_entry
from ledger.envelope import format_envelope, parse_envelope
from ledger.errors import MalformedError, VerificationError
from ledger.events import parse_event
from ledger.follow import Follower
from ledger.fsck import fsck
from ledger.info import BatchInfo
from ledger.keystate import parse_record
from ledger.messages import (
    ErasedBatch,
    ErasedNotice,
    Placed,
    Receipt,
    Reject,
    Status,
    Stored,
    Wanted,
    parse_message,
    parse_status,
)
from ledger.note import NoteSigner, parse_note, parse_vkey
from ledger.policy import Policy, parse_policy, parse_trust
from ledger.proof import parse_leaf_proof, parse_proof, parse_proof_file, read_proof
from ledger.reading import Reading
from ledger.receipt import verify_receipt
from ledger.status import parse_status_proof, verify_status
from ledger.strict import encode_base64
from ledger.tiles import Tile, format_bundle, format_tile, parse_bundle, parse_tile, parse_tile_path
from ledger.verify import verify_leaf, verify_proof
from tests.vectors import completeness, logs, postquantum, status, texts
from tests.vectors import events as event_vectors

from . import builders as b
from . import past as p

ROUNDS = 1500
SECONDS = float(os.environ.get("VITALSEAL_FUZZ_SECONDS", "0"))

# Pieces at which lenient parsers have stumbled before.
TOKENS = (
    *(b"\n", b"\n\n", b"\r\n", b" ", b"\t", b"+", b"=", b"==", b"-1", b"+42", b"042", b"4_2", b"\x00", b"\x7f"),
    *(b"\xef\xbc\x94", b"\xe2\x80\xa8", b"\xc2\x85", b"\xc2\xa0", b"\xed\xa0\x80", b"\xff", b"\xe2\x80\x94 x AAAA\n"),
    *(b"\xc0", b"\xc2", b"\xc3", b"\xc1", b"\x80", b"\x90", b"\xc7\x00\x05", b"\xd4\xff\x00", b"\xcc\x01", b"\xd0\x01"),
    *(b"\xca\x00\x00\x00\x00", b"\xdd\xff\xff\xff\xff", b"\xdc\x00\x01", b"\xc6\xff\xff\xff\xff", b"\xd9\x01a"),
    *(b"\x91" * 9, b"\x91" * 600, b"\x81\xc0\xc0", b"\xcf" + b"\xff" * 8, b"\xd3\x80" + b"\x00" * 7, b"9" * 30),
)


@dataclass(frozen=True)
class Target:
    """A parser, valid inputs, and how to spell again what it accepted (None where the value does not keep it)."""

    parse: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    spell: Callable[[object], bytes] | None = None
    packed: bool = False


def textual(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    """`parse` for bytes: what is not UTF-8 becomes lone surrogates, as it does in a policy file."""
    return lambda data: parse(data.decode("utf-8", "surrogateescape"))


def encoded(value) -> bytes:
    """What the value's own `encode` says."""
    return value.encode()


@cache
def targets() -> dict[str, Target]:
    """Every public parser."""
    readings = (b.scalar(), b.scalar(-365, -1, kind=4), b.waveform(), b.absent())
    batches = [
        b.sealed(readings, anchor=Anchor(70_000, bytes(32))),
        b.sealed(seq=3, previous=bytes(32), notice=Notice(2, 1, None)),
        b.sealed(epoch=2, notice=Notice(3)),
        *b.chain(3),
    ]
    entries = [*b.small_log(4), commit_assignment(bytes(16), b"x").encode(), canonical.encode((77, 2, b"?"))]
    witnesses = (b.HOSPITAL, b.REGULATOR, b.PATIENTS)
    cosigned = [(witness, b.NOW + at) for at, witness in enumerate(witnesses)]
    note = b.checkpoint_note(5, bytes(32), cosigned=cosigned)
    batch = b.chain(4)[1]
    proof = b.reading_proof(batch, 1, b.small_log(4), 2, cosigned=cosigned)
    info_proof = b.reading_proof(batch, 0, b.small_log(4), 2, cosigned=[(b.STRANGER, 1)])
    policies = (b.two_of_three().encode(), b"# \xff\n\t" + b.policy_text().encode())
    strict = b.policy(b.two_of_three())
    receipt = Receipt(note.encode(), 3, (bytes(32),), (Placed(0, 1, 2, (bytes(32), bytes(32))),))
    rejects = (Reject(None, None, 1, "no"), Reject(0, 9, 10, "twice"))
    erased = ErasedBatch(0, 1, 4, Erased(2, (0, 1, 7)), (bytes(32), bytes(32)))
    notice = ErasedNotice(note.encode(), 3, (bytes(32),), (erased,))
    messages = (Stored(0, 1, 2), receipt, *rejects, Wanted(((0, 1), (1, 0))), notice)
    vkeys = tuple(str(key).encode() for key in (b.log_signer().verifier, b.HOSPITAL.vkey))
    bodies = tuple(entry_batch.info for entry_batch in batches)
    files = b.log_files(b.small_log(4), cosigned=cosigned)
    past = logs.whole()
    events = tuple(past.entries) + tuple(
        bytes.fromhex(vector["hex"]) for vector in event_vectors.entries() if vector["result"] == "ok"
    )
    records = tuple(bytes.fromhex(vector["hex"]) for vector in event_vectors.records() if vector["result"] == "ok")
    known = status.history()
    statuses = tuple(known.status(device) for device in (b.device("next"), b.SecureElement(), b.device("third")))
    ranges = tuple(
        completeness.history().range(device, numbers, shown)
        for device, numbers, shown in ((b.device(), range(6), None), (b.SecureElement(), (0, 1), ((1, 1),)))
    )
    pq_proof = next(data for name, data, *_ in postquantum.good() if name == "ML-DSA, witnesses")
    pq_note = parse_proof(pq_proof).checkpoint
    pq_keys = (texts.PQ_LOG.vkey, texts.PQ_HOSPITAL.vkey)
    pq_policy = postquantum.PQ_ONLY.encode()
    pq_vkeys = tuple(str(key).encode() for key in pq_keys)
    request = AddCheckpoint(3, (bytes(32), bytes(32)), note).encode()
    pq_request = AddCheckpoint(0, (), pq_note).encode()
    skeys = tuple(NoteSigner("log.example.org", b.seed("log"), kind).skey().encode() for kind in (1, 4, 6))
    saved = tuple(followed(past.entries[:count]) for count in (0, 3, 19))
    place = Tile(0, 0, 3)
    bundle = Tile(-1, 0, 3)

    def check_receipt(data: bytes) -> object:
        message = parse_message(data)
        if not isinstance(message, Receipt | ErasedNotice):
            return message
        verify_receipt(message, strict, b.ORIGIN, Anchor(3, bytes(32)))
        return message

    return {
        "canonical": Target(lambda d: canonical.decode(d, "x"), (bodies[0], entries[1]), canonical.encode, packed=True),
        "reading": Target(Reading.decode, tuple(map(encoded, readings)), encoded, packed=True),
        "info": Target(BatchInfo.decode, bodies, encoded, packed=True),
        "header": Target(Header.decode, tuple(batch.header for batch in batches), encoded, packed=True),
        "envelope": Target(parse_envelope, tuple(map(format_envelope, batches)), packed=True),
        "entry": Target(parse_entry, (*entries, *events), packed=True),
        "event": Target(lambda data: parse_event(data, (bytes(64),)), event_statements(), packed=True),
        "record": Target(parse_record, records, encoded, packed=True),
        "status extra": Target(parse_status_proof, tuple(file.extra for file in statuses), encoded, packed=True),
        "range extra": Target(parse_range_proof, tuple(file.extra for file in ranges), encoded, packed=True),
        "status file": Target(parse_proof_file, tuple(map(encoded, statuses)), encoded),
        "range file": Target(parse_proof_file, tuple(map(encoded, ranges)), encoded),
        "verify any": Target(lambda d: verify_any(d, strict), tuple(map(encoded, (*statuses, *ranges, proof)))),
        "verify ML-DSA": Target(lambda d: verify_proof(d, b.policy(postquantum.PQ_ONLY)), (pq_proof,)),
        "add-checkpoint": Target(parse_add_checkpoint, (request, pq_request), encoded),
        "saved state": Target(textual(resumed), saved),
        "log entry": Target(lambda d: appended(d, saved), tuple(past.entries), packed=True),
        "note": Target(
            parse_note,
            (note.encode(), b"a\n\nb\n\n" + str(note.signatures[0]).encode(), pq_note.encode()),
            encoded,
        ),
        "vkey": Target(textual(parse_vkey), (*vkeys, *pq_vkeys), lambda key: str(key).encode()),
        "skey": Target(textual(NoteSigner.parse), skeys, lambda s: s.skey().encode()),
        "checkpoint": Target(textual(parse_checkpoint), (note.text.encode(),), lambda c: c.text().encode()),
        "path": Target(
            textual(parse_tile_path),
            (b"tile/0/x001/x234/067", b"tile/entries/000.p/7", b"tile/7/999.p/255"),
            lambda tile: tile.path.encode(),
        ),
        "tile": Target(lambda d: parse_tile(d, place), (bytes(range(96)),), format_tile),
        "bundle": Target(lambda d: parse_bundle(d, bundle), (format_bundle([b"", b"a", b"bc"]),), format_bundle),
        "policy": Target(parse_policy, (*policies, pq_policy)),
        "trust": Target(parse_trust, (vkeys[0], b"# x\n\n" + vkeys[0] + b"\n")),
        "proof": Target(parse_proof, (proof.encode(), info_proof.encode()), encoded),
        "leaf": Target(parse_leaf_proof, (proof.leaf.encode(), info_proof.leaf.encode()), encoded, packed=True),
        "message": Target(parse_message, tuple(map(encoded, messages)), encoded, packed=True),
        "status": Target(parse_status, (Status(online=True, size=9).encode(),), encoded, packed=True),
        "verify": Target(lambda d: verify_proof(d, strict), (proof.encode(), info_proof.encode())),
        "receipt": Target(check_receipt, tuple(map(encoded, messages)), packed=True),
        "fsck": Target(lambda d: fsck((files | {"checkpoint": d}).get, strict), (files["checkpoint"],)),
    }


def event_statements() -> tuple[bytes, ...]:
    """The statements of key events, and of one from another time."""
    return tuple(b.pack(fields) for fields in (event_vectors.REVOKE, [4, "?"]))


def followed(entries: Sequence[bytes]) -> bytes:
    """What a follower of these entries writes down."""
    follower = Follower(b.ORIGIN)
    for entry in entries:
        follower.add(entry)
    return follower.dump().encode()


def resumed(text: str) -> Follower:
    """A follower taken up from `text`, and given something to do."""
    follower = Follower.load(text)
    for entry in (logs.ENROL, logs.B0, p.state_entry(follower.size, [])):
        follower.add(entry)
    follower.root()
    follower.dump()
    return follower


def appended(data: bytes, saved: Sequence[bytes]) -> None:
    """An entry after each of these beginnings of a log: whatever it is, what is wrong with it is a finding."""
    for state in saved:
        for finding in Follower.load(state.decode()).add(data):
            assert "\n" not in str(finding.error())


def verify_any(data: bytes, policy: Policy) -> object:
    """What the file proves, whatever its form, as the command has it."""
    file = parse_proof_file(data)
    match file.form:
        case 2:
            return verify_status(file, policy)
        case 3:
            return verify_range(file, policy)
    return verify_leaf(read_proof(file), policy)


NAMES = tuple(targets())


def mutated(rng: random.Random, target: Target) -> bytes:
    """A valid input with one to four things wrong with it."""
    data = bytearray(rng.choice(target.seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(8):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at % len(data)] = rng.randrange(256)
            case 2:
                del data[at:]
            case 3:
                data[at:at] = rng.choice(TOKENS)
            case 4:
                data[at:at] = rng.randbytes(rng.randrange(1, 6))
            case 5:
                del data[at : at + rng.randrange(1, 9)]
            case 6:
                piece = data[at : at + rng.randrange(1, 80)]
                data[at:at] = piece
            case _:
                other = rng.choice(target.seeds)
                data[at:] = other[rng.randrange(len(other) + 1) :]
    return bytes(data)


def replanted(rng: random.Random, target: Target) -> bytes:
    """A valid msgpack input with one node of its value replaced: well-formed msgpack, wrong meaning."""
    value = msgpack.unpackb(rng.choice(target.seeds), strict_map_key=False)
    return msgpack.packb(_replaced(rng, value, rng.randrange(1, 5)))


def _replaced(rng: random.Random, value: object, depth: int) -> object:
    if isinstance(value, list) and value and depth:
        value = list(value)
        at = rng.randrange(len(value))
        if not rng.randrange(12):
            del value[at]
        else:
            value[at] = _replaced(rng, value[at], depth - 1)
        return value
    if isinstance(value, bytes) and value and rng.randrange(2):
        return value[:-1] if rng.randrange(2) else value + b"\x00"
    numbers = (0, 1, 2, 3, -1, 127, 255, 256, 4095, 4096, 65535, 65536, 2**32, 2**63 - 1, -(2**63), 2**64 - 1)
    others = (None, True, False, 1.0, float("nan"), "", "a b", "+", b"", bytes(32), bytes(64), [], [[]], {}, {1: 2})
    extension = msgpack.ExtType(5, b"")
    return rng.choice((*numbers, *others, extension, "\u2028", "é", "x" * 256, [1], [2], [3], [2, 1, None]))


def inputs(rng: random.Random, target: Target) -> Iterator[bytes]:
    """Bytes to try, without end."""
    while True:
        yield mutated(rng, target)
        yield replanted(rng, target) if target.packed else mutated(rng, target)
        if not rng.randrange(8):
            yield rng.randbytes(rng.randrange(64))
            yield "".join(map(chr, rng.choices((10, 32, 43, 48, 57, 97, 0xE9, 0x2014, 0x2028, 0xFF14), k=12))).encode()


def attempt(target: Target, data: bytes) -> bool:
    """Whether `data` was accepted, having been one of the allowed three: accepted, malformed, unproven."""
    try:
        value = target.parse(data)
    except (MalformedError, VerificationError) as error:
        message = str(error)
    else:
        message = None
    if message is not None:
        assert "\n" not in message
        return False
    if target.spell:
        assert target.spell(value) == data
    return True


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", NAMES)
def test_parser_given_anything(name):
    """Mutations of valid inputs are accepted in their one spelling or refused by one of our two errors."""
    target = targets()[name]
    number = time.time_ns() if SECONDS else 1
    rng = random.Random(f"{name} {number}")
    until = time.monotonic() + SECONDS
    for count, data in enumerate(inputs(rng, target)):
        if count >= ROUNDS and time.monotonic() >= until:
            break
        try:
            attempt(target, data)
        except Exception as error:
            raise AssertionError(f"{name}: {type(error).__name__} for {data.hex()}") from error


@pytest.mark.parametrize("name", NAMES)
def test_parser_given_its_valid_inputs(name):
    """The inputs that the fuzzer starts from are themselves accepted (those for checking may be unproven)."""
    target = targets()[name]
    accepted = [attempt(target, seed) for seed in target.seeds]
    expected = {"verify": [True, False], "receipt": [True, False, True, True, True, False]}
    assert accepted == expected.get(name, [True] * len(target.seeds))


@pytest.mark.parametrize("name", NAMES)
def test_parser_given_every_truncation(name):
    """No proper beginning of a valid input makes anything but our two errors, or a shorter valid input."""
    target = targets()[name]
    for seed in target.seeds:
        for length in range(0, len(seed), max(1, len(seed) // 300)):
            attempt(target, seed[:length])


def test_extra_of_a_proof_given_anything():
    """A proof whose `extra` is canonical but wrong inside reaches every step and never another exception."""
    target = targets()["leaf"]
    head, _, tail = targets()["proof"].seeds[0].decode().split("\n", 2)
    strict = b.policy(b.two_of_three())
    checked = Target(lambda data: verify_proof(data, strict), ())
    rng = random.Random(2)
    for _ in range(ROUNDS):
        extra = replanted(rng, target)
        accepted = attempt(checked, f"{head}\nextra {encode_base64(extra)}\n{tail}".encode())
        assert accepted == (extra in target.seeds)
