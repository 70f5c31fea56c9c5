"""What a witness answers to `add-checkpoint` (C2SP tlog-witness), without socket, disk or clock.

In this order, and each only if none before it applies:

    400   not a request, or a checkpoint that no log of this kind writes
    404   an origin that this witness does not know
    400   two lines by one known key of that log
    403   no signature by a known key of that log, or one by a known key that fails
    400   the old size is beyond the checkpoint's
    409   the old size is not the last one cosigned, which is in the body
    422   size 0 with a root that is not the hash of nothing
    422   the consistency proof does not verify, or there is one from size 0
    422   another root for the size that was cosigned last
    200   the cosignature lines of the last answer, if it was for the same checkpoint and is younger than FRESH_S
    503   our clock is behind the last cosignature of this log: the time we sign is evidence
    200   cosignature lines, nothing else

`admit` is everything up to the third 400 and needs no state: it checks one signature for each key of the log at most.
`check_extends` is 409 and 422; `last_answer` is the first 200; `cosign` is the rest.
Whoever calls them gives the answer out only once the new state is durable (`ledger.service.witness_store`).

A line in the name of the witness itself in what is submitted is a stranger's like any other: never looked at, stored
or sent back. Of the log's lines only those that verified are kept, one for each key.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ledger.add_checkpoint import AddCheckpoint, parse_add_checkpoint
from ledger.checkpoint import Checkpoint, parse_checkpoint, verify_signed
from ledger.errors import MalformedError, VerificationError
from ledger.merkle import EMPTY_ROOT, check_consistency
from ledger.note import Note, NoteSigner, Signature, VerifierKey, parse_note
from ledger.policy import parse_policy

TEXT = "text/plain; charset=utf-8"
SIZE = "text/x.tlog.size"  # of a 409: the size alone
CONFLICT = 409

# What SQLite can hold; with 63 hashes no proof reaches a larger tree.
MAX_SIZE = 2**63 - 1
# Whoever asks again within this time gets the same cosignatures again: asking costs no signature and no write.
FRESH_S = 60
# Of one log, and of the witness: a note with all their lines stays below the 80 lines and 256 KB of `ledger.note`.
MAX_KEYS = 16

Logs: TypeAlias = Mapping[str, tuple[VerifierKey, ...]]  # the keys of every log that is known, by origin


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a body that ends in a newline; of a 429 also the seconds to wait."""

    status: int
    body: str
    content_type: str = TEXT
    retry_after_s: int = 0


class RefusedError(Exception):
    """This request gets no cosignature; `answer` says why."""

    def __init__(self, status: int, reason: str, content_type: str = TEXT) -> None:
        super().__init__(reason)
        self.answer = Answer(status, f"{reason}\n", content_type)


@dataclass(frozen=True, slots=True)
class State:
    """What a witness remembers of a log: the checkpoint it cosigned last, when (Unix seconds), and the note it made."""

    size: int
    root: bytes
    time: int
    note: bytes


NOTHING = State(0, EMPTY_ROOT, 0, b"")  # of a log that was never cosigned


@dataclass(frozen=True, slots=True)
class Submission:
    """A checkpoint shown to be its log's: `lines` are those that verified, one for each of the log's `keys` at most."""

    request: AddCheckpoint
    checkpoint: Checkpoint
    keys: tuple[VerifierKey, ...]
    lines: tuple[Signature, ...]


def admit(body: bytes, logs: Logs) -> Submission:
    """The submission in `body`, signed by a log that `logs` knows; raises RefusedError (400, 404, 400, 403, 400).

    Two lines by one known key are malformed even if both verify: no log needs to send them, and else anybody who
    copied one would have it checked 80 times.
    """
    try:
        request = parse_add_checkpoint(body)
        checkpoint = parse_checkpoint(request.checkpoint.text)
    except MalformedError as error:
        raise RefusedError(400, str(error)) from None
    if checkpoint.size > MAX_SIZE:
        raise RefusedError(400, f"checkpoint: size {checkpoint.size} is larger than {MAX_SIZE}")
    keys = logs.get(checkpoint.origin)
    if keys is None:
        raise RefusedError(404, "this witness does not know the log of that origin")
    for key in keys:
        if len(request.checkpoint.by(key)) > 1:
            raise RefusedError(400, f"checkpoint: more than one line by the key {key.id.hex()} of {key.name}")
    try:
        signed = verify_signed(checkpoint, request.checkpoint, keys)
    except VerificationError as error:
        raise RefusedError(403, str(error)) from None
    if request.old_size > checkpoint.size:
        raise RefusedError(400, f"old size {request.old_size} is beyond the checkpoint's {checkpoint.size}")
    return Submission(request, checkpoint, keys, tuple(request.checkpoint.by(key)[0] for key in signed))


def check_extends(submission: Submission, state: State) -> None:
    """The submitted tree is the one that was cosigned last, or extends it; raises RefusedError (409, 422)."""
    checkpoint, request = submission.checkpoint, submission.request
    if request.old_size != state.size:
        raise RefusedError(CONFLICT, str(state.size), SIZE)
    if checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT:
        raise RefusedError(422, "size 0 with a root that is not the hash of nothing")
    try:
        check_consistency(state.size, checkpoint.size, state.root, checkpoint.root, request.proof)
    except VerificationError as error:
        raise RefusedError(422, str(error)) from None


def last_answer(submission: Submission, state: State, signers: Iterable[NoteSigner], now: int) -> Answer | None:
    """The answer that made `state`, if it serves `submission`, which passed `check_extends` with it, at `now` as well.

    None if it was for a smaller tree, is FRESH_S old or from the future, or if its note has no line by one of
    `signers`, or by a key of the log that signed now.
    """
    if not state.note or submission.checkpoint.size != state.size or not 0 <= now - state.time < FRESH_S:
        return None
    note = parse_note(state.note)
    present = {(line.name, line.key_id): line for line in note.signatures}
    ours = [present.get((signer.verifier.name, signer.verifier.id)) for signer in signers]
    if None in ours or any((line.name, line.key_id) not in present for line in submission.lines):
        return None
    return Answer(200, "".join(map(str, ours)))


def cosign(submission: Submission, state: State, signers: Iterable[NoteSigner], now: int) -> tuple[Answer, State]:
    """The answer with a cosignature by each of `signers` at `now` (Unix seconds), and the state that must precede it.

    `submission` passed `check_extends` with this very `state`. Raises RefusedError (503) if time went backwards.
    """
    if now < state.time:
        raise RefusedError(
            503, "the clock of this witness is behind its last cosignature; it signs no time that is wrong"
        )
    checkpoint = submission.checkpoint
    cosignatures = [checkpoint.signature(signer, now) for signer in signers]
    lines = (*submission.lines, *_earlier_lines(submission, state), *cosignatures)
    note = Note(checkpoint.text(), lines).encode()
    return Answer(200, "".join(map(str, cosignatures))), State(checkpoint.size, checkpoint.root, now, note)


def parse_logs(data: bytes) -> tuple[VerifierKey, ...]:
    """The log keys in a list: a tlog-policy, or lines with `log <vkey> [url]` or a vkey; raises MalformedError."""
    lines = []
    whole_policy = False
    for line in data.split(b"\n"):
        first = line.replace(b"\t", b" ").strip(b" ").partition(b" ")[0]
        whole_policy = whole_policy or first == b"quorum"
        # A plus sign is in every vkey and in no keyword.
        lines.append(b"log " + line if b"+" in first and not first.startswith(b"#") else line)
    if not whole_policy:
        lines.append(b"quorum none")
    return tuple(key for key, _ in parse_policy(b"\n".join(lines)).logs)


def known_logs(keys: Iterable[VerifierKey], own: Sequence[VerifierKey]) -> Logs:
    """`keys` by origin, each once; raises MalformedError if one cannot be told from another or is the witness's own."""
    logs: dict[str, tuple[VerifierKey, ...]] = {}
    for key in keys:
        others = logs.get(key.name, ())
        if key in others:
            continue
        if any(key.id == other.id for other in others):
            raise MalformedError(f"log {key.name}: two keys have the id {key.id.hex()}")
        if any(key.public_key == mine.public_key for mine in own):
            raise MalformedError(f"log {key.name}: its key is a key of this witness; one key has one role")
        if len(others) == MAX_KEYS:
            raise MalformedError(f"log {key.name}: more than {MAX_KEYS} keys")
        logs[key.name] = (*others, key)
    if not logs:
        raise MalformedError("no log is named")
    return logs


def _earlier_lines(submission: Submission, state: State) -> list[Signature]:
    """The log's lines of an earlier submission of the same checkpoint, where this one has none by their keys.

    Else anybody could have the line of the log's stronger key removed, by sending the checkpoint without it.
    """
    if not state.note or state.size != submission.checkpoint.size:
        return []
    present = {(line.name, line.key_id) for line in submission.lines}
    earlier = parse_note(state.note)
    return [line for key in submission.keys if (key.name, key.id) not in present for line in earlier.by(key)]
