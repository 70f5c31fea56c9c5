"""Completeness proofs: all batches of one device over a range of sequence numbers (FORMAT.md section 8.7).

    extra = [3, algorithm, public_key, [[header, signature, leaves], ...]]

The headers form an unbroken chain, each signed by the device, so none of them can be left out; all leaf hashes of each
batch lead to its root, so no leaf can. The file proves the last header to be on the log; those before it are committed
to through the chain. A leaf is shown whole, with salt and bytes, or as its hash: what is disclosed is a choice, how
many there are is not.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ledger import canonical, merkle
from ledger.batch import Header, NoticeKind, check_header_signature, check_succession, header_hash
from ledger.canonical import Value
from ledger.checkpoint import Checkpoint
from ledger.entry import MAX_HEADER, BatchEntry
from ledger.errors import MalformedError, VerificationError
from ledger.info import BatchInfo
from ledger.keys import ALGORITHM_NAMES, SIGNATURE_SIZE, check_public_key, key_id
from ledger.leaves import Leaf, check_leaves, leaves_value, parse_leaves
from ledger.note import VerifierKey
from ledger.policy import Policy, verify_log_signature, verify_quorum
from ledger.proof import ProofFile
from ledger.reading import Reading, check_plausible, format_time
from ledger.report import Report, Result, Step, describe_quorum
from ledger.status import KeyStatus, check_key

RANGE_FORM = 3
MAX_BATCHES = 4096  # an array of ours holds no more; a longer range is given in several files
MAX_RANGE_FILE = 64 * 1024 * 1024  # 32 bytes a leaf for a million readings in 4096 batches, in base64, and room

STEPS = (
    "checkpoint form",
    "log signature",
    "witness quorum and logged-by time",
    "last entry's inclusion in the log",
    "unbroken chain of headers, each signed by the device",
    "all leaves of every batch",
    "device key enrolled and good",
    "disclosed readings' times plausible",
)


@dataclass(frozen=True, slots=True)
class RangeBatch:
    """One batch of a range: what was logged, and every leaf."""

    header: bytes
    signature: bytes
    leaves: tuple[Leaf | bytes, ...]


@dataclass(frozen=True, slots=True)
class RangeProof:
    """A parsed completeness proof: nothing in it is proven yet."""

    algorithm: int
    public_key: bytes
    batches: tuple[RangeBatch, ...]

    def encode(self) -> bytes:
        """The canonical bytes of the `extra`."""
        batches = tuple((batch.header, batch.signature, leaves_value(batch.leaves)) for batch in self.batches)
        return canonical.encode((RANGE_FORM, self.algorithm, self.public_key, batches))


@dataclass(frozen=True, slots=True)
class Disclosed:
    """A reading that a range shows, and where it stands: its batch, and its leaf there."""

    seq: int
    leaf_index: int
    reading: Reading


@dataclass(frozen=True, slots=True)
class VerifiedRange:
    """What was proven: these are all batches of the key from `first` to `last`, and all of their leaves.

    `readings` counts the leaves that are readings; `disclosed` are those that the file shows. `gaps` counts the
    headers in which the device itself declares that readings were lost, the loss of its whole outbox included.
    """

    key_id: bytes
    algorithm: int
    epoch: int
    first: int
    last: int
    readings: int
    disclosed: tuple[Disclosed, ...]
    gaps: int
    index: int
    checkpoint: Checkpoint
    logged_by: int | None
    witnesses: tuple[str, ...]
    steps: tuple[Step, ...]

    def claim(self) -> str:
        """What this proof shows, in words."""
        key = f"{self.key_id.hex()[:16]} ({ALGORITHM_NAMES[self.algorithm]})"
        when = "" if self.logged_by is None else f" before {format_time(self.logged_by * 10**9)} (witnesses' time)"
        gaps = "declares no gap" if not self.gaps else f"declares {self.gaps} gaps"
        return (
            f"The holder of key {key} committed{when} to exactly {self.readings} readings in epoch {self.epoch}, "
            f"sequence numbers {self.first} to {self.last}, of which {len(self.disclosed)} are shown here, "
            f"and in between it {gaps}. What the sensor measured besides, no proof can tell."
        )


def parse_range_proof(extra: bytes) -> RangeProof:
    """The range in `extra`; raises MalformedError."""
    form, algorithm, public_key, batches = canonical.fields(canonical.decode(extra, "extra"), 4, "extra")
    if form != RANGE_FORM or type(form) is not int:
        raise MalformedError("extra: not of form 3, all batches of a range")
    if type(batches) is not tuple or not batches:
        raise MalformedError("extra: not an array of batches")
    return RangeProof(
        canonical.uint(algorithm, "extra: algorithm", 255),
        canonical.binary(public_key, "extra: public key", 1, 128),
        tuple(_batch(item) for item in batches),
    )


def verify_range(
    file: ProofFile,
    policy: Policy,
    *,
    trust: Iterable[VerifierKey] | None = None,
    statuses: Sequence[KeyStatus] = (),
    strict: bool = False,
) -> VerifiedRange:
    """The range that `file` proves under `policy`; `trust` and `statuses` are for step 7.

    Raises:
        MalformedError: the file is not a well-formed completeness proof.
        UnprovenError: a step failed, or, under `strict`, was not checked; it carries the report.
    """
    proof = parse_range_proof(file.extra)
    check_public_key(proof.algorithm, proof.public_key)
    headers = [Header.decode(batch.header) for batch in proof.batches]
    disclosed = _disclosed(proof, headers)
    first, last = headers[0], headers[-1]
    report = Report(STEPS)
    report.add(Result.PASSED, f"{len(file.checkpoint.signatures)} signature lines")
    with report.step() as say:
        checkpoint, keys = verify_log_signature(file.checkpoint, policy)
        if last.origin != checkpoint.origin:
            raise VerificationError(f"the batches were sealed for {last.origin}, the log is {checkpoint.origin!a}")
        say(f"{checkpoint.origin}, size {checkpoint.size}, by " + ", ".join(key.id.hex() for key in keys))
    with report.step() as say:
        logged_by, witnesses = verify_quorum(file.checkpoint, policy)
        say(describe_quorum(logged_by, witnesses))
    with report.step() as say:
        if last.anchor is not None and last.anchor.size > file.index:
            raise VerificationError(f"anchored to size {last.anchor.size}, which came after index {file.index}")
        entry = BatchEntry(proof.batches[-1].header, proof.batches[-1].signature).encode()
        merkle.check_inclusion(file.index, checkpoint.size, merkle.hash_leaf(entry), file.inclusion, checkpoint.root)
        say(f"index {file.index} of {checkpoint.size}")
    with report.step() as say:
        _check_chain(proof, headers, checkpoint.origin)
        say(f"key {last.key_id.hex()}, epoch {last.epoch}, seq {first.seq} to {last.seq}")
    with report.step() as say:
        for batch, header in zip(proof.batches, headers, strict=True):
            try:
                check_leaves(header, batch.leaves)
            except VerificationError as error:
                raise VerificationError(f"seq {header.seq}: {error}") from None
        say(f"{sum(header.count for header in headers)} readings in {len(headers)} batches")
    place = (last.epoch, last.seq)
    check_key(
        report,
        origin=last.origin,
        key_id=last.key_id,
        place=place,
        index=file.index,
        trust=trust,
        statuses=statuses,
    )
    if disclosed and logged_by is None:
        report.add(Result.NOT_CHECKED, "no logged-by time to compare with")
    else:
        with report.step() as say:
            for shown in disclosed:
                check_plausible(shown.reading, logged_by or 0)
            say(f"{len(disclosed)} readings are disclosed, none after the logged-by time")
    return VerifiedRange(
        key_id=last.key_id,
        algorithm=proof.algorithm,
        epoch=last.epoch,
        first=first.seq,
        last=last.seq,
        readings=sum(header.count for header in headers),
        disclosed=tuple(disclosed),
        gaps=sum(header.notice is not None and header.notice.kind != NoticeKind.HEARTBEAT for header in headers),
        index=file.index,
        checkpoint=checkpoint,
        logged_by=logged_by,
        witnesses=witnesses,
        steps=report.finish(strict=strict),
    )


def _check_chain(proof: RangeProof, headers: Sequence[Header], origin: str) -> None:
    key = key_id(proof.algorithm, proof.public_key)
    before: tuple[int, int, bytes] | None = None
    for batch, header in zip(proof.batches, headers, strict=True):
        if header.key_id != key:
            raise VerificationError("the public key is not the one that every header names")
        if header.origin != origin:
            raise VerificationError(f"seq {header.seq} was sealed for {header.origin}")
        if before is not None:
            if header.epoch != before[0]:
                raise VerificationError(f"epoch {header.epoch} follows epoch {before[0]}: a range lies in one epoch")
            check_succession(header, before)
        check_header_signature(batch.header, batch.signature, proof.algorithm, proof.public_key)
        before = (header.epoch, header.seq, header_hash(batch.header))


def _disclosed(proof: RangeProof, headers: Sequence[Header]) -> list[Disclosed]:
    """Every leaf that is shown has its form; the readings among them."""
    readings = []
    for batch, header in zip(proof.batches, headers, strict=True):
        for number, leaf in enumerate(batch.leaves):
            if isinstance(leaf, Leaf):
                if number:
                    readings.append(Disclosed(header.seq, number, Reading.decode(leaf.body)))
                else:
                    BatchInfo.decode(leaf.body)
    return readings


def _batch(item: Value) -> RangeBatch:
    header, signature, leaves = canonical.fields(item, 3, "extra: batch")
    return RangeBatch(
        canonical.binary(header, "extra: header", 1, MAX_HEADER),
        canonical.binary(signature, "extra: signature", SIGNATURE_SIZE),
        parse_leaves(leaves, "extra: leaves"),
    )
