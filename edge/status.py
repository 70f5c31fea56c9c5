"""How an agent stands: one report for people, for scripts and for whoever watches it.

The outbox is the source of nearly all of it, so that it can be told while no agent runs, and by another process.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge.clock import ClockReader, SystemClock
from edge.config import EdgeConfig
from edge.courier import reason_name
from edge.database import PASSING, locked
from edge.outbox_reader import Counts, LastReject, OutboxReader
from ledger.info import Clock
from ledger.messages import Reason

# A file system with less room is full: the next transaction, and the write-ahead log's, may not fit.
FULL_BELOW = 1024 * 1024
# Input that was refused this long ago is said first no more; it is still counted.
RECENT_S = 86400.0


@dataclass(frozen=True, slots=True)
class Report:
    """One agent at one moment. JSON-able by `as_json`.

    Attributes:
        states: what a person must know first, in words; never empty.
        running, connected: an agent works on the outbox; it has a connection to the broker.
        broker, broker_why: see `mqtt.Uplink.state` and `why`.
        counts: see `Counts`.
        oldest_unstored_s: seconds since the oldest reading was received that the aggregator lacks, None if it has all.
        checkpoint_size: of the largest verified checkpoint, None before the first.
        last_reject: the last one, unless its batch is stored by now; `outdated`: it shows that this outbox is not the
            latest one of its key; `key_ended`: the log takes nothing more of this key; `refused`: any other reason for
            good, in words, why a batch waits.
        last_reject_s: seconds since then, None if not known.
        refused_input: by source, pieces of input that made no reading; `refused_s`: seconds since the last one, where
            that was not long ago.
        sources: those that give nothing just now, by name, and why.
        key_why: why the device's key cannot be opened from here; empty if it can.
        gaps_declared, gaps_pending: gap headers sealed, and reasons that the chain does not tell of yet.
        used_bytes, max_bytes: of the outbox's disk budget; `over_budget`: readings are dropped to keep it.
        purged_early: batches with a receipt that were deleted before `keep_days` for want of room.
        erased_batches: that were deleted because the log's operator erased readings of them.
        disk_full: nothing can be accepted until there is room.
        clock: 0 unknown, 1 synchronised, 2 not synchronised; `clock_error_ns` its estimated error, if known.
    """

    device: str
    key_id: str
    origin: str
    epoch: int
    running: bool
    connected: bool
    broker: str
    broker_why: str
    counts: Counts
    oldest_unstored_s: float | None
    checkpoint_size: int | None
    last_reject: LastReject | None
    outdated: bool
    key_ended: bool
    refused: str
    last_reject_s: float | None
    refused_input: dict[str, int]
    refused_s: dict[str, float]
    sources: dict[str, str]
    gaps_declared: int
    gaps_pending: int
    used_bytes: int
    max_bytes: int
    over_budget: bool
    purged_early: int
    erased_batches: int
    disk_full: bool
    clock: int
    clock_error_ns: int | None
    key_why: str = ""
    states: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """The states follow from the rest."""
        object.__setattr__(self, "states", tuple(_states(self)))

    def as_json(self) -> dict[str, Any]:
        """One flat object of what `json` can write; the counts stand beside the rest."""
        table = asdict(self)
        return {**table.pop("counts"), **table}


def read_report(config: EdgeConfig, key_id: bytes | None, *, key_why: str = "") -> Report:
    """The report of the agent that `config` describes, whether it runs or not, from beside it; raises UserError.

    `key_id` is None where the key cannot be opened, because of `key_why`; then it is that of the chain in use.
    """
    running = locked(config.outbox_file) if config.outbox_file.exists() else False
    disk_full = running and _full(config.data)
    clock = SystemClock()
    return make_report(config, key_id, running=running, disk_full=disk_full, clock=clock, key_why=key_why)


def make_report(
    config: EdgeConfig,
    key_id: bytes | None,
    *,
    running: bool,
    disk_full: bool,
    clock: ClockReader,
    key_why: str = "",
) -> Report:
    """The report from what the outbox holds, and what only a running agent knows; raises UserError."""
    now = clock.read()
    with OutboxReader(config.outbox_file) as reader:
        facts, counts, anchor = reader.facts(), reader.counts(), reader.anchor()
        waiting, oldest_ns = reader.waiting_reject(), reader.oldest_unstored_ns()
        # What became of a batch that is stored by now is no news.
        reject = waiting or reader.unnamed_reject()
        outdated, refused, used = reader.outdated() is not None, reader.refused(), reader.used()
        refused_ns, troubles = reader.last_refused_ns(), reader.troubles()
        key_id = reader.key_id() if key_id is None else key_id

    def ago_s(at_ns: int | None) -> float | None:
        return None if at_ns is None else max(0.0, round((now.wall_ns - at_ns) / 1e9, 1))

    since_s = {name: age_s for name, at_ns in refused_ns.items() if (age_s := ago_s(at_ns)) is not None}
    key_ended = waiting is not None and waiting.reason == Reason.ENDED_KEY
    for_good = waiting is not None and waiting.reason not in PASSING and not (outdated or key_ended)
    return Report(
        device=config.device,
        key_id=key_id.hex(),
        origin=config.origin,
        epoch=facts.epoch,
        running=running,
        connected=running and facts.broker == "connected",
        broker=facts.broker,
        broker_why=facts.broker_why,
        counts=counts,
        oldest_unstored_s=None if oldest_ns is None else round((now.wall_ns - oldest_ns) / 1e9, 1),
        checkpoint_size=None if anchor is None else anchor.size,
        last_reject=reject,
        outdated=outdated,
        key_ended=key_ended,
        refused=reason_name(waiting.reason) if waiting is not None and for_good else "",
        last_reject_s=None if reject is None else ago_s(reject.at_ns),
        refused_input=refused,
        refused_s={name: age_s for name, age_s in since_s.items() if age_s < RECENT_S},
        sources=troubles if running else {},
        gaps_declared=facts.gaps_declared,
        gaps_pending=facts.gaps_pending,
        used_bytes=used,
        max_bytes=config.outbox.max_bytes,
        over_budget=bool(facts.over_budget),
        purged_early=facts.purged_early,
        erased_batches=facts.erased_batches,
        disk_full=disk_full,
        clock=int(now.clock),
        clock_error_ns=now.error_ns,
        key_why=key_why,
    )


def for_people(report: Report) -> str:
    """The report at a glance: the named states, then the numbers behind them."""
    counts, oldest, size = report.counts, report.oldest_unstored_s, report.checkpoint_size
    reject = report.last_reject
    share = 100 * report.used_bytes // report.max_bytes
    lines = [
        ("device", f"{report.device}: {'; '.join(report.states)}"),
        ("key id", report.key_id),
        ("log", report.origin),
        ("accepted", f"{counts.accepted} readings"),
        ("  open", f"{counts.unsealed} readings, {counts.backlog} of them a backlog, {counts.held} held"),
        ("  sealed", f"{counts.sealed} readings in {counts.batches_sealed} batches"),
        ("  stored", f"{counts.stored} readings in {counts.batches_stored} batches"),
        ("  receipted", f"{counts.receipted} readings in {counts.batches_receipted} batches"),
        ("  dropped", f"{counts.dropped} readings"),
        ("  erased", f"{report.erased_batches} batches, because the log's operator erased readings of them"),
        ("oldest unsent", "nothing waits" if oldest is None else f"{oldest} s"),
        ("gaps", f"{report.gaps_declared} declared in the chain, {report.gaps_pending} still to be"),
        ("outbox", f"{report.used_bytes / 1e6:.1f} of {report.max_bytes / 1e6:.0f} MB ({share} %)"),
        ("clock", Clock(report.clock).name.lower()),
        ("checkpoint", "none verified yet" if size is None else f"size {size} is the largest verified"),
        ("last reject", "none" if reject is None else _reject(reject, report.last_reject_s)),
    ]
    lines += [(f"refused from {name}", f"{count} pieces of input") for name, count in report.refused_input.items()]
    return "\n".join(f"{label:<14} {value}" for label, value in lines)


def _states(report: Report) -> Sequence[str]:
    """What a person must know first, the worst first."""
    counts = report.counts
    states = []
    if report.outdated:
        states.append("outdated outbox")
    if report.key_ended:
        states.append("key ended")
    if report.refused:
        states.append(f"refused: {report.refused}")
    if report.key_why:
        states.append(f"key: {report.key_why}")
    if report.disk_full:
        states.append("disk full")
    if report.over_budget:
        states.append(f"over budget: {counts.dropped} readings dropped so far")
    if counts.held:
        states.append(f"clock not set: {counts.held} readings held")
    states += [f"source {name}: {why}" for name, why in report.sources.items()]
    states += [
        f"{report.refused_input[name]} pieces of input refused from {name}, the last one {_span(age_s)} ago"
        for name, age_s in report.refused_s.items()
    ]
    states.append(_connection(report))
    return states


def _connection(report: Report) -> str:
    if not report.running:
        return "not running"
    if report.connected:
        return "connected"
    why = f": {report.broker_why}" if report.broker_why else ""
    if report.broker == "refused":
        return f"refused by the broker{why}"
    if report.broker == "tls":
        unset = report.clock == Clock.UNSYNCHRONISED or report.counts.held
        return f"tls refused, clock not set{why}" if unset else f"tls refused{why}"
    return f"no broker{why}"


def _reject(reject: LastReject, age_s: float | None) -> str:
    when = "" if age_s is None else f"{_span(age_s)} ago, "
    place = "no batch named" if reject.seq is None else f"batch {reject.epoch}/{reject.seq}"
    return f"{when}{place}: {reason_name(reject.reason)}: {reject.detail}"


def _span(seconds: float) -> str:
    """How long, in the largest unit of which it is two or more."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _full(directory: Path) -> bool:
    room = os.statvfs(directory)
    return room.f_bavail * room.f_frsize < FULL_BELOW
