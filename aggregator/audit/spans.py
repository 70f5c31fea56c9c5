"""From when to when a batch's readings are: as its record states it, or as its readings say."""

from array import array

from aggregator.audit.truth import Truth
from ledger.reading import MAX_INT64, MIN_INT64

NO_SPAN = (MAX_INT64, MIN_INT64)  # what is over before it begins


class Spans:
    """The least and the greatest sensor time for each of `truth`'s entries, and of how many readings that is."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        entries = truth.until - truth.start
        self._first = array("q", [NO_SPAN[0]]) * entries
        self._last = array("q", [NO_SPAN[1]]) * entries
        self._known = array("i", [0]) * entries

    def put(self, index: int, span_ns: tuple[int, int] | None) -> None:
        """The span of an entry is this."""
        at = index - self._truth.start
        self._first[at], self._last[at] = span_ns or NO_SPAN

    def of(self, index: int) -> tuple[int, int]:
        """The span of an entry."""
        at = index - self._truth.start
        return self._first[at], self._last[at]

    def add(self, index: int, time_ns: int) -> None:
        """One more reading of an entry is known."""
        at = index - self._truth.start
        self._known[at] += 1
        self._first[at] = min(self._first[at], time_ns)
        self._last[at] = max(self._last[at], time_ns)

    def agrees(self, index: int, stated: tuple[int, int]) -> bool:
        """Whether a record may state that span: exactly this one, where all readings of the entry are known."""
        first, last = self.of(index)
        if self._known[index - self._truth.start] == self._truth.count(index):
            return stated == (first, last)
        # What was erased, or what nobody has, may be what lies furthest out.
        return stated[0] <= first and stated[1] >= last
