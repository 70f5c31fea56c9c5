"""Which readings an export is of. A selection is what the store is asked for, and what a proven reading has to fit."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from aggregator.registry import Assignment
from aggregator.timeseries.base import Selection
from ledger.reading import Reading


def of_patient(assignments: Iterable[Assignment], patient: str, window: Selection) -> list[Selection]:
    """What `patient` wore, by the assignments that no later one corrects, within the times of `window`."""
    known = list(assignments)
    corrected = {item.corrects for item in known}
    worn = [item for item in known if item.id not in corrected and item.patient == patient]
    parts = []
    for item in sorted(worn, key=lambda item: (item.source, item.from_ns)):
        from_ns = item.from_ns if window.from_ns is None else max(item.from_ns, window.from_ns)
        ends = [end for end in (item.to_ns, window.to_ns) if end is not None]
        part = replace(window, source=item.source, from_ns=from_ns, to_ns=min(ends, default=None))
        if part.to_ns is None or from_ns < part.to_ns:
            parts.append(part)
    return parts


def of_kinds(parts: Sequence[Selection], kinds: Iterable[int]) -> list[Selection]:
    """`parts`, each of these kinds only; of every kind, if none is named."""
    wanted = sorted(set(kinds))
    return [replace(part, kind=kind) for part in parts for kind in wanted] if wanted else list(parts)


def fits(selection: Selection, device: str, reading: Reading) -> bool:
    """Whether the reading is of `selection` by what was proven, whatever the row that led to it says."""
    return (
        selection.device in (None, device)
        and selection.source in (None, reading.source)
        and selection.kind in (None, reading.kind)
        and (selection.from_ns is None or selection.from_ns <= reading.sensor_time_ns)
        and (selection.to_ns is None or reading.sensor_time_ns < selection.to_ns)
    )
