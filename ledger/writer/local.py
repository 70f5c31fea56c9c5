"""A log's storage on one machine: SQLite for order and payloads, a directory for the public tree.

    <data>/sequencer.db     trusted: entries, payloads, recorded checkpoints
    <data>/log/             derived: checkpoint, tile/...   (what the world may copy)
    <data>/staging/         files being written; emptied at every start
    <data>/guard            origin, size and root of the last signed checkpoint; may be placed on another volume
    <data>/frozen           only after a restore that could not be finished: nothing is written here any more

There is one writing connection, under a lock; everyone else opens the database read-only. (Before SQLite 3.51.3
two writers on one WAL can corrupt it.)
"""

import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import islice
from pathlib import Path

from ledger.batch import Header
from ledger.entry import BATCH, COMMITMENT, BatchEntry, Entry, Erased, parse_entry
from ledger.errors import LedgerError
from ledger.leaves import check_leaves
from ledger.writer.database import DATABASE, open_for_writing
from ledger.writer.erasing import NO_LEAVES, empty_wal, overwrite, without
from ledger.writer.files import fatal, lock, make_parents, replace_file, sync_directory
from ledger.writer.payload import parse_payload
from ledger.writer.reader import LocalReader
from ledger.writer.storage import Recorded, StorageError, Submission

GUARD = "guard"
FROZEN = "frozen"
_STAGING = "staging"
_IN_BULK = (BATCH, COMMITMENT)  # types that are never listed, so that they cost no second index
_ERASED_AT_ONCE = 64  # batches at a start; as many as a few MB of write-ahead log take


class LocalStorage(LocalReader):
    """`Storage` on SQLite and a directory; use as a context manager."""

    def __init__(self, data: Path, guard: Path | None = None) -> None:
        """`guard`: where the second copy of the last checkpoint's size and root is, if not in `data`."""
        path = data / DATABASE
        if not path.exists():
            # A key that signs without its database would start a second history under the same name.
            raise StorageError(
                f"{path}: there is no sequencer database; restore it, or make a new log with its own key"
            )
        if (data / FROZEN).exists():
            raise StorageError(
                f"{data / FROZEN}: this log is frozen, because it was restored from a copy that is too old; "
                "restore it with a mirror that has all of it, or go on with `vitalseal aggregator succeed`"
            )
        self._guard = guard or data / GUARD
        self._write_lock = threading.Lock()
        self._failed = False
        # Directories whose own name this process has made durable.
        self._named: set[Path] = set()
        with ExitStack() as opened:
            opened.enter_context(lock(data / "writer.lock"))
            self._writing = opened.enter_context(closing(open_for_writing(data)))
            super().__init__(data)
            opened.callback(super().close)
            with fatal(data):
                self._size = super().size()
                chains = self._writing.execute("SELECT key_id, number FROM chains").fetchall()
                self._chains: dict[bytes, int] = dict(chains)
                shutil.rmtree(data / _STAGING, ignore_errors=True)
                (data / _STAGING).mkdir()
                self._public.mkdir(exist_ok=True)
            self._finish_erasures()
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Releases the databases and the lock."""
        self._opened.close()

    def append(self, group: Sequence[Submission]) -> int:
        """Commits `group` as one transaction; see `Storage.append`."""
        with self._write_lock:
            first = self._size
            known = len(self._chains)
            rows = []
            erased = []
            for index, item in enumerate(group, first):
                place: tuple[int | None, ...] = (None, None, None)
                entry = None if item.place else parse_entry(item.entry)
                if isinstance(entry, Erased) and entry.log_index < index:
                    erased.append((entry.log_index, index))
                if item.place:
                    chain = self._chains.setdefault(item.place.key_id, len(self._chains))
                    place = (chain, item.place.epoch, item.place.seq)
                rows.append((index, _kind(entry), item.entry, *place))
            chains = [(number, key_id) for key_id, number in islice(self._chains.items(), known, None)]
            payloads = [(at, item.payload) for at, item in enumerate(group, first) if item.payload is not None]
            missing = [row[3:] for row, item in zip(rows, group, strict=True) if item.place and item.payload is None]
            notable = [(row[1], row[0]) for row in rows if row[1] not in _IN_BULK]
            with self._durable(self._data / DATABASE), self._writing:
                self._writing.execute("BEGIN")
                self._writing.executemany("INSERT INTO chains VALUES (?, ?)", chains)
                self._writing.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", rows)
                self._writing.executemany("INSERT INTO payloads VALUES (?, ?)", payloads)
                self._writing.executemany("INSERT INTO missing VALUES (?, ?, ?)", missing)
                self._writing.executemany("INSERT INTO notable VALUES (?, ?)", notable)
                self._writing.executemany("INSERT INTO erased VALUES (?, ?, FALSE)", erased)
            self._size = first + len(group)
            return first

    def put_payload(self, index: int, payload: bytes) -> bool:
        """The payload of a batch that has none is there again; see `Storage.put_payload`."""
        row = self._row("SELECT entry, chain, epoch, seq FROM entries WHERE idx = ? AND chain IS NOT NULL", index)
        entry = row and parse_entry(row[0])
        if row is None or not isinstance(entry, BatchEntry):
            return False
        check_leaves(Header.decode(entry.header), parse_payload(payload))
        with self._write_lock, self._durable(self._data / DATABASE), self._writing:
            self._writing.execute("BEGIN IMMEDIATE")
            done = self._writing.execute("DELETE FROM missing WHERE chain = ? AND epoch = ? AND seq = ?", row[1:])
            if done.rowcount:
                # Under the lock: what is called erased from here on, `erase` finds in this payload.
                overwrite(self._writing, index, without(entry, payload, self._erased_leaves(index)))
                self._writing.execute("INSERT INTO returned (idx) VALUES (?)", (index,))
            return bool(done.rowcount)

    def erase(self, batches: Sequence[int]) -> bool:
        """Overwritten in one transaction, then out of the write-ahead log too; see `Storage.erase`."""
        with self._write_lock, self._durable(self._data / DATABASE):
            kept = {index: self._what_is_left(index) for index in batches}
            with self._writing:
                self._writing.execute("BEGIN IMMEDIATE")
                for index, payload in kept.items():
                    if payload is not None:
                        overwrite(self._writing, index, payload)
            # Killed here, the log's pages with the bytes are still in the write-ahead log: so it is not done yet.
            if not empty_wal(self._writing):
                return False
            with self._writing:
                self._writing.execute("BEGIN IMMEDIATE")
                done = [(index,) for index in batches]
                self._writing.executemany("UPDATE erased SET done = TRUE WHERE batch = ?", done)
        return True

    def _what_is_left(self, index: int) -> bytes | None:
        """The payload of `index` without what was erased; None if that is how it is, or there is none."""
        payload = self.payload(index)
        if payload is None:
            return None
        entry = parse_entry(next(self.entries(index, index + 1)))
        if not isinstance(entry, BatchEntry):
            raise StorageError(f"entry {index} is no batch, and has a payload; the database is damaged")
        try:
            kept = without(entry, payload, self._erased_leaves(index))
        except LedgerError:
            # Somebody has changed it, so that it proves nothing; what was to be erased may be in it all the same.
            kept = NO_LEAVES
        return kept if kept != payload else None

    def _erased_leaves(self, index: int) -> set[int]:
        """The leaves of the batch `index` that entries call erased."""
        entries = (parse_entry(data) for at in self.erasures(index) for data in self.entries(at, at + 1))
        return {leaf for entry in entries if isinstance(entry, Erased) for leaf in entry.leaves}

    def _finish_erasures(self) -> None:
        """What was to be erased when the last writer ended, or was replayed from the public log, is; as far as it can.

        The rest goes on waiting: `to_erase` has it.
        """
        while (batches := self.to_erase(_ERASED_AT_ONCE)) and self.erase(batches):
            pass

    def mark_replayed(self, first: int, size: int) -> None:
        """Of the checkpoints larger than `first` and up to `size` this database knows the last one at most."""
        with self._write_lock, self._durable(self._data / DATABASE), self._writing:
            self._writing.execute("BEGIN IMMEDIATE")
            self._writing.execute("INSERT OR REPLACE INTO replayed VALUES (?, ?)", (first, size))

    def size(self) -> int:
        """How many entries are committed."""
        return self._size

    def guard(self) -> bytes:
        """The text in the guard."""
        try:
            return self._guard.read_bytes()
        except OSError as error:
            raise StorageError(
                f"{self._guard}: {error.strerror or error}; the guard is what shows that this database is no old copy: "
                "mount its volume, or, if it is lost for good and the newest checkpoint is in this database, write "
                "that checkpoint's first three lines into it"
            ) from None

    def record(self, checkpoint: Recorded, text: str) -> None:
        """Compare-and-swap: only a checkpoint larger than every recorded one goes in; the guard follows."""
        values = (checkpoint.size, checkpoint.root, checkpoint.note, checkpoint.recorded_at_ns, False)
        with self._write_lock, self._durable(self._data / DATABASE), self._writing:
            self._writing.execute("BEGIN IMMEDIATE")
            done = self._writing.execute(
                "INSERT INTO checkpoints SELECT ?, ?, ?, ?, ?"
                " WHERE ? > (SELECT coalesce(max(size), -1) FROM checkpoints)",
                (*values, checkpoint.size),
            )
            if done.rowcount != 1:
                raise StorageError(f"a checkpoint of size {checkpoint.size} or more is recorded already")
        with self._durable(self._guard):
            replace_file(self._guard, text.encode())

    def publish(self, checkpoint: Recorded) -> None:
        """The cosigned note takes the place of the one that was recorded."""
        with self._write_lock, self._durable(self._data / DATABASE), self._writing:
            self._writing.execute("BEGIN IMMEDIATE")
            done = self._writing.execute(
                "UPDATE checkpoints SET note = ?, published = TRUE WHERE size = ? AND root = ? AND NOT published",
                (checkpoint.note, checkpoint.size, checkpoint.root),
            )
            if done.rowcount != 1:
                raise StorageError(f"no checkpoint of size {checkpoint.size} waits to be published")

    def write(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Stages, syncs, renames into place, then syncs each directory that changed, once."""
        with self._durable(self._public):
            staged = [(self._stage(number, data), path) for number, (path, data) in enumerate(files)]
            changed: set[Path] = set()
            for temporary, path in staged:
                target = self._public / path
                changed.update(make_parents(target.parent, self._data, self._named))
                temporary.rename(target)
            for directory in changed:
                sync_directory(directory)
            self._named |= changed

    def remove_partials(self, paths: Iterable[str]) -> None:
        """Removes `<path>.p` directories; a crash in between leaves files that are right and in nobody's way."""
        for path in paths:
            with self._durable(self._public), suppress(FileNotFoundError):
                shutil.rmtree(self._public / path)
            self._named.discard(self._public / path)  # one directory in 256 entries: they would fill the memory

    @contextmanager
    def _durable(self, where: Path) -> Iterator[None]:
        """One write; after the first that failed nothing is written any more, by any thread.

        What a failed fsync left on the disk nobody can say, so going on would build on it.
        """
        if self._failed:
            raise StorageError(f"{where}: not written, because a write before it failed")
        try:
            with fatal(where):
                yield
        except BaseException:
            self._failed = True
            raise

    def _stage(self, number: int, data: bytes) -> Path:
        path = self._data / _STAGING / str(number)
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return path


def _kind(entry: Entry | None) -> int:
    """The entry's type; that of a batch is known from its place, without parsing it again on the hot path."""
    return BATCH if entry is None else entry.type
