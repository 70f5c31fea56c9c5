"""Proof files with a trust file and key-status proofs beside them: step 7 (FORMAT.md section 10.4)."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cache

from ledger.note import Note, NoteSigner, Signature
from ledger.proof import ProofFile, ReadingProof
from tests.ledger import builders as b
from tests.ledger import past as p
from tests.vectors.binary import pack
from tests.vectors.proofs import ALL_NAMES, NONE, QUORATE, Case, expected, flipped

DEVICE, ELEMENT, NEXT, OTHER = b.device(), b.SecureElement(), b.device("next"), p.registrar("other registrar")
NAMES = ("registrar", "other registrar")


def trust(*names: str) -> bytes:
    """The trust file with the registrars of these names."""
    keys = [NoteSigner("registrar.example.org", b.seed(name)).verifier for name in names]
    return "".join(f"{key}\n" for key in keys).encode()


def beside(*statuses: ProofFile | bytes, trusted: Sequence[str] | None = ("registrar",)) -> dict[str, bytes]:
    """The files beside a proof: the trust file, if any, and key-status proofs in the order in which they are given."""
    files = {} if trusted is None else {"trust": trust(*trusted)}
    encoded = [status if isinstance(status, bytes) else status.encode() for status in statuses]
    return files | {f"status-{number}": data for number, data in enumerate(encoded, 1)}


@cache
def history() -> p.Past:
    """A log in which a key is rotated away, another revoked, a third enrolled by another registrar."""
    past = p.Past()
    past.enrol(DEVICE)
    past.seal(b.scalar(60), signer=DEVICE)  # 1
    past.state()  # 2
    past.seal(b.scalar(61), signer=DEVICE)  # 3
    past.rotate(DEVICE, NEXT, (0, 3))  # 4
    past.seal(b.scalar(62), signer=DEVICE)  # 5
    past.seal(b.scalar(63), signer=NEXT)  # 6
    past.state()  # 7
    past.seal(b.scalar(64), signer=NEXT)  # 8
    past.revoke(NEXT, (0, 1))  # 9
    past.state()  # 10
    past.enrol(ELEMENT, OTHER)  # 11
    past.seal(b.scalar(65), signer=ELEMENT)  # 12
    past.state()  # 13
    past.seal(b.scalar(66), signer=DEVICE)  # 14, which a sound log would not take
    past.seal(b.scalar(67), signer=NEXT)  # 15, likewise
    past.state()  # 16
    return past


Trusted = tuple[str, ReadingProof, dict[str, bytes], str, int | None]  # and what becomes of step 7, and of strict


def good() -> Iterator[Case]:
    """Proofs that hold, step 7 passed or not checked."""
    past = history()
    for name, proof, files, step7, strict in (*_passed(), *_not_checked()):
        told = expected(proof, b.NOW + 20, ALL_NAMES, step7) | {"strict": strict}
        yield f"trust, {name}", proof.encode(), QUORATE, told, files
    proof = past.reading(DEVICE, 1, cosigned=())
    told = expected(proof, None, (), "passed") | {"strict": 8}
    yield "trust, quorum none", proof.encode(), NONE, told, beside(past.status(DEVICE, 7, cosigned=()))
    proof = past.reading(DEVICE, 1)
    elsewhere = p.Past("other.example.org")
    elsewhere.enrol(DEVICE)
    elsewhere.revoke(DEVICE, (0, 0))
    elsewhere.fill(20)
    elsewhere.state()
    both = f"log {b.log_signer('other.example.org', 'other').verifier}\n" + QUORATE
    told = expected(proof, b.NOW + 20, ALL_NAMES, "not checked") | {"strict": 7}
    other = _signed_by_other(elsewhere.status(DEVICE))
    yield "trust, status of the key on another log", proof.encode(), both, told, beside(other)
    told = expected(proof, b.NOW + 20, ALL_NAMES, "passed") | {"strict": None}
    files = beside(other, past.status(DEVICE, 7))
    yield "trust, status of the key on another log and on this", proof.encode(), both, told, files


def _signed_by_other(status: ProofFile) -> ProofFile:
    """A log has a key of its own: two origins with one key are no policy."""
    _, *witnesses = status.checkpoint.signatures
    line = b.log_signer("other.example.org", "other").sign(status.checkpoint.text)
    return dataclasses.replace(status, checkpoint=Note(status.checkpoint.text, (line, *witnesses)))


def _passed() -> Iterator[Trusted]:
    past = history()
    at = past.status
    first, second, third = (past.reading(DEVICE, number) for number in range(3))
    yield "good", first, beside(at(DEVICE, 2)), "passed", None
    yield "status of a later size", first, beside(at(DEVICE, 16)), "passed", None
    yield "key rotated away later", second, beside(at(DEVICE, 7)), "passed", None
    yield "key rotated away before its index, beyond its place", third, beside(at(DEVICE, 7)), "passed", None
    new = past.reading(NEXT, 0)
    yield "key rotated to", new, beside(at(NEXT, 7)), "passed", None
    yield "key revoked later from a later place", new, beside(at(NEXT, 10)), "passed", None
    element = past.reading(ELEMENT, 0)
    yield "P-256, two registrars", element, beside(at(ELEMENT), trusted=NAMES), "passed", None
    yield "info", past.reading(DEVICE, 1, 0), beside(at(DEVICE, 7)), "passed", 8
    old, new_one = at(DEVICE, 2), at(DEVICE, 7)
    yield "an older and a newer status", second, beside(old, new_one), "passed", None
    yield "a newer and an older status", second, beside(new_one, old), "passed", None
    yield "statuses of two keys", second, beside(at(NEXT, 7), new_one), "passed", None
    proof, (well, ill) = _of_equal_size()
    yield "two statuses of equal size, the first good", proof, beside(well, ill), "passed", None
    forged = _forged(at(DEVICE, 16))
    yield "a good status and one that is not proven", second, beside(forged, new_one), "passed", None
    yield "a good status and one that is malformed", second, beside(b"?", new_one), "passed", None
    twice = _with_comment(beside(new_one))
    yield "trust file with comments and another registrar first", second, twice, "passed", None


def _with_comment(files: dict[str, bytes]) -> dict[str, bytes]:
    return files | {"trust": b"# registrars\n\n" + trust("other registrar") + b"\t" + trust("registrar")}


def _forged(status: ProofFile) -> ProofFile:
    """A key-status proof whose witnesses' lines fail."""
    log, *witnesses = status.checkpoint.signatures
    wrong = [Signature(line.name, line.key_id, flipped(line.signature)) for line in witnesses]
    return dataclasses.replace(status, checkpoint=Note(status.checkpoint.text, (log, *wrong)))


def _not_checked() -> Iterator[Trusted]:
    past = history()
    second, third = past.reading(DEVICE, 1), past.reading(DEVICE, 2)
    good_status = past.status(DEVICE, 7)
    yield "without a status", second, beside(), "not checked", 7
    yield "status without a trust file", second, beside(good_status, trusted=None), "not checked", 7
    yield "status of another key", second, beside(past.status(NEXT, 7)), "not checked", 7
    yield "status older than the index", second, beside(past.status(DEVICE, 2)), "not checked", 7
    yield "status as of the index", _at_its_size(), beside(_status_at_its_size()), "not checked", 7
    yield "status that is not proven", second, beside(_forged(good_status)), "not checked", 7
    few = past.status(DEVICE, 7, cosigned=p.SEEN[:1])
    yield "status without a quorum", second, beside(few), "not checked", 7
    yield "status that is malformed", second, beside(good_status.encode()[:-1]), "not checked", 7
    fields = past.status_fields(DEVICE, 10)
    kept = past.file(pack([*fields[:1], past.status_fields(DEVICE, 2)[1], *fields[2:]]), 10)
    yield "status with the record of an older key state", third, beside(kept), "not checked", 7
    other = past.range(DEVICE, (0, 1))
    yield "a range in the place of a status", second, beside(other), "not checked", 7


@cache
def _short() -> p.Past:
    past = p.Past()
    past.enrol(DEVICE)
    past.fill(1)
    past.seal(b.scalar(), signer=DEVICE)  # 2
    index = past.add(p.state_entry(2, past.sorted_records()))
    past.states[index] = (2, past.sorted_records())
    return past


def _at_its_size() -> ReadingProof:
    return _short().reading(DEVICE, 0)


def _status_at_its_size() -> ProofFile:
    return _short().status(DEVICE)


def _of_equal_size() -> tuple[ReadingProof, tuple[ProofFile, ProofFile]]:
    """A proof, and two statuses as of one size, the key good in the first: a sound log has no second."""
    past = p.Past()
    past.enrol(DEVICE)
    past.seal(b.scalar(), signer=DEVICE)
    well = past.state()
    records = [pack([p.id_of(DEVICE), 0, [0, 0], None])]
    ill = past.add(p.state_entry(well, records))
    past.states[ill] = (well, records)
    return past.reading(DEVICE, 0), (past.status(DEVICE, well), past.status(DEVICE, ill))


def bad() -> Iterator[Case]:
    """Proofs that fail at step 7."""
    for name, proof, files in _failed():
        yield f"step 7, {name}", proof.encode(), QUORATE, {"result": "unproven", "step": 7, "strict": 7}, files
    proof = history().reading(DEVICE, 1)
    for name, data in {
        "empty": b"",
        "of a policy": QUORATE.encode(),
        "of a witness": f"{b.HOSPITAL.vkey}\n".encode(),
    }.items():
        yield f"malformed trust file, {name}", proof.encode(), QUORATE, {"result": "malformed"}, {"trust": data}


def _failed() -> Iterator[tuple[str, ReadingProof, dict[str, bytes]]]:
    past = history()
    at = past.status
    second, fourth = past.reading(DEVICE, 1), past.reading(DEVICE, 3)
    element = past.reading(ELEMENT, 0)
    yield "registrar not trusted", element, beside(at(ELEMENT))
    yield "registrar not trusted, status older than the index", second, beside(at(DEVICE, 2), trusted=NAMES[1:])
    yield "registrar of the status's key not trusted", second, beside(at(DEVICE, 7), trusted=NAMES[1:])
    yield "at the place of its key's end", fourth, beside(at(DEVICE, 16))
    yield "at the place of its key's end, status older than the index", fourth, beside(at(DEVICE, 7))
    stolen = past.reading(NEXT, 1)
    yield "before its key's revocation, at its place", stolen, beside(at(NEXT, 10))
    revoked = past.reading(NEXT, 2)
    yield "after its key's revocation", revoked, beside(at(NEXT, 16))
    yield "after its key's revocation, status older than the index", revoked, beside(at(NEXT, 10))
    yield "after its key's revocation, an older status good", revoked, beside(at(NEXT, 7), at(NEXT, 16))
    yield "after its key's revocation, an older status good and last", revoked, beside(at(NEXT, 16), at(NEXT, 7))
    proof, (well, ill) = _of_equal_size()
    yield "two statuses of equal size, the second good", proof, beside(ill, well)
    late = p.Past()
    late.enrol(DEVICE)
    late.revoke(DEVICE, (5, 0))
    late.seal(b.scalar(), signer=DEVICE)
    late.state()
    yield "after its key's revocation, before its place", late.reading(DEVICE, 0), beside(late.status(DEVICE))
    early = p.Past()
    early.seal(b.scalar(), signer=DEVICE)
    early.enrol(DEVICE)
    early.state()
    yield "before its key's enrolment", early.reading(DEVICE, 0), beside(early.status(DEVICE))
    epoch = p.Past()
    epoch.enrol(DEVICE)
    epoch.rotate(DEVICE, NEXT, (0, 7))
    epoch.seal(signer=DEVICE, epoch=1, seq=0, notice=b.Notice(3))
    epoch.seal(b.scalar(), signer=DEVICE)
    epoch.state()
    yield "in a later epoch than its key's end", epoch.reading(DEVICE, 1), beside(epoch.status(DEVICE))
