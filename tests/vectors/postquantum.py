"""Proof files whose checkpoint carries lines by ML-DSA-44 keys, and those of devices with P-256 keys.

Those with ML-DSA-44 are few, because each line has 3 KB.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from ledger.note import Note, Signature
from ledger.proof import ReadingProof
from tests.ledger import builders as b
from tests.vectors import edges, p256
from tests.vectors.binary import READING
from tests.vectors.mldsa import PostQuantum
from tests.vectors.proofs import (
    ALL_NAMES,
    QUORATE,
    SEEN,
    WITNESSES,
    Case,
    alone,
    expected,
    flipped,
    leafed,
    log_key,
    noted,
)
from tests.vectors.texts import PQ_HOSPITAL, PQ_LOG

PQ_WITNESSES = (
    PQ_HOSPITAL,
    *(PostQuantum(witness.name, f"{witness.short}, post-quantum") for witness in WITNESSES[1:]),
)
PQ_SEEN = tuple((witness, time + 5) for witness, (_, time) in zip(PQ_WITNESSES, SEEN, strict=True))
TWO = "group quorate 2 hospital-pq regulator-pq patients-pq\nquorum quorate"
NESTED = (
    "".join(f"group {who} any {who}-ed {who}-pq\n" for who in ALL_NAMES)
    + f"group quorate 2 {' '.join(ALL_NAMES)}\nquorum quorate"
)


def policy(quorum: str, logs: Sequence[object], witnesses: Sequence[tuple[str, object]]) -> str:
    """A policy of these vkeys."""
    lines = [*(f"log {key}" for key in logs), *(f"witness {name} {key}" for name, key in witnesses)]
    return "\n".join([*lines, quorum]) + "\n"


PQ_NAMED = [(witness.short, witness.vkey) for witness in PQ_WITNESSES]
ED_NAMED = [(f"{witness.short}-ed", witness.vkey) for witness in WITNESSES]
PQ_ONLY = policy(TWO, [PQ_LOG.vkey], PQ_NAMED)
BOTH = policy(NESTED, [log_key(), PQ_LOG.vkey], [*ED_NAMED, *PQ_NAMED])
LOG_ONLY = policy("quorum none", [PQ_LOG.vkey], [])


def good() -> Iterator[Case]:
    """Proofs that hold."""
    yield from _good_lines()
    yield from _good_elements()


def bad() -> Iterator[Case]:
    """Proofs that do not hold, and files that are none."""
    for name, proof, under, step in (*_bad_lines(), *_bad_elements()):
        yield f"step {step}, {name}", proof.encode(), under, {"result": "unproven", "step": step}
    for name, proof in _no_elements():
        yield f"malformed, {name}", proof.encode(), QUORATE, {"result": "malformed"}


def lines() -> tuple[ReadingProof, Signature, list[Signature], Signature, list[Signature]]:
    """A proof, and all lines over its checkpoint: log, witnesses, log and witnesses with ML-DSA-44."""
    proof = alone(b.scalar()).proof()
    log, *witnesses = proof.checkpoint.signatures
    text = proof.checkpoint.text
    pq_log = PQ_LOG.cosign(text, b.NOW)
    return proof, log, witnesses, pq_log, [witness.cosign(text, time) for witness, time in PQ_SEEN]


def _good_lines() -> Iterator[Case]:
    proof, log, eds, pq_log, pqs = lines()
    pq_names = [witness.short for witness in PQ_WITNESSES]
    last = b.NOW + 25
    two = policy("quorum none", [log_key(), PQ_LOG.vkey], [])
    cases: list[tuple[str, list, str, int | None, Sequence[str]]] = [
        ("log alone", [log, pq_log], LOG_ONLY, None, ()),
        ("log alone, no Ed25519 line", [pq_log], LOG_ONLY, None, ()),
        ("log at time 0", [PQ_LOG.cosign(proof.checkpoint.text, 0)], LOG_ONLY, None, ()),
        ("log with both lines under both keys", [pq_log, log], two, None, ()),
        ("log with an Ed25519 line under both keys", [log], two, None, ()),
        ("witnesses", [pq_log, *pqs], PQ_ONLY, last, pq_names),
        ("witnesses, regulator missing", [pq_log, *pqs[::2]], PQ_ONLY, b.NOW + 35, pq_names[::2]),
        (
            "all lines under all keys",
            [log, pq_log, *eds, *pqs],
            BOTH,
            b.NOW + 20,
            [*(name for name, _ in ED_NAMED), *pq_names],
        ),
        (
            "a witness by one key each",
            [log, pq_log, eds[0], pqs[1]],
            BOTH,
            b.NOW + 20,
            ("hospital-ed", "regulator-pq"),
        ),
        ("all lines under Ed25519 keys alone", [log, pq_log, *eds, *pqs], QUORATE, b.NOW + 20, ALL_NAMES),
    ]
    for name, signed, under, logged_by, names in cases:
        changed = noted(proof, *signed)
        yield f"ML-DSA, {name}", changed.encode(), under, expected(changed, logged_by, names)


def _bad_lines() -> Iterator[tuple[str, ReadingProof, str, int]]:
    proof, log, eds, pq_log, pqs = lines()
    two = policy("quorum none", [log_key(), PQ_LOG.vkey], [])

    def changed(line: Signature, signature: bytes) -> Signature:
        return dataclasses.replace(line, signature=signature)

    yield "ML-DSA, no such line by the log", noted(proof, log, *pqs), PQ_ONLY, 2
    broken = changed(pq_log, pq_log.signature[:8] + flipped(pq_log.signature[8:]))
    yield "ML-DSA, the log's line is wrong", noted(proof, broken), LOG_ONLY, 2
    yield "ML-DSA, the log's line is wrong beside a good Ed25519 line", noted(proof, log, broken), two, 2
    later = changed(pq_log, (b.NOW + 1).to_bytes(8, "big") + pq_log.signature[8:])
    yield "ML-DSA, the log's line with another time", noted(proof, later), LOG_ONLY, 2
    short = changed(pq_log, pq_log.signature[:-1])
    yield "ML-DSA, the log's line a byte short", noted(proof, short), LOG_ONLY, 2
    yield (
        "ML-DSA, the log's Ed25519 signature as its ML-DSA line",
        noted(proof, changed(pq_log, log.signature)),
        LOG_ONLY,
        2,
    )
    yield "ML-DSA, a witness's line as the log's", noted(proof, changed(pq_log, pqs[0].signature)), LOG_ONLY, 2
    longer = Note(proof.checkpoint.text.replace("\n1\n", "\n2\n"), (pq_log,))
    yield "ML-DSA, the size was changed", dataclasses.replace(proof, checkpoint=longer), LOG_ONLY, 2
    yield "ML-DSA, one witness of two", noted(proof, pq_log, pqs[0]), PQ_ONLY, 3
    yield "ML-DSA, one witness by both keys", noted(proof, log, eds[0], pqs[0]), BOTH, 3
    yield "ML-DSA, Ed25519 cosignatures alone", noted(proof, pq_log, *eds), PQ_ONLY, 3
    wrong = changed(pqs[2], pqs[2].signature[:8] + flipped(pqs[2].signature[8:]))
    yield "ML-DSA, a cosignature wrong beside a quorum", noted(proof, pq_log, *pqs[:2], wrong), PQ_ONLY, 3
    yield "ML-DSA, a cosignature wrong beside its Ed25519 one", noted(proof, log, *eds, wrong), BOTH, 3
    swapped = changed(pqs[2], pqs[1].signature)
    yield "ML-DSA, a cosignature of another witness", noted(proof, pq_log, *pqs[:2], swapped), PQ_ONLY, 3


def _good_elements() -> Iterator[Case]:
    for name, leaf in (("scalar", 1), ("info", 0)):
        proof = element_proof(b.scalar(), leaf=leaf)
        yield f"P-256, {name}", proof.encode(), QUORATE, expected(proof, b.NOW + 20, ALL_NAMES)
    # As the library gives it, s is above half the order for about every second header: one of each.
    for odd in (False, True):
        proof = next(proof for proof, high in _signed() if high == odd)
        name = f"P-256, s {'lowered' if odd else 'low as it was'}"
        yield name, proof.encode(), QUORATE, expected(proof, b.NOW + 20, ALL_NAMES)


def element_proof(*readings: b.Reading, leaf: int = 1) -> ReadingProof:
    """The proof of a leaf of a batch that a secure element sealed."""
    element = b.SecureElement()
    batch = b.sealed(readings, signer=element)
    return b.reading_proof(batch, leaf, [b.entry_of(batch)], 0, cosigned=SEEN, signer=element)


def _signed() -> Iterator[tuple[ReadingProof, bool]]:
    for ordinal in range(100):
        proof = element_proof(b.scalar(ordinal=ordinal))
        _, s = b.SecureElement().sign_pair(b"vitalseal/v1/header\n" + proof.leaf.header)
        yield proof, s > p256.ORDER // 2


@dataclasses.dataclass(frozen=True)
class Odd:
    """A secure element whose signatures or whose public key are not as they should be."""

    public_key: bytes
    sign: Callable[[bytes], bytes]
    algorithm: int = 2


def _bad_elements() -> Iterator[tuple[str, ReadingProof, str, int]]:
    element, other = b.SecureElement(), b.SecureElement("other")
    key, order = element.public_key, p256.ORDER

    def high(message: bytes) -> bytes:
        good = element.sign(message)
        return good[:32] + (order - int.from_bytes(good[32:], "big")).to_bytes(32, "big")

    signing: dict[str, Callable[[bytes], bytes]] = {
        "high s": high,
        "s = 0": lambda message: element.sign(message)[:32] + bytes(32),
        "r = 0": lambda message: bytes(32) + element.sign(message)[32:],
        "r = n": lambda message: order.to_bytes(32, "big") + element.sign(message)[32:],
        "r and s exchanged": lambda message: element.sign(message)[32:] + element.sign(message)[:32],
        "zeros": lambda _: bytes(64),
        "another key's signature": other.sign,
        "an Ed25519 signature": b.device().sign,
        "header signed without its label": lambda message: element.sign(message.partition(b"\n")[2]),
    }
    for name, sign in signing.items():
        yield f"P-256, {name}", edges.rough(READING, key=Odd(key, sign)), QUORATE, 5
    proof = element_proof(b.scalar())
    yield "P-256, another public key", leafed(proof, public_key=other.public_key), QUORATE, 5
    negated = bytes([key[0] ^ 1]) + key[1:]
    yield "P-256, the same x, the other y", leafed(proof, public_key=negated), QUORATE, 5
    ed = b.device()
    yield (
        "P-256 key in the place of an Ed25519 key",
        leafed(alone(b.scalar()).proof(), algorithm=2, public_key=key),
        QUORATE,
        5,
    )
    yield "Ed25519 key in the place of a P-256 key", leafed(proof, algorithm=1, public_key=ed.public_key), QUORATE, 5


def _no_elements() -> Iterator[tuple[str, ReadingProof]]:
    element = b.SecureElement()
    x = element.public_key[1:]
    y = p256.point_at(int.from_bytes(x, "big"))
    assert y is not None
    point = (y[0], y[1] if element.public_key[0] == 2 else p256.P - y[1])
    keys = {
        "uncompressed": p256.encoded(point, 4),
        "hybrid": p256.encoded(point, 6),
        "x alone": x,
        "first byte 4": b"\x04" + x,
        "34 bytes": element.public_key + b"\0",
        "infinity": b"\0",
        "infinity in 33 bytes": bytes(33),
        "no point": b"\x02" + p256.NO_POINT.to_bytes(32, "big"),
        "x not reduced": b"\x02" + (p256.SMALL + p256.P).to_bytes(32, "big"),
    }
    for name, key in keys.items():
        yield f"P-256 key, {name}", edges.rough(READING, key=Odd(key, element.sign))
    yield "P-256 key of algorithm 1", edges.rough(READING, key=Odd(element.public_key, element.sign, 1))
    yield "P-256 key of algorithm 3", edges.rough(READING, key=Odd(element.public_key, element.sign, 3))
