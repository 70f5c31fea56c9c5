"""LogWriter: appends entries, publishes checkpoints, and recovers by publishing.

Publishing, and what a start-up finds after a crash behind each step:

    1  entries are committed                    found in the database without tiles; step 2 makes them
    2  tiles and bundles are written            files beyond the checkpoint; written again, the same bytes
    3  the checkpoint is signed and recorded    recorded, not published; step 4 publishes it
    4  the checkpoint file is replaced          done
    5  superseded partial tiles are removed     some are left over: right, and in nobody's way

Start-up does nothing else than step 4 for the recorded checkpoint, then `publish`.
"""

from collections.abc import Callable, Sequence

from ledger import merkle
from ledger.checkpoint import Checkpoint, parse_checkpoint
from ledger.errors import LedgerError, VerificationError
from ledger.fsck import CHECKPOINT_PATH
from ledger.note import NoteSigner, parse_note, verify_note
from ledger.tiles import TILE_WIDTH, TileReader
from ledger.writer.storage import Recorded, Storage, StorageError, Submission
from ledger.writer.tree import Edge, full_between

# Entries turned into files at a time: bounds memory when a long backlog is published.
_PORTION = 16 * 256


class LogWriter:
    """The one writer of one log.

    `append` may be called from any thread, `publish` from one.
    """

    def __init__(self, storage: Storage, signer: NoteSigner, now_ns: Callable[[], int]) -> None:
        """Checks that storage and published tree belong together, then finishes what a crash left.

        Raises:
            StorageError: the published checkpoint is ahead of the database, or not a prefix of it; the root of
                the tiles is not the recorded one; the clock is behind the last checkpoint.
        """
        self._storage = storage
        self._signer = signer
        self._now_ns = now_ns
        self.origin = signer.verifier.name
        self._newest = self._recover()
        self.publish()

    def append(self, group: Sequence[Submission]) -> int:
        """Commits `group` durably and returns the index of its first entry (group commit)."""
        return self._storage.append(group)

    @property
    def size(self) -> int:
        """How many entries are committed, published or not."""
        return self._storage.size()

    @property
    def checkpoint(self) -> Checkpoint:
        """The newest published checkpoint."""
        newest = self._newest
        return Checkpoint(self.origin, newest.size, newest.root)

    @property
    def note(self) -> bytes:
        """The newest published checkpoint as signed."""
        return self._newest.note

    def reader(self) -> TileReader:
        """Reads the published tree, for proofs."""
        newest = self._newest
        return TileReader(self._storage.read, newest.size, newest.root)

    def publish(self) -> bool:
        """Brings the public tree up to all committed entries; False if there was nothing new."""
        target = self._storage.size()
        if target == self._edge.size and self._newest.size == target and self._newest.note:
            return False
        old = self._newest.size
        for start in range(self._edge.size, target, _PORTION):
            files = self._edge.grow(self._storage.entries(start, min(start + _PORTION, target)))
            self._storage.write(files)
        self._storage.write(self._edge.partials())
        checkpoint = Checkpoint(self.origin, target, self._edge.root())
        note = checkpoint.sign(self._signer).encode()
        recorded = Recorded(target, checkpoint.root, note, self._now_ns())
        self._storage.record(recorded)
        self._storage.write([(CHECKPOINT_PATH, note)])
        self._newest = recorded
        self._storage.remove_partials(f"{tile.path}.p" for tile in full_between(old, target))
        return True

    def _recover(self) -> Recorded:
        published = self._published()
        recorded = self._storage.recorded()
        if recorded is None:
            if published.size:
                raise StorageError(
                    f"the published checkpoint of size {published.size} is not in the database: restore the database"
                )
            self._edge = Edge()
            return Recorded(0, merkle.EMPTY_ROOT, b"", 0)
        self._check_recorded(recorded)
        if published.size > recorded.size:
            raise StorageError(
                f"the published checkpoint of size {published.size} is ahead of the database at {recorded.size}: "
                "the database is an old copy, and going on would fork the log"
            )
        try:
            self._edge = self._restore_edge(recorded)
            before = self._root_of(published.size, recorded)
        except LedgerError:
            # The public tree is derived: damaged or gone, it is made again from the database.
            self._edge = self._rebuild(recorded)
            before = self._root_of(published.size, recorded)
        if before != published.root:
            raise StorageError(f"the published checkpoint of size {published.size} has not this log's root")
        self._storage.write([*self._edge.partials(), (CHECKPOINT_PATH, recorded.note)])
        return recorded

    def _check_recorded(self, recorded: Recorded) -> None:
        try:
            note = parse_note(recorded.note, "recorded checkpoint")
            checkpoint = parse_checkpoint(note.text)
            verify_note(note, [self._signer.verifier])
        except LedgerError as error:
            raise StorageError(f"the recorded checkpoint is not this key's: {error}") from None
        if (checkpoint.origin, checkpoint.size, checkpoint.root) != (self.origin, recorded.size, recorded.root):
            raise StorageError("the recorded checkpoint is not the one that was signed")
        if recorded.size > self._storage.size():
            raise StorageError(
                f"the database holds {self._storage.size()} entries, a checkpoint of {recorded.size} is recorded"
            )
        if recorded.recorded_at_ns > self._now_ns():
            raise StorageError("the clock is behind the last checkpoint: set it right, then start again")

    def _restore_edge(self, recorded: Recorded) -> Edge:
        """The edge at the recorded size from the public tree; raises LedgerError if that is not this log's."""
        last_bundle = recorded.size - recorded.size % TILE_WIDTH
        entries = self._storage.entries(last_bundle, recorded.size)
        edge = Edge.restore(self._storage.read, recorded.size, entries)
        if edge.root() != recorded.root:
            raise VerificationError("the partial tiles do not lead to the recorded root")
        return edge

    def _rebuild(self, recorded: Recorded) -> Edge:
        """The edge at the recorded size, and every tile below it written, from the database."""
        edge = Edge()
        for start in range(0, recorded.size, _PORTION):
            entries = self._storage.entries(start, min(start + _PORTION, recorded.size))
            self._storage.write(edge.grow(entries))
        self._storage.write(edge.partials())
        if edge.root() != recorded.root:
            raise StorageError(f"the entries do not lead to the recorded root of size {recorded.size}")
        return edge

    def _root_of(self, size: int, recorded: Recorded) -> bytes:
        reader = TileReader(self._storage.read, recorded.size, recorded.root)
        return merkle.root_at(size, reader.hash_at)

    def _published(self) -> Checkpoint:
        data = self._storage.read(CHECKPOINT_PATH)
        if data is None:
            return Checkpoint(self.origin, 0, merkle.EMPTY_ROOT)
        try:
            note = parse_note(data, "published checkpoint")
            checkpoint = parse_checkpoint(note.text)
            verify_note(note, [self._signer.verifier])
        except LedgerError as error:
            raise StorageError(f"the published checkpoint is not this log's: {error}") from None
        return checkpoint
