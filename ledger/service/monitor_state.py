"""What a monitor must not forget, in a directory of its own.

    <state>/state.json      how far the log was followed and under which checkpoint; what could not be compared yet
    <state>/evidence/       `ledger.service.monitor_evidence`
    <state>/monitor.lock    one monitor at a time

The state is replaced whole and synced. Killed at any moment, a monitor goes on from the last one: it follows some
entries once more, and may tell once more what it told of them.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ledger.checkpoint import Checkpoint, parse_checkpoint
from ledger.console import parse_file
from ledger.errors import MalformedError
from ledger.follow import Follower
from ledger.note import Note, parse_note
from ledger.service.monitor_evidence import Claim, EvidenceFolder
from ledger.writer.files import lock, replace_file

STATE = "state.json"
EVIDENCE = "evidence"
VERSION = 1
SAVE_EVERY_S = 5.0
MAX_STATE = 1 << 30  # of a million devices


@dataclass(frozen=True, slots=True)
class Pending:
    """A checkpoint beyond what was followed, which the view `seen_at` showed first at `since` (Unix seconds)."""

    seen_at: str
    since: int
    note: Note

    @property
    def checkpoint(self) -> Checkpoint:
        """What it commits to."""
        return parse_checkpoint(self.note.text)


@dataclass(slots=True)
class Memory:
    """Everything that a monitor knows.

    `followed` is the signed checkpoint under which the entries of `log` were read, and that they are its prefix;
    `shown` the largest that the log itself has shown; `fresh_at` the newest time of one. `findings` count by kind.
    """

    log: Follower
    followed: Claim | None = None
    shown: Note | None = None
    fresh_at: int = 0
    pending: list[Pending] = field(default_factory=list)
    findings: Counter[str] = field(default_factory=Counter)


class MonitorState:
    """The directory, locked; use as a context manager."""

    def __init__(
        self,
        folder: Path,
        origin: str,
        registrars: frozenset[bytes] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises StorageError if a monitor runs there, MalformedError if it is another log's; OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / STATE
        self._trust = None if registrars is None else sorted(key.hex() for key in registrars)
        self._clock = clock
        self._saved_s = float("-inf")
        self._sound = ""
        self._marked: Claim | None = None
        self._written = b""
        self._lock = lock(folder / "monitor.lock")
        try:
            self.evidence = EvidenceFolder(folder / EVIDENCE)
            self.memory = self._load(origin, registrars)
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    @property
    def due(self) -> bool:
        """The last state was written a while ago."""
        return self._clock() - self._saved_s >= SAVE_EVERY_S

    def mark(self) -> None:
        """What is known of the log's entries now is what will be saved: no anchor waits to be compared."""
        memory = self.memory
        if memory.followed != self._marked:
            self._sound = json.dumps({"log": memory.log.dump(), "followed": _claim_fields(memory.followed)})
            self._marked = memory.followed

    def save(self) -> None:
        """Everything is durable: of the entries, as it was when it was marked last."""
        memory = self.memory
        state = {
            "monitor": VERSION,
            "trust": self._trust,
            "entries": self._sound,
            "shown": memory.shown and memory.shown.encode().decode(),
            "fresh_at": memory.fresh_at,
            "pending": [[item.seen_at, item.since, item.note.encode().decode()] for item in memory.pending],
            "findings": memory.findings,
        }
        data = json.dumps(state).encode()
        if data != self._written:
            replace_file(self._path, data)
            self._written = data
        self._saved_s = self._clock()

    def _load(self, origin: str, registrars: frozenset[bytes] | None) -> Memory:
        if not self._path.exists():
            memory = Memory(Follower(origin, registrars))
            self._sound = json.dumps({"log": memory.log.dump(), "followed": None})
            return memory
        return parse_file(self._path, lambda data: self._parse(data, origin, registrars), MAX_STATE)

    def _parse(self, data: bytes, origin: str, registrars: frozenset[bytes] | None) -> Memory:
        try:
            state = json.loads(data)
            if state["monitor"] != VERSION:
                raise MalformedError(f"is a state of version {state['monitor']!r}, not {VERSION}; name another --state")
            if state["trust"] != self._trust:
                raise MalformedError("was made under another --trust; name the same, or another --state")
            self._sound = str(state["entries"])
            entries = json.loads(self._sound)
            memory = Memory(
                Follower.load(entries["log"], registrars),
                _parse_claim(entries["followed"]),
                state["shown"] and parse_note(state["shown"].encode()),
                int(state["fresh_at"]),
                [Pending(str(seen_at), int(since), _checked(note)) for seen_at, since, note in state["pending"]],
                Counter({str(kind): int(count) for kind, count in state["findings"].items()}),
            )
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            raise MalformedError("is not a monitor's state; name another --state") from None
        log, followed = memory.log, memory.followed
        if log.origin != origin:
            raise MalformedError(f"is a state of the log {log.origin!a}, this is {origin!a}; name another --state")
        if (followed.size, followed.root) != (log.size, log.root()) if followed else log.size:
            raise MalformedError("does not fit together; name another --state")
        return memory


def _checked(text: str) -> Note:
    note = parse_note(text.encode())
    parse_checkpoint(note.text)
    return note


def _claim_fields(claim: Claim | None) -> dict[str, Any] | None:
    if claim is None:
        return None
    proof = [item.hex() for item in claim.proof]
    return {"note": claim.note.encode().decode(), "size": claim.size, "root": claim.root.hex(), "proof": proof}


def _parse_claim(fields: dict[str, Any] | None) -> Claim | None:
    if fields is None:
        return None
    proof = tuple(map(bytes.fromhex, fields["proof"]))
    return Claim(_checked(fields["note"]), int(fields["size"]), bytes.fromhex(fields["root"]), proof)
