"""What is done to a log once in a while: a device key revoked, the log's keys changed, the log closed.

Revoking goes through the running aggregator, which takes a signed event out of a folder. The other two are done while
it is stopped, because they open the log as its one writer.
"""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from aggregator.config import AggregatorConfig
from aggregator.device_keys import DeviceKeys
from aggregator.enrolment import FOLDER, REVOKE_SUFFIX, Keys
from aggregator.erasures import Erasures
from aggregator.registry import Registry, commit_assignments
from ledger.batch import Header
from ledger.entry import CLOSING, BatchEntry, Closing, Opening, parse_entry
from ledger.events import ChainPlace, revoke
from ledger.note import ED25519_NOTE, ML_DSA_44, NoteSigner, VerifierKey
from ledger.writer.create import (
    POLICY,
    POLICY_PQ,
    REGISTRAR_KEY,
    load_log_keys,
    load_policy,
    load_signer,
    retire_key,
    write_key,
)
from ledger.writer.files import replace_file
from ledger.writer.keybook import read_states
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter
from ledger.writer.reader import LocalReader
from ledger.writer.storage import Place, StorageError, Submission
from ledger.writer.witnesses import Witnesses
from vitalseal.errors import UserError

PORTION = 1024  # batches of a chain looked at together
KEY_TYPES = {"ed25519": ED25519_NOTE, "ml-dsa-44": ML_DSA_44}


@dataclass(frozen=True, slots=True)
class OpenLog:
    """A log with its one writer, and the witnesses that it asks."""

    storage: LocalStorage
    writer: LogWriter
    witnesses: Witnesses | None


@contextmanager
def open_log(config: AggregatorConfig) -> Iterator[OpenLog]:
    """The log of `config`, written by nobody else meanwhile; raises StorageError."""
    with ExitStack() as stack:
        storage = stack.enter_context(LocalStorage(config.data, config.guard))
        witnesses = _witnesses(config)
        if witnesses is not None:
            stack.enter_context(closing(witnesses))
        keys = load_log_keys(config.data)
        writer = LogWriter(storage, keys.signers, time.time_ns, quorum=witnesses, retired=keys.retired)
        yield OpenLog(storage, writer, witnesses)


@dataclass(frozen=True, slots=True)
class Ending:
    """What revoking a key from its place `until` on comes to; `batches` of `readings` on the log are good no more."""

    key_id: bytes
    until: ChainPlace
    batches: int
    readings: int


def plan_device(data: Path, name: str, first: tuple[int | None, int] | None) -> list[Ending]:
    """As `plan_key`, for each good key of the device `name`; what is no device's name is the beginning of a key id.

    Raises:
        UserError: moreover, the device has no good key, or `first` is given and it has more than one.
    """
    with closing(DeviceKeys(data)) as keys:
        if not keys.is_device(name):
            return [plan_key(data, name, first)]
        good = [record.key_id.hex() for record in keys.good(name)]
    if not good:
        raise UserError(f"{name}: has no good key any more")
    if first is not None and len(good) > 1:
        raise UserError(f"--from: {name} has {len(good)} good keys, each with a chain of its own; name one by its id")
    return [plan_key(data, key, first) for key in good]


def plan_key(data: Path, prefix: str, first: tuple[int | None, int] | None) -> Ending:
    """What it would be to revoke the key whose id begins with `prefix`; nothing is changed.

    `first` is the first place of its chain for which it is not good, in its present epoch where that is None; without
    one it is the place after the last that is logged.

    Raises:
        UserError: no such key, or more than one; or it is revoked already; or `first` is beyond the end of its chain.
        StorageError: the log cannot be read.
    """
    if not prefix:
        raise UserError("the name of a device or the beginning of a key id is wanted, and not nothing")
    origin = load_log_keys(data).signers[0].verifier.name
    with LocalReader(data) as log:
        named = [record for record in read_states(log, origin) if record.key_id.hex().startswith(prefix.lower())]
        if len(named) != 1:
            raise UserError(f"{prefix}: no device's name, and {len(named)} enrolled keys begin so, where one is wanted")
        key = named[0].key_id
        if named[0].revoked is not None:
            raise UserError(f"key {key.hex()[:16]} is revoked already, at index {named[0].revoked}")
        head = log.head_place(key)
        after = (0, 0) if head is None else (head.epoch, head.seq + 1)
        until = after if first is None else (after[0] if first[0] is None else first[0], first[1])
        if until > after:
            raise UserError(
                f"--from: the next place of this key is epoch {after[0]} seq {after[1]}; name that or an earlier one"
            )
        return Ending(key, until, *_logged_from(log, Place(key, *until)))


def _logged_from(log: LocalReader, place: Place) -> tuple[int, int]:
    """How many batches the log has from `place` of a chain on, and how many readings are in them."""
    batches, readings = 0, 0
    last = Place(place.key_id, place.epoch, place.seq - 1)
    while found := log.following(last, PORTION):
        for index, last in found:  # noqa: B007 - the last one is where the next portion begins
            (data,) = log.entries(index, index + 1)
            entry = parse_entry(data)
            batches += 1
            readings += Header.decode(entry.header).count if isinstance(entry, BatchEntry) else 0
    return batches, readings


def revoke_key(data: Path, ending: Ending, reason: int) -> Path:
    """A revocation as `ending` says, signed, in the folder of the running aggregator.

    Raises:
        UserError: one of this key waits there already.
        StorageError: the registrar's key cannot be read.
    """
    registrar = load_signer(data / REGISTRAR_KEY)
    origin = load_log_keys(data).signers[0].verifier.name
    folder = data / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"{ending.key_id.hex()}{REVOKE_SUFFIX}"
    if path.exists():
        raise UserError(f"{path}: a revocation of this key waits there; remove it first if it is not the one you want")
    replace_file(path, revoke(ending.key_id, registrar.key, origin, ending.until, reason).encode())
    return path


def add_log_key(config: AggregatorConfig, kind: str) -> VerifierKey:
    """The log signs with one key more from its next start on, and its policy names it.

    Raises:
        StorageError: the log is being written, or cannot be.
    """
    with LocalStorage(config.data, config.guard):
        origin = load_log_keys(config.data).signers[0].verifier.name
        signer = NoteSigner(origin, os.urandom(32), KEY_TYPES[kind])
        path = config.data / (POLICY_PQ if kind == "ml-dsa-44" else POLICY)
        # The policy first: a key that it names and that never signs does no harm, the reverse does.
        replace_file(path, f"log {signer.verifier}\n".encode() + path.read_bytes())
        write_key(config.data, signer)
    return signer.verifier


def retire_log_key(config: AggregatorConfig, prefix: str) -> VerifierKey:
    """The key of the log whose id begins with `prefix` signs no more; its line stays in the policy, for old proofs.

    Raises:
        UserError: no such key, or more than one, or the last of its type.
        StorageError: the log is being written, or cannot be.
    """
    with LocalStorage(config.data, config.guard):
        keys = [signer.verifier for signer in load_log_keys(config.data).signers]
        named = [key for key in keys if prefix and key.id.hex().startswith(prefix.lower())]
        if len(named) != 1:
            raise UserError(f"{prefix}: {len(named)} keys that sign begin so, where one is wanted")
        if [key.type for key in keys].count(named[0].type) == 1:
            raise UserError(f"{prefix}: is the last key of its type; add its successor first")
        retire_key(config.data, named[0])
    return named[0]


def close_log(config: AggregatorConfig, successor: AggregatorConfig) -> tuple[LogWriter, LogWriter]:
    """The log of `config` is closed and published for the last time, and that of `successor` begins where it ended.

    Done again after a failure, it goes on where that one stopped. Returns both writers, which write no more.

    Raises:
        UserError: the successor bears the same name, or has entries already that do not begin with its opening; or
            all is as it should be, but for erasures that have to wait, and nobody runs a closed log to finish them.
        StorageError: one of the two cannot be written, or has no quorum now.
    """
    with open_log(successor) as new:
        check_successor(new, load_log_keys(config.data).signers[0].verifier.name)
        publish_all(new.writer)  # nothing ends before what comes after it has its quorum
        with open_log(config) as old:
            if old.writer.closed:
                _check_closed_for(old.storage, new.writer.origin)
            else:
                _finish(config, old)
                vkeys = tuple(str(signer.verifier) for signer in load_log_keys(successor.data).signers)
                old.writer.close(Submission(Closing(new.writer.origin, vkeys).encode()))
            publish_all(old.writer)
            end = old.writer.checkpoint
            with closing(Registry(config.data)) as registry:
                waiting = Erasures(config, registry, old.storage, old.writer).finish()
        if not new.writer.size:
            new.writer.append([Submission(Opening(end.origin, end.size, end.root).encode())])
        publish_all(new.writer)
    if waiting:
        raise UserError(
            f"{config.data}: the log is closed, and {waiting} erasures are not finished, because somebody reads the "
            "payloads (a backup?) or the keys of backups are away; do this again"
        )
    return old.writer, new.writer


def check_successor(new: OpenLog, origin: str) -> None:
    """`new` can go on where the log named `origin` ends, or does so already."""
    if new.writer.origin == origin:
        raise UserError(f"the successor is named {origin} as well; two histories under one name are a fork")
    first = next(new.storage.entries(0, 1), None)
    opening = None if first is None else parse_entry(first)
    if first is not None and not (isinstance(opening, Opening) and opening.predecessor == origin):
        raise UserError("the successor has entries already; make a fresh log with `vitalseal aggregator init`")


def _finish(config: AggregatorConfig, log: OpenLog) -> None:
    """What waits for the aggregator is on the log: key events, assignments, erasures, and the state of all keys."""
    with closing(Registry(config.data)) as registry:
        keys = Keys(config.data, log.writer, log.storage, registry)
        commit_assignments(registry, log.writer)
        Erasures(config, registry, log.storage, log.writer).commit()
        keys.renew(now=True)


def _check_closed_for(storage: LocalStorage, origin: str) -> None:
    for _, data in storage.of_type(CLOSING):
        closing_entry = parse_entry(data)
        if isinstance(closing_entry, Closing) and closing_entry.successor != origin:
            raise UserError(f"the log is closed already, for {closing_entry.successor}")


def publish_all(writer: LogWriter) -> None:
    """Everything that is committed is published; raises StorageError if there is no quorum for it now."""
    while writer.publish():
        pass
    if writer.checkpoint.size != writer.size:
        raise StorageError(
            f"{writer.origin}: no quorum of witnesses cosigns it now; give them its policy, and do this again"
        )


def _witnesses(config: AggregatorConfig) -> Witnesses | None:
    """The witnesses of the log's policies, None if these name none; raises StorageError."""
    policies = [load_policy(path) for name in (POLICY, POLICY_PQ) if (path := config.data / name).exists()]
    if all(policy.quorum is None and not policy.witnesses for policy in policies):
        return None
    return Witnesses(policies, timeout_s=config.witness_timeout_s)
