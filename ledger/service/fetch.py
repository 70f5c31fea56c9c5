"""Reads a log that lies in a directory or behind a URL, from its beginning to its end. Nothing read is trusted."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

from ledger.checkpoint import parse_checkpoint
from ledger.errors import MalformedError
from ledger.fsck import CHECKPOINT_PATH
from ledger.note import parse_note
from ledger.service.http_log import CONNECTIONS, FetchError, open_url
from ledger.tiles import ENTRIES, TILE_WIDTH, Fetch, Tile, parse_tile_path, tile_at
from ledger.writer.files import list_files, read_file

# Bundles, each with its tile, that are asked for ahead of the one wanted: enough to hide a round trip of 100 ms, and at
# most 8 x 16 MB held if a server fills every bundle to the brim.
AHEAD = 8


@contextmanager
def log_reader(place: str) -> Iterator[tuple[Fetch, Sequence[str]]]:
    """The log in the directory or behind the http(s) URL `place`: how to read it, and its files if they can be listed.

    A URL's log is read ahead, as suits whoever reads it from its beginning to its end. Raises FetchError.
    """
    if "://" in place:
        with open_url(place) as log, closing(ReadAhead(log)) as ahead:
            yield ahead, ()
        return
    public = Path(place)
    if not public.is_dir():
        raise FetchError(f"{place}: is neither a directory nor an http(s) URL")
    yield lambda path: read_file(public, path), list_files(public)


class ReadAhead:
    """A `Fetch` that has the next bundles and their tiles on their way when one is asked for.

    The size in the checkpoint says which there are. It is not verified: what is asked for in vain is what it can do.
    Reading begins with the checkpoint, and what went wrong before that is asked for again: a server that was away must
    not cost a reading for each file that was on its way then.
    """

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._size = 0
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="read-ahead")
        self._coming: dict[Tile, Future[bytes | None]] = {}

    def close(self) -> None:
        """Nothing more is asked for; requests under way end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def __call__(self, path: str) -> bytes | None:
        """What the wrapped fetch gives for `path`, or raises."""
        if path == CHECKPOINT_PATH:
            self._coming = {tile: coming for tile, coming in self._coming.items() if not _in_vain(coming)}
            data = self._fetch(path)
            self._size = _stated_size(data)
            return data
        tile = parse_tile_path(path)
        if tile.level == ENTRIES:
            self._send_for(tile.index)
        coming = self._coming.pop(tile, None)
        return self._fetch(path) if coming is None else coming.result()

    def _send_for(self, index: int) -> None:
        """Bundle `index`, the next ones and their tiles are here or on their way, and no others are kept."""
        end = min(index + AHEAD, -(-self._size // TILE_WIDTH))
        wanted = [tile_at(level, at, self._size) for at in range(index, end) for level in (ENTRIES, 0)]
        self._coming = {tile: self._coming.get(tile) or self._threads.submit(self._fetch, tile.path) for tile in wanted}


def _in_vain(coming: Future[bytes | None]) -> bool:
    """It ended without what was asked for."""
    return coming.done() and (coming.cancelled() or coming.exception() is not None or coming.result() is None)


def _stated_size(checkpoint: bytes | None) -> int:
    try:
        return parse_checkpoint(parse_note(checkpoint or b"", "checkpoint").text).size
    except MalformedError:
        return 0
