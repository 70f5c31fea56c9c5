"""Who has seen a log since its backup: what is the newest checkpoint that anybody knows, and from whom.

Witnesses, a guard on another volume, the public log or a mirror of it, and the backup itself.
"""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from aggregator.backup import Manifest
from ledger import merkle
from ledger.checkpoint import Checkpoint, parse_checkpoint, verify_signed
from ledger.errors import LedgerError
from ledger.fsck import CHECKPOINT_PATH
from ledger.note import parse_note
from ledger.policy import Policy, verify_quorum
from ledger.service.fetch import log_reader
from ledger.service.http_log import FetchError
from ledger.tiles import Fetch
from ledger.writer.create import LogKeys
from ledger.writer.local import FROZEN
from ledger.writer.replay import Known, TooOldError
from ledger.writer.storage import Recorded
from ledger.writer.witnesses import Witnesses
from vitalseal.errors import UserError


def frozen_at(data: Path) -> Checkpoint:
    """The newest checkpoint that was known of the log in `data` when it was frozen; raises UserError if it is not."""
    path = data / FROZEN
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        raise UserError(
            f"{path}: is not there: this log is not frozen; end it with `vitalseal aggregator close`"
        ) from None
    return parse_checkpoint("".join(lines[:3]))


def ask_witnesses(policies: list[Policy], origin: str, timeout_s: float) -> tuple[list[Known], tuple[str, ...]]:
    """What the witnesses cosigned last, and the names of those who did not answer; raises UserError without a quorum.

    What was published has a quorum of cosignatures, and two quorums have a witness in common: one of these knows.
    """
    if all(policy.quorum is None and not policy.witnesses for policy in policies):
        return [], ()
    with closing(Witnesses(policies, timeout_s=timeout_s)) as witnesses:
        said, quorum = witnesses.latest(origin)
        silent = tuple(f"{state.name} ({state.error})" for state in witnesses.states() if not state.ok)
    if not quorum:
        raise UserError(
            f"no quorum of witnesses answers: {'; '.join(silent)}; without them nobody can say what was signed since "
            "the backup: try again when they are back"
        )
    nothing = Checkpoint(origin, 0, merkle.EMPTY_ROOT)
    return [Known(f"witness {who}", checkpoint or nothing) for who, checkpoint in said.items()], silent


def in_backup(manifest: Manifest, unfinished: Path) -> list[Known]:
    """Its newest checkpoint; of a log that was frozen also the one for which it was, and it is frozen no more."""
    known = [Known("the backup", Checkpoint(manifest.origin, manifest.checkpoint, bytes.fromhex(manifest.root)))]
    if (unfinished / FROZEN).exists():
        known.append(Known("whoever was asked when the log was frozen", frozen_at(unfinished)))
        (unfinished / FROZEN).unlink()
    return known


def in_guard(guard: Path, origin: str) -> list[Known]:
    """What a guard on another volume holds, if it survived; one in the data directory is in no backup."""
    if not guard.exists():
        return []
    try:
        checkpoint = parse_checkpoint(guard.read_text(encoding="utf-8"))
    except (LedgerError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{guard}: does not hold a checkpoint: {error}") from None
    if checkpoint.origin != origin:
        raise UserError(f"{guard}: is the guard of the log {checkpoint.origin!a}, not of {origin}")
    return [Known(f"the guard {guard}", checkpoint)]


@contextmanager
def reading(place: str) -> Iterator[Fetch]:
    """The public log at `place`; what is wrong with it is one line."""
    try:
        with log_reader(place) as (fetch, _):
            yield fetch
    except FetchError as error:
        raise UserError(str(error)) from None


def read_published(
    fetch: Fetch, place: str, origin: str, keys: LogKeys, policies: list[Policy]
) -> tuple[Checkpoint, Recorded | None]:
    """The checkpoint of the public log, which this log signed; and as a record, if it satisfies its policies."""
    data = fetch(CHECKPOINT_PATH)
    if data is None:
        raise UserError(f"{place}: there is no checkpoint; is it the directory or URL of a log?")
    try:
        note = parse_note(data, "checkpoint")
        checkpoint = parse_checkpoint(note.text)
        verify_signed(checkpoint, note, (*(signer.verifier for signer in keys.signers), *keys.retired))
        if checkpoint.origin != origin:
            raise UserError(f"{place}: is the log {checkpoint.origin!a}, not {origin}")
    except LedgerError as error:
        raise UserError(
            f"{place}: its checkpoint is not to be used: {error}; if the log's keys were changed since the backup, "
            "put the new ones into the backup's keys"
        ) from None
    try:
        for policy in policies:
            verify_quorum(note, policy)
    except LedgerError:
        return checkpoint, None  # signed all the same, so it counts; the witnesses are asked for it again
    return checkpoint, Recorded(checkpoint.size, checkpoint.root, data, time.time_ns(), published=True)


def check_asked(known: list[Known]) -> None:
    """Somebody but the backup was asked; raises TooOldError."""
    if len(known) == 1:
        raise TooOldError("there is no witness, no guard and no public log to say what was signed since the backup")
