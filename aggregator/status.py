"""`status.json`: what the running aggregator says of itself, for `aggregator status`, the demo's view and the page.

Written by rename about once an interval; not synced, because it is about now.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vitalseal.errors import UserError

FILE = "status.json"
# Decisions, among those that are counted, that refuse nothing.
ANSWERED = frozenset({"admitted", "repeated", "returned", "parked"})


@dataclass(frozen=True)
class Status:
    """One look at the aggregator. Times are Unix seconds, counts are since its start unless they say otherwise.

    `waiting_for_quorum` is the size of a checkpoint that is signed and lacks cosignatures, None if none does.
    `queue` are messages that wait to be admitted, `parked` batches whose predecessor has not come, `outgoing` messages
    that the broker has not acknowledged; `limits` says by name how much of each there may be. `gaps`, `second_headers`,
    `new_epochs` and `clock_faults` are ever since the log began; `overdue` devices are silent for too long now.
    `broker_fault` is why there is no connection; `broker_contested`: another client seems to have our session;
    `strangers` on whose topics batches by keys came that nobody enrolled, the first few names.
    `latency_p50_s` and `latency_p95_s`: from sealing at the gateway to a published checkpoint, over the last batches.
    """

    pid: int
    started_at: float
    updated_at: float
    origin: str
    connected: bool
    log_size: int
    published_size: int
    published_root: str
    published_at: float
    waiting_for_quorum: int | None
    devices_online: int
    devices_enrolled: int
    batches: int
    readings: int
    readings_per_s: float
    queue: int
    without_receipt: int
    queue_bytes: int = 0
    parked: int = 0
    parked_bytes: int = 0
    outgoing: int = 0
    dropped_answers: int = 0
    gaps: int = 0
    second_headers: int = 0
    new_epochs: int = 0
    clock_faults: int = 0
    overdue: int = 0
    missing_payloads: int = 0
    returned_payloads: int = 0
    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    decisions: dict[str, int] = field(default_factory=dict)
    witnesses: list[dict[str, Any]] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)
    broker_fault: str | None = None
    broker_contested: bool = False
    strangers: list[str] = field(default_factory=list)


def write_status(data: Path, status: Status) -> None:
    """Replaces the status file."""
    temporary = data / f".{FILE}"
    temporary.write_text(json.dumps(asdict(status), indent=1) + "\n", encoding="utf-8")
    temporary.rename(data / FILE)


def read_status(data: Path) -> Status:
    """The last status; raises UserError if there is none."""
    path = data / FILE
    try:
        return Status(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path}: no aggregator has run here yet") from None
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def is_running(status: Status) -> bool:
    """Whether the process that wrote `status` is still there."""
    try:
        os.kill(status.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def glance(status: Status) -> dict[str, str]:
    """What waits, and what the devices have to say for themselves, in words; each is nothing on a good day."""
    refused = status.decisions.get("over_quota", 0) + status.decisions.get("over_quota_unknown", 0)
    waiting = {
        f"{status.queue} messages to be admitted": status.queue,
        f"{status.parked} parked batches for the one before them": status.parked,
        f"{status.outgoing} answers for the broker": status.outgoing,
        f"{refused} messages OVER QUOTA were refused": refused,
        f"{status.dropped_answers} answers were dropped because the broker took no more": status.dropped_answers,
    }
    notices = {
        f"{status.overdue} devices OVERDUE": status.overdue,
        f"{status.gaps} gaps": status.gaps,
        f"{status.new_epochs} lost outboxes": status.new_epochs,
        f"{status.second_headers} CLONES or outboxes restored from an old copy": status.second_headers,
        f"{status.clock_faults} batches by a wrong clock": status.clock_faults,
    }
    lines = {
        "waiting": _present(waiting) or "nothing",
        "notices": f"{text}; `vitalseal aggregator devices` names them" if (text := _present(notices)) else "none",
    }
    if status.missing_payloads:
        lines["missing"] = (
            f"{status.missing_payloads} batches have LOST readings; devices are asked for them, but for those that"
            f" something was erased from; {status.returned_payloads} came back since the start"
        )
    return lines


def _present(counts: dict[str, int]) -> str:
    return ", ".join(text for text, count in counts.items() if count)
