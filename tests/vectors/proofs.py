"""The proof files among the vectors: each with its policy and what a verifier must find."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence

from ledger.batch import Anchor, Notice, SealedBatch, header_hash
from ledger.checkpoint import Checkpoint
from ledger.note import Note, NoteSigner, Signature
from ledger.proof import LeafProof, ReadingProof
from ledger.reading import Absent, Reading, Scalar, Waveform
from tests.ledger import builders as b

WITNESSES = (b.HOSPITAL, b.REGULATOR, b.PATIENTS)
SEEN = tuple(zip(WITNESSES, (b.NOW + 20, b.NOW + 10, b.NOW + 30), strict=True))
NONE, QUORATE = b.policy_text(), b.two_of_three()
LONG_ORIGIN = "log.example.org/" + "o" * 239

# Name, proof file, policy, what a verifier must find; and other files beside it, by their suffix, if there are any.
Case = tuple[str, bytes, str | bytes, dict] | tuple[str, bytes, str | bytes, dict, dict[str, bytes]]


def files_of(form: str, good: Iterable[Case], bad: Iterable[Case]) -> dict[str, bytes]:
    """Every file below the folder of one form of proofs."""
    files: dict[str, bytes] = {}
    for folder, cases in (("good", good), ("bad", bad)):
        for name, proof, policy, expected, *beside in cases:
            path = f"{form}/{folder}/{re.sub('[^a-z0-9.]+', '-', name.lower())}"
            assert f"{path}.json" not in files, name
            files[f"{path}.tlog-proof"] = proof
            files[f"{path}.policy"] = policy if isinstance(policy, bytes) else policy.encode()
            files[f"{path}.json"] = (json.dumps(expected, indent=1) + "\n").encode()
            files |= {f"{path}.{suffix}": data for suffix, data in (beside[0] if beside else {}).items()}
    return files


@dataclasses.dataclass(frozen=True)
class Sealed:
    """A batch with the key that sealed it, its place in a log, and what a proof of a leaf must state."""

    batch: SealedBatch
    entries: Sequence[bytes]
    index: int
    origin: str = b.ORIGIN

    def proof(self, leaf: int = 1, cosigned: Sequence = SEEN) -> ReadingProof:
        """The proof of a leaf."""
        return b.reading_proof(self.batch, leaf, self.entries, self.index, cosigned=cosigned, origin=self.origin)


def alone(*readings: Reading, **fields: object) -> Sealed:
    """A batch that is a log's only entry."""
    batch = b.sealed(readings, **fields)
    return Sealed(batch, [b.entry_of(batch)], 0, fields.get("origin", b.ORIGIN))


def among(batch: SealedBatch, size: int, index: int) -> Sealed:
    """A batch among made-up entries."""
    entries = [b"\x92\x63\x01" + bytes([at % 251]) for at in range(size)]
    entries[index] = b.entry_of(batch)
    return Sealed(batch, entries, index)


def expected(
    proof: ReadingProof, logged_by: int | None, witnesses: Sequence[str] = (), step7: str = "not checked"
) -> dict:
    """What a verifier must report of a proof that holds."""
    leaf, header = proof.leaf, b.Header.decode(proof.leaf.header)
    origin, size, root = proof.checkpoint.text.split("\n")[:3]
    time = "passed" if logged_by is not None and leaf.leaf_index else "not checked"
    return {
        "result": "proven",
        "steps": [*["passed"] * 6, step7, time],
        "origin": origin,
        "size": size,
        "root": b.unbase64(root).hex(),
        "index": str(proof.index),
        "logged_by": None if logged_by is None else str(logged_by),
        "witnesses": list(witnesses),
        "key_id": header.key_id.hex(),
        "epoch": str(header.epoch),
        "seq": str(header.seq),
        "count": str(header.count),
        "leaf_index": str(leaf.leaf_index),
        "body": leaf.body.hex(),
        "reading": stated(Reading.decode(leaf.body)) if leaf.leaf_index else None,
    }


def stated(reading: Reading) -> dict:
    """A reading as JSON."""
    zone = reading.zone_offset_min
    shown = {
        "source": reading.source.hex(),
        "kind": str(reading.kind),
        "sensor_time": str(reading.sensor_time_ns),
        "ordinal": str(reading.ordinal),
        "zone": None if zone is None else str(zone),
        "gateway_offset": str(reading.gateway_offset_ns),
        "quality": str(reading.quality),
    }
    match reading.value:
        case Scalar(mantissa, exponent):
            return shown | {"form": "scalar", "mantissa": str(mantissa), "exponent": str(exponent)}
        case Waveform() as wave:
            fields = ("period_ns", "period_divisor", "channels", "width")
            numbers = {name: str(getattr(wave, name)) for name in fields}
            pairs = {name: [str(number) for number in getattr(wave, name)] for name in ("scale", "origin")}
            return shown | {"form": "waveform", **numbers, **pairs, "samples": wave.samples.hex()}
        case Absent(reason):
            return shown | {"form": "absent", "reason": str(reason)}


ALL_NAMES = tuple(witness.short for witness in WITNESSES)


def good() -> Iterator[Case]:
    """Proofs that hold."""

    def seen(name: str, sealed: Sealed, leaf: int = 1) -> Case:
        proof = sealed.proof(leaf)
        policy = QUORATE.replace(str(b.log_signer().verifier), str(b.log_signer(sealed.origin).verifier))
        return name, proof.encode(), policy, expected(proof, b.NOW + 20, ALL_NAMES)

    yield from map(lambda case: seen(*case), _statements())  # noqa: C417 - a case is a tuple of arguments
    yield from _places()
    yield from _quorums()
    yield from _notes()
    yield from _times()


def _statements() -> Iterator[tuple]:
    for kind in range(1, 18):
        reading = b.waveform(kind=kind) if kind in (14, 15, 16) else b.scalar(72 + kind, kind=kind)
        yield f"kind {kind}", alone(reading)
    yield "kind unknown", alone(b.scalar(kind=65535))
    for name, mantissa, exponent in (
        ("2", 2, 0),
        ("2.0", 20, -1),
        ("2.00", 200, -2),
        ("zero", 0, 0),
        ("negative", -365, -1),
        ("least", -(2**63), -128),
        ("greatest", 2**63 - 1, 127),
    ):
        yield f"scalar {name}", alone(b.scalar(mantissa, exponent, kind=4))
    for reason in (1, 2, 3, 4, 5, 6, 255):
        yield f"absent {reason}", alone(b.absent(reason))
    yield "waveform of 1 byte", alone(b.waveform([-128, 127], width=1))
    yield "waveform of 4 bytes, 3 channels", alone(b.waveform([-(2**31), 0, 2**31 - 1] * 4, width=4, channels=3))
    yield "waveform of 16384 bytes", alone(b.waveform([at % 1000 for at in range(8192)]))
    yield "quality", alone(b.scalar(quality=0xFFFF))
    plain = b.scalar()
    yield (
        "zone unknown, least gateway offset",
        alone(dataclasses.replace(plain, zone_offset_min=None, gateway_offset_ns=-(2**63), source=b"\x00")),
    )
    yield "info of one reading", alone(plain), 0
    yield "info of a heartbeat", alone(), 0
    gap = b.info(window_ns=(b.NOW_NS - 10, b.NOW_NS), clock=2, clock_error_ns=None)
    yield "info of a gap", alone(notice=Notice(2, 1, None), batch_info=gap), 0
    yield "info of a lost outbox", alone(epoch=3, notice=Notice(3)), 0
    yield "anchored to its own index", among(b.sealed([plain], anchor=Anchor(120, b.seed("anchor"))), 200, 120)
    yield "greatest place", alone(plain, epoch=2**32 - 1, seq=2**64 - 1, previous=b.seed("previous"))
    yield "longest origin", alone(plain, origin=LONG_ORIGIN)
    yield "second in a chain", Sealed(b.chain(2)[1], b.small_log(2), 2)


def _places() -> Iterator[Case]:
    plain = b.sealed([b.scalar()])
    for count in (1, 2, 3, 5, 8, 4095):
        sealed = alone(*(b.scalar(60 + at % 90, at_ns=b.NOW_NS + at, ordinal=at) for at in range(count)))
        for leaf in sorted({0, 1, count // 2 or 1, count}):
            proof = sealed.proof(leaf)
            yield f"leaf {leaf} of {count}", proof.encode(), QUORATE, expected(proof, b.NOW + 20, ALL_NAMES)
    for size in (1, 2, 3, 7, 8, 257):
        for index in sorted({0, size // 2, size - 1}):
            proof = among(plain, size, index).proof()
            yield f"index {index} of {size}", proof.encode(), QUORATE, expected(proof, b.NOW + 20, ALL_NAMES)
    entry = b.hash_entry(b.entry_of(plain))
    for name, index, size in (
        ("a million", 654_321, 1_000_001),
        ("2^40", 2**39 + 12345, 2**40),
        ("2^53 + 1", 2**53, 2**53 + 1),
        ("2^53 + 3", 2**53 + 1, 2**53 + 3),
        ("2^63", 2**62 + 1, 2**63),
        ("2^64 - 1, at its end", 2**64 - 2, 2**64 - 1),
    ):
        path, root = b.synthetic_path(index, size, entry)
        note = b.checkpoint_note(size, root, cosigned=SEEN)
        proof = ReadingProof(b.leaf_proof(plain, 1), index, path, note)
        assert len(path) <= 63
        yield f"in a log of {name}", proof.encode(), QUORATE, expected(proof, b.NOW + 20, ALL_NAMES)


def _quorums() -> Iterator[Case]:
    plain = alone(b.scalar())
    none = b.policy_text(witnesses=WITNESSES)
    groups = "group {} hospital regulator patients\nquorum quorate"
    nested = "group {} hospital regulator\ngroup quorate {} pair patients\nquorum quorate"
    clinic, lab = (b.Cosigner(f"witness.example.org/{name}") for name in ("clinic", "lab"))
    five = "group a 2 hospital regulator patients\ngroup b any clinic lab\ngroup quorate all a b\nquorum quorate"
    seen = dict(SEEN)
    times = {witness.short: seen[witness] for witness in WITNESSES}
    cases: list[tuple[str, str, Sequence, int | None]] = [
        ("quorum none", NONE, (), None),
        ("quorum none, strangers cosigned", NONE, SEEN, None),
        ("quorum none, witnesses known", none, SEEN, None),
        ("quorum of one witness", b.policy_text("patients", witnesses=WITNESSES), SEEN[2:], times["patients"]),
        ("quorum any of three", b.policy_text(groups.format("quorate any"), witnesses=WITNESSES), SEEN, b.NOW + 10),
        ("quorum 2 of three", QUORATE, SEEN, b.NOW + 20),
        ("quorum all of three", b.policy_text(groups.format("quorate all"), witnesses=WITNESSES), SEEN, b.NOW + 30),
        ("quorum 2 of three, hospital missing", QUORATE, SEEN[1:], b.NOW + 30),
        ("quorum 2 of three, regulator missing", QUORATE, SEEN[::2], b.NOW + 30),
        ("quorum 2 of three, patients missing", QUORATE, SEEN[:2], b.NOW + 20),
        ("quorum 2 of three, other order", QUORATE, SEEN[::-1], b.NOW + 20),
        (
            "quorum any pair and patients",
            b.policy_text(nested.format("pair any", "all"), witnesses=WITNESSES),
            SEEN,
            b.NOW + 30,
        ),
        (
            "quorum all pair or patients",
            b.policy_text(nested.format("pair all", "any"), witnesses=WITNESSES),
            SEEN,
            b.NOW + 20,
        ),
        (
            "quorum nested, 2 of three and any of two",
            b.policy_text(five, witnesses=(*WITNESSES, clinic, lab)),
            (SEEN[0], SEEN[1], (clinic, b.NOW + 40), (lab, b.NOW + 35)),
            b.NOW + 35,
        ),
        (
            "quorum with a witness who cosigned twice",
            b.policy_text("hospital", witnesses=WITNESSES),
            ((b.HOSPITAL, b.NOW + 50), (b.HOSPITAL, b.NOW + 40)),
            b.NOW + 40,
        ),
        (
            "quorum with a witness who cosigned twice, the least first",
            b.policy_text("hospital", witnesses=WITNESSES),
            ((b.HOSPITAL, b.NOW + 40), (b.HOSPITAL, b.NOW + 50)),
            b.NOW + 40,
        ),
        (
            "quorum of one witness, the others cosigned",
            b.policy_text("patients", witnesses=WITNESSES),
            SEEN,
            times["patients"],
        ),
    ]
    timeless = [(b.HOSPITAL, 0), *SEEN[1:]]
    cases += [
        ("quorum 2 of three, hospital at time 0", QUORATE, timeless, b.NOW + 30),
        ("quorum 2 of three, hospital at time 0 and at another", QUORATE, [(b.HOSPITAL, 0), *SEEN], b.NOW + 20),
        ("quorum none, witnesses known, hospital at time 0", none, timeless, None),
    ]
    for name, policy, cosigned, logged_by in cases:
        known = [item.name for item in b.policy(policy).witnesses]
        names = [name for name in known if name in {witness.short for witness, time in cosigned if time}]
        proof = plain.proof(cosigned=cosigned)
        yield name, proof.encode(), policy, expected(proof, logged_by, names)


def noted(proof: ReadingProof, *lines: object) -> ReadingProof:
    """`proof` with other signature lines."""
    return dataclasses.replace(proof, checkpoint=Note(proof.checkpoint.text, tuple(lines)))


def _notes() -> Iterator[Case]:
    proof = alone(b.scalar()).proof()
    log, *witnesses = proof.checkpoint.signatures
    text = proof.checkpoint.text
    stranger = b.STRANGER.cosign(text, 1)
    other = b.log_signer(name="other log key")
    two = QUORATE.replace("witness hospital", f"log {other.verifier} https://log.example.org/\nwitness hospital")
    named = Signature("\u8a9e\u200b.example.org", bytes(4), b"?")
    cases = {
        "note with a line twice": ((log, log, *witnesses), QUORATE),
        "note with strangers' lines": (
            (stranger, log, Signature("x", bytes(4), bytes(1)), *witnesses, stranger),
            QUORATE,
        ),
        "note with a stranger of another alphabet": ((named, log, *witnesses), QUORATE),
        "note with the witnesses first": ((*witnesses, log), QUORATE),
        "note with eighty lines": ((log, *witnesses, *[stranger] * 76), QUORATE),
        "note with a known id under another name": (
            (log, Signature("other", log.key_id, bytes(64)), *witnesses),
            QUORATE,
        ),
        "note with a known name under another id": (
            (log, Signature(log.name, bytes(4), bytes(64)), *witnesses),
            QUORATE,
        ),
        "note signed by two log keys": ((log, other.sign(text), *witnesses), two),
        "note signed by the other log key": ((other.sign(text), *witnesses), two),
    }
    for name, (lines, policy) in cases.items():
        changed = noted(proof, *lines)
        yield name, changed.encode(), policy, expected(changed, b.NOW + 20, ALL_NAMES)


def _times() -> Iterator[Case]:
    logged_by = b.NOW + 20
    limit = (logged_by + 300) * 10**9
    wave = Waveform(10**9, 3, (1, 0), (0, 0), 1, 1, bytes(4))  # ends floor(4/3 s) after its start
    for name, reading in {
        "time 300 s after": b.scalar(at_ns=limit),
        "time of the year 2000": b.scalar(at_ns=946_684_800 * 10**9),
        "time a waveform's end 300 s after": Reading(b.SOURCE, 14, limit - 1_333_333_333, 0, 0, 0, wave),
    }.items():
        proof = alone(reading).proof()
        yield name, proof.encode(), QUORATE, expected(proof, logged_by, ALL_NAMES)
    proof = alone(b.scalar(at_ns=0)).proof(cosigned=())
    yield "time of 1970 under quorum none", proof.encode(), NONE, expected(proof, None)


def bad() -> Iterator[Case]:
    """Proofs that do not hold, and files that are none."""
    for name, proof, policy, step in _unproven():
        yield f"step {step}, {name}", proof.encode(), policy, {"result": "unproven", "step": step}
    for name, data in _malformed():
        yield f"malformed, {name}", data, QUORATE, {"result": "malformed"}


def leafed(proof: ReadingProof, **fields: object) -> ReadingProof:
    """`proof` with other fields in its extra."""
    return dataclasses.replace(proof, leaf=dataclasses.replace(proof.leaf, **fields))


def relogged(leaf: LeafProof) -> ReadingProof:
    """A proof whose log holds the very entry that `leaf` makes: only steps after 4 can fail."""
    entry = b.BatchEntry(leaf.header, leaf.signature).encode()
    return ReadingProof(leaf, 0, (), b.checkpoint_note(1, b.hash_entry(entry), cosigned=SEEN))


def flipped(data: bytes) -> bytes:
    """`data` with one bit changed."""
    return bytes([data[0] ^ 1]) + data[1:]


def _unproven() -> Iterator[tuple[str, ReadingProof, str, int]]:
    plain = alone(b.scalar())
    proof = plain.proof()
    log, *witnesses = proof.checkpoint.signatures
    text = proof.checkpoint.text
    forged = Signature(log.name, log.key_id, bytes(64))
    other = b.log_signer(name="other log key")
    elsewhere = b.log_signer("other.example.org")
    moved = alone(b.scalar(), origin="other.example.org")

    yield "no line by the log", noted(proof, *witnesses), QUORATE, 2
    yield "the log's signature is wrong", noted(proof, forged, *witnesses), QUORATE, 2
    yield "a good and a bad line by the log", noted(proof, log, forged, *witnesses), QUORATE, 2
    yield "signed by another key of that name", noted(proof, other.sign(text), *witnesses), QUORATE, 2
    yield "the policy names no log", proof, QUORATE.partition("\n")[2], 2
    yield "the policy names another log", proof, QUORATE.replace(str(log_key()), str(elsewhere.verifier)), 2
    yield "the witnesses' key signs as log", noted(proof, *witnesses), b.two_of_three().partition("\n")[2], 2
    stolen = Checkpoint(b.ORIGIN, 1, b.hash_entry(b.entry_of(moved.batch))).sign(b.log_signer())
    lines = [witness.cosign(stolen.text, time) for witness, time in SEEN]
    yield (
        "the batch was sealed for another log",
        dataclasses.replace(moved.proof(), checkpoint=Note(stolen.text, (*stolen.signatures, *lines))),
        QUORATE,
        2,
    )
    longer = Note(text.replace("\n1\n", "\n2\n"), proof.checkpoint.signatures)
    yield "the size was changed", dataclasses.replace(proof, checkpoint=longer), QUORATE, 2

    early = alone(b.scalar(), anchor=Anchor(1, b.seed("anchor")))
    yield "anchored to a size beyond its index", early.proof(), QUORATE, 4

    yield "one witness of two", plain.proof(cosigned=SEEN[:1]), QUORATE, 3
    yield "no witness", plain.proof(cosigned=()), QUORATE, 3
    yield "only strangers cosigned", plain.proof(cosigned=[(b.STRANGER, b.NOW)] * 3), QUORATE, 3
    yield "one of two at time 0", plain.proof(cosigned=[SEEN[0], (b.REGULATOR, 0)]), QUORATE, 3
    one_more = plain.proof(cosigned=[*SEEN[:2], (b.PATIENTS, 0)])
    *others, timeless = one_more.checkpoint.signatures
    broken = Signature(timeless.name, timeless.key_id, flipped(timeless.signature))
    yield "a cosignature at time 0 that does not verify", noted(one_more, *others, broken), QUORATE, 3
    yield "one witness twice", plain.proof(cosigned=[SEEN[0], SEEN[0]]), QUORATE, 3
    nested = "group pair any hospital regulator\ngroup quorate all pair patients\nquorum quorate"
    yield "both of a pair, not the third", plain.proof(cosigned=SEEN[:2]), b.policy_text(nested, witnesses=WITNESSES), 3
    hospital = witnesses[0]
    for name, signature in {
        "wrong": flipped(hospital.signature[8:]),
        "with another time": hospital.signature[8:],
        "too short": hospital.signature[8:-1],
        "too long": hospital.signature[8:] + b"\0",
    }.items():
        time = hospital.signature[:8] if name != "with another time" else bytes(8)
        line = Signature(hospital.name, hospital.key_id, time + signature)
        yield f"a cosignature {name}", noted(proof, log, line, *witnesses[1:]), QUORATE, 3
    late = b.HOSPITAL.cosign(text, 2**63)
    yield "a cosignature beyond time", noted(proof, log, late, *witnesses[1:]), QUORATE, 3
    untimed = NoteSigner(hospital.name, b.seed(hospital.name)).sign(text).signature
    line = Signature(hospital.name, hospital.key_id, bytes(8) + untimed)
    yield "a cosignature over the text alone", noted(proof, log, line, *witnesses[1:]), QUORATE, 3
    line = Signature(hospital.name, hospital.key_id, bytes(72))
    yield (
        "a known witness's line fails under quorum none",
        noted(proof, log, line),
        b.policy_text(witnesses=WITNESSES),
        3,
    )

    inside = among(plain.batch, 7, 4).proof()
    yield "index of another entry", dataclasses.replace(inside, index=5), QUORATE, 4
    yield "index beyond the log", dataclasses.replace(inside, index=7), QUORATE, 4
    yield "greatest index", dataclasses.replace(inside, index=2**64 - 1), QUORATE, 4
    yield (
        "a hash changed",
        dataclasses.replace(inside, inclusion=(flipped(inside.inclusion[0]), *inside.inclusion[1:])),
        QUORATE,
        4,
    )
    yield "a hash too few", dataclasses.replace(inside, inclusion=inside.inclusion[:-1]), QUORATE, 4
    yield "a hash too many", dataclasses.replace(inside, inclusion=(*inside.inclusion, bytes(32))), QUORATE, 4
    yield "hashes in another order", dataclasses.replace(inside, inclusion=inside.inclusion[::-1]), QUORATE, 4
    yield "a hash where there is none", dataclasses.replace(proof, inclusion=(bytes(32),)), QUORATE, 4
    yield "signature not the logged one", leafed(proof, signature=flipped(proof.leaf.signature)), QUORATE, 4
    again = b.sealed([b.scalar()], seq=1, previous=header_hash(plain.batch.header))
    yield "header not the logged one", leafed(proof, header=again.header, signature=again.signature), QUORATE, 4
    empty = b.checkpoint_note(0, hashlib.sha256(b"").digest(), cosigned=SEEN)
    yield "an empty log", dataclasses.replace(proof, checkpoint=empty), QUORATE, 4

    leaf = proof.leaf
    thief = b.device("thief")
    yield "another public key", leafed(proof, public_key=thief.public_key), QUORATE, 5
    yield (
        "header signed by another key",
        relogged(dataclasses.replace(leaf, signature=thief.sign(b"vitalseal/v1/header\n" + leaf.header))),
        QUORATE,
        5,
    )
    yield (
        "header signed without its label",
        relogged(dataclasses.replace(leaf, signature=b.device().sign(leaf.header))),
        QUORATE,
        5,
    )
    yield "signature of zeros", relogged(dataclasses.replace(leaf, signature=bytes(64))), QUORATE, 5
    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(leaf.signature[32:], "little") + order
    raised = leaf.signature[:32] + scalar.to_bytes(32, "little")
    yield "signature with S not reduced", relogged(dataclasses.replace(leaf, signature=raised)), QUORATE, 5

    several = alone(*(b.scalar(60 + at, ordinal=at) for at in range(5)))
    third = several.proof(3)
    second = several.proof(2).leaf
    yield "another reading", leafed(third, body=b.scalar(99, ordinal=2).encode()), QUORATE, 6
    yield "the reading 62.0 for 62", leafed(third, body=b.scalar(620, -1, ordinal=2).encode()), QUORATE, 6
    yield "the neighbour's reading", leafed(third, body=second.body), QUORATE, 6
    yield "the neighbour's salt", leafed(third, salt=second.salt), QUORATE, 6
    yield "the neighbour's index", leafed(third, leaf_index=2), QUORATE, 6
    yield "the neighbour's path", leafed(third, path=second.path), QUORATE, 6
    yield "a batch hash too few", leafed(third, path=third.leaf.path[:-1]), QUORATE, 6
    yield "a batch hash too many", leafed(third, path=(*third.leaf.path, bytes(32))), QUORATE, 6
    yield "no batch hash", leafed(third, path=()), QUORATE, 6
    yield "a root that another published", _thieves(several), QUORATE, 6
    info = several.proof(0)
    yield "another batch info", leafed(info, body=b.info([b.scalar()], clock=2).encode()), QUORATE, 6

    limit = (b.NOW + 320) * 10**9
    wave = Waveform(10**9, 3, (1, 0), (0, 0), 1, 1, bytes(4))
    for name, reading in {
        "1 ns too late": b.scalar(at_ns=limit + 1),
        "before the year 2000": b.scalar(at_ns=946_684_800 * 10**9 - 1),
        "time 0": b.scalar(at_ns=0),
        "least time": b.scalar(at_ns=-(2**63)),
        "greatest time": b.scalar(at_ns=2**63 - 1),
        "a waveform that ends 1 ns too late": Reading(b.SOURCE, 14, limit - 1_333_333_332, 0, 0, 0, wave),
    }.items():
        yield name, alone(reading).proof(), QUORATE, 8


def log_key() -> object:
    """The default log's public key."""
    return b.log_signer().verifier


def _thieves(victim: Sealed) -> ReadingProof:
    """A thief signs the victim's root in a header of his own and opens it as his; but leaves are bound to their key."""
    thief = b.device("thief")
    taken = b.Header.decode(victim.batch.header)
    header = dataclasses.replace(taken, key_id=b.key_id(1, thief.public_key)).encode()
    signature = thief.sign(b"vitalseal/v1/header\n" + header)
    leaf = victim.proof(3).leaf
    return relogged(dataclasses.replace(leaf, public_key=thief.public_key, header=header, signature=signature))


def _malformed() -> Iterator[tuple[str, bytes]]:
    proof = among(b.sealed([b.scalar(), b.absent()]), 7, 4).proof()
    data = proof.encode()
    first, extra, index, *rest = data.decode().split("\n")
    end = "\n".join(rest)
    tail = f"{index}\n{end}"
    texts = {
        "empty": "",
        "first line only": first,
        "first line of version 2": f"{first[:-1]}2\n{extra}\n{tail}",
        "a space after the first line": f"{first} \n{extra}\n{tail}",
        "an empty line first": f"\n{data.decode()}",
        "byte order mark": f"\ufeff{data.decode()}",
        "CRLF": data.decode().replace("\n", "\r\n"),
        "line separator": f"{first}\u2028{extra}\n{tail}",
        "no extra": f"{first}\n{tail}",
        "empty extra": f"{first}\nextra \n{tail}",
        "extra twice": f"{first}\n{extra}\n{extra}\n{tail}",
        "extra after index": f"{first}\n{index}\n{extra}\n{end}",
        "extra with unused bits set": f"{first}\n{_unused(extra)}\n{tail}",
        "extra without padding": f"{first}\n{_padded(proof)}\n{tail}",
        "no index": f"{first}\n{extra}\n{end}",
        **{
            f"index {name}": f"{first}\n{extra}\nindex {text}\n{end}"
            for name, text in {
                "plus": "+4",
                "zero first": "04",
                "underscore": "0_4",
                "full width": "\uff14",
                "space after": "4 ",
                "negative": "-1",
                "2^64": str(2**64),
                "missing": "",
            }.items()
        },
        "a hash of 31 bytes": f"{first}\n{extra}\n{index}\n{b.base64(bytes(31))}\n{end}",
        "a hash with unused bits set": f"{first}\n{extra}\n{index}\n{b.base64(bytes(32))[:-2]}B=\n{end}",
        "64 hashes": f"{first}\n{extra}\n{index}\n" + (b.base64(bytes(32)) + "\n") * 64 + end.partition("\n\n")[2],
        "no empty line before the checkpoint": f"{first}\n{extra}\n{index}\n{end.replace(chr(10) * 2, chr(10), 1)}",
        "no checkpoint": f"{first}\n{extra}\n{index}\n\n",
        "no signature line": data.decode().rpartition("\n\n")[0] + "\n\n",
        "no newline at the end": data.decode()[:-1],
        "an empty line at the end": data.decode() + "\n",
        "something at the end": data.decode() + "x",
        "extension line in the checkpoint": data.decode().replace(f"{b.ORIGIN}\n7\n", f"{b.ORIGIN}\n7\nextension\n"),
        "size with a plus": data.decode().replace(f"{b.ORIGIN}\n7\n", f"{b.ORIGIN}\n+7\n"),
        "size with a zero first": data.decode().replace(f"{b.ORIGIN}\n7\n", f"{b.ORIGIN}\n07\n"),
        "origin with a space": data.decode().replace(f"\n{b.ORIGIN}\n", f"\n{b.ORIGIN} \n"),
        "eighty-one signature lines": noted(proof, *[proof.checkpoint.signatures[0]] * 81).encode().decode(),
        "too long": data.decode() + "x" * (524_289 - len(data)),
    }
    yield from ((name, text.encode()) for name, text in texts.items())
    yield "not UTF-8", data.replace(b"witness", b"witnes\xff", 1)
    yield "zero octet", data.replace(b"witness", b"witnes\x00", 1)
    leaf = proof.leaf
    fields = [1, 1, leaf.public_key, leaf.header, leaf.signature, 1, leaf.salt, b"".join(leaf.path), leaf.body]
    header = b.unpack(leaf.header)
    reading = b.unpack(leaf.body)
    for name, changed in {
        "extra of version 2": _with(fields, 0, 2),
        "extra of form 0": _with(fields, 0, 0),
        "extra of form 3": _with(fields, 0, 3),
        "extra of form 4": _with(fields, 0, 4),
        "extra of a form that is nil": _with(fields, 0, None),
        "algorithm 2": _with(fields, 1, 2),
        "algorithm 0": _with(fields, 1, 0),
        "algorithm 3": _with(fields, 1, 3),
        "algorithm 256": _with(fields, 1, 256),
        "key of 129 bytes": _with(fields, 2, bytes(129)),
        "algorithm true": _with(fields, 1, True),
        "key of 31 bytes": _with(fields, 2, leaf.public_key[:-1]),
        "small-order key": _with(fields, 2, (1).to_bytes(32, "little")),
        "key not canonical": _with(fields, 2, b"\xff" * 32),
        "header empty": _with(fields, 3, b""),
        "header of version 2": _with(fields, 3, b.pack(_with(header, 0, 2))),
        "header with an item more": _with(fields, 3, b.pack([*header, None])),
        "header with something after it": _with(fields, 3, leaf.header + b"\xc0"),
        "header not canonical": _with(fields, 3, leaf.header.replace(b"\x9a\x01", b"\x9a\xcc\x01", 1)),
        "header of readings and a notice": _with(fields, 3, b.pack(_with(header, 9, [1]))),
        "header with a previous hash at seq 0": _with(fields, 3, b.pack(_with(header, 5, bytes(32)))),
        "header with too many readings": _with(fields, 3, b.pack(_with(header, 6, 4096))),
        "header too long": _with(fields, 3, bytes(897)),
        "signature of 63 bytes": _with(fields, 4, leaf.signature[:-1]),
        "leaf index beyond the count": _with(fields, 5, 3),
        "leaf index 4096": _with(fields, 5, 4096),
        "leaf index negative": _with(fields, 5, -1),
        "leaf index of the info over a reading": _with(fields, 5, 0),
        "salt of 15 bytes": _with(fields, 6, leaf.salt[:-1]),
        "path of half a hash": _with(fields, 7, bytes(16)),
        "path of 64 hashes": _with(fields, 7, bytes(64 * 32)),
        "body empty": _with(fields, 8, b""),
        "body too long": _with(fields, 8, bytes(16_641)),
        "body is an info": _with(fields, 8, b.info([b.scalar()]).encode()),
        "body with something after it": _with(fields, 8, leaf.body + b"\xc0"),
        "body not canonical": _with(fields, 8, leaf.body.replace(b"\x93\x00\x48", b"\x93\x00\xcc\x48")),
        "body with a float": _with(fields, 8, b.pack(_with(reading, 6, [0, 72.0, 0]))),
        "body of kind 0": _with(fields, 8, b.pack(_with(reading, 1, 0))),
        "extra with an item less": fields[:-1],
        "extra with an item more": [*fields, None],
        "extra as a map": dict(enumerate(fields)),
    }.items():
        yield name, f"{first}\nextra {b.base64(b.pack(changed))}\n{tail}".encode()
    for name, packed in {
        "extra with something after it": leaf.encode() + b"\xc0",
        "extra not canonical": b"\xdc\x00\x09" + leaf.encode()[1:],
        "extra cut short": leaf.encode()[:-1],
    }.items():
        yield name, f"{first}\nextra {b.base64(packed)}\n{tail}".encode()


def _with(fields: list, at: int, value: object) -> list:
    return [*fields[:at], value, *fields[at + 1 :]]


def _unused(line: str) -> str:
    """The line with a bit set that base64 does not use, where its padding leaves one."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    body = line.rstrip("=")
    assert body != line
    return body[:-1] + alphabet[alphabet.index(body[-1]) + 1] + line[len(body) :]


def _padded(proof: ReadingProof) -> str:
    line = f"extra {b.base64(proof.leaf.encode())}"
    assert line.endswith("=")
    return line.rstrip("=")
