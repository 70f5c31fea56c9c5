"""An aggregator put back from a backup, without forking its log; or its log frozen, and a successor opened.

A log that goes on from an old copy signs a second history. So before anything is signed, whoever may have seen the log
since is asked: every witness, the public log or a mirror of it, a guard that survived. The entries up to the largest
checkpoint that any of them has are taken from the public log (`ledger.writer.replay`). If they are not to be had, the
log must never be written again: it is *frozen*, and a new one begins where it was last seen.

The payloads are encrypted in the backup. They are opened last, when the log says all that was erased: what it calls
erased stays a hash, whatever the keys are.

Everything is done in a folder beside the target and renamed at the end: killed anywhere, it is done again from the
beginning.
"""

import dataclasses
import functools
import os
import shutil
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from aggregator.backup import DATA, Manifest, Progress, check_backup, copy_back, give_back
from aggregator.backup_keys import KeyReader, keys_path
from aggregator.config import AggregatorConfig
from aggregator.desk_records import DATABASE as DESK
from aggregator.desk_records import DeskRecords
from aggregator.enrolment import FOLDER
from aggregator.erasures import Target, record
from aggregator.keys_at_hand import keys_for, place_keys
from aggregator.last_seen import ask_witnesses, check_asked, in_backup, in_guard, read_published, reading
from aggregator.registry import Registry
from aggregator.relocation import format_config, move_broker, moved_config
from aggregator.sealed_payloads import no_keys
from aggregator.sequencer_copy import Tally, fill_payloads
from ledger.batch import Header
from ledger.checkpoint import Checkpoint
from ledger.entry import BatchEntry, Erased, parse_entry
from ledger.errors import LedgerError
from ledger.events import Enrolment, Rotation
from ledger.writer.create import POLICY, POLICY_PQ, load_log_keys, load_policy
from ledger.writer.database import DATABASE
from ledger.writer.files import replace_file, sync_directory, sync_file
from ledger.writer.keybook import read_states
from ledger.writer.local import FROZEN, GUARD, LocalStorage
from ledger.writer.reader import LocalReader
from ledger.writer.replay import Known, TooOldError, catch_up, sign_again
from ledger.writer.storage import Place
from vitalseal.errors import UserError

REOPENED = "restored with keys from before it was erased"  # the reason of a request that a restore makes


@dataclass(frozen=True, slots=True)
class Restored:
    """How a log was put back: the newest checkpoint that anybody knows, and how many entries the backup lacked.

    `missing` batches have no payload, or not all of it: `destroyed` leaves stay hashes because their key was destroyed,
    `unknown` ones because there was no key for them. `unnamed` are the keys, in hex, of which nothing here says whose
    they are, and `silent` the witnesses that did not answer. `given` is False where files could not be given to whom
    they belonged. `keys` is the file whose keys opened the payloads. `frozen` says why the log must not be written,
    None if it may be.
    """

    newest: Checkpoint
    replayed: int = 0
    missing: int = 0
    destroyed: int = 0
    unknown: int = 0
    unnamed: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    given: bool = True
    keys: Path | None = None
    frozen: str | None = None


@dataclass(frozen=True, slots=True)
class _Taken:
    """What is restored: a backup that was checked, and its keys, None without."""

    backup: Path
    manifest: Manifest
    keys: KeyReader | None


def restore(
    backup: Path,
    data: Path,
    config_path: Path,
    place: str | None,
    progress: Progress,
    *,
    keys: Path | None = None,
    without_keys: bool = False,
) -> Restored:
    """`data` is the aggregator's data directory as of now, and `config_path` its configuration; or it is frozen.

    `place` is the directory or URL of the public log, or of a mirror. `keys` are those of the backup, or a copy, if
    they are not where the configuration has them; `without_keys`: they are lost, and every payload with them.

    Raises:
        UserError: the target is not empty; the backup is damaged; its keys are not there, or are others; the public
            log is not this one's or cannot be read; the witnesses that answer are no quorum. Nothing was written then.
        StorageError: the disk refuses.
    """
    data = data.absolute()
    if data.exists() and (not data.is_dir() or any(data.iterdir())):
        raise UserError(f"{data}: is not empty; nothing is ever restored over what is there: move it away first")
    manifest = check_backup(backup, progress)
    config = moved_config(backup, manifest, data)
    text = format_config(config)
    if config_path.exists() and config_path.read_text(encoding="utf-8") != text:
        raise UserError(f"{config_path}: is there already, and another one; name a new file")
    unfinished = data.with_name(f".{data.name}.restoring")
    if config_path.absolute().is_relative_to(data):
        config_path = unfinished / config_path.absolute().relative_to(data)
    with ExitStack() as stack:
        found = None if without_keys else stack.enter_context(keys_for(backup, manifest, data, keys))
        if found is None and manifest.keys is not None and not without_keys:
            raise UserError(
                f"{keys_path(config)}: is not there, and without these keys every payload that no device still keeps "
                "is lost; name a copy of them with --keys FILE, or give them up with --without-keys"
            )
        result = _bring_up(_Taken(backup, manifest, found), config, unfinished, place, progress)
    move_broker(unfinished, manifest, data)
    given = give_back(manifest, unfinished)
    _sync(unfinished)
    config_path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(config_path, text.encode())
    # Last, and at once: what is not there under its name was not restored.
    unfinished.rename(data)
    sync_directory(data.parent)
    return dataclasses.replace(result, given=given, keys=found.path if found else None)


def _bring_up(
    taken: _Taken, config: AggregatorConfig, unfinished: Path, place: str | None, progress: Progress
) -> Restored:
    """`unfinished` holds the backup's data, brought up to the newest known checkpoint, or frozen."""
    manifest = taken.manifest
    _lay_out(taken, unfinished)
    guard = config.guard or config.data / GUARD
    if guard.is_relative_to(config.data):
        guard = unfinished / guard.relative_to(config.data)
    guard.parent.mkdir(parents=True, exist_ok=True)
    keys = load_log_keys(unfinished)
    policies = [load_policy(path) for name in (POLICY, POLICY_PQ) if (path := unfinished / name).exists()]
    with ExitStack() as stack:
        known, silent = ask_witnesses(policies, manifest.origin, config.witness_timeout_s)
        known += in_backup(manifest, unfinished)
        known += in_guard(guard, manifest.origin)
        fetch, published = None, None
        if place is not None:
            fetch = stack.enter_context(reading(place))
            checkpoint, published = read_published(fetch, place, manifest.origin, keys, policies)
            known.append(Known(place, checkpoint))
        newest = max((item.checkpoint for item in known), key=lambda checkpoint: checkpoint.size)
        try:
            check_asked(known)
            with LocalStorage(unfinished, guard) as storage:
                replayed = catch_up(
                    storage,
                    known,
                    published,
                    fetch,
                    sign_again(keys.signers, time.time_ns()),
                    lambda done, size: progress("entries", done, size),
                )
        except TooOldError as error:
            _lay_out(taken, unfinished)
            _open_payloads(taken, config, unfinished, progress)
            replace_file(unfinished / FROZEN, f"{newest.text()}\n{error}\n".encode())
            return Restored(newest, silent=silent, frozen=str(error))
    tally = _open_payloads(taken, config, unfinished, progress)
    _erase_again(unfinished, tally)
    _set_guard(guard, newest)
    _void_tokens(unfinished)
    with LocalReader(unfinished) as log:
        missing = log.missing_payload_count()
    unnamed = _unnamed(unfinished, manifest.origin)
    return Restored(newest, replayed, missing, tally.destroyed, tally.unknown, unnamed, silent)


def _lay_out(taken: _Taken, unfinished: Path) -> None:
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    copy_back(taken.backup, taken.manifest, unfinished)


def _open_payloads(taken: _Taken, config: AggregatorConfig, unfinished: Path, progress: Progress) -> Tally:
    """The payloads are in the database, in clear, and the keys where the next backup looks for them."""
    if taken.manifest.keys is None:
        return Tally()
    if taken.keys is not None:
        place_keys(taken.keys, config, unfinished)
    source, target = taken.backup / DATA / DATABASE, unfinished / DATABASE
    keys = taken.keys.key if taken.keys else no_keys
    try:
        return fill_payloads(source, target, keys, functools.partial(progress, "payloads"))
    except LedgerError as error:
        raise UserError(f"{error}; use another backup") from None


def _erase_again(data: Path, tally: Tally) -> None:
    """What was erased and the keys still open, because they are an older copy, is requested once more.

    The entry is found on the log; what the aggregator that is started then has left to do is to destroy the keys.
    """
    with LocalReader(data) as log, closing(Registry(data)) as registry:
        targets = []
        for index, sources in tally.reopened.items():
            (batch,) = map(parse_entry, log.entries(index, index + 1))
            if not isinstance(batch, BatchEntry):
                continue  # nothing else has a payload
            header = Header.decode(batch.header)
            place = Place(header.key_id, header.epoch, header.seq)
            for at in log.erasures(index):
                (entry,) = map(parse_entry, log.entries(at, at + 1))
                if isinstance(entry, Erased) and (leaves := tuple(leaf for leaf in entry.leaves if leaf)):
                    targets.append(Target(place, index, leaves, frozenset(sources)))
        record(registry, targets, REOPENED, time.time_ns())


def _set_guard(guard: Path, newest: Checkpoint) -> None:
    """There is a guard, and it is not behind `newest`: the writer asks for one, and believes it."""
    if not guard.exists():
        replace_file(guard, newest.text().encode())


def _void_tokens(data: Path) -> None:
    """One that was used up after the backup would be good again, so none is."""
    if (data / DESK).exists():
        with closing(DeskRecords(data)) as records:
            records.void_tokens()


def _unnamed(data: Path, origin: str) -> tuple[str, ...]:
    """The keys that are good and of which neither the registry nor the enrolments tell the device's name."""
    with closing(Registry(data)) as registry:
        named = set(registry.keys())
    for path in sorted((data / FOLDER).iterdir() if (data / FOLDER).is_dir() else ()):
        try:
            event = parse_entry(path.read_bytes())
        except LedgerError:
            continue  # no good; the aggregator says so when it finds it there
        if isinstance(event, (Enrolment, Rotation)):
            named.add(event.key_id)
    with LocalStorage(data) as log:
        states = read_states(log, origin)
    return tuple(record.key_id.hex() for record in states if record.until is None and record.key_id not in named)


def _sync(folder: Path) -> None:
    """Everything below `folder` is durable."""
    for parent, _, names in os.walk(folder):
        for name in names:
            sync_file(Path(parent) / name)
        sync_directory(Path(parent))
