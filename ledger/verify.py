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

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from ledger import merkle
from ledger.batch import Header, check_header_signature, leaf_hash
from ledger.checkpoint import Checkpoint
from ledger.entry import BatchEntry
from ledger.errors import MalformedError, VerificationError
from ledger.info import BatchInfo
from ledger.keys import ALGORITHM_NAMES, check_public_key, key_id
from ledger.policy import Policy, verify_log_signature, verify_quorum
from ledger.proof import parse_proof
from ledger.reading import Reading, format_time

# A wearable's clock may run ahead of the witnesses' by this much before its reading counts as from the future.
CLOCK_TOLERANCE_NS = 300 * 10**9
# Nothing of ours was measured before this; a clock that says so was never set (1970 after a boot without RTC).
EARLIEST_TIME_NS = 946_684_800 * 10**9  # 2000-01-01T00:00:00Z

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


class Result(StrEnum):
    """What became of a step."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Step:
    """One numbered step of a report."""

    number: int
    title: str
    result: Result
    detail: str


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


class UnprovenError(VerificationError):
    """A step failed: the message names it, `steps` is the whole report, the steps after it not checked."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        unpassed = [step for step in steps if step.result is not Result.PASSED]
        failed = next((step for step in unpassed if step.result is Result.FAILED), unpassed[0])
        super().__init__(f"step {failed.number} ({failed.title}) {failed.result}: {failed.detail}")
        self.steps = steps


@dataclass(slots=True)
class _Report:
    """The steps so far, in order."""

    steps: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self) -> Iterator[Callable[[str], None]]:
        """Runs one step: passed with the detail that it is given, failed if it raises."""
        details: list[str] = []
        try:
            yield details.append
        except VerificationError as error:
            self.add(Result.FAILED, str(error))
            raise UnprovenError(self.filled("an earlier step failed")) from None
        self.add(Result.PASSED, "; ".join(details))

    def add(self, result: Result, detail: str) -> None:
        number = len(self.steps) + 1
        self.steps.append(Step(number, STEPS[number - 1], result, detail))

    def filled(self, why: str) -> tuple[Step, ...]:
        while len(self.steps) < len(STEPS):
            self.add(Result.NOT_CHECKED, why)
        return tuple(self.steps)


def verify_proof(data: bytes, policy: Policy, *, strict: bool = False) -> VerifiedReading:
    """The reading that the proof file `data` proves under `policy`.

    Raises:
        MalformedError: `data` is not a well-formed proof.
        UnprovenError: a step failed, or, under `strict`, was not checked; it carries the report.
    """
    proof = parse_proof(data)
    leaf = proof.leaf
    header = Header.decode(leaf.header)
    reading = Reading.decode(leaf.body) if leaf.leaf_index else None
    info = None if leaf.leaf_index else BatchInfo.decode(leaf.body)
    if leaf.leaf_index > header.count:
        raise MalformedError(f"extra: leaf index {leaf.leaf_index} in a batch of {header.count} readings")
    check_public_key(leaf.algorithm, leaf.public_key)
    report = _Report()
    # Step 1 is the parse itself: what is not a checkpoint is malformed, not unproven.
    checkpoint_lines = proof.checkpoint.text.count("\n")
    report.add(Result.PASSED, f"{checkpoint_lines} lines, {len(proof.checkpoint.signatures)} signature lines")
    with report.step() as say:
        checkpoint, keys = verify_log_signature(proof.checkpoint, policy)
        if header.origin != checkpoint.origin:
            raise VerificationError(f"the batch was sealed for {header.origin}, the log is {checkpoint.origin!a}")
        say(f"{checkpoint.origin}, size {checkpoint.size}, by " + ", ".join(key.id.hex() for key in keys))
    with report.step() as say:
        logged_by, witnesses = verify_quorum(proof.checkpoint, policy)
        if logged_by is None:
            say("the policy asks for no witness (quorum none), so there is no logged-by time")
        else:
            say(f"logged by {format_time(logged_by * 10**9)}, cosigned by {', '.join(witnesses)}")
    with report.step() as say:
        entry = BatchEntry(leaf.header, leaf.signature).encode()
        if header.anchor is not None and header.anchor.size > proof.index:
            raise VerificationError(f"anchored to size {header.anchor.size}, which came after index {proof.index}")
        merkle.check_inclusion(proof.index, checkpoint.size, merkle.hash_leaf(entry), proof.inclusion, checkpoint.root)
        say(f"index {proof.index} of {checkpoint.size}")
    with report.step() as say:
        if key_id(leaf.algorithm, leaf.public_key) != header.key_id:
            raise VerificationError("the public key is not the one that the header names")
        check_header_signature(leaf.header, leaf.signature, leaf.algorithm, leaf.public_key)
        say(f"key {header.key_id.hex()}, epoch {header.epoch}, seq {header.seq}")
    with report.step() as say:
        hashed = leaf_hash(header.key_id, header.epoch, header.seq, leaf.leaf_index, leaf.salt, leaf.body)
        merkle.check_inclusion(leaf.leaf_index, header.count + 1, hashed, leaf.path, header.root)
        say(f"leaf {leaf.leaf_index} of {header.count + 1}")
    report.add(Result.NOT_CHECKED, "needs a key-status proof, which this version of the format does not have")
    _check_time(report, reading, logged_by)
    if strict and any(step.result is not Result.PASSED for step in report.steps):
        raise UnprovenError(tuple(report.steps))
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
        steps=tuple(report.steps),
    )


def _check_time(report: _Report, reading: Reading | None, logged_by: int | None) -> None:
    """Step 8: a reading may be older than its batch's anchor (a backlog is sealed late), never from the future."""
    if reading is None:
        report.add(Result.NOT_CHECKED, "the leaf is a batch info, not a reading")
    elif logged_by is None:
        report.add(Result.NOT_CHECKED, "no logged-by time to compare with")
    else:
        with report.step() as say:
            if reading.sensor_time_ns < EARLIEST_TIME_NS:
                raise VerificationError("sensor time lies before the year 2000: its clock was not set")
            if reading.end_ns > logged_by * 10**9 + CLOCK_TOLERANCE_NS:
                raise VerificationError("sensor time lies more than 5 minutes after the logged-by time")
            say(f"sensor time {format_time(reading.sensor_time_ns)} is not after the logged-by time")
