"""One look at a running pipeline: counts and times only, never a health value."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class DeviceLine:
    """A device: what it does, readings it has accepted, and how many of them have a verified receipt."""

    name: str
    state: str
    accepted: int
    receipted: int


@dataclass(frozen=True, slots=True)
class Published:
    """The latest checkpoint: the root in hex, the note as signed; all empty before the first."""

    origin: str = ""
    size: int = 0
    root: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is shown.

    Attributes:
        phase: what is going on, in words.
        running_s: seconds since the start.
        devices: in the order of their names' numbers.
        readings_per_s: that the log took, over the last seconds.
        log_size: entries, those without a published checkpoint included.
        checkpoint: the latest.
        proof_p50_s, proof_p95_s: from sealing at the gateway to a published checkpoint; None before the first.
        rejects: batches that were not taken, by reason.
        witnesses: what each does, by name.
    """

    phase: str = "starting"
    running_s: float = 0.0
    devices: tuple[DeviceLine, ...] = ()
    readings_per_s: float = 0.0
    log_size: int = 0
    checkpoint: Published = Published()
    proof_p50_s: float | None = None
    proof_p95_s: float | None = None
    rejects: dict[str, int] = field(default_factory=dict)
    witnesses: dict[str, str] = field(default_factory=dict)

    @property
    def accepted(self) -> int:
        """Readings that any device has accepted."""
        return sum(device.accepted for device in self.devices)

    @property
    def receipted(self) -> int:
        """Of these, how many have a verified receipt."""
        return sum(device.receipted for device in self.devices)

    def table(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {**asdict(self), "accepted": self.accepted, "receipted": self.receipted}

    def lines(self) -> dict[str, str]:
        """The numbers in words: id and text, the same on terminal and page."""
        checkpoint = self.checkpoint
        running = sum(device.state.startswith("running") for device in self.devices)
        rejects = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in sorted(self.rejects.items()))
        return {
            "phase": self.phase,
            "devices": f"{running} of {len(self.devices)} running",
            "readings": f"{self.accepted:,} accepted, {self.receipted:,} with a verified receipt",
            "rate": f"{self.readings_per_s:,.0f} readings/s",
            "log": f"{self.log_size:,} entries",
            "checkpoint": f"size {checkpoint.size:,}, root {checkpoint.root[:16]}…" if checkpoint.root else "none yet",
            "proof": f"{_seconds(self.proof_p50_s)} median, {_seconds(self.proof_p95_s)} for 95 %",
            "witnesses": _witnesses(self.witnesses),
            "rejects": rejects or "none",
        }


TITLES = {
    "phase": "Now",
    "devices": "Devices",
    "readings": "Readings",
    "rate": "Throughput",
    "log": "Log",
    "checkpoint": "Latest checkpoint",
    "proof": "Proof after",
    "witnesses": "Witnesses",
    "rejects": "Rejected batches",
}


def _witnesses(states: dict[str, str]) -> str:
    away = "".join(f"; {name}: {state}" for name, state in states.items() if state != "cosigns")
    return f"{sum(state == 'cosigns' for state in states.values())} of {len(states)} cosign{away}" if states else "none"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
