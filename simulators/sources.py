"""The two simulated sensors that `edge.toml` can name: `recording` (real, replayed) and `synthetic` (made up).

    [[sources]]
    name = "chest-strap"
    type = "recording"
    id = "8d0c5e4b3a291807"
    options = { recording = "ride_edge1000", start_ns = 1767225600000000000, speed = 10.0 }

Both are `edge.source.Source`; the schedule and its cursor are in `replay`.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from edge.source import Chunk, Measured, read_options
from ledger.info import MAX_DESCRIPTION
from simulators import recordings
from simulators.recorded import recorded_series
from simulators.replay import Clock, Series, SystemClock, replay
from simulators.synthetic import SIGNALS, SyntheticSeries
from vitalseal.errors import UserError

Options = TypeVar("Options", "RecordingOptions", "SyntheticOptions")


@dataclass(frozen=True, slots=True)
class RecordingOptions:
    """Options of a `recording`.

    Attributes:
        recording: its name in `simulators/recordings`.
        start_ns: sensor time of the first point, ns since 1970. It stands in the configuration because a restart
            must state the same times again.
        speed: how much faster than life; default 1.0.
        loop: begin again at the end, with times moved on; default false: the source ends.
        stop: the source ends once this file exists; default none.
    """

    recording: str
    start_ns: int
    speed: float = 1.0
    loop: bool = False
    stop: Path | None = None

    def __post_init__(self) -> None:
        """The speed is one that can work; raises ValueError."""
        _check_positive("speed", self.speed)


@dataclass(frozen=True, slots=True)
class SyntheticOptions:
    """Options of a `synthetic` sensor.

    Attributes:
        signal: spo2, body_temperature, respiratory_rate or blood_pressure.
        start_ns: sensor time of the first reading, ns since 1970.
        seed: which of the possible patients; default 0.
        period_s: seconds between readings on the sensor's clock; default the signal's own.
        count: how often it measures before it ends; default no end.
        speed, stop: as for a recording.
    """

    signal: str
    start_ns: int
    seed: int = 0
    period_s: float | None = None
    count: int | None = None
    speed: float = 1.0
    stop: Path | None = None

    def __post_init__(self) -> None:
        """The values are ones that can work; raises ValueError."""
        if self.signal not in SIGNALS:
            raise ValueError(f"signal: {self.signal!r} is not one of {', '.join(SIGNALS)}")
        _check_positive("speed", self.speed)
        if self.period_s is not None:
            _check_positive("period_s", self.period_s)
        if self.count is not None and self.count < 0:
            raise ValueError(f"count: {self.count} is below 0")


class _ReplayedSource(ABC, Generic[Options]):
    """What both have in common: a series, released by `replay`.

    Attributes:
        OPTIONS: the dataclass of the options.
    """

    OPTIONS: type[Options]

    def __init__(
        self,
        *,
        name: str,
        source_id: bytes,
        options: Mapping[str, Any],
        directory: Path,
        clock: Clock | None = None,
    ) -> None:
        """See `edge.source.Source`; `clock` is for tests."""
        self.name = name
        self.source_id = source_id
        self._options: Options = read_options(options, self.OPTIONS, name=name, directory=directory)
        self._clock = clock or SystemClock()
        self.description, self._series = self._make(self._options)

    @abstractmethod
    def _make(self, options: Options) -> tuple[str, Series]:
        """The description, and the series that `options` ask for; raises UserError."""

    def readings(self, cursor: bytes | None) -> AsyncIterator[Chunk]:
        """Chunks from just behind `cursor`, each when it is due."""
        return replay(
            self._series,
            start_ns=self._options.start_ns,
            speed=self._options.speed,
            cursor=cursor,
            clock=self._clock,
            stopped=lambda: self._options.stop is not None and self._options.stop.exists(),
        )

    def statements(self) -> Iterator[Measured]:
        """All that the series ever states, in order, whatever of it was due or taken; without end where it has none."""
        for position in itertools.count():
            if (step := self._series.step(position)) is None:
                return
            yield from step.readings


class RecordingSource(_ReplayedSource[RecordingOptions]):
    """A real recording, replayed: values, gaps and repeated times as they were, only the dates moved."""

    OPTIONS = RecordingOptions

    def _make(self, options: RecordingOptions) -> tuple[str, Series]:
        try:
            recording = recordings.load(options.recording)
        except ValueError as error:
            raise UserError(f"source {self.name!r}: options: recording: {error}") from None
        description = f"{recording.device or 'unnamed device'}, recording {recording.name}"[:MAX_DESCRIPTION]
        return description, recorded_series(recording, start_ns=options.start_ns, loop=options.loop)


class SyntheticSource(_ReplayedSource[SyntheticOptions]):
    """A made-up sensor; every reading carries DEMO_DATA."""

    OPTIONS = SyntheticOptions

    def _make(self, options: SyntheticOptions) -> tuple[str, Series]:
        period_s = SIGNALS[options.signal].period_s if options.period_s is None else options.period_s
        series = SyntheticSeries(
            options.signal,
            seed=options.seed,
            start_ns=options.start_ns,
            period_ns=max(1, round(period_s * 1e9)),
            count=options.count,
        )
        return f"synthetic {options.signal}, demo data", series


def _check_positive(what: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{what}: {value} is not above 0")
