"""What the projection writes at once: entries of the log with their payloads, as a store wants them.

Read from the published tree and, read-only, from the payloads; bounded in entries, readings and bytes, whatever size
batches have.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aggregator.holders import Holders
from aggregator.timeseries.base import StoredBatch, StoredReading
from ledger.batch import LEAVES_PER_BATCH, Header
from ledger.checkpoint import Checkpoint, parse_checkpoint
from ledger.entry import ERASED, BatchEntry, Erased, parse_entry
from ledger.fsck import CHECKPOINT_PATH
from ledger.info import BatchInfo
from ledger.leaves import Leaf, Leaves, check_leaves
from ledger.note import parse_note
from ledger.reading import Reading
from ledger.tiles import TileReader
from ledger.writer.payload import parse_payload
from ledger.writer.reader import LocalReader
from ledger.writer.storage import StorageError

# A portion ends with the entry that reaches one of these. So many readings cost a store next to nothing more than few;
# a payload is at most the size of an envelope, so memory is bounded by the bytes.
PORTION_ENTRIES = 4096
PORTION_READINGS = 10_000
PORTION_BYTES = 2 * 1024 * 1024

_NOTHING: Mapping[int, Collection[int]] = {}


@dataclass(slots=True)
class Portion:
    """Entries from `start` to before `end`: their batches and readings, and what they say was erased before them."""

    start: int
    end: int
    batches: list[StoredBatch] = field(default_factory=list)
    readings: list[StoredReading] = field(default_factory=list)
    erased: list[Erased] = field(default_factory=list)
    entries: int = 0
    bytes: int = 0

    @property
    def is_full(self) -> bool:
        """Whether the next entry belongs into another one."""
        return self.entries >= PORTION_ENTRIES or len(self.readings) >= PORTION_READINGS or self.bytes >= PORTION_BYTES


@dataclass(frozen=True, slots=True)
class _Tree:
    """A published tree, its checkpoint as signed and cosigned; the first that covers entry `first` and those after."""

    first: int
    reader: TileReader
    note: bytes


class LogWalk:
    """Reads the log in `data`, beside its writer."""

    def __init__(self, data: Path) -> None:
        self._log = LocalReader(data)
        self._holders = Holders(data, self._log)
        self._tree: _Tree | None = None

    def close(self) -> None:
        """Releases the database."""
        self._log.close()

    def published(self) -> Checkpoint | None:
        """The published checkpoint, None before the first."""
        note = self._log.read(CHECKPOINT_PATH)
        return None if note is None else parse_checkpoint(parse_note(note, "checkpoint").text)

    def returned(self, after: int, limit: int) -> list[tuple[int, int]]:
        """See `LocalReader.returned`."""
        return self._log.returned(after, limit)

    def erased(self) -> Iterator[tuple[int, Erased]]:
        """Every entry so far, published or not, that says what was erased; with its index."""
        for index, data in self._log.of_type(ERASED):
            entry = parse_entry(data)
            if isinstance(entry, Erased):
                yield index, entry

    def portions(
        self, indexes: Iterable[int], origin: str, without: Mapping[int, Collection[int]] = _NOTHING
    ) -> Iterator[Portion]:
        """The entries at `indexes`, ascending, of the log `origin`, in portions, none of which is empty.

        `without`: leaves by log index that are left out, even if the payload still has them.
        """
        self._holders.look_again(origin)
        portion: Portion | None = None
        for index in indexes:
            portion = portion or Portion(index, index)
            self._add(index, portion, without.get(index, ()))
            portion.end = index + 1
            portion.entries += 1
            if portion.is_full:
                yield portion
                portion = None
        if portion is not None:
            yield portion

    def _add(self, index: int, portion: Portion, without: Collection[int]) -> None:
        tree = self._covering(index)
        # From the public tree, which checks it: the database's copy would be believed without its hash.
        entry = parse_entry(tree.reader.entry(index))
        if isinstance(entry, Erased) and entry.log_index < index:
            portion.erased.append(entry)
        payload = self._log.payload(index) if isinstance(entry, BatchEntry) else None
        if not isinstance(entry, BatchEntry) or payload is None:
            return
        header = Header.decode(entry.header)
        leaves = parse_payload(payload)
        device, algorithm, public_key = self._holders.of(header.key_id, index)
        readings = [
            StoredReading(index * LEAVES_PER_BATCH + leaf_index, device, leaf.body, leaf.salt)
            for leaf_index, leaf in enumerate(leaves)
            if leaf_index and isinstance(leaf, Leaf) and leaf_index not in without
        ]
        batch = StoredBatch(
            index,
            device,
            algorithm,
            public_key,
            entry.header,
            entry.signature,
            tuple(check_leaves(header, leaves)),
            tuple(tree.reader.prove_inclusion(index)),
            tree.note,
            _span(leaves, readings),
        )
        portion.batches.append(batch)
        portion.readings += readings
        portion.bytes += len(payload)

    def _covering(self, index: int) -> _Tree:
        """The tree of the first checkpoint that covers entry `index`: its proof shows the earliest time."""
        if self._tree is None or not self._tree.first <= index < self._tree.reader.size:
            found = self._log.first_covering(index)
            if found is None:
                raise StorageError(f"entry {index} is published, and no checkpoint in the database covers it")
            self._tree = _Tree(index, self._log.tree(found), found.note)
        return self._tree


def _span(leaves: Leaves, readings: Sequence[StoredReading]) -> tuple[int, int] | None:
    """The least and the greatest sensor time of `readings`, which are those of `leaves`, None without any.

    Admission has held the batch info against the readings, so it need not be done again. Where one was erased, the
    info says too much: when that was measured.
    """
    if isinstance(leaves[0], Leaf) and len(readings) == len(leaves) - 1:
        info = BatchInfo.decode(leaves[0].body)
        return None if info.first_ns is None or info.last_ns is None else (info.first_ns, info.last_ns)
    times = [Reading.decode(stored.body).sensor_time_ns for stored in readings]
    return (min(times), max(times)) if times else None
