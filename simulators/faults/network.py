"""A network between devices, broker and aggregator that is slow, loses connections, is cut, or dies without a word."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from simulators.faults.proxy import FINE, Proxy, Weather
from simulators.faults.stage import Places, Stage, start_mosquitto
from simulators.faults.trial import Trial

SLOW = Weather(delay_s=0.3)
# From less than one batch to some of them.
LOSSY = Weather(drops_after=(500, 40_000))
CUT = Weather(cut=True)
PHASES = 6


@dataclass(frozen=True, slots=True)
class _Network:
    """The two lines of a stage, by who is behind the broker's back or in front of it."""

    trial: Trial
    stage: Stage
    lines: dict[str, Proxy]

    def phase(self, what: str, begin: Callable[[], object]) -> None:
        """`begin` happens, devices measure, the lines are fine again, and every device has a new receipt."""
        begin()
        self.stage.measure(self.trial.seconds / PHASES)
        self.both(FINE)
        took_s = self.stage.wait_for_receipts(f"each device has a receipt after: {what}")
        self.trial.outcome.times_s[what] = took_s
        self.trial.tell(f"{what}: receipts again after {took_s:.1f} s")

    def both(self, weather: Weather) -> None:
        for line in self.lines.values():
            line.weather = weather

    def lose(self) -> None:
        self.both(LOSSY)
        for line in self.lines.values():
            line.reset()


def network(trial: Trial) -> None:
    """The network is slow, loses connections, is cut, and leaves connections half-open, before and behind the broker.

    A half-open connection stays, and nothing comes through: neither end is told, and each has to find out by itself.
    """
    broker = start_mosquitto(trial)
    front = trial.stack.enter_context(Proxy(broker.port, trial.rng))
    behind = trial.stack.enter_context(Proxy(broker.port, trial.rng))
    stage = Stage(trial, Places(broker, devices_port=front.port, aggregator_port=behind.port))
    stage.start()
    lines = _Network(trial, stage, {"devices": front, "aggregator": behind})
    lines.phase("latency of 0.3 s each way", partial(lines.both, SLOW))
    lines.phase("connections lost within 40 kB", lines.lose)
    for side, line in lines.lines.items():
        lines.phase(f"cut at the {side}", partial(_cut, line))
    for side, line in lines.lines.items():
        lines.phase(f"half-open at the {side}", line.freeze)
    resets = front.resets + behind.resets
    trial.expect(resets, f"{resets} connections were reset")
    stage.drain()
    stage.settle()


def _cut(line: Proxy) -> None:
    line.weather = CUT
    line.reset()
