"""What the log says ought to stand where something was found: a proof file, as `vitalseal verify` takes it."""

from aggregator.audit.auditor import Outcome
from aggregator.audit.findings import About, Finding, What
from aggregator.audit.private import Private
from aggregator.timeseries.base import ReadingStore, prove
from ledger.errors import LedgerError
from ledger.verify import verify_proof
from ledger.writer.storage import StorageError


class Proofs:
    """Makes them from payloads, or from genuine rows that stand wrong; each is verified before it is shown."""

    def __init__(self, outcome: Outcome, store: ReadingStore, private: Private | None) -> None:
        self._outcome, self._store, self._private = outcome, store, private
        log = outcome.log
        self._prover = None if private is None or log is None else private.prover(log.origin)

    def of(self, finding: Finding) -> tuple[str, str]:
        """The proof's text and nothing, or nothing and why there is none."""
        log = self._outcome.log
        if finding.what is What.EXTRA or log is None:
            return "", "the log says nothing of it"
        if finding.about is About.CHECKPOINT:
            return self._note(finding.number or 0)
        place = finding.place
        if place is None:
            return "", "the log says nothing of it"
        try:
            data = self._make(*place, finding.number or 0)
            if data is None:
                return "", "nobody here has the bytes that the log commits to: no payloads are at hand"
            verify_proof(data, log.policy)
        except (LedgerError, StorageError) as error:
            return "", str(error)
        return data.decode(), ""

    def _make(self, index: int, leaf: int, ref: int) -> bytes | None:
        if self._prover is not None:
            return self._prover.leaf(index, leaf).encode()
        stored, record = self._outcome.evidence.get(ref), self._store.batch(index)
        return None if stored is None or record is None or not leaf else prove(stored, record).encode()

    def _note(self, size: int) -> tuple[str, str]:
        note = None if self._private is None else self._private.note(size)
        return ("", "the checkpoint as it was published is not at hand") if note is None else (note.decode(), "")
