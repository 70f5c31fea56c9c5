"""SIGKILL, again and again, of everything that is needed."""

import statistics
import time
from dataclasses import dataclass

from ledger.console import show_progress
from simulators.faults.stage import Stage, receipted
from simulators.faults.trial import Trial
from simulators.fleet import Device
from simulators.process import Child

# An agent that is killed says nothing of the others, so there are enough for several to be down at a time.
DEVICES = 4
# Seconds from one kill to the next, and for which a victim stays away; it is back at once every other time.
MEAN_BETWEEN_S = 1.2
LONGEST_AWAY_S = 4.0
# Programs killed faster than they start never get to what they are killed in, so each is spared for a moment.
SPARED_S = 1.0
RECOVERED_WITHIN_S = 120.0


@dataclass(slots=True)
class _Hit:
    """A kill, and what was accepted before it, by device; `watched` are those of which a receipt is awaited."""

    part: str
    at_s: float
    before: dict[str, int]
    watched: tuple[Device, ...]


class _Killing:
    """The kills of one run: who is away until when, and which kills wait for their recovery."""

    def __init__(self, trial: Trial, stage: Stage) -> None:
        self._trial = trial
        self._stage = stage
        self._returns: dict[str, tuple[Child, float]] = {}
        self._started: dict[str, float] = {}
        self._waiting: list[_Hit] = []
        self._next: list[str] = []  # parts still to be hit before any is hit again
        self.recoveries: dict[str, list[float]] = {part: [] for part in stage.children}

    def strike(self) -> bool:
        """One program, of a random part, is killed, and comes back at once or later; false if it is spared now."""
        stage, rng = self._stage, self._trial.rng
        now_s = time.monotonic()
        if not self._next:
            self._next = rng.sample(sorted(self.recoveries), len(self.recoveries))
        part = self._next[-1]
        child = rng.choice(stage.children[part])
        if child.name in self._returns or now_s - self._started.get(child.name, 0.0) < SPARED_S:
            return False
        watched = tuple(device for device in stage.devices if part != "agent" or device.agent is child)
        hit = _Hit(part, now_s, {device.name: device.counts().accepted for device in watched}, watched)
        self._next.pop()
        self._trial.kill(child)
        self._waiting.append(hit)
        self._returns[child.name] = (child, now_s + rng.choice((0.0, rng.uniform(0.0, LONGEST_AWAY_S))))
        return True

    def look(self) -> None:
        """Who is due back is started; kills that were recovered from are booked."""
        now_s = time.monotonic()
        for name, (child, at_s) in list(self._returns.items()):
            if at_s <= now_s:
                child.start()
                self._started[name] = now_s
                del self._returns[name]
        given = {device.name: receipted(device) for device in self._stage.devices}
        for hit in list(self._waiting):
            # More receipted than had been accepted: one of them at least was accepted after the kill.
            if any(given[device.name] > hit.before[device.name] for device in hit.watched):
                self.recoveries[hit.part].append(now_s - hit.at_s)
                self._waiting.remove(hit)

    @property
    def over(self) -> bool:
        """Everybody is back, and each kill was recovered from."""
        return not self._returns and not self._waiting


def kills(trial: Trial) -> None:
    """Agents, broker, aggregator and witnesses are killed by SIGKILL at random moments while devices measure.

    Recovery is the time from a kill until the next verified receipt that covers a reading accepted after it: of the
    device itself if its agent was killed, else of any.
    """
    stage = Stage(trial, devices=DEVICES)
    stage.start()
    killing = _Killing(trial, stage)
    progress = show_progress("kills")
    deadline_s = time.monotonic() + trial.seconds
    next_s = time.monotonic()
    while trial.outcome.kills < trial.kills and time.monotonic() < deadline_s:
        if time.monotonic() >= next_s and killing.strike():
            next_s = time.monotonic() + trial.rng.expovariate(1 / MEAN_BETWEEN_S)
            progress(trial.outcome.kills, trial.kills)
        killing.look()
        time.sleep(0.05)
    trial.wait(
        lambda: killing.over, RECOVERED_WITHIN_S, "each kill is recovered from", meanwhile=lambda: _calm(killing)
    )
    for part, times_s in killing.recoveries.items():
        if times_s:
            trial.tell(
                f"{part}: {len(times_s)} kills, receipts again after {statistics.median(times_s):.1f} s in the median, "
                f"{max(times_s):.1f} s at worst"
            )
            trial.outcome.times_s[f"{part} median"] = statistics.median(times_s)
            trial.outcome.times_s[f"{part} worst"] = max(times_s)
    stage.drain()
    stage.settle()


def _calm(killing: _Killing) -> None:
    killing.look()
    time.sleep(0.1)
