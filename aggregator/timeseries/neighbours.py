"""Who is already where readings are going to lie: what `copies` has to be told, asked for in few statements."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeAlias, TypeVar

from aggregator.timeseries import influxql as ql
from aggregator.timeseries.answers import copy_of, open_seal
from aggregator.timeseries.copies import NOBODY, Taken
from aggregator.timeseries.lines import Point, Series
from aggregator.timeseries.parsing import Found

Query: TypeAlias = Callable[[str], Iterable[Found]]
T = TypeVar("T")

SEAL, REF = ql.field(ql.READING, "seal"), ql.field(ql.WAVEFORM, "ref")

# One request asks this much: what comes back for it is small, and its text stays far below any server's limit.
STATEMENTS = 100
# Times nearer to each other than this are asked for as one stretch: a statement costs more than a few rows too many.
GAP_NS = 60 * 10**9


def tops(query: Query, wanted: Collection[Series]) -> dict[Series, int]:
    """The greatest time of each of the `wanted` series that is in the store, drawn frames included."""
    found: dict[Series, int] = {}
    group = "device, source, kind"
    for some in _portions(sorted({series.device for series in wanted}), STATEMENTS // 2):
        statements = []
        for device in some:
            where = ql.tagged({"device": device})
            statements.append(ql.select(f"last({SEAL})", ql.READING, where, group=group))
            statements.append(ql.select(f"last({REF})", ql.WAVEFORM, where, group=group))
        for piece in query(ql.together(statements)):
            series = Series(*(piece.tags.get(name, "") for name in Series._fields))
            if series in wanted:
                found[series] = max([found.get(series, ql.MIN_TIME), *(row[0] for row in piece.values)])
    return found


def occupants(query: Query, points: Sequence[Point]) -> dict[int, Taken]:
    """For each of `points`, by its ref, the copies that are taken where it lies."""
    taken = {point.ref: NOBODY for point in points}
    beginning: dict[Series, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for point in points:
        beginning[point.series][point.start_ns].append(point.ref)
    asked = [
        (series, ql.select(SEAL, ql.READING, ql.tagged(series._asdict()), ql.between(*stretch)))
        for series, times in beginning.items()
        for stretch in _stretches(sorted(times))
    ]
    for series, piece in _ask(query, asked):
        copy = copy_of(piece.tags)
        for time_ns, seal in piece.columned("time", "seal"):
            opened = open_seal(seal)
            for ref in beginning[series].get(time_ns, ()):
                taken[ref] = taken[ref].and_by(copy, own=opened is not None and opened[0] == ref)
    drawn = [
        (
            point,
            ql.select(
                f"distinct({REF})",
                ql.WAVEFORM,
                ql.tagged(point.series._asdict()),
                ql.between(point.start_ns, point.end_ns),
                group="copy",
            ),
        )
        for point in points
        if point.waveform is not None
    ]
    for point, piece in _ask(query, drawn):
        for (ref,) in piece.columned("distinct"):
            taken[point.ref] = taken[point.ref].and_by(copy_of(piece.tags), own=ref == point.ref)
    return taken


def points_of(query: Query, device: str, log_index: int, first_ns: int, last_ns: int) -> Counter[int]:
    """How many points of an entry's readings, rows and frames, the store has from one time to another, by ref."""
    where = ql.tagged({"device": device}), ql.between(first_ns, last_ns)
    count: Counter[int] = Counter()
    for piece in query(ql.select(SEAL, ql.READING, *where, ql.sealed_by(log_index))):
        count.update(opened[0] for (seal,) in piece.columned("seal") if (opened := open_seal(seal)))
    for piece in query(ql.select(REF, ql.WAVEFORM, *where, ql.referred(log_index))):
        count.update(ref for (ref,) in piece.columned("ref") if type(ref) is int)
    return count


def _ask(query: Query, asked: Sequence[tuple[T, str]]) -> Iterator[tuple[T, Found]]:
    """The answers to statements, each with what stood beside its statement."""
    for some in _portions(asked, STATEMENTS):
        for piece in query(ql.together([statement for _, statement in some])):
            if piece.statement < len(some):  # what answers nothing that was asked is about nobody
                yield some[piece.statement][0], piece


def _stretches(times: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Stretches that cover ascending `times`, without what lies in their gaps."""
    first_ns = last_ns = times[0]
    for time_ns in times[1:]:
        if time_ns - last_ns > GAP_NS:
            yield first_ns, last_ns
            first_ns = time_ns
        last_ns = time_ns
    yield first_ns, last_ns


def _portions(items: Sequence[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some
