"""What the benchmarks measure on: sealed batches of 64 heart-rate readings, and a log that they fill."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from aggregator.admission import Admission, Key
from aggregator.decisions import Admitted
from ledger import merkle
from ledger.batch import Anchor, SealedBatch, header_hash, seal
from ledger.checkpoint import Checkpoint
from ledger.entry import BatchEntry
from ledger.envelope import format_envelope, parse_envelope
from ledger.events import enrol
from ledger.info import BatchInfo, Clock, Source
from ledger.keys import Ed25519Signer, Signer, key_id
from ledger.leaves import Leaf
from ledger.note import ED25519_COSIGNATURE, Note, NoteSigner, Signature, VerifierKey
from ledger.proof import LeafProof, ReadingProof
from ledger.reading import Reading, Scalar
from ledger.writer.keybook import KeyBook
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter
from ledger.writer.payload import prove_leaf

ORIGIN = "bench.example/vitalseal"
DEVICE = "bench"
READINGS = 64
START_NS = 1_764_000_000 * 10**9
FIRST_ANCHOR = Anchor(0, merkle.EMPTY_ROOT)


class Sealer:
    """One device that seals batch after batch of its chain."""

    def __init__(self, anchor: Anchor = FIRST_ANCHOR) -> None:
        self._anchor = anchor
        self.signer = Ed25519Signer(os.urandom(32))
        self.key = Key(DEVICE, self.signer.algorithm, self.signer.public_key)
        self.key_id = key_id(self.signer.algorithm, self.signer.public_key)
        self._source = os.urandom(8)
        self._count = READINGS
        self._seq = 0
        self._previous: bytes | None = None

    def encoded(self) -> tuple[bytes, ...]:
        """The canonical bytes of one batch's readings, a second apart."""
        start = START_NS + self._seq * self._count * 10**9
        return tuple(
            Reading(self._source, 1, start + at * 10**9, 0, 60, 12_345_678, Scalar(60 + at % 40, 0)).encode()
            for at in range(self._count)
        )

    def seal(self, readings: tuple[bytes, ...]) -> SealedBatch:
        """The next batch of the chain: what an edge agent does between its outbox and the broker."""
        first = START_NS + self._seq * self._count * 10**9
        last = first + (self._count - 1) * 10**9
        source = Source(self._source, "chest strap")
        info = BatchInfo(bytes(16), last, 10**12, Clock.SYNCHRONISED, 10**6, first, last, (source,))
        batch = seal(
            self.signer,
            origin=ORIGIN,
            epoch=0,
            seq=self._seq,
            previous=self._previous,
            anchor=self._anchor,
            info=info,
            readings=readings,
            secret=os.urandom(32),
        )
        self._previous = header_hash(batch.header)
        self._seq += 1
        return batch

    def envelopes(self, count: int) -> Iterator[bytes]:
        """`count` envelopes of the chain."""
        for _ in range(count):
            yield format_envelope(self.seal(self.encoded()))


def ingest(
    storage: LocalStorage,
    writer: LogWriter,
    sealer: Sealer,
    envelopes: list[bytes],
    group: int,
    registrar: Signer | None = None,
) -> None:
    """Admission and group commits of `group` batches, publishing nothing; raises if one is not admitted.

    The key is enrolled by `registrar`, or else by one whom nobody trusts.
    """
    book = KeyBook(writer, storage, time.monotonic)
    book.append([enrol(sealer.signer, registrar or Ed25519Signer(os.urandom(32)), ORIGIN)])
    admission = Admission(ORIGIN, storage, {sealer.key_id: sealer.key}.get, book.states.__getitem__)
    for start in range(0, len(envelopes), group):
        decisions = [admission.admit(DEVICE, data) for data in envelopes[start : start + group]]
        writer.append([decision.submission for decision in decisions if isinstance(decision, Admitted)])
        admission.committed()
    if admission.counts != {"admitted": len(envelopes)}:
        raise RuntimeError(f"not all admitted: {admission.counts}")


def prove_one() -> LeafProof:
    """The proof of one reading, up to its entry, in a batch that is well into its chain and its log."""
    sealer = Sealer(Anchor(777_000, os.urandom(32)))
    sealer.seal(sealer.encoded())
    batch = sealer.seal(sealer.encoded())
    envelope = parse_envelope(format_envelope(batch))
    leaves = [Leaf(salt, body) for salt, body in zip(envelope.salts, envelope.bodies, strict=True)]
    entry = BatchEntry(batch.header, batch.signature)
    return prove_leaf(entry, leaves, 17, algorithm=sealer.key.algorithm, public_key=sealer.key.public_key)


def witnessed_million() -> tuple[bytes, bytes]:
    """A reading's proof file in a log of a million entries, cosigned by three witnesses, and a 2-of-3 policy for it.

    The other entries are stand-ins: a subtree of them has any hash, so the path is random and the root follows.
    """
    leaf = prove_one()
    size, index = 1_000_000, 777_777
    entry = BatchEntry(leaf.header, leaf.signature).encode()
    inner = (index ^ (size - 1)).bit_length()
    path = [os.urandom(32) for _ in range(inner + (index >> inner).bit_count())]
    root = merkle.hash_leaf(entry)
    for level, sibling in enumerate(path):
        left = level >= inner or index >> level & 1
        root = merkle.hash_node(sibling, root) if left else merkle.hash_node(root, sibling)
    log = NoteSigner(ORIGIN, os.urandom(32))
    note = Checkpoint(ORIGIN, size, root).sign(log)
    lines, policy = list(note.signatures), [f"log {log.verifier}"]
    for number in range(3):
        signer = Ed25519Signer(os.urandom(32))
        key = VerifierKey(f"witness-{number}.example", ED25519_COSIGNATURE, signer.public_key)
        time = 1_764_100_000 + number
        signature = signer.sign(f"cosignature/v1\ntime {time}\n{note.text}".encode())
        lines.append(Signature(key.name, key.id, time.to_bytes(8, "big") + signature))
        policy.append(f"witness w{number} {key}")
    policy += ["group most 2 w0 w1 w2", "quorum most", ""]
    proof = ReadingProof(leaf, index, tuple(path), Note(note.text, tuple(lines)))
    return proof.encode(), "\n".join(policy).encode()


def directory_size(path: Path) -> int:
    """Bytes of every file below `path`."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
