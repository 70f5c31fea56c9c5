"""Batch records, judged: each must be what the log says stands there.

A batch record holds what leads from a leaf hash to a checkpoint. It is judged by the public entry, the enrolled key and
the tree; and not by the checkpoint's record, which is judged by itself (`checkpoints`), so that the one that was
touched is the one that is named.
"""

from array import array
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from aggregator.audit.findings import DEVICE, ENTRY, LEAF, About, Book, Fault, Finding, What, first_few
from aggregator.audit.leaves import check_hashes
from aggregator.audit.private import Private
from aggregator.audit.spans import NO_SPAN, Spans
from aggregator.audit.truth import Basis, Truth
from aggregator.audit.words import counted
from aggregator.timeseries.base import ReadingStore, StoredBatch
from ledger import merkle
from ledger.batch import LEAVES_PER_BATCH, Header
from ledger.entry import BatchEntry
from ledger.errors import LedgerError, MalformedError, VerificationError
from ledger.leaves import Leaf, Leaves


class BatchRecords:
    """The batch records of `truth`'s entries; `read` first, `judge` when all rows are known."""

    def __init__(self, truth: Truth, store: ReadingStore, private: Private | None, book: Book) -> None:
        self._truth, self._store, self._private, self._book = truth, store, private, book
        self._faults: dict[int, list[Fault]] = {}
        self._absent: dict[int, None] = {}
        self._devices: dict[int, str] = {}
        self._spans = Spans(truth)
        self._sizes = array("q", bytes(8 * (truth.until - truth.start)))  # of the checkpoints that they lead to
        self._covered = range(0)
        self.lost: list[int] = []  # batches of which neither payload nor record is here
        self._root_at = lru_cache(16)(lambda size: merkle.root_at(size, truth.log.tree.hash_at))

    def read(self) -> None:
        """Every record is known, devices have names, and each batch has what its rows are judged by, if anything."""
        present, strays = set(), []
        for index in self._store.batch_indexes():
            if self._truth.is_batch(index):
                present.add(index)
            else:
                strays.append(index)
        if strays:
            self._truth.log.look_again()
        for index in strays:
            self._stray(index)
        told: Counter[tuple[bytes, str]] = Counter()
        for index in self._truth.indexes():
            entry, header = self._truth.entry(index)
            payload_lost = self._read_payload(index, header)
            if index in present:
                device = self._read(index, entry, header)
                if device is not None:
                    told[header.key_id, device] += 1
            elif index >= self._truth.due:
                self._truth.expect_nothing(index)
            elif payload_lost:
                self.lost.append(index)
                self._truth.expect_nothing(index)
            else:
                self._absent[index] = None
        self._truth.name_devices(told)

    def unknown(self) -> list[int]:
        """The batches whose records do not lead to the log, and that nothing else is known of."""
        return [index for index in self._faults if self._truth.basis(index) is Basis.NOTHING]

    def recover(self, index: int, of_rows: dict[int, bytes]) -> None:
        """The batch is known if what its rows hash to, by leaf, in the place of the record's own, leads to the log."""
        _, header = self._truth.entry(index)
        try:
            record = self._store.batch(index)
            hashes = list(record.leaf_hashes) if record is not None else []
            for leaf, hashed in of_rows.items():
                hashes[leaf] = hashed
            check_hashes(header, tuple(hashes))
        except (LedgerError, IndexError):
            return
        self._truth.rest_on_rows(index, tuple(hashes))

    def checkpoint_of(self, index: int) -> int:
        """The size of the checkpoint that the record of a batch leads to; 0 if it leads to none."""
        return self._sizes[index - self._truth.start]

    def why_unknown(self, index: int) -> str:
        """Why rows of a batch of which nothing is known cannot be judged."""
        if self._truth.basis(index) is Basis.PAYLOAD:
            return "their payload was changed while it was audited"
        if index in self._faults:
            return "their batch record was tampered with"
        return "their batch record is missing"

    def judge(self, spans: Spans, refused: dict[int, str]) -> set[int]:
        """Every record is counted or found; `spans` are of the rows. Returns the sizes of checkpoints asked for."""
        wanted: set[int] = set()
        returned = self._private.returned() if self._private is not None and self._absent else set()
        for index in self._truth.indexes():
            if index in self._truth.lost:
                continue
            _, header = self._truth.entry(index)
            device = self._truth.device(header.key_id)
            faults = self._faults.get(index, [])
            if index in self._absent:
                why = f": the store refused it ({refused[index]})" if index in refused else ""
                if index in returned:
                    why += "; its payload came back after a restore, and the view may be about to come to it"
                some = counted(header.count, "reading")
                detail = f"the log commits to {some} here, and the database has no record of it{why}"
                self._book.add(Finding(What.MISSING, About.BATCH, index, detail, device))
            else:
                faults = [*faults, *self._late_faults(index, device, spans)]
                if faults:
                    step = next((step for step, _ in faults if step), 0)
                    detail = "; ".join(text for _, text in faults)
                    self._book.add(Finding(What.CHANGED, About.BATCH, index, detail, device, step=step))
                else:
                    self._book.sound[About.BATCH] += 1
            size = self.checkpoint_of(index) or self._first_size(index)
            if size and index < self._truth.due:
                wanted.add(size)
        return wanted

    def _late_faults(self, index: int, device: str, spans: Spans) -> list[Fault]:
        """What could only be said when all devices and rows were known."""
        if index not in self._devices:  # it could not be read
            return []
        faults: list[Fault] = []
        if self._devices[index] != device:
            faults.append((0, f"device: {self._devices[index]!r} where the log's key is that of {device!r}"))
        stated = self._spans.of(index)
        if not spans.agrees(index, stated):
            shown = "none" if stated == NO_SPAN else f"{stated[0]} to {stated[1]}"
            faults.append((0, f"span of times: {shown}, which is not that of its readings"))
        return faults

    def _first_size(self, index: int) -> int:
        """The size of the checkpoint that a sound record leads to, 0 if it is not known."""
        if self._private is None:
            return 0
        if index not in self._covered:  # by the checkpoint that was asked for last
            self._covered = range(index, self._private.first_size(index) or 0)
        return self._covered.stop

    def _stray(self, index: int) -> None:
        if self._truth.is_looked_at(index):
            self._book.add(Finding(What.EXTRA, About.BATCH, index, self._truth.why_none(index)))

    def _read_payload(self, index: int, header: Header) -> bool:
        """Whether the payload of the batch is lost; one that is tampered with is found."""
        try:
            leaves = self._truth.payload(index, header)
        except LedgerError as error:
            self._book.add(Finding(What.CHANGED, About.PAYLOAD, index, str(error), step=LEAF))
            return False
        if leaves is None:
            return self._private is not None
        gone = self._taken_out(index, leaves)
        if gone:
            self._truth.learn_erasures()
            gone = self._taken_out(index, leaves)
        if gone:
            detail = f"{_some(gone, 'leaf', 'leaves')} taken out, and no entry of the log says so"
            self._book.add(Finding(What.CHANGED, About.PAYLOAD, index, detail))
        return False

    def _taken_out(self, index: int, leaves: Leaves) -> list[int]:
        """The leaves of a payload that are not whole although nothing says that they were erased."""
        truth, first = self._truth, index * LEAVES_PER_BATCH
        gone = [leaf for leaf, kept in enumerate(leaves) if not isinstance(kept, Leaf)]
        return [leaf for leaf in gone if truth.erased_by(first + leaf) is None and not truth.is_leaving(first + leaf)]

    def _read(self, index: int, entry: BatchEntry, header: Header) -> str | None:
        """The device that a record names; None if it cannot be read."""
        try:
            record = self._store.batch(index)
        except MalformedError as error:
            self._faults[index] = [(ENTRY, f"cannot be read: {error}")]
            return None
        if record is None:  # gone since the list was made
            self._absent[index] = None
            return None
        self._devices[index] = record.device
        self._spans.put(index, record.span_ns)
        if faults := list(self._check(record, entry, header)):
            self._faults[index] = faults
        return record.device

    def _check(self, record: StoredBatch, entry: BatchEntry, header: Header) -> Iterable[Fault]:
        index, truth = record.log_index, self._truth
        if record.header != entry.header:
            yield ENTRY, "header: not the one on the log"
        if record.signature != entry.signature:
            yield ENTRY, "signature: not the one on the log"
        if (record.algorithm, record.public_key) != truth.log.public_key(header.key_id):
            yield DEVICE, "public key: not the one that the header names"
        if (why := _unlike_root(header, record.leaf_hashes)) is not None:
            yield LEAF, f"leaf hashes: {why}"
        elif truth.basis(index) is Basis.NOTHING:
            truth.rest_on_record(index)
        if (why := self._misled(record, entry)) is not None:
            yield ENTRY, why

    def _misled(self, record: StoredBatch, entry: BatchEntry) -> str | None:
        """Why a record does not lead from its entry to a checkpoint of this log; None if it does."""
        index, size, log = record.log_index, record.checkpoint_at or 0, self._truth.log
        # A smaller one may be of before a restore, which this directory does not know any more.
        if size > (first := self._first_size(index)) > 0:
            self._sizes[index - self._truth.start] = first
            return f"checkpoint: {size}, where the first that covers the entry is that of size {first}"
        if size > log.size:
            log.look_again()
            if log.has_grown_past(size - 1):
                return None  # a batch that came back late, projected just now: its checkpoint is newer than the audit
        if not index < size <= log.size:
            return f"checkpoint: {size} is not a size that covers entry {index} of {log.size}"
        try:
            leaf_hash = merkle.hash_leaf(entry.encode())
            merkle.check_inclusion(index, size, leaf_hash, record.inclusion, self._root_at(size))
        except VerificationError as error:
            return f"inclusion in the checkpoint of size {size}: {error}"
        self._sizes[index - self._truth.start] = size
        return None


def _unlike_root(header: Header, hashes: tuple[bytes, ...]) -> str | None:
    try:
        check_hashes(header, hashes)
    except VerificationError as error:
        return str(error)
    return None


def _some(numbers: list[int], one: str, many: str) -> str:
    """`numbers` in words, the first few."""
    shown = first_few(numbers)
    return f"{one} {shown} was" if len(numbers) == 1 else f"{many} {shown} were"
