"""Requests to erase readings: recorded by a command, carried out by the running aggregator, never half forgotten.

    recorded       in the registry, a row a batch; the readings are untouched
    on the log     the entry is committed that says which leaves of which batch were erased
    erased         their salts and bytes are in no file of the sequencer database (`Storage.erase`)
    out of reach   the keys are destroyed under which backups hold readings of the same sources
    done           and the entry is published, so that no restore brings the readings back without it

Killed anywhere, the next turn goes on from what is there: an entry on the log that names the leaves is the request's
own, and whatever such an entry names is erased, with a request or without one. A batch of which no reading is left
loses its info as well, for the times and sources in it.
"""

import json
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aggregator.backup_keys import destroy
from aggregator.config import AggregatorConfig
from aggregator.registry import Registry
from ledger.batch import Header
from ledger.entry import BatchEntry, Erased, parse_entry
from ledger.writer.log import LogWriter
from ledger.writer.storage import Place, Storage, Submission
from vitalseal.errors import UserError

logger = logging.getLogger(__name__)

# Batches in one transaction: while they are overwritten, at most 8 MB, whoever commits batches waits.
PORTION = 32
TURN_S = 0.5  # then the next checkpoint is due
AGAIN_S = 30.0  # keys of backups that cannot be had now are left alone for so long
_COLUMNS = "id, requested_at_ns, key_id, epoch, seq, log_index, leaves, sources, reason, entry_index, done_at_ns"


@dataclass(frozen=True, slots=True)
class Target:
    """Readings of one batch that are to be erased: its place and its index, their leaves, and their sources."""

    place: Place
    log_index: int
    leaves: tuple[int, ...]
    sources: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Request:
    """A target that was recorded; `entry_index` is where the log says so, `done_at_ns` when nothing was left to do."""

    id: int
    requested_at_ns: int
    target: Target
    reason: str
    entry_index: int | None
    done_at_ns: int | None


def record(registry: Registry, targets: Iterable[Target], reason: str, now_ns: int) -> list[int]:
    """All of `targets` are durably requested, or none; their ids."""
    ids = []
    with registry.transaction() as database:
        for target in targets:
            place = target.place
            sources = json.dumps(sorted(source.hex() for source in target.sources))
            done = database.execute(
                "INSERT INTO erasures (requested_at_ns, key_id, epoch, seq, log_index, leaves, sources, reason)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    now_ns,
                    place.key_id,
                    place.epoch,
                    place.seq,
                    target.log_index,
                    json.dumps(target.leaves),
                    sources,
                    reason,
                ),
            )
            ids.append(int(done.lastrowid or 0))
    return ids


def requests(registry: Registry, where: str = "TRUE ORDER BY id", *values: int) -> list[Request]:
    """The requests, the oldest first; or those for which `where` holds."""
    with registry.reading() as database:
        rows = database.execute(f"SELECT {_COLUMNS} FROM erasures WHERE {where}", values).fetchall()  # noqa: S608 - ours
    return [_request(row) for row in rows]


class Erasures:
    """Carries out what is requested in `registry`; used from the thread that uses that."""

    def __init__(self, config: AggregatorConfig, registry: Registry, storage: Storage, writer: LogWriter) -> None:
        self._config = config
        self._registry = registry
        self._storage = storage
        self._writer = writer
        # Requests up to this id have had their turn; one that has to wait must not hold up those behind it.
        self._looked_at = 0
        self._keys_away_until_s: float | None = None
        self._refused: set[int] = set()  # requests that nobody can carry out, each told of once

    def work(self) -> None:
        """Some of what is requested is done; raises StorageError, or UserError for the registry's sake."""
        until_s = time.monotonic() + TURN_S
        while self._work() and time.monotonic() < until_s:
            pass

    def commit(self) -> None:
        """Every request whose batch is on the log is on it too, and carried out as far as can be now."""
        # Also where a backup reads, which keeps all else waiting: a log that is closed takes no entry later.
        while self._commit() or self._looked_at:
            pass
        while self._work():
            pass

    def finish(self) -> int:
        """As `commit`; of the requests that are on the log so many are not done."""
        self.commit()
        return len(requests(self._registry, "entry_index IS NOT NULL AND done_at_ns IS NULL"))

    def _work(self) -> bool:
        """A portion of everything; whether there may be more to do now."""
        committed = self._commit()
        batches = self._storage.to_erase(PORTION)
        if batches and not self._storage.erase(batches):
            return False  # somebody reads an older state, a backup say; the bytes are there for as long
        # Only where nothing is waiting to be overwritten: a backup may seal what is there, under a new key.
        done = self._finish() if len(batches) < PORTION else 0
        return bool(committed or batches or done)

    def _commit(self) -> int:
        """The entries of some requests are on the log."""
        if self._writer.closed:
            return 0  # `aggregator close` committed what was requested by then; the command refuses what comes after
        query = "entry_index IS NULL AND done_at_ns IS NULL AND id > ? ORDER BY id LIMIT ?"
        waiting = requests(self._registry, query, self._looked_at, PORTION)
        self._looked_at = waiting[-1].id if len(waiting) == PORTION else 0
        found: list[tuple[Request, int, int]] = []  # with the index of its batch, and of its entry
        new: list[tuple[Request, Erased]] = []
        for request in waiting:
            at = self._storage.find(request.target.place)
            # After a restore a batch that nobody had seen published may come again, and have another index then.
            if at is None or any(erased.log_index == at[0] for _, erased in new):
                continue
            entry, named = self._entry(request, *at)
            if named is not None:
                found.append((request, at[0], named))
            elif entry is not None:
                new.append((request, entry))
        if new:
            first = self._writer.append([Submission(erased.encode()) for _, erased in new])
            found += [(request, erased.log_index, first + at) for at, (request, erased) in enumerate(new)]
        if found:
            # Killed before this, the entry is found to name the leaves already.
            with self._registry.transaction() as database:
                database.executemany(
                    "UPDATE erasures SET log_index = ?, entry_index = ? WHERE id = ?",
                    [(index, entry_index, request.id) for request, index, entry_index in found],
                )
        return len(found)

    def _entry(self, request: Request, index: int, data: bytes) -> tuple[Erased | None, int | None]:
        """What the log has to say of the batch at `index`; or which entry says it."""
        batch, wanted = parse_entry(data), set(request.target.leaves)
        count = Header.decode(batch.header).count if isinstance(batch, BatchEntry) else 0
        if not wanted or not wanted <= set(range(1, count + 1)):
            if request.id not in self._refused:
                self._refused.add(request.id)
                logger.error("erasure %d names readings that entry %d does not have; it is not done", request.id, index)
            return None, None
        gone: set[int] = set()
        for at, erased in _entries(self._storage, index):
            if wanted <= set(erased.leaves):
                return None, at
            gone.update(erased.leaves)
        is_last = set(range(1, count + 1)) <= gone | wanted
        return Erased(index, tuple(sorted(wanted | {0} if is_last else wanted))), None

    def _finish(self) -> int:
        """Of some requests that are carried out, nothing is in a backup either, and they are done."""
        if self._keys_away_until_s is not None and time.monotonic() < self._keys_away_until_s:
            return 0
        published = self._storage.published()
        query = "entry_index < ? AND done_at_ns IS NULL ORDER BY id LIMIT ?"
        ready = requests(self._registry, query, published.size if published else 0, PORTION)
        subjects: set[bytes] = set()
        done, lost = [], []
        for request in ready:
            named = dict(_entries(self._storage, request.target.log_index)).get(request.entry_index or 0)
            if named is None:
                lost.append((request.id,))  # with the end of a log that was restored; it is committed again
                continue
            subjects |= request.target.sources | ({request.target.place.key_id} if named.leaves[0] == 0 else set())
            done.append((time.time_ns(), request.id))
        if not ready or not self._destroyed(subjects):
            return 0
        with self._registry.transaction() as database:
            database.executemany("UPDATE erasures SET entry_index = NULL WHERE id = ?", lost)
            database.executemany("UPDATE erasures SET done_at_ns = ? WHERE id = ?", done)
        logger.info("erased: %d requests are done", len(done))
        return len(ready)

    def _destroyed(self, subjects: set[bytes]) -> bool:
        """No backup can be read of them any more; losing the keys and having them again are one line in the log."""
        try:
            destroy(self._config, subjects)
        except UserError as error:
            if self._keys_away_until_s is None:
                logger.error("%s; erasures wait for it, all else does not", error)  # noqa: TRY400 - in one line
            self._keys_away_until_s = time.monotonic() + AGAIN_S
            return False
        if self._keys_away_until_s is not None:
            logger.info("the keys of backups are there again")
        self._keys_away_until_s = None
        return True


def _entries(storage: Storage, index: int) -> list[tuple[int, Erased]]:
    """The erasures of the batch `index` that are on the log."""
    found = []
    for at in storage.erasures(index):
        (data,) = storage.entries(at, at + 1)
        if isinstance(entry := parse_entry(data), Erased):
            found.append((at, entry))
    return found


def _request(row: Sequence[Any]) -> Request:
    number, at_ns, key_id, epoch, seq, log_index, leaves, sources, reason, entry_index, done_at_ns = row
    target = Target(
        Place(key_id, epoch, seq),
        log_index,
        tuple(json.loads(leaves)),
        frozenset(bytes.fromhex(source) for source in json.loads(sources)),
    )
    return Request(number, at_ns, target, reason, entry_index, done_at_ns)
