"""`refused-points.ndjson`: which points the store would not have, one line for each, for a person to see to.

A line names a reading by its log index and ref, or a batch record by its log index alone, and says why; no health value
is in it. A rebuild begins the file anew.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from aggregator.timeseries.base import Refused
from aggregator.view import REFUSED
from ledger.writer.files import sync_directory

# A reading by its ref, a batch record by its log index.
_Key = tuple[int, int | None]


class RefusedPoints:
    """The file in `data`, which need not be there; one process writes it at a time."""

    def __init__(self, data: Path) -> None:
        self._path = data / REFUSED
        self._known = self._read()

    def __len__(self) -> int:
        return len(self._known)

    def add(self, refused: Iterable[Refused]) -> int:
        """Each of them is durably in the file, once: a portion that is written again is refused again.

        Returns how many were not there.
        """
        new = {(point.log_index, point.ref): point for point in refused}
        lines = [json.dumps(asdict(point)) + "\n" for key, point in new.items() if key not in self._known]
        if not lines:
            return 0
        with os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        sync_directory(self._path.parent)
        self._known.update(new)
        return len(lines)

    def begin_anew(self) -> None:
        """Nothing is in it."""
        self._path.unlink(missing_ok=True)
        self._known.clear()

    def _read(self) -> set[_Key]:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return set()
        # A crash may have left half a line: its point is refused again, since the cursor has not passed it.
        whole, _, torn = data.rpartition(b"\n")
        if torn:
            os.truncate(self._path, len(data) - len(torn))
        return {key for line in whole.splitlines() if (key := _key(line)) is not None}


def _key(line: bytes) -> _Key | None:
    """What a line is about; None of one that somebody else wrote."""
    try:
        point = json.loads(line)
        return point["log_index"], point["ref"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
