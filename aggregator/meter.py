"""What the running aggregator measures of itself; sans-I/O, times are arguments."""

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict

from aggregator.status import Status
from ledger.checkpoint import Checkpoint
from ledger.receipt import Reason
from ledger.writer.witness_health import WitnessState

LATENCY_WINDOW = 4096  # batches over which proof latency is reported
RATE_WINDOW_NS = 5 * 10**9
TELL_EVERY_S = 60.0  # a device that is rejected for one reason is named in the log this often


class Meter:
    """Counts and latencies since the start."""

    def __init__(self) -> None:
        self._started_ns: int | None = None
        self._batches = 0
        self._readings = 0
        self._online: dict[str, bool] = {}
        self._unpublished: deque[tuple[int, int]] = deque()
        self._latencies: deque[float] = deque(maxlen=LATENCY_WINDOW)
        self._published_ns = 0
        self._rates: deque[tuple[int, int]] = deque()
        self._told: dict[tuple[str, Reason], float] = {}

    def committed(self, index: int, readings: int, sealed_at_ns: int) -> None:
        """A batch became entry `index`."""
        self._batches += 1
        self._readings += readings
        self._unpublished.append((index, sealed_at_ns))

    def heard(self, device: str, *, online: bool) -> None:
        """A device said whether it is there."""
        self._online[device] = online

    def published(self, size: int, now_ns: int) -> None:
        """A checkpoint of `size` is public; everything below it has its proof from here on."""
        self._published_ns = now_ns
        while self._unpublished and self._unpublished[0][0] < size:
            self._latencies.append((now_ns - self._unpublished.popleft()[1]) / 1e9)

    def may_tell(self, device: str, reason: Reason, now_s: float) -> bool:
        """Whether this device's reject for this reason is due in the log again."""
        last = self._told.get((device, reason))
        if last is not None and now_s - last < TELL_EVERY_S:
            return False
        self._told[device, reason] = now_s
        return True

    def status(
        self,
        *,
        origin: str,
        connected: bool,
        log_size: int,
        checkpoint: Checkpoint,
        waiting_for_quorum: int | None,
        witnesses: Sequence[WitnessState],
        enrolled: int,
        queue: int,
        without_receipt: int,
        decisions: dict[str, int],
        now_ns: int,
    ) -> Status:
        """All of it at `now_ns`."""
        self._started_ns = self._started_ns or now_ns
        ordered = sorted(self._latencies)
        return Status(
            pid=os.getpid(),
            started_at=self._started_ns / 1e9,
            updated_at=now_ns / 1e9,
            origin=origin,
            connected=connected,
            log_size=log_size,
            published_size=checkpoint.size,
            published_root=checkpoint.root.hex(),
            published_at=self._published_ns / 1e9,
            waiting_for_quorum=waiting_for_quorum,
            witnesses=[asdict(witness) for witness in witnesses],
            devices_online=sum(self._online.values()),
            devices_enrolled=enrolled,
            batches=self._batches,
            readings=self._readings,
            readings_per_s=self._rate(now_ns),
            queue=queue,
            without_receipt=without_receipt,
            latency_p50_s=_quantile(ordered, 0.5),
            latency_p95_s=_quantile(ordered, 0.95),
            decisions=decisions,
        )

    def _rate(self, now_ns: int) -> float:
        """Readings a second over the last few looks."""
        self._rates.append((now_ns, self._readings))
        while now_ns - self._rates[0][0] > RATE_WINDOW_NS and len(self._rates) > 2:
            self._rates.popleft()
        then_ns, then = self._rates[0]
        return round((self._readings - then) / ((now_ns - then_ns) / 1e9), 1) if now_ns > then_ns else 0.0


def _quantile(ordered: list[float], share: float) -> float | None:
    if not ordered:
        return None
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 3)
