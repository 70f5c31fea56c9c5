"""The completeness proofs among the vectors (FORMAT.md sections 8.7 and 10.3)."""

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from functools import cache

from ledger.batch import Header, Notice, header_hash
from ledger.note import Note, Signature
from ledger.proof import ProofFile
from ledger.reading import Reading
from tests.ledger import builders as b
from tests.ledger import past as p
from tests.vectors import p256
from tests.vectors.binary import INFO, READING, ZERO, changed, pack, replacements
from tests.vectors.postquantum import PQ_ONLY, PQ_SEEN
from tests.vectors.proofs import ALL_NAMES, NONE, QUORATE, SEEN, Case, flipped, stated
from tests.vectors.texts import PQ_LOG
from tests.vectors.trusted import beside

DEVICE, ELEMENT, THIEF = b.device(), b.SecureElement(), b.device("thief")
BEATS = b.device("heartbeats")
ELSEWHERE = "other.example.org"
ONLY = tuple(range(6))


@cache
def history() -> p.Past:
    """A log with the chains of four devices; the first has two epochs, and a gap in the first of them."""
    past = p.Past()
    for device in (DEVICE, ELEMENT, BEATS):
        past.enrol(device)
    past.seal(b.scalar(60), b.absent(), b.scalar(61, ordinal=1), signer=DEVICE)
    past.seal(b.scalar(), signer=ELEMENT)
    past.seal(b.scalar(62, at_ns=b.NOW_NS + 1), signer=DEVICE)
    past.seal(signer=DEVICE)
    past.seal(signer=BEATS)
    past.seal(signer=DEVICE, notice=Notice(2, 1, 40))
    past.seal(b.scalar(63, at_ns=b.NOW_NS + 2), b.waveform(), signer=DEVICE)
    past.seal(b.scalar(-1, -1), signer=ELEMENT)
    past.seal(b.scalar(64, at_ns=b.NOW_NS + 3), signer=DEVICE)
    past.seal(signer=DEVICE, epoch=1, seq=0, notice=Notice(3))
    past.seal(b.scalar(65, at_ns=b.NOW_NS + 4), signer=DEVICE)
    past.seal(signer=BEATS)
    past.fill(2)
    return past


def proven(
    file: ProofFile,
    logged_by: int | None,
    witnesses: Sequence[str] = ALL_NAMES,
    *,
    step7: str = "not checked",
) -> dict:
    """What a verifier must report of a completeness proof that holds, read out of its extra."""
    _, algorithm, key, batches = b.unpack(file.extra)
    headers = [Header.decode(batch[0]) for batch in batches]
    shown = [
        {"seq": str(header.seq), "leaf_index": str(at)} | stated(Reading.decode(leaf[1]))
        for header, batch in zip(headers, batches, strict=True)
        for at, leaf in enumerate(batch[2])
        if at and isinstance(leaf, list)
    ]
    origin, size, root = file.checkpoint.text.split("\n")[:3]
    return {
        "result": "proven",
        "steps": [*["passed"] * 6, step7, "not checked" if shown and logged_by is None else "passed"],
        "origin": origin,
        "size": size,
        "root": b.unbase64(root).hex(),
        "index": str(file.index),
        "logged_by": None if logged_by is None else str(logged_by),
        "witnesses": list(witnesses),
        "key_id": b.key_id(algorithm, key).hex(),
        "epoch": str(headers[-1].epoch),
        "first": str(headers[0].seq),
        "last": str(headers[-1].seq),
        "readings": str(sum(header.count for header in headers)),
        "gaps": str(sum(header.notice is not None and header.notice.kind in (2, 3) for header in headers)),
        "disclosed": shown,
    }


def good() -> Iterator[Case]:
    """Proofs that hold."""
    past = history()
    cases: dict[str, tuple[b.Device, Sequence[int], Collection[p.Place] | None]] = {
        "a whole epoch": (DEVICE, ONLY, None),
        "a whole epoch, nothing disclosed": (DEVICE, ONLY, ()),
        "a whole epoch, one reading disclosed": (DEVICE, ONLY, ((4, 2),)),
        "a whole epoch, infos disclosed": (DEVICE, ONLY, [(number, 0) for number in ONLY]),
        "the middle of an epoch": (DEVICE, (1, 2, 3), None),
        "one batch": (DEVICE, (4,), None),
        "the first batch": (DEVICE, (0,), None),
        "a gap alone": (DEVICE, (3,), None),
        "a later epoch": (DEVICE, (6, 7), None),
        "P-256": (ELEMENT, (0, 1), None),
        "heartbeats alone": (BEATS, (0, 1), None),
    }
    for name, (device, numbers, disclosed) in cases.items():
        file = past.range(device, numbers, disclosed)
        yield name, file.encode(), QUORATE, proven(file, b.NOW + 20)
    file = past.range(DEVICE, ONLY, cosigned=())
    yield "quorum none", file.encode(), NONE, proven(file, None, ())
    for name, disclosed in {"nothing": (), "infos": [(number, 0) for number in ONLY], "one reading": ((4, 2),)}.items():
        file = past.range(DEVICE, ONLY, disclosed, cosigned=())
        yield f"quorum none, {name} disclosed", file.encode(), NONE, proven(file, None, ())
    text = file.checkpoint.text
    lines = [PQ_LOG.cosign(text, b.NOW), *(witness.cosign(text, time) for witness, time in PQ_SEEN[:2])]
    file = dataclasses.replace(past.range(ELEMENT, (0, 1)), checkpoint=Note(text, tuple(lines)))
    yield "ML-DSA", file.encode(), PQ_ONLY, proven(file, b.NOW + 25, [witness.short for witness, _ in PQ_SEEN[:2]])
    file = long_chain(40)
    yield "40 batches", file.encode(), QUORATE, proven(file, b.NOW + 20)
    big = p.Past()
    big.seal(*(b.scalar(60 + at % 90, at_ns=b.NOW_NS + at, ordinal=at) for at in range(300)), signer=DEVICE)
    file = big.range(DEVICE, (0,), ((0, 300),))
    yield "300 readings, the last disclosed", file.encode(), QUORATE, proven(file, b.NOW + 20)
    (name, file, trusting), _ = trusted()
    told = proven(file, b.NOW + 20, step7="passed") | {"strict": None}
    yield f"trust, {name}", file.encode(), QUORATE, told, beside(trusting.status(DEVICE))
    hidden = trusting.range(DEVICE, (0, 1), ())
    told = proven(hidden, b.NOW + 20, step7="passed") | {"strict": None}
    yield "trust, good, nothing disclosed", hidden.encode(), QUORATE, told, beside(trusting.status(DEVICE))
    for name, disclosed, strict in (("nothing", (), None), ("everything", None, 8)):
        unseen = trusting.range(DEVICE, (0, 1), disclosed, cosigned=())
        told = proven(unseen, None, (), step7="passed") | {"strict": strict}
        status = beside(trusting.status(DEVICE, cosigned=()))
        yield f"trust, quorum none, {name} disclosed", unseen.encode(), NONE, told, status
    told = proven(file, b.NOW + 20) | {"strict": 7}
    yield "trust, without a status", file.encode(), QUORATE, told, beside()
    late = p.Past()
    late.seal(b.scalar(at_ns=0), b.scalar(), signer=DEVICE)
    file = late.range(DEVICE, (0,), ((0, 2),))
    yield "a reading of 1970 that is not disclosed", file.encode(), QUORATE, proven(file, b.NOW + 20)
    anchors = {
        "the last anchored to its own index": (None, 3),
        "the last anchored to nothing, by another root": (None, 0),
        "the first anchored beyond its own index, to that of the last": (3, None),
        "the first anchored beyond every index, which is not looked at": (2**64 - 1, 3),
    }
    for name, sizes in anchors.items():
        file = anchored(*sizes)
        yield name, file.encode(), QUORATE, proven(file, b.NOW + 20)


def anchored(first: int | None, last: int | None) -> ProofFile:
    """A range of two batches, at index 1 and 3, with anchors of these sizes, if any."""
    past = p.Past()
    for size in (first, last):
        past.fill(1)
        past.seal(b.scalar(), signer=DEVICE, anchor=None if size is None else b.Anchor(size, ZERO))
    return past.range(DEVICE, (0, 1))


def long_chain(count: int) -> ProofFile:
    """A range of `count` heartbeats and readings, a leaf in each disclosed."""
    past = p.Past()
    for number in range(count):
        past.seal(*([b.scalar(60 + number)] if number % 2 else ()), signer=DEVICE)
    return past.range(DEVICE, range(count), [(number, 1) for number in range(count)])


def trusted() -> Iterator[tuple[str, ProofFile, p.Past]]:
    """Ranges whose last batch is good, and whose last batch is not, under the last key state."""
    past = p.Past()
    past.enrol(DEVICE)
    for number in range(3):
        past.seal(b.scalar(60 + number), signer=DEVICE)
    past.rotate(DEVICE, THIEF, (0, 2))
    past.state()
    yield "good", past.range(DEVICE, (0, 1)), past
    yield "whose last batch is at the place of the key's end", past.range(DEVICE, (0, 1, 2)), past


def bad() -> Iterator[Case]:
    """Proofs that do not hold, and files that are none."""
    for name, file, under, step in (*_notes(), *_entries(), *_chains(), *_leaves(), *_times()):
        yield f"step {step}, {name}", file.encode(), under, {"result": "unproven", "step": step}
    (_, _, _), (name, file, past) = trusted()
    expected = {"result": "unproven", "step": 7, "strict": 7}
    yield f"step 7, {name}", file.encode(), QUORATE, expected, beside(past.status(DEVICE))
    for name, file in (_misshapen() | _misshapen_inside()).items():
        yield f"malformed, {name}", file.encode(), QUORATE, {"result": "malformed"}


def remade(fields: list, past: p.Past | None = None, index: int | None = None) -> ProofFile:
    """A file with this extra, whose last batch is on the log it says."""
    past = past or history()
    if index is None:
        index = past.entries.index(pack([1, 1, *fields[3][-1][:2]]))
    return past.file(pack(fields), index)


def _notes() -> Iterator[tuple[str, ProofFile, str, int]]:
    past = history()
    file = past.range(DEVICE, ONLY)
    log, *witnesses = file.checkpoint.signatures

    def noted(*lines: Signature) -> ProofFile:
        return dataclasses.replace(file, checkpoint=Note(file.checkpoint.text, lines))

    yield "the policy names no log", file, QUORATE.partition("\n")[2], 2
    yield "the log's signature is wrong", noted(Signature(log.name, log.key_id, bytes(64)), *witnesses), QUORATE, 2
    alien = p.Past()
    batch = b.sealed([b.scalar()], origin=ELSEWHERE)
    fields = [3, 1, DEVICE.public_key, [[*p.signed_pair(batch), p.range_leaves(batch, 0, None)]]]
    alien.add(b.entry_of(batch))
    yield "sealed for another log", alien.file(pack(fields), 0), QUORATE, 2
    yield "one witness of two", past.range(DEVICE, ONLY, cosigned=SEEN[:1]), QUORATE, 3
    late = Signature(witnesses[0].name, witnesses[0].key_id, flipped(witnesses[0].signature))
    yield "a cosignature with another time", noted(log, late, *witnesses[1:]), QUORATE, 3


def _entries() -> Iterator[tuple[str, ProofFile, str, int]]:
    past = history()
    file = past.range(DEVICE, ONLY)
    fields = past.range_fields(DEVICE, ONLY)
    index = file.index
    first = past.chains[p.id_of(DEVICE)][0][0]
    yield "the index of the first batch", remade(fields, index=first), QUORATE, 4
    yield "the index of another entry", dataclasses.replace(file, index=index + 1), QUORATE, 4
    yield "an index beyond the log", dataclasses.replace(file, index=2**64 - 1), QUORATE, 4
    yield "a hash changed", dataclasses.replace(file, inclusion=(ZERO, *file.inclusion[1:])), QUORATE, 4
    yield "a hash too few", dataclasses.replace(file, inclusion=file.inclusion[:-1]), QUORATE, 4
    yield "a hash too many", dataclasses.replace(file, inclusion=(*file.inclusion, ZERO)), QUORATE, 4
    for name, numbers in {"last": ONLY[:-1], "last two": ONLY[:-2]}.items():
        less = [*fields[:3], [fields[3][number] for number in numbers]]
        yield f"the {name} left out", remade(less, index=index), QUORATE, 4
    unlogged = b.sealed([b.scalar()], seq=6, previous=header_hash(fields[3][-1][0]))
    more = [*fields[:3], [*fields[3], [*p.signed_pair(unlogged), p.range_leaves(unlogged, 0, None)]]]
    yield "a batch more, which is not on the log", remade(more, index=index), QUORATE, 4
    yield "the last anchored to its successor", anchored(None, 4), QUORATE, 4
    yield "the last anchored to the greatest size", anchored(None, 2**64 - 1), QUORATE, 4
    signature = [*fields[3][:-1], [fields[3][-1][0], flipped(fields[3][-1][1]), fields[3][-1][2]]]
    yield "the last signature changed", remade([*fields[:3], signature], index=index), QUORATE, 4


def _chains() -> Iterator[tuple[str, ProofFile, str, int]]:
    past = history()
    fields = past.range_fields(DEVICE, ONLY)
    batches = fields[3]

    def with_batches(*chosen: list) -> ProofFile:
        return remade([*fields[:3], list(chosen)])

    for at in range(1, 5):
        yield f"batch {at} left out", with_batches(*batches[:at], *batches[at + 1 :]), QUORATE, 5
    yield "all but the first and the last left out", with_batches(batches[0], batches[-1]), QUORATE, 5
    yield "two batches exchanged", with_batches(*batches[:2], batches[3], batches[2], *batches[4:]), QUORATE, 5
    yield "a batch twice", with_batches(*batches[:3], *batches[2:]), QUORATE, 5
    yield "the last batch twice", with_batches(*batches, batches[-1]), QUORATE, 5
    yield (
        "a batch signed by nobody",
        with_batches(*batches[:2], [batches[2][0], bytes(64), batches[2][2]], *batches[3:]),
        QUORATE,
        5,
    )
    swapped = [batches[1][0], batches[2][1], batches[1][2]]
    yield "a batch with its neighbour's signature", with_batches(batches[0], swapped, *batches[2:]), QUORATE, 5
    foreign = past.range_fields(ELEMENT, (0,))[3][0]
    yield "a batch of another device", with_batches(foreign, *batches[1:]), QUORATE, 5
    yield "another public key", remade([3, 1, THIEF.public_key, batches]), QUORATE, 5
    yield "the public key of another algorithm", remade([3, 2, ELEMENT.public_key, batches]), QUORATE, 5
    replaced = b.sealed([b.scalar(99)], seq=1, previous=header_hash(batches[0][0]))
    other = [*p.signed_pair(replaced), p.range_leaves(replaced, 0, None)]
    yield "another batch signed for the same place", with_batches(batches[0], other, *batches[2:]), QUORATE, 5
    forked = b.sealed([b.scalar(99)])
    other = [*p.signed_pair(forked), p.range_leaves(forked, 0, None)]
    yield "another first batch, which the second does not continue", with_batches(other, *batches[1:]), QUORATE, 5
    both = past.range_fields(DEVICE, range(8))
    yield "two epochs", remade(both), QUORATE, 5
    yield "the last of an epoch and the first of the next", remade([*both[:3], both[3][5:7]]), QUORATE, 5
    moved = p.Past()
    origins = (ELSEWHERE, b.ORIGIN)
    before, made = None, []
    for seq, origin in enumerate(origins):
        batch = b.sealed([b.scalar()], seq=seq, previous=before, origin=origin)
        before = header_hash(batch.header)
        moved.add(b.entry_of(batch))
        made.append([*p.signed_pair(batch), p.range_leaves(batch, seq, None)])
    yield "an earlier batch sealed for another log", remade([3, 1, DEVICE.public_key, made], moved), QUORATE, 5
    header = b.unpack(batches[0][0])
    leaves = [b.hash_entry(bytes(at)) for at in range(4)]
    renamed = pack(changed(changed(header, 2, p.id_of(ELEMENT)), 7, b.naive_root(leaves)))
    signature = DEVICE.sign(b"vitalseal/v1/header\n" + renamed)
    misnamed = p.Past()
    misnamed.add(pack([1, 1, renamed, signature]))
    batch = [renamed, signature, leaves]
    yield (
        "a header that names another key than signed it",
        remade([3, 1, DEVICE.public_key, [batch]], misnamed),
        QUORATE,
        5,
    )
    for name, at in (("last", 2), ("middle", 1)):
        yield f"the {name} header of three names another key than signed it", _misnamed(at), QUORATE, 5
    first = b.sealed([b.scalar()])
    second = b.sealed([b.scalar()], epoch=1, seq=1, previous=header_hash(first.header))
    risen = p.Past()
    risen.add(b.entry_of(second))
    made = [[*p.signed_pair(batch), b.leaves_of(batch)] for batch in (first, second)]
    yield "an epoch that rises while the sequence goes on", remade([3, 1, DEVICE.public_key, made], risen), QUORATE, 5
    element = past.range_fields(ELEMENT, (0, 1))
    s = p256.ORDER - int.from_bytes(element[3][0][1][32:], "big")
    high = element[3][0][1][:32] + s.to_bytes(32, "big")
    first = [element[3][0][0], high, element[3][0][2]]
    yield "P-256, the first signature with the higher s", remade([*element[:3], [first, element[3][1]]]), QUORATE, 5
    again = b.sealed(signer=BEATS, seq=0, epoch=0)
    beats = past.range_fields(BEATS, (0, 1))
    assert again.header == beats[3][0][0]
    stranger = b.sealed(signer=BEATS, seq=2, previous=header_hash(beats[3][0][0]))
    late = p.Past()
    late.add(b.entry_of(stranger))
    skipping = [*beats[:3], [beats[3][0], [*p.signed_pair(stranger), p.range_leaves(stranger, 0, None)]]]
    yield "a sequence number skipped by the device itself", remade(skipping, late), QUORATE, 5


def _misnamed(at: int) -> ProofFile:
    """A range of three batches, chained and signed by one key, in which header `at` names another."""
    past, batches, previous = p.Past(), [], None
    for seq in range(3):
        batch = b.sealed([b.scalar(60 + seq)], seq=seq, previous=previous)
        header = batch.header
        if seq == at:
            header = pack(changed(b.unpack(header), 2, p.id_of(ELEMENT)))
        signature = DEVICE.sign(b"vitalseal/v1/header\n" + header)
        past.add(pack([1, 1, header, signature]))
        batches.append([header, signature, b.leaves_of(batch)])
        previous = header_hash(header)
    return remade([3, 1, DEVICE.public_key, batches], past)


def _leaves() -> Iterator[tuple[str, ProofFile, str, int]]:
    past = history()
    numbers = (0, 1, 2)

    def with_leaves(change: list, at: int = 0) -> ProofFile:
        fields = past.range_fields(DEVICE, numbers)
        fields[3][at][2] = change
        return remade(fields)

    fields = past.range_fields(DEVICE, numbers)
    first = fields[3][0][2]
    hashes = b.leaves_of(past.chains[p.id_of(DEVICE)][0][1])
    yield "the last leaf left out", with_leaves(first[:-1]), QUORATE, 6
    yield "the first leaf left out", with_leaves(hashes[1:]), QUORATE, 6
    yield "a leaf in the middle left out", with_leaves([first[0], *first[2:]]), QUORATE, 6
    yield "no leaf", with_leaves([]), QUORATE, 6
    yield "a leaf more", with_leaves([*first, hashes[-1]]), QUORATE, 6
    yield "a leaf twice", with_leaves([*first[:2], *first[1:]]), QUORATE, 6
    yield "two leaves exchanged", with_leaves([first[0], first[2], first[1], first[3]]), QUORATE, 6
    yield "two leaf hashes exchanged", with_leaves([hashes[0], hashes[2], hashes[1], hashes[3]]), QUORATE, 6
    yield "a leaf hash changed", with_leaves([flipped(hashes[0]), *hashes[1:]]), QUORATE, 6
    yield "two leaf hashes put together", with_leaves([b.naive_root(hashes[:2]), b.naive_root(hashes[2:])]), QUORATE, 6
    yield "the root for all leaves", with_leaves([b.naive_root(hashes)]), QUORATE, 6
    other = [first[1][0], b.scalar(99).encode()]
    yield "another reading", with_leaves([first[0], other, *first[2:]]), QUORATE, 6
    salted = [first[2][0], first[1][1]]
    yield "the neighbour's salt", with_leaves([first[0], salted, *first[2:]]), QUORATE, 6
    info = [first[0][0], pack(changed(b.unpack(first[0][1]), 3, 2))]
    yield "another batch info", with_leaves([info, *first[1:]]), QUORATE, 6
    yield "a batch's leaves under another header", with_leaves(fields[3][1][2]), QUORATE, 6
    yield "a leaf of the last batch left out", with_leaves([], 2), QUORATE, 6
    yield "a reading in a heartbeat", with_leaves([*fields[3][2][2], hashes[1]], 2), QUORATE, 6


def _times() -> Iterator[tuple[str, ProofFile, str, int]]:
    limit = (b.NOW + 320) * 10**9
    for name, readings in {
        "a reading 1 ns too late": [b.scalar(), b.scalar(at_ns=limit + 1)],
        "a reading before the year 2000": [b.scalar(at_ns=946_684_800 * 10**9 - 1), b.scalar()],
    }.items():
        past = p.Past()
        past.seal(*readings, signer=DEVICE)
        past.seal(signer=DEVICE)
        yield name, past.range(DEVICE, (0, 1)), QUORATE, 8


def _misshapen() -> dict[str, ProofFile]:
    past = history()
    fields = past.range_fields(ELEMENT, (0, 1))
    index = past.range(ELEMENT, (0, 1)).index
    header, signature, leaves = fields[3][0]
    decoded = b.unpack(header)
    wrong: dict[int, list] = {
        0: [0, 1, 2, 4, None, "3"],
        1: [0, 1, 3, 256, -1, None],
        2: [b"", bytes(129), None, ELEMENT.public_key[:-1], p256.encoded(p256.BASE, 4), DEVICE.public_key],
        3: [None, [], b"", 1],
    }
    found = {name: pack(item) for name, item in replacements(fields, wrong)}
    pair = {
        0: [
            b"",
            bytes(897),
            None,
            decoded,
            header + b"\xc0",
            b"\xc0",
            pack(changed(decoded, 0, 2)),
            pack([*decoded, None]),
        ],
        1: [bytes(63), bytes(65), None],
        2: [None, b"", 1, {}],
    }
    batches = {f"first batch, {name}": item for name, item in replacements([header, signature, leaves], pair)}
    salt, body = leaves[1]
    reading = b.unpack(body)
    leaf = {
        "a salt of 15 bytes": [salt[:-1], body],
        "a salt of 17 bytes": [salt + b"\0", body],
        "a hash of 31 bytes": bytes(31),
        "a hash of 33 bytes": bytes(33),
        "nil": None,
        "empty": [],
        "a salt alone": [salt],
        "an item more": [salt, body, None],
        "an empty body": [salt, b""],
        "a body of 16,641 bytes": [salt, bytes(16_641)],
        "a body in no bytes": [salt, reading],
        "a body with something after it": [salt, body + b"\xc0"],
        "an info for a reading": leaves[0],
        "a reading of kind 0": [salt, pack(changed(reading, 1, 0))],
        "a reading with a float": [salt, pack(changed(reading, 6, [0, 1.0, 0]))],
    }
    batches |= {f"a leaf that is {name}": [header, signature, [leaves[0], item]] for name, item in leaf.items()}
    infos = {"a reading for the info": leaves[1], "an info of 8 items": [leaves[0][0], pack(INFO[:-1])]}
    batches |= {f"leaf 0 that is {name}": [header, signature, [item, leaves[1]]] for name, item in infos.items()}
    found |= {name: pack([*fields[:3], [batch, fields[3][1]]]) for name, batch in batches.items()}
    found |= {
        "an extra that is a map": pack(dict(enumerate(fields))),
        "an extra with something after it": pack(fields) + b"\xc0",
        "an extra in array16": b"\xdc\x00\x04" + pack(fields)[1:],
        "an extra cut short": pack(fields)[:-1],
        "a batch that is nil": pack([*fields[:3], [None, fields[3][1]]]),
        "leaves in array32": pack(fields).replace(pack(leaves), b"\xdd\x00\x00\x00\x02" + pack(leaves)[1:], 1),
    }
    return {name: past.file(extra, index) for name, extra in found.items()}


def _misshapen_inside() -> dict[str, ProofFile]:
    """Ranges that would hold if the one malformed body that is disclosed were allowed."""
    bodies = {
        "a reading with an ordinal of 65536": changed(READING, 3, 65536),
        "a reading with an item more": [*READING, None],
        "a waveform without samples": changed(READING, 6, [1, 1, 1, 1, 0, 0, 0, 1, 2, b""]),
    }
    found = {}
    for name, body in bodies.items():
        past = p.Past()
        batch = _rough(pack(INFO), pack(body))
        past.add(pack([1, 1, *batch[:2]]))
        found[f"{name} inside"] = past.file(pack([3, 1, DEVICE.public_key, [batch]]), 0)
    return found


def _rough(*bodies: bytes) -> list:
    """A batch of whatever bodies."""
    salts = [bytes([at]) * 16 for at in range(len(bodies))]
    place = p.id_of(DEVICE) + bytes(12)
    leaves = [
        b.hash_entry(b"vitalseal/v1/leaf\n" + place + at.to_bytes(4, "big") + salt + body)
        for at, (salt, body) in enumerate(zip(salts, bodies, strict=True))
    ]
    fields = [1, b.ORIGIN, p.id_of(DEVICE), 0, 0, None, len(bodies) - 1, b.naive_root(leaves), None, None]
    header = pack(fields)
    signature = DEVICE.sign(b"vitalseal/v1/header\n" + header)
    return [header, signature, [list(pair) for pair in zip(salts, bodies, strict=True)]]
