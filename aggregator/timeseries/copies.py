"""Which copy a reading becomes: so that no two that are alike in device, source, kind and time overwrite each other.

Two readings of one series meet if their times are equal, or if both are waveforms whose frames overlap. Each gets the
smallest number that nobody has whom it meets, in the order in which they come; one that is in the store already keeps
its own, so writing again changes nothing.

While a series moves forward in time nobody has to be asked: above its `floor` every reading is remembered here, and
what starts above is decided from memory. What does not, needs to be told who is there (`behind`). Nothing is asked or
read from here; whoever writes asks the store, and says when what was decided is safely in it (`settle`).

A copy is a tag, and the database keeps every value of one in its index for ever. So a sensor whose clock stands still
gets `MAX_COPIES` of them and no more.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from aggregator.timeseries import influxql as ql
from aggregator.timeseries.lines import KNOWN_SERIES, Point, Series

# Readings that a series remembers once they are in the store: waveforms overlap by a few frames with the one before,
# and a notification brings a handful of one time.
REMEMBERED = 8

# Readings that may lie at one time of one series; more than any notification has. Also what one that is drawn across
# others may meet, which bounds what is kept of them while it is decided.
MAX_COPIES = 1000


class Taken(NamedTuple):
    """The copies that are taken where a reading lies, a bit each: by others, and by the reading itself."""

    others: int = 0
    own: int = 0

    def and_by(self, copy: int, *, own: bool) -> "Taken":
        """Besides these, `copy`; one that is never given away takes nothing."""
        if not 0 <= copy < MAX_COPIES:
            return self
        return Taken(self.others, self.own | 1 << copy) if own else Taken(self.others | 1 << copy, self.own)

    def smallest(self) -> int | None:
        """The reading's own copy, if nobody else has it too, or else the smallest that is free; None if none is."""
        own = self.own & ~self.others
        free = own or ~self.others & (1 << MAX_COPIES) - 1
        return (free & -free).bit_length() - 1 if free else None


NOBODY = Taken()


@dataclass(slots=True)
class _Track:
    """One series: what begins when, and the waveforms' stretches, all of them above `floor_ns`."""

    floor_ns: int | None
    top_ns: int  # no reading of the series reaches beyond
    heads: dict[int, dict[int, int]] = field(default_factory=dict)
    stretches: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    def met(self, point: Point, taken: Taken) -> Taken:
        """The copies that are taken where `point` lies, and those of `taken`."""
        for copy, ref in self.heads.get(point.start_ns, {}).items():
            taken = taken.and_by(copy, own=ref == point.ref)
        if point.waveform is not None:
            for ref, (start_ns, end_ns, copy) in self.stretches.items():
                if start_ns <= point.end_ns and end_ns >= point.start_ns:
                    taken = taken.and_by(copy, own=ref == point.ref)
        return taken

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
        self._tracks: dict[Series, _Track] = {}
        self._moved: set[Series] = set()

    def strangers(self, points: Iterable[Point]) -> set[Series]:
        """The series of `points` of which nothing is known: `learn` has to come first."""
        return {point.series for point in points if point.series not in self._tracks}

    def learn(self, strangers: Iterable[Series], tops_ns: Mapping[Series, int]) -> None:
        """`tops_ns` is the greatest time that the store holds of each of `strangers`; of others it has none."""
        for series in strangers:
            top_ns = tops_ns.get(series)
            self._tracks[series] = _Track(top_ns, ql.MIN_TIME - 1 if top_ns is None else top_ns)

    def behind(self, points: Iterable[Point]) -> list[Point]:
        """Those of `points` for which the store has to be asked who is where they lie."""
        found = []
        for point in points:
            track = self._tracks.get(point.series)
            if track is not None and track.floor_ns is not None and point.start_ns <= track.floor_ns:
                found.append(point)
        return found

    def take(self, point: Point, there: Taken = NOBODY) -> int | None:
        """The copy that `point` is, None if there is none left; `there`: what the store says is taken, if asked."""
        track = self._tracks.get(point.series)
        if track is None:
            track = self._tracks[point.series] = _Track(None, ql.MIN_TIME - 1)
        self._moved.add(point.series)
        copy: int | None = 0
        if there is not NOBODY or point.start_ns <= track.top_ns:
            copy = track.met(point, there).smallest()
        if copy is not None:
            track.put(point, copy)
        return copy

    def settle(self) -> None:
        """Everything that was taken so far is in the store."""
        for series in self._moved:
            self._tracks[series].settle()
        self._moved.clear()
        if len(self._tracks) > KNOWN_SERIES:
            self._tracks.clear()  # somebody makes up sensors; the store is asked again of those that go on
