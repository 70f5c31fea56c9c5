"""Mending an outbox that is older than what the log has of it: a restored backup, an SD card's image.

The log holds other batches in the places that this outbox wants, and a place is used once. So the chain goes on in a
new epoch, whose first header says that an outbox was lost; what had been sealed and was not stored is sealed anew
there. Cursors stay, and so does what is stored and waits for its receipt.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from edge.config import EdgeConfig
from edge.database import OutboxError, Owner
from edge.outbox import Outbox
from edge.outbox_reader import OutboxReader


@dataclass(frozen=True, slots=True)
class Recovered:
    """The epoch that the chain goes on in, and how many readings are sealed anew in it."""

    epoch: int
    readings: int


def recover(config: EdgeConfig, key_id: bytes, *, force: bool = False) -> Recovered:
    """The agent's outbox has begun a new epoch of its key; no agent may be running.

    Raises:
        UserError: an agent uses the outbox, there is none, or, unless `force`, nothing shows that it is outdated.
    """
    if not config.outbox_file.exists():
        raise OutboxError(f"outbox {config.outbox_file}: not there; starting the agent makes one, in a new epoch")
    owner = Owner(config.device, config.origin, key_id, config.key)
    with contextlib.closing(Outbox(config.outbox_file, owner)) as outbox:
        if not force:
            _check_outdated(config.outbox_file)
        readings = outbox.new_epoch(owner)
        epoch, _ = outbox.next_place()
        return Recovered(epoch, readings)


def _check_outdated(path: Path) -> None:
    with OutboxReader(path) as reader:
        if reader.outdated() is None:
            raise OutboxError(
                f"outbox {path}: the log has not refused it as outdated, and an epoch that is begun stands on the log"
                " for ever; start the agent, and look at `vitalseal edge status` (--force does it all the same)"
            )
