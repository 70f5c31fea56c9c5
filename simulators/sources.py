"""The two simulated sensors that `edge.toml` can name: `recording` (real, replayed) and `synthetic` (made up).

    [[sources]]
    name = "chest-strap"
    type = "recording"
    id = "8d0c5e4b3a291807"
    options = { recording = "ride_edge1000", start_ns = 1767225600000000000, speed = 10.0 }

Both are `edge.source.Source`; the schedule and its cursor are in `replay`.
"""

import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.source import Chunk, read_options
from simulators import recordings
from simulators.recorded import recorded_series
from simulators.replay import Clock, Series, SystemClock, replay
from simulators.synthetic import SIGNALS, SyntheticSeries
from vitalseal.errors import UserError

MAX_DESCRIPTION = 64  # bytes, as the batch info takes them


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


class _ReplayedSource:
    """What both have in common: a series, released by `replay`."""

    def __init__(
        self,
        name: str,
        source_id: bytes,
        description: str,
        *,
        options: RecordingOptions | SyntheticOptions,
        series: Series,
        clock: Clock | None,
    ) -> None:
        self.name = name
        self.source_id = source_id
        self.description = description
        self._start_ns = options.start_ns
        self._speed = options.speed
        self._stop = options.stop
        self._clock = clock or SystemClock()
        self._series = series

    def readings(self, cursor: bytes | None) -> AsyncIterator[Chunk]:
        """Chunks from just behind `cursor`, each when it is due."""
        return replay(
            self._series,
            start_ns=self._start_ns,
            speed=self._speed,
            cursor=cursor,
            clock=self._clock,
            stopped=lambda: self._stop is not None and self._stop.exists(),
        )


class RecordingSource(_ReplayedSource):
    """A real recording, replayed: values, gaps and repeated times as they were, only the dates moved."""

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
        chosen = read_options(options, RecordingOptions, name=name, directory=directory)
        try:
            recording = recordings.load(chosen.recording)
        except ValueError as error:
            raise UserError(f"source {name!r}: options: recording: {error}") from None
        made_by = recording.device or "unnamed device"
        super().__init__(
            name,
            source_id,
            f"{made_by}, recording {recording.name}"[:MAX_DESCRIPTION],
            options=chosen,
            series=recorded_series(recording, start_ns=chosen.start_ns, loop=chosen.loop),
            clock=clock,
        )


class SyntheticSource(_ReplayedSource):
    """A made-up sensor; every reading carries DEMO_DATA."""

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
        chosen = read_options(options, SyntheticOptions, name=name, directory=directory)
        period_s = SIGNALS[chosen.signal].period_s if chosen.period_s is None else chosen.period_s
        series = SyntheticSeries(
            chosen.signal,
            seed=chosen.seed,
            start_ns=chosen.start_ns,
            period_ns=max(1, round(period_s * 1e9)),
            count=chosen.count,
        )
        description = f"synthetic {chosen.signal}, demo data"
        super().__init__(name, source_id, description, options=chosen, series=series, clock=clock)


def _check_positive(what: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{what}: {value} is not above 0")
