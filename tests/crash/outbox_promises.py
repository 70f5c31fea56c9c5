"""What the outbox has promised at one moment, and whether a disk after a power loss still keeps it.

Accepted is accepted: each reading is kept, in one batch or waiting, or was deleted for a reason that is counted. Sealed
is sealed: a place in the chain that anyone may have seen never holds another batch.
"""

import hashlib
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from edge.outbox import Outbox
from ledger.envelope import parse_envelope
from ledger.events import ChainPlace
from tests.crash.disk import Disk
from tests.crash.operations import Mark, Operation
from tests.crash.outbox_workload import DATA, LIMITS, NAME, OUTBOX, SEALER, body, delivery, open_outbox
from tests.crash.promises import BrokenPromiseError

MORE = 3  # readings accepted after each recovery


@dataclass(slots=True)
class OutboxPromises:
    """An outbox that is there, `accepted` readings in it, and by place the digest of each batch that was shown."""

    opened: bool = False
    accepted: int = 0
    sealed: dict[ChainPlace, str] = field(default_factory=dict)

    def note(self, operation: Operation, _disk: Disk) -> None:
        """Adds what `operation` promised."""
        match operation:
            case Mark(text):
                match text.split():
                    case ["opened"]:
                        self.opened = True
                    case ["accepted", count]:
                        self.accepted = int(count)
                    case ["sealed", epoch, seq, digest]:
                        self.sealed[int(epoch), int(seq)] = digest

    def check(self, root: Path) -> None:
        """Recovers the outbox below `root`, goes on with it, and finds all promises kept; raises BrokenPromiseError."""
        _expect(not self.opened or (root / DATA / OUTBOX).exists(), "the outbox is gone")
        outbox = open_outbox(root)
        try:
            accepted = int(outbox.cursor(NAME) or 1) - 1
            _expect(accepted >= self.accepted, f"accepted {self.accepted} readings, {accepted} are there")
            _check_readings(root, accepted)
            self._check_places(outbox)
            outbox.accept([delivery(accepted + 1, MORE)])
            outbox.announce_loss(SEALER)
            while sealed := outbox.seal_next(LIMITS, SEALER) or outbox.seal_next(LIMITS, SEALER, backlog=True):
                header = parse_envelope(sealed.envelope).header
                _expect((header.epoch, header.seq) not in self.sealed, "a place was sealed twice")
            while outbox.declare_gap(SEALER):
                pass
            _check_readings(root, accepted + MORE)
            self._check_places(outbox)
        finally:
            outbox.close()

    def _check_places(self, outbox: Outbox) -> None:
        """Every batch that was shown and is still kept is the one that was shown."""
        places = [*(place for place, _ in outbox.unstored()), *outbox.unreceipted(1000)[0]]
        for place in places:
            envelope = outbox.envelope(place) or b""
            header = parse_envelope(envelope).header
            shown = self.sealed.get((header.epoch, header.seq))
            _expect(
                shown in {None, hashlib.sha256(envelope).hexdigest()}, f"{place} holds another batch than was shown"
            )


def _check_readings(root: Path, accepted: int) -> None:
    """Every reading up to `accepted` is in one place, or was deleted and counted."""
    with closing(sqlite3.connect(root / DATA / OUTBOX)) as db:
        kept = dict(db.execute("SELECT id, body FROM readings"))
        purged, dropped, live_from = db.execute("SELECT purged_readings, dropped, live_from FROM state").fetchone()
        ranges = [*db.execute("SELECT first_id, last_id FROM batches WHERE first_id <= last_id")]
        ranges += [*db.execute("SELECT first_id, last_id FROM waiting"), (live_from, accepted)]
    _expect(
        len(kept) == accepted - purged - dropped, f"{accepted} accepted, {purged} + {dropped} gone, {len(kept)} kept"
    )
    _expect(all(data == body(number) for number, data in kept.items()), "other readings")
    placed = [number for first, last in ranges for number in range(first, last + 1)]
    _expect(sorted(placed) == sorted(kept), "a reading is in two places, or in none")


def _expect(condition: object, otherwise: str) -> None:
    if not condition:
        raise BrokenPromiseError(otherwise)
