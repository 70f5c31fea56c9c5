"""The demo's programs while they run: watched, started again when they die, ended in the way of the data.

Sources stop first, agents drain until each of their readings has a receipt that they have verified, the aggregator
publishes and projects the rest; only then is anything read back.
"""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from aggregator.setup import CONFIG
from aggregator.status import read_status
from aggregator.timeseries.embedded import EmbeddedStore
from dashboard.snapshot import DeviceLine, Published, Snapshot
from ledger.checkpoint import parse_checkpoint
from ledger.fsck import CHECKPOINT_PATH
from ledger.note import parse_note
from ledger.writer.files import read_file
from ledger.writer.reader import PUBLIC
from simulators.broker import Broker
from simulators.fleet import Device, Fleet
from simulators.process import Child
from simulators.terminal import View
from simulators.witnesses import WitnessProcess, stop_witnesses
from vitalseal.errors import UserError

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25
SHOW_EVERY_READINGS = 200
SERVING_WITHIN_S = 30.0
FIRST_READING_WITHIN_S = 60.0
# A receipt that went astray with a killed aggregator is asked for within half a minute, again within another.
DRAIN_WITHIN_S = 150.0
STOP_WITHIN_S = 30.0
PROJECTED_WITHIN_S = 300.0


class Pipeline:
    """The running programs and what is known of them; used from the main thread, `snapshot` read by the page's."""

    def __init__(
        self,
        data: Path,
        log: Path,
        broker: Broker,
        fleet: Fleet,
        view: View,
        witnesses: Sequence[WitnessProcess] = (),
    ) -> None:
        self.snapshot = Snapshot()  # replaced whole, never changed, so another thread may read it at any time
        self._data = data
        self._broker = broker
        self._fleet = fleet
        self._view = view
        self._witnesses = witnesses
        command = [sys.executable, "-P", "-m", "vitalseal", "aggregator", "run", "--config", str(data / CONFIG)]
        self._aggregator = Child("aggregator", command, log)
        self._started_s = time.monotonic()

    def start(self, stop: threading.Event) -> None:
        """The aggregator serves, and the devices run; or `stop` was asked for meanwhile.

        The aggregator first, until it has subscribed: what a broker gets before that, it throws away.
        """
        for witness in self._witnesses:
            witness.child.start()
        self._aggregator.start()
        deadline_s = time.monotonic() + SERVING_WITHIN_S
        while not self._serving() and not stop.wait(LOOK_EVERY_S):
            if time.monotonic() > deadline_s:
                raise UserError(f"the aggregator does not serve: {self._aggregator.last_words()}")
            self._look("starting")
        if not stop.is_set():
            self._fleet.enrol()
        self._fleet.start()

    def stop(self) -> None:
        """Nothing runs any more but the broker; the witnesses last, so that the last checkpoint is cosigned."""
        self._fleet.stop(STOP_WITHIN_S)
        self._aggregator.stop(STOP_WITHIN_S)
        stop_witnesses(self._witnesses)

    def run_sources(self, seconds: float | None, stop: threading.Event) -> None:
        """Sources have run for `seconds` since the first reading, or until `stop`."""
        deadline_s = time.monotonic() + FIRST_READING_WITHIN_S
        while not self.snapshot.accepted:
            if time.monotonic() > deadline_s:
                raise UserError(f"no device gave a reading within {FIRST_READING_WITHIN_S:.0f} s (see {self._data})")
            self._look("starting")
            if stop.wait(LOOK_EVERY_S):
                return
        deadline_s = time.monotonic() + (float("inf") if seconds is None else seconds)
        hint = "running, Ctrl-C ends it" if seconds is None else f"running for {seconds:g} s"
        while time.monotonic() < deadline_s and not stop.wait(min(LOOK_EVERY_S, deadline_s - time.monotonic())):
            self._look(hint)

    def drain(self) -> list[str]:
        """Every accepted reading has a receipt that its device has verified; else what is missing, after a while."""
        self._fleet.finish()
        deadline_s = time.monotonic() + DRAIN_WITHIN_S
        while not self._fleet.done:
            if time.monotonic() > deadline_s:
                return [f"no verified receipt after {DRAIN_WITHIN_S:.0f} s: {self._fleet.unfinished()}"]
            self._look("sources stopped, draining")
            time.sleep(LOOK_EVERY_S)
        self._look("drained")
        return []

    def end(self) -> None:
        """Everything has stopped, and the reading store shows what the log's last checkpoint covers."""
        self.show("stopping")
        self.stop()
        size = self._published().size
        deadline_s = time.monotonic() + PROJECTED_WITHIN_S
        command = [sys.executable, "-P", "-m", "aggregator.projection", str(self._data / CONFIG)]
        while self._projected() < size and time.monotonic() < deadline_s:
            # The projection died with a killed aggregator, or by itself. Without an input it ends after a while.
            logger.warning("the view is behind the log; catching up")
            if subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode:  # noqa: S603 - ourselves
                break  # whatever went wrong, the account tells what is missing
        self._broker.stop()
        self.snapshot = replace(self.snapshot, readings_per_s=0.0)

    def show(self, phase: str) -> None:
        """The last numbers, under another heading."""
        self.snapshot = replace(self.snapshot, phase=phase, running_s=time.monotonic() - self._started_s)
        self._view.show(self.snapshot)

    def show_verified(self, done: int, total: int) -> None:
        """How far verification has come."""
        if done % SHOW_EVERY_READINGS == 0 or done == total:
            self.show(f"verifying {done:,} of {total:,}")

    def _look(self, phase: str) -> None:
        """Dead programs are started again, and the numbers are those of now."""
        self._broker.child.revive()
        for witness in self._witnesses:
            witness.child.revive()
        self._aggregator.revive()
        self._fleet.supervise()
        self.snapshot = self._take_snapshot()
        self.show(phase)

    def _serving(self) -> bool:
        try:
            return read_status(self._data).connected
        except UserError:  # it has not said anything yet
            return False

    def _take_snapshot(self) -> Snapshot:
        devices = tuple(map(_device_line, self._fleet.devices))
        try:
            status = read_status(self._data)
        except UserError:  # the aggregator has not said anything yet
            return replace(self.snapshot, devices=devices)
        published = self._published()
        return replace(
            self.snapshot,
            devices=devices,
            readings_per_s=status.readings_per_s,
            log_size=max(status.log_size, published.size),  # the status may be the older by a moment
            checkpoint=published,
            witnesses={item["name"]: "cosigns" if item["ok"] else item["error"] for item in status.witnesses},
            proof_p50_s=status.latency_p50_s,
            proof_p95_s=status.latency_p95_s,
            rejects={k: n for k, n in status.decisions.items() if k not in {"admitted", "repeated"}},
        )

    def _projected(self) -> int:
        with EmbeddedStore(self._data) as store:
            return store.cursor()

    def _published(self) -> Published:
        note = read_file(self._data / PUBLIC, CHECKPOINT_PATH)
        if note is None:
            return Published()
        checkpoint = parse_checkpoint(parse_note(note, "checkpoint").text)
        return Published(checkpoint.origin, checkpoint.size, checkpoint.root.hex(), note.decode())


def _device_line(device: Device) -> DeviceLine:
    code = device.agent.code()
    state = "running" if code is None else "done" if code == 0 else "restarting"
    if device.agent.restarts:
        state += f", restarted {device.agent.restarts}x"
    try:
        counts = device.counts()
    except UserError:  # it has not come so far as to have an outbox
        return DeviceLine(device.name, "starting", 0, 0)
    return DeviceLine(device.name, state, counts.accepted, counts.receipted)
