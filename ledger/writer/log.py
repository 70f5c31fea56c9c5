"""LogWriter: appends entries, publishes checkpoints that a quorum has cosigned, and recovers by publishing.

Publishing, and what a start-up finds after a crash behind each step:

    1  entries are committed                    found in the database without tiles; step 2 makes them
    2  tiles and bundles are written            files beyond the checkpoint; written again, the same bytes
    3  the checkpoint is signed and recorded    recorded, not published; step 4 takes the same one up again
    4  a quorum of witnesses cosigns            a witness has it, we do not know; it cosigns the same one again
    5  the cosigned checkpoint is recorded      step 6 publishes it
    6  the checkpoint file is replaced          done
    7  superseded partial tiles are removed     some are left over: right, and in nobody's way

Without a quorum it stays at step 4: entries go on being committed, nothing new is published, and no second checkpoint
is signed until the first is. Start-up does nothing else than step 6 for the published checkpoint, then `publish`.

Before its first signature the writer asks the witnesses what they have seen, because a database that was restored from
an old copy knows nothing of what was signed since.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from ledger import merkle
from ledger.checkpoint import Checkpoint, parse_checkpoint, verify_signed
from ledger.entry import CLOSING
from ledger.errors import LedgerError, VerificationError
from ledger.fsck import CHECKPOINT_PATH
from ledger.note import Note, NoteSigner, VerifierKey, parse_note
from ledger.tiles import TILE_WIDTH, TileReader
from ledger.writer.storage import Recorded, Storage, StorageError, Submission
from ledger.writer.tree import Edge, full_between

# Entries turned into files at a time: bounds memory when a long backlog is published.
_PORTION = 16 * 256
# An idle log signs anew this often, so that who follows it can tell silence from absence.
RENEW_AFTER_NS = 600 * 10**9
RETRY_RENEWAL_NS = 60 * 10**9  # where no quorum could be had


class Quorum(Protocol):
    """What a writer needs of its witnesses; `ledger.writer.witnesses.Witnesses` is the one that asks over HTTP."""

    def cosign(self, note: Note, prove: Callable[[int], list[bytes]]) -> Note:
        """`note` with every cosignature that could be had now; `prove(old)` gives the consistency proof."""
        ...

    def satisfied(self, note: Note) -> bool:
        """Whether the cosignatures of `note` are a quorum."""
        ...

    def confirm(self, checkpoint: Checkpoint, root_at: Callable[[int], bytes]) -> bool:
        """Whether a quorum has answered that it saw nothing beyond `checkpoint`; raises StorageError if one did."""
        ...


class LogWriter:
    """The one writer of one log.

    `append` may be called from any thread, `publish` from one.
    """

    def __init__(
        self,
        storage: Storage,
        signers: Sequence[NoteSigner],
        now_ns: Callable[[], int],
        *,
        quorum: Quorum | None = None,
        retired: Sequence[VerifierKey] = (),
    ) -> None:
        """Checks that database, guard and published tree belong together, then finishes what a crash left.

        `signers` are the log's keys, all named like its origin; each signs every checkpoint. `retired` are keys that
        signed before them. Without `quorum`, no witness is asked.

        Raises:
            StorageError: the published checkpoint or the guard is ahead of the database, or not a prefix of it; the
                root of the tiles is not the recorded one; the clock is behind the last checkpoint; a witness has seen
                more.
        """
        self._storage = storage
        self._signers = tuple(signers)
        self._known = (*(signer.verifier for signer in signers), *retired)
        self._now_ns = now_ns
        self._quorum = quorum
        self.origin = signers[0].verifier.name
        self.closed = any(True for _ in storage.of_type(CLOSING))
        self._pending: Recorded | None = None  # signed and recorded, not published
        self._gathered: Note | None = None  # the same with the cosignatures that came so far
        self._newest = self._recover()
        self._confirmed = quorum is None
        self._renewed_ns = self._newest.recorded_at_ns
        self.publish()

    def append(self, group: Sequence[Submission]) -> int:
        """Commits `group` durably and returns the index of its first entry (group commit)."""
        if self.closed:
            raise StorageError(f"the log {self.origin} is closed: nothing can be appended; use its successor")
        return self._storage.append(group)

    def close(self, submission: Submission) -> int:
        """Commits the closing entry `submission`, after which nothing is appended any more; returns its index."""
        index = self.append([submission])
        self.closed = True
        return index

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
        """The newest published checkpoint as signed and cosigned."""
        return self._newest.note

    @property
    def waiting(self) -> int | None:
        """The size of a checkpoint that is signed and waits for a quorum, None if none does."""
        return self._pending.size if self._pending else None

    def reader(self) -> TileReader:
        """Reads the published tree, for proofs."""
        newest = self._newest
        return TileReader(self._storage.read, newest.size, newest.root)

    def publish(self) -> bool:
        """Brings the public tree up to all committed entries; False if nothing new was published.

        With a checkpoint waiting for its quorum, it is that one that is published, or goes on waiting.
        """
        if not self._confirmed and not self._confirm():
            return False
        if self._pending is None:
            if self._storage.size() == self._newest.size and self._newest.published:
                self._renew()
                return False
            self._pending = self._sign()
        cosigned = self._cosigned(self._pending)
        if cosigned is None:
            return False
        old = self._newest.size
        self._storage.publish(cosigned)
        self._storage.write([(CHECKPOINT_PATH, cosigned.note)])
        self._newest, self._pending, self._gathered = cosigned, None, None
        self._renewed_ns = cosigned.recorded_at_ns
        self._storage.remove_partials(f"{tile.path}.p" for tile in full_between(old, cosigned.size))
        return True

    def _sign(self) -> Recorded:
        """The checkpoint of everything that is committed now: tiles written, signed, recorded, in the guard."""
        target = self._storage.size()
        for start in range(self._edge.size, target, _PORTION):
            files = self._edge.grow(self._storage.entries(start, min(start + _PORTION, target)))
            self._storage.write(files)
        self._storage.write(self._edge.partials())
        checkpoint = Checkpoint(self.origin, target, self._edge.root())
        now_ns = self._now_ns()
        note = checkpoint.sign(*self._signers, time=now_ns // 10**9).encode()
        recorded = Recorded(target, checkpoint.root, note, now_ns)
        self._storage.record(recorded, checkpoint.text())
        return recorded

    def _cosigned(self, recorded: Recorded) -> Recorded | None:
        """`recorded` with the cosignatures of a quorum; None if they cannot be had now."""
        note = self._gathered or self._signed_by_all(recorded)
        if self._quorum is not None:
            tree = TileReader(self._storage.read, recorded.size, recorded.root)
            note = self._quorum.cosign(note, tree.prove_consistency)
            if not self._quorum.satisfied(note):
                # Answers of several rounds may make up a quorum; after a restart they are asked for again.
                self._gathered = note if recorded == self._pending else None
                return None
        return Recorded(recorded.size, recorded.root, note.encode(), recorded.recorded_at_ns, published=True)

    def mend(self) -> None:
        """The public tree is made again from the database; raises StorageError if that does not lead to its roots."""
        recorded = self._storage.recorded()
        if recorded is not None:
            self._edge = self._rebuild(self._storage.published(), recorded)

    def _signed_by_all(self, recorded: Recorded) -> Note:
        """The recorded note; after a change of keys, the same checkpoint signed by those that sign now."""
        note = parse_note(recorded.note, "recorded checkpoint")
        if all(note.by(signer.verifier) for signer in self._signers):
            return note
        checkpoint = Checkpoint(self.origin, recorded.size, recorded.root)
        return checkpoint.sign(*self._signers, time=recorded.recorded_at_ns // 10**9)

    def _renew(self) -> None:
        """An idle log's checkpoint, signed and cosigned anew now and then; the first one stays in the database."""
        now_ns = self._now_ns()
        if now_ns - self._renewed_ns < RENEW_AFTER_NS:
            return
        self._renewed_ns = now_ns
        again = self.checkpoint.sign(*self._signers, time=now_ns // 10**9).encode()
        renewed = self._cosigned(Recorded(self._newest.size, self._newest.root, again, now_ns))
        if renewed is None:
            self._renewed_ns = now_ns - RENEW_AFTER_NS + RETRY_RENEWAL_NS
        else:
            self._storage.write([(CHECKPOINT_PATH, renewed.note)])

    def _confirm(self) -> bool:
        newest = self._pending or self._newest
        tree = TileReader(self._storage.read, newest.size, newest.root)
        if self._quorum is not None:
            signed = Checkpoint(self.origin, newest.size, newest.root)
            self._confirmed = self._quorum.confirm(signed, lambda size: merkle.root_at(size, tree.hash_at))
        return self._confirmed

    def _recover(self) -> Recorded:
        """The newest published checkpoint, its file in place; what was signed after it is pending."""
        public = self._public_checkpoint()
        recorded = self._storage.recorded()
        guard = self._guard()
        if recorded is None:
            if public.size or guard.size:
                raise StorageError(
                    f"a checkpoint of size {max(public.size, guard.size)} was signed and is not in the database: "
                    "restore the database"
                )
            self._edge = Edge()
            return Recorded(0, merkle.EMPTY_ROOT, b"", 0)
        self._check_recorded(recorded)
        for name, other in (("published checkpoint", public), ("guard", guard)):
            if other.size > recorded.size:
                raise StorageError(
                    f"the {name} of size {other.size} is ahead of the database at {recorded.size}: "
                    "the database is an old copy, and going on would fork the log"
                )
        published = self._storage.published()
        try:
            if published is not None and published != recorded:
                self._restore_edge(published)
            self._edge = self._restore_edge(recorded)
            self._check_prefixes(recorded, public, guard)
        except LedgerError:
            # The public tree is derived: damaged or gone, it is made again from the database.
            self._edge = self._rebuild(published, recorded)
            try:
                self._check_prefixes(recorded, public, guard)
            except VerificationError as error:
                raise StorageError(str(error)) from None
        if published != recorded:
            self._pending = recorded
        self._storage.write(self._edge.partials())
        if published is None:
            return Recorded(0, merkle.EMPTY_ROOT, b"", 0)
        self._storage.write([(CHECKPOINT_PATH, published.note)])
        return published

    def _check_prefixes(self, recorded: Recorded, public: Checkpoint, guard: Checkpoint) -> None:
        tree = TileReader(self._storage.read, recorded.size, recorded.root)
        for name, other in (("published checkpoint", public), ("guard", guard)):
            if merkle.root_at(other.size, tree.hash_at) != other.root:
                raise VerificationError(f"the {name} of size {other.size} has not this log's root")

    def _check_recorded(self, recorded: Recorded) -> None:
        checkpoint = self._own(recorded.note, "recorded checkpoint")
        if (checkpoint.size, checkpoint.root) != (recorded.size, recorded.root):
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

    def _rebuild(self, published: Recorded | None, recorded: Recorded) -> Edge:
        """The edge at the recorded size, and every tile of the published and the recorded tree, from the database."""
        edge = Edge()
        for size in (published.size if published else 0, recorded.size):
            for start in range(edge.size, size, _PORTION):
                entries = self._storage.entries(start, min(start + _PORTION, size))
                self._storage.write(edge.grow(entries))
            # A pending checkpoint may wait for long, and until then it is the published tree that is read.
            self._storage.write(edge.partials())
        if edge.root() != recorded.root:
            raise StorageError(f"the entries do not lead to the recorded root of size {recorded.size}")
        return edge

    def _public_checkpoint(self) -> Checkpoint:
        data = self._storage.read(CHECKPOINT_PATH)
        return (
            Checkpoint(self.origin, 0, merkle.EMPTY_ROOT) if data is None else self._own(data, "published checkpoint")
        )

    def _guard(self) -> Checkpoint:
        try:
            guard = parse_checkpoint(self._storage.guard().decode("utf-8", "replace"))
        except LedgerError as error:
            raise StorageError(f"the guard does not hold a checkpoint: {error}") from None
        if guard.origin != self.origin:
            raise StorageError(f"the guard is that of the log {guard.origin!a}, not of {self.origin}")
        return guard

    def _own(self, data: bytes, what: str) -> Checkpoint:
        """The checkpoint that this log signed in the note `data`; raises StorageError if it is another's."""
        try:
            note = parse_note(data, what)
            checkpoint = parse_checkpoint(note.text)
            verify_signed(checkpoint, note, self._known)
        except LedgerError as error:
            raise StorageError(f"the {what} is not this log's: {error}") from None
        if checkpoint.origin != self.origin:
            raise StorageError(f"the {what} is that of the log {checkpoint.origin!a}, not of {self.origin}")
        return checkpoint
