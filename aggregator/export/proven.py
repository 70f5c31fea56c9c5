"""Every chosen reading, verified on its way out: as bytes, through the verifier that auditors use.

A store is a view, and whoever can write to it can put anything into its columns. So what is exported is what was
proven: a row that does not lead to a proof is refused, and so is one whose columns say another device, source, kind or
time than the reading that they lead to, or it would carry one person's reading into another's export.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from aggregator.export.evidence import Evidence
from aggregator.export.selection import fits
from aggregator.timeseries.base import ReadingStore, Selection, StoredReading, prove
from ledger.errors import LedgerError, VerificationError
from ledger.keys import key_id
from ledger.kinds import kind_name
from ledger.reading import Reading
from ledger.report import Result
from ledger.verify import VerifiedReading, verify_proof

# Readings come by series and time, batches by log index: a device with seventeen kinds comes back to a batch as often.
_BATCHES_KEPT = 256


@dataclass(frozen=True, slots=True)
class Proven:
    """A reading, its proof file, and what that proves."""

    stored: StoredReading
    reading: Reading
    file: bytes
    verified: VerifiedReading

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
        self._batch = lru_cache(_BATCHES_KEPT)(store.batch)
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

    def _prove(self, stored: StoredReading, selection: Selection) -> Proven:
        batch = self._batch(stored.log_index)
        if batch is None:
            raise VerificationError("the store has no batch record")
        evidence = self._evidence
        proof = prove(stored, batch)
        file = proof.encode()
        # The status is looked up by the key that signed; that this is the key that the header names is step 5.
        statuses = evidence.statuses(key_id(batch.algorithm, batch.public_key))
        verified = verify_proof(file, evidence.policy, trust=evidence.trust, statuses=statuses)
        if verified.reading is None:
            raise VerificationError("the proof is of a batch info")
        signer = verified.header.key_id
        device = evidence.device(signer, stored.log_index)
        # A row written before its key had a name carries the beginning of the key's id.
        if stored.device not in (device, signer.hex()[:16]) or not fits(selection, stored.device, verified.reading):
            raise VerificationError("the row's columns say another device, source, kind or time than its reading")
        return Proven(stored, verified.reading, file, verified)
