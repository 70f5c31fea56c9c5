"""Signals of which no free recording was found, made up: smooth, plausible, and marked as demo data always.

A value is a function of seed, signal and index alone (random access, so a restart at any index gives the same
series): slow, middling and quick wanderings between random posts, added up. Now and then the contact is lost.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from edge.source import Measured
from ledger.kinds import BY_NAME
from ledger.reading import Absence, Absent, Quality, ReadingValue, Scalar
from simulators.replay import Step

# (readings between two random posts, share of the swing).
_WANDERINGS = ((512, 0.5), (64, 0.3), (8, 0.2))
# One block of this many readings in twelve begins with a few that have no value.
_CONTACT_BLOCK = 40
_CONTACT_LOST_IN = 12
_MAX_LOST = 5


@dataclass(frozen=True, slots=True)
class Signal:
    """A kind of sensor: `period_s` between readings, and (kind, usual value, swing about it, decimals) each."""

    period_s: float
    values: tuple[tuple[str, float, float, int], ...]
    loses_contact: bool


SIGNALS = {
    "spo2": Signal(1.0, (("spo2", 97.0, 2.5, 0),), loses_contact=True),
    "body_temperature": Signal(10.0, (("body_temperature", 36.8, 0.6, 1),), loses_contact=True),
    "respiratory_rate": Signal(5.0, (("respiratory_rate", 15.0, 4.0, 0),), loses_contact=True),
    # A cuff either gives all three or nothing at all; the mean is derived from the other two.
    "blood_pressure": Signal(
        60.0,
        (("systolic_pressure", 122.0, 16.0, 0), ("diastolic_pressure", 78.0, 9.0, 0)),
        loses_contact=False,
    ),
}


class SyntheticSeries:
    """One step an index: one reading, or a cuff's three with one sensor time. `count`: how many; None: no end."""

    def __init__(self, name: str, *, seed: int, start_ns: int, period_ns: int, count: int | None) -> None:
        self._signal = SIGNALS[name]
        self._seed = seed
        self._start_ns = start_ns
        self._period_ns = period_ns
        self._count = count

    def step(self, position: int) -> Step | None:
        """What is measured at index `position`."""
        if self._count is not None and position >= self._count:
            return None
        due_ns = position * self._period_ns
        if self._signal.loses_contact and _contact_lost(self._seed, position):
            values = {kind: Absent(Absence.NOT_MEASURED) for kind, *_ in self._signal.values}
            return self._stated(due_ns, values, Quality.DEMO_DATA | Quality.CONTACT_LOST)
        return self._stated(due_ns, self._values(position), Quality.DEMO_DATA)

    def _stated(self, due_ns: int, values: Mapping[str, ReadingValue], quality: Quality) -> Step:
        at_ns = self._start_ns + due_ns
        return Step(
            due_ns,
            tuple(Measured(BY_NAME[kind].code, at_ns, value, quality=int(quality)) for kind, value in values.items()),
        )

    def _values(self, position: int) -> dict[str, ReadingValue]:
        numbers = {
            kind: round(usual + swing * _wandering(self._seed, kind, position), decimals)
            for kind, usual, swing, decimals in self._signal.values
        }
        if "systolic_pressure" in numbers:
            systolic, diastolic = numbers["systolic_pressure"], numbers["diastolic_pressure"]
            numbers["mean_pressure"] = round(diastolic + (systolic - diastolic) / 3)
        if "spo2" in numbers:
            numbers["spo2"] = min(numbers["spo2"], 100.0)  # blood holds no more
        decimals = {kind: digits for kind, _, _, digits in self._signal.values}
        return {kind: Scalar.parse(f"{number:.{decimals.get(kind, 0)}f}") for kind, number in numbers.items()}


def _wandering(seed: int, kind: str, index: int) -> float:
    """From -1 to 1."""
    total = 0.0
    for span, share in _WANDERINGS:
        post, within = divmod(index, span)
        before, after = _post(seed, kind, span, post), _post(seed, kind, span, post + 1)
        total += share * (before + (after - before) * within / span)
    return total


@lru_cache(maxsize=256)
def _post(seed: int, kind: str, span: int, number: int) -> float:
    # A string seeds through SHA-512: the same on every machine and Python.
    return random.Random(f"{seed}:{kind}:{span}:{number}").uniform(-1.0, 1.0)


def _contact_lost(seed: int, index: int) -> bool:
    block, within = divmod(index, _CONTACT_BLOCK)
    return within < _lost_in(seed, block)


@lru_cache(maxsize=64)
def _lost_in(seed: int, block: int) -> int:
    """How many readings at the beginning of `block` have no value."""
    rng = random.Random(f"{seed}:contact:{block}")
    # The very first block is spared: a demo of seconds shows a value of everything.
    return rng.randint(1, _MAX_LOST) if block and rng.randrange(_CONTACT_LOST_IN) == 0 else 0
