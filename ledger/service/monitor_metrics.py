"""What a monitor knows, as Prometheus reads it from a file (the node exporter's textfile collector)."""

from collections import Counter
from collections.abc import Iterable, Sequence

from ledger.checkpoint import parse_checkpoint
from ledger.service.monitor_alarms import PASSING, SPLIT_VIEW, Alarm
from ledger.service.monitor_state import Memory
from ledger.service.monitor_views import Look

_PREFIX = "vitalseal_monitor_"


def format_metrics(memory: Memory, alarms: Iterable[Alarm], looks: Sequence[Look], now: int) -> str:
    """The metrics after a round that ended at `now` (Unix seconds); sizes are in entries."""
    kinds = dict.fromkeys((*PASSING, SPLIT_VIEW), 0) | Counter(alarm.kind for alarm in alarms)
    shown = parse_checkpoint(memory.shown.text).size if memory.shown else 0
    families: dict[str, list[tuple[str, int]]] = {
        "round_timestamp_seconds gauge": [("", now)],
        "fresh_timestamp_seconds gauge": [("", memory.fresh_at)],
        "log_entries gauge": [("", shown)],
        "followed_entries gauge": [("", memory.log.size)],
        "pending_checkpoints gauge": [("", len(memory.pending))],
        "alarms gauge": [(_label("kind", kind), count) for kind, count in sorted(kinds.items())],
        "findings_total counter": [(_label("kind", kind), count) for kind, count in sorted(memory.findings.items())],
        "view_up gauge": [(_label("view", item.view.name), int(item.wrong is None)) for item in looks],
        "view_entries gauge": [
            (_label("view", item.view.name), item.checkpoint.size) for item in looks if item.checkpoint is not None
        ],
    }
    lines = []
    for family, samples in families.items():
        lines.append(f"# TYPE {_PREFIX}{family}")
        lines += [f"{_PREFIX}{family.partition(' ')[0]}{labels} {value}" for labels, value in samples]
    return "\n".join([*lines, ""])


def _label(name: str, value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{{{name}="{escaped}"}}'
