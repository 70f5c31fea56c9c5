"""A gateway that was away for weeks comes back: its backlog drains while what it measures now goes out first.

Real programs: a broker, an aggregator and one agent, whose outbox is filled beforehand by the agent's own code, as if
it had run without a connection. Live readings come from a source meanwhile; how long the oldest of them has waited to
be stored is looked at all the time, from beside the agent.
"""

import re
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from aggregator.setup import CONFIG, initialise
from edge.clock import SystemClock
from edge.config import load
from edge.database import Owner
from edge.intake import Delivery
from edge.key import load_key
from edge.outbox import Outbox
from edge.outbox_reader import OutboxReader
from ledger.keys import key_id
from ledger.kinds import BY_NAME
from ledger.reading import Quality, Reading, Scalar
from simulators.broker import HOST, start_broker
from simulators.fleet import Target, lay_out
from simulators.process import Child
from vitalseal.errors import UserError

AT_ONCE = 5000  # readings in one commit of the backlog
LOOK_EVERY_S = 0.1
# A backlog that stands still for so long does not drain.
STANDS_STILL_S = 120.0
START_WITHIN_S = 60.0
_SOURCE, _NAME = b"backlog-", "backlog"


@dataclass(frozen=True, slots=True)
class Drained:
    """What was measured.

    Attributes:
        backlog: readings that waited at the start; `live`: that were accepted during the drain.
        seconds: from the agent's start until the backlog was stored; `receipted_s`: until it had its receipts.
        live_median_s, live_worst_s: age of the oldest live reading that was not stored yet, over all looks.
        resident_bytes: the most that the agent's process took of memory.
    """

    backlog: int
    live: int
    seconds: float
    receipted_s: float
    live_median_s: float
    live_worst_s: float
    resident_bytes: int

    @property
    def rate(self) -> float:
        """Readings of the backlog stored a second."""
        return self.backlog / self.seconds

    def line(self) -> str:
        """The summary that scripts read."""
        return (
            f"load: backlog={self.backlog} live={self.live} seconds={self.seconds:.1f} rate={self.rate:.0f} "
            f"receipted_s={self.receipted_s:.1f} live_median_s={self.live_median_s:.2f} "
            f"live_worst_s={self.live_worst_s:.2f} resident_mb={self.resident_bytes / 2**20:.1f}"
        )


def run_load(backlog: int, speed: float, say: Callable[[str], None], data: Path | None = None) -> Drained:
    """`backlog` readings drain from one gateway, which goes on measuring `speed` times as fast as life.

    Raises:
        UserError: a program does not start, or nothing moves any more.
    """
    with ExitStack() as stack:
        directory = data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vitalseal-load-")))
        directory.mkdir(parents=True, exist_ok=True)
        broker = start_broker(directory)
        stack.callback(broker.stop)
        origin = f"load.vitalseal.example/{secrets.token_hex(6)}"
        initialise(directory / CONFIG, directory / "aggregator", origin, HOST, broker.port, broker.protocol)
        target = Target(directory / "aggregator", origin, HOST, broker.port, broker.protocol)
        fleet = lay_out(directory / "devices", target, count=1, speed=speed, loop=True)
        device = fleet.devices[0]
        began_s = time.monotonic()
        for done in _fill(device.config, backlog):
            say(f"filling the outbox: {done:,} of {backlog:,} readings")
        size = device.outbox.stat().st_size
        say(f"filled the outbox with {backlog:,} readings, {size / 1e6:.0f} MB, in {time.monotonic() - began_s:.0f} s")
        aggregator = Child("aggregator", _command("aggregator", directory / CONFIG), directory / "aggregator.log")
        stack.callback(aggregator.stop, 30.0)
        aggregator.start()
        stack.callback(fleet.stop, 30.0)
        fleet.start()
        return _watch(device.agent, device.outbox, backlog, say)


def _command(room: str, config: Path) -> list[str]:
    return [sys.executable, "-P", "-m", "vitalseal", room, "run", "--config", str(config)]


def _fill(path: Path, backlog: int) -> Iterator[int]:
    """The outbox of the agent in `path` has accepted `backlog` readings; how many so far."""
    config = load(path)
    signer = load_key(config.key)
    owner = Owner(config.device, config.origin, key_id(signer.algorithm, signer.public_key), config.key)
    clock, kind = SystemClock(), BY_NAME["heart_rate"].code
    config.data.mkdir(parents=True, exist_ok=True)
    outbox = Outbox(config.outbox_file, owner)
    try:
        outbox.register(_SOURCE, "what a gateway measured while it was away")
        began_ns = time.time_ns() - backlog * 10**9
        for first in range(0, backlog, AT_ONCE):
            times_ns = [began_ns + number * 10**9 for number in range(first, min(first + AT_ONCE, backlog))]
            bodies = [
                Reading(_SOURCE, kind, at, 0, 60, 12_000_000, Scalar(60 + at // 10**9 % 40, 0), 0) for at in times_ns
            ]
            readings = tuple((_SOURCE, at, body.encode()) for at, body in zip(times_ns, bodies, strict=True))
            outbox.accept([Delivery(_NAME, readings, str(first).encode(), 0, clock.read())])
            yield first + len(readings)
    finally:
        outbox.close()


def _reading(kind: int, time_ns: int) -> bytes:
    value = Scalar(60 + time_ns // 10**9 % 40, 0)
    return Reading(_SOURCE, kind, time_ns, 0, 60, 12_000_000, value, int(Quality.TEST_DATA)).encode()


def _watch(agent: Child, path: Path, backlog: int, say: Callable[[str], None]) -> Drained:
    """Looks on until the backlog has its receipts."""
    began_s = moved_s = time.monotonic()
    ages: list[float] = []
    stored_s: float | None = None
    last = resident = 0
    with OutboxReader(path) as reader:
        while True:
            time.sleep(LOOK_EVERY_S)
            counts = reader.counts()
            elapsed_s = time.monotonic() - began_s
            resident = max(resident, _resident(agent))
            oldest_ns = reader.oldest_unstored_ns(above=backlog)
            if counts.stored + counts.receipted:  # the first connection is not what is measured
                ages.append(0.0 if oldest_ns is None else max(0.0, (time.time_ns() - oldest_ns) / 1e9))
            if stored_s is None and not counts.backlog and counts.stored + counts.receipted >= backlog:
                stored_s = elapsed_s
            if counts.receipted >= backlog and stored_s is not None:
                break
            if counts.receipted != last:
                last, moved_s = counts.receipted, time.monotonic()
                say(f"{elapsed_s:.0f} s: {last:,} readings have their receipt")
            if time.monotonic() - moved_s > STANDS_STILL_S:
                raise UserError(f"nothing has moved for {STANDS_STILL_S:.0f} s: {agent.last_words()}")
    ages.sort()
    return Drained(
        backlog,
        counts.accepted - backlog,
        stored_s,
        elapsed_s,
        ages[len(ages) // 2],
        ages[-1],
        resident,
    )


def _resident(agent: Child) -> int:
    """The most memory that the agent's process has had, in bytes."""
    try:
        status = Path(f"/proc/{agent.pid}/status").read_text(encoding="utf-8")
    except OSError:
        raise UserError(f"the agent has ended: {agent.last_words()}") from None
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0
