"""An answer of InfluxDB to /query, taken apart as it comes. Nothing is believed: another server may be there.

What is not as InfluxDB answers is a StrangeAnswerError, whatever a series of rows may hold.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ledger.reading import MAX_INT64, MIN_INT64

# One document of an answer, in memory at once: half as much again as `CHUNK_ROWS` of the largest waveforms are.
MAX_DOCUMENT = 32 * 2**20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found:
    """Rows with equal tags, as one piece of an answer has them; a long series comes in several pieces.

    `statement` is the number, from 0, of the statement that they answer.
    """

    statement: int
    tags: Mapping[str, str]
    columns: Sequence[str]
    values: Sequence[Sequence[Any]]

    def dicts(self) -> Iterator[dict[str, Any]]:
        """The rows, by name of column."""
        return (dict(zip(self.columns, row, strict=True)) for row in self.values)

    def columned(self, *names: str) -> Iterator[list[Any]]:
        """What the rows have in these columns, None in one that there is not."""
        return ([row.get(name) for name in names] for row in self.dicts())


class CutShortError(Exception):
    """An answer ended before its end."""


class StrangeAnswerError(Exception):
    """An answer that no InfluxDB gives."""


class StatementError(Exception):
    """What the server says is wrong with a statement."""


def parse_answer(pieces: Iterator[bytes], *, timed: bool = True) -> Iterator[Found]:
    """The series in an answer to /query, chunked or whole; `timed`: each row begins with a time, as of a SELECT.

    Raises:
        StatementError: the server's own words for why it does not answer.
        CutShortError: it stops in the middle.
        StrangeAnswerError: this is no InfluxDB.
    """
    partial = False
    for line in _lines(pieces):
        for result in _results(line):
            if "error" in result:
                raise StatementError(str(result["error"]))
            statement = _are(int, result.get("statement_id", 0))
            for series in _list_of(dict, result.get("series", [])):
                yield _found(statement, series, timed=timed)
            partial = bool(result.get("partial"))
    if partial:
        raise CutShortError


def plain(text: str) -> str:
    """`text`, with half a character in it spelled out: JSON can have one, and nothing shows or sends it."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _results(line: bytes) -> list[dict[str, Any]]:
    """The results in one document of an answer; a fault of the whole request stands beside where they would."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        raise StrangeAnswerError from None
    if not isinstance(document, dict):
        raise StrangeAnswerError
    return [document] if "error" in document else _list_of(dict, document.get("results"))


def _found(statement: int, series: Mapping[str, Any], *, timed: bool) -> Found:
    """A series as it came: rows as long as there are columns, each with a time of 64 bits if it is to have one."""
    tags, columns = _are(dict, series.get("tags", {})), _list_of(str, series.get("columns"))
    values = _list_of(list, series.get("values", []))
    _list_of(str, list(tags.values()))
    fits = len(set(columns)) == len(columns) and all(len(row) == len(columns) for row in values)
    if not fits or (timed and columns[:1] != ["time"]):
        raise StrangeAnswerError
    if timed and not all(MIN_INT64 <= _are(int, row[0]) <= MAX_INT64 for row in values):
        raise StrangeAnswerError
    # Half a character, as JSON can have it, could be shown and stored nowhere.
    shown = {plain(name): plain(value) for name, value in tags.items()}
    return Found(statement, shown, [plain(name) for name in columns], values)


def _are(kind: type[T], value: object) -> T:
    if type(value) is not kind:
        raise StrangeAnswerError
    return value


def _list_of(kind: type[T], values: object) -> list[T]:
    return [_are(kind, value) for value in _are(list, values)]


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest: list[bytes] = []
    size = 0
    for piece in pieces:
        *whole, last = piece.split(b"\n")
        for line in whole:
            if joined := b"".join((*rest, line)).strip():
                yield joined
            rest, size = [], 0
        rest.append(last)
        size += len(last)
        if size > MAX_DOCUMENT:
            raise StrangeAnswerError
    if joined := b"".join(rest).strip():
        yield joined
