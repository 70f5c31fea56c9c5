"""The keys with which a backup is opened: where they are found, and that they are those of this backup."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aggregator.backup import DATA, Manifest, Progress
from aggregator.backup_keys import KeyReader, keys_path
from aggregator.config import AggregatorConfig
from aggregator.relocation import moved_config
from aggregator.sealed_payloads import no_keys
from aggregator.sequencer_copy import Tally, check_payloads
from ledger.errors import LedgerError
from ledger.writer.database import DATABASE, copy_database
from ledger.writer.storage import StorageError
from vitalseal.errors import UserError


@contextmanager
def keys_for(backup: Path, manifest: Manifest, data: Path, given: Path | None) -> Iterator[KeyReader | None]:
    """The keys of `backup`, from `given`, or from where the aggregator has them in `data` or had them; else None.

    Raises:
        UserError: there is nothing at `given`, or the keys there are not those of this backup.
    """
    if given is not None and not given.is_file():
        raise UserError(f"{given}: is not there; it should be the keys of backups, or a copy of them")
    paths = (given,) if given else usual_places(backup, manifest, data)
    path = next((path for path in paths if path.is_file()), None)
    if path is None or manifest.keys is None:
        yield None
        return
    with KeyReader(path) as keys:
        if keys.identity.hex() != manifest.keys:
            raise UserError(
                f"{path}: holds the keys of other backups, not of {backup}; name the right ones with --keys"
            )
        yield keys


def usual_places(backup: Path, manifest: Manifest, data: Path) -> tuple[Path, ...]:
    """Where the keys are if the data directory is `data`, and where they were when the backup was taken."""
    return tuple(keys_path(moved_config(backup, manifest, where)) for where in (data, Path(manifest.data)))


def place_keys(keys: KeyReader, config: AggregatorConfig, unfinished: Path) -> None:
    """The keys are where `config` looks for them, whose data directory is `unfinished` as yet.

    What is there already stays: it is no older than a copy of it.

    Raises:
        UserError: it is the keys of other backups.
    """
    target = keys_path(config)
    if target.is_relative_to(config.data):
        target = unfinished / target.relative_to(config.data)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_database(keys.path, target, lambda *_: None)
        return
    with KeyReader(target) as there:
        if there.identity != keys.identity:
            raise UserError(f"{target}: holds the keys of other backups; move them away, and restore again")


def verify_payloads(backup: Path, manifest: Manifest, keys: KeyReader | None, progress: Progress) -> Tally:
    """Every payload of `backup`, which `check_backup` let pass, is its batch's, and opens, as far as there are `keys`.

    Raises:
        UserError: one of them is not, or does not.
    """
    if manifest.keys is None:
        return Tally()
    try:
        found = keys.key if keys else no_keys
        return check_payloads(backup / DATA / DATABASE, found, functools.partial(progress, "payloads"))
    except (StorageError, LedgerError) as error:
        raise UserError(f"{error}; use another backup") from None
