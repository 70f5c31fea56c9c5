"""The projection: a process of its own that walks the log and writes readings, with proof references, to a store.

Its cursor lies in the store and moves in the same transaction as what it counts, so it may be killed anywhere. It reads
the published tree and, read-only, the payloads; a store that is away delays only the view.

After a restore batches may lack their payloads until their devices send them again. The cursor passes them by, so that
what is here is shown; the log's database numbers the payloads that come back, and each batch among them that the cursor
has passed and the store lacks is projected then. Nothing of that needs a place in the store: looked at again from the
first number at every start, it finds what is there already.
"""

import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from aggregator.registry import Registry
from aggregator.side_process import parent_gone
from aggregator.timeseries.base import ReadingStore, StoredBatch, StoredReading
from aggregator.timeseries.embedded import EmbeddedStore
from ledger.batch import LEAVES_PER_BATCH, Header
from ledger.checkpoint import Checkpoint, parse_checkpoint
from ledger.entry import BatchEntry, parse_entry
from ledger.errors import LedgerError
from ledger.fsck import CHECKPOINT_PATH
from ledger.keystate import KeyStates
from ledger.leaves import Leaf, check_leaves
from ledger.note import parse_note
from ledger.reading import Reading
from ledger.tiles import TileReader
from ledger.writer.keybook import read_states
from ledger.writer.payload import parse_payload
from ledger.writer.reader import LocalReader
from ledger.writer.storage import StorageError
from vitalseal.errors import UserError

PORTION = 128  # entries in one transaction of the store
POLL_S = 0.25  # how long the view may lag behind a checkpoint that was just published


@dataclass(frozen=True, slots=True)
class _Tree:
    """A published tree, and its checkpoint as signed and cosigned."""

    reader: TileReader
    note: bytes


@dataclass(slots=True)
class _Portion:
    batches: list[StoredBatch] = field(default_factory=list)
    readings: list[StoredReading] = field(default_factory=list)


class Projection:
    """Moves `store` up to the published tree of the log in `data`."""

    def __init__(self, data: Path, store: ReadingStore) -> None:
        self._data = data
        self._store = store
        self._log = LocalReader(data)
        self._keys = KeyStates("")
        self._tree: _Tree | None = None
        self._devices: dict[bytes, str] = {}
        self._returned = 0  # the number up to which payloads that came back were looked at

    def close(self) -> None:
        """Releases the log."""
        self._log.close()

    def catch_up(self) -> int:
        """Projects every published entry that the store lacks; returns how many there were."""
        note = self._log.read(CHECKPOINT_PATH)
        if note is None:
            return 0
        checkpoint = parse_checkpoint(parse_note(note, "checkpoint").text)
        return self._project_late(checkpoint.origin) + self._project_new(checkpoint)

    def _project_new(self, checkpoint: Checkpoint) -> int:
        """Projects what lies behind the cursor."""
        start = self._store.cursor()
        if start >= checkpoint.size:
            return 0
        self._load_keys(checkpoint.origin)
        for low in range(start, checkpoint.size, PORTION):
            high = min(low + PORTION, checkpoint.size)
            portion = _Portion()
            for index in range(low, high):
                self._project(index, self._covering(index), portion)
            self._store.write(portion.batches, portion.readings, high)
        return checkpoint.size - start

    def _project_late(self, origin: str) -> int:
        """Projects the batches that the cursor had passed before their payloads came back."""
        done, cursor = 0, self._store.cursor()
        while numbered := self._log.returned(self._returned, PORTION):
            # Where the cursor has not been yet, it finds the payload when it comes by.
            late = sorted(index for _, index in numbered if index < cursor and self._store.batch(index) is None)
            if late:
                self._load_keys(origin)
                self._tree = None  # the one at hand may cover these as well, and not be the first that does
            portion = _Portion()
            for index in late:
                self._project(index, self._covering(index), portion)
            self._store.write(portion.batches, portion.readings, cursor)
            self._tree = None
            self._returned = numbered[-1][0]
            done += len(late)
        return done

    def _covering(self, index: int) -> _Tree:
        """The tree of the first checkpoint that covers entry `index`: its proof shows the earliest time."""
        if self._tree is None or index >= self._tree.reader.size:
            first = self._log.first_covering(index)
            if first is None:
                raise StorageError(f"entry {index} is published, and no checkpoint in the database covers it")
            self._tree = _Tree(self._log.tree(first), first.note)
        return self._tree

    def _project(self, index: int, tree: _Tree, portion: _Portion) -> None:
        # From the public tree, which checks it: the database's copy would be believed without its hash.
        entry = parse_entry(tree.reader.entry(index))
        payload = self._log.payload(index)
        if not isinstance(entry, BatchEntry) or payload is None:
            return
        header = Header.decode(entry.header)
        leaves = parse_payload(payload)
        key = self._keys.public_key(header.key_id)
        if key is None:
            raise StorageError(f"entry {index}: its key {header.key_id.hex()} is not enrolled")
        # A key that the registry does not name any more is shown by its id.
        device = self._devices.get(header.key_id, header.key_id.hex()[:16])
        readings = [
            StoredReading(index * LEAVES_PER_BATCH + leaf_index, device, leaf.body, leaf.salt)
            for leaf_index, leaf in enumerate(leaves)
            if leaf_index and isinstance(leaf, Leaf)
        ]
        times = [Reading.decode(reading.body).sensor_time_ns for reading in readings]
        batch = StoredBatch(
            index,
            device,
            *key,
            entry.header,
            entry.signature,
            tuple(check_leaves(header, leaves)),
            tuple(tree.reader.prove_inclusion(index)),
            tree.note,
            (min(times), max(times)) if times else None,
        )
        portion.batches.append(batch)
        portion.readings += readings

    def _load_keys(self, origin: str) -> None:
        self._keys = read_states(self._log, origin)
        registry = Registry(self._data)
        self._devices = {key_id: key.device for key_id, key in registry.keys().items()}
        registry.close()


def main() -> int:
    """Projects until standard input closes, which it does when the aggregator that started this ends, however."""
    data = Path(sys.argv[1])
    stopping = parent_gone()
    try:
        with EmbeddedStore(data) as store, closing(Projection(data, store)) as projection:
            while not stopping.is_set():
                if not projection.catch_up():
                    stopping.wait(POLL_S)
            projection.catch_up()
    except (UserError, StorageError, LedgerError, sqlite3.Error) as error:
        print(f"vitalseal: projection: {error}", file=sys.stderr)  # noqa: T201 - a program of its own
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
