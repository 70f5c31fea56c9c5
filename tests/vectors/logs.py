"""The vectors of whole logs: which entries may follow which (FORMAT.md section 7.6)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ledger.batch import Anchor, Notice, SealedBatch, header_hash
from ledger.note import ED25519_COSIGNATURE, ED25519_NOTE, ML_DSA_44, VerifierKey
from tests.ledger import builders as b
from tests.ledger import past as p
from tests.vectors.texts import PQ_LOG

DEVICE, ELEMENT, NEXT, THIRD = b.device(), b.SecureElement(), b.device("next"), b.device("third")
REGISTRAR, OTHER = p.registrar(), p.registrar("other registrar")
OLD = p.id_of(DEVICE)
COMMITMENT = b.pack([6, 1, bytes(32)])
SUCCESSOR = "next.example.org"
HEIR = b.log_signer(SUCCESSOR, "next log").verifier
CLOSING = b.pack([7, 1, SUCCESSOR, [str(HEIR)]])
OPENING = b.pack([8, 1, "before.example.org", 7, bytes(32)])
UNKNOWN = b.pack([77, 1, None])


@dataclass(frozen=True)
class Log:
    """Entries, and what a checker of all of them finds: notices by kind, or the index of the first fault."""

    entries: Sequence[bytes]
    notices: dict[str, int] = field(default_factory=dict)
    fault: int | None = None
    malformed: bool = False
    trust: Sequence[b.Device] | None = None

    def trust_text(self) -> str:
        """The trust file."""
        signers = [b.NoteSigner("registrar.example.org", b.seed(name)) for name in ("registrar", "other registrar")]
        keys = {signer.verifier.public_key: str(signer.verifier) for signer in signers}
        return "".join(f"{keys[who.public_key]}\n" for who in self.trust or ())


def beat(seq: int = 0, signer: b.Device = DEVICE, before: SealedBatch | None = None, **fields: object) -> SealedBatch:
    """A heartbeat."""
    return b.sealed(signer=signer, seq=seq, previous=before and header_hash(before.header), **fields)


def erased(log_index: int, *leaves: int) -> bytes:
    """The entry that says that these leaves of the batch at `log_index` were erased."""
    return b.pack([5, 1, log_index, leaves])


def beats(count: int, signer: b.Device = DEVICE) -> list[SealedBatch]:
    """A chain of heartbeats."""
    chain: list[SealedBatch] = []
    for seq in range(count):
        chain.append(beat(seq, signer, chain[-1] if chain else None))
    return chain


ENROL, ENROL_ELEMENT = p.enrolment(DEVICE), p.enrolment(ELEMENT)
CHAIN = beats(4)
B0, B1, B2, B3 = map(b.entry_of, CHAIN)
E0, E1 = map(b.entry_of, beats(2, ELEMENT))
N0, N1 = map(b.entry_of, beats(2, NEXT))
FULL = b.entry_of(b.sealed([b.scalar(), b.absent()]))


def closing(*keys: str | VerifierKey) -> bytes:
    """A closing with these keys."""
    return b.pack([7, 1, SUCCESSOR, list(map(str, keys))])


def whole() -> p.Past:
    """A log with every type of entry, from opening to closing."""
    past = p.Past()
    past.add(OPENING)
    past.enrol(DEVICE)
    past.enrol(ELEMENT)
    past.state()
    past.seal(b.scalar(), b.absent(), signer=DEVICE)
    past.seal(b.scalar(61), signer=ELEMENT)
    past.seal(signer=DEVICE, notice=Notice(2, 1, None))
    past.rotate(DEVICE, NEXT, (0, 3))
    past.state()
    past.seal(signer=NEXT)
    past.seal(signer=DEVICE)
    past.add(UNKNOWN)
    past.seal(signer=ELEMENT, epoch=1, seq=0, notice=Notice(3))
    past.add(p.equivocation(CHAIN[1], b.sealed([b.scalar()], seq=1, previous=header_hash(CHAIN[0].header))))
    past.revoke(ELEMENT, (1, 1))
    past.state()
    past.add(COMMITMENT)
    past.add(erased(4, 1))
    past.state()
    past.add(CLOSING)
    return past


def record(device: b.Device, enrolled: int, until: list | None = None, revoked: int | None = None) -> bytes:
    """A record's bytes."""
    return b.pack([p.id_of(device), enrolled, until, revoked])


def in_order(*records: bytes) -> list[bytes]:
    """Records in the order of key ids."""
    return sorted(records, key=lambda item: b.unpack(item)[0])


def sound() -> dict[str, Log]:
    """Logs without a fault."""
    one = [record(DEVICE, 0)]
    rotated = in_order(record(DEVICE, 0, [0, 2]), record(NEXT, 2))
    both = p.equivocation(CHAIN[1], b.sealed([b.scalar()], seq=1, previous=bytes(32)))
    rotate = p.rotation(DEVICE, NEXT, (0, 2))
    lost = b.entry_of(b.sealed(epoch=2, notice=Notice(3)))
    witness = VerifierKey(SUCCESSOR, ED25519_COSIGNATURE, HEIR.public_key)
    pq = VerifierKey(SUCCESSOR, ML_DSA_44, PQ_LOG.vkey.public_key)
    return {
        "empty": Log([]),
        "every type": Log(
            whole().entries,
            {"gap": 1, "outbox-lost": 1, "equivocation": 1, "revoked": 1, "erased": 1, "closed": 1},
        ),
        "batches of two keys": Log([ENROL, B0, ENROL_ELEMENT, E0, B1, E1]),
        "an opening": Log([OPENING, ENROL, B0]),
        "an opening alone": Log([OPENING]),
        "a closing alone": Log([CLOSING], {"closed": 1}),
        "a closing with keys of every type": Log([closing(HEIR, witness, pq)], {"closed": 1}),
        "a closing with a key twice": Log([closing(HEIR, HEIR)], {"closed": 1}),
        "unknown types, versions and events": Log(
            [UNKNOWN, b.pack([9, 1]), b.pack([5, 2]), b.pack([3, 2]), b.pack([2, 1, b.pack([4]), [bytes(64)]])]
        ),
        "key state of no keys": Log([p.state_entry(0, [])]),
        "key state of no keys at a later index": Log([COMMITMENT, COMMITMENT, p.state_entry(1, [])]),
        "key states as of the enrolment and later": Log(
            [ENROL, p.state_entry(1, one), B0, B1, p.state_entry(1, one), p.state_entry(3, one), p.state_entry(6, one)]
        ),
        "key state of a rotation": Log([ENROL, B0, p.rotation(DEVICE, NEXT, (0, 2)), p.state_entry(3, rotated)]),
        "key state of a revocation": Log(
            [ENROL, p.revocation(OLD, (0, 9)), p.state_entry(2, [record(DEVICE, 0, [0, 9], 1)])], {"revoked": 1}
        ),
        "key state of a rotated key revoked from a later place": Log(
            [
                *(ENROL, p.rotation(DEVICE, NEXT, (0, 2)), p.revocation(OLD, (0, 9))),
                p.state_entry(3, in_order(record(DEVICE, 0, [0, 2], 2), record(NEXT, 1))),
            ],
            {"revoked": 1},
        ),
        "key state of a rotated key revoked from an earlier place": Log(
            [
                *(ENROL, p.rotation(DEVICE, NEXT, (1, 2)), p.revocation(OLD, (0, 9))),
                p.state_entry(3, in_order(record(DEVICE, 0, [0, 9], 2), record(NEXT, 1))),
            ],
            {"revoked": 1},
        ),
        "old key's batches arrive after its rotation": Log([ENROL, p.rotation(DEVICE, NEXT, (0, 2)), B0, N0, B1, N1]),
        "rotation from Ed25519 to P-256": Log([ENROL, p.rotation(DEVICE, ELEMENT, (0, 0)), E0, E1]),
        "rotation from the place after the last batch on the log": Log([ENROL, B0, B1, rotate, N0]),
        "rotation from a place far after the last batch on the log": Log(
            [ENROL, B0, p.rotation(DEVICE, NEXT, (0, 2**64 - 1)), B1, B2, N0, B3]
        ),
        "rotation from a lower number of a later epoch": Log(
            [ENROL, B0, B1, p.rotation(DEVICE, NEXT, (1, 0)), N0, B2, B3]
        ),
        "rotation from a later epoch that began": Log(
            [ENROL, B0, lost, p.rotation(DEVICE, NEXT, (2, 1)), N0], {"outbox-lost": 1}
        ),
        "rotation from the first place of a key, after batches of another": Log(
            [ENROL, ENROL_ELEMENT, E0, E1, p.rotation(DEVICE, NEXT, (0, 0)), N0]
        ),
        "revocation of a rotated key from a place before batches on the log": Log(
            [
                *(ENROL, B0, B1, rotate, N0, p.revocation(OLD, (0, 0))),
                p.state_entry(6, in_order(record(DEVICE, 0, [0, 0], 5), record(NEXT, 3))),
            ],
            {"revoked": 1},
        ),
        "a key rotated to is rotated from": Log(
            [ENROL, p.rotation(DEVICE, NEXT, (0, 1)), p.rotation(NEXT, THIRD, (0, 0)), B0]
        ),
        "revocation from a place before batches on the log": Log(
            [ENROL, B0, B1, p.revocation(OLD, (0, 0))], {"revoked": 1}
        ),
        "revocation from the place of the last batch on the log": Log(
            [ENROL, B0, B1, p.revocation(OLD, (0, 1))], {"revoked": 1}
        ),
        "equivocation, one header logged": Log([ENROL, B0, B1, both], {"equivocation": 1}),
        "equivocation, neither header logged": Log([ENROL, both], {"equivocation": 1}),
        "equivocation of a revoked key": Log(
            [ENROL, p.revocation(OLD, (0, 0)), both], {"revoked": 1, "equivocation": 1}
        ),
        "the same equivocation twice": Log([ENROL, both, both], {"equivocation": 2}),
        "a reading erased": Log([ENROL, FULL, erased(1, 2)], {"erased": 1}),
        "all of a batch erased, info included": Log([ENROL, FULL, erased(1, 0, 1, 2)], {"erased": 1}),
        "the batch info alone erased, of a heartbeat": Log([ENROL, B0, B1, erased(2, 0)], {"erased": 1}),
        "a reading erased twice": Log([ENROL, FULL, erased(1, 1), erased(1, 1, 2), erased(1, 1)], {"erased": 3}),
        "a reading of a revoked key erased": Log(
            [ENROL, FULL, p.revocation(OLD, (0, 0)), erased(1, 1)], {"revoked": 1, "erased": 1}
        ),
        "an anchor to the empty log": Log([ENROL, b.entry_of(beat(anchor=Anchor(0, b.naive_root([]))))]),
        "an anchor to its own index": Log([ENROL, b.entry_of(beat(anchor=Anchor(1, b.hash_entry(ENROL))))]),
        "registrars trusted": Log(
            [
                *(ENROL, p.enrolment(ELEMENT, OTHER), p.rotation(DEVICE, NEXT, (0, 0), OTHER)),
                p.revocation(p.id_of(ELEMENT), (0, 0)),
            ],
            {"revoked": 1},
            trust=(REGISTRAR, OTHER),
        ),
        "no batch by a registrar's word": Log([ENROL, B0], trust=(REGISTRAR,)),
    }


def unsound() -> dict[str, Log]:
    """Logs with one fault, in their last entry but where its name says otherwise."""
    return {name: log if log.fault is not None else _faulty(log) for name, log in _unsound().items()}


def _faulty(log: Log) -> Log:
    return Log(log.entries, {}, len(log.entries) - 1, log.malformed, log.trust)


def _unsound() -> dict[str, Log]:
    one = [record(DEVICE, 0)]
    two = in_order(record(DEVICE, 0), record(ELEMENT, 1))
    elsewhere = "other.example.org"
    forged = b.pack([1, 1, CHAIN[0].header, CHAIN[1].signature])
    both = p.equivocation(CHAIN[1], b.sealed([b.scalar()], seq=1, previous=bytes(32)))
    half = b.unpack(both)
    rotate = p.rotation(DEVICE, NEXT, (0, 1))
    revoke = p.revocation(OLD, (0, 1))
    lost = b.entry_of(b.sealed(epoch=2, notice=Notice(3)))
    found = {
        "batch of a key that was never enrolled": [B0],
        "batch of another key than was enrolled": [ENROL_ELEMENT, B0],
        "batch with another signature": [ENROL, forged],
        "batch for another log": [ENROL, b.entry_of(beat(origin=elsewhere))],
        "batch out of order": [ENROL, B1],
        "batch twice": [ENROL, B0, B0],
        "batch missing": [ENROL, B0, B2],
        "batch that continues another": [ENROL, B0, b.entry_of(beat(1, before=CHAIN[1]))],
        "batch of an earlier epoch": [ENROL, lost, B0],
        "epoch twice": [ENROL, lost, lost],
        "batch at the place of its key's end": [ENROL, rotate, B0, B1],
        "batch at the place of its key's end, after others": [ENROL, B0, B1, p.rotation(DEVICE, NEXT, (0, 2)), N0, B2],
        "batch of a later epoch than its key's end": [ENROL, B0, rotate, lost],
        "batch of a key that was to seal nothing": [ENROL, p.rotation(DEVICE, NEXT, (0, 0)), B0],
        "batch after its key's revocation, beyond the place": [ENROL, B0, revoke, B1],
        "batch after its key's revocation, before the place": [ENROL, p.revocation(OLD, (5, 0)), B0],
        "batch of a rotated key after its revocation": [ENROL, rotate, revoke, B0],
        "batch of the new key before the rotation": [ENROL, N0],
        "anchor to another root": [ENROL, b.entry_of(beat(anchor=Anchor(1, bytes(32))))],
        "anchor to its successor": [ENROL, b.entry_of(beat(anchor=Anchor(2, bytes(32))))],
        "key enrolled twice": [ENROL, ENROL],
        "key enrolled again by another registrar": [ENROL, p.enrolment(DEVICE, OTHER)],
        "key enrolled again after its revocation": [ENROL, revoke, ENROL],
        "key enrolled again after its rotation": [ENROL, rotate, ENROL],
        "key enrolled again after the rotation to it": [ENROL, rotate, p.enrolment(NEXT)],
        "enrolment for another log": [p.enrolment(DEVICE, origin=elsewhere)],
        "enrolment that the device did not sign": [_resigned(ENROL, 0)],
        "enrolment that the registrar did not sign": [_resigned(ENROL, 1)],
        "rotation from a key that is not enrolled": [ENROL_ELEMENT, rotate],
        "rotation to a key that is enrolled": [ENROL, ENROL_ELEMENT, p.rotation(DEVICE, ELEMENT, (0, 0))],
        "rotation from a revoked key": [ENROL, revoke, rotate],
        "rotation from a rotated key": [ENROL, rotate, p.rotation(DEVICE, THIRD, (0, 1))],
        "rotation from a rotated key from an earlier place": [ENROL, rotate, p.rotation(DEVICE, THIRD, (0, 0))],
        "rotation from a rotated key from a later place": [ENROL, rotate, B0, N0, p.rotation(DEVICE, THIRD, (0, 2))],
        "rotation from a rotated and revoked key": [ENROL, rotate, revoke, p.rotation(DEVICE, THIRD, (0, 1))],
        "rotation twice": [ENROL, rotate, rotate],
        "rotation from the place of the last batch on the log": [ENROL, B0, B1, rotate],
        "rotation from a place before the last batch on the log": [ENROL, B0, B1, p.rotation(DEVICE, NEXT, (0, 0))],
        "rotation from the place of the only batch on the log": [ENROL, B0, p.rotation(DEVICE, NEXT, (0, 0))],
        "rotation from a higher number of an earlier epoch": [ENROL, lost, p.rotation(DEVICE, NEXT, (1, 9))],
        "rotation from the first place of an epoch that began": [ENROL, B0, lost, p.rotation(DEVICE, NEXT, (2, 0))],
        "revocation of a rotated key twice": [ENROL, rotate, revoke, p.revocation(OLD, (0, 0))],
        "rotation for another log": [ENROL, p.rotation(DEVICE, NEXT, (0, 1), origin=elsewhere)],
        "rotation that the new key did not sign": [ENROL, _resigned(rotate, 0)],
        "rotation that the old key did not sign": [ENROL, _resigned(rotate, 1)],
        "rotation that the registrar did not sign": [ENROL, _resigned(rotate, 2)],
        "revocation of a key that is not enrolled": [ENROL_ELEMENT, revoke],
        "revocation twice": [ENROL, revoke, p.revocation(OLD, (0, 0), 2)],
        "revocation for another log": [ENROL, p.revocation(OLD, (0, 1), origin=elsewhere)],
        "revocation that the registrar did not sign": [ENROL, _resigned(revoke, 0)],
        "key state with another root": [ENROL, p.state_entry(1, [record(DEVICE, 1)])],
        "key state of a key that is not there": [p.state_entry(0, one)],
        "key state without a key": [ENROL, ENROL_ELEMENT, p.state_entry(2, one)],
        "key state with another count": [ENROL, b.pack([3, 1, 1, 2, p.record_hash(one[0])])],
        "key state in another order": [ENROL, ENROL_ELEMENT, p.state_entry(2, two[::-1])],
        "key state as of its own index and one": [ENROL, p.state_entry(2, one)],
        "key state as of before an enrolment": [ENROL, ENROL_ELEMENT, p.state_entry(1, one)],
        "key state as of before a revocation": [ENROL, B0, revoke, p.state_entry(2, one)],
        "key state as of before a rotation, of what is now": [
            *(ENROL, B0, rotate),
            p.state_entry(2, in_order(record(DEVICE, 0, [0, 1]), record(NEXT, 2))),
        ],
        "key state of size 0 after an enrolment": [ENROL, p.state_entry(0, [])],
        "key state that hides a revocation": [ENROL, revoke, p.state_entry(2, one)],
        "key state that hides a rotation": [ENROL, rotate, p.state_entry(2, in_order(*one, record(NEXT, 1)))],
        "key state that knows of a later enrolment": [ENROL, p.state_entry(1, two), ENROL_ELEMENT],
        "equivocation of a key that is not enrolled": [both],
        "equivocation for another log": [
            ENROL,
            p.equivocation(beat(origin=elsewhere), b.sealed([b.scalar()], origin=elsewhere)),
        ],
        "equivocation with a wrong first signature": [ENROL, b.pack([*half[:3], half[5], *half[4:]])],
        "equivocation with a wrong second signature": [ENROL, b.pack([*half[:5], half[3]])],
        "erased from an entry that is no batch": [ENROL, FULL, erased(0, 0)],
        "erased from an erasure": [ENROL, FULL, erased(1, 1), erased(2, 0)],
        "erased from its own index": [ENROL, FULL, erased(2, 1)],
        "erased from a later batch": [ENROL, erased(2, 1), FULL],
        "erased from beyond the log": [ENROL, FULL, erased(2**64 - 1, 1)],
        "erased, a leaf more than the batch has": [ENROL, FULL, erased(1, 1, 3)],
        "erased, a reading of a heartbeat": [ENROL, B0, erased(1, 1)],
        "erased after the closing": [ENROL, FULL, CLOSING, erased(1, 1)],
        "commitment after the closing": [CLOSING, COMMITMENT],
        "closing after the closing": [CLOSING, CLOSING],
        "unknown entry after the closing": [CLOSING, UNKNOWN],
        "key state after the closing": [CLOSING, p.state_entry(1, [])],
        "closing with a key of another name": [COMMITMENT, closing(b.log_signer("other.example.org").verifier)],
        "closing with a key of this log's own name": [COMMITMENT, closing(b.log_signer(b.ORIGIN).verifier)],
        "closing with a second key of another name": [COMMITMENT, closing(HEIR, b.log_signer(b.ORIGIN).verifier)],
        "closing with a key of a longer name": [COMMITMENT, closing(b.log_signer(f"{SUCCESSOR}/2").verifier)],
        "opening after an entry": [COMMITMENT, OPENING],
        "opening twice": [OPENING, OPENING],
    }
    logs = {name: Log(entries) for name, entries in found.items()}
    logs["key state that knows of a later enrolment"] = Log(found["key state that knows of a later enrolment"], fault=1)
    logs["erased from a later batch"] = Log(found["erased from a later batch"], fault=1)
    logs["batch after a fault"] = Log([B0, ENROL, B0], fault=0)
    logs |= {
        "enrolment by a registrar not trusted": Log([ENROL], trust=(OTHER,)),
        "rotation by a registrar not trusted": Log(
            [ENROL, p.rotation(DEVICE, NEXT, (0, 0), OTHER)], trust=(REGISTRAR,)
        ),
        "revocation by a registrar not trusted": Log([ENROL, p.revocation(OLD, (0, 0), by=OTHER)], trust=(REGISTRAR,)),
    }
    malformed = {
        "an entry that is none": [COMMITMENT, b"\xc0"],
        "an empty entry": [b""],
        "a malformed entry of a known type": [COMMITMENT, b.pack([3, 1, 0, 0])],
        "a malformed entry after the closing": [CLOSING, b"\xc0"],
        "closing with a key that is none": [COMMITMENT, closing("next.example.org")],
        "closing with an empty key": [COMMITMENT, closing("")],
        "closing with a second key that is none": [COMMITMENT, closing(HEIR, f"{HEIR}\x20")],
        "closing with a key of an unknown type": [COMMITMENT, closing(VerifierKey(SUCCESSOR, 2, HEIR.public_key))],
        "closing with a key whose id is another": [COMMITMENT, closing(str(HEIR).replace(HEIR.id.hex(), "00000000"))],
        "closing with an unusable key": [COMMITMENT, closing(VerifierKey(SUCCESSOR, ED25519_NOTE, bytes(32)))],
        "the layout of key events with their signatures in the entry": [_flat(ENROL)],
    }
    return logs | {name: Log(entries, malformed=True) for name, entries in malformed.items()}


def _resigned(entry: bytes, at: int) -> bytes:
    """The entry of a key event with one signature by a stranger, over the bare statement."""
    fields = b.unpack(entry)
    fields[3][at] = THIRD.sign(fields[2])
    return b.pack(fields)


def _flat(entry: bytes) -> bytes:
    fields = b.unpack(entry)
    return b.pack([*fields[:3], *fields[3]])


def vectors() -> list[dict]:
    """All of these logs."""
    found = []
    for name, log in (sound() | unsound()).items():
        vector: dict[str, object] = {"name": name, "entries": [entry.hex() for entry in log.entries]}
        if log.trust is not None:
            vector["trust"] = log.trust_text()
        if log.fault is None:
            told = {"result": "ok", "notices": {kind: str(count) for kind, count in sorted(log.notices.items())}}
        else:
            told = {"result": "malformed" if log.malformed else "unproven", "index": str(log.fault)}
        found.append(vector | told)
    return found


FILES: dict[str, Callable[[], list[dict]]] = {"logs": vectors}
