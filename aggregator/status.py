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


@dataclass(frozen=True)
class Status:
    """One look at the aggregator. Times are Unix seconds, counts are since its start unless they say otherwise.

    `waiting_for_quorum` is the size of a checkpoint that is signed and lacks cosignatures, None if none does.
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
    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    decisions: dict[str, int] = field(default_factory=dict)
    witnesses: list[dict[str, Any]] = field(default_factory=list)


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


def format_metrics(status: Status, *, running: bool) -> str:
    """`status` in Prometheus' text format, for a node exporter's textfile collector; it names no device."""
    gauges = {
        "running": int(running),
        "broker_connected": int(status.connected),
        "log_entries": status.log_size,
        "published_entries": status.published_size,
        "published_timestamp_seconds": status.published_at,
        "waiting_for_quorum": int(status.waiting_for_quorum is not None),
        "batches_without_receipt": status.without_receipt,
        "queued_messages": status.queue,
        "devices_online": status.devices_online,
        "devices_enrolled": status.devices_enrolled,
    }
    lines = [f"vitalseal_{name} {value}" for name, value in gauges.items()]
    lines += [
        f'vitalseal_decisions_total{{decision="{name}"}} {count}' for name, count in sorted(status.decisions.items())
    ]
    for witness in status.witnesses:
        name = witness["name"].replace("\\", r"\\").replace('"', r"\"")
        lines.append(f'vitalseal_witness_ok{{witness="{name}"}} {int(witness["ok"])}')
        lines.append(f'vitalseal_witness_size{{witness="{name}"}} {witness["size"]}')
    return "\n".join(lines) + "\n"
