"""Proofs from a log's own data: of one leaf, of all of a device's batches over a range, of a key's status.

Proofs of leaves and ranges end in the *first* published checkpoint that covers them, because a later one proves a
later time; a key's status ends in the newest.
"""

from ledger.batch import Header
from ledger.completeness import MAX_BATCHES, RangeBatch, RangeProof
from ledger.entry import BatchEntry, parse_entry
from ledger.errors import MalformedError, VerificationError
from ledger.events import Enrolment, Rotation
from ledger.keystate import KeyStates
from ledger.leaves import Leaf, check_leaves
from ledger.note import Note, parse_note
from ledger.proof import ProofFile
from ledger.status import StatusProof
from ledger.tiles import TileReader
from ledger.writer.database import MAX_SQLITE
from ledger.writer.keybook import newest_state, read_states
from ledger.writer.payload import parse_payload, prove_leaf
from ledger.writer.reader import LocalReader
from ledger.writer.storage import Place, Recorded


class Prover:
    """Makes proofs from the data of the log named `origin`."""

    def __init__(self, log: LocalReader, origin: str) -> None:
        self._log = log
        self._origin = origin
        self._states = read_states(log, origin)
        self._tree: tuple[TileReader, Note] | None = None

    @property
    def keys(self) -> KeyStates:
        """The log's keys."""
        return self._states

    def leaf(self, index: int, leaf: int) -> ProofFile:
        """The proof of one leaf of the batch that is entry `index`; raises LedgerError."""
        entry, header, leaves = self._batch(index)
        algorithm, public_key = self._public_key(header.key_id)
        proof = prove_leaf(entry, leaves, leaf, algorithm=algorithm, public_key=public_key)
        return self._file(proof.encode(), index)

    def leaves(self, index: int) -> list[int]:
        """The numbers of the readings of the batch that is entry `index`, but those that were erased."""
        _, _, leaves = self._batch(index)
        return [number for number, leaf in enumerate(leaves) if number and isinstance(leaf, Leaf)]

    def range(self, key_id: bytes, epoch: int, first: int, last: int, *, disclose: bool) -> ProofFile:
        """The completeness proof of a key's batches `first` to `last` of `epoch`.

        With `disclose`, with every reading that was not erased; without, only the hashes of all leaves.

        Raises:
            MalformedError: the range is empty, or holds more batches than one file can.
            VerificationError: one of the batches is not on the log, or not published.
        """
        if not first <= last:
            raise MalformedError(f"--from {first} lies after --to {last}")
        if last - first >= MAX_BATCHES:
            raise MalformedError(f"{last - first + 1} batches; one file holds at most {MAX_BATCHES}: divide the range")
        batches, index = [], -1
        for seq in range(first, last + 1):
            found = self._log.find(Place(key_id, epoch, seq))
            if found is None:
                raise VerificationError(f"no batch with epoch {epoch} seq {seq} by key {key_id.hex()[:16]}")
            index = found[0]
            entry, header, leaves = self._batch(index)
            shown = leaves if disclose else tuple(check_leaves(header, leaves))
            batches.append(RangeBatch(entry.header, entry.signature, shown))
        proof = RangeProof(*self._public_key(key_id), tuple(batches))
        return self._file(proof.encode(), index)

    def status(self, key_id: bytes) -> ProofFile:
        """The status of the key under the newest key state that is published; raises VerificationError."""
        published = self._log.published()
        state = None if published is None else newest_state(self._log, published.size)
        if published is None or state is None:
            raise VerificationError("no key state is published yet")
        index, entry = state
        states = read_states(self._log, self._origin, entry.size)
        if states.get(key_id) is None:
            raise VerificationError(f"key {key_id.hex()[:16]} was enrolled after the newest key state")
        record, position, path = states.prove(key_id)
        reader, note = self._reader(published)
        event = parse_entry(reader.entry(record.enrolled))
        if not isinstance(event, (Enrolment, Rotation)):
            raise VerificationError(f"entry {record.enrolled} is not the enrolment of key {key_id.hex()[:16]}")
        event_path = tuple(reader.prove_inclusion(record.enrolled))
        proof = StatusProof(record, position, tuple(path), entry, record.enrolled, event, event_path)
        return ProofFile(proof.encode(), index, tuple(reader.prove_inclusion(index)), note)

    def _file(self, extra: bytes, index: int) -> ProofFile:
        covering = self._log.first_covering(index)
        if covering is None:
            raise VerificationError(f"entry {index} is not published yet")
        reader, note = self._reader(covering)
        return ProofFile(extra, index, tuple(reader.prove_inclusion(index)), note)

    def _reader(self, covering: Recorded) -> tuple[TileReader, Note]:
        if self._tree is None or self._tree[0].size != covering.size:
            reader = self._log.tree(covering)
            self._tree = reader, parse_note(covering.note, "checkpoint")
        return self._tree

    def _batch(self, index: int) -> tuple[BatchEntry, Header, tuple[Leaf | bytes, ...]]:
        data = next(self._log.entries(index, index + 1), None) if 0 <= index < MAX_SQLITE else None
        if data is None:
            raise VerificationError(f"entry {index} is not on the log")
        entry, payload = parse_entry(data), self._log.payload(index)
        if not isinstance(entry, BatchEntry) or payload is None:
            raise MalformedError(f"entry {index} is not a batch with readings")
        return entry, Header.decode(entry.header), parse_payload(payload)

    def _public_key(self, key_id: bytes) -> tuple[int, bytes]:
        key = self._states.public_key(key_id)
        if key is None:
            raise VerificationError(f"key {key_id.hex()[:16]} is not enrolled")
        return key
