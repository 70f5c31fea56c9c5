"""Witnesses that are away while devices go on."""

from dataclasses import dataclass

from aggregator.status import Status
from ledger.fsck import CHECKPOINT_PATH, fsck
from ledger.writer.create import POLICY, load_policy
from ledger.writer.files import read_file
from ledger.writer.reader import PUBLIC
from simulators.faults.stage import Stage
from simulators.faults.trial import Trial
from vitalseal.errors import UserError

KILLED = 2  # of three, so that no quorum is left
# Witnesses that were away are asked again within a minute.
PUBLISHED_WITHIN_S = 90.0
GROWN_BY = 5  # entries that are committed during the outage, at the least


@dataclass(frozen=True, slots=True)
class _Moment:
    """What is true now: of the aggregator, of the public checkpoint, and of all outboxes together."""

    status: Status
    checkpoint: bytes
    accepted: int
    stored: int
    receipted: int

    @classmethod
    def of(cls, stage: Stage) -> "_Moment":
        counts = []
        for device in stage.devices:
            try:
                counts.append(device.counts())
            except UserError:  # it begins to run again
                continue
        return cls(
            stage.status(),
            read_file(stage.data / PUBLIC, CHECKPOINT_PATH) or b"",
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
    stage = Stage(trial)
    stage.start()
    stage.measure(trial.seconds / 2)
    killed = [witness.child for witness in stage.witnesses[:KILLED]]
    with stage.away(*killed):
        for child in killed:
            trial.kill(child)
        trial.tell(f"{' and '.join(child.name for child in killed)} killed while sources run")
        waiting = "a checkpoint waits for its quorum"
        stage.wait(lambda: _Moment.of(stage).status.waiting_for_quorum is not None, 20.0, waiting)
        before = _Moment.of(stage)

        def goes_on() -> bool:
            later = _Moment.of(stage)
            grown = later.status.log_size >= before.status.log_size + GROWN_BY
            return grown and later.accepted > before.accepted and later.stored > before.stored

        stage.measure(trial.seconds / 2)
        stage.wait(goes_on, 30.0, "the log grows, and outboxes accept and are told `stored`")
        _check_outage(trial, stage, before, _Moment.of(stage))
        returned_at = stage.status().log_size
    back = "everything that was committed during the outage is published"
    took_s = stage.wait(lambda: stage.published_size() >= returned_at, PUBLISHED_WITHIN_S, back)
    trial.outcome.times_s["recovery"] = took_s
    trial.tell(f"the witnesses are back; {took_s:.1f} s later all {returned_at} entries are published")
    stage.drain()
    stage.settle()


def _check_outage(trial: Trial, stage: Stage, before: _Moment, after: _Moment) -> None:
    """Nothing was published between the two moments, and no receipt was given beyond what was published before."""
    trial.tell(
        f"meanwhile accepted {before.accepted} -> {after.accepted} readings, stored {before.stored} -> {after.stored}, "
        f"committed {before.status.log_size} -> {after.status.log_size} entries"
    )
    size = stage.published_size()
    unchanged = after.checkpoint == before.checkpoint and after.status.published_size == size
    trial.expect(unchanged, f"the public checkpoint stays as it was, at size {size}")
    public = stage.data / PUBLIC
    covered = fsck(lambda path: read_file(public, path), load_policy(stage.data / POLICY)).log.readings
    trial.expect(
        after.receipted <= covered, f"receipts are withheld: {after.receipted} given, {covered} readings published"
    )
