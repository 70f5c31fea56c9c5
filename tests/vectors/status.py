"""The key-status proofs among the vectors (FORMAT.md sections 8.6 and 10.2)."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cache

from ledger.checkpoint import Checkpoint
from ledger.note import Note, Signature
from ledger.proof import ProofFile
from tests.ledger import builders as b
from tests.ledger import past as p
from tests.vectors import p256
from tests.vectors.binary import ONES, ZERO, changed, pack, replacements
from tests.vectors.postquantum import PQ_ONLY, PQ_SEEN
from tests.vectors.proofs import NONE, QUORATE, SEEN, Case, flipped, log_key
from tests.vectors.texts import PQ_LOG
from tests.vectors.trusted import beside

DEVICE, ELEMENT, NEXT, THIRD = b.device(), b.SecureElement(), b.device("next"), b.device("third")
OTHER = p.registrar("other registrar")
ELSEWHERE = "other.example.org"


@cache
def history() -> p.Past:
    """A log whose last key state has keys that are good, rotated away, rotated to, revoked, and both."""
    past = p.Past()
    past.enrol(DEVICE)
    past.state()
    past.enrol(ELEMENT)
    past.enrol(THIRD, OTHER)
    past.fill(3)
    past.state()
    past.rotate(DEVICE, NEXT, (0, 9))
    past.revoke(ELEMENT, (2, 0), 2)
    past.state()
    past.enrol(b.device("fourth"))
    past.rotate(THIRD, b.device("fifth"), (1, 5))
    past.revoke(THIRD, (0, 7))
    past.fill(2)
    past.state()
    past.fill(1)
    return past


def proven(fields: Sequence, logged_by: int | None, origin: str = b.ORIGIN) -> dict:
    """What a verifier must report of a key-status proof that holds, from its extra."""
    key, enrolled, until, revoked = b.unpack(fields[1])
    return {
        "result": "proven",
        "steps": ["passed"] * 7,
        "origin": origin,
        "as_of_size": str(fields[4]),
        "logged_by": None if logged_by is None else str(logged_by),
        "key_id": key.hex(),
        "enrolled": str(enrolled),
        "until": None if until is None else [str(number) for number in until],
        "revoked": None if revoked is None else str(revoked),
        "registrar_key": b.unpack(b.unpack(fields[8])[2])[-1].hex(),
    }


def good() -> Iterator[Case]:
    """Proofs that hold."""
    past = history()
    cases: dict[str, tuple[b.Device, int | None]] = {
        "good": (b.device("fourth"), None),
        "rotated to": (NEXT, None),
        "rotated to from a key that was revoked later": (b.device("fifth"), None),
        "rotated away": (DEVICE, None),
        "revoked": (ELEMENT, None),
        "rotated away and revoked": (THIRD, None),
        "the only key": (DEVICE, 1),
        "good when it was as of": (DEVICE, 7),
        "P-256, good when it was as of": (ELEMENT, 7),
    }
    for name, (device, at) in cases.items():
        file = past.status(device, at)
        yield name, file.encode(), QUORATE, proven(past.status_fields(device, at), b.NOW + 20)
    file = past.status(NEXT, cosigned=())
    yield "quorum none", file.encode(), NONE, proven(past.status_fields(NEXT), None)
    yield _post_quantum(past)
    file, told = past.status(NEXT), proven(past.status_fields(NEXT), b.NOW + 20)
    untrusting = beside(trusted=("other registrar",))
    yield "a trust file without its registrar, which is not used", file.encode(), QUORATE, told, untrusting
    late = p.Past()
    late.enrol(DEVICE)
    late.fill(4)
    index = late.add(p.state_entry(2, late.sorted_records()))
    late.states[index] = (2, late.sorted_records())
    fields = late.status_fields(DEVICE)
    yield "as of a size before its index", late.status(DEVICE).encode(), QUORATE, proven(fields, b.NOW + 20)
    many = p.Past()
    for number in range(33):
        many.enrol(b.device(f"one of many {number}"))
    many.state()
    in_order = sorted((b.device(f"one of many {number}") for number in range(33)), key=p.id_of)
    for position in (0, 15, 16, 31, 32):
        file, fields = many.status(in_order[position]), many.status_fields(in_order[position])
        yield f"position {position} of 33", file.encode(), QUORATE, proven(fields, b.NOW + 20)


def _post_quantum(past: p.Past) -> Case:
    file = past.status(NEXT, cosigned=())
    text = file.checkpoint.text
    lines = [PQ_LOG.cosign(text, b.NOW), *(witness.cosign(text, time) for witness, time in PQ_SEEN[:2])]
    file = dataclasses.replace(file, checkpoint=Note(text, tuple(lines)))
    return "ML-DSA", file.encode(), PQ_ONLY, proven(past.status_fields(NEXT), b.NOW + 25)


def bad() -> Iterator[Case]:
    """Proofs that do not hold, and files that are none."""
    for name, file, under, step in (*_notes(), *_states(), *_events(), *_records()):
        yield f"step {step}, {name}", file.encode(), under, {"result": "unproven", "step": step}
    for name, extra in _misshapen().items():
        past = history()
        index = max(past.states)
        yield f"malformed, {name}", past.file(extra, index).encode(), QUORATE, {"result": "malformed"}
    for name, data in {"empty": b"", "of a policy": QUORATE.encode()}.items():
        beside_it = {"trust": data}
        file = history().status(NEXT)
        yield f"malformed trust file, {name}", file.encode(), QUORATE, {"result": "malformed"}, beside_it
    for name, file in _misshapen_inside().items():
        yield f"malformed, {name}", file.encode(), QUORATE, {"result": "malformed"}


def _notes() -> Iterator[tuple[str, ProofFile, str, int]]:
    past = history()
    file = past.status(NEXT)
    log, *witnesses = file.checkpoint.signatures
    text = file.checkpoint.text

    def noted(*lines: Signature) -> ProofFile:
        return dataclasses.replace(file, checkpoint=Note(text, lines))

    yield "the policy names no log", file, QUORATE.partition("\n")[2], 2
    yield "no line by the log", noted(*witnesses), QUORATE, 2
    yield "the log's signature is wrong", noted(Signature(log.name, log.key_id, bytes(64)), *witnesses), QUORATE, 2
    moved = p.Past()
    moved.add(p.enrolment(DEVICE, origin=ELSEWHERE))
    moved.records[p.id_of(DEVICE)], moved.events[p.id_of(DEVICE)] = [0, None, None], 0
    moved.state()
    yield "an enrolment for another log", moved.status(DEVICE), QUORATE, 2
    away = p.Past(ELSEWHERE)
    away.enrol(DEVICE)
    away.state()
    stolen = Checkpoint(b.ORIGIN, 2, b.unbase64(away.note().text.split("\n")[2])).sign(b.log_signer())
    lines = [witness.cosign(stolen.text, time) for witness, time in SEEN]
    taken = dataclasses.replace(away.status(DEVICE), checkpoint=Note(stolen.text, (*stolen.signatures, *lines)))
    yield "a whole log for another origin", taken, QUORATE, 2
    assert str(log_key()) in QUORATE
    yield "one witness of two", past.status(NEXT, cosigned=SEEN[:1]), QUORATE, 3
    late = Signature(witnesses[0].name, witnesses[0].key_id, flipped(witnesses[0].signature))
    yield "a cosignature with another time", noted(log, late, *witnesses[1:]), QUORATE, 3


def _states() -> Iterator[tuple[str, ProofFile, str, int]]:
    past = history()
    fields, index = past.status_fields(NEXT), max(past.states)
    file = past.status(NEXT)

    def with_extra(at: int, value: object) -> ProofFile:
        return past.file(pack(changed(fields, at, value)), index)

    yield "another size", with_extra(4, fields[4] - 1), QUORATE, 4
    yield "another count", with_extra(5, fields[5] + 1), QUORATE, 4
    yield "another root", with_extra(6, flipped(fields[6])), QUORATE, 4
    yield "the index of another entry", dataclasses.replace(file, index=index - 1), QUORATE, 4
    yield "the index of an older key state", past.file(pack(fields), sorted(past.states)[-2]), QUORATE, 4
    yield "an index beyond the log", dataclasses.replace(file, index=len(past.entries)), QUORATE, 4
    yield "a hash too few", dataclasses.replace(file, inclusion=file.inclusion[:-1]), QUORATE, 4
    yield "a hash too many", dataclasses.replace(file, inclusion=(*file.inclusion, ZERO)), QUORATE, 4
    first = (flipped(file.inclusion[0]), *file.inclusion[1:])
    yield "a hash changed", dataclasses.replace(file, inclusion=first), QUORATE, 4
    early = p.Past()
    early.enrol(DEVICE)
    at = early.add(p.state_entry(2, early.sorted_records()))
    early.states[at] = (2, early.sorted_records())
    yield "as of a size beyond its own index", early.status(DEVICE), QUORATE, 4
    unlogged = p.Past()
    unlogged.enrol(DEVICE)
    unlogged.states[1] = (1, unlogged.sorted_records())
    unlogged.add(b.pack([77, 1, unlogged.sorted_records()]))
    yield "a key state that is not on the log", unlogged.status(DEVICE), QUORATE, 4


def _events() -> Iterator[tuple[str, ProofFile, str, int]]:
    past = history()
    fields, index = past.status_fields(NEXT), max(past.states)

    def with_extra(changes: dict[int, object]) -> ProofFile:
        return past.file(pack([changes.get(at, value) for at, value in enumerate(fields)]), index)

    other = past.status_fields(b.device("fourth"))
    yield "the event of another key", with_extra({7: other[7], 8: other[8], 9: other[9]}), QUORATE, 5
    yield "the event of another key at the right index", with_extra({8: other[8]}), QUORATE, 5
    yield "another event index", with_extra({7: fields[7] + 1}), QUORATE, 5
    yield "an event index beyond the log", with_extra({7: 2**64 - 1}), QUORATE, 5
    yield "a hash of the event's proof changed", with_extra({9: flipped(fields[9])}), QUORATE, 5
    yield "a hash of the event's proof too few", with_extra({9: fields[9][32:]}), QUORATE, 5
    yield "a hash of the event's proof too many", with_extra({9: fields[9] + ZERO}), QUORATE, 5
    yield "no proof of the event", with_extra({9: b""}), QUORATE, 5
    again = p.rotation(DEVICE, NEXT, (0, 8))
    yield "a rotation that is not the logged one", with_extra({8: again}), QUORATE, 5
    signed = b.unpack(fields[8])
    signed[3][0] = flipped(signed[3][0])
    yield "an event with another signature than the logged one", with_extra({8: pack(signed)}), QUORATE, 5
    old = past.status_fields(DEVICE)
    yield "the rotation from the key for its enrolment", with_extra({1: old[1], 2: old[2], 3: old[3]}), QUORATE, 5
    early = p.Past()
    early.fill(1)
    early.enrol(DEVICE)
    at = early.add(p.state_entry(1, early.sorted_records()))
    early.states[at] = (1, early.sorted_records())
    yield "a key enrolled at the size that the state is as of", early.status(DEVICE), QUORATE, 5
    shifted = p.Past()
    shifted.enrol(DEVICE)
    shifted.enrol(ELEMENT)
    shifted.records[p.id_of(DEVICE)][0] = 1
    shifted.state()
    yield "a record with another enrolment index", shifted.status(DEVICE), QUORATE, 5
    shifted.events[p.id_of(DEVICE)] = 1
    yield "a record with the enrolment of another key", shifted.status(DEVICE), QUORATE, 5

    yield from _unsigned()


def _unsigned() -> Iterator[tuple[str, ProofFile, str, int]]:
    enrol, rotate = p.enrolment(DEVICE), p.rotation(ELEMENT, DEVICE, (0, 0))
    for kind, entry, parties in (
        ("an enrolment", enrol, ("device", "registrar")),
        ("a rotation", rotate, ("new key", "old key", "registrar")),
    ):
        for at, who in enumerate(parties):
            fields = b.unpack(entry)
            fields[3][at] = THIRD.sign(fields[2])
            yield f"{kind} not signed by its {who}", made(pack(fields)), QUORATE, 6
    fields = b.unpack(enrol)
    fields[3] = fields[3][::-1]
    yield "an enrolment with its signatures exchanged", made(pack(fields)), QUORATE, 6


def made(entry: bytes, *records: bytes, position: int = 0) -> ProofFile:
    """A key-status proof out of a log of an event and a key state, whatever they are."""
    key = p.id_of(DEVICE)
    records = records or (pack([key, 0, None, None]),)
    past = p.Past()
    past.add(entry)
    past.states[past.add(p.state_entry(1, records))] = (1, list(records))
    hashes = [p.record_hash(record) for record in records]
    path = b"".join(b.naive_path(position, hashes))
    extra = [2, records[position], position, path, 1, len(records), b.naive_root(hashes), 0, entry, past.path(0)[0]]
    return past.file(pack(extra), 1)


def _records() -> Iterator[tuple[str, ProofFile, str, int]]:
    past = history()
    index = max(past.states)

    def extra(device: b.Device, changes: dict[int, object]) -> ProofFile:
        fields = past.status_fields(device)
        return past.file(pack([changes.get(at, value) for at, value in enumerate(fields)]), index)

    revoked = b.unpack(past.status_fields(ELEMENT)[1])
    ended = b.unpack(past.status_fields(DEVICE)[1])
    free = past.status_fields(NEXT)
    yield "a revoked key shown as good", extra(ELEMENT, {1: pack([*revoked[:2], None, None])}), QUORATE, 7
    yield "a revoked key shown as rotated away", extra(ELEMENT, {1: pack([*revoked[:3], None])}), QUORATE, 7
    yield "a revoked key shown as revoked later", extra(ELEMENT, {1: pack([*revoked[:3], 15])}), QUORATE, 7
    yield "a key rotated away shown as good", extra(DEVICE, {1: pack([*ended[:2], None, None])}), QUORATE, 7
    later = pack([*ended[:2], [0, 10], None])
    yield "a key rotated away shown as good one place longer", extra(DEVICE, {1: later}), QUORATE, 7
    stale = past.status_fields(DEVICE, 7)
    older = {1: stale[1], 2: stale[2], 3: stale[3]}
    yield "the record of an older key state", extra(DEVICE, older), QUORATE, 7
    position = free[2]
    yield "another position", extra(NEXT, {2: position ^ 1}), QUORATE, 7
    yield "a position beyond the count", extra(NEXT, {2: free[5]}), QUORATE, 7
    yield "the greatest position", extra(NEXT, {2: 2**32 - 1}), QUORATE, 7
    yield "a hash of the record's proof changed", extra(NEXT, {3: flipped(free[3])}), QUORATE, 7
    yield "a hash of the record's proof too few", extra(NEXT, {3: free[3][32:]}), QUORATE, 7
    yield "a hash of the record's proof too many", extra(NEXT, {3: free[3] + ZERO}), QUORATE, 7
    yield "63 hashes of the record's proof", extra(NEXT, {3: bytes(32 * 63)}), QUORATE, 7
    stranger = made(p.enrolment(DEVICE), pack([ONES, 0, None, None]))
    mine = changed(b.unpack(stranger.extra), 1, pack([p.id_of(DEVICE), 0, None, None]))
    absent = dataclasses.replace(stranger, extra=pack(mine))
    yield "a record that is not in the key state", absent, QUORATE, 7


def _misshapen() -> dict[str, bytes]:
    """Extras of the proof of a good key with one malformed item."""
    fields = history().status_fields(NEXT)
    hashes: list = [bytes(31), bytes(33), bytes(32 * 64), None, "p", []]
    numbers: list = [-1, None, b""]
    wrong: dict[int, list] = {
        0: [0, 1, 3, 4, None, "2"],
        1: [b"", bytes(129), None, b.unpack(fields[1])],
        2: [*numbers, 2**32],
        3: hashes,
        4: numbers,
        5: [*numbers, 2**32],
        6: [bytes(31), bytes(33), None],
        7: numbers,
        8: [b"", bytes(1537), None, b.unpack(fields[8])],
        9: hashes,
    }
    found = {name: pack(item) for name, item in replacements(fields, wrong)}
    return found | {
        "an extra that is a map": pack(dict(enumerate(fields))),
        "an extra with something after it": pack(fields) + b"\xc0",
        "an extra that is not canonical": pack(fields).replace(b"\x9a\x02", b"\x9a\xcc\x02", 1),
        "an extra in array16": b"\xdc\x00\x0a" + pack(fields)[1:],
        "an extra cut short": pack(fields)[:-1],
        "an empty extra but for its form": b"\x91\x02",
        "an extra of the form alone": b"\x02",
    }


def _misshapen_inside() -> dict[str, ProofFile]:
    """Proofs that would hold if the one malformed thing in their record or event were allowed."""
    enrol, key = p.enrolment(DEVICE), p.id_of(DEVICE)
    records = {
        "of another length": [key, 0, None],
        "with an item more": [key, 0, None, None, None],
        "with a revocation and no place": [key, 0, None, 1],
        "revoked at its enrolment": [key, 0, [0, 0], 0],
        "with a place of one": [key, 0, [0], None],
        "with a place of three": [key, 0, [0, 0, 0], None],
        "with an epoch of 2^32": [key, 0, [2**32, 0], None],
        "with a seq of minus 1": [key, 0, [0, -1], None],
        "with a place that is a number": [key, 0, 0, None],
    }
    found = {f"a record {name}": made(enrol, pack(record)) for name, record in records.items()}
    good = pack([key, 0, None, None])
    found["a record that is not canonical"] = made(enrol, good[:-3] + b"\xcc\x00\xc0\xc0")
    found["a record with something after it"] = made(enrol, good + b"\xc0")
    signed = b.unpack(enrol)
    batch = b.sealed([b.scalar()])
    events = {
        "a revocation": p.revocation(key, (0, 1)),
        "a batch": b.entry_of(batch),
        "a key state": p.state_entry(0, []),
        "of a later kind": pack([2, 1, pack([4]), [bytes(64)]]),
        "of another version": pack([2, 2, *signed[2:]]),
        "an entry that is none": b"\xc0",
        "with a signature more": pack([*signed[:3], [*signed[3], bytes(64)]]),
        "with a signature less": pack([*signed[:3], signed[3][:1]]),
        "with its signatures in the entry": pack([*signed[:3], *signed[3]]),
        "with something after it": enrol + b"\xc0",
        "that is not canonical": enrol.replace(b"\x94\x02", b"\x94\xcc\x02", 1),
        "of a small-order key": _enrolling(1, (1).to_bytes(32, "little")),
        "of an uncompressed key": _enrolling(2, p256.encoded(p256.BASE, 4)),
        "of algorithm 3": _enrolling(3, DEVICE.public_key),
        "by a small-order registrar": pack(changed(signed, 2, pack(changed(b.unpack(signed[2]), 4, ZERO)))),
    }
    return found | {f"an event {name}": made(entry) for name, entry in events.items()}


def _enrolling(algorithm: int, key: bytes) -> bytes:
    fields = [1, b.ORIGIN, algorithm, key, p.registrar().public_key]
    return p.key_event(fields, DEVICE, p.registrar())
