"""Points, gathered into requests; and which of them the server will not have, found without writing blindly again.

A server names one fault of a request that it refuses, whatever else is wrong with it; and versions differ in whether
the rest was written. So a refused request is halved until each refused point stands alone: some 2 log n requests a
fault. What was written already is written again, which changes nothing.

Where that would never end, because one device sends rubbish by the thousand, the readings of an entry stand and fall
together: `doubtful` names the entries of which only the server knows what it took.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby

from aggregator.timeseries.base import Refused
from aggregator.timeseries.lines import Line

# The cost of a request spread over many points, and still answered in well under a second.
REQUEST_POINTS = 10_000
REQUEST_BYTES = 2_000_000
# So many points of one write are found one by one; then a refused request is one for each entry in it, and no more.
MAX_ALONE = 100
MAX_WHY = 200  # characters of the server's reason

_QUOTED = re.compile(r"'[^']*'|`[^`]*`")
_VALUE = re.compile(r"(?<![\w.\"])[-+]?[0-9][\w.+-]*|[A-Za-z0-9+/=]{33,}")


class RefusedError(Exception):
    """The server will not have these points, in its own words."""


class TooLargeError(Exception):
    """The request is larger than the server takes."""


class Requests:
    """Sends lines with `post`, which returns once they are acknowledged, and raises the two errors above."""

    def __init__(self, post: Callable[[bytes], None]) -> None:
        self._post = post
        self._bytes = REQUEST_BYTES
        self._refused: dict[tuple[int, int | None], Refused] = {}
        self.doubtful: dict[int, str] = {}  # of the last `send`: by log index, why

    def send(self, lines: Iterable[Line]) -> tuple[Refused, ...]:
        """Everything is acknowledged but what is returned: once for each reading or record, however many points.

        And but for readings of the entries that are `doubtful` afterwards.

        While a request is under way the next is gathered, and `lines` with it; there is never more than one under way.
        """
        self._refused, self.doubtful = {}, {}
        with ThreadPoolExecutor(1) as helper:
            under_way: Future[None] | None = None
            for gathered in self._gather(lines):
                if under_way is not None:
                    under_way.result()
                under_way = helper.submit(self._deliver, gathered)
            if under_way is not None:
                under_way.result()
        return tuple(self._refused.values())

    def _gather(self, lines: Iterable[Line]) -> Iterator[list[Line]]:
        gathered: list[Line] = []
        size = 0
        for line in lines:
            size += len(line[0]) + 1
            if gathered and (size > self._bytes or len(gathered) == REQUEST_POINTS):
                yield gathered
                gathered, size = [], len(line[0]) + 1
            gathered.append(line)
        if gathered:
            yield gathered

    def _deliver(self, lines: Sequence[Line]) -> None:
        body = b"\n".join([line for line, _ in lines])
        by_entry = False
        try:
            self._post(body)
        except RefusedError as error:
            why = reason(str(error))
            by_entry = len(self._refused) >= MAX_ALONE
        except TooLargeError:
            self._bytes = max(min(self._bytes, len(body) // 2), 1)
            why = f"it is larger than the server takes ({len(body)} bytes)"
        else:
            return
        log_index, ref = lines[0][1]
        middle = len(lines) // 2
        parts = [lines[:middle], lines[middle:]]
        if by_entry and _entry(lines[0]) != _entry(lines[-1]):
            parts = [list(part) for _, part in groupby(lines, _entry)]
        elif by_entry and ref is not None:
            self.doubtful.setdefault(log_index, why)
            return
        if len(lines) == 1:
            self._refused.setdefault((log_index, ref), Refused(log_index, ref, why))
            return
        for part in parts:
            self._deliver(part)


def _entry(line: Line) -> tuple[int, bool]:
    """What stands and falls together: an entry's readings; its record stands alone."""
    _, (log_index, ref) = line
    return log_index, ref is None


def reason(text: str) -> str:
    """The server's `text` in one line, without what it repeats of the point: no value may stand in a log."""
    bare = re.sub(r"\s*dropped=[0-9]+\s*\Z", "", _QUOTED.sub("...", text))
    return re.sub(r"[^ -~]", " ", _VALUE.sub("#", bare)).strip()[:MAX_WHY] or "it does not say why"
