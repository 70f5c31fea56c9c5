"""A backup of an aggregator: everything that nobody else has, taken while it runs.

    <backup>/manifest.json      what is in it, how large the log was, and the SHA-256 of every file
    <backup>/aggregator.toml    the configuration
    <backup>/data/              the data directory, without what others have or what can be made again

Left out are the public log, of which anyone can keep a mirror; the reading store, which is made again from log and
payloads; and the guard. An old guard says that an old database is the newest, which is the one thing it must not say.
The keys under which the payloads are encrypted are left out too: destroying one erases somebody from every backup
(`aggregator.backup_keys`).

The parts are copied one after another while the aggregator goes on, so the order decides whether they fit together:

    1  registry and other databases    an assignment that it calls committed is in the log of step 2; one that is
                                       committed in between counts as open and is committed a second time, which is true
    2  the sequencer database          each at one moment of its own
    3  keys, policies, enrolments      every enrolment that the log of step 2 has is among them, with its device's name

The copy has the log's keys in it, and the names of patients: whoever reads it can sign for the log.
"""

import functools
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aggregator import status, upkeep, view
from aggregator.backup_keys import Keyring, keys_path
from aggregator.config import AggregatorConfig
from aggregator.mosquitto import STATE
from aggregator.sequencer_copy import copy_unsealed, seal_database
from aggregator.timeseries import embedded
from ledger import merkle
from ledger.errors import LedgerError
from ledger.writer.create import load_log_keys
from ledger.writer.database import DATABASE, copy_database
from ledger.writer.files import sync_directory, sync_file
from ledger.writer.local import GUARD
from ledger.writer.reader import PUBLIC, LocalReader
from ledger.writer.storage import StorageError
from ledger.writer.tree import Edge
from vitalseal.errors import UserError

MANIFEST, CONFIG, DATA = "manifest.json", "aggregator.toml", "data"
CLEAR, FORMAT = 1, 2  # in backups of format 1 the payloads are not encrypted
MAX_MANIFEST = 64 * 1024 * 1024  # of a hundred thousand enrolments; a bound, because it is read whole
_PORTION = 4096  # entries hashed between two reports of progress

# What is not copied, by its path in the data directory: a file, or a folder with all that is in it.
_LEFT_OUT = frozenset(
    {PUBLIC, GUARD, "staging", "writer.lock", status.FILE, embedded.DATABASE, upkeep.FILE, *view.FILES}
)
# What is copied as a folder with nothing in it: the broker's own database, in the place that its configuration names.
_EMPTY = frozenset({f"broker/{STATE}"})
_DATABASE_SUFFIX = ".db"
_BESIDE_DATABASES = ("-wal", "-shm", "-journal")

# How far it is: of what, done, in all.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is in a backup. `root` is that of the newest checkpoint in it, over `checkpoint` of its `entries` entries.

    `files` are by path: [bytes, SHA-256 in hex, permissions, "user:group"]; `folders` by path in the data directory:
    [permissions, "user:group"]. `data` is where the data directory was, `base` the folder of the configuration.
    `keys` tells, in hex, which keys the payloads are encrypted under; None in format 1, where they are not.
    """

    format: int
    taken_at: str
    origin: str
    entries: int
    checkpoint: int
    root: str
    data: str
    base: str
    files: dict[str, list[Any]]
    folders: dict[str, list[Any]]
    keys: str | None = None


def make_backup(config_path: Path, config: AggregatorConfig, target: Path, progress: Progress) -> Manifest:
    """`target` is a backup of the aggregator, whole or not there at all; others cannot read it.

    Raises:
        UserError: `target` is there already, or lies in the data directory.
        StorageError: there is no log, or it cannot be read.
    """
    target, data = target.absolute(), config.data.resolve()
    if target.exists():
        raise UserError(f"{target}: is there already; a backup is never written over another")
    if data in target.resolve().parents:
        raise UserError(f"{target}: lies in the data directory, and would be lost with it")
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # left over from a crash
    copy = unfinished / DATA
    copy.mkdir(mode=0o700, parents=True)
    unfinished.chmod(0o700)
    secret = keys_path(config).resolve()
    for path in sorted(data.glob(f"*{_DATABASE_SUFFIX}")):
        if path.name not in {*_LEFT_OUT, DATABASE} and path != secret:
            copy_database(path, copy / path.name, functools.partial(progress, path.name))
    with closing(Keyring(keys_path(config))) as keys:
        seal_database(data / DATABASE, copy / DATABASE, keys, functools.partial(progress, DATABASE))
        identity = keys.identity.hex()
    _write(unfinished / CONFIG, config_path.read_bytes())
    folders, files = {".": _rights(data)}, {CONFIG: _rights(config_path)}
    for path in _walk(data, data):
        if path == secret:
            continue
        name = path.relative_to(data).as_posix()
        if path.is_dir():
            (copy / name).mkdir(mode=0o700)
            folders[name] = _rights(path)
            continue
        if not (copy / name).exists():
            _write(copy / name, path.read_bytes())
        files[f"{DATA}/{name}"] = _rights(path)
    manifest = _describe(unfinished, data, config_path.parent.resolve(), files, folders, identity)
    _write(unfinished / MANIFEST, json.dumps(asdict(manifest), indent=1, sort_keys=True).encode() + b"\n")
    for folder in (*(copy / name for name in folders), unfinished):
        sync_directory(folder)
    unfinished.rename(target)
    sync_directory(target.parent)
    return manifest


def check_backup(backup: Path, progress: Progress) -> Manifest:
    """The manifest of `backup`, of which every file is there and is what it was, and whose entries lead to its root.

    Raises:
        UserError: it is no backup, or was changed, or is damaged; names the file.
    """
    manifest = _read_manifest(backup)
    found = {path.relative_to(backup).as_posix() for path in backup.rglob("*") if not path.is_dir()} - {MANIFEST}
    if different := sorted(found ^ set(manifest.files)):
        what = "is not in its manifest" if different[0] in found else "is missing"
        raise UserError(f"{backup / different[0]}: {what}; this backup is not as it was made")
    for number, (path, (size, digest, *_)) in enumerate(sorted(manifest.files.items()), 1):
        if (backup / path).stat().st_size != size or _digest(backup / path) != digest:
            raise UserError(f"{backup / path}: is not as it was when the backup was made; use another backup")
        progress("files", number, len(manifest.files))
    try:
        with LocalReader(backup / DATA) as log:
            edge = Edge()
            for low in range(0, manifest.checkpoint, _PORTION):
                edge.grow(log.entries(low, min(low + _PORTION, manifest.checkpoint)))
                progress("entries", edge.size, manifest.checkpoint)
            if (log.size(), edge.size, edge.root().hex()) != (manifest.entries, manifest.checkpoint, manifest.root):
                raise UserError(f"{backup}: its entries do not lead to its checkpoint's root; use another backup")
    except (StorageError, LedgerError) as error:
        raise UserError(str(error)) from None
    return manifest


def copy_back(backup: Path, manifest: Manifest, data: Path) -> None:
    """`data`, which is new, holds what the data directory held, for our own eyes until `give_back`; not synced.

    Of a sequencer database with encrypted payloads it holds the rest.
    """
    for folder in sorted(manifest.folders):
        (data / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in manifest.files:
        if path == f"{DATA}/{DATABASE}" and manifest.keys is not None:
            copy_unsealed(backup / path, data / DATABASE)
        elif path != CONFIG:
            (data / Path(path).relative_to(DATA)).touch(mode=0o600)
            shutil.copyfile(backup / path, data / Path(path).relative_to(DATA))


def give_back(manifest: Manifest, data: Path) -> bool:
    """Everything in `data` has the permissions that it had, and whoever may gives it to whom it belonged.

    What is new there belongs to whom the data directory does. False if something could not be given away.
    """
    known = {str(Path(path).relative_to(DATA)): rights[2:] for path, rights in manifest.files.items() if path != CONFIG}
    known |= manifest.folders
    given = True
    for path in (data, *sorted(data.rglob("*"))):
        mode, owner = known.get(str(path.relative_to(data)), (None, manifest.folders["."][1]))
        given &= _give(path, owner)
        if mode is not None:
            path.chmod(mode)
    return given


def _give(path: Path, owner: str) -> bool:
    if _rights(path)[1] == owner:
        return True
    try:
        shutil.chown(path, *owner.split(":", 1))
    except (LookupError, PermissionError):
        return False
    return True


def _rights(path: Path) -> list[Any]:
    """Permissions and "user:group" of `path`."""
    state = path.stat()
    try:
        owner = f"{path.owner()}:{path.group()}"
    except KeyError:  # one of them has no name on this machine
        owner = f"{state.st_uid}:{state.st_gid}"
    return [stat.S_IMODE(state.st_mode), owner]


def _walk(data: Path, folder: Path) -> Iterator[Path]:
    """Folders and files of the data directory that belong into a backup, a folder before what is in it."""
    for path in sorted(folder.iterdir()):
        # A hidden name is that of a file being written; it gets its own by a rename.
        passing = path.name.startswith(".") or path.name.endswith(_BESIDE_DATABASES)
        name = path.relative_to(data).as_posix()
        if passing or name in _LEFT_OUT:
            continue
        if path.is_dir():
            yield path
            if name not in _EMPTY:
                yield from _walk(data, path)
        elif path.is_file():
            yield path


def _describe(
    backup: Path, data: Path, base: Path, files: dict[str, list[Any]], folders: dict[str, list[Any]], keys: str
) -> Manifest:
    origin = load_log_keys(backup / DATA).signers[0].verifier.name
    with LocalReader(backup / DATA) as log:
        entries, recorded = log.size(), log.recorded()
    return Manifest(
        FORMAT,
        datetime.now(UTC).isoformat(timespec="seconds"),
        origin,
        entries,
        recorded.size if recorded else 0,
        (recorded.root if recorded else merkle.EMPTY_ROOT).hex(),
        str(data),
        str(base),
        {name: [(backup / name).stat().st_size, _digest(backup / name), *rights] for name, rights in files.items()},
        folders,
        keys,
    )


def _read_manifest(backup: Path) -> Manifest:
    path = backup / MANIFEST
    try:
        with path.open("rb") as file:
            table = json.loads(file.read(MAX_MANIFEST))
        manifest = Manifest(**table)
        for size, digest, mode, owner in manifest.files.values():
            bytes.fromhex(digest)
            _check_types((size, int), (mode, int), (owner, str))
        for mode, owner in manifest.folders.values():
            _check_types((mode, int), (owner, str))
        bytes.fromhex(manifest.keys or "")
        _check_types((manifest.folders["."], list), (manifest.data, str), (manifest.base, str))
    except FileNotFoundError:
        raise UserError(f"{path}: there is none; is {backup} a backup, and was it finished?") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: is not what `vitalseal aggregator backup` writes: {error}") from None
    if manifest.format not in (CLEAR, FORMAT):
        raise UserError(f"{path}: of format {manifest.format}, not of this program's {CLEAR} or {FORMAT}")
    if (manifest.keys is None) != (manifest.format == CLEAR):
        raise UserError(f"{path}: of format {manifest.format}, and does not fit it")
    return manifest


def _check_types(*values: tuple[object, type]) -> None:
    for value, expected in values:
        if type(value) is not expected:
            raise TypeError(f"{value!a:.40} is not of type {expected.__name__}")


def _write(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    sync_file(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
