"""What the log says ought to stand where something was found: a proof file, as `vitalseal verify` takes it."""

from collections.abc import Iterator

from aggregator.audit.auditor import Outcome
from aggregator.audit.findings import About, Finding, What
from aggregator.audit.private import Private
from aggregator.export.evidence import status_name
from aggregator.timeseries.base import ReadingStore, prove
from ledger.errors import LedgerError
from ledger.status import verify_status
from ledger.verify import verify_proof
from ledger.writer.storage import StorageError


class Proofs:
    """Makes them from payloads, or from genuine rows that stand wrong; each is verified before it is shown."""

    def __init__(self, outcome: Outcome, store: ReadingStore, private: Private | None) -> None:
        self._outcome, self._store, self._private = outcome, store, private
        log = outcome.log
        self._prover = None if private is None or log is None else private.prover(log.origin)
        self._key_ids: set[bytes] = set()

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
            self._key_ids.add(verify_proof(data, log.policy).header.key_id)
        except (LedgerError, StorageError) as error:
            return "", str(error)
        return data.decode(), ""

    def statuses(self) -> Iterator[tuple[str, str, str]]:
        """For each key of the proofs made: its status' file name, and the text, or nothing and why there is none."""
        for key_id in sorted(self._key_ids):
            yield (status_name(key_id), *self._status(key_id))

    def _status(self, key_id: bytes) -> tuple[str, str]:
        log = self._outcome.log
        if self._prover is None or log is None:
            return "", "it is made from the log's own directory, which is not at hand"
        try:
            file = self._prover.status(key_id)
            verify_status(file, log.policy)
        except (LedgerError, StorageError) as error:
            return "", str(error)
        return file.encode().decode(), ""

    def _make(self, index: int, leaf: int, ref: int) -> bytes | None:
        if self._prover is not None:
            return self._prover.leaf(index, leaf).encode()
        stored, record = self._outcome.evidence.get(ref), self._store.batch(index)
        return None if stored is None or record is None or not leaf else prove(stored, record).encode()

    def _note(self, size: int) -> tuple[str, str]:
        note = None if self._private is None else self._private.note(size)
        return ("", "the checkpoint as it was published is not at hand") if note is None else (note.decode(), "")
