"""Which copy a reading becomes: so that no two that are alike in device, source, kind and time overwrite each other.

Two readings of one series meet if their times are equal, or if both are waveforms whose frames overlap. Each gets the
smallest number that nobody has whom it meets, in the order in which they come; one that is in the store already keeps
its own, so writing again changes nothing.

While a series moves forward in time nobody has to be asked: above its `floor` every reading is remembered here, and
what starts above is decided from memory. What does not, needs to be told who is there (`behind`). Nothing is asked or
read from here; whoever writes asks the store, and says when what was decided is safely in it (`settle`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TypeAlias

from aggregator.timeseries import influxql as ql
from aggregator.timeseries.lines import Point, Series

# Readings that a series remembers once they are in the store: waveforms overlap by a few frames with the one before,
# and a notification brings a handful of one time.
REMEMBERED = 8

Held: TypeAlias = tuple[int, int | None]  # a copy that is taken, and by which ref (None: nobody can tell)


@dataclass(slots=True)
class _Track:
    """One series: what begins when, and the waveforms' stretches, all of them above `floor_ns`."""

    floor_ns: int | None
    top_ns: int  # no reading of the series reaches beyond
    heads: dict[int, dict[int, int]] = field(default_factory=dict)
    stretches: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    def met(self, point: Point) -> list[Held]:
        """The copies that are taken where `point` lies."""
        held: list[Held] = list(self.heads.get(point.start_ns, {}).items())
        if point.waveform is not None:
            held += [
                (copy, ref)
                for ref, (start_ns, end_ns, copy) in self.stretches.items()
                if start_ns <= point.end_ns and end_ns >= point.start_ns
            ]
        return held

    def put(self, point: Point, copy: int) -> None:
        ref, _, start_ns, end_ns, _, waveform = point
        if start_ns in self.heads:
            self.heads[start_ns][copy] = ref
        else:
            self.heads[start_ns] = {copy: ref}
        if waveform is not None:
            self.stretches[ref] = (start_ns, end_ns, copy)
        self.top_ns = max(self.top_ns, end_ns)

    def settle(self) -> None:
        """Only the last few are remembered; the floor rises to what is forgotten."""
        ends = sorted([*self.heads, *(end_ns for _, end_ns, _ in self.stretches.values())])
        floors = [*ends[-REMEMBERED - 1 : -REMEMBERED], *([] if self.floor_ns is None else [self.floor_ns])]
        if not floors:
            return
        self.floor_ns = floor_ns = max(floors)
        self.heads = {time_ns: held for time_ns, held in self.heads.items() if time_ns > floor_ns}
        self.stretches = {ref: stretch for ref, stretch in self.stretches.items() if stretch[1] > floor_ns}


class Copies:
    """Decides copies; one for one store, which nobody else writes to meanwhile."""

    def __init__(self) -> None:
        self._devices: set[str] = set()
        self._tracks: dict[Series, _Track] = {}
        self._moved: set[Series] = set()

    def strangers(self, points: Iterable[Point]) -> list[str]:
        """The devices of `points` of which nothing is known yet: `learn` has to come first."""
        return sorted({point.series.device for point in points} - self._devices)

    def learn(self, devices: Iterable[str], tops_ns: Mapping[Series, int]) -> None:
        """`tops_ns` is the greatest time that the store holds of each series of `devices`; of others it has none."""
        self._devices.update(devices)
        for series, top_ns in tops_ns.items():
            self._tracks[series] = _Track(top_ns, top_ns)

    def behind(self, points: Iterable[Point]) -> list[Point]:
        """Those of `points` for which the store has to be asked who is where they lie."""
        found = []
        for point in points:
            track = self._tracks.get(point.series)
            if track is not None and track.floor_ns is not None and point.start_ns <= track.floor_ns:
                found.append(point)
        return found

    def take(self, point: Point, there: Sequence[Held] = ()) -> int:
        """The copy that `point` is; `there`: who the store says is where it lies, if that had to be asked."""
        track = self._tracks.get(point.series)
        if track is None:
            track = self._tracks[point.series] = _Track(None, ql.MIN_TIME - 1)
        self._moved.add(point.series)
        copy = 0
        if there or point.start_ns <= track.top_ns:
            copy = _smallest(point.ref, [*track.met(point), *there])
        track.put(point, copy)
        return copy

    def settle(self) -> None:
        """Everything that was taken so far is in the store."""
        for series in self._moved:
            self._tracks[series].settle()
        self._moved.clear()


def _smallest(ref: int, held: Sequence[Held]) -> int:
    others = {copy for copy, other in held if other != ref}
    own = {copy for copy, other in held if other == ref and copy >= 0} - others
    return min(own) if own else next(copy for copy in count() if copy not in others)
