"""Whether a row's `copy` can be: in a store that is keyed by position, where readings that meet get different numbers.

A reading gets the smallest number that nobody has whom it meets, so its number is less than the count of readings that
meet at its place, itself included. Two readings of one series meet if they begin at one time, or if both are waveforms
whose frames overlap (`aggregator.timeseries.copies`).
"""

from array import array
from collections import Counter
from collections.abc import Iterator
from typing import TypeAlias

from aggregator.timeseries.base import Row
from ledger.reading import Reading, Waveform

Series: TypeAlias = tuple[str, str, str]  # device, source, kind


class Copies:
    """Every reading that is known by its place, and the rows whose number is not 0."""

    def __init__(self) -> None:
        # A million readings are as many hashes: a number for each place would be a dictionary ten times the size.
        self._places = array("q")
        self._stretches: dict[Series, list[tuple[int, int]]] = {}
        self._held: list[tuple[Row, int]] = []

    def note(self, series: Series, reading: Reading) -> None:
        """There is such a reading, whatever became of its row."""
        self._places.append(hash((series, reading.sensor_time_ns)))
        if isinstance(reading.value, Waveform):
            self._stretches.setdefault(series, []).append((reading.sensor_time_ns, _last_frame(reading, reading.value)))

    def hold(self, row: Row, reading: Reading) -> None:
        """`row`, otherwise as it ought to be, has a number other than 0: to be judged when all are known."""
        waveform = reading.value if isinstance(reading.value, Waveform) else None
        self._held.append((row, row.time_ns if waveform is None else _last_frame(reading, waveform)))

    def judge(self, unknown: Counter[str]) -> Iterator[tuple[Row, bool]]:
        """Each row held, and whether its number can be; `unknown` counts, by device, readings whose place is lost."""
        counts = dict.fromkeys((hash(((row.device, row.source, row.kind), row.time_ns)) for row, _ in self._held), 0)
        for place in self._places:
            if place in counts:
                counts[place] += 1
        for row, end_ns in self._held:
            series = (row.device, row.source, row.kind)
            meeting = counts[hash((series, row.time_ns))] + unknown[row.device]
            if end_ns > row.time_ns:
                meeting += sum(
                    start <= end_ns and end >= row.time_ns and start != row.time_ns
                    for start, end in self._stretches.get(series, ())
                )
            yield row, 0 < row.copy < meeting


def _last_frame(reading: Reading, waveform: Waveform) -> int:
    return reading.sensor_time_ns + (len(waveform) - 1) * waveform.period_ns // waveform.period_divisor
