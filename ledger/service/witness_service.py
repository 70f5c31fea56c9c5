"""A witness at work: the protocol, its state and its limits brought together; blocking, safe from any thread."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from ledger.note import NoteSigner
from ledger.service.witness import (
    CONFLICT,
    Answer,
    Logs,
    RefusedError,
    State,
    Submission,
    admit,
    check_extends,
    cosign,
    last_answer,
)
from ledger.service.witness_limits import DEFAULT_LIMITS, SMALL_BODY, Buckets, Limits
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
        large = len(body) > SMALL_BODY
        if limited := self._within(("all", large), self._limits.of_all(large=large)):
            return limited
        try:
            submission = admit(body, self.logs)
        except RefusedError as refusal:
            return self._within("strangers", self._limits.strangers) or refusal.answer
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
                now = int(self._clock())
                if again := last_answer(submission, state, self.signers, now):
                    return again
                # Only the log can sign a step forward; a renewal needs no limit, as for FRESH_S it is the last one.
                if submission.checkpoint.size > state.size and (
                    limited := self._within(("forward", origin), self._limits.log)
                ):
                    return limited
                answer, after = cosign(submission, state, self.signers, now)
            except RefusedError as refusal:
                if refusal.answer.status != CONFLICT and (
                    limited := self._within(("refused", origin), self._limits.log)
                ):
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
