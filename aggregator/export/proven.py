"""Every chosen reading, verified on its way out, by the verifier that auditors use.

A store is a view, and whoever can write to it can put anything into its columns. So what is exported is what was
proven: a row that does not lead to a proof is refused, and so is one whose columns say another device, source, kind or
time than the reading that they lead to, or it would carry one person's reading into another's export.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache

from aggregator.export.evidence import Evidence
from aggregator.export.selection import fits
from aggregator.timeseries.base import Provable, ReadingStore, Selection, StoredReading
from ledger.errors import LedgerError, VerificationError
from ledger.keys import key_id
from ledger.kinds import kind_name
from ledger.proof import ReadingProof, parse_leaf_proof
from ledger.reading import Reading
from ledger.report import Result
from ledger.verify import VerifiedReading, Verifier

# Readings come by series and time, so those of a batch follow each other, but for late ones. One may have 600 KB here.
_BATCHES_KEPT = 32


@dataclass(frozen=True, slots=True)
class Proven:
    """A reading, its proof, and what that proves. Small as long as others of its batch are held too."""

    stored: StoredReading
    reading: Reading
    proof: ReadingProof
    verified: VerifiedReading

    @property
    def file(self) -> bytes:
        """The proof file, made when it is asked for."""
        return self.proof.encode()

    @property
    def complete(self) -> bool:
        """Whether every step was checked, as `verify --strict` demands."""
        return all(step.result is Result.PASSED for step in self.verified.steps)

    @property
    def file_name(self) -> str:
        """A name for the proof file: kind and sensor time (UTC) for people, its place in the log to be unique."""
        at = datetime.fromtimestamp(self.reading.sensor_time_ns // 10**9, UTC).strftime("%Y%m%dT%H%M%SZ")
        kind = kind_name(self.reading.kind).replace(" ", "_")
        return f"{kind}-{at}-{self.stored.log_index}-{self.stored.leaf_index}.tlog-proof"


class Proving:
    """The readings of `selections` that are proven, to be taken once; `refuse` is told of each that is not, and why."""

    def __init__(
        self,
        store: ReadingStore,
        selections: Iterable[Selection],
        evidence: Evidence,
        refuse: Callable[[StoredReading, str], None],
    ) -> None:
        self._store = store
        self._selections = selections
        self._evidence = evidence
        self._refuse = refuse
        self._verifier = Verifier(evidence.policy, trust=evidence.trust)
        self._batch = lru_cache(_BATCHES_KEPT)(self._read_batch)
        self._seen: set[int] = set()
        self.exported = 0
        self.refused = 0
        self.incomplete = 0

    def __iter__(self) -> Iterator[Proven]:
        for selection in self._selections:
            for stored in self._store.select(selection):
                try:
                    proven = self._prove(stored, selection)
                except LedgerError as error:
                    self.refused += 1
                    self._refuse(stored, str(error))
                else:
                    self.exported += 1
                    self.incomplete += not proven.complete
                    yield proven

    def _read_batch(self, log_index: int) -> Provable:
        batch = self._store.batch(log_index)
        if batch is None:
            raise VerificationError("the store has no batch record")
        return Provable(batch)

    def _prove(self, stored: StoredReading, selection: Selection) -> Proven:
        provable = self._batch(stored.log_index)
        batch, evidence = provable.batch, self._evidence
        # The status is looked up by the key that signed; that this is the key that the header names is step 5.
        statuses = evidence.statuses(key_id(batch.algorithm, batch.public_key))
        proof = provable.prove(stored)
        # What a row holds is read as from a file, in its one spelling; the hashes and the checkpoint below it can have
        # no other than that which is verified.
        leaf = parse_leaf_proof(proof.leaf.encode())
        verified = self._verifier.verify(replace(proof, leaf=leaf), statuses=statuses)
        if verified.reading is None:
            raise VerificationError("the proof is of a batch info")
        signer = verified.header.key_id
        device = evidence.device(signer, stored.log_index)
        # A row written before its key had a name carries the beginning of the key's id.
        if stored.device not in (device, signer.hex()[:16]) or not fits(selection, stored.device, verified.reading):
            raise VerificationError("the row's columns say another device, source, kind or time than its reading")
        if stored.ref in self._seen:
            raise VerificationError("another row holds this reading too, and is exported")
        self._seen.add(stored.ref)
        return Proven(stored, verified.reading, proof, verified)
