"""More proof files among the vectors: bounds, signatures that libraries differ over, one malformed item at a time.

Each of the malformed ones is consistent in every hash and signature, so that a verifier that lets its one fault pass
finds it proven.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator

from ledger.note import Note, Signature, VerifierKey
from ledger.proof import LeafProof, ReadingProof
from tests.ledger import builders as b
from tests.vectors import curve, texts
from tests.vectors.binary import INFO, MIXED, READING, WAVE, ZERO, changed, unfit_infos
from tests.vectors.proofs import (
    ALL_NAMES,
    QUORATE,
    SEEN,
    WITNESSES,
    Case,
    alone,
    expected,
    leafed,
    log_key,
    noted,
    relogged,
)

MAX_NOTE = 262_144
NOTHING = [*INFO[:5], None, None, [], None]  # the info of a batch without readings


def good() -> Iterator[Case]:
    """Proofs that hold."""
    yield from _edges()
    yield from _odd_keys()
    yield from _odd_policies()


def bad() -> Iterator[Case]:
    """Proofs that do not hold, files that are none, and policies that are none."""
    for name, proof, policy, step in _unproven():
        yield f"step {step}, {name}", proof.encode(), policy, {"result": "unproven", "step": step}
    for name, misshapen in _misshapen().items():
        yield f"malformed, {name}", misshapen.encode(), QUORATE, {"result": "malformed"}
    proof = alone(b.scalar()).proof().encode()
    for name, policy in _no_policies().items():
        data = policy if isinstance(policy, bytes) else "\n".join([*policy, ""])
        yield f"malformed policy, {name}", proof, data, {"result": "malformed"}
    yield "malformed, both proof and policy", b"", b"", {"result": "malformed"}


def rough(
    *readings: list,
    info: list | None = None,
    leaf: int = 1,
    header: dict[int, object] | None = None,
    key: curve.OddKey | b.Device | None = None,
) -> ReadingProof:
    """A proof of items of whatever form, with items of the header replaced: in every hash and signature consistent.

    `key` is the device's: anything with `algorithm`, `public_key` and `sign`.
    """
    header, key = header or {}, key or b.device()
    bodies = [b.pack(info or (INFO if readings else NOTHING)), *map(b.pack, readings)]
    salts = [bytes([at]) * 16 for at in range(len(bodies))]
    place = b.key_id(key.algorithm, key.public_key)
    place += (header.get(3, 0) % 2**32).to_bytes(4, "big") + (header.get(4, 0) % 2**64).to_bytes(8, "big")
    leaves = [
        hashlib.sha256(b"\0vitalseal/v1/leaf\n" + place + at.to_bytes(4, "big") + salt + body).digest()
        for at, (salt, body) in enumerate(zip(salts, bodies, strict=True))
    ]
    fields = [1, b.ORIGIN, place[:32], 0, 0, None, len(readings), b.naive_root(leaves), None, None if readings else [1]]
    for at, value in header.items():
        fields[at] = value
    packed = b.pack(fields)
    signature = key.sign(b"vitalseal/v1/header\n" + packed)
    path = tuple(b.naive_path(leaf, leaves))
    return relogged(LeafProof(key.algorithm, key.public_key, packed, signature, leaf, salts[leaf], path, bodies[leaf]))


def _edges() -> Iterator[Case]:
    """Bounds, and what no verifier of one proof is to refuse."""
    longest = "o" * 255
    wave = [1, 2**63 - 1, 2**63 - 2, 2**63 - 1, 127, -(2**63), -128, 32, 4, bytes(range(128))]
    slow = [1, 1, 2**63 - 1, -(2**63), -128, 2**63 - 1, 127, 1, 1, b"\x80"]
    info = {
        "one moment": changed(INFO, 5, INFO[6]),
        "no description": changed(INFO, 7, [[b.SOURCE, ""]]),
        "the longest description": changed(INFO, 7, [[b.SOURCE, " ~" * 32]]),
        "the most sources": changed(INFO, 7, [[bytes([at]) * 16, "d" * 64] for at in range(128)]),
        "an id the beginning of the next": changed(INFO, 7, [[b"\1", "a"], [b"\1\0", "b"], [b"\2", "c"]]),
        "the greatest clock": [b"\xff" * 16, 2**63 - 1, 2**64 - 1, 0, 2**64 - 1, *INFO[5:]],
        "the least times": [bytes(16), -(2**63), 0, 2, 0, -(2**63), -(2**63), INFO[7], [-(2**63), -(2**63)]],
        "sources that have no reading": changed(INFO, 7, [*INFO[7], [b"\1", ""]]),
        "no readings beside a reading": NOTHING,
        "a window beside a reading": changed(INFO, 8, [0, 0]),
    }
    cases = {
        "ecg as a scalar": rough(changed(READING, 1, 14)),
        "heart rate as a waveform": rough(changed(READING, 6, WAVE)),
        "zone 1080 and the greatest": rough([b"\xff", 65535, b.NOW_NS, 65535, 1080, 2**63 - 1, [0, 1, 0], 65535]),
        "zone minus 1080": rough(changed(READING, 4, -1080)),
        "source that the info does not have": rough(changed(READING, 0, b"\7")),
        "waveform of the greatest numbers": rough(changed(READING, 6, wave)),
        "waveform of the least numbers": rough(changed(READING, 6, slow)),
        **{f"info with {name}": rough(READING, info=item, leaf=0) for name, item in info.items()},
        "info of a heartbeat with sources and a window": rough(info=changed(INFO, 8, [0, 1]), leaf=0),
        "info of a gap without a window": rough(leaf=0, header={9: [2, 2, 1]}),
        "info of the greatest gap": rough(leaf=0, header={9: [2, 255, 2**64 - 1]}),
        "info of a lost outbox in epoch 1": rough(leaf=0, header={3: 1, 9: [3]}),
        "anchored to nothing by another root": rough(READING, header={8: [0, ZERO]}),
    }
    for name, proof in cases.items():
        yield name, proof.encode(), QUORATE, expected(proof, b.NOW + 20, ALL_NAMES)
    for origin in ("~", longest):
        proof = alone(b.scalar(), origin=origin).proof()
        policy = b.two_of_three().replace(str(log_key()), str(b.log_signer(origin).verifier))
        yield f"origin of {len(origin)}", proof.encode(), policy, expected(proof, b.NOW + 20, ALL_NAMES)
    late = [(witness, 2**63 - 1) for witness in WITNESSES]
    proof = alone(b.scalar(at_ns=2**63 - 1)).proof(cosigned=late)
    yield "time the greatest of both", proof.encode(), QUORATE, expected(proof, 2**63 - 1, ALL_NAMES)
    proof = lengthened(alone(b.scalar()).proof(), MAX_NOTE)
    yield "note of 262144 bytes", proof.encode(), QUORATE, expected(proof, b.NOW + 20, ALL_NAMES)
    proof = noted(proof, *proof.checkpoint.signatures[:-1], *(_almost_spaces()))
    yield "note with names of what is almost a space", proof.encode(), QUORATE, expected(proof, b.NOW + 20, ALL_NAMES)


def _almost_spaces() -> list[Signature]:
    return [Signature(f"a{chr(at)}b", bytes(4), b"?") for at in texts.NOT_SPACES]


def lengthened(proof: ReadingProof, size: int) -> ReadingProof:
    """`proof` with a stranger's line that makes its note `size` bytes long."""
    stranger = Signature("", bytes(4), b"?")
    name = "n" * (size - len(proof.checkpoint.encode()) - len(str(stranger).encode()))
    long = noted(proof, *proof.checkpoint.signatures, dataclasses.replace(stranger, name=name))
    assert len(long.checkpoint.encode()) == size
    return long


def _odd_keys() -> Iterator[Case]:
    """Keys and signatures that libraries differ over, and that hold."""
    device = curve.OddKey("device")
    none = curve.encoded(curve.IDENTITY)
    still = _signing(device, lambda message: device.answer(none, 0, message))
    proofs = {
        "device signature whose R is the identity": rough(READING, key=still),
        "device key of mixed order": next(proof for proof, eighth in _mixed() if not eighth),
    }
    for name, proof in proofs.items():
        yield name, proof.encode(), QUORATE, expected(proof, b.NOW + 20, ALL_NAMES)


@dataclasses.dataclass(frozen=True)
class _Signing:
    public_key: bytes
    sign: Callable[[bytes], bytes]
    algorithm: int = 1


def _signing(key: curve.OddKey, sign: Callable[[bytes], bytes]) -> _Signing:
    return _Signing(key.public_key, sign)


def _mixed() -> Iterator[tuple[ReadingProof, int]]:
    """Proofs by a device key of mixed order, with k modulo 8: only with 0 does the equation without 8 hold."""
    for ordinal in range(100):
        proof = rough(changed(READING, 3, ordinal), key=MIXED)
        yield proof, MIXED.challenge(proof.leaf.signature[:32], b"vitalseal/v1/header\n" + proof.leaf.header) % 8


def policy_lines() -> list[str]:
    """The lines of the policy that most proofs are under: log, three witnesses, group, quorum."""
    return QUORATE.splitlines()


def _odd_policies() -> Iterator[Case]:
    """Policies of unusual form beside a proof that holds."""
    proof = alone(b.scalar()).proof()
    log, *witnesses, group, quorum = policy_lines()
    names, last = ["hospital", "regulator", "patients"], b.NOW + 20
    elsewhere = b.log_signer("other.example.org", "other")
    stray = VerifierKey("other.example.org", 1, curve.OFF_CURVE)
    chain = [f"group g{at} any g{at - 1}" for at in range(1, 64)]
    key = log_key()
    cases: dict[str, list[str] | bytes] = {
        "unused log key that is no point": [*policy_lines(), f"log {stray}"],
        "unused key of the log that is no point": [
            *policy_lines(),
            f"log {VerifierKey(b.ORIGIN, 1, curve.OFF_CURVE)}",
        ],
        "quorum before the log": [*witnesses, group, quorum, log],
        "groups 64 deep": [log, *witnesses, group.replace("quorate", "g0"), *chain, "quorum g63"],
        "groups called all and any": [
            log,
            *witnesses,
            "group all 2 " + " ".join(names),
            "group any any all",
            "quorum any",
        ],
        "a key both log and witness": [*policy_lines(), f"witness log {VerifierKey(key.name, 4, key.public_key)}"],
        "a log of 300 bytes": [*policy_lines(), f"log {b.log_signer('o' * 300, 'other').verifier}"],
        "octets that are not UTF-8": b"# \xff\n%s \xff\n%s\n" % (log.encode(), "\n".join(policy_lines()[1:]).encode()),
        "names that are not UTF-8": QUORATE.replace("quorate", "\udcff").encode("utf-8", "surrogateescape"),
        "tabs, blanks, comments": b"\t#\n \n" + QUORATE.replace(" ", " \t ").encode() + b" # end",
        "262144 bytes": _padded_policy(262_144),
    }
    for name, policy in cases.items():
        data = policy if isinstance(policy, bytes) else "\n".join([*policy, ""])
        yield f"policy, {name}", proof.encode(), data, expected(proof, last, ALL_NAMES)
    both = "\n".join([*policy_lines(), f"log {elsewhere.verifier}", ""])
    for name, line in {
        "wrong": Signature(elsewhere.verifier.name, elsewhere.verifier.id, bytes(64)),
        "short": Signature(elsewhere.verifier.name, elsewhere.verifier.id, b"?"),
        "right": elsewhere.sign(proof.checkpoint.text),
    }.items():
        more = noted(proof, *proof.checkpoint.signatures, line)
        yield (
            f"note with a {name} line by a log of another origin",
            more.encode(),
            both,
            expected(more, last, ALL_NAMES),
        )


def _padded_policy(size: int) -> bytes:
    """The policy with a comment that makes it `size` bytes long."""
    return QUORATE.encode() + b"#" * (size - len(QUORATE) - 1) + b"\n"


def _unproven() -> Iterator[tuple[str, ReadingProof, str, int]]:
    """Signatures that libraries differ over, lines of another length, and sums beyond 64 bits."""
    proof = alone(b.scalar()).proof()
    log, *witnesses = proof.checkpoint.signatures
    text = proof.checkpoint.text
    signer, hospital = curve.OddKey("log"), curve.OddKey(b.HOSPITAL.name)

    twisted = Signature(log.name, log.key_id, signer.sign(text.encode(), curve.TORSION))
    yield "the log's signature with a small-order part in R", noted(proof, twisted, *witnesses), QUORATE, 2
    for name, data in {
        "a line of one byte": b"?",
        "a line a byte short": log.signature[:-1],
        "a line a byte long": log.signature + b"\0",
    }.items():
        line = Signature(log.name, log.key_id, data)
        yield f"{name} by the log beside a good one", noted(proof, log, line, *witnesses), QUORATE, 2
    stray = VerifierKey(b.ORIGIN, 1, curve.OFF_CURVE)
    line = Signature(stray.name, stray.id, log.signature)
    known = "\n".join([*policy_lines(), f"log {stray}", ""])
    yield "a line by a key of the log that is no point", noted(proof, log, line, *witnesses), known, 2

    time, message = witnesses[0].signature[:8], f"cosignature/v1\ntime {b.NOW + 20}\n{text}".encode()
    twisted = dataclasses.replace(witnesses[0], signature=time + hospital.sign(message, curve.TORSION))
    yield "a cosignature with a small-order part in R", noted(proof, log, twisted, *witnesses[1:]), QUORATE, 3

    yield "63 hashes", dataclasses.replace(proof, inclusion=(bytes(32),) * 63), QUORATE, 4
    yield "anchored to its successor", rough(READING, header={8: [1, ZERO]}), QUORATE, 4

    device = curve.OddKey("device")
    keys = {
        "R with a small-order part": _signing(device, lambda message: device.sign(message, curve.TORSION)),
        "R the identity in another spelling": _signing(
            device, lambda message: device.answer((curve.P + 1).to_bytes(32, "little"), 0, message)
        ),
        "R the identity with a sign": _signing(
            device, lambda message: device.answer((1 | 1 << 255).to_bytes(32, "little"), 0, message)
        ),
        "R of small order": _signing(device, lambda message: device.answer(curve.encoded(curve.TORSION), 0, message)),
        "a key that is no point": _Signing(curve.OFF_CURVE, device.sign),
    }
    for name, key in keys.items():
        yield name, rough(READING, key=key), QUORATE, 5
    mixed = next(proof for proof, eighth in _mixed() if eighth)
    yield "a key of mixed order under which only the equation with 8 holds", mixed, QUORATE, 5

    yield "63 batch hashes", leafed(proof, path=(bytes(32),) * 63), QUORATE, 6

    for name, wave in {
        "waveform whose end is beyond 64 bits": [1, 2**63 - 1, 1, 1, 0, 0, 0, 1, 1, bytes(4)],
        "waveform whose end is beyond 63 bits": [1, 2**63 - 1, 1, 1, 0, 0, 0, 1, 1, bytes(1)],
    }.items():
        yield name, rough(changed(READING, 6, wave)), QUORATE, 8
    early = alone(b.scalar()).proof(cosigned=[(witness, 1) for witness in WITNESSES])
    yield "logged by 1970", early, QUORATE, 8


def _misshapen() -> dict[str, ReadingProof]:
    """Proofs that would hold if their one malformed item were allowed."""
    wave = {
        "period 0": {1: 0},
        "period 2^63": {1: 2**63},
        "divisor 0": {2: 0},
        "divisor 2^63": {2: 2**63},
        "period not in lowest terms": {1: 26, 2: 4},
        "scale 2^63": {3: 2**63},
        "scale exponent 128": {4: 128},
        "scale exponent minus 129": {4: -129},
        "origin 2^63": {5: 2**63},
        "origin exponent 128": {6: 128},
        "origin exponent minus 129": {6: -129},
        "no channels": {7: 0},
        "33 channels": {7: 33, 9: bytes(66)},
        "width 0": {8: 0},
        "width 3": {8: 3, 9: bytes(6)},
        "width 8": {8: 8, 9: bytes(8)},
        "no samples": {9: b""},
        "half a sample": {9: bytes(3)},
        "half a frame": {7: 2, 9: bytes(6)},
        "16386 bytes": {9: bytes(16_386)},
        "samples as text": {9: "ab"},
    }
    values = {f"waveform with {name}": replaced(WAVE, changes) for name, changes in wave.items()}
    values |= {
        "waveform with an item less": WAVE[:-1],
        "waveform with an item more": [*WAVE, 0],
        "scalar with mantissa 2^63": [0, 2**63, 0],
        "scalar with exponent 128": [0, 72, 128],
        "scalar with exponent minus 129": [0, 72, -129],
        "scalar without exponent": [0, 72],
        "absent for reason 0": [2, 0],
        "absent for reason 256": [2, 256],
        "value of form 3": [3, 1],
        "value without form": [],
        "value that is no array": 72,
    }
    bodies = {name: changed(READING, 6, value) for name, value in values.items()}
    others = {0: [b"", bytes(17), "source"], 1: [65536], 2: [2**63], 3: [-1, 65536], 4: [1081, -1081], 5: [2**63]}
    for at, items in (others | {7: [-1, 65536]}).items():
        bodies |= {f"{ITEMS[at]} {shown(item)}": changed(READING, at, item) for item in items}
    bodies |= {"reading with an item less": READING[:-1], "reading with an item more": [*READING, 0]}
    return {name: rough(body) for name, body in bodies.items()} | _misshapen_infos() | _misshapen_headers() | _lines()


ITEMS = ("source", "kind", "sensor time", "ordinal", "zone", "gateway offset", "value", "quality")


def shown(item: object) -> str:
    """A malformed item in a vector's name."""
    return f"of {len(item)} bytes" if isinstance(item, bytes) else str(item).replace("-", "minus ")


def replaced(fields: list, changes: dict[int, object]) -> list:
    """`fields` with others at some places."""
    return [changes.get(at, value) for at, value in enumerate(fields)]


def _misshapen_infos() -> dict[str, ReadingProof]:
    infos = unfit_infos() | {
        "boot id of 15 bytes": changed(INFO, 0, bytes(15)),
        "boot id of 17 bytes": changed(INFO, 0, bytes(17)),
        "sealed at 2^63": changed(INFO, 1, 2**63),
        "monotonic time minus 1": changed(INFO, 2, -1),
        "clock 3": changed(INFO, 3, 3),
        "clock error minus 1": changed(INFO, 4, -1),
        "last time 2^63": changed(INFO, 6, 2**63),
        "129 sources": changed(INFO, 7, [[at.to_bytes(2, "big"), ""] for at in range(129)]),
        "sources that are nil": changed(INFO, 7, None),
        "a source without description": changed(INFO, 7, [[b.SOURCE]]),
        "a source without id": changed(INFO, 7, [[b"", "a"]]),
        "a source id of 17 bytes": changed(INFO, 7, [[bytes(17), "a"]]),
        "a description of 65": changed(INFO, 7, [[b.SOURCE, "d" * 65]]),
        "a description in bytes": changed(INFO, 7, [[b.SOURCE, b"d"]]),
        "a description with U+001F": changed(INFO, 7, [[b.SOURCE, "\x1f"]]),
        "a description with U+007F": changed(INFO, 7, [[b.SOURCE, "\x7f"]]),
        "a description beyond ASCII": changed(INFO, 7, [[b.SOURCE, "\u00e9"]]),
        "a window of one": changed(INFO, 8, [0]),
        "a window of three": changed(INFO, 8, [0, 0, 0]),
        "a window without end": changed(INFO, 8, [0, None]),
        "a window that ends at 2^63": changed(INFO, 8, [0, 2**63]),
        "an item less": INFO[:-1],
        "an item more": [*INFO, None],
    }
    return {f"info, {name}": rough(READING, info=item, leaf=0) for name, item in infos.items()}


def _misshapen_headers() -> dict[str, ReadingProof]:
    full = {
        "version 0": {0: 0},
        "no origin": {1: ""},
        "a space in the origin": {1: "log example"},
        "a plus in the origin": {1: "log+example"},
        "origin beyond ASCII": {1: "log.example.org/\u00e9"},
        "key id of 33 bytes": {2: bytes(33)},
        "epoch 2^32": {3: 2**32, 4: 1, 5: ZERO},
        "seq minus 1": {4: -1, 5: ZERO},
        "no previous hash at seq 1": {4: 1},
        "a previous hash of 31 bytes": {4: 1, 5: bytes(31)},
        "a previous hash of 33 bytes": {4: 1, 5: bytes(33)},
        "root of 33 bytes": {7: bytes(33)},
        "an anchor without root": {8: [0]},
        "an anchor of three": {8: [0, ZERO, 0]},
        "an anchor's root of 31 bytes": {8: [0, bytes(31)]},
        "an anchor's root of 33 bytes": {8: [0, bytes(33)]},
        "an anchor of size minus 1": {8: [-1, ZERO]},
        "readings at the start of a later epoch": {3: 1},
        "readings and an outbox lost": {3: 1, 9: [3]},
    }
    later: dict[int, object] = {4: 1, 5: ZERO}
    notices = {
        "nil": None,
        "empty": [],
        "of kind 0": [0],
        "of kind 4": [4],
        "heartbeat with a reason": [1, 1],
        "gap without reason": [2],
        "gap without lost": [2, 1],
        "gap for reason 0": [2, 0, 1],
        "gap for reason 256": [2, 256, 1],
        "gap of 0 lost": [2, 1, 0],
        "gap with an item more": [2, 1, 1, 1],
        "that is no array": 1,
    }
    empty = {f"notice {name}": later | {9: notice} for name, notice in notices.items()}
    empty["notice outbox lost with a reason"] = {3: 1, 9: [3, 1]}
    empty |= {
        "notice outbox lost in epoch 0": {9: [3]},
        "notice outbox lost after the start of an epoch": {3: 1, **later, 9: [3]},
        "heartbeat at the start of a later epoch": {3: 1},
        "gap at the start of a later epoch": {3: 1, 9: [2, 1, 1]},
    }
    found = {f"header, {name}": rough(READING, header=changes) for name, changes in full.items()}
    return found | {f"header, {name}": rough(leaf=0, header=changes) for name, changes in empty.items()}


def _lines() -> dict[str, ReadingProof]:
    """Notes with a line, or an origin, that is none; and beyond their limits."""
    plain = alone(b.scalar())
    proof = plain.proof()
    lines = {f"a stranger's name with U+{at:04X}": (f"a{chr(at)}b", b"?") for at in texts.SPACES}
    lines |= {
        "a stranger's name with a plus": ("a+b", b"?"),
        "a stranger's line of a key id alone": ("a", b""),
        "a stranger's line without a name": ("", b"?"),
    }
    found = {
        name: noted(proof, *proof.checkpoint.signatures, Signature(who, bytes(4), blob))
        for name, (who, blob) in lines.items()
    }
    at = {
        "origin with a plus": "log+example",
        "origin of 256 bytes": "o" * 256,
        "origin of 256 in UTF-8": "\u00e9" * 128,
    }
    for name, origin in at.items():
        text = proof.checkpoint.text.replace(b.ORIGIN, origin)
        cosigned = [witness.cosign(text, time) for witness, time in SEEN]
        signed = dataclasses.replace(proof.checkpoint.signatures[0], signature=b.log_signer().sign(text).signature)
        found[name] = dataclasses.replace(proof, checkpoint=Note(text, (signed, *cosigned)))
    found["header's origin of 256 bytes"] = rough(READING, header={1: "o" * 256})
    leaf = proof.leaf
    found["64 hashes in lines"] = dataclasses.replace(proof, inclusion=(bytes(32),) * 64)
    found["salt of 17 bytes"] = leafed(proof, salt=leaf.salt + b"\0")
    found["signature of 65 bytes"] = leafed(proof, signature=leaf.signature + b"\0")
    found["key of 33 bytes"] = leafed(proof, public_key=leaf.public_key + b"\0")
    text = proof.checkpoint.text
    longer = text.replace(text.split("\n")[2], b.base64(bytes(33)))
    cosigned = [witness.cosign(longer, time) for witness, time in SEEN]
    found["checkpoint's root of 33 bytes"] = dataclasses.replace(
        proof, checkpoint=Note(longer, (b.log_signer().sign(longer), *cosigned))
    )
    found["note of 262145 bytes"] = lengthened(proof, MAX_NOTE + 1)
    return found


def _no_policies() -> dict[str, list[str] | bytes]:
    """Policies with one fault each, which would be satisfied without it."""
    log, *witnesses, group, quorum = lines = policy_lines()
    key, extra = log_key(), b.Cosigner("witness.example.org/extra")
    other = b.log_signer("other.example.org", "other").verifier
    spare = f"witness spare {extra.vkey}"
    chain = ["group g0 any spare", *(f"group g{at} any g{at - 1}" for at in range(1, 65))]
    text, hospital = QUORATE.encode(), witnesses[0].split()[2]
    twin, twice = texts.twins(1, 1)
    crossed = texts.twins(1, 4)
    order8 = curve.encoded(curve.TORSION)
    return {
        "empty": b"",
        "no quorum": lines[:-1],
        "two quorums": [*lines, quorum],
        "quorum of two": [*lines[:-1], f"{quorum} hospital"],
        "quorum not defined": [*lines[:-1], "quorum nobody"],
        "quorum before its group": [log, *witnesses, quorum, group],
        "unknown line": [*lines, "# comment", "tile x"],
        "capitals": [*lines[:-1], "Quorum quorate"],
        "log without key": [*lines, "log"],
        "log with two urls": [f"{log} a b", *lines[1:]],
        "log twice": [log, *lines],
        "log key of two origins": [*lines, f"log {VerifierKey('other.example.org', 1, key.public_key)}"],
        "log with a witness's key": [*lines, f"log {extra.vkey}"],
        "witness with a log's key": [*lines, f"witness spare {other}"],
        "witness with two urls": [*lines, f"{spare} a b"],
        "witness without key": [*lines, "witness spare"],
        "witness called none": [*lines, f"witness none {extra.vkey}"],
        "witness called as another": [*lines, f"witness hospital {extra.vkey}"],
        "witness called as a group": [*lines, f"witness quorate {extra.vkey}"],
        "witness key under two names": [*lines, f"witness spare {hospital}"],
        "group without members": [*lines, "group g all"],
        "group of the undefined": [*lines, "group g any nobody"],
        "group before its member": [*lines, "group g any spare", spare],
        "group of itself": [*lines, spare, "group g any spare g"],
        "group called none": [*lines, spare, "group none any spare"],
        "group called as a witness": [*lines, spare, "group spare any spare"],
        "member twice": [*lines, spare, "group g any spare spare"],
        "member of two groups": [*lines, "group g any hospital"],
        "none as a member": [*lines, "group g any none"],
        "threshold 0": [*lines, spare, "group g 0 spare"],
        "threshold 2 of one": [*lines, spare, "group g 2 spare"],
        "threshold 01": [*lines, spare, "group g 01 spare"],
        "threshold ALL": [*lines, spare, "group g ALL spare"],
        "groups 65 deep": [*lines[:-2], spare, *chain, "group quorate any hospital g64", quorum],
        "groups 65 deep that are not the quorum": [*lines, spare, *chain],
        "two log keys of one name and id": [*lines, f"log {twin}", f"log {twice}"],
        "a log's and a witness's key of one name and id": [*lines, f"log {crossed[0]}", f"witness twin {crossed[1]}"],
        "vkey of small order": [*lines, f"log {VerifierKey('other.example.org', 1, order8)}"],
        "vkey that is not canonical": [*lines, f"log {VerifierKey('other.example.org', 1, bytes([255]) * 32)}"],
        "vkey of 31 bytes": [*lines, f"log {VerifierKey('other.example.org', 1, bytes([9]) * 31)}"],
        "vkey of type 2": [*lines, f"log {VerifierKey('other.example.org', 2, other.public_key)}"],
        "vkey with another id": [*lines, f"log {str(other).replace(other.id.hex(), '00000000')}"],
        "vkey without key": [*lines, f"log other+{hashlib.sha256(b'other' + bytes([10])).hexdigest()[:8]}+"],
        "vkey of two parts": [*lines, f"log {str(other).rpartition('+')[0]}"],
        "vkey with a name that is not UTF-8": text + b"log " + texts.raw_vkey(b"log\xff", 1, other.public_key) + b"\n",
        "CRLF": text.replace(b"\n", b"\r\n"),
        **{f"octet {at:02X} in a comment": text + b"# " + bytes([at]) + b"\n" for at in (0, 8, 11, 31, 127)},
        "byte order mark": b"\xef\xbb\xbf" + text,
        "262145 bytes": _padded_policy(262_145),
    }
