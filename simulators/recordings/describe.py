"""One source into one recording: the text of its file, and what the index says of it."""

import hashlib
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from simulators.recordings import readers
from simulators.recordings.catalogue import SWEAT, SWEAT_INDEX, Archive, Sampling, Source

HEART_RATE_STEP_NS = 1_000_000_000
"""The heart-rate sources record once a second; a longer step is a gap. Beats have no such step."""

WAVEFORM_READERS = {"ecg": readers.ecg_from_opensignals, "acceleration": readers.acceleration_from_daphnet}

Read = Callable[[Archive, str], bytes]
"""The bytes of a member of an archive."""

Entry = dict[str, Any]
"""A table of the index: values are str, int, or lists of either."""


def recording(source: Source, read: Read) -> tuple[str, Entry]:
    """The uncompressed text of a recording, and its entry in the index but for the file and its hash."""
    data = read(source.archive, source.member)
    series: readers.Scalar | readers.Waveform
    if source.sampling is not None:
        series = WAVEFORM_READERS[source.kind](data, source.sampling.period_ns)
        lines, measured = _waveform_lines(series, source.sampling), _measure_waveform(series, source.sampling)
    else:
        series = _heart_rate(source, data, read) if source.archive is SWEAT else readers.intervals_from_npy(data)
        lines, measured = _scalar_lines(series), _measure_scalar(series, source.kind)
    entry = {
        "kind": source.kind,
        "unit": source.unit,
        "start": series.start,
        "device": series.device,
        "sensor": series.sensor,
        **measured,
        "package": source.archive.package,
        "version": source.archive.version,
        "archive": source.archive.file,
        "archive_sha256": source.archive.sha256,
        "member": source.member,
        "member_sha256": sha256(data),
        "licence": source.archive.licence,
        "licence_file": licence_file(source.archive),
        "upstream": source.upstream,
        "dropped": list(source.dropped),
        "note": source.note,
    }
    text = "".join(f"{line}\n" for line in lines)
    return text, {key: value for key, value in entry.items() if value not in (None, "")}


def table(entry: Entry) -> str:
    """The entry as a TOML table; JSON writes strings, integers and lists as TOML reads them."""
    return "\n[[recording]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.items())


def sha256(data: bytes) -> str:
    """The hash in hex."""
    return hashlib.sha256(data).hexdigest()


def licence_file(archive: Archive) -> str:
    """Where the folder keeps the licence text of an archive."""
    return f"LICENSES/{archive.package}-{archive.version}.txt"


def _heart_rate(source: Source, data: bytes, read: Read) -> readers.Scalar:
    fit = source.member.endswith(".fit")
    moments = readers.heart_rate_from_fit(data)[0] if fit else readers.heart_rate_from_tcx(data)
    index = read(source.archive, SWEAT_INDEX).decode("utf-8")
    device, sensor = readers.devices_from_sweat_index(index, source.member.rpartition("/")[2])
    if source.same_activity:
        original, own_sensor = readers.heart_rate_from_fit(read(source.archive, source.same_activity))
        # Through dict, because an export may state a point twice; nothing else may differ.
        if list(dict(moments).items()) != original:
            raise ValueError(f"{source.member} and {source.same_activity} disagree")
        sensor = sensor or own_sensor
    return readers.scalar(moments, device, sensor)


def _scalar_lines(series: readers.Scalar) -> Iterator[str]:
    yield "offset_ns,value"
    for offset_ns, value in series.points:
        yield f"{offset_ns},{value}"


def _measure_scalar(series: readers.Scalar, kind: str) -> Entry:
    steps = [later - earlier for (earlier, _), (later, _) in pairwise(series.points)]
    return {
        "points": len(series.points),
        "duration_ns": series.points[-1][0],
        "gaps_ns": [step for step in steps if kind == "heart_rate" and step > HEART_RATE_STEP_NS],
        "repeated_times": steps.count(0),
    }


def _waveform_lines(wave: readers.Waveform, sampling: Sampling) -> Iterator[str]:
    yield ",".join(sampling.channels)
    for i, (offset_ns, samples) in enumerate(wave.segments):
        if i:
            yield f"gap,{offset_ns}"
        for sample in samples:
            yield ",".join(map(str, sample))


def _measure_waveform(wave: readers.Waveform, sampling: Sampling) -> Entry:
    starts = [offset_ns for offset_ns, _ in wave.segments]
    last = [offset_ns + (len(samples) - 1) * sampling.period_ns for offset_ns, samples in wave.segments]
    return {
        "points": sum(len(samples) for _, samples in wave.segments),
        "duration_ns": last[-1],
        "gaps_ns": [after - before for before, after in zip(last, starts[1:], strict=False)],
        "period_ns": sampling.period_ns,
        "period_divisor": 1,
        "channels": list(sampling.channels),
        "scale_mantissa": sampling.scale[0],
        "scale_exponent": sampling.scale[1],
        "origin_mantissa": sampling.origin[0],
        "origin_exponent": sampling.origin[1],
    }
