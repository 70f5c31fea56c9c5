"""The recorded program: one run on an outbox, in a process of its own; the only file here that knows the edge.

    python outbox_workload.py ROOT MARKS SCRIPT [--harm HARM]

SCRIPT is a list of steps, one letter each, a number behind some:

    o, x    opens the outbox in `DATA` below ROOT, making both if they are not there; closes it in good order
    a<n>    accepts n readings in one commit
    d       what waits is a backlog from now on
    s, b    seals a batch of what is live, or of the backlog
    t, r    all that is sealed is stored; all that is stored has its verified receipt
    p       deletes what has a receipt
    f<n>    makes room down to n KB, which drops readings
    g, h    declares a gap; a heartbeat
    e       begins a new epoch
    k       ends the process at once, as SIGKILL does

What the outbox has promised goes into the file MARKS, one write each, as soon as it has promised it: `opened`,
`accepted <readings so far>`, `sealed <epoch> <seq> <SHA-256 of the envelope>` (from then on it may have been sent).
"""

import hashlib
import os
import re
import signal
from pathlib import Path

from edge.batcher import Limits
from edge.clock import Moment
from edge.database import Owner
from edge.files import make_directory
from edge.intake import Delivery
from edge.outbox import Outbox
from edge.seal import Sealer
from ledger.batch import Anchor
from ledger.envelope import parse_envelope
from ledger.info import Clock
from ledger.keys import Ed25519Signer, key_id
from ledger.kinds import BY_NAME
from ledger.reading import Reading, Scalar
from tests.crash.workload import main

DATA, OUTBOX = "data", "outbox.db"
ORIGIN, DEVICE = "crash.example/log", "crash-01"
SIGNER = Ed25519Signer(bytes(32))
SOURCE, NAME = b"sourceid", "source"
NOW = Moment(1_800_000_000 * 10**9, 50 * 10**9, bytes(16), Clock.SYNCHRONISED, 1000)
LIMITS = Limits(max_readings=8, max_bytes=4096, max_age_s=1.0)
WHOLE = Anchor(1, bytes(32))


class Stopped:
    """A clock that stands still."""

    def read(self) -> Moment:
        """Always the same moment."""
        return NOW


SEALER = Sealer(SIGNER, ORIGIN, Stopped())


def open_outbox(root: Path) -> Outbox:
    """The outbox below `root`, with its source."""
    make_directory(root / DATA)
    owner = Owner(DEVICE, ORIGIN, key_id(SIGNER.algorithm, SIGNER.public_key), root / "edge.key")
    outbox = Outbox(root / DATA / OUTBOX, owner)
    outbox.resume(NOW, [NAME])
    outbox.register(SOURCE, "a test")
    return outbox


def body(number: int) -> bytes:
    """The `number`-th reading of every run, from 1, so that it is known what must be there."""
    measured_ns = NOW.wall_ns + number
    return Reading(SOURCE, BY_NAME["heart_rate"].code, measured_ns, 0, None, 0, Scalar(number, 0), 0).encode()


def delivery(start: int, count: int) -> Delivery:
    """The readings from `start` on."""
    numbers = range(start, start + count)
    readings = tuple((SOURCE, NOW.wall_ns + number, body(number)) for number in numbers)
    return Delivery(NAME, readings, str(numbers.stop).encode(), 0, NOW)


class _Run:
    """Takes the steps of one script."""

    def __init__(self, root: Path, marks: Path) -> None:
        self._root = root
        self._marks = os.open(marks, os.O_WRONLY | os.O_CREAT)

    def take(self, script: str) -> None:
        for step, number in re.findall(r"([a-z])(\d*)", script):
            match step:
                case "o":
                    self._outbox = open_outbox(self._root)
                    self._mark("opened")
                    if said := self._outbox.announce_loss(SEALER):
                        self._show(said)
                case "x":
                    self._outbox.close_in_order()
                    self._outbox.close()
                case "k":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "a":
                    next_number = int(self._outbox.cursor(NAME) or 1)
                    self._outbox.accept([delivery(next_number, int(number))])
                    self._mark(f"accepted {next_number + int(number) - 1}")
                case "f":
                    self._outbox.relieve(int(number) * 1024)
                case _:
                    self._work(step)

    def _work(self, step: str) -> None:
        outbox = self._outbox
        match step:
            case "d":
                outbox.defer()
            case "s" | "b":
                self._show(outbox.seal_next(LIMITS, SEALER, backlog=step == "b"))
            case "g":
                self._show(outbox.declare_gap(SEALER))
            case "h":
                self._show(outbox.heartbeat(SEALER))
            case "e":
                key = key_id(SIGNER.algorithm, SIGNER.public_key)
                outbox.new_epoch(Owner(DEVICE, ORIGIN, key, self._root / "edge.key"))
                self._show(outbox.announce_loss(SEALER))
            case "t":
                places = [parse_envelope(outbox.envelope(place) or b"").header for place, _ in outbox.unstored()]
                outbox.mark_stored([((header.epoch, header.seq), 7) for header in places])
            case "r":
                places = outbox.unreceipted(100)[0]
                outbox.settle(WHOLE, b"checkpoint", [(place, 7) for place in places])
            case "p":
                outbox.purge(0.0)
            case _:
                raise ValueError(f"{step!r} is not a step")

    def _show(self, sealed) -> None:
        header = parse_envelope(sealed.envelope).header
        self._mark(f"sealed {header.epoch} {header.seq} {hashlib.sha256(sealed.envelope).hexdigest()}")

    def _mark(self, text: str) -> None:
        os.write(self._marks, f"{text}\n".encode())


if __name__ == "__main__":
    main(lambda root, marks, script: _Run(root, marks).take(script))
