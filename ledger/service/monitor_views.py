"""From where a monitor sees a log: the log itself, other places that show it, and its witnesses.

Whoever shows two people two histories shows them in two places. So a view is only ever asked for what it says now; what
it said is compared by `ledger.service.monitor`.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from ledger.checkpoint import Checkpoint, verify_signed
from ledger.errors import LedgerError, VerificationError
from ledger.fsck import CHECKPOINT_PATH
from ledger.merkle import EMPTY_ROOT
from ledger.note import Note, VerifierKey, parse_note
from ledger.policy import Policy, verify_log_signature, verify_quorum
from ledger.service.fetch import ReadAhead
from ledger.service.http_log import FetchError, Patience, open_url
from ledger.service.monitor_alarms import BROKEN, UNREACHABLE, UNWITNESSED
from ledger.service.witness_store import log_id
from ledger.tiles import Fetch
from ledger.writer.files import read_file

# The next round comes anyway, and a view that hangs must not hold up what the others show for long.
PATIENCE = Patience(timeout_s=5.0, attempts=2)


@dataclass(frozen=True, slots=True)
class View:
    """One place where the log is seen; of a witness, `cosigners` are its keys, and it shows no tiles."""

    name: str
    fetch: Fetch
    cosigners: tuple[VerifierKey, ...] = ()


@dataclass(frozen=True, slots=True)
class Look:
    """What a view shows now: a checkpoint that the log signed, or none, and what is wrong with it, by kind of alarm.

    `fresh_at` is the time, in Unix seconds, that witnesses give for it; under `quorum none` the log's own, if its
    signature has one.
    """

    view: View
    note: Note | None = None
    checkpoint: Checkpoint | None = None
    fresh_at: int | None = None
    wrong: tuple[str, str] | None = None


def open_view(stack: ExitStack, place: str, *, ahead: bool = False) -> View:
    """The log in the directory or behind the URL `place`, until `stack` ends; raises FetchError.

    With `ahead`, entries are read ahead.
    """
    name = place.encode("utf-8", "backslashreplace").decode()
    if "://" in place:
        log = stack.enter_context(open_url(place, PATIENCE))
        return View(name, stack.enter_context(closing(ReadAhead(log))) if ahead else log)
    public = Path(place)
    if not public.is_dir():
        raise FetchError(f"{place}: is neither a directory nor an http(s) URL")

    def fetch(path: str) -> bytes | None:
        try:
            return read_file(public, path)
        except OSError as error:
            raise FetchError(f"{public / path}: {error.strerror or error}") from None

    return View(name, fetch)


def open_witnesses(stack: ExitStack, policy: Policy, origin: str) -> list[View]:
    """Every witness that `policy` names with a URL, once for all of its keys; raises FetchError."""
    keys: dict[str, tuple[VerifierKey, ...]] = {}
    for witness in policy.witnesses:
        if witness.url is not None:
            url = witness.url.rstrip("/")
            keys[url] = (*keys.get(url, ()), witness.key)
    identity = log_id(origin)
    return [View(url, stack.enter_context(open_url(f"{url}/{identity}", PATIENCE)), keys[url]) for url in keys]


def look(view: View, policy: Policy, origin: str) -> Look:
    """What `view` shows of the log `origin` now."""
    try:
        data = view.fetch(CHECKPOINT_PATH)
    except FetchError as error:
        return Look(view, wrong=(UNREACHABLE, str(error)))
    if data is None:
        # A witness that never saw the log has nothing to show, which is for the quorum to judge.
        return Look(view, wrong=None if view.cosigners else (UNREACHABLE, "there is no checkpoint"))
    try:
        note = parse_note(data, "checkpoint")
        checkpoint, keys = verify_log_signature(note, policy)
        if checkpoint.origin != origin:
            raise VerificationError(f"a checkpoint of another log, {checkpoint.origin!a}")
        if not checkpoint.size and checkpoint.root != EMPTY_ROOT:
            raise VerificationError("size 0 with a root that is not the hash of nothing")
        if view.cosigners:
            verify_signed(checkpoint, note, view.cosigners)
            return Look(view, note, checkpoint)
    except LedgerError as error:
        return Look(view, wrong=(BROKEN, str(error)))
    try:
        logged_by, _ = verify_quorum(note, policy)
    except VerificationError as error:
        return Look(view, note, checkpoint, wrong=(UNWITNESSED, f"size {checkpoint.size}: {error}"))
    return Look(view, note, checkpoint, _own_time(note, checkpoint, keys) if logged_by is None else logged_by)


def check_distinct(views: Iterable[View]) -> None:
    """No two of `views` have one name, by which alarms are told apart; raises FetchError."""
    names = [view.name for view in views]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FetchError(f"{twice[0]}: is named twice")


def _own_time(note: Note, checkpoint: Checkpoint, keys: Sequence[VerifierKey]) -> int | None:
    times = (checkpoint.check(line, key) for key in keys for line in note.by(key))
    return max((time for time in times if time is not None), default=None)
