"""The reading half of a log's storage on one machine: entries, payloads, checkpoints and public files.

Whatever is read from the public files is checked against a root of the database before anything rests on it.
"""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from ledger import merkle
from ledger.errors import LedgerError
from ledger.tiles import TileReader, beginning, parse_tile_path, tile_at
from ledger.writer.database import DATABASE, MAX_SQLITE, open_database
from ledger.writer.files import fatal, read_file
from ledger.writer.storage import Place, Recorded
from ledger.writer.tree import Edge

PUBLIC = "log"
_CHUNK = 1024  # entries fetched at a time: bounds memory, not meaning
# A chain by the id of its key; 32 bytes in every row of the index would be most of it.
_CHAIN = "chain = (SELECT number FROM chains WHERE key_id = ?)"
_LAST, _LAST_OF_MANY = "ORDER BY epoch DESC, seq DESC LIMIT 1", "ORDER BY epoch DESC, seq DESC LIMIT ?"
_RECORDED = "SELECT size, root, note, recorded_at_ns, published FROM checkpoints"


class LocalReader:
    """The reading half: entries and payloads from the database, opened read-only, and the public files.

    Safe beside the writer, in any process. Use as a context manager.
    """

    def __init__(self, data: Path) -> None:
        self._data = data
        self._public = data / PUBLIC
        self._reading = open_database(data)
        # Apart from the writer's lock, so that the publisher's reads never wait for an fsync of the hot path.
        self._read_lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases the database."""
        self._reading.close()

    def entries(self, start: int, end: int) -> Iterator[bytes]:
        """The entries [start, end), a bounded number in memory at a time."""
        for low in range(start, end, _CHUNK):
            query = "SELECT entry FROM entries WHERE idx >= ? AND idx < ? ORDER BY idx"
            with self._read_lock, fatal(self._data / DATABASE):
                rows = self._reading.execute(query, (low, min(low + _CHUNK, end))).fetchall()
            for (entry,) in rows:
                yield entry

    def size(self) -> int:
        """How many entries are committed."""
        row = self._row("SELECT coalesce(max(idx) + 1, 0) FROM entries")
        return row[0] if row else 0

    def payload(self, index: int) -> bytes | None:
        """The payload of entry `index`: the newest that was written later, or the one that came with it."""
        later = "SELECT payload FROM later WHERE idx = ?1 ORDER BY number DESC LIMIT 1"
        query = f"SELECT coalesce(({later}), (SELECT payload FROM payloads WHERE idx = ?1))"  # noqa: S608 - constants
        row = self._row(query, index)
        return row[0] if row else None

    def find(self, place: Place) -> tuple[int, bytes] | None:
        """The entry at `place`."""
        query = f"SELECT idx, entry FROM entries WHERE {_CHAIN} AND epoch = ? AND seq = ?"  # noqa: S608 - a constant
        return self._row(query, place.key_id, place.epoch, place.seq)

    def head(self, key_id: bytes) -> tuple[int, bytes] | None:
        """The last entry of a device's chain."""
        query = f"SELECT idx, entry FROM entries WHERE {_CHAIN} {_LAST}"  # noqa: S608 - constants
        return self._row(query, key_id)

    def head_place(self, key_id: bytes) -> Place | None:
        """The last place of a device's chain that is taken."""
        query = f"SELECT epoch, seq FROM entries WHERE {_CHAIN} {_LAST}"  # noqa: S608 - constants
        row = self._row(query, key_id)
        return Place(key_id, *row) if row else None

    def following(self, place: Place, limit: int) -> list[tuple[int, Place]]:
        """The next batches of a device's chain, into its later epochs."""
        after = "(epoch, seq) > (?, ?) ORDER BY epoch, seq LIMIT ?"
        query = f"SELECT idx, epoch, seq FROM entries WHERE {_CHAIN} AND {after}"  # noqa: S608 - constants
        with self._read_lock, fatal(self._data / DATABASE):
            rows = self._reading.execute(query, (place.key_id, place.epoch, place.seq, limit)).fetchall()
        return [(index, Place(place.key_id, epoch, seq)) for index, epoch, seq in rows]

    def last_batches(self, key_id: bytes, limit: int) -> list[tuple[int, int, int]]:
        """Index, epoch and sequence number of a device's last `limit` batches, in order."""
        # Of one device the order of the chain is that of the log.
        query = f"SELECT idx, epoch, seq FROM entries WHERE {_CHAIN} {_LAST_OF_MANY}"  # noqa: S608 - constants
        with self._read_lock, fatal(self._data / DATABASE):
            rows = self._reading.execute(query, (key_id, limit)).fetchall()
        return rows[::-1]

    def of_type(self, kind: int) -> Iterator[tuple[int, bytes]]:
        """Every entry of a type that is neither batch nor commitment."""
        query = "SELECT idx, entry FROM notable JOIN entries USING (kind, idx) WHERE kind = ? ORDER BY idx"
        with self._read_lock, fatal(self._data / DATABASE):
            rows = self._reading.execute(query, (kind,)).fetchall()
        yield from rows

    def recorded(self) -> Recorded | None:
        """The newest recorded checkpoint."""
        return _recorded(self._row(f"{_RECORDED} ORDER BY size DESC LIMIT 1"))

    def published(self) -> Recorded | None:
        """The newest published checkpoint."""
        return _recorded(self._row(f"{_RECORDED} WHERE published ORDER BY size DESC LIMIT 1"))

    def first_covering(self, index: int) -> Recorded | None:
        """The first published checkpoint that covers entry `index`."""
        return _recorded(self._row(f"{_RECORDED} WHERE published AND size > ? ORDER BY size LIMIT 1", index))

    def read(self, path: str) -> bytes | None:
        """The public file at `path`."""
        return read_file(self._public, path)

    def tree(self, recorded: Recorded) -> TileReader:
        """Reads the tree of a checkpoint of this log, which may be an old one."""
        return TileReader(self._read_of_old, recorded.size, recorded.root)

    def checkpoint_root(self, size: int) -> bytes | None:
        """The root of the checkpoint of `size`; see `Storage.checkpoint_root`."""
        row = self._row("SELECT root FROM checkpoints WHERE size = ?", size)
        if row is None and self._row("SELECT 1 FROM replayed WHERE first < ? AND size >= ?", size, size):
            return self._root_at(size)
        return row[0] if row else None

    def missing_payload_count(self) -> int:
        """How many batches have no payload."""
        row = self._row("SELECT count(*) FROM missing")
        return row[0] if row else 0

    def lacks(self, place: Place) -> bool:
        """Whether the batch at `place` has no payload, or not all of it."""
        query = f"SELECT 1 FROM missing WHERE {_CHAIN} AND epoch = ? AND seq = ?"  # noqa: S608 - a constant
        return self._row(query, place.key_id, place.epoch, place.seq) is not None

    def missing_payloads(self, key_id: bytes, limit: int) -> list[Place]:
        """The last batches of a device's chain whose payload is missing, newest first."""
        erased = "SELECT 1 FROM entries JOIN erased ON batch = idx WHERE (entries.chain, entries.epoch, entries.seq) ="
        wanted = f"NOT EXISTS ({erased} (missing.chain, missing.epoch, missing.seq))"
        query = f"SELECT epoch, seq FROM missing WHERE {_CHAIN} AND {wanted} {_LAST_OF_MANY}"  # noqa: S608 - constants
        with self._read_lock, fatal(self._data / DATABASE):
            rows = self._reading.execute(query, (key_id, limit)).fetchall()
        return [Place(key_id, *row) for row in rows]

    def returned(self, after: int, limit: int) -> list[tuple[int, int]]:
        """The number, counted from 1, and the index of batches whose payload came back later, those past `after`."""
        query = "SELECT number, idx FROM returned WHERE number > ? ORDER BY number LIMIT ?"
        with self._read_lock, fatal(self._data / DATABASE):
            return self._reading.execute(query, (after, limit)).fetchall()

    def to_erase(self, limit: int) -> list[int]:
        """At most `limit` batches of which bytes that an entry calls erased may still be here."""
        query = "SELECT DISTINCT batch FROM erased WHERE NOT done ORDER BY batch LIMIT ?"
        with self._read_lock, fatal(self._data / DATABASE):
            return [batch for (batch,) in self._reading.execute(query, (limit,)).fetchall()]

    def erasures(self, index: int) -> list[int]:
        """The entries that say that leaves of the batch `index` were erased."""
        with self._read_lock, fatal(self._data / DATABASE):
            rows = self._reading.execute("SELECT entry FROM erased WHERE batch = ? ORDER BY entry", (index,)).fetchall()
        return [entry for (entry,) in rows]

    def _read_of_old(self, path: str) -> bytes | None:
        """As `read`; a partial tile that is not there, from the wider one of the newest tree.

        A public tree that was made again, from a database that was restored or because it was damaged, has the partial
        tiles of the newest checkpoint only.
        """
        data = self.read(path)
        newest = self.published() if data is None else None
        if newest is None:
            return data
        tile = parse_tile_path(path)
        wider = tile_at(tile.level, tile.index, newest.size)
        return beginning(self.read(wider.path), wider, tile) if tile.width < wider.width else None

    def _root_at(self, size: int) -> bytes | None:
        """The root over the first `size` entries; None beyond the newest checkpoint, which may wait for its quorum."""
        recorded = self.recorded()
        if recorded is None or recorded.size < size:
            return None
        tree = self.tree(recorded)
        try:
            tree.prove_consistency(size)
            return merkle.root_at(size, tree.hash_at)
        except LedgerError:
            # The public tree is damaged, which is no reason to doubt a device: the long way, from the entries.
            edge = Edge()
            edge.grow(self.entries(0, size))
            return edge.root()

    def _row(self, query: str, *values: bytes | int) -> tuple[Any, ...] | None:
        if any(isinstance(value, int) and value > MAX_SQLITE for value in values):
            return None
        with self._read_lock, fatal(self._data / DATABASE):
            row: tuple[Any, ...] | None = self._reading.execute(query, values).fetchone()
        return row


def _recorded(row: tuple[Any, ...] | None) -> Recorded | None:
    if row is None:
        return None
    size, root, note, recorded_at_ns, published = row
    return Recorded(size, root, note, recorded_at_ns, bool(published))
