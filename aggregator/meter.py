"""What the running aggregator measures of itself; sans-I/O, times are arguments. Used from any thread."""

import os
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from aggregator.limits import LIMITS
from aggregator.status import Status
from ledger.checkpoint import Checkpoint
from ledger.writer.witness_health import WitnessState

LATENCY_WINDOW = 4096  # batches over which proof latency is reported
MAX_STRANGERS = 16  # named; whoever may invent names could invent millions
RATE_WINDOW_NS = 5 * 10**9


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is held somewhere at one moment, all of it bounded; see `limits`."""

    queue: int
    queue_bytes: int
    parked: int
    parked_bytes: int
    outgoing: int
    without_receipt: int


@dataclass(frozen=True, slots=True)
class Known:
    """What the log and the registry tell, looked up now and then; `overdue` devices are silent for too long."""

    gaps: int = 0
    second_headers: int = 0
    new_epochs: int = 0
    clock_faults: int = 0
    overdue: int = 0
    missing_payloads: int = 0


class Meter:
    """Counts and latencies since the start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started_ns: int | None = None
        self._batches = 0
        self._readings = 0
        self._online: dict[str, bool] = {}
        self._returned = 0
        self._strangers: set[str] = set()
        # Of more batches than that the latency is not told anyway; without a quorum they would be ever more.
        self._unpublished: deque[tuple[int, int]] = deque(maxlen=LATENCY_WINDOW)
        self._latencies: deque[float] = deque(maxlen=LATENCY_WINDOW)
        self._published_ns = 0
        self._rates: deque[tuple[int, int]] = deque()

    def committed(self, index: int, readings: int, sealed_at_ns: int) -> None:
        """A batch became entry `index`."""
        with self._lock:
            self._batches += 1
            self._readings += readings
            self._unpublished.append((index, sealed_at_ns))

    def returned(self) -> None:
        """A payload that was lost is here again."""
        with self._lock:
            self._returned += 1

    def heard(self, device: str, *, online: bool) -> None:
        """A device said whether it is there."""
        with self._lock:
            self._online[device] = online

    def strange(self, device: str) -> None:
        """A batch by a key that nobody enrolled came on the topic of `device`, which may be no name of ours."""
        with self._lock:
            if len(self._strangers) < MAX_STRANGERS:
                self._strangers.add(device)

    def online(self) -> list[str]:
        """The devices that say that they are there."""
        with self._lock:
            return [device for device, online in self._online.items() if online]

    def published(self, size: int, now_ns: int) -> None:
        """A checkpoint of `size` is public; everything below it has its proof from here on."""
        with self._lock:
            self._published_ns = now_ns
            while self._unpublished and self._unpublished[0][0] < size:
                self._latencies.append((now_ns - self._unpublished.popleft()[1]) / 1e9)

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
        waiting: Waiting,
        known: Known,
        dropped_answers: int,
        broker_fault: str | None,
        broker_contested: bool,
        decisions: dict[str, int],
        now_ns: int,
    ) -> Status:
        """All of it at `now_ns`."""
        with self._lock:
            self._started_ns = self._started_ns or now_ns
            ordered = sorted(self._latencies)
            rate = self._rate(now_ns)
            strangers = sorted(self._strangers)
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
            readings_per_s=rate,
            **asdict(waiting),
            **asdict(known),
            dropped_answers=dropped_answers,
            broker_fault=broker_fault,
            broker_contested=broker_contested,
            strangers=strangers,
            returned_payloads=self._returned,
            limits=LIMITS,
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
