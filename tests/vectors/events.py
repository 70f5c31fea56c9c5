"""The vectors of entries about keys and about the log itself, and of key records (FORMAT.md section 7)."""

from collections.abc import Callable, Sequence

from tests.ledger import builders as b
from tests.ledger import past as p
from tests.vectors import p256
from tests.vectors.binary import ONES, ZERO, bad, changed, good, pack, replacements

DEVICE, ELEMENT, NEXT = b.device(), b.SecureElement(), b.device("next")
REGISTRAR = p.registrar()
LONGEST = "o" * 255
SMALL_ORDER = (1).to_bytes(32, "little")

ENROL = [1, b.ORIGIN, 1, DEVICE.public_key, REGISTRAR.public_key]
ROTATE = [2, b.ORIGIN, 1, DEVICE.public_key, 3, 1000, 2, ELEMENT.public_key, REGISTRAR.public_key]
REVOKE = [3, b.ORIGIN, p.id_of(DEVICE), 0, 7, 1, REGISTRAR.public_key]
NAMES = {
    1: ("origin", "algorithm", "public_key", "registrar_key"),
    2: (*("origin", "old_algorithm", "old_public_key", "epoch", "seq", "algorithm", "public_key", "registrar_key"),),
    3: ("origin", "key_id", "epoch", "seq", "reason", "registrar_key"),
}
KINDS = {1: "enrolment", 2: "rotation", 3: "revocation"}


def entries() -> list[dict]:
    """The entries of types 2, 3, 4, 5, 7 and 8."""
    return [*_events(), *_states(), *_equivocations(), *_erasures(), *_ends()]


def event_fields(fields: Sequence, entry: bytes) -> dict:
    """What is found in the entry of a key event."""
    found = {"type": KINDS[fields[0]], **dict(zip(NAMES[fields[0]], fields[1:], strict=True))}
    if fields[0] != 3:
        found["key_id"] = b.key_id(*fields[-3:-1])
    if fields[0] == 2:
        found["old_key_id"] = b.key_id(*fields[2:4])
    return found | {"signatures": b.unpack(entry)[3], "leaf_hash": b.hash_entry(entry)}


def _events() -> list[dict]:
    events = {
        "enrolment": (ENROL, (DEVICE, REGISTRAR)),
        "enrolment of a P-256 key": (changed(changed(ENROL, 2, 2), 3, ELEMENT.public_key), (ELEMENT, REGISTRAR)),
        "enrolment for the longest origin": (changed(ENROL, 1, LONGEST), (DEVICE, REGISTRAR)),
        "enrolment by the device itself": (changed(ENROL, 4, DEVICE.public_key), (DEVICE, DEVICE)),
        "rotation": (ROTATE, (ELEMENT, DEVICE, REGISTRAR)),
        "rotation from P-256 to Ed25519 at the greatest place": (
            [2, b.ORIGIN, 2, ELEMENT.public_key, 2**32 - 1, 2**64 - 1, 1, NEXT.public_key, REGISTRAR.public_key],
            (NEXT, ELEMENT, REGISTRAR),
        ),
        "revocation": (REVOKE, (REGISTRAR,)),
        "revocation from the first place for reason 255": ([*REVOKE[:3], 0, 0, 255, REVOKE[6]], (REGISTRAR,)),
    }
    vectors = []
    for name, (fields, signers) in events.items():
        entry = p.key_event(fields, *signers)
        vectors.append(good(name, entry, event_fields(fields, entry) | {"signed": True}))
    forged = {
        "enrolment, signatures exchanged": (ENROL, (REGISTRAR, DEVICE)),
        "enrolment, signed by another key": (ENROL, (NEXT, REGISTRAR)),
        "enrolment, signed by another registrar": (ENROL, (DEVICE, NEXT)),
        "rotation without the old key's signature": (ROTATE, (ELEMENT, ELEMENT, REGISTRAR)),
        "rotation without the new key's signature": (ROTATE, (DEVICE, DEVICE, REGISTRAR)),
        "rotation, old before new": (ROTATE, (DEVICE, ELEMENT, REGISTRAR)),
        "rotation without the registrar's signature": (ROTATE, (ELEMENT, DEVICE, DEVICE)),
        "revocation by the key": (REVOKE, (DEVICE,)),
    }
    for name, (fields, signers) in forged.items():
        entry = p.key_event(fields, *signers)
        vectors.append(good(name, entry, event_fields(fields, entry) | {"signed": False}))
    entry = p.key_event(ENROL, DEVICE, REGISTRAR)
    entry = entry.replace(REGISTRAR.sign(b"vitalseal/v1/enrol/registrar\n" + pack(ENROL)), REGISTRAR.sign(pack(ENROL)))
    vectors.append(good("enrolment signed without its label", entry, event_fields(ENROL, entry) | {"signed": False}))
    later = {
        "key event of a later kind": ([4, "?"], 1),
        "key event of a later kind with 16 signatures": ([2**64 - 1], 16),
        "key event of a negative kind": ([-1, None], 1),
        "key event of kind 0": ([0], 3),
    }
    for name, (fields, count) in later.items():
        data = pack([2, 1, pack(fields), [bytes(64)] * count])
        vectors.append(good(name, data, {"type": "unknown", "leaf_hash": b.hash_entry(data)}))
    return vectors + [bad(name, data) for name, data in _no_events().items()]


def _no_events() -> dict[str, bytes]:
    def entry(fields: object, count: int, signature: object = bytes(64)) -> bytes:
        return pack([2, 1, pack(fields), [signature] * count])

    texts: list = ["", "o" * 256, "a b", "a+b", "\u00e9", b"origin", None]
    keys: list = [ZERO, SMALL_ORDER, ONES, DEVICE.public_key[:-1], b"", None, "k" * 32]
    points: list = [p256.encoded(p256.BASE, 4), b"\x02" + p256.NO_POINT.to_bytes(32, "big"), ZERO, bytes(33)]
    numbers: list = [0, 3, 256, -1, None]
    epochs: list = [-1, 2**32, None]
    seqs: list = [-1, None, b""]
    wrong = {
        "enrolment": (ENROL, 2, {1: texts, 2: [*numbers, 2], 3: [*keys, ELEMENT.public_key], 4: keys}),
        "rotation": (
            ROTATE,
            3,
            {1: texts[:2], 2: [*numbers, 2], 3: keys, 4: epochs, 5: seqs, 6: [*numbers, 1], 7: points, 8: keys[:4]},
        ),
        "revocation": (
            REVOKE,
            1,
            {1: texts[:2], 2: [bytes(31), bytes(33), None], 3: epochs, 4: seqs, 5: [0, 256, -1, None], 6: keys[:4]},
        ),
    }
    found = {}
    for kind, (fields, count, changes) in wrong.items():
        found |= {f"{kind}, {name}": entry(item, count) for name, item in replacements(fields, changes)}
        for other in {0, 1, 2, 3, 4, 17} - {count}:
            found[f"{kind} with {other} signatures"] = entry(fields, other)
        for length in (0, 63, 65):
            found[f"{kind} with signatures of {length} bytes"] = entry(fields, count, bytes(length))
        found[f"{kind} with nil for signatures"] = entry(fields, count, None)
        found[f"{kind} with its signatures in the entry"] = pack([2, 1, pack(fields), *[bytes(64)] * count])
        found[f"{kind} with nil after it"] = pack([2, 1, pack(fields), [bytes(64)] * count, None])
        found[f"{kind} with something after the event"] = pack([2, 1, pack(fields) + b"\xc0", [bytes(64)] * count])
    itself = [*ROTATE[:6], *ROTATE[2:4], ROTATE[8]]
    return found | {
        "rotation from a key to itself": entry(itself, 3),
        "event is an integer": entry(1, 2),
        "event is an empty array": entry([], 1),
        "event whose kind is text": entry(["1"], 1),
        "event whose kind is nil": entry([None], 1),
        "event is not canonical": pack([2, 1, b"\x92\xcc\x04\xc0", [bytes(64)]]),
        "event is no msgpack": pack([2, 1, b"\xc1", [bytes(64)]]),
        "event is empty": pack([2, 1, b"", [bytes(64)]]),
        "event of 1025 bytes": pack([2, 1, pack([4, bytes(1020)]), [bytes(64)]]),
        "event is not in bytes": pack([2, 1, ENROL, [bytes(64)] * 2]),
        "event of a later kind without signatures": entry([4], 0),
        "event of a later kind that is not canonical": pack([2, 1, b"\x91\xcc\x04", [bytes(64)]]),
        "event of a later kind with something after it": pack([2, 1, b"\x91\x04\xc0", [bytes(64)]]),
        "event of a later kind with a float": pack([2, 1, pack([4, 1.0]), [bytes(64)]]),
        "event of a later kind with 17 signatures": entry([4], 17),
        "event of a later kind with a longer signature": entry([4], 1, bytes(65)),
        "event of a later kind with signatures that are no array": pack([2, 1, pack([4]), bytes(64)]),
    }


def _states() -> list[dict]:
    found = {
        "key state": [3, 1, 12, 3, ONES],
        "key state of no keys": [3, 1, 0, 0, b.naive_root([])],
        "key state of the greatest numbers": [3, 1, 2**64 - 1, 2**32 - 1, ZERO],
    }
    vectors = [
        good(name, pack(fields), {"type": "key state", **dict(zip(("size", "count", "root"), fields[2:], strict=True))})
        for name, fields in found.items()
    ]
    wrong: dict[int, list] = {2: [-1, None, b""], 3: [-1, 2**32, None], 4: [bytes(31), bytes(33), None, "r" * 32]}
    fields = found["key state"]
    return vectors + [bad(f"key state, {name}", pack(item)) for name, item in replacements(fields, wrong)]


def _equivocations() -> list[dict]:
    one, two = b.sealed([b.scalar(60)]), b.sealed([b.scalar(61)])
    entry = p.equivocation(one, two)
    fields = b.unpack(entry)
    names = ("first_header", "first_signature", "second_header", "second_signature")
    forged = changed(fields, 5, fields[3])
    vectors = [
        good(name, pack(item), {"type": "equivocation", **dict(zip(names, item[2:], strict=True)), "signed": signed})
        for name, item, signed in (
            ("equivocation", fields, True),
            ("equivocation, second signature that of the first", forged, False),
            ("equivocation, signatures of zeros", [*fields[:3], bytes(64), fields[4], bytes(64)], False),
        )
    ]
    others = {
        "of another origin": b.sealed([b.scalar(61)], origin="other.example.org"),
        "of another key": b.sealed([b.scalar(61)], signer=NEXT),
        "of another epoch": b.sealed(epoch=1, notice=b.Notice(3)),
        "of another seq": b.sealed([b.scalar(61)], seq=1, previous=ZERO),
        "that is the same": one,
    }
    wrong = {f"equivocation, a header {name}": p.equivocation(one, other) for name, other in others.items()}
    wrong |= {
        "equivocation, headers in the other order": pack([4, 1, *fields[4:], *fields[2:4]]),
        "equivocation, one header, two signatures": pack([4, 1, *fields[2:4], fields[2], fields[5]]),
        "equivocation, no header": pack(changed(fields, 2, b"\xc0")),
        "equivocation, a header in no bytes": pack(changed(fields, 4, b"")),
        "equivocation, a header of 897 bytes": pack(changed(fields, 4, bytes(897))),
        "equivocation, a signature of 63 bytes": pack(changed(fields, 3, bytes(63))),
        "equivocation, a signature of 65 bytes": pack(changed(fields, 5, bytes(65))),
        "equivocation of one batch": pack(fields[:4]),
        "equivocation with an item more": pack([*fields, None]),
    }
    return vectors + [bad(name, data) for name, data in wrong.items()]


def _erasures() -> list[dict]:
    found = {
        "erased": [5, 1, 12, [1, 2, 7]],
        "erased, one leaf of the first entry": [5, 1, 0, [4095]],
        "erased, the batch info": [5, 1, 12, [0]],
        "erased, every leaf of the largest batch, at the greatest index": [5, 1, 2**64 - 1, list(range(4096))],
    }
    vectors = [
        good(name, pack(fields), {"type": "erased", **dict(zip(("log_index", "leaves"), fields[2:], strict=True))})
        for name, fields in found.items()
    ]
    leaves = [
        [],
        1,
        None,
        b"\x01",
        [1, 1],
        [2, 1],
        [1, 2, 2],
        [0, 7, 1],
        [-1],
        [4096],
        [1, 4096],
        [None],
        [b"\x01"],
        [[1]],
    ]
    wrong: dict[int, list] = {2: [-1, None, b"", [12]], 3: leaves}
    return vectors + [bad(f"erased, {name}", pack(item)) for name, item in replacements(found["erased"], wrong)]


def _ends() -> list[dict]:
    key = str(b.log_signer("next.example.org", "next log").verifier)
    closing = [7, 1, "next.example.org", [key]]
    opening = [8, 1, b.ORIGIN, 70_000, ONES]
    found: dict[str, tuple[list, Sequence[str]]] = {
        "closing": (closing, ("successor", "keys")),
        "closing with 16 keys": (changed(closing, 3, [key] * 16), ("successor", "keys")),
        "closing with keys that are none": (changed(closing, 3, ["", "~" * 4096]), ("successor", "keys")),
        "closing for the longest origin": (changed(closing, 2, LONGEST), ("successor", "keys")),
        "opening": (opening, ("predecessor", "size", "root")),
        "opening after an empty log": ([8, 1, "~", 0, b.naive_root([])], ("predecessor", "size", "root")),
        "opening after the greatest size": (changed(opening, 3, 2**64 - 1), ("predecessor", "size", "root")),
    }
    vectors = [
        good(name, pack(fields), {"type": name.split(" ", 1)[0], **dict(zip(names, fields[2:], strict=True))})
        for name, (fields, names) in found.items()
    ]
    texts: list = ["", "o" * 256, "a b", "a+b", "\u00e9", b"origin", None]
    keys: list = [[], [key] * 17, key, None, [key.encode()], [None], ["k" * 4097], ["\n"], ["\u00e9"]]
    sizes: list = [-1, None]
    roots: list = [bytes(31), bytes(33), None]
    wrong: tuple[tuple[str, list, dict[int, list]], ...] = (
        ("closing", closing, {2: texts, 3: keys}),
        ("opening", opening, {2: texts, 3: sizes, 4: roots}),
    )
    return vectors + [
        bad(f"{kind}, {name}", pack(item))
        for kind, fields, changes in wrong
        for name, item in replacements(fields, changes)
    ]


def records() -> list[dict]:
    """Section 7.3: a key's record and its leaf hash."""
    record = [p.id_of(DEVICE), 5, None, None]
    found = {
        "good": record,
        "enrolled first": changed(record, 1, 0),
        "ended": changed(record, 2, [0, 7]),
        "ended before its first batch": changed(record, 2, [0, 0]),
        "revoked": [record[0], 5, [3, 7], 6],
        "greatest numbers": [ONES, 2**64 - 2, [2**32 - 1, 2**64 - 1], 2**64 - 1],
    }
    names = ("key_id", "enrolled", "until", "revoked")
    vectors = [
        good(name, pack(item), dict(zip(names, item, strict=True)) | {"leaf_hash": p.record_hash(pack(item))})
        for name, item in found.items()
    ]
    wrong: dict[int, list] = {
        0: [bytes(31), bytes(33), None, "k" * 32],
        1: [-1, None, b""],
        2: [0, [], [0], [0, 0, 0], [-1, 0], [0, -1], [2**32, 0], [None, 0], b""],
        3: [-1, 6, b""],
    }
    revoked: dict[int, list] = {2: [None], 3: [5, 4, 0, -1, []]}
    vectors += [bad(f"good, {name}", pack(item)) for name, item in replacements(record, wrong)]
    vectors += [bad(f"revoked, {name}", pack(item)) for name, item in replacements(found["revoked"], revoked)]
    return [*vectors, bad("something after it", pack(record) + b"\xc0"), bad("empty", b"")]


def goodness() -> list[dict]:
    """Section 7.3: whether a record is good for a place of the chain and an index of the log."""
    key = p.id_of(DEVICE)
    enrolled, ended, revoked = [key, 5, None, None], [key, 5, [1, 7], None], [key, 5, [1, 7], 20]
    cases: dict[str, tuple[list, int, int, int, bool]] = {
        "at its enrolment": (enrolled, 0, 0, 5, False),
        "before its enrolment": (enrolled, 0, 0, 4, False),
        "after its enrolment": (enrolled, 0, 0, 6, True),
        "greatest place": (enrolled, 2**32 - 1, 2**64 - 1, 2**64 - 1, True),
        "before its end": (ended, 1, 6, 10, True),
        "at its end": (ended, 1, 7, 10, False),
        "after its end": (ended, 1, 8, 10, False),
        "a later epoch": (ended, 2, 0, 10, False),
        "an earlier epoch, a later seq": (ended, 0, 100, 10, True),
        "long after it was rotated away": (ended, 1, 6, 2**64 - 1, True),
        "before its revocation": (revoked, 1, 6, 19, True),
        "after its revocation": (revoked, 1, 6, 21, False),
        "first place after its revocation": (revoked, 0, 0, 21, False),
        "before its revocation, at its end": (revoked, 1, 7, 19, False),
    }
    return [
        {
            "name": name,
            "record": pack(record).hex(),
            "epoch": str(epoch),
            "seq": str(seq),
            "index": str(index),
            "result": "ok" if result else "unproven",
        }
        for name, (record, epoch, seq, index, result) in cases.items()
    ]


FILES: dict[str, Callable[[], list[dict]]] = {"records": records, "goodness": goodness}
