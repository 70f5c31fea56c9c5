"""A recording as a series: its points and its stretches of samples, their times moved, nothing else changed."""

from itertools import pairwise

from edge.source import Measured
from ledger.kinds import BY_NAME
from ledger.reading import MAX_WAVEFORM, Quality, Scalar, Waveform, pack_samples
from simulators.recordings import ScalarRecording, WaveformRecording
from simulators.replay import Series, Step

# How much of a waveform goes into one reading: what a strap sends at a time, and far below MAX_WAVEFORM.
STRETCH_NS = 10**9
SAMPLE_WIDTH = 2  # bytes; recordings hold int16


def recorded_series(recording: ScalarRecording | WaveformRecording, *, start_ns: int, loop: bool) -> Series:
    """`recording` with its first point at `start_ns`; `loop`: over and over, each time moved on by its duration."""
    if isinstance(recording, ScalarRecording):
        return ScalarSeries(recording, start_ns=start_ns, loop=loop)
    return WaveformSeries(recording, start_ns=start_ns, loop=loop)


class ScalarSeries:
    """One step a point, gaps as they were."""

    def __init__(self, recording: ScalarRecording, *, start_ns: int, loop: bool) -> None:
        self._kind = BY_NAME[recording.kind]
        self._points = recording.points
        self._start_ns = start_ns
        self._loop = loop
        self._ordinals = _ordinals(recording.points)
        self._lap_ns = _lap_ns(recording.points)

    def step(self, position: int) -> Step | None:
        """The point at `position`."""
        lap, at = divmod(position, len(self._points))
        if lap and not self._loop:
            return None
        offset_ns, text = self._points[at]
        due_ns = lap * self._lap_ns + offset_ns
        value = Scalar.parse(text)
        low, high = self._kind.plausible
        # Kept and flagged, never altered.
        quality = 0 if low <= float(text) <= high else int(Quality.QUESTIONABLE)
        ordinal = self._ordinals.get(at, 0)
        return Step(due_ns, (Measured(self._kind.code, self._start_ns + due_ns, value, ordinal, quality=quality),))


class WaveformSeries:
    """One step a stretch of about a second, due when its last sample was taken; none reaches over a break."""

    def __init__(self, recording: WaveformRecording, *, start_ns: int, loop: bool) -> None:
        self._kind = BY_NAME[recording.kind].code
        self._recording = recording
        self._start_ns = start_ns
        self._loop = loop
        frame_bytes = SAMPLE_WIDTH * len(recording.channels)
        stretch = max(1, min(STRETCH_NS * recording.period_divisor // recording.period_ns, MAX_WAVEFORM // frame_bytes))
        # (segment, first frame, one past the last): a frame is one sample of every channel.
        self._stretches = [
            (segment, first, min(first + stretch, frames))
            for segment, frames in enumerate(
                len(samples) // len(recording.channels) for _, samples in recording.segments
            )
            for first in range(0, frames, stretch)
        ]
        last, _, end = self._stretches[-1]
        self._lap_ns = self._offset_ns(last, end)

    def step(self, position: int) -> Step | None:
        """The stretch at `position`."""
        lap, at = divmod(position, len(self._stretches))
        if lap and not self._loop:
            return None
        segment, first, end = self._stretches[at]
        recording = self._recording
        channels = len(recording.channels)
        value = Waveform(
            recording.period_ns,
            recording.period_divisor,
            recording.scale,
            recording.origin,
            channels,
            SAMPLE_WIDTH,
            pack_samples(recording.segments[segment][1][first * channels : end * channels], SAMPLE_WIDTH),
        )
        moved_ns = lap * self._lap_ns
        sensor_time_ns = self._start_ns + moved_ns + self._offset_ns(segment, first)
        return Step(moved_ns + self._offset_ns(segment, end), (Measured(self._kind, sensor_time_ns, value),))

    def _offset_ns(self, segment: int, frame: int) -> int:
        recording = self._recording
        return recording.segments[segment][0] + frame * recording.period_ns // recording.period_divisor


def _ordinals(points: tuple[tuple[int, str], ...]) -> dict[int, int]:
    """By position, the ordinal of each point whose time was stated before; all others have 0."""
    ordinals: dict[int, int] = {}
    for at, (before, now) in enumerate(pairwise(points), 1):
        if now[0] == before[0]:
            ordinals[at] = ordinals.get(at - 1, 0) + 1
    return ordinals


def _lap_ns(points: tuple[tuple[int, str], ...]) -> int:
    """After how long the first point comes again: one step behind the last, so that no two share a time."""
    last_step_ns = next((late - early for (early, _), (late, _) in pairwise(points[::-1]) if late != early), 10**9)
    return points[-1][0] + abs(last_step_ns)
