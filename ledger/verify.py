"""The numbered verifier of reading proofs: what an auditor relies on (FORMAT.md section 10).

    1 checkpoint form                     5 device signature over the header
    2 log signature, origin               6 reading inclusion in the batch root
    3 witness quorum, logged-by time      7 device key enrolled and good
    4 entry inclusion in the log          8 reading's time plausible

Each step passes, fails or is not checked, and says so; "not checked" can not pass for "passed". A proof holds
when no step fails and steps 1 to 6 passed; `strict` demands all eight.

What a proof that holds claims, and no more: the holder of key K committed to this value before time T, and it
has not changed since. That the sensor measured it, and when, is K's statement. T is the witnesses' time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from ledger import merkle
from ledger.batch import Header, check_header_signature, leaf_hash
from ledger.checkpoint import Checkpoint
from ledger.entry import BatchEntry
from ledger.errors import MalformedError, VerificationError
from ledger.info import BatchInfo
from ledger.keys import ALGORITHM_NAMES, check_public_key, key_id
from ledger.note import VerifierKey
from ledger.policy import Policy, verify_log_signature, verify_quorum
from ledger.proof import ReadingProof, parse_proof
from ledger.reading import Reading, check_plausible, format_time
from ledger.report import Report, Result, Step, describe_quorum
from ledger.status import KeyStatus, check_key

STEPS = (
    "checkpoint form",
    "log signature",
    "witness quorum and logged-by time",
    "entry inclusion in the log",
    "device signature over the header",
    "reading inclusion in the batch",
    "device key enrolled and good",
    "reading's time plausible",
)
# Checkpoints and headers whose signatures are remembered. A checkpoint with post-quantum lines has some 10 KB.
SHARED_KEPT = 64


@dataclass(frozen=True, slots=True)
class VerifiedReading:
    """What was proven: the statement, its place, and the time by which it was there.

    `reading` is None where the proof is of a batch-info leaf, which `info` then holds.
    """

    reading: Reading | None
    info: BatchInfo | None
    header: Header
    algorithm: int
    public_key: bytes
    index: int
    leaf_index: int
    checkpoint: Checkpoint
    logged_by: int | None
    witnesses: tuple[str, ...]
    steps: tuple[Step, ...]

    def claim(self) -> str:
        """What this proof shows, in the words that every tool of ours uses."""
        key = f"{self.header.key_id.hex()[:16]} ({ALGORITHM_NAMES[self.algorithm]})"
        if self.logged_by is None:
            before = "before this checkpoint was signed (no witness time: the policy asks for no witness)"
        else:
            before = f"before {format_time(self.logged_by * 10**9)} (witnesses' time)"
        return (
            f"The holder of key {key} committed to this value {before}, and it has not changed since. "
            "That the sensor measured it, and when, is the key holder's statement."
        )


def verify_proof(
    data: bytes,
    policy: Policy,
    *,
    trust: Iterable[VerifierKey] | None = None,
    statuses: Sequence[KeyStatus] = (),
    strict: bool = False,
) -> VerifiedReading:
    """The reading that the proof file `data` proves under `policy`; raises as `verify_leaf`."""
    return verify_leaf(parse_proof(data), policy, trust=trust, statuses=statuses, strict=strict)


def verify_leaf(
    proof: ReadingProof,
    policy: Policy,
    *,
    trust: Iterable[VerifierKey] | None = None,
    statuses: Sequence[KeyStatus] = (),
    strict: bool = False,
) -> VerifiedReading:
    """The reading that `proof` proves under `policy`; `trust` is for step 7. Raises as `Verifier.verify`."""
    return Verifier(policy, trust=trust).verify(proof, statuses=statuses, strict=strict)


class Verifier:
    """Verifies proofs of leaves under one policy: each as if alone, but a signature that many share is checked once.

    Kept is only what passed, by all the bytes that it depends on. `trust`, for step 7, are registrars that count.
    """

    def __init__(self, policy: Policy, *, trust: Iterable[VerifierKey] | None = None) -> None:
        self._trust = None if trust is None else tuple(trust)
        remembering = lru_cache(SHARED_KEPT)
        self._header = remembering(Header.decode)
        self._signed_by_log = remembering(partial(verify_log_signature, policy=policy))
        self._quorum = remembering(partial(verify_quorum, policy=policy))
        self._signed_by_device = remembering(check_header_signature)

    def verify(
        self, proof: ReadingProof, *, statuses: Sequence[KeyStatus] = (), strict: bool = False
    ) -> VerifiedReading:
        """The reading that `proof` proves; `statuses`, verified already, are for step 7.

        Raises:
            MalformedError: it is not a well-formed proof.
            UnprovenError: a step failed, or, under `strict`, was not checked; it carries the report.
        """
        leaf = proof.leaf
        header = self._header(leaf.header)
        reading = Reading.decode(leaf.body) if leaf.leaf_index else None
        info = None if leaf.leaf_index else BatchInfo.decode(leaf.body)
        if leaf.leaf_index > header.count:
            raise MalformedError(f"extra: leaf index {leaf.leaf_index} in a batch of {header.count} readings")
        check_public_key(leaf.algorithm, leaf.public_key)
        report = Report(STEPS)
        # Step 1 is the parse itself: what is not a checkpoint is malformed, not unproven.
        checkpoint_lines = proof.checkpoint.text.count("\n")
        report.add(Result.PASSED, f"{checkpoint_lines} lines, {len(proof.checkpoint.signatures)} signature lines")
        with report.step() as say:
            checkpoint, keys = self._signed_by_log(proof.checkpoint)
            if header.origin != checkpoint.origin:
                raise VerificationError(f"the batch was sealed for {header.origin}, the log is {checkpoint.origin!a}")
            say(f"{checkpoint.origin}, size {checkpoint.size}, by " + ", ".join(key.id.hex() for key in keys))
        with report.step() as say:
            logged_by, witnesses = self._quorum(proof.checkpoint)
            say(describe_quorum(logged_by, witnesses))
        with report.step() as say:
            entry = BatchEntry(leaf.header, leaf.signature).encode()
            if header.anchor is not None and header.anchor.size > proof.index:
                raise VerificationError(f"anchored to size {header.anchor.size}, which came after index {proof.index}")
            merkle.check_inclusion(
                proof.index, checkpoint.size, merkle.hash_leaf(entry), proof.inclusion, checkpoint.root
            )
            say(f"index {proof.index} of {checkpoint.size}")
        with report.step() as say:
            if key_id(leaf.algorithm, leaf.public_key) != header.key_id:
                raise VerificationError("the public key is not the one that the header names")
            self._signed_by_device(leaf.header, leaf.signature, leaf.algorithm, leaf.public_key)
            say(f"key {header.key_id.hex()}, epoch {header.epoch}, seq {header.seq}")
        with report.step() as say:
            hashed = leaf_hash(header.key_id, header.epoch, header.seq, leaf.leaf_index, leaf.salt, leaf.body)
            merkle.check_inclusion(leaf.leaf_index, header.count + 1, hashed, leaf.path, header.root)
            say(f"leaf {leaf.leaf_index} of {header.count + 1}")
        check_key(
            report,
            origin=header.origin,
            key_id=header.key_id,
            place=(header.epoch, header.seq),
            index=proof.index,
            trust=self._trust,
            statuses=statuses,
        )
        _check_time(report, reading, logged_by)
        steps = report.finish(strict=strict)
        return VerifiedReading(
            reading=reading,
            info=info,
            header=header,
            algorithm=leaf.algorithm,
            public_key=leaf.public_key,
            index=proof.index,
            leaf_index=leaf.leaf_index,
            checkpoint=checkpoint,
            logged_by=logged_by,
            witnesses=witnesses,
            steps=steps,
        )


def _check_time(report: Report, reading: Reading | None, logged_by: int | None) -> None:
    if reading is None:
        report.add(Result.NOT_CHECKED, "the leaf is a batch info, not a reading")
    elif logged_by is None:
        report.add(Result.NOT_CHECKED, "no logged-by time to compare with")
    else:
        with report.step() as say:
            check_plausible(reading, logged_by)
            say(f"sensor time {format_time(reading.sensor_time_ns)} is not after the logged-by time")
