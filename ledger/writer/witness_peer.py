"""What a log knows of one witness, and what it asks it (C2SP tlog-witness); knows no socket and no thread.

A dialogue is a generator: it yields a `Question`, is sent the `Reply`, and returns what the witness said. It raises
`WitnessFault` for a reply that is of no use. What a reply says of the witness's size is remembered before the next
question is put, so a dialogue may be left at any question.

    cosign   409 names the size that the witness has: once more, with the proof from there
             409 without a size: its latest checkpoint says it, or 404 that it has none
    latest   the last checkpoint of the log that the witness cosigned, verified
"""

import re
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar
from urllib.parse import urlsplit

from ledger.checkpoint import Checkpoint, parse_checkpoint, verify_signed
from ledger.errors import LedgerError, MalformedError, VerificationError
from ledger.note import MAX_NOTE, Note, Signature, VerifierKey, parse_note
from ledger.policy import Group, Policy, Witness
from ledger.strict import parse_decimal
from ledger.writer.storage import StorageError
from ledger.writer.witness_health import Health, WitnessFault, WitnessState

MAX_ANSWER = MAX_NOTE  # the longest of them is a checkpoint with every witness's lines

OK, NOT_FOUND, CONFLICT, UNPROCESSABLE = 200, 404, 409, 422
_MEANINGS = {
    300: "redirects, which is not followed; name its own URL in the policy",
    403: "does not know this log or its key",
    NOT_FOUND: "does not know this log",
    CONFLICT: "has another size than it said",
    UNPROCESSABLE: "has cosigned another history of this log, or cannot read our proof",
    429: "is asked too often",
}
_URL = re.compile(r"https?://[!-~]+")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask: to cosign the checkpoint, with the proof from `old_size`; for None, its latest checkpoint."""

    old_size: int | None


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response, as far as it counts: of at most `MAX_ANSWER` bytes; `retry_after` is '' if it has none."""

    status: int
    body: bytes
    retry_after: str


Dialogue: TypeAlias = Generator[Question, Reply, T]


class Peer:
    """The witness at one URL, under every name and key that the policies give it there; belongs to one thread."""

    def __init__(
        self, url: str, witnesses: Iterable[Witness], clock: Callable[[], float], jitter: Callable[[], float]
    ) -> None:
        named = list(witnesses)
        # Names in a policy are opaque bytes; these are as every terminal and log can show them.
        self.name = (
            ", ".join(dict.fromkeys(witness.name for witness in named)).encode("utf-8", "backslashreplace").decode()
        )
        self.url = url
        self._keys = tuple(dict.fromkeys(witness.key for witness in named))
        self._clock = clock
        self._jitter = jitter
        self._size = 0
        self._health = Health.unknown(clock())

    def __str__(self) -> str:
        return f"{self.name} ({self.url})"

    def due(self) -> bool:
        """It did not fail, or long enough ago."""
        return self._clock() >= self._health.retry_at

    def has_signed(self, note: Note) -> bool:
        """`note` has a line by each of its keys."""
        return all(note.by(key) for key in self._keys)

    def cosign(self, checkpoint: Checkpoint, log_keys: Sequence[VerifierKey]) -> Dialogue[tuple[Signature, ...]]:
        """Its verified lines over `checkpoint`, one for each key that it signed with."""
        sent = min(self._size, checkpoint.size)
        reply = yield Question(sent)
        if reply.status == CONFLICT:
            size = _size_in(reply)
            if size is None:
                latest = yield from self.latest(checkpoint.origin, log_keys)
                size = latest.size if latest else 0
            if size > checkpoint.size:
                raise WitnessFault(
                    f"says that it cosigned size {size}, and our checkpoint has size {checkpoint.size}: "
                    "the database is an old copy, or a second log runs under this name",
                    grave=True,
                )
            self._size = size
            if size == sent:
                raise WitnessFault(f"refuses a proof from size {sent}, and says that it has that size")
            reply = yield Question(size)
        _expect_ok(reply)
        lines = self._verified(reply, checkpoint)
        self._size = checkpoint.size
        return lines

    def latest(self, origin: str, log_keys: Sequence[VerifierKey]) -> Dialogue[Checkpoint | None]:
        """The latest checkpoint of the log that it cosigned, by log and witness; None if it never saw the log."""
        reply = yield Question(None)
        if reply.status == NOT_FOUND:
            return None
        _expect_ok(reply)
        try:
            note = parse_note(reply.body)
            checkpoint = parse_checkpoint(note.text)
            verify_signed(checkpoint, note, log_keys)
            verify_signed(checkpoint, note, self._keys)
        except LedgerError as error:
            raise WitnessFault(f"its latest checkpoint is not to be used: {error}") from None
        if checkpoint.origin != origin:
            raise WitnessFault(f"its latest checkpoint is of another log, {checkpoint.origin!a}")
        self._size = checkpoint.size
        return checkpoint

    def check_history(self, seen: Checkpoint, ours: Checkpoint, root_at: Callable[[int], bytes]) -> None:
        """What it has `seen` last is a prefix of `ours`, whose roots are `root_at`; raises StorageError."""
        if seen.size > ours.size:
            raise StorageError(
                f"witness {self} has cosigned size {seen.size}, and the database holds a log of size {ours.size}: "
                "it is an old copy, and going on would fork the log; restore the newest"
            )
        if seen.root != root_at(seen.size):
            raise StorageError(
                f"witness {self} has cosigned another root at size {seen.size}: the log's key signed another history "
                "than the database's; going on would fork the log; find out where that one was written"
            )

    def answered(self) -> None:
        """It did what it is there for."""
        self._health = self._health.answered(str(self), self._clock())

    def failed(self, fault: WitnessFault) -> None:
        """It is not due for a while."""
        self._health = self._health.failed(fault, str(self), self._clock(), self._jitter)

    def state(self) -> WitnessState:
        """How it does now; from any thread."""
        now = self._health
        retry_in_s = max(0.0, now.retry_at - self._clock())
        return WitnessState(self.name, self.url, now.ok, now.error, self._size, now.changed_at, retry_in_s)

    def _verified(self, reply: Reply, checkpoint: Checkpoint) -> tuple[Signature, ...]:
        """One line for each of its keys that signed; nothing of an answer in which a line of them fails is used."""
        text, lines = checkpoint.text(), []
        try:
            answer = parse_note(f"{text}\n".encode() + reply.body, "answer after our text")
            if answer.text != text:
                raise MalformedError("answer: an empty line among signature lines")
            for key in self._keys:
                for line in answer.by(key):
                    if not checkpoint.check(line, key):
                        raise VerificationError("it has no time, so no policy counts it")
                lines += answer.by(key)[:1]
        except LedgerError as error:
            raise WitnessFault(f"its cosignature is not to be used: {error}") from None
        if not lines:
            raise WitnessFault("answers without a line by a key that a policy knows")
        return tuple(lines)


def peers_of(policies: Iterable[Policy], clock: Callable[[], float], jitter: Callable[[], float]) -> list[Peer]:
    """A peer for each URL among the policies' witnesses; raises StorageError for a URL that cannot be asked."""
    found: dict[str, list[Witness]] = {}
    for policy in policies:
        for witness in policy.witnesses:
            if witness.url is not None:
                found.setdefault(base_url(witness.url), []).append(witness)
    return [Peer(url, witnesses, clock, jitter) for url, witnesses in found.items()]


def base_url(url: str) -> str:
    """`url` without slashes at its end, if it is one to put a path after; raises StorageError."""
    try:
        parts = urlsplit(url)
        plain = parts.hostname and parts.port != 0 and not (parts.query or parts.fragment or "@" in parts.netloc)
    except ValueError:
        plain = False
    if not plain or not _URL.fullmatch(url):
        raise StorageError(f"policy: witness URL {url[:100]!a} is not http(s)://host[:port][/path]; correct it")
    return url.rstrip("/")


def reached(quorum: Witness | Group | None, has: Callable[[Witness], bool]) -> bool:
    """The witnesses that `has` holds for make up `quorum`."""
    if quorum is None or isinstance(quorum, Witness):
        return quorum is None or has(quorum)
    return sum(reached(member, has) for member in quorum.members) >= quorum.threshold


def _size_in(reply: Reply) -> int | None:
    """The size in the body of a 409; None if it has none, as from a witness of an older draft or a proxy."""
    size, newline, rest = reply.body.partition(b"\n")
    try:
        return parse_decimal(size.decode("ascii"), "size") if newline and not rest else None
    except (MalformedError, UnicodeDecodeError):
        return None


def _expect_ok(reply: Reply) -> None:
    if reply.status == OK:
        return
    meaning = _MEANINGS.get(300 if 300 <= reply.status < 400 else reply.status, "refuses")
    said = reply.body.partition(b"\n")[0][:100]
    raise WitnessFault(
        f"{meaning} (HTTP {reply.status}{f': {said!r}' if said else ''})",
        retry_after=reply.retry_after,
        grave=reply.status == UNPROCESSABLE,
    )
