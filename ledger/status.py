"""Key-status proofs: a device key was enrolled by this registrar, and is good as of size N (FORMAT.md section 8.6).

    extra = [2, record, position, path, size, count, root, event_index, event, event_path]

The file proves a `key-state` entry to be on the log; `record` at `position` of the tree whose root that entry holds;
and the event that enrolled the key, with its signatures, at `event_index` of the same log. One file serves every
reading of the key that was logged before N. What it cannot show is anything after N.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ledger import canonical, merkle
from ledger.batch import MAX_UINT64
from ledger.entry import MAX_KEYS, KeyStateEntry, parse_entry
from ledger.errors import MalformedError, VerificationError
from ledger.events import MAX_EVENT, ChainPlace, Enrolment, Rotation
from ledger.keystate import KeyRecord, parse_record
from ledger.merkle import MAX_PROOF, join_path, split_path
from ledger.note import VerifierKey
from ledger.policy import Policy, verify_log_signature, verify_quorum
from ledger.proof import ProofFile
from ledger.reading import format_time
from ledger.report import Report, Result, Step, describe_quorum

STATUS_FORM = 2

STEPS = (
    "checkpoint form",
    "log signature",
    "witness quorum and logged-by time",
    "key-state entry inclusion in the log",
    "enrolment inclusion in the log",
    "signatures of key holder and registrar",
    "key record inclusion in the key state",
)


@dataclass(frozen=True, slots=True)
class StatusProof:
    """A parsed key-status proof: nothing in it is proven yet."""

    record: KeyRecord
    position: int
    path: tuple[bytes, ...]
    state: KeyStateEntry
    event_index: int
    event: Enrolment | Rotation
    event_path: tuple[bytes, ...]

    def encode(self) -> bytes:
        """The canonical bytes of the `extra`."""
        found = (self.record.encode(), self.position, join_path(self.path))
        state = (self.state.size, self.state.count, self.state.root)
        event = (self.event_index, self.event.encode(), join_path(self.event_path))
        return canonical.encode((STATUS_FORM, *found, *state, *event))


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """A key's record as of the log's first `size` entries, proven; `logged_by` is when that was on the log."""

    record: KeyRecord
    registrar_key: bytes
    origin: str
    size: int
    logged_by: int | None
    steps: tuple[Step, ...]

    def claim(self) -> str:
        """What this proof shows, in words."""
        when = "" if self.logged_by is None else f", as logged by {format_time(self.logged_by * 10**9)}"
        key = self.record.key_id.hex()[:16]
        state = "good"
        if self.record.until is not None:
            state = "ended at epoch {} seq {} of its chain".format(*self.record.until)
        if self.record.revoked is not None:
            state = f"revoked at index {self.record.revoked}, {state}"
        return (
            f"Key {key} was enrolled at index {self.record.enrolled} by registrar {self.registrar_key.hex()[:16]}; "
            f"among the first {self.size} entries of {self.origin} it is {state}{when}."
        )


def parse_status_proof(extra: bytes) -> StatusProof:
    """The key status in `extra`; raises MalformedError."""
    form, record, position, path, size, count, root, event_index, event, event_path = canonical.fields(
        canonical.decode(extra, "extra"), 10, "extra"
    )
    if form != STATUS_FORM or type(form) is not int:
        raise MalformedError("extra: not of form 2, the status of a key")
    enrolled = parse_entry(canonical.binary(event, "extra: event", 1, MAX_EVENT + 512))
    if not isinstance(enrolled, (Enrolment, Rotation)):
        raise MalformedError("extra: the event is neither an enrolment nor a rotation")
    state = KeyStateEntry(
        canonical.uint(size, "extra: size", MAX_UINT64),
        canonical.uint(count, "extra: count", MAX_KEYS),
        canonical.binary(root, "extra: root", 32),
    )
    return StatusProof(
        parse_record(canonical.binary(record, "extra: record", 1, 128)),
        canonical.uint(position, "extra: position", MAX_KEYS),
        _path(path, "extra: path"),
        state,
        canonical.uint(event_index, "extra: event index", MAX_UINT64),
        enrolled,
        _path(event_path, "extra: event path"),
    )


def verify_status(file: ProofFile, policy: Policy) -> KeyStatus:
    """The status that `file` proves under `policy`.

    Raises:
        MalformedError: the file is not a well-formed key-status proof.
        UnprovenError: a step failed; it carries the report.
    """
    proof = parse_status_proof(file.extra)
    record = proof.record
    report = Report(STEPS)
    report.add(Result.PASSED, f"{len(file.checkpoint.signatures)} signature lines")
    with report.step() as say:
        checkpoint, keys = verify_log_signature(file.checkpoint, policy)
        if proof.event.origin != checkpoint.origin:
            raise VerificationError(f"the key was enrolled for {proof.event.origin}, the log is {checkpoint.origin!a}")
        say(f"{checkpoint.origin}, size {checkpoint.size}, by " + ", ".join(key.id.hex() for key in keys))
    with report.step() as say:
        logged_by, witnesses = verify_quorum(file.checkpoint, policy)
        say(describe_quorum(logged_by, witnesses))
    with report.step() as say:
        if proof.state.size > file.index:
            raise VerificationError(f"a key state as of size {proof.state.size} at index {file.index}")
        state = merkle.hash_leaf(proof.state.encode())
        merkle.check_inclusion(file.index, checkpoint.size, state, file.inclusion, checkpoint.root)
        say(f"index {file.index} of {checkpoint.size}, as of size {proof.state.size}")
    with report.step() as say:
        if proof.event_index != record.enrolled or proof.event.key_id != record.key_id:
            raise VerificationError("the event is not the one that the record names")
        if not record.enrolled < proof.state.size:
            raise VerificationError(f"enrolled at index {record.enrolled}, not among the first {proof.state.size}")
        event = merkle.hash_leaf(proof.event.encode())
        merkle.check_inclusion(proof.event_index, checkpoint.size, event, proof.event_path, checkpoint.root)
        say(f"index {proof.event_index} of {checkpoint.size}")
    with report.step() as say:
        proof.event.check()
        say(f"registrar {proof.event.registrar_key.hex()}")
    with report.step() as say:
        merkle.check_inclusion(proof.position, proof.state.count, record.leaf_hash(), proof.path, proof.state.root)
        say(f"position {proof.position} of {proof.state.count} keys")
    registrar = proof.event.registrar_key
    return KeyStatus(record, registrar, checkpoint.origin, proof.state.size, logged_by, report.finish())


def check_key(
    report: Report,
    *,
    origin: str,
    key_id: bytes,
    place: ChainPlace,
    index: int,
    trust: Iterable[VerifierKey] | None,
    statuses: Sequence[KeyStatus],
) -> None:
    """Step 7: a trusted registrar enrolled the key before `index`, and it was good for `place` and `index`.

    `statuses` are proven under the same policy as what is being verified. Passed needs a status that covers `index`;
    an older one can only show that the key was not good.
    """
    if trust is None:
        report.add(Result.NOT_CHECKED, "needs the registrars to trust (--trust)")
        return
    known = [status for status in statuses if (status.origin, status.record.key_id) == (origin, key_id)]
    if not known:
        report.add(
            Result.NOT_CHECKED, f"needs a key-status proof of key {key_id.hex()[:16]} (from: ledger proof --key-status)"
        )
        return
    status = max(known, key=lambda status: status.size)
    try:
        registrar = _trusted(trust, status.registrar_key)
        status.record.check_good(place, index)
    except VerificationError:
        with report.step():
            raise
    if status.size <= index:
        report.add(
            Result.NOT_CHECKED,
            f"the key-status proof is as of size {status.size}, older than index {index}: get a newer one",
        )
        return
    report.add(
        Result.PASSED, f"enrolled at index {status.record.enrolled} by {registrar.name}, good as of size {status.size}"
    )


def _trusted(trust: Iterable[VerifierKey], registrar_key: bytes) -> VerifierKey:
    for key in trust:
        if key.public_key == registrar_key:
            return key
    raise VerificationError(f"enrolled by registrar {registrar_key.hex()[:16]}, who is not trusted")


def _path(value: canonical.Value, what: str) -> tuple[bytes, ...]:
    return tuple(split_path(canonical.binary(value, what, 0, 32 * MAX_PROOF), what))
