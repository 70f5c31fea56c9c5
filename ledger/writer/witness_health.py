"""How a witness does: when it may be asked again, and what people are told of it."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass

MIN_RETRY_S, MAX_RETRY_S = 1.0, 60.0  # a witness that returns is noticed within a minute

LATE = "gave no answer in time"

_SECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)

_log = logging.getLogger(__name__)


class WitnessFault(Exception):  # noqa: N818 - the witness's fault: a state, not an error of ours
    """A witness gave no answer that is of use; one line. It is `grave` if it may have seen another history."""

    def __init__(self, message: str, *, retry_after: str = "", grave: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.grave = grave


@dataclass(frozen=True, slots=True)
class WitnessState:
    """How a witness does, for people and metrics.

    `error` is '' while `ok`; `size` is what it last cosigned, as far as known; `changed_at` is when `ok` became what
    it is, on the clock that `Witnesses` was given; `retry_in_s` is 0 where it may be asked.
    """

    name: str
    url: str
    ok: bool
    error: str
    size: int
    changed_at: float
    retry_in_s: float


@dataclass(frozen=True, slots=True)
class Health:
    """One moment of a witness; replaced whole, so that any thread may read it."""

    ok: bool
    error: str
    failures: int
    changed_at: float
    retry_at: float

    @classmethod
    def unknown(cls, now: float) -> "Health":
        """It may be asked."""
        return cls(ok=False, error="not asked yet", failures=0, changed_at=now, retry_at=now)

    def answered(self, who: str, now: float) -> "Health":
        """It does what it is there for; logged once after it had failed."""
        if self.failures:
            _log.info("witness %s is back", who)
        return Health(ok=True, error="", failures=0, changed_at=self.changed_at if self.ok else now, retry_at=now)

    def failed(self, fault: WitnessFault, who: str, now: float, jitter: Callable[[], float]) -> "Health":
        """It is left alone for a while; logged once, a grave fault whenever it is another one.

        The while is what the witness asks for in seconds, else random up to a bound that doubles with each failure.
        """
        error = str(fault)
        if self.failures == 0 or (fault.grave and error != self.error):
            level = logging.ERROR if fault.grave else logging.WARNING
            _log.log(level, "witness %s is away, and is asked again: %s", who, error)
        failures = self.failures + 1
        if _SECONDS.fullmatch(fault.retry_after):
            wait_s = min(max(float(fault.retry_after), MIN_RETRY_S), MAX_RETRY_S)
        else:
            bound_s = min(MAX_RETRY_S, MIN_RETRY_S * 2.0 ** min(failures, 16))
            wait_s = MIN_RETRY_S + jitter() * (bound_s - MIN_RETRY_S)
        changed_at = self.changed_at if self.failures else now
        return Health(ok=False, error=error, failures=failures, changed_at=changed_at, retry_at=now + wait_s)
