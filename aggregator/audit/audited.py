"""Which database exactly was audited: where it is and, if it is a file, what was in it."""

import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aggregator.audit.sources import Call
from aggregator.timeseries.embedded import DATABASE
from ledger.reading import format_time

# What takes some seconds to hash. A larger file would keep its reader waiting for what proves nothing of its rows.
MAX_HASHED = 2**31


class Audited:
    """Looked at before the audit; `fields` when it is over."""

    def __init__(self, call: Call) -> None:
        """Raises OSError."""
        self._log = call.log if "://" in call.log else str(Path(call.log).resolve())
        self._path: Path | None = None
        influx = None if call.config is None else call.config.influx
        if influx is not None:
            url = urlsplit(influx.url)
            org = f", organisation {influx.org}" if influx.org else ""
            self._where = f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}, bucket {influx.bucket}{org}"
            return
        path = call.database or (Path() if call.config is None else call.config.data)
        self._path = (path / DATABASE if path.is_dir() else path).resolve()
        self._where = str(self._path)
        self._before = _stamps(self._path)
        self._sha256 = None
        if self._before[0][0] <= MAX_HASHED:
            with self._path.open("rb") as file:
                self._sha256 = hashlib.file_digest(file, "sha256").hexdigest()

    def fields(self) -> dict[str, Any]:
        """What a reader needs to say that it was this one; `notes` on what `sha256` does not say."""
        if self._path is None:
            return {"where": self._where, "log": self._log}
        (size, modified_ns), (waiting, _) = self._before
        notes = []
        if self._sha256 is None:
            notes.append(f"larger than {MAX_HASHED} bytes, so it was not hashed")
        if waiting:
            notes.append(f"{waiting} bytes more were in its write-ahead log, which is not hashed")
        if _stamps(self._path) != self._before:
            notes.append("it was written to while it was audited: size, time and hash are those of before")
        modified = format_time(modified_ns)
        return {
            "where": self._where,
            "log": self._log,
            "size": size,
            "modified": modified,
            "sha256": self._sha256,
            "notes": notes,
        }


def _stamps(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size and modification time of the file, and of the write-ahead log beside it; zeros if that holds nothing."""
    file = path.stat()
    try:
        wal = path.with_name(f"{path.name}-wal").stat()
    except FileNotFoundError:
        return (file.st_size, file.st_mtime_ns), (0, 0)
    return (file.st_size, file.st_mtime_ns), (wal.st_size, wal.st_mtime_ns if wal.st_size else 0)
