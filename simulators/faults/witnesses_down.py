"""Witnesses that are away while devices go on."""

import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from aggregator.setup import CONFIG, initialise
from aggregator.status import Status, read_status
from dashboard.snapshot import Snapshot
from ledger.checkpoint import parse_checkpoint
from ledger.fsck import CHECKPOINT_PATH, fsck
from ledger.note import parse_note
from ledger.writer.create import POLICY, POLICY_PQ, load_policy
from ledger.writer.files import read_file
from ledger.writer.local import PUBLIC
from simulators.account import settle
from simulators.broker import HOST, start_broker
from simulators.demo import DEVICES, LOGS, SPEED, WITNESSES
from simulators.faults.trial import Trial
from simulators.fleet import Fleet, Target, lay_out
from simulators.pipeline import Pipeline
from simulators.witnesses import QUORUM, lay_out_witnesses

DEVICE_COUNT = 3
KILLED = 2  # of three, so that no quorum is left
FIRST_CHECKPOINT_WITHIN_S = 60.0
# Witnesses that were away are asked again within a minute.
PUBLISHED_WITHIN_S = 90.0
GROWN_BY = 5  # entries that are committed during the outage, at the least


class _Silent:
    """A view that shows nothing: what a scenario tells is enough."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def show(self, snapshot: Snapshot) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Moment:
    """What is true now: of the aggregator, of the public checkpoint, and of all outboxes together."""

    status: Status
    checkpoint: bytes
    accepted: int
    stored: int
    receipted: int

    @classmethod
    def of(cls, data: Path, fleet: Fleet) -> "_Moment":
        counts = [device.counts() for device in fleet.devices]
        return cls(
            read_status(data),
            read_file(data / PUBLIC, CHECKPOINT_PATH) or b"",
            sum(item.accepted for item in counts),
            sum(item.stored + item.receipted for item in counts),
            sum(item.receipted for item in counts),
        )


def witnesses_down(trial: Trial) -> None:
    """Two of three witnesses are killed while devices measure, and come back after a while.

    Meanwhile readings are accepted, stored and committed, nothing new is published, and no receipt is given for what is
    not published. Afterwards everything is published, and every accepted reading is in exactly one leaf with a receipt
    that its device has verified.
    """
    data = trial.directory
    (data / LOGS).mkdir()
    broker = start_broker(data / LOGS)
    trial.stack.callback(broker.stop)
    origin = f"faults.vitalseal.example/{secrets.token_hex(6)}"
    witnesses = lay_out_witnesses(data / WITNESSES, [data / POLICY, data / POLICY_PQ])
    initialise(
        data / CONFIG,
        data,
        origin,
        HOST,
        broker.port,
        broker.protocol,
        witnesses=[witness.lines for witness in witnesses],
        quorum=QUORUM,
        quiet_interval_s=1.0,
    )
    target = Target(data, origin, HOST, broker.port, broker.protocol)
    fleet = lay_out(data / DEVICES, target, count=DEVICE_COUNT, speed=SPEED, loop=True)
    # It starts again what dies; the witnesses are ours, so that they stay away.
    pipeline = Pipeline(data, data / LOGS / "aggregator.log", broker, fleet, _Silent())
    for witness in witnesses:
        trial.stack.callback(witness.child.stop, 10.0)
        witness.child.start()
    trial.stack.callback(pipeline.stop)
    never = threading.Event()

    def run() -> None:
        pipeline.run_sources(0.1, never)

    pipeline.start(never)
    run()

    def now() -> _Moment:
        return _Moment.of(data, fleet)

    trial.wait(lambda: now().receipted, FIRST_CHECKPOINT_WITHIN_S, "a device has a receipt", meanwhile=run)
    pipeline.run_sources(trial.seconds, never)
    for witness in witnesses[:KILLED]:
        trial.kill(witness.child)
    trial.tell(f"{' and '.join(witness.name for witness in witnesses[:KILLED])} killed while sources run")
    waiting = "a checkpoint waits for its quorum"
    trial.wait(lambda: now().status.waiting_for_quorum is not None, 20.0, waiting, meanwhile=run)
    before = now()

    def goes_on() -> bool:
        later = now()
        grown = later.status.log_size >= before.status.log_size + GROWN_BY
        return grown and later.accepted > before.accepted and later.stored > before.stored

    pipeline.run_sources(trial.seconds, never)
    trial.wait(goes_on, 30.0, "the log grows, and outboxes accept and are told `stored`", meanwhile=run)
    _check_outage(trial, data, before, now())

    returned_at = now().status.log_size
    for witness in witnesses[:KILLED]:
        witness.child.start()
    back = "everything that was committed during the outage is published"
    took_s = trial.wait(lambda: _published_size(data) >= returned_at, PUBLISHED_WITHIN_S, back, meanwhile=run)
    trial.outcome.times_s["recovery"] = took_s
    trial.tell(f"the witnesses are back; {took_s:.1f} s later all {returned_at} entries are published")
    _settle(trial, data, pipeline, fleet)


def _check_outage(trial: Trial, data: Path, before: _Moment, after: _Moment) -> None:
    """Nothing was published between the two moments, and no receipt was given beyond what was published before."""
    trial.tell(
        f"meanwhile accepted {before.accepted} -> {after.accepted} readings, stored {before.stored} -> {after.stored}, "
        f"committed {before.status.log_size} -> {after.status.log_size} entries"
    )
    size = _published_size(data)
    unchanged = after.checkpoint == before.checkpoint and after.status.published_size == size
    trial.expect(unchanged, f"the public checkpoint stays as it was, at size {size}")
    public = data / PUBLIC
    covered = fsck(lambda path: read_file(public, path), load_policy(data / POLICY)).log.readings
    trial.expect(
        after.receipted <= covered, f"receipts are withheld: {after.receipted} given, {covered} readings published"
    )


def _settle(trial: Trial, data: Path, pipeline: Pipeline, fleet: Fleet) -> None:
    began_s = time.monotonic()
    trial.outcome.unexplained += pipeline.drain()
    trial.outcome.times_s["drained"] = time.monotonic() - began_s
    pipeline.end()
    account = settle(data, {device.name: device.outbox for device in fleet.devices}, lambda _done, _all: None)
    trial.outcome.accepted += account.readings - account.duplicates + account.lost
    trial.outcome.in_log += account.verified - account.duplicates
    trial.outcome.unexplained += account.problems
    trial.expect(not account.problems, f"settled: {account.line()}")


def _published_size(data: Path) -> int:
    note = read_file(data / PUBLIC, CHECKPOINT_PATH)
    return parse_checkpoint(parse_note(note, "checkpoint").text).size if note else 0
