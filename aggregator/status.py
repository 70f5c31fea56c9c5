"""`status.json`: what the running aggregator says of itself, for `aggregator status`, the demo's view and the page.

Written by rename about once an interval; not synced, because it is about now.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vitalseal.errors import UserError

FILE = "status.json"


@dataclass(frozen=True)
class Status:
    """One look at the aggregator. Times are Unix seconds, counts are since its start unless they say otherwise.

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
    devices_online: int
    devices_enrolled: int
    batches: int
    readings: int
    readings_per_s: float
    queue: int
    without_receipt: int
    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    decisions: dict[str, int] = field(default_factory=dict)


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
    except (OSError, TypeError, ValueError) as error:
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
