"""A new log: its own keys under a fresh origin, an empty database, and the files that outsiders need.

keys/log-<id>.key         each signs every checkpoint: one Ed25519, one ML-DSA-44
keys/log-<id>.retired     signed once; still known, so that what it signed can be told from a stranger's
keys/registrar.key        signs device keys in
policy.txt                the log's Ed25519 key and the witnesses' Ed25519 keys
policy-pq.txt             the same with ML-DSA-44 keys only, for those who look further ahead
trust.txt                 the registrar's public key
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ledger import merkle
from ledger.batch import check_origin
from ledger.checkpoint import Checkpoint
from ledger.errors import MalformedError
from ledger.note import ED25519_NOTE, ML_DSA_44, NoteSigner, VerifierKey, parse_vkey
from ledger.policy import Policy, Witness, parse_policy
from ledger.writer.database import DATABASE, create_database
from ledger.writer.files import replace_file, sync_directory
from ledger.writer.local import GUARD
from ledger.writer.reader import PUBLIC
from ledger.writer.storage import StorageError

KEYS = "keys"
LOG_KEYS = "log-*.key"
RETIRED_KEYS = "log-*.retired"
REGISTRAR_KEY = "keys/registrar.key"
POLICY = "policy.txt"
POLICY_PQ = "policy-pq.txt"
TRUST = "trust.txt"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LogKeys:
    """A log's keys: those that sign, Ed25519 first, and those that signed before."""

    signers: tuple[NoteSigner, ...]
    retired: tuple[VerifierKey, ...]


def create_log(
    data: Path, origin: str, *, witnesses: Sequence[Witness] = (), quorum: int | None = None, guard: Path | None = None
) -> None:
    """Makes `data` a log named `origin`: keys, sequencer database, guard, policies, `trust.txt`.

    `witnesses` are named in the policies, one key of each (keys of one name are one witness's); `quorum` of them have
    to cosign, more than half. `policy-pq.txt` is written only if enough of them have an ML-DSA-44 key. The
    origin must never have named a log before: two histories under one name are what auditors look for.

    Raises:
        StorageError: there is a log already, or the directory cannot be written.
        MalformedError: the origin or the witnesses do not make a policy.
    """
    check_origin(origin)
    guard = guard or data / GUARD
    classical, post_quantum = (NoteSigner(origin, os.urandom(32), type_) for type_ in (ED25519_NOTE, ML_DSA_44))
    registrar = NoteSigner(f"{origin}/registrar", os.urandom(32))
    policies = _policies(classical.verifier, post_quantum.verifier, witnesses, quorum)
    try:
        new = [folder for folder in (data, *data.parents) if not folder.exists()]
        data.mkdir(parents=True, exist_ok=True)
        (data / KEYS).mkdir(mode=0o700, exist_ok=True)
        (data / PUBLIC).mkdir(exist_ok=True)
        if (data / DATABASE).exists():
            raise StorageError(f"{data / DATABASE}: there is a log already; nothing was changed")
        if guard.exists():
            raise StorageError(f"{guard}: is there already; it guards a log, or did: name another place")
        for key in (classical, post_quantum):
            write_key(data, key)
        _write(data / REGISTRAR_KEY, registrar.skey() + "\n", 0o600)
        sync_directory(data / KEYS)
        for name, text in policies.items():
            _write(data / name, text, 0o644)
        _write(data / TRUST, f"{registrar.verifier}\n", 0o644)
        _write(guard, Checkpoint(origin, 0, merkle.EMPTY_ROOT).text(), 0o644)
        sync_directory(guard.parent)
        for folder in {data, data.parent, *(folder.parent for folder in new)}:
            sync_directory(folder)
        # Last, and at once: a database is what makes the directory a log, and no log is without its keys.
        create_database(data)
    except FileExistsError as error:
        raise StorageError(
            f"{error.filename}: is there, but no log is; remove {data} if nothing in it is needed"
        ) from None
    except OSError as error:
        raise StorageError(f"{error.filename or data}: {error.strerror or error}") from None


def _policies(
    classical: VerifierKey, post_quantum: VerifierKey, witnesses: Sequence[Witness], quorum: int | None
) -> dict[str, str]:
    """The policy files' texts by name; raises MalformedError if they cannot be satisfied."""
    by_name: dict[str, dict[bool, Witness]] = {}
    names: dict[str, str] = {}
    for witness in witnesses:
        if witness.url is None:
            raise MalformedError(f"witness {witness.name}: has no URL, so the log could not ask it")
        if names.setdefault(witness.url, witness.key.name) != witness.key.name:
            raise MalformedError(f"witness {witness.name}: {witness.url} is that of {names[witness.url]} as well")
        if any(witness.key == known.key for known in by_name.get(witness.key.name, {}).values()):
            raise MalformedError(f"witness {witness.name}: is named twice")
        by_name.setdefault(witness.key.name, {})[witness.key.type == ML_DSA_44] = witness
    count = len(by_name) // 2 + 1 if quorum is None else quorum
    if by_name and not len(by_name) // 2 < count <= len(by_name):
        raise MalformedError(
            f"a quorum of {count} out of {len(by_name)} witnesses: it has to be more than half of them, or two quorums "
            "could cosign two histories"
        )
    # A witness without a classical key counts by its other one.
    texts = {POLICY: _policy(classical, [keys.get(False) or keys[True] for keys in by_name.values()], count)}
    strong = [keys[True] for keys in by_name.values() if True in keys]
    if len(strong) >= count or not by_name:
        texts[POLICY_PQ] = _policy(post_quantum, strong, count)
    for text in texts.values():
        parse_policy(text.encode())
    return texts


def _policy(log: VerifierKey, witnesses: Sequence[Witness], count: int) -> str:
    lines = [f"log {log}"]
    lines += [" ".join(filter(None, ("witness", item.name, str(item.key), item.url))) for item in witnesses]
    if not witnesses:
        return "\n".join([*lines, "quorum none", ""])
    group = f"group quorate {count} {' '.join(item.name for item in witnesses)}"
    return "\n".join([*lines, group, "quorum quorate", ""])


def write_key(data: Path, key: NoteSigner) -> None:
    """`key` is one of the log's: it signs from the next start on."""
    _write(_key_path(data, key.verifier), key.skey() + "\n", 0o600)


def retire_key(data: Path, key: VerifierKey) -> None:
    """`key` signs no more from the next start on; what it signed is still known."""
    path = _key_path(data, key)
    replace_file(path.with_suffix(".retired"), f"{key}\n".encode())
    path.unlink()
    sync_directory(path.parent)


def load_log_keys(data: Path) -> LogKeys:
    """The keys of the log in `data`; raises StorageError if there is none, or one cannot be used."""
    signers = [load_signer(path) for path in sorted((data / KEYS).glob(LOG_KEYS))]
    if not signers:
        raise StorageError(f"{data / KEYS}: there is no {LOG_KEYS}; is {data} an aggregator's data directory?")
    retired = [_load(path, parse_vkey) for path in sorted((data / KEYS).glob(RETIRED_KEYS))]
    return LogKeys(tuple(sorted(signers, key=lambda signer: signer.verifier.type)), tuple(retired))


def load_signer(path: Path) -> NoteSigner:
    """The note key in `path`; raises StorageError if it cannot be read, is not one, or others may read it."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from None
    if mode & 0o077:
        raise StorageError(f"{path}: others may read this private key; run  chmod 600 {path}")
    return _load(path, NoteSigner.parse)


def load_policy(path: Path) -> Policy:
    """The policy in `path`; raises StorageError."""
    return _load(path, lambda text: parse_policy(text.encode()))


def load_witnesses(path: Path) -> tuple[Witness, ...]:
    """The witnesses in a file of policy lines, as a witness's operator hands it out; raises StorageError."""
    return _load(path, lambda text: parse_policy(f"{text}\nquorum none\n".encode()).witnesses)


def _key_path(data: Path, key: VerifierKey) -> Path:
    return data / KEYS / f"log-{key.id.hex()}.key"


def _load(path: Path, parse: Callable[[str], T]) -> T:
    """What `parse` makes of the text in `path`, without its last newline."""
    try:
        return parse(path.read_text(encoding="utf-8").rstrip("\n"))
    except MalformedError as error:
        raise StorageError(f"{path}: {error}") from None
    except UnicodeDecodeError:
        raise StorageError(f"{path}: not a text file") from None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from None


def _write(path: Path, text: str, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
