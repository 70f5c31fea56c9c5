"""A witness at work: the protocol, its state and its limits brought together; blocking, safe from any thread."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from ledger.note import NoteSigner
from ledger.service.witness import (
    Answer,
    Logs,
    RefusedError,
    State,
    Submission,
    admit,
    check_extends,
    cosign,
)
from ledger.service.witness_limits import DEFAULT_LIMITS, Buckets, Limits
from ledger.service.witness_store import WitnessStore
from ledger.writer.storage import StorageError

_log = logging.getLogger(__name__)


class Witness:
    """Answers `add-checkpoint`; `logs` may be replaced at any time, and counts for requests that begin afterwards."""

    def __init__(
        self,
        store: WitnessStore,
        signers: Sequence[NoteSigner],
        logs: Logs,
        *,
        limits: Limits = DEFAULT_LIMITS,
        clock: Callable[[], float] = time.time,
        buckets: Buckets | None = None,
        stop: Callable[[], None] = lambda: None,
    ) -> None:
        """`stop` is called when the storage failed, and must end the process."""
        self.store = store
        self.signers = signers
        self.logs = logs
        self._counts: Counter[int] = Counter()
        self._counting = threading.Lock()
        self._limits = limits
        self._clock = clock
        self._buckets = buckets or Buckets()
        self._stop = stop

    def add_checkpoint(self, body: bytes) -> Answer:
        """The answer to a request; if it carries cosignatures, the state behind them is durable."""
        try:
            submission = admit(body, self.logs)
        except RefusedError as refusal:
            return self._within(None, self._limits.strangers) or refusal.answer
        try:
            return self._answer(submission)
        except StorageError as error:
            _log.critical("%s: no cosignature is given, the witness stops", error)
            self._stop()
            return Answer(500, "this witness cannot keep its state and stops\n")

    def count(self, status: int) -> None:
        """One more request was answered with `status`."""
        with self._counting:
            self._counts[status] += 1

    def counts(self) -> list[tuple[int, int]]:
        """How many requests were answered with each status."""
        with self._counting:
            return sorted(self._counts.items())

    def _answer(self, submission: Submission) -> Answer:
        origin = submission.checkpoint.origin
        while True:
            state = self.store.load(origin)
            try:
                check_extends(submission, state)
                forward = submission.checkpoint.size > state.size
                if limited := self._within((origin, forward), self._limits.log):
                    return limited
                answer, after = cosign(submission, state, self.signers, int(self._clock()))
            except RefusedError as refusal:
                if limited := self._within((origin, False), self._limits.log):
                    return limited
                _report(submission, state, refusal)
                return refusal.answer
            if self.store.replace(origin, state, after):
                return answer
            # Another request was faster; whenever this loop turns, one of them made a step.

    def _within(self, key: Hashable, rate: float) -> Answer | None:
        wait = self._buckets.take(key, rate)
        return Answer(429, f"too many requests; again in {wait} s\n", retry_after_s=wait) if wait else None


def _report(submission: Submission, state: State, refusal: RefusedError) -> None:
    """A log line where the log itself signed what cannot be cosigned, or where our clock is wrong."""
    checkpoint = submission.checkpoint
    where = f"origin={checkpoint.origin!a} size={checkpoint.size} last={state.size}"
    if refusal.answer.status == 503:
        _log.error("%s: the clock is behind the last cosignature of time=%d; not cosigned", where, state.time)
    elif refusal.answer.status == 422 and checkpoint.size == state.size and checkpoint.root != state.root:
        signed = submission.request.checkpoint.text + "".join(map(str, submission.lines))
        _log.error("%s: TWO TREES OF ONE SIZE: cosigned=%a refused=%a", where, state.note.decode(), signed)
    elif refusal.answer.status == 422:
        _log.warning("%s: signed by the log, not cosigned: %s", where, refusal)
